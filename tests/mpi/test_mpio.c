/* Reading together through MPI-IO: the values of every layout, type and storage, ranks that read unlike amounts or
 * nothing, and errors of one rank that all of them get. */
#include "io_files.h"

#include "dist/comm.h"

static const enum favor_precision precisions[] = {FAVOR_PRECISION_F32, FAVOR_PRECISION_F64};

static struct favor_tensor_shape small_shape(enum favor_layout layout, int n_dims, enum favor_type type) {
  return (struct favor_tensor_shape){.n_dims = n_dims,
                                     .batch = n_dims == 4 ? 2 : 1,
                                     .heads = n_dims > 2 ? 5 : 1,
                                     .tokens = 37,
                                     .width = 6,
                                     .type = type,
                                     .layout = layout};
}

/* Collective: opens q of in.h5 to be read together. */
static struct favor_tensor *open_together(const struct scratch *scratch, const char *file, enum favor_layout layout) {
  struct favor_tensor *tensor = NULL;
  enum favor_status status =
      favor_tensor_open_mode(scratch->context, scratch_path(scratch, file), "q", layout, FAVOR_IO_MPIO, &tensor);
  if (status != FAVOR_OK && mpi_rank() == 0) print_error("%s\n", favor_context_message(scratch->context));
  assert_all(status == FAVOR_OK);
  return tensor;
}

/* Collective. Has this rank got the values of its own slab, and nothing beyond? */
static bool reads_together(struct favor_tensor *tensor, int64_t h0, int64_t h1, int64_t t0, int64_t t1,
                           enum favor_precision precision) {
  struct favor_tensor_shape shape;
  favor_tensor_shape(tensor, &shape);
  const size_t bytes = (size_t)((h1 - h0) * (t1 - t0) * shape.width) * precision_bytes(precision);
  void *expected = slab_values(&shape, h0, h1, t0, t1, precision);
  unsigned char *found = malloc(bytes + 1);
  memset(found, 0xa5, bytes + 1);
  bool is_right = favor_tensor_read_all(tensor, h0, h1, t0, t1, precision, found) == FAVOR_OK &&
                  memcmp(found, expected, bytes) == 0 && found[bytes] == 0xa5;
  free(expected);
  free(found);
  return is_right;
}

/* Tokens by ranks, heads by ranks, all on the last rank and nothing on the others, the same on all, nothing on all. */
static bool reads_all_shares(struct favor_tensor *tensor, const struct favor_tensor_shape *s,
                             enum favor_precision precision) {
  const int64_t heads = s->batch * s->heads, tokens = s->tokens;
  const bool is_last = mpi_rank() == mpi_size() - 1;
  bool is_right = reads_together(tensor, 0, heads, part_begin(tokens), part_end(tokens), precision);
  is_right &= reads_together(tensor, part_begin(heads), part_end(heads), 0, tokens, precision);
  is_right &= reads_together(tensor, 0, is_last ? heads : 0, 0, tokens, precision);
  is_right &= reads_together(tensor, heads / 3, heads, tokens - 2, tokens, precision);
  is_right &= reads_together(tensor, 0, heads, tokens, tokens, precision);
  return is_right;
}

static void test_every_layout_type_and_storage(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  for (int i = 0; i < 2 * 3 * 4 * N_STORAGES; i++) {
    const enum favor_layout layout = (enum favor_layout)(i % 2);
    const enum storage storage = (enum storage)(i / 24);
    struct favor_tensor_shape shape = small_shape(layout, 2 + i / 2 % 3, (enum favor_type)(i / 6 % 4));
    assert_all(mpi_rank() != 0 || write_stored(scratch_path(&scratch, "in.h5"), &shape, storage));
    struct favor_tensor *tensor = open_together(&scratch, "in.h5", layout);
    assert_all(reads_all_shares(tensor, &shape, precisions[i / 3 % 2]));
    /* Each by itself still, as many times as it likes. */
    bool is_right = true;
    for (int n = 0; n < mpi_rank(); n++) is_right &= reads_right(tensor, 0, 1, 0, shape.tokens, FAVOR_PRECISION_F32);
    assert_all(is_right);
    close_everywhere(&tensor);
    assert_all(tensor == NULL);
  }
  scratch_end(&scratch);
}

/* More than a buffer, so that a rank reads in pieces: one that has less, or nothing, takes part in as many. */
static void test_slabs_of_unlike_many_pieces(void **state) {
  (void)state;
  const struct favor_tensor_shape shapes[] = {
      {3, 1, 3, 18001, 64, FAVOR_FLOAT32, FAVOR_TOKENS_FIRST, true},
      {4, 2, 2, 9001, 64, FAVOR_FLOAT64, FAVOR_HEADS_FIRST, true},
      {2, 1, 1, 3, 1100001, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true}, /* a row alone is more than a buffer */
  };
  struct scratch scratch;
  scratch_begin(&scratch);
  for (size_t i = 0; i < LENGTH(shapes); i++) {
    const int64_t heads = shapes[i].batch * shapes[i].heads, tokens = shapes[i].tokens;
    assert_all(mpi_rank() != 0 || write_tensor(scratch_path(&scratch, "in.h5"), "q", &shapes[i], false, H5P_DEFAULT));
    struct favor_tensor *tensor = open_together(&scratch, "in.h5", shapes[i].layout);
    /* Of each rank half as many as of the one before. */
    assert_all(reads_together(tensor, 0, heads, 0, tokens >> mpi_rank(), FAVOR_PRECISION_F32));
    assert_all(reads_together(tensor, 0, mpi_rank() == 0 ? heads : 0, 0, tokens, FAVOR_PRECISION_F32));
    close_everywhere(&tensor);
  }
  scratch_end(&scratch);
}

/* ---- datasets that are not where they seem ----------------------------------------------------------------------- */

static const struct favor_tensor_shape odd_shape = {2, 1, 1, 11, 3, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, false};

static bool put_odd(const struct scratch *scratch, const char *name, hid_t creation, const double *values) {
  const hsize_t dims[2] = {11, 3};
  hid_t file = H5Fcreate(scratch_path(scratch, name), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  hid_t space = H5Screate_simple(2, dims, NULL);
  hid_t dataset = H5Dcreate2(file, "q", H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  bool is_put = dataset >= 0;
  if (values) is_put &= H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  H5Dclose(dataset);
  H5Sclose(space);
  return H5Fclose(file) >= 0 && is_put;
}

/* q in itself, in a raw file, behind a link, never written (its fill value is 0), and as a view of another dataset. */
static bool write_odd(const struct scratch *scratch) {
  const hsize_t dims[2] = {11, 3};
  double *values = tensor_values(&odd_shape);
  hid_t external = H5Pcreate(H5P_DATASET_CREATE), virtual = H5Pcreate(H5P_DATASET_CREATE);
  hid_t space = H5Screate_simple(2, dims, NULL);
  H5Pset_external(external, scratch_path(scratch, "raw"), 0, sizeof(float) * 33);
  H5Pset_virtual(virtual, space, scratch_path(scratch, "plain.h5"), "q", space);
  bool is_put = put_odd(scratch, "plain.h5", H5P_DEFAULT, values) &&
                put_odd(scratch, "external.h5", external, values) && put_odd(scratch, "late.h5", H5P_DEFAULT, NULL) &&
                put_odd(scratch, "virtual.h5", virtual, NULL);
  hid_t file = H5Fcreate(scratch_path(scratch, "link.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  is_put = is_put && H5Lcreate_external("plain.h5", "/q", file, "q", H5P_DEFAULT, H5P_DEFAULT) >= 0;
  H5Fclose(file);
  H5Sclose(space);
  H5Pclose(virtual);
  H5Pclose(external);
  free(values);
  return is_put;
}

static void test_datasets_elsewhere(void **state) {
  (void)state;
  static const char *const files[] = {"plain.h5", "external.h5", "link.h5"};
  struct scratch scratch;
  struct favor_tensor *tensor;
  float data[33];
  bool is_filled = true;
  scratch_begin(&scratch);
  assert_all(mpi_rank() != 0 || write_odd(&scratch));
  for (size_t i = 0; i < LENGTH(files); i++) {
    tensor = open_together(&scratch, files[i], FAVOR_HEADS_FIRST);
    assert_all(reads_all_shares(tensor, &odd_shape, FAVOR_PRECISION_F64));
    close_everywhere(&tensor);
  }
  tensor = open_together(&scratch, "late.h5", FAVOR_HEADS_FIRST);
  memset(data, 0xa5, sizeof data);
  assert_all(favor_tensor_read_all(tensor, 0, 1, 0, 11, FAVOR_PRECISION_F32, data) == FAVOR_OK);
  for (size_t i = 0; i < LENGTH(data); i++) is_filled &= data[i] == 0;
  assert_all(is_filled);
  close_everywhere(&tensor);
  enum favor_status status = favor_tensor_open_mode(scratch.context, scratch_path(&scratch, "virtual.h5"), "q",
                                                    FAVOR_HEADS_FIRST, FAVOR_IO_MPIO, &tensor);
  assert_refused(&scratch, status, FAVOR_EDATA, "is virtual");
  assert_all(tensor == NULL);
  scratch_end(&scratch);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* What is wrong with one rank ends a read for all, in either mode, and the next one goes well. */
static void test_one_rank_fails(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = small_shape(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  const bool is_last = mpi_rank() == mpi_size() - 1;
  struct scratch scratch;
  struct favor_tensor *tensor;
  float data[5 * 38 * 6];
  scratch_begin(&scratch);
  struct favor_context *context = scratch.context;
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_stored(path, &shape, CONTIGUOUS));
  for (int mode = FAVOR_IO_DIRECT; mode <= FAVOR_IO_MPIO; mode++) {
    assert_all(favor_tensor_open_mode(context, path, "q", FAVOR_HEADS_FIRST, (enum favor_io_mode)mode, &tensor) ==
               FAVOR_OK);
    enum favor_status status = favor_tensor_read_all(tensor, 0, 5, 0, is_last ? 38 : 37, FAVOR_PRECISION_F32, data);
    assert_refused(&scratch, status, FAVOR_EUSAGE, "tokens [0, 38) are not all in q");
    if (is_last) dist_fail(context, FAVOR_ENOMEM, "something else");
    status = favor_tensor_read_all(tensor, 0, 5, 0, 37, FAVOR_PRECISION_F32, data);
    assert_refused(&scratch, status, FAVOR_ENOMEM, "something else");
    for (int skip_count = 0; skip_count < 1 + (mode == FAVOR_IO_MPIO); skip_count++) {
      dist_inject(context, DIST_SITE_TENSOR_READ, mpi_size() - 1, skip_count);
      status = favor_tensor_read_all(tensor, 0, 5, 0, 37, FAVOR_PRECISION_F32, data);
      assert_refused(&scratch, status, FAVOR_EINTERNAL, "injected failure at tensor-read");
    }
    dist_inject(context, DIST_SITE_NONE, 0, 0);
    assert_all(reads_together(tensor, 0, 5, part_begin(37), part_end(37), FAVOR_PRECISION_F32));
    close_everywhere(&tensor);
  }
  for (int skip_count = 0; skip_count < 3; skip_count++) {
    dist_inject(context, DIST_SITE_TENSOR_OPEN, mpi_size() / 2, skip_count);
    assert_all(favor_tensor_open_mode(context, path, "q", FAVOR_HEADS_FIRST, FAVOR_IO_MPIO, &tensor) ==
               FAVOR_EINTERNAL);
    assert_all(tensor == NULL);
  }
  dist_inject(context, DIST_SITE_NONE, 0, 0);
  scratch_end(&scratch);
}

static void test_modes_that_differ(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = small_shape(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  struct favor_tensor *tensor;
  mpi_skip_all_if(mpi_size() == 1);
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_stored(path, &shape, CONTIGUOUS));
  enum favor_status status = favor_tensor_open_mode(scratch.context, path, "q", FAVOR_HEADS_FIRST,
                                                    mpi_rank() == 0 ? FAVOR_IO_DIRECT : FAVOR_IO_MPIO, &tensor);
  assert_refused(&scratch, status, FAVOR_EUSAGE, "different tensors");
  scratch_end(&scratch);
}

/* A file that is cut while it is open: HDF5 would give zeros. */
static void test_truncated_while_open(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = {2, 1, 1, 50000, 8, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true};
  const int64_t begin = part_begin(shape.tokens), end = part_end(shape.tokens);
  struct scratch scratch;
  float *data = malloc((size_t)n_elements(&shape) * sizeof *data);
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_tensor(path, "q", &shape, false, H5P_DEFAULT));
  struct favor_tensor *tensor = open_together(&scratch, "in.h5", FAVOR_HEADS_FIRST);
  assert_all(mpi_rank() != 0 || truncate(path, file_bytes(path) - 1) == 0);
  enum favor_status status = favor_tensor_read_all(tensor, 0, 1, begin, end, FAVOR_PRECISION_F32, data);
  assert_refused(&scratch, status, FAVOR_EDATA, "is truncated, copy or make it again: it ends inside dataset q");
  close_everywhere(&tensor);
  free(data);
  scratch_end(&scratch);
}

/* A byte of the first chunk is wrong: the ranks that need it tell the others. */
static void test_damaged_chunk(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = small_shape(FAVOR_HEADS_FIRST, 4, FAVOR_FLOAT64);
  struct scratch scratch;
  double *data = malloc((size_t)n_elements(&shape) * sizeof *data);
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_damaged(path, &shape));
  struct favor_tensor *tensor = open_together(&scratch, "in.h5", FAVOR_HEADS_FIRST);
  enum favor_status status =
      favor_tensor_read_all(tensor, 0, 10, part_begin(shape.tokens), part_end(shape.tokens), FAVOR_PRECISION_F64, data);
  assert_refused(&scratch, status, FAVOR_EDATA, "cannot be decoded");
  assert_all(reads_together(tensor, 3, 5, part_begin(shape.tokens), part_end(shape.tokens), FAVOR_PRECISION_F64));
  close_everywhere(&tensor);
  free(data);
  scratch_end(&scratch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_every_layout_type_and_storage),
      mpi_unit_test(test_slabs_of_unlike_many_pieces),
      mpi_unit_test(test_datasets_elsewhere),
      mpi_unit_test(test_one_rank_fails),
      mpi_unit_test(test_modes_that_differ),
      mpi_unit_test(test_truncated_while_open),
      mpi_unit_test(test_damaged_chunk),
  };
  return mpi_cmocka_main(&argc, &argv, "mpio", tests, LENGTH(tests));
}

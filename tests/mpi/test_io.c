/* Reading tensors, small datasets and attributes: every layout, type and storage, and every refusal. */
#include "io_files.h"

#include "dist/comm.h"

static const enum favor_precision precisions[] = {FAVOR_PRECISION_F32, FAVOR_PRECISION_F64};

static struct favor_tensor_shape shape_of(enum favor_layout layout, int n_dims, enum favor_type type) {
  return (struct favor_tensor_shape){.n_dims = n_dims,
                                     .batch = n_dims == 4 ? 2 : 1,
                                     .heads = n_dims > 2 ? 5 : 1,
                                     .tokens = 37,
                                     .width = 6,
                                     .type = type,
                                     .layout = layout};
}

/* The whole, this rank's tokens, heads across a batch, single rows, and nothing. */
static bool reads_all_ranges(struct favor_tensor *tensor, const struct favor_tensor_shape *s,
                             enum favor_precision precision) {
  int64_t heads = s->batch * s->heads, t0 = part_begin(s->tokens), t1 = part_end(s->tokens);
  return reads_right(tensor, 0, heads, 0, s->tokens, precision) && reads_right(tensor, 0, heads, t0, t1, precision) &&
         reads_right(tensor, heads / 3, heads - heads / 5, t0, s->tokens, precision) &&
         reads_right(tensor, heads - 1, heads, s->tokens - 1, s->tokens, precision) &&
         reads_right(tensor, heads / 2, heads / 2 + 1, 0, t1, precision) &&
         reads_right(tensor, 0, 0, 0, s->tokens, precision) && reads_right(tensor, 0, heads, t1, t1, precision) &&
         reads_right(tensor, heads, heads, s->tokens, s->tokens, precision);
}

static bool opens_and_reads(struct scratch *scratch, const char *path, const struct favor_tensor_shape *expected,
                            bool is_contiguous) {
  struct favor_tensor *tensor;
  struct favor_tensor_shape s;
  if (favor_tensor_open(scratch->context, path, "q", expected->layout, &tensor) != FAVOR_OK) return false;
  favor_tensor_shape(tensor, &s);
  bool is_right = s.n_dims == expected->n_dims && s.batch == expected->batch && s.heads == expected->heads &&
                  s.tokens == expected->tokens && s.width == expected->width && s.type == expected->type &&
                  s.layout == expected->layout && s.is_contiguous == is_contiguous;
  for (size_t i = 0; i < LENGTH(precisions); i++) is_right = is_right && reads_all_ranges(tensor, &s, precisions[i]);
  favor_tensor_close(&tensor);
  return is_right && tensor == NULL;
}

static void test_every_layout_type_and_storage(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  for (int layout = FAVOR_HEADS_FIRST; layout <= FAVOR_TOKENS_FIRST; layout++) {
    for (int n_dims = 2; n_dims <= 4; n_dims++) {
      for (int type = FAVOR_FLOAT16; type <= FAVOR_FLOAT64; type++) {
        struct favor_tensor_shape shape = shape_of((enum favor_layout)layout, n_dims, (enum favor_type)type);
        for (int storage = 0; storage < N_STORAGES; storage++) {
          const char *path = scratch_path(&scratch, "in.h5");
          assert_all(mpi_rank() != 0 || write_stored(path, &shape, (enum storage)storage));
          assert_all(opens_and_reads(&scratch, path, &shape, storage == CONTIGUOUS));
        }
      }
    }
  }
  scratch_end(&scratch);
}

/* More than a buffer: heads adjacent, heads with small gaps (read through) and with large ones (left out). */
static void test_slabs_larger_than_the_buffer(void **state) {
  (void)state;
  const struct favor_tensor_shape shapes[] = {
      {3, 1, 3, 9001, 64, FAVOR_FLOAT32, FAVOR_TOKENS_FIRST, true},
      {3, 1, 24, 300, 300, FAVOR_FLOAT16, FAVOR_TOKENS_FIRST, true},
      {3, 1, 2, 12001, 64, FAVOR_FLOAT64, FAVOR_HEADS_FIRST, true},
      {2, 1, 1, 3, 1100001, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true}, /* a row alone is more than a buffer */
      {3, 1, 2, 3, 1100001, FAVOR_FLOAT32, FAVOR_TOKENS_FIRST, true},
  };
  struct scratch scratch;
  scratch_begin(&scratch);
  for (size_t i = 0; i < LENGTH(shapes); i++) {
    const char *path = scratch_path(&scratch, "in.h5");
    struct favor_tensor *tensor;
    int64_t heads = shapes[i].heads, t0 = part_begin(shapes[i].tokens), t1 = part_end(shapes[i].tokens);
    assert_all(mpi_rank() != 0 || write_tensor(path, "q", &shapes[i], false, H5P_DEFAULT));
    assert_all(favor_tensor_open(scratch.context, path, "q", shapes[i].layout, &tensor) == FAVOR_OK);
    assert_all(reads_right(tensor, 0, heads, t0, t1, FAVOR_PRECISION_F32));
    assert_all(reads_right(tensor, heads - 1, heads, t0, t1, FAVOR_PRECISION_F32));
    assert_all(reads_right(tensor, 1, heads > 1 ? heads : 1, t0, t1, FAVOR_PRECISION_F64));
    close_everywhere(&tensor);
  }
  scratch_end(&scratch);
}

/* Chunks of several heads and of more bytes than HDF5's own cache. */
static void test_large_chunks(void **state) {
  (void)state;
  const hsize_t chunk[2][3] = {{4, 2000, 40}, {2000, 4, 40}};
  struct scratch scratch;
  scratch_begin(&scratch);
  for (int layout = FAVOR_HEADS_FIRST; layout <= FAVOR_TOKENS_FIRST; layout++) {
    struct favor_tensor_shape shape = {3, 1, 6, 5000, 64, FAVOR_FLOAT32, (enum favor_layout)layout, false};
    const char *path = scratch_path(&scratch, "in.h5");
    struct favor_tensor *tensor;
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(creation, 3, chunk[layout]);
    H5Pset_deflate(creation, 1);
    assert_all(mpi_rank() != 0 || write_tensor(path, "q", &shape, false, creation));
    assert_all(favor_tensor_open(scratch.context, path, "q", shape.layout, &tensor) == FAVOR_OK);
    assert_all(reads_right(tensor, 0, 6, part_begin(5000), part_end(5000), FAVOR_PRECISION_F32));
    assert_all(reads_right(tensor, 3, 5, 1999, 2001, FAVOR_PRECISION_F64));
    close_everywhere(&tensor);
    H5Pclose(creation);
  }
  scratch_end(&scratch);
}

/* ---- more than 2^31 elements ------------------------------------------------------------------------------------- */

enum { LONG_HEADS = 2, LONG_WIDTH = 64, LAST_ROWS = 5 };
#define LONG_TOKENS ((INT64_C(1) << 25) + 3) /* 2^32 elements, 8 GiB, nearly all of them holes */

static bool write_long(const char *path, bool is_chunked) {
  const hsize_t dims[3] = {LONG_HEADS, (hsize_t)LONG_TOKENS, LONG_WIDTH}, chunk[3] = {1, 1 << 20, LONG_WIDTH};
  const hsize_t start[3] = {LONG_HEADS - 1, dims[1] - LAST_ROWS, 0}, count[3] = {1, LAST_ROWS, LONG_WIDTH};
  struct favor_tensor_shape shape = {3,    1, LONG_HEADS, LONG_TOKENS, LONG_WIDTH, FAVOR_FLOAT16, FAVOR_HEADS_FIRST,
                                     false};
  double *values =
      slab_values(&shape, LONG_HEADS - 1, LONG_HEADS, LONG_TOKENS - LAST_ROWS, LONG_TOKENS, FAVOR_PRECISION_F64);
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE), type = file_type(FAVOR_FLOAT16, false);
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  if (is_chunked) H5Pset_chunk(creation, 3, chunk);
  if (is_chunked) H5Pset_deflate(creation, 1);
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  hid_t file_space = H5Screate_simple(3, dims, NULL), memory_space = H5Screate_simple(3, count, NULL);
  hid_t dataset = H5Dcreate2(file, "q", type, file_space, H5P_DEFAULT, creation, H5P_DEFAULT);
  H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL);
  bool is_written = H5Dwrite(dataset, H5T_NATIVE_DOUBLE, memory_space, file_space, H5P_DEFAULT, values) >= 0;
  H5Dclose(dataset);
  H5Sclose(memory_space);
  H5Sclose(file_space);
  H5Tclose(type);
  H5Pclose(creation);
  free(values);
  return H5Fclose(file) >= 0 && is_written;
}

static void test_more_elements_than_an_int_counts(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  for (int is_chunked = 0; is_chunked < 2; is_chunked++) {
    const char *path = scratch_path(&scratch, "long.h5");
    struct favor_tensor *tensor;
    assert_all(mpi_rank() != 0 || write_long(path, is_chunked));
    assert_all(favor_tensor_open(scratch.context, path, "q", FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
    assert_all(
        reads_right(tensor, LONG_HEADS - 1, LONG_HEADS, LONG_TOKENS - LAST_ROWS, LONG_TOKENS, FAVOR_PRECISION_F32));
    close_everywhere(&tensor);
  }
  scratch_end(&scratch);
}

/* ---- datasets that are not where they seem ----------------------------------------------------------------------- */

static hid_t create_file(const char *path, hsize_t user_block_bytes) {
  hid_t creation = H5Pcreate(H5P_FILE_CREATE);
  if (user_block_bytes) H5Pset_userblock(creation, user_block_bytes);
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, creation, H5P_DEFAULT);
  H5Pclose(creation);
  return file;
}

static bool put(hid_t file, const char *name, hid_t type, int n_dims, const hsize_t *dims, hid_t creation,
                hid_t memory_type, const void *data) {
  hid_t space = n_dims > 0 ? H5Screate_simple(n_dims, dims, NULL) : H5Screate(H5S_SCALAR);
  hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  bool is_put = dataset >= 0 && (!data || H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
  H5Dclose(dataset);
  H5Sclose(space);
  return is_put;
}

static const struct favor_tensor_shape odd_shape = {2, 1, 1, 11, 3, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, false};

/* A file whose q is behind a user block, in another file by external storage, and in another file by an external link.
 */
static bool write_odd(const struct scratch *scratch) {
  const hsize_t dims[2] = {11, 3};
  double *values = tensor_values(&odd_shape);
  hid_t external = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, scratch_path(scratch, "raw"), 0, sizeof(float) * 33);
  hid_t file = create_file(scratch_path(scratch, "block.h5"), 1024);
  bool is_written = put(file, "q", H5T_IEEE_F32LE, 2, dims, H5P_DEFAULT, H5T_NATIVE_DOUBLE, values);
  H5Fclose(file);
  file = create_file(scratch_path(scratch, "external.h5"), 0);
  is_written = is_written && put(file, "q", H5T_IEEE_F32LE, 2, dims, external, H5T_NATIVE_DOUBLE, values);
  H5Fclose(file);
  /* As long as block.h5, so that an offset of the one would be read in the other. */
  file = create_file(scratch_path(scratch, "linkk.h5"), 1024);
  is_written = is_written && put(file, "other", H5T_IEEE_F32LE, 2, dims, H5P_DEFAULT, H5T_NATIVE_DOUBLE, NULL) &&
               H5Lcreate_external("block.h5", "/q", file, "q", H5P_DEFAULT, H5P_DEFAULT) >= 0;
  H5Fclose(file);
  H5Pclose(external);
  free(values);
  return is_written;
}

static void test_datasets_elsewhere(void **state) {
  (void)state;
  const struct {
    const char *name;
    bool is_contiguous;
  } files[] = {{"block.h5", true}, {"external.h5", false}, {"linkk.h5", false}};
  struct scratch scratch;
  scratch_begin(&scratch);
  assert_all(mpi_rank() != 0 || write_odd(&scratch));
  for (size_t i = 0; i < LENGTH(files); i++)
    assert_all(opens_and_reads(&scratch, scratch_path(&scratch, files[i].name), &odd_shape, files[i].is_contiguous));
  scratch_end(&scratch);
}

/* A dataset that was never written has its fill value; one without tokens has nothing. */
static void check_without_data(const struct scratch *scratch, hsize_t user_block_bytes) {
  const hsize_t dims[2] = {4, 3}, no_tokens[2] = {0, 3};
  const float fill = 2.5f;
  struct favor_tensor *tensor;
  struct favor_tensor_shape shape;
  float data[12];
  bool is_filled = true;
  const char *path = scratch_path(scratch, "in.h5");
  bool is_written = true;
  if (mpi_rank() == 0) {
    hid_t file = create_file(path, user_block_bytes), creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_fill_value(creation, H5T_NATIVE_FLOAT, &fill);
    is_written = put(file, "late", H5T_IEEE_F32LE, 2, dims, creation, H5T_NATIVE_FLOAT, NULL) &&
                 put(file, "none", H5T_IEEE_F32LE, 2, no_tokens, creation, H5T_NATIVE_FLOAT, NULL);
    H5Pclose(creation);
    H5Fclose(file);
  }
  assert_all(is_written);
  assert_all(favor_tensor_open(scratch->context, path, "late", FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
  assert_all(favor_tensor_read(tensor, 0, 1, 0, 4, FAVOR_PRECISION_F32, data) == FAVOR_OK);
  for (int i = 0; i < 12; i++) is_filled = is_filled && data[i] == fill;
  assert_all(is_filled);
  close_everywhere(&tensor);
  assert_all(favor_tensor_open(scratch->context, path, "none", FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
  favor_tensor_shape(tensor, &shape);
  assert_all(shape.tokens == 0 && shape.width == 3);
  assert_all(favor_tensor_read(tensor, 0, 1, 0, 0, FAVOR_PRECISION_F32, NULL) == FAVOR_OK);
  close_everywhere(&tensor);
}

static void test_datasets_without_data(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  check_without_data(&scratch, 0);
  check_without_data(&scratch, 512);
  scratch_end(&scratch);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static bool write_refused(const struct scratch *scratch) {
  const hsize_t dims[5] = {2, 3, 4, 5, 6}, empty[2] = {3, 0};
  const char text[] = "this is not an HDF5 file, but a text that is longer than its signature";
  hid_t vax = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_ebias(vax, 129);
  hid_t file = create_file(scratch_path(scratch, "in.h5"), 0);
  bool is_written = put(file, "one", H5T_IEEE_F32LE, 1, dims, H5P_DEFAULT, 0, NULL) &&
                    put(file, "five", H5T_IEEE_F32LE, 5, dims, H5P_DEFAULT, 0, NULL) &&
                    put(file, "scalar", H5T_IEEE_F32LE, 0, dims, H5P_DEFAULT, 0, NULL) &&
                    put(file, "int", H5T_STD_I32LE, 2, dims, H5P_DEFAULT, 0, NULL) &&
                    put(file, "odd", vax, 2, dims, H5P_DEFAULT, 0, NULL) &&
                    put(file, "empty", H5T_IEEE_F32LE, 2, empty, H5P_DEFAULT, 0, NULL);
  H5Gclose(H5Gcreate2(file, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Fclose(file);
  H5Tclose(vax);
  FILE *plain = fopen(scratch_path(scratch, "text.h5"), "w");
  is_written = is_written && fwrite(text, sizeof text, 1, plain) == 1 && fclose(plain) == 0;
  plain = fopen(scratch_path(scratch, "nothing.h5"), "w");
  return is_written && fclose(plain) == 0 && mkdir(scratch_path(scratch, "directory"), 0777) == 0;
}

static void test_what_is_refused(void **state) {
  (void)state;
  const struct {
    const char *file, *dataset;
    enum favor_status status;
    const char *words;
  } cases[] = {
      {"missing.h5", "q", FAVOR_EIO, "No such file"},
      {"directory", "q", FAVOR_EIO, "directory"},
      {"text.h5", "q", FAVOR_EDATA, "not an HDF5 file"},
      {"nothing.h5", "q", FAVOR_EDATA, "is empty"},
      {"in.h5", "q", FAVOR_EDATA, "no dataset q; it has empty, five, group, int, odd, one, scalar"},
      {"in.h5", "deep/er/q", FAVOR_EDATA, "no dataset deep/er/q"},
      {"in.h5", "", FAVOR_EDATA, "no dataset"},
      {"in.h5", "group", FAVOR_EDATA, "group"},
      {"in.h5", "one", FAVOR_EDATA, "1 dimensions"},
      {"in.h5", "five", FAVOR_EDATA, "5 dimensions"},
      {"in.h5", "scalar", FAVOR_EDATA, "0 dimensions"},
      {"in.h5", "int", FAVOR_EDATA, "32-bit integer"},
      {"in.h5", "odd", FAVOR_EDATA, "32-bit floating-point number of another format"},
      {"in.h5", "empty", FAVOR_EDATA, "empty"},
  };
  struct scratch scratch;
  scratch_begin(&scratch);
  assert_all(mpi_rank() != 0 || write_refused(&scratch));
  for (size_t i = 0; i < LENGTH(cases); i++) {
    struct favor_tensor *tensor;
    enum favor_status status = favor_tensor_open(scratch.context, scratch_path(&scratch, cases[i].file),
                                                 cases[i].dataset, FAVOR_HEADS_FIRST, &tensor);
    assert_refused(&scratch, status, cases[i].status, cases[i].words);
    assert_all(tensor == NULL);
  }
  scratch_end(&scratch);
}

/* A file that is cut, before it is opened (by a byte, in the middle, in its head) and while it is read. */
static void test_truncated_files(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = {2, 1, 1, 50000, 8, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true};
  struct scratch scratch;
  struct favor_tensor *tensor;
  float *data = malloc((size_t)n_elements(&shape) * sizeof *data);
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_tensor(path, "q", &shape, false, H5P_DEFAULT));
  int64_t bytes = file_bytes(path);
  assert_all(favor_tensor_open(scratch.context, path, "q", FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
  assert_all(mpi_rank() != 0 || truncate(path, bytes / 2) == 0);
  enum favor_status status = favor_tensor_read(tensor, 0, 1, 0, shape.tokens, FAVOR_PRECISION_F32, data);
  assert_all(status == FAVOR_EDATA && strstr(scratch.context->pending.text, "truncated") != NULL);
  status_clear(&scratch.context->pending);
  close_everywhere(&tensor);
  const int64_t lengths[] = {bytes - 1, bytes / 2, 100, 60};
  for (size_t i = 0; i < LENGTH(lengths); i++) {
    assert_all(mpi_rank() != 0 || truncate(path, lengths[i]) == 0);
    status = favor_tensor_open(scratch.context, path, "q", FAVOR_HEADS_FIRST, &tensor);
    assert_refused(&scratch, status, FAVOR_EDATA, lengths[i] > 1000 ? "truncated" : path);
  }
  free(data);
  scratch_end(&scratch);
}

/* A byte of a compressed chunk is wrong. */
static void test_damaged_chunk(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 4, FAVOR_FLOAT64);
  struct scratch scratch;
  struct favor_tensor *tensor;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_damaged(path, &shape));
  assert_all(favor_tensor_open(scratch.context, path, "q", FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
  double *data = malloc((size_t)n_elements(&shape) * sizeof *data);
  enum favor_status status = favor_tensor_read(tensor, 0, 10, 0, 37, FAVOR_PRECISION_F64, data);
  assert_all(status == FAVOR_EDATA && strstr(scratch.context->pending.text, "cannot be decoded") != NULL);
  status_clear(&scratch.context->pending);
  free(data);
  close_everywhere(&tensor);
  scratch_end(&scratch);
}

static void test_ranges_outside(void **state) {
  (void)state;
  const int64_t ranges[][4] = {{-1, 1, 0, 1}, {0, 11, 0, 1}, {1, 0, 0, 1}, {0, 1, -1, 1}, {0, 1, 0, 38}, {0, 1, 2, 1}};
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 4, FAVOR_FLOAT32);
  struct scratch scratch;
  struct favor_tensor *tensor;
  float data[6 * 38];
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_stored(path, &shape, CONTIGUOUS));
  assert_all(favor_tensor_open(scratch.context, path, "q", FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
  for (size_t i = 0; i < LENGTH(ranges); i++) {
    const int64_t *r = ranges[i];
    assert_all(favor_tensor_read(tensor, r[0], r[1], r[2], r[3], FAVOR_PRECISION_F32, data) == FAVOR_EUSAGE);
    status_clear(&scratch.context->pending);
  }
  close_everywhere(&tensor);
  scratch_end(&scratch);
}

/* Ranks that ask for, or see, different things. */
static void test_ranks_that_differ(void **state) {
  (void)state;
  struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  struct favor_tensor *tensor;
  mpi_skip_all_if(mpi_size() == 1);
  scratch_begin(&scratch);
  bool is_last = mpi_rank() == mpi_size() - 1;
  assert_all(mpi_rank() != 0 || write_stored(scratch_path(&scratch, "in.h5"), &shape, CONTIGUOUS));
  enum favor_status status = favor_tensor_open(scratch.context, scratch_path(&scratch, "in.h5"), "q",
                                               is_last ? FAVOR_TOKENS_FIRST : FAVOR_HEADS_FIRST, &tensor);
  assert_refused(&scratch, status, FAVOR_EUSAGE, "different tensors");
  /* The same name leads the last rank to another file, as on disks that are not shared. */
  char directory[300];
  snprintf(directory, sizeof directory, "%s/own%d", scratch.directory, is_last);
  assert_all((mpi_rank() != 0 && !is_last) || mkdir(directory, 0777) == 0);
  shape.tokens += is_last;
  assert_all(chdir(directory) == 0);
  assert_all((mpi_rank() != 0 && !is_last) || write_stored("in.h5", &shape, CONTIGUOUS));
  status = favor_tensor_open(scratch.context, "in.h5", "q", FAVOR_HEADS_FIRST, &tensor);
  assert_refused(&scratch, status, FAVOR_EDATA, "not the same on all ranks");
  assert_all((mpi_rank() != 0 && !is_last) || unlink("in.h5") == 0);
  assert_all(chdir("/") == 0);
  scratch_end(&scratch);
}

/* ---- small datasets and attributes ------------------------------------------------------------------------------- */

static bool write_small(const char *path) {
  const int64_t segments[4] = {0, 3, 3, INT64_C(1) << 40};
  const short shorts[2] = {-7, 9};
  const double numbers[6] = {0.5, -2, 0x1p-24, 1e30, 0x1p-133, -0.0};
  const hsize_t four = 4, two = 2, dims[2] = {2, 3}, none = 0;
  hid_t bfloat = file_type(FAVOR_BFLOAT16, false), file = create_file(path, 0);
  hid_t group = H5Gcreate2(file, "deep", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  bool is_written = put(file, "segments", H5T_STD_I64LE, 1, &four, H5P_DEFAULT, H5T_NATIVE_INT64, segments) &&
                    put(group, "shorts", H5T_STD_I16BE, 1, &two, H5P_DEFAULT, H5T_NATIVE_SHORT, shorts) &&
                    put(file, "none", H5T_STD_I64LE, 1, &none, H5P_DEFAULT, H5T_NATIVE_INT64, NULL) &&
                    put(file, "numbers", H5T_IEEE_F64LE, 2, dims, H5P_DEFAULT, H5T_NATIVE_DOUBLE, numbers) &&
                    put(file, "bfloats", bfloat, 2, dims, H5P_DEFAULT, H5T_NATIVE_DOUBLE, numbers) &&
                    put(file, "scalar", H5T_STD_I64LE, 0, NULL, H5P_DEFAULT, H5T_NATIVE_INT64, segments);
  H5Gclose(group);
  H5Tclose(bfloat);
  return H5Fclose(file) >= 0 && is_written;
}

static void test_integers(void **state) {
  (void)state;
  struct scratch scratch;
  int64_t n, *values;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_small(path));
  assert_all(favor_int64_read(scratch.context, path, "segments", true, &n, &values) == FAVOR_OK);
  assert_all(n == 4 && values[0] == 0 && values[1] == 3 && values[2] == 3 && values[3] == INT64_C(1) << 40);
  free(values);
  assert_all(favor_int64_read(scratch.context, path, "deep/shorts", false, &n, &values) == FAVOR_OK);
  assert_all(n == 2 && values[0] == -7 && values[1] == 9);
  free(values);
  assert_all(favor_int64_read(scratch.context, path, "none", true, &n, &values) == FAVOR_OK);
  assert_all(n == 0 && values != NULL);
  free(values);
  assert_all(favor_int64_read(scratch.context, path, "absent", false, &n, &values) == FAVOR_OK);
  assert_all(n == 0 && values == NULL);
  enum favor_status status = favor_int64_read(scratch.context, path, "absent", true, &n, &values);
  assert_refused(&scratch, status, FAVOR_EDATA, "no dataset absent");
  status = favor_int64_read(scratch.context, path, "scalar", true, &n, &values);
  assert_refused(&scratch, status, FAVOR_EDATA, "one number");
  status = favor_int64_read(scratch.context, path, "numbers", false, &n, &values);
  assert_refused(&scratch, status, FAVOR_EDATA, "2 dimensions");
  status = favor_int64_read(scratch.context, scratch_path(&scratch, "missing.h5"), "segments", false, &n, &values);
  assert_refused(&scratch, status, FAVOR_EIO, "No such file");
  assert_all(n == 0 && values == NULL);
  scratch_end(&scratch);
}

static void test_numbers(void **state) {
  (void)state;
  const double expected[6] = {0.5, -2, 0x1p-24, 1e30, 0x1p-133, -0.0};
  struct scratch scratch;
  int n_dims;
  int64_t dims[4];
  double *values;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_small(path));
  assert_all(favor_double_read(scratch.context, path, "numbers", &n_dims, dims, &values) == FAVOR_OK);
  assert_all(n_dims == 2 && dims[0] == 2 && dims[1] == 3 && memcmp(values, expected, sizeof expected) == 0);
  free(values);
  assert_all(favor_double_read(scratch.context, path, "bfloats", &n_dims, dims, &values) == FAVOR_OK);
  assert_all(values[0] == 0.5 && values[1] == -2 && values[2] == 0x1p-24 && values[4] == 0x1p-133);
  free(values);
  enum favor_status status = favor_double_read(scratch.context, path, "segments", &n_dims, dims, &values);
  assert_refused(&scratch, status, FAVOR_EDATA, "64-bit integer");
  status = favor_double_read(scratch.context, path, "absent", &n_dims, dims, &values);
  assert_refused(&scratch, status, FAVOR_EDATA, "no dataset absent");
  assert_all(values == NULL);
  scratch_end(&scratch);
}

static void put_attribute(hid_t file, const char *name, hid_t type, hid_t space, hid_t memory_type, const void *data) {
  hid_t id = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(id, memory_type, data);
  H5Aclose(id);
}

/* Attributes as other programs write them, and of kinds that are left out. */
static void write_attributes(const char *path) {
  const hsize_t one = 1, three = 3;
  const double number = 0.25, vector[3] = {1, 2, 3};
  const signed char small = -3;
  char *variable = "a text of variable length", fixed[8] = "fixed  ";
  hid_t file = create_file(path, 0), scalar = H5Screate(H5S_SCALAR), single = H5Screate_simple(1, &one, NULL);
  hid_t list = H5Screate_simple(1, &three, NULL), variable_type = H5Tcopy(H5T_C_S1), fixed_type = H5Tcopy(H5T_C_S1);
  H5Tset_size(variable_type, H5T_VARIABLE);
  H5Tset_size(fixed_type, 7);
  H5Tset_strpad(fixed_type, H5T_STR_SPACEPAD);
  put_attribute(file, "variable", variable_type, scalar, variable_type, &variable);
  put_attribute(file, "fixed", fixed_type, scalar, fixed_type, fixed);
  put_attribute(file, "small", H5T_STD_I8BE, single, H5T_NATIVE_SCHAR, &small);
  put_attribute(file, "number", H5T_IEEE_F32LE, scalar, H5T_NATIVE_DOUBLE, &number);
  put_attribute(file, "list", H5T_IEEE_F64LE, list, H5T_NATIVE_DOUBLE, vector);
  H5Tclose(variable_type);
  H5Tclose(fixed_type);
  H5Sclose(scalar);
  H5Sclose(single);
  H5Sclose(list);
  H5Fclose(file);
}

static void test_attributes(void **state) {
  (void)state;
  struct scratch scratch;
  int n;
  struct favor_attribute *a;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  if (mpi_rank() == 0) write_attributes(path);
  assert_all(favor_attributes_read(scratch.context, path, &n, &a) == FAVOR_OK);
  assert_all(n == 4);
  assert_all(strcmp(a[0].name, "fixed") == 0 && a[0].kind == FAVOR_ATTRIBUTE_TEXT && strcmp(a[0].text, "fixed") == 0);
  assert_all(strcmp(a[1].name, "number") == 0 && a[1].kind == FAVOR_ATTRIBUTE_NUMBER && a[1].number == 0.25);
  assert_all(strcmp(a[2].name, "small") == 0 && a[2].kind == FAVOR_ATTRIBUTE_INTEGER && a[2].integer == -3);
  assert_all(strcmp(a[3].name, "variable") == 0 && strcmp(a[3].text, "a text of variable length") == 0);
  free(a);
  enum favor_status status = favor_attributes_read(scratch.context, scratch_path(&scratch, "missing.h5"), &n, &a);
  assert_refused(&scratch, status, FAVOR_EIO, "No such file");
  assert_all(n == 0 && a == NULL);
  scratch_end(&scratch);
}

/* A file that has none. */
static void test_no_attributes(void **state) {
  (void)state;
  struct scratch scratch;
  int n;
  struct favor_attribute *a;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  assert_all(mpi_rank() != 0 || write_small(path));
  assert_all(favor_attributes_read(scratch.context, path, &n, &a) == FAVOR_OK);
  assert_all(n == 0);
  free(a);
  scratch_end(&scratch);
}

/* A failure at each agreement of each reader, on the first rank, the middle one and the last: one code everywhere. */
static void test_faults(void **state) {
  (void)state;
  const int ranks[] = {0, mpi_size() / 2, mpi_size() - 1};
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "in.h5");
  struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  assert_all(mpi_rank() != 0 || write_stored(path, &shape, CONTIGUOUS));
  assert_all(mpi_rank() != 0 || write_small(scratch_path(&scratch, "small.h5")));
  for (size_t i = 0; i < 2 * LENGTH(ranks); i++) {
    int rank = ranks[i / 2], skip_count = (int)(i % 2), n_dims;
    struct favor_tensor *tensor;
    int64_t n, dims[4], *integers;
    double *numbers;
    dist_inject(scratch.context, DIST_SITE_TENSOR_OPEN, rank, skip_count);
    assert_all(favor_tensor_open(scratch.context, path, "q", FAVOR_HEADS_FIRST, &tensor) == FAVOR_EINTERNAL);
    assert_all(tensor == NULL);
    path = scratch_path(&scratch, "small.h5");
    dist_inject(scratch.context, DIST_SITE_DATA_READ, rank, skip_count);
    assert_all(favor_int64_read(scratch.context, path, "segments", true, &n, &integers) == FAVOR_EINTERNAL);
    dist_inject(scratch.context, DIST_SITE_DATA_READ, rank, skip_count);
    assert_all(favor_double_read(scratch.context, path, "numbers", &n_dims, dims, &numbers) == FAVOR_EINTERNAL);
    assert_all(integers == NULL && numbers == NULL);
    path = scratch_path(&scratch, "in.h5");
  }
  dist_inject(scratch.context, DIST_SITE_NONE, 0, 0);
  assert_all(opens_and_reads(&scratch, path, &shape, true));
  scratch_end(&scratch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_every_layout_type_and_storage),
      mpi_unit_test(test_slabs_larger_than_the_buffer),
      mpi_unit_test(test_large_chunks),
      mpi_unit_test(test_more_elements_than_an_int_counts),
      mpi_unit_test(test_datasets_elsewhere),
      mpi_unit_test(test_datasets_without_data),
      mpi_unit_test(test_what_is_refused),
      mpi_unit_test(test_truncated_files),
      mpi_unit_test(test_damaged_chunk),
      mpi_unit_test(test_ranges_outside),
      mpi_unit_test(test_ranks_that_differ),
      mpi_unit_test(test_integers),
      mpi_unit_test(test_numbers),
      mpi_unit_test(test_attributes),
      mpi_unit_test(test_no_attributes),
      mpi_unit_test(test_faults),
  };
  return mpi_cmocka_main(&argc, &argv, "io", tests, LENGTH(tests));
}

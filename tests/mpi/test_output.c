/* Writing outputs: every layout and type, by ranks in any partition; and whatever goes wrong leaves no file. */
#include "io_files.h"

#include <errno.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "dist/comm.h"

static struct favor_tensor_shape shape_of(enum favor_layout layout, int n_dims, enum favor_type type) {
  return (struct favor_tensor_shape){.n_dims = n_dims,
                                     .batch = n_dims == 4 ? 2 : 1,
                                     .heads = n_dims > 2 ? 5 : 1,
                                     .tokens = 37,
                                     .width = 6,
                                     .type = type,
                                     .layout = layout};
}

static enum favor_status create_one(const struct scratch *scratch, const char *path,
                                    const struct favor_tensor_shape *shape, bool is_overwrite,
                                    struct favor_output_file **file) {
  const struct favor_output_tensor tensor = {"out", *shape};
  const struct favor_output_spec spec = {
      .path = path, .is_overwrite = is_overwrite, .tensors = &tensor, .n_tensors = 1};
  return favor_output_create(scratch->context, &spec, file);
}

static enum favor_status write_known(struct favor_output_file *file, const struct favor_tensor_shape *s, int64_t h0,
                                     int64_t h1, int64_t t0, int64_t t1, enum favor_precision precision) {
  void *data = slab_values(s, h0, h1, t0, t1, precision);
  enum favor_status status = favor_output_write(file, 0, h0, h1, t0, t1, precision, data);
  free(data);
  return status;
}

/* This rank's part by tokens (in two writes), or by heads. */
static bool write_part(struct favor_output_file *file, const struct favor_tensor_shape *s, bool is_by_heads,
                       enum favor_precision precision) {
  int64_t heads = s->batch * s->heads;
  if (is_by_heads) return write_known(file, s, part_begin(heads), part_end(heads), 0, s->tokens, precision) == FAVOR_OK;
  int64_t t0 = part_begin(s->tokens), t1 = part_end(s->tokens), middle = (t0 + t1) / 2;
  return write_known(file, s, 0, heads, t0, middle, precision) == FAVOR_OK &&
         write_known(file, s, 0, heads, middle, t1, precision) == FAVOR_OK;
}

static bool writes_right(struct scratch *scratch, const struct favor_tensor_shape *shape, bool is_by_heads,
                         enum favor_precision precision) {
  struct favor_output_file *file;
  const char *path = scratch_path(scratch, "out.h5"), *part = scratch_path(scratch, "out.h5.favor-part");
  if (create_one(scratch, path, shape, true, &file) != FAVOR_OK) return false;
  bool is_hidden = file_exists(part);
  bool is_right = write_part(file, shape, is_by_heads, precision);
  is_right = favor_output_finish(&file) == FAVOR_OK && is_right && is_hidden && !file && !file_exists(part);
  return is_right && (mpi_rank() != 0 || holds_values(path, "out", shape));
}

static void test_every_layout_and_type(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  for (int layout = FAVOR_HEADS_FIRST; layout <= FAVOR_TOKENS_FIRST; layout++) {
    for (int n_dims = 2; n_dims <= 4; n_dims++) {
      for (int type = FAVOR_FLOAT16; type <= FAVOR_FLOAT64; type++) {
        struct favor_tensor_shape shape = shape_of((enum favor_layout)layout, n_dims, (enum favor_type)type);
        assert_all(writes_right(&scratch, &shape, false, FAVOR_PRECISION_F32));
        assert_all(writes_right(&scratch, &shape, true, FAVOR_PRECISION_F64));
      }
    }
  }
  scratch_end(&scratch);
}

static void test_slabs_larger_than_the_buffer(void **state) {
  (void)state;
  const struct favor_tensor_shape shapes[] = {
      {3, 1, 7, 9001, 48, FAVOR_FLOAT16, FAVOR_TOKENS_FIRST, true},
      {3, 1, 2, 20001, 64, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true},
      {3, 1, 2, 3, 1100001, FAVOR_BFLOAT16, FAVOR_TOKENS_FIRST, true},
  };
  struct scratch scratch;
  scratch_begin(&scratch);
  for (size_t i = 0; i < LENGTH(shapes); i++) {
    assert_all(writes_right(&scratch, &shapes[i], false, FAVOR_PRECISION_F64));
    assert_all(writes_right(&scratch, &shapes[i], true, FAVOR_PRECISION_F32));
  }
  scratch_end(&scratch);
}

static void test_without_tokens(void **state) {
  (void)state;
  struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 4, FAVOR_FLOAT32);
  shape.tokens = 0;
  struct scratch scratch;
  scratch_begin(&scratch);
  assert_all(writes_right(&scratch, &shape, false, FAVOR_PRECISION_F32));
  scratch_end(&scratch);
}

/* ---- everything that an output holds ----------------------------------------------------------------------------- */

static enum favor_status create_full(const struct scratch *scratch, const char *path, struct favor_output_file **file) {
  static const int64_t segments[3] = {0, 5, INT64_C(1) << 40};
  static const double numbers[4] = {0.1, -2, 3, 1e-300};
  static const float floats[2] = {0.5f, 1e-30f};
  const bool is_first = mpi_rank() == 0; /* the others need not give data */
  const struct favor_output_tensor tensors[2] = {{"out", shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32)},
                                                 {"deep/er/out", shape_of(FAVOR_TOKENS_FIRST, 4, FAVOR_FLOAT16)}};
  const struct favor_output_small small[3] = {
      {"segments", FAVOR_ELEMENT_INT64, 1, {3}, is_first ? segments : NULL},
      {"deep/projection", FAVOR_ELEMENT_DOUBLE, 2, {2, 2}, is_first ? numbers : NULL},
      {"floats", FAVOR_ELEMENT_FLOAT, 1, {2}, is_first ? floats : NULL},
  };
  const struct favor_attribute attributes[3] = {
      {.name = "kernel",
       .kind = FAVOR_ATTRIBUTE_TEXT,
       .text = "r\xc3\xa9"
               "f\xc3\xa9rence"},
      {.name = "seed", .kind = FAVOR_ATTRIBUTE_INTEGER, .integer = INT64_MIN},
      {.name = "scale", .kind = FAVOR_ATTRIBUTE_NUMBER, .number = 0.1},
  };
  const struct favor_output_spec spec = {.path = path,
                                         .tensors = tensors,
                                         .n_tensors = 2,
                                         .small = small,
                                         .n_small = 3,
                                         .attributes = attributes,
                                         .n_attributes = 3};
  return favor_output_create(scratch->context, &spec, file);
}

static bool fill_full(struct favor_output_file **file) {
  bool is_written = true;
  const struct favor_tensor_shape shapes[2] = {shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32),
                                               shape_of(FAVOR_TOKENS_FIRST, 4, FAVOR_FLOAT16)};
  for (int i = 0; i < 2; i++) {
    const struct favor_tensor_shape *s = &shapes[i];
    int64_t heads = s->batch * s->heads, t0 = part_begin(s->tokens), t1 = part_end(s->tokens);
    void *data = slab_values(s, 0, heads, t0, t1, FAVOR_PRECISION_F32);
    is_written &= favor_output_write(*file, i, 0, heads, t0, t1, FAVOR_PRECISION_F32, data) == FAVOR_OK;
    free(data);
  }
  return (favor_output_finish(file) == FAVOR_OK) && is_written;
}

static bool are_equal_files(const char *a, const char *b) {
  int64_t bytes = file_bytes(a);
  if (bytes <= 0 || bytes != file_bytes(b)) return false;
  char *both = malloc(2 * (size_t)bytes);
  FILE *first = fopen(a, "r"), *second = fopen(b, "r");
  bool is_equal = fread(both, (size_t)bytes, 1, first) == 1 && fread(both + bytes, (size_t)bytes, 1, second) == 1 &&
                  memcmp(both, both + bytes, (size_t)bytes) == 0;
  fclose(first);
  fclose(second);
  free(both);
  return is_equal;
}

static void test_all_contents(void **state) {
  (void)state;
  struct scratch scratch;
  struct favor_output_file *file;
  struct favor_attribute *a;
  int n, n_dims;
  int64_t n_integers, dims[4], *integers;
  double *numbers;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  assert_all(create_full(&scratch, path, &file) == FAVOR_OK);
  assert_all(fill_full(&file));
  const struct favor_tensor_shape shapes[2] = {shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32),
                                               shape_of(FAVOR_TOKENS_FIRST, 4, FAVOR_FLOAT16)};
  assert_all(mpi_rank() != 0 || holds_values(path, "out", &shapes[0]));
  assert_all(mpi_rank() != 0 || holds_values(path, "deep/er/out", &shapes[1]));
  assert_all(favor_attributes_read(scratch.context, path, &n, &a) == FAVOR_OK && n == 3);
  assert_all(a[0].kind == FAVOR_ATTRIBUTE_TEXT && strcmp(a[0].text, "r\xc3\xa9"
                                                                    "f\xc3\xa9rence") == 0);
  assert_all(strcmp(a[1].name, "scale") == 0 && a[1].number == 0.1 && a[2].integer == INT64_MIN);
  assert_all(favor_int64_read(scratch.context, path, "segments", true, &n_integers, &integers) == FAVOR_OK);
  assert_all(n_integers == 3 && integers[1] == 5 && integers[2] == INT64_C(1) << 40);
  assert_all(favor_double_read(scratch.context, path, "deep/projection", &n_dims, dims, &numbers) == FAVOR_OK);
  assert_all(n_dims == 2 && dims[0] == 2 && dims[1] == 2 && numbers[0] == 0.1 && numbers[3] == 1e-300);
  free(a);
  free(integers);
  free(numbers);
  scratch_end(&scratch);
}

static void test_equal_outputs_are_equal_files(void **state) {
  (void)state;
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  assert_all(create_full(&scratch, scratch_path(&scratch, "a.h5"), &file) == FAVOR_OK && fill_full(&file));
  usleep(1100 * 1000); /* time stamps of HDF5 count seconds */
  assert_all(create_full(&scratch, scratch_path(&scratch, "b.h5"), &file) == FAVOR_OK && fill_full(&file));
  assert_all(are_equal_files(scratch_path(&scratch, "a.h5"), scratch_path(&scratch, "b.h5")));
  scratch_end(&scratch);
}

/* ---- refusals at creation ---------------------------------------------------------------------------------------- */

static bool touch(const char *path) {
  int fd = open(path, O_WRONLY | O_CREAT, 0666);
  return fd >= 0 && close(fd) == 0;
}

static void test_targets_that_are_refused(void **state) {
  (void)state;
  const struct {
    const char *name;
    bool is_overwrite;
    const char *words;
  } cases[] = {
      {"there.h5", false, "exists"},
      {"directory", true, "it is a directory"},
      {"directory/", false, "it is a directory"},
      {"none/out.h5", true, "does not exist"},
      {"there.h5/out.h5", true, "Not a directory"},
      {"fifo", true, "not a regular file"},
      {"dangling", false, "exists"},
      {"", true, "cannot create"},
  };
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  scratch_begin(&scratch);
  assert_all(mpi_rank() != 0 || touch(scratch_path(&scratch, "there.h5")));
  assert_all(mpi_rank() != 0 || mkdir(scratch_path(&scratch, "directory"), 0777) == 0);
  assert_all(mpi_rank() != 0 || mkfifo(scratch_path(&scratch, "fifo"), 0666) == 0);
  assert_all(mpi_rank() != 0 || symlink("nowhere", scratch_path(&scratch, "dangling")) == 0);
  int n_files = scratch_count(&scratch);
  for (size_t i = 0; i < LENGTH(cases); i++) {
    struct favor_output_file *file;
    const char *path = cases[i].name[0] ? scratch_path(&scratch, cases[i].name) : "";
    enum favor_status status = create_one(&scratch, path, &shape, cases[i].is_overwrite, &file);
    assert_refused(&scratch, status, FAVOR_ECREATE, cases[i].words);
    assert_all(scratch_count(&scratch) == n_files && file == NULL);
  }
  scratch_end(&scratch);
}

static void test_directory_without_permission(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  uid_t user = geteuid();
  assert_all(mpi_rank() != 0 || chmod(scratch.directory, 0555) == 0);
  assert_all(user != 0 || seteuid(65534) == 0); /* root may write everywhere */
  enum favor_status status = create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file);
  assert_all(user != 0 || seteuid(user) == 0);
  assert_refused(&scratch, status, FAVOR_ECREATE, "Permission denied");
  assert_all(mpi_rank() != 0 || chmod(scratch.directory, 0700) == 0);
  assert_all(scratch_count(&scratch) == 0);
  scratch_end(&scratch);
}

static void test_specifications_that_are_refused(void **state) {
  (void)state;
  struct favor_tensor_shape huge = shape_of(FAVOR_HEADS_FIRST, 4, FAVOR_FLOAT64);
  struct favor_tensor_shape wrong = shape_of(FAVOR_HEADS_FIRST, 2, FAVOR_FLOAT64);
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  huge.tokens = INT64_C(1) << 60;
  enum favor_status status = create_one(&scratch, path, &huge, false, &file);
  assert_refused(&scratch, status, FAVOR_ECREATE, "too large");
  huge.tokens = INT64_C(1) << 48; /* 120 PiB: countable, and more than there is */
  status = create_one(&scratch, path, &huge, false, &file);
  assert_refused(&scratch, status, FAVOR_ECREATE, "no space for");
  wrong.heads = 2; /* two dimensions have no heads */
  status = create_one(&scratch, path, &wrong, false, &file);
  assert_refused(&scratch, status, FAVOR_EUSAGE, "shape");
  wrong.heads = 1;
  const struct favor_output_tensor twice[2] = {{"out", wrong}, {"out", wrong}};
  const struct favor_output_spec spec = {.path = path, .tensors = twice, .n_tensors = 2};
  status = favor_output_create(scratch.context, &spec, &file);
  assert_refused(&scratch, status, FAVOR_ECREATE, "out");
  if (mpi_size() > 1) {
    wrong.tokens += mpi_rank() == mpi_size() - 1;
    status = create_one(&scratch, path, &wrong, false, &file);
    assert_refused(&scratch, status, FAVOR_EUSAGE, "different outputs");
  }
  assert_all(scratch_count(&scratch) == 0 && file == NULL);
  scratch_end(&scratch);
}

/* 16 MiB do not fit on a disk of 9: refused before anything is computed, with the number of bytes. */
static void test_full_disk(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = {3, 1, 4, 16384, 64, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true};
  struct favor_tensor_shape fits = shape;
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  int is_mounted = mpi_rank() == 0 && mount("tmpfs", scratch.directory, "tmpfs", 0, "size=9m") == 0;
  MPI_Bcast(&is_mounted, 1, MPI_INT, 0, MPI_COMM_WORLD);
  if (!is_mounted) scratch_end(&scratch);
  mpi_skip_all_if(!is_mounted); /* only root may mount */
  enum favor_status status = create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file);
  bool is_refused = status == FAVOR_ECREATE && strstr(favor_context_message(scratch.context), "needs 16") && !file;
  int n_files = scratch_count(&scratch);
  fits.tokens = 4096;
  bool is_right = writes_right(&scratch, &fits, false, FAVOR_PRECISION_F32);
  MPI_Barrier(MPI_COMM_WORLD);
  bool is_unmounted = mpi_rank() != 0 || umount2(scratch.directory, MNT_DETACH) == 0;
  assert_all(is_refused && n_files == 0);
  assert_all(is_right && is_unmounted);
  scratch_end(&scratch);
}

/* ---- failures while writing -------------------------------------------------------------------------------------- */

/* The last rank alone cannot write beyond a limit: every rank hears of it, and no file is left. */
static void test_write_error_on_one_rank(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = {3, 1, 4, 4096, 64, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true};
  struct scratch scratch;
  struct favor_output_file *file;
  struct rlimit old, small;
  char words[64];
  scratch_begin(&scratch);
  assert_all(create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file) == FAVOR_OK);
  bool is_last = mpi_rank() == mpi_size() - 1;
  signal(SIGXFSZ, SIG_IGN);
  assert_all(getrlimit(RLIMIT_FSIZE, &old) == 0);
  small = old;
  small.rlim_cur = 1 << 20;
  assert_all(!is_last || setrlimit(RLIMIT_FSIZE, &small) == 0);
  bool is_written = write_part(file, &shape, false, FAVOR_PRECISION_F32);
  assert_all(!is_last || setrlimit(RLIMIT_FSIZE, &old) == 0);
  assert_all(is_written == !is_last);
  enum favor_status status = favor_output_finish(&file);
  snprintf(words, sizeof words, "failed on rank %d: %s", mpi_size() - 1, strerror(EFBIG));
  assert_refused(&scratch, status, FAVOR_EIO, words);
  assert_all(scratch_count(&scratch) == 0 && file == NULL);
  scratch_end(&scratch);
}

static void test_value_that_does_not_fit(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_TOKENS_FIRST, 4, FAVOR_FLOAT16);
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  assert_all(create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file) == FAVOR_OK);
  float *data = slab_values(&shape, 3, 9, 10, 20, FAVOR_PRECISION_F32);
  data[(4 * 10 + 3) * 6 + 2] = -65520.0f; /* head 7, token 13 */
  enum favor_status status = FAVOR_OK;
  if (mpi_rank() == mpi_size() - 1) status = favor_output_write(file, 0, 3, 9, 10, 20, FAVOR_PRECISION_F32, data);
  free(data);
  assert_all(status == FAVOR_OK || status == FAVOR_EDATA);
  status = favor_output_finish(&file);
  assert_refused(&scratch, status, FAVOR_EDATA, "head 7, token 13 does not fit into float16; use --out-type");
  assert_all(scratch_count(&scratch) == 0);
  scratch_end(&scratch);
}

static void test_ranges_outside(void **state) {
  (void)state;
  const int64_t ranges[][5] = {{0, -1, 1, 0, 1}, {0, 0, 11, 0, 1}, {0, 0, 1, 0, 38}, {1, 0, 1, 0, 1}, {-1, 0, 1, 0, 1}};
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 4, FAVOR_FLOAT32);
  const float data[6 * 38] = {0};
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  assert_all(create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file) == FAVOR_OK);
  for (size_t i = 0; i < LENGTH(ranges); i++) {
    const int64_t *r = ranges[i];
    assert_all(favor_output_write(file, (int)r[0], r[1], r[2], r[3], r[4], FAVOR_PRECISION_F32, data) == FAVOR_EUSAGE);
  }
  assert_all(favor_output_finish(&file) == FAVOR_EUSAGE);
  assert_all(scratch_count(&scratch) == 0);
  scratch_end(&scratch);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* A file of that name that appears during the run is kept, or replaced where the user said so. */
static void test_file_that_appears(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  for (int is_overwrite = 0; is_overwrite < 2; is_overwrite++) {
    struct scratch scratch;
    struct favor_output_file *file;
    scratch_begin(&scratch);
    const char *path = scratch_path(&scratch, "out.h5");
    assert_all(create_one(&scratch, path, &shape, is_overwrite, &file) == FAVOR_OK);
    assert_all(mpi_rank() != 0 || touch(path));
    assert_all(write_part(file, &shape, false, FAVOR_PRECISION_F32));
    enum favor_status status = favor_output_finish(&file);
    if (is_overwrite)
      assert_all(status == FAVOR_OK && file_bytes(path) > 0);
    else
      assert_refused(&scratch, status, FAVOR_ECREATE, "appeared during the run");
    assert_all(is_overwrite || file_bytes(path) == 0);
    assert_all(scratch_count(&scratch) == 1);
    scratch_end(&scratch);
  }
}

/* Another run has put its own temporary in the place of ours: neither is touched. */
static void test_temporary_of_another_run(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5"), *part = scratch_path(&scratch, "out.h5.favor-part");
  assert_all(create_one(&scratch, path, &shape, false, &file) == FAVOR_OK);
  assert_all(mpi_rank() != 0 || (rename(part, scratch_path(&scratch, "away")) == 0 && touch(part)));
  enum favor_status status = favor_output_finish(&file);
  assert_refused(&scratch, status, FAVOR_EIO, "is another run writing it?");
  assert_all(file_exists(part) && !file_exists(path));
  scratch_end(&scratch);
}

/* What a killed run left does not stand in the way, even where it is larger. */
static void test_temporary_of_a_killed_run(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *part = scratch_path(&scratch, "out.h5.favor-part");
  assert_all(mpi_rank() != 0 || (touch(part) && truncate(part, 1 << 20) == 0));
  assert_all(writes_right(&scratch, &shape, false, FAVOR_PRECISION_F32));
  assert_all(scratch_count(&scratch) == 1 && file_bytes(scratch_path(&scratch, "out.h5")) < 1 << 20);
  scratch_end(&scratch);
}

static void test_abandoned_output(void **state) {
  (void)state;
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  struct favor_output_file *file = NULL;
  scratch_begin(&scratch);
  favor_output_abandon(&file);
  assert_all(create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file) == FAVOR_OK);
  assert_all(write_part(file, &shape, false, FAVOR_PRECISION_F32));
  assert_all(scratch_count(&scratch) == 1);
  favor_output_abandon(&file);
  assert_all(scratch_count(&scratch) == 0 && file == NULL);
  scratch_end(&scratch);
}

/* A failure at each agreement, on the first rank, the middle one and the last: one code everywhere, and no file. */
static void test_faults(void **state) {
  (void)state;
  const enum dist_site sites[] = {DIST_SITE_OUTPUT_CREATE, DIST_SITE_OUTPUT_FINISH};
  const int ranks[] = {0, mpi_size() / 2, mpi_size() - 1};
  const struct favor_tensor_shape shape = shape_of(FAVOR_HEADS_FIRST, 3, FAVOR_FLOAT32);
  struct scratch scratch;
  scratch_begin(&scratch);
  for (size_t i = 0; i < LENGTH(sites) * LENGTH(ranks) * 2; i++) {
    struct favor_output_file *file;
    dist_inject(scratch.context, sites[i / 6], ranks[i / 2 % 3], (int)(i % 2));
    enum favor_status status = create_one(&scratch, scratch_path(&scratch, "out.h5"), &shape, false, &file);
    assert_all((status == FAVOR_OK) == (sites[i / 6] == DIST_SITE_OUTPUT_FINISH) &&
               (status == FAVOR_OK) == (file != NULL));
    if (status == FAVOR_OK) status = favor_output_finish(&file);
    assert_refused(&scratch, status, FAVOR_EINTERNAL, "injected");
    assert_all(scratch_count(&scratch) == 0 && file == NULL);
  }
  dist_inject(scratch.context, DIST_SITE_NONE, 0, 0);
  assert_all(writes_right(&scratch, &shape, false, FAVOR_PRECISION_F32));
  scratch_end(&scratch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_every_layout_and_type),
      mpi_unit_test(test_slabs_larger_than_the_buffer),
      mpi_unit_test(test_without_tokens),
      mpi_unit_test(test_all_contents),
      mpi_unit_test(test_equal_outputs_are_equal_files),
      mpi_unit_test(test_targets_that_are_refused),
      mpi_unit_test(test_directory_without_permission),
      mpi_unit_test(test_specifications_that_are_refused),
      mpi_unit_test(test_full_disk),
      mpi_unit_test(test_write_error_on_one_rank),
      mpi_unit_test(test_value_that_does_not_fit),
      mpi_unit_test(test_ranges_outside),
      mpi_unit_test(test_file_that_appears),
      mpi_unit_test(test_temporary_of_another_run),
      mpi_unit_test(test_temporary_of_a_killed_run),
      mpi_unit_test(test_abandoned_output),
      mpi_unit_test(test_faults),
  };
  return mpi_cmocka_main(&argc, &argv, "output", tests, LENGTH(tests));
}

/* Outputs that outlive a run: a second run is kept away while the first lives and let in when it is dead; what goes on
 * after a stop ends as the same file; and what is not the temporary of the checkpoint is refused and left alone. */
#define _GNU_SOURCE /* F_OFD_SETLK */
#include "io_files.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "dist/comm.h"
#include "io/check.h"

static const struct favor_tensor_shape shapes[2] = {
    {3, 1, 3, 4001, 20, FAVOR_FLOAT32, FAVOR_TOKENS_FIRST, true},
    {3, 1, 2, 5, 7, FAVOR_FLOAT64, FAVOR_HEADS_FIRST, true}, /* so small that it lies among the attributes */
};
enum { STOP = 1234 }; /* tokens of the first tensor that a checkpoint covers */

static enum favor_status begin(const struct scratch *scratch, const char *path, bool is_overwrite, int64_t seed,
                               const uint64_t *resume, struct favor_output_file **file) {
  static const double projection[3] = {0.1, 0.2, 0.3};
  const struct favor_output_tensor tensors[2] = {{"out", shapes[0]}, {"estimates/x", shapes[1]}};
  const struct favor_output_small small = {"projection", FAVOR_ELEMENT_DOUBLE, 1, {3}, projection};
  const struct favor_attribute attributes[] = {
      {.name = "seed", .kind = FAVOR_ATTRIBUTE_INTEGER, .integer = seed},
      {.name = "error", .kind = FAVOR_ATTRIBUTE_NUMBER, .number = NAN},
      {.name = "skill", .kind = FAVOR_ATTRIBUTE_NUMBER, .number = NAN},
      {.name = "kernel", .kind = FAVOR_ATTRIBUTE_TEXT, .text = "avx512"},
  };
  const struct favor_output_spec spec = {.path = path,
                                         .is_overwrite = is_overwrite,
                                         .tensors = tensors,
                                         .n_tensors = 2,
                                         .small = &small,
                                         .n_small = 1,
                                         .attributes = attributes,
                                         .n_attributes = LENGTH(attributes)};
  if (!resume) {
    enum favor_status status = favor_output_create(scratch->context, &spec, file);
    if (*file) favor_output_set_resumable(*file);
    return status;
  }
  const bool is_first = mpi_rank() == 0; /* the others need not know */
  return favor_output_resume(scratch->context, &spec, is_first ? resume[0] : 0, is_first ? resume + 1 : NULL, file);
}

/* This rank's part of the tokens [from, to) of tensor `index`. */
static bool write_part(struct favor_output_file *file, int index, int64_t from, int64_t to) {
  const struct favor_tensor_shape *s = &shapes[index];
  const int64_t t0 = from + part_begin(to - from), t1 = from + part_end(to - from);
  void *data = slab_values(s, 0, s->heads, t0, t1, FAVOR_PRECISION_F64);
  const bool is_written = favor_output_write(file, index, 0, s->heads, t0, t1, FAVOR_PRECISION_F64, data) == FAVOR_OK;
  free(data);
  return is_written;
}

static bool set_error(struct favor_output_file *file, double error) {
  const struct favor_attribute attribute = {.name = "error", .kind = FAVOR_ATTRIBUTE_NUMBER, .number = error};
  return favor_output_set_attributes(file, &attribute, 1) == FAVOR_OK;
}

/* The file of a run that nothing stopped. */
static const char *reference_path(const struct scratch *scratch) {
  static char path[512];
  snprintf(path, sizeof path, "%s/reference.h5", scratch->directory);
  return path;
}

/* Everything after the stop. */
static enum favor_status end(struct favor_output_file **file) {
  const bool is_written = write_part(*file, 0, STOP, shapes[0].tokens) && write_part(*file, 1, 0, shapes[1].tokens) &&
                          set_error(*file, 0.25);
  assert_all(is_written);
  return favor_output_finish(file);
}

/* A run up to its checkpoint: id and sums. The caller frees them. */
static uint64_t *checkpoint(struct scratch *scratch, const char *path, struct favor_output_file **file) {
  assert_all(begin(scratch, path, true, 1, NULL, file) == FAVOR_OK);
  assert_all(write_part(*file, 0, 0, STOP));
  assert_all(favor_output_sync(*file) == FAVOR_OK);
  const int64_t n = favor_output_n_sums(*file);
  uint64_t *saved = calloc((size_t)n + 1, sizeof *saved);
  assert_all(n == 3 + 2 && favor_output_sums(*file, saved + 1) == FAVOR_OK);
  saved[0] = favor_output_id(*file);
  return saved;
}

static void write_reference(struct scratch *scratch) {
  struct favor_output_file *file;
  assert_all(begin(scratch, reference_path(scratch), false, 1, NULL, &file) == FAVOR_OK);
  assert_all(write_part(file, 0, 0, STOP));
  assert_all(end(&file) == FAVOR_OK);
}

static bool is_reference(const struct scratch *scratch, const char *path) {
  const char *reference = reference_path(scratch);
  const int64_t bytes = file_bytes(reference);
  if (bytes <= 0 || bytes != file_bytes(path)) return false;
  char *both = malloc(2 * (size_t)bytes);
  FILE *a = fopen(reference, "r"), *b = fopen(path, "r");
  const bool is_equal = fread(both, (size_t)bytes, 1, a) == 1 && fread(both + bytes, (size_t)bytes, 1, b) == 1 &&
                        memcmp(both, both + bytes, (size_t)bytes) == 0;
  fclose(a);
  fclose(b);
  free(both);
  return is_equal;
}

/* ---- checksums --------------------------------------------------------------------------------------------------- */

/* One rank: the sums of `out` in the file, against its rows as HDF5 gives them. */
static bool has_checksums(const char *path) {
  const struct favor_tensor_shape *s = &shapes[0];
  uint64_t expected[3] = {0}, found[3] = {0}, small = 0;
  float *rows = calloc((size_t)n_elements(s), sizeof *rows);
  const double projection[3] = {0.1, 0.2, 0.3};
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), out = H5Dopen2(file, "out", H5P_DEFAULT);
  hid_t sums = H5Dopen2(file, "checksums/out", H5P_DEFAULT);
  hid_t attribute = H5Aopen_by_name(file, "projection", "checksum", H5P_DEFAULT, H5P_DEFAULT);
  bool is_right = H5Dread(out, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) >= 0 &&
                  H5Dread(sums, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, found) >= 0 &&
                  H5Aread(attribute, H5T_NATIVE_UINT64, &small) >= 0;
  H5Aclose(attribute);
  H5Dclose(sums);
  H5Dclose(out);
  H5Fclose(file);
  for (int64_t row = 0; row < s->tokens * s->heads; row++)
    expected[row % s->heads] += XXH3_64bits_withSeed(rows + row * s->width, (size_t)s->width * 4, (uint64_t)row);
  free(rows);
  return is_right && memcmp(expected, found, sizeof found) == 0 && small == XXH3_64bits(projection, sizeof projection);
}

static void test_checksums(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  write_reference(&scratch);
  assert_all(mpi_rank() != 0 || has_checksums(reference_path(&scratch)));
  scratch_end(&scratch);
}

/* One rank: a checksum of far more numbers than there is room for, as somebody else's program might write it. */
static void widen_checksum(const char *path) {
  static const uint64_t many[4096];
  const hsize_t n = sizeof many / sizeof *many;
  hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), projection = H5Dopen2(file, "projection", H5P_DEFAULT);
  hid_t space = H5Screate_simple(1, &n, NULL);
  H5Adelete(projection, "checksum");
  hid_t attribute = H5Acreate2(projection, "checksum", H5T_NATIVE_UINT64, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, H5T_NATIVE_UINT64, many);
  H5Aclose(attribute);
  H5Sclose(space);
  H5Dclose(projection);
  H5Fclose(file);
}

static enum check_outcome outcome_of(const struct check_report *report, const char *name) {
  for (int i = 0; i < report->n_datasets; i++) {
    if (strcmp(report->datasets[i].name, name) == 0) return report->datasets[i].outcome;
  }
  return CHECK_MISSING;
}

/* Before this was refused it ran over the stack. */
static void test_checksum_of_many_numbers(void **state) {
  (void)state;
  struct scratch scratch;
  struct check_report report;
  scratch_begin(&scratch);
  write_reference(&scratch);
  if (mpi_rank() == 0) widen_checksum(reference_path(&scratch));
  MPI_Barrier(MPI_COMM_WORLD);
  assert_all(check_file(scratch.context, reference_path(&scratch), &report) == FAVOR_OK);
  assert_all(mpi_rank() != 0 ||
             (outcome_of(&report, "projection") == CHECK_DAMAGED && outcome_of(&report, "out") == CHECK_OK));
  check_release(&report);
  scratch_end(&scratch);
}

/* ---- the lock ---------------------------------------------------------------------------------------------------- */

static void test_second_run(void **state) {
  (void)state;
  struct scratch scratch;
  struct favor_output_file *file, *second;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  write_reference(&scratch);
  uint64_t *saved = checkpoint(&scratch, path, &file);
  enum favor_status status = begin(&scratch, path, true, 1, NULL, &second);
  assert_refused(&scratch, status, FAVOR_ECREATE, "out.h5 is being written by another run (");
  assert_refused(&scratch, status, FAVOR_ECREATE, "out.h5.favor-part is locked)");
  status = begin(&scratch, path, true, 1, saved, &second);
  assert_refused(&scratch, status, FAVOR_ECREATE, "is being written by another run");
  assert_all(second == NULL && end(&file) == FAVOR_OK && is_reference(&scratch, path));
  assert_all(begin(&scratch, path, true, 1, NULL, &second) == FAVOR_OK);
  favor_output_abandon(&second);
  assert_all(scratch_count(&scratch) == 2);
  free(saved);
  scratch_end(&scratch);
}

/* What a killed run left is locked as long as that run has it open, and no longer. */
static void test_lock_of_a_dead_run(void **state) {
  (void)state;
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5"), *part = scratch_path(&scratch, "out.h5.favor-part");
  int fd = mpi_rank() == 0 ? open(part, O_RDWR | O_CREAT, 0666) : -1;
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  assert_all(mpi_rank() != 0 || fcntl(fd, F_OFD_SETLK, &lock) == 0);
  enum favor_status status = begin(&scratch, path, true, 1, NULL, &file);
  assert_refused(&scratch, status, FAVOR_ECREATE, "is being written by another run");
  assert_all(scratch_count(&scratch) == 1 && file_bytes(part) == 0);
  if (fd >= 0) close(fd);
  MPI_Barrier(MPI_COMM_WORLD);
  assert_all(begin(&scratch, path, true, 1, NULL, &file) == FAVOR_OK);
  favor_output_abandon(&file);
  assert_all(scratch_count(&scratch) == 0);
  scratch_end(&scratch);
}

/* ---- going on ---------------------------------------------------------------------------------------------------- */

/* Stops after the checkpoint with some rows more written, or just before the end: with attributes set, or with all done
 * but the new name. */
static void test_same_file(void **state) {
  (void)state;
  enum { WITH_MORE_ROWS, WITH_ATTRIBUTES, UNNAMED, N_STOPS };
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5"), *part = scratch_path(&scratch, "out.h5.favor-part");
  write_reference(&scratch);
  for (int stop = 0; stop < N_STOPS; stop++) {
    remove(path);
    MPI_Barrier(MPI_COMM_WORLD);
    uint64_t *saved = checkpoint(&scratch, path, &file);
    assert_all(write_part(file, 0, STOP, STOP + 1500) && write_part(file, 1, 0, 3));
    assert_all(stop == WITH_MORE_ROWS || set_error(file, 0.1));
    favor_output_keep(&file);
    const int64_t bytes = file_bytes(part);
    assert_all(file == NULL && !file_exists(path) && bytes == file_bytes(reference_path(&scratch)) + 8);
    assert_all(stop != UNNAMED || mpi_rank() != 0 || truncate(part, bytes - 8) == 0);
    for (int again = 0; again < 2; again++) { /* a run that is stopped at once can be gone on with too */
      assert_all(begin(&scratch, path, false, 1, saved, &file) == FAVOR_OK && favor_output_id(file) == saved[0]);
      if (again == 0) favor_output_keep(&file);
    }
    assert_all(end(&file) == FAVOR_OK && scratch_count(&scratch) == 2);
    assert_all(is_reference(&scratch, path));
    free(saved);
  }
  scratch_end(&scratch);
}

/* What fails while it is finished can be finished later. */
static void test_finish_later(void **state) {
  (void)state;
  const int ranks[] = {0, mpi_size() / 2, mpi_size() - 1};
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  write_reference(&scratch);
  for (size_t i = 0; i < 2 * LENGTH(ranks); i++) {
    remove(path);
    MPI_Barrier(MPI_COMM_WORLD);
    uint64_t *saved = checkpoint(&scratch, path, &file);
    dist_inject(scratch.context, DIST_SITE_OUTPUT_FINISH, ranks[i / 2], (int)(i % 2));
    enum favor_status status = end(&file);
    dist_inject(scratch.context, DIST_SITE_NONE, 0, 0);
    assert_refused(&scratch, status, FAVOR_EINTERNAL, "injected");
    assert_all(scratch_count(&scratch) == 2 && !file_exists(path) && file == NULL);
    assert_all(begin(&scratch, path, false, 1, saved, &file) == FAVOR_OK);
    assert_all(end(&file) == FAVOR_OK && is_reference(&scratch, path));
    free(saved);
  }
  scratch_end(&scratch);
}

/* A disk that was full for one rank. */
static void test_write_error(void **state) {
  (void)state;
  struct scratch scratch;
  struct favor_output_file *file;
  struct rlimit old, small;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  write_reference(&scratch);
  uint64_t *saved = checkpoint(&scratch, path, &file);
  const bool is_last = mpi_rank() == mpi_size() - 1;
  signal(SIGXFSZ, SIG_IGN);
  assert_all(getrlimit(RLIMIT_FSIZE, &old) == 0);
  small = old;
  small.rlim_cur = 1 << 18;
  assert_all(!is_last || setrlimit(RLIMIT_FSIZE, &small) == 0);
  const bool is_written = write_part(file, 0, STOP, shapes[0].tokens);
  assert_all(!is_last || setrlimit(RLIMIT_FSIZE, &old) == 0);
  assert_all(is_written == !is_last);
  favor_output_keep(&file);
  favor_context_forget(scratch.context);
  assert_all(begin(&scratch, path, false, 1, saved, &file) == FAVOR_OK);
  assert_all(end(&file) == FAVOR_OK && is_reference(&scratch, path));
  free(saved);
  scratch_end(&scratch);
}

static bool patch(const char *path, int64_t at) {
  char byte;
  int fd = open(path, O_RDWR);
  const bool is_patched = pread(fd, &byte, 1, at) == 1 && (byte ^= 1, pwrite(fd, &byte, 1, at) == 1);
  return close(fd) == 0 && is_patched;
}

static void test_refusals(void **state) {
  (void)state;
  enum { OTHER_ID, OTHER_OPTIONS, OTHER_BYTES, CUT, LONGER, TARGET_EXISTS, MISSING, N_CASES };
  static const char *const words[N_CASES] = {[OTHER_ID] = "another run made it",
                                             [OTHER_OPTIONS] = "made with other options",
                                             [OTHER_BYTES] = "made with other options",
                                             [CUT] = "it has another size",
                                             [LONGER] = "it has another size",
                                             [TARGET_EXISTS] = "out.h5 exists",
                                             [MISSING] = "favor-part, which the checkpoint belongs to, is missing"};
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5"), *part = scratch_path(&scratch, "out.h5.favor-part");
  for (int i = 0; i < N_CASES; i++) {
    uint64_t *saved = checkpoint(&scratch, path, &file);
    favor_output_keep(&file);
    const int64_t bytes = file_bytes(part);
    MPI_Barrier(MPI_COMM_WORLD);
    bool is_set = true;
    if (mpi_rank() == 0) {
      saved[0] ^= i == OTHER_ID;
      if (i == OTHER_BYTES) is_set = patch(part, 100); /* past the superblock */
      if (i == CUT || i == LONGER) is_set = truncate(part, i == CUT ? bytes / 2 : bytes + 1) == 0;
      if (i == TARGET_EXISTS) is_set = close(open(path, O_CREAT | O_WRONLY, 0666)) == 0;
      if (i == MISSING) is_set = unlink(path) == 0 && unlink(part) == 0;
    }
    assert_all(is_set);
    const int64_t changed = file_bytes(part);
    const enum favor_status status = begin(&scratch, path, false, i == OTHER_OPTIONS ? 2 : 1, saved, &file);
    assert_refused(&scratch, status, i == TARGET_EXISTS ? FAVOR_ECREATE : FAVOR_EDATA, words[i]);
    assert_all(file == NULL && file_bytes(part) == changed);
    free(saved);
  }
  scratch_end(&scratch);
}

/* An output that a later run made anew is not the one of an old checkpoint, though all else is the same. */
static void test_made_anew(void **state) {
  (void)state;
  struct scratch scratch;
  struct favor_output_file *file;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  uint64_t *old = checkpoint(&scratch, path, &file);
  favor_output_keep(&file);
  MPI_Barrier(MPI_COMM_WORLD);
  uint64_t *saved = checkpoint(&scratch, path, &file);
  favor_output_keep(&file);
  assert_all(old[0] != saved[0]);
  const enum favor_status status = begin(&scratch, path, true, 1, old, &file);
  assert_refused(&scratch, status, FAVOR_EDATA, "another run made it");
  assert_all(begin(&scratch, path, true, 1, saved, &file) == FAVOR_OK);
  favor_output_abandon(&file);
  assert_all(scratch_count(&scratch) == 0);
  free(old);
  free(saved);
  scratch_end(&scratch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_checksum_of_many_numbers),
      mpi_unit_test(test_checksums),
      mpi_unit_test(test_second_run),
      mpi_unit_test(test_lock_of_a_dead_run),
      mpi_unit_test(test_same_file),
      mpi_unit_test(test_finish_later),
      mpi_unit_test(test_write_error),
      mpi_unit_test(test_refusals),
      mpi_unit_test(test_made_anew),
  };
  return mpi_cmocka_main(&argc, &argv, "resume", tests, LENGTH(tests));
}

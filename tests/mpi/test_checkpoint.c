/* Checkpoints: written by some ranks and read by others; every damage is noticed; whatever goes wrong leaves the old
 * one. */
#include "io_files.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "dist/comm.h"
#include "io/checkpoint.h"
#include "io/positioned.h"

/* ---- calls that fail on demand ----------------------------------------------------------------------------------- */

enum call { CALL_WRITE, CALL_READ, CALL_FSYNC, CALL_RENAME, N_CALLS };
static int n_before_failure[N_CALLS] = {-1, -1, -1, -1}; /* of this rank; negative: none fails */

static bool fails(enum call call) { return n_before_failure[call] >= 0 && n_before_failure[call]-- == 0; }

int __real_positioned_write(int fd, const void *data, size_t bytes, int64_t offset);
int __wrap_positioned_write(int fd, const void *data, size_t bytes, int64_t offset);
int __wrap_positioned_write(int fd, const void *data, size_t bytes, int64_t offset) {
  if (!fails(CALL_WRITE)) return __real_positioned_write(fd, data, bytes, offset);
  __real_positioned_write(fd, data, bytes / 2, offset);
  return ENOSPC;
}

int __real_positioned_read(int fd, void *data, size_t bytes, int64_t offset);
int __wrap_positioned_read(int fd, void *data, size_t bytes, int64_t offset);
int __wrap_positioned_read(int fd, void *data, size_t bytes, int64_t offset) {
  return fails(CALL_READ) ? EIO : __real_positioned_read(fd, data, bytes, offset);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
  if (!fails(CALL_FSYNC)) return __real_fsync(fd);
  errno = EIO;
  return -1;
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to) {
  if (!fails(CALL_RENAME)) return __real_rename(from, to);
  errno = EACCES;
  return -1;
}

/* ---- checkpoints of known contents ------------------------------------------------------------------------------- */

struct contents {
  const char *text;
  int64_t n_records;
  size_t record_bytes;
};

static unsigned char byte_of(const struct contents *c, int64_t record, size_t i) {
  return (unsigned char)((uint64_t)(record * 131 + (int64_t)i * 7 + (int64_t)c->record_bytes) *
                             UINT64_C(0x9e3779b97f4a7c15) >>
                         56);
}

/* Collective: the first n_writers ranks have the records in even parts, the others none. */
static enum favor_status write_by(const struct scratch *scratch, const char *path, const struct contents *c,
                                  int n_writers) {
  int rank = mpi_rank();
  int64_t first = rank < n_writers ? rank * c->n_records / n_writers : c->n_records;
  int64_t end = rank < n_writers ? (rank + 1) * c->n_records / n_writers : c->n_records;
  unsigned char *records = malloc((size_t)(end - first) * c->record_bytes + 1);
  for (int64_t r = first; r < end; r++) {
    for (size_t i = 0; i < c->record_bytes; i++) records[(size_t)(r - first) * c->record_bytes + i] = byte_of(c, r, i);
  }
  enum favor_status status = checkpoint_write(scratch->context, path, rank == 0 ? c->text : NULL, c->n_records,
                                              c->record_bytes, first, end - first, records);
  free(records);
  return status;
}

/* Local: the records of an open checkpoint that are read without complaint and right; -1 where one is read and wrong.
 */
static int64_t count_right(const struct scratch *scratch, struct checkpoint *checkpoint, const struct contents *c) {
  int64_t n_right = 0;
  unsigned char *record = malloc(c->record_bytes + 1);
  for (int64_t r = 0; n_right >= 0 && r < c->n_records; r++) {
    enum favor_status status = checkpoint_read(checkpoint, r, record);
    bool is_right = status == FAVOR_OK;
    for (size_t i = 0; is_right && i < c->record_bytes; i++) is_right = record[i] == byte_of(c, r, i);
    if (is_right)
      n_right++;
    else if (status != FAVOR_EDATA)
      n_right = -1;
    favor_context_forget(scratch->context);
  }
  free(record);
  return n_right;
}

/* Collective: opens to these contents, and every rank reads every record. */
static bool holds(const struct scratch *scratch, const char *path, const struct contents *c) {
  struct checkpoint *checkpoint;
  bool is_right =
      checkpoint_open(scratch->context, path, &checkpoint) == FAVOR_OK && checkpoint &&
      strcmp(checkpoint_text(checkpoint), c->text) == 0 && checkpoint_n_records(checkpoint) == c->n_records &&
      checkpoint_record_bytes(checkpoint) == c->record_bytes && count_right(scratch, checkpoint, c) == c->n_records;
  checkpoint_close(&checkpoint);
  return is_right;
}

static const struct contents SMALL = {"{\"position\": 12}", 3, 5}, OTHER = {"[1, 2]", 4, 3};

/* ---- local files ------------------------------------------------------------------------------------------------- */

static unsigned char *load_file(const char *path, int64_t *bytes) {
  *bytes = file_bytes(path);
  unsigned char *data = malloc((size_t)*bytes + 1);
  FILE *file = fopen(path, "r");
  bool is_read = file && fread(data, 1, (size_t)*bytes, file) == (size_t)*bytes;
  if (file) fclose(file);
  if (!is_read) *bytes = -1;
  return data;
}

/* Collective: rank 0 puts a file there; the others wait for it. */
static void put_file(const char *path, const void *data, int64_t bytes) {
  MPI_Barrier(MPI_COMM_WORLD);
  bool is_put = true;
  if (mpi_rank() == 0) {
    FILE *file = fopen(path, "w");
    is_put = file && fwrite(data, 1, (size_t)bytes, file) == (size_t)bytes;
    if (file) fclose(file);
  }
  assert_all(is_put);
}

/* Collective: the file is refused on opening, in words that say what to do. */
static void assert_no_checkpoint(const struct scratch *scratch, const char *path, const char *words) {
  struct checkpoint *checkpoint;
  enum favor_status status = checkpoint_open(scratch->context, path, &checkpoint);
  assert_refused(scratch, status, FAVOR_EDATA, words);
  assert_refused(scratch, status, FAVOR_EDATA, "; remove it to start afresh");
  assert_all(checkpoint == NULL);
}

static void test_round_trips(void **state) {
  (void)state;
  const struct contents cases[] = {SMALL,      OTHER,        {"{}", 0, 0},    {"{}", 0, 9},
                                   {"", 1, 1}, {"{}", 5, 0}, {"{}", 64, 1000}};
  struct scratch scratch;
  scratch_begin(&scratch);
  for (size_t i = 0; i < LENGTH(cases); i++) {
    int64_t bytes, first_bytes = 0;
    unsigned char *first = NULL;
    for (int n_writers = 1; n_writers <= mpi_size(); n_writers++) {
      const char *path = scratch_path(&scratch, "checkpoint");
      /* The one before is replaced. */
      assert_all(write_by(&scratch, path, &cases[i], n_writers) == FAVOR_OK);
      assert_all(holds(&scratch, path, &cases[i]));
      unsigned char *data = load_file(path, &bytes);
      if (n_writers == 1) {
        first = data;
        first_bytes = bytes;
      }
      /* Nothing in it tells how many ranks there were. */
      assert_all(bytes == first_bytes && bytes >= 0 && memcmp(data, first, (size_t)bytes) == 0);
      if (n_writers > 1) free(data);
    }
    free(first);
    assert_all(scratch_count(&scratch) == 1);
  }
  scratch_end(&scratch);
}

static uint64_t little_endian(const unsigned char *bytes, int n) {
  uint64_t word = 0;
  for (int i = 0; i < n; i++) word |= (uint64_t)bytes[i] << 8 * i;
  return word;
}

/* The file byte by byte, by doc/file-format.md. */
static void test_layout(void **state) {
  (void)state;
  const struct contents *c = &SMALL;
  struct scratch scratch;
  int64_t bytes;
  scratch_begin(&scratch);
  assert_all(write_by(&scratch, scratch_path(&scratch, "checkpoint"), c, mpi_size()) == FAVOR_OK);
  unsigned char *data = load_file(scratch_path(&scratch, "checkpoint"), &bytes);
  assert_all(bytes == 40 + 16 + 3 * (5 + 8));
  assert_all(memcmp(data,
                    "\x89"
                    "FVRC\r\n\x1a",
                    8) == 0);
  assert_all(little_endian(data + 8, 8) == XXH3_64bits(data + 16, 24 + 16));
  assert_all(little_endian(data + 16, 4) == 1 && little_endian(data + 20, 4) == 16);
  assert_all(little_endian(data + 24, 8) == 3 && little_endian(data + 32, 8) == 5);
  assert_all(memcmp(data + 40, c->text, 16) == 0);
  for (int64_t r = 0; r < 3; r++) {
    const unsigned char *record = data + 56 + r * 13;
    bool is_right = true;
    for (size_t i = 0; i < 5; i++) is_right &= record[i] == byte_of(c, r, i);
    assert_all(is_right);
    assert_all(little_endian(record + 5, 8) == XXH3_64bits_withSeed(record, 5, (uint64_t)r));
  }
  free(data);
  scratch_end(&scratch);
}

static void test_none(void **state) {
  (void)state;
  struct scratch scratch;
  struct checkpoint *checkpoint;
  scratch_begin(&scratch);
  assert_all(checkpoint_open(scratch.context, scratch_path(&scratch, "checkpoint"), &checkpoint) == FAVOR_OK);
  assert_all(checkpoint == NULL);
  checkpoint_close(&checkpoint);
  scratch_end(&scratch);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static void test_every_flipped_byte(void **state) {
  (void)state;
  struct scratch scratch;
  struct checkpoint *checkpoint;
  int64_t bytes;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  assert_all(write_by(&scratch, path, &SMALL, mpi_size()) == FAVOR_OK);
  unsigned char *data = load_file(path, &bytes);
  for (int64_t at = 0; at < bytes; at++) {
    data[at] ^= (unsigned char)(1 << at % 8);
    put_file(path, data, bytes);
    data[at] ^= (unsigned char)(1 << at % 8);
    if (at < 56) {
      /* A larger text is one that the file is too short for. */
      bool is_text_bytes = at >= 20 && at < 24;
      assert_no_checkpoint(&scratch, path,
                           at < 8          ? "is not a checkpoint"
                           : is_text_bytes ? "in its header"
                                           : "is damaged");
      continue;
    }
    assert_all(checkpoint_open(scratch.context, path, &checkpoint) == FAVOR_OK);
    assert_all(count_right(&scratch, checkpoint, &SMALL) == SMALL.n_records - 1);
    unsigned char record[5];
    enum favor_status status = checkpoint_read(checkpoint, (at - 56) / 13, record);
    assert_all(status == FAVOR_EDATA);
    checkpoint_close(&checkpoint);
    status = checkpoint_write(scratch.context, path, "", 0, 0, 0, 0, NULL); /* what comes next reports it */
    assert_refused(&scratch, status, FAVOR_EDATA, "is damaged at record");
    assert_refused(&scratch, status, FAVOR_EDATA, "; remove it to start afresh");
  }
  free(data);
  assert_all(scratch_count(&scratch) == 1);
  scratch_end(&scratch);
}

static void test_every_length(void **state) {
  (void)state;
  struct scratch scratch;
  int64_t bytes;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  assert_all(write_by(&scratch, path, &SMALL, mpi_size()) == FAVOR_OK);
  unsigned char *data = load_file(path, &bytes);
  for (int64_t length = 0; length < bytes; length++) {
    put_file(path, data, length);
    assert_no_checkpoint(&scratch, path, "is truncated");
  }
  put_file(path, data, bytes + 1);
  assert_no_checkpoint(&scratch, path, "is damaged: it has 96 bytes, and its header speaks of 95");
  put_file(path, data, bytes);
  assert_all(holds(&scratch, path, &SMALL));
  free(data);
  scratch_end(&scratch);
}

/* Cut after it was opened; and two records that have changed places, each with its checksum. */
static void test_damage_beyond_the_header(void **state) {
  (void)state;
  struct scratch scratch;
  struct checkpoint *checkpoint;
  int64_t bytes;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  assert_all(write_by(&scratch, path, &SMALL, 1) == FAVOR_OK);
  unsigned char *data = load_file(path, &bytes), record[13];
  assert_all(checkpoint_open(scratch.context, path, &checkpoint) == FAVOR_OK);
  assert_all(mpi_rank() != 0 || truncate(path, bytes - 1) == 0);
  assert_all(count_right(&scratch, checkpoint, &SMALL) == 2);
  checkpoint_close(&checkpoint);
  memcpy(record, data + 56, 13);
  memcpy(data + 56, data + 56 + 13, 13);
  memcpy(data + 56 + 13, record, 13);
  put_file(path, data, bytes);
  assert_all(checkpoint_open(scratch.context, path, &checkpoint) == FAVOR_OK);
  assert_all(count_right(&scratch, checkpoint, &SMALL) == 1);
  checkpoint_close(&checkpoint);
  free(data);
  scratch_end(&scratch);
}

/* A header with these numbers and a right checksum. */
static void make_header(unsigned char *data, uint32_t version, uint32_t text_bytes, uint64_t n_records,
                        uint64_t record_bytes, const char *text, size_t n_text) {
  memcpy(data,
         "\x89"
         "FVRC\r\n\x1a",
         8);
  memcpy(data + 16, &version, 4);
  memcpy(data + 20, &text_bytes, 4);
  memcpy(data + 24, &n_records, 8);
  memcpy(data + 32, &record_bytes, 8);
  memcpy(data + 40, text, n_text);
  uint64_t checksum = XXH3_64bits(data + 16, 24 + n_text);
  memcpy(data + 8, &checksum, 8);
}

static void test_foreign_files(void **state) {
  (void)state;
  const struct {
    uint32_t version, text_bytes;
    uint64_t n_records, record_bytes;
    const char *text, *words;
  } cases[] = {
      {2, 2, 0, 0, "{}", "of a newer favor"},
      {0, 2, 0, 0, "{}", "damaged in its header"},
      {1, 2, 1, 0, "{}", "is truncated: it has 42 bytes, and its header speaks of 50"},
      {1, 3, 0, 0, "{}", "is truncated"},
      {1, UINT32_MAX, 0, 0, "{}", "damaged in its header"},
      {1, CHECKPOINT_MAX_TEXT_BYTES + 1, 0, 0, "{}", "damaged in its header"},
      {1, 2, UINT64_MAX, 0, "{}", "damaged in its header"},
      {1, 2, 0, UINT64_MAX, "{}", "damaged in its header"},
      {1, 2, 0, INT64_MAX, "{}", "damaged in its header"},
      {1, 2, INT64_MAX, 0, "{}", "damaged in its header"},
      {1, 2, UINT64_C(1) << 32, UINT64_C(1) << 32, "{}", "damaged in its header"},
      {1, 2, 0, 0, "{\0", "damaged in its header"},
  };
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  for (size_t i = 0; i < LENGTH(cases); i++) {
    unsigned char data[42];
    make_header(data, cases[i].version, cases[i].text_bytes, cases[i].n_records, cases[i].record_bytes, cases[i].text,
                2);
    put_file(path, data, sizeof data);
    assert_no_checkpoint(&scratch, path, cases[i].words);
  }
  put_file(path, "\x89HDF\r\n\x1a\n", 8);
  assert_no_checkpoint(&scratch, path, "is not a checkpoint of favor");
  assert_all(mpi_rank() != 0 || mkdir(scratch_path(&scratch, "directory"), 0777) == 0);
  assert_no_checkpoint(&scratch, scratch_path(&scratch, "directory"), "is not a regular file");
  assert_all(mpi_rank() != 0 || mkfifo(scratch_path(&scratch, "fifo"), 0666) == 0);
  assert_no_checkpoint(&scratch, scratch_path(&scratch, "fifo"), "is not a regular file");
  scratch_end(&scratch);
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* The n-th of these calls fails on one rank, for every n and for the first rank, the middle one and the last. */
static void test_every_failing_call_while_writing(void **state) {
  (void)state;
  const enum call calls[] = {CALL_WRITE, CALL_FSYNC, CALL_RENAME};
  const int ranks[] = {0, mpi_size() / 2, mpi_size() - 1};
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  for (size_t i = 0; i < LENGTH(calls) * LENGTH(ranks); i++) {
    enum call call = calls[i / LENGTH(ranks)];
    bool is_here = mpi_rank() == ranks[i % LENGTH(ranks)];
    int n_failures = 0;
    for (int n = 0;; n++) {
      assert_all(write_by(&scratch, path, &SMALL, mpi_size()) == FAVOR_OK);
      n_before_failure[call] = is_here ? n : -1;
      enum favor_status status = write_by(&scratch, path, &OTHER, mpi_size());
      bool has_failed = n_before_failure[call] < 0;
      n_before_failure[call] = -1;
      MPI_Bcast(&has_failed, 1, MPI_C_BOOL, ranks[i % LENGTH(ranks)], MPI_COMM_WORLD);
      assert_all(scratch_count(&scratch) == 1);
      if (!has_failed) {
        assert_all(status == FAVOR_OK && holds(&scratch, path, &OTHER));
        break;
      }
      n_failures++;
      assert_refused(&scratch, status, FAVOR_EIO, "checkpoint.new failed on rank");
      /* Rank 0 flushes its records, all records, the directory: by then the new one has the name. */
      bool is_published = call == CALL_FSYNC && ranks[i % LENGTH(ranks)] == 0 && n == 2;
      assert_all(holds(&scratch, path, is_published ? &OTHER : &SMALL));
    }
    bool is_first = ranks[i % LENGTH(ranks)] == 0;
    assert_all(call == CALL_RENAME ? n_failures == is_first
                                   : n_failures >= (call == CALL_FSYNC ? (is_first ? 3 : 1) : is_first));
  }
  scratch_end(&scratch);
}

static void test_failing_reads(void **state) {
  (void)state;
  struct scratch scratch;
  struct checkpoint *checkpoint;
  unsigned char record[5];
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  assert_all(write_by(&scratch, path, &SMALL, 1) == FAVOR_OK);
  for (int rank = 0; rank<mpi_size(); rank += mpi_size()> 1 ? mpi_size() - 1 : 1) {
    n_before_failure[CALL_READ] = mpi_rank() == rank ? 0 : -1;
    enum favor_status status = checkpoint_open(scratch.context, path, &checkpoint);
    assert_refused(&scratch, status, FAVOR_EIO, "checkpoint failed on rank");
    assert_all(checkpoint == NULL);
  }
  for (int n = 0; n < 2; n++) {
    assert_all(checkpoint_open(scratch.context, path, &checkpoint) == FAVOR_OK);
    n_before_failure[CALL_READ] = n;
    assert_all(checkpoint_read(checkpoint, 2, record) == FAVOR_EIO);
    checkpoint_close(&checkpoint);
    enum favor_status status = checkpoint_open(scratch.context, path, &checkpoint);
    assert_refused(&scratch, status, FAVOR_EIO, "reading ");
  }
  assert_all(holds(&scratch, path, &SMALL));
  scratch_end(&scratch);
}

static void test_writes_that_are_refused(void **state) {
  (void)state;
  struct scratch scratch;
  struct rlimit old, small;
  scratch_begin(&scratch);
  enum favor_status status = write_by(&scratch, scratch_path(&scratch, "none/checkpoint"), &SMALL, 1);
  assert_refused(&scratch, status, FAVOR_EIO, "none/checkpoint.new failed on rank 0: No such file");
  const char *path = scratch_path(&scratch, "checkpoint");
  assert_all(write_by(&scratch, path, &SMALL, 1) == FAVOR_OK);
  char *text = malloc(CHECKPOINT_MAX_TEXT_BYTES + 2);
  memset(text, ' ', CHECKPOINT_MAX_TEXT_BYTES + 1);
  text[CHECKPOINT_MAX_TEXT_BYTES + 1] = '\0';
  status = write_by(&scratch, path, &(struct contents){text, 1, 1}, 1);
  assert_refused(&scratch, status, FAVOR_EUSAGE, "at most 16777216");
  assert_all(holds(&scratch, path, &SMALL));
  text[CHECKPOINT_MAX_TEXT_BYTES] = '\0';
  assert_all(write_by(&scratch, path, &(struct contents){text, 1, 1}, 1) == FAVOR_OK);
  assert_all(holds(&scratch, path, &(struct contents){text, 1, 1}));
  free(text);
  signal(SIGXFSZ, SIG_IGN);
  assert_all(getrlimit(RLIMIT_FSIZE, &old) == 0);
  small = old;
  small.rlim_cur = 1 << 16; /* no space for what is to come is noticed before anything is written */
  assert_all(mpi_rank() != 0 || setrlimit(RLIMIT_FSIZE, &small) == 0);
  n_before_failure[CALL_WRITE] = INT_MAX;
  status = write_by(&scratch, path, &(struct contents){"{}", 2, 1 << 16}, 1);
  assert_all(mpi_rank() != 0 || setrlimit(RLIMIT_FSIZE, &old) == 0);
  assert_all(n_before_failure[CALL_WRITE] == INT_MAX);
  n_before_failure[CALL_WRITE] = -1;
  assert_refused(&scratch, status, FAVOR_EIO, strerror(EFBIG));
  if (mpi_size() > 1) {
    int64_t n_records = 1 + (mpi_rank() == mpi_size() - 1);
    status = checkpoint_write(scratch.context, path, "{}", n_records, 0, 0, mpi_rank() == 0, NULL);
    assert_refused(&scratch, status, FAVOR_EUSAGE, "different checkpoints");
  }
  assert_all(scratch_count(&scratch) == 1);
  scratch_end(&scratch);
}

/* What a killed run left is replaced, and a link of that name is not followed. */
static void test_leftovers(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint"), *part = scratch_path(&scratch, "checkpoint.new");
  const char left[512] = "of a killed run, and longer than what is to come, so that its end would show";
  put_file(part, left, sizeof left);
  assert_all(write_by(&scratch, path, &OTHER, mpi_size()) == FAVOR_OK && holds(&scratch, path, &OTHER));
  assert_all(scratch_count(&scratch) == 1);
  put_file(scratch_path(&scratch, "precious"), "precious", 8);
  assert_all(mpi_rank() != 0 || symlink("precious", part) == 0);
  assert_all(write_by(&scratch, path, &SMALL, mpi_size()) == FAVOR_OK && holds(&scratch, path, &SMALL));
  assert_all(file_bytes(scratch_path(&scratch, "precious")) == 8 && scratch_count(&scratch) == 2);
  scratch_end(&scratch);
}

/* A failure at each agreement, on the first rank, the middle one and the last. */
static void test_faults(void **state) {
  (void)state;
  const int ranks[] = {0, mpi_size() / 2, mpi_size() - 1};
  struct scratch scratch;
  struct checkpoint *checkpoint;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "checkpoint");
  for (int i = 0; i < 3; i++) {
    assert_all(write_by(&scratch, path, &SMALL, mpi_size()) == FAVOR_OK);
    for (int skip = 0; skip < 4; skip++) {
      dist_inject(scratch.context, DIST_SITE_CHECKPOINT, ranks[i], skip);
      enum favor_status status = write_by(&scratch, path, &OTHER, mpi_size());
      assert_refused(&scratch, status, FAVOR_EINTERNAL, "injected");
      assert_all(scratch_count(&scratch) == 1);
      dist_inject(scratch.context, DIST_SITE_NONE, 0, 0);
      assert_all(holds(&scratch, path, skip < 3 ? &SMALL : &OTHER)); /* the fourth comes after the rename */
    }
    for (int skip = 0; skip < 2; skip++) {
      dist_inject(scratch.context, DIST_SITE_CHECKPOINT, ranks[i], skip);
      enum favor_status status = checkpoint_open(scratch.context, path, &checkpoint);
      assert_refused(&scratch, status, FAVOR_EINTERNAL, "injected");
      assert_all(checkpoint == NULL);
      dist_inject(scratch.context, DIST_SITE_NONE, 0, 0);
    }
  }
  scratch_end(&scratch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_round_trips),   mpi_unit_test(test_layout),
      mpi_unit_test(test_none),          mpi_unit_test(test_every_flipped_byte),
      mpi_unit_test(test_every_length),  mpi_unit_test(test_damage_beyond_the_header),
      mpi_unit_test(test_foreign_files), mpi_unit_test(test_every_failing_call_while_writing),
      mpi_unit_test(test_failing_reads), mpi_unit_test(test_writes_that_are_refused),
      mpi_unit_test(test_leftovers),     mpi_unit_test(test_faults),
  };
  return mpi_cmocka_main(&argc, &argv, "checkpoint", tests, LENGTH(tests));
}

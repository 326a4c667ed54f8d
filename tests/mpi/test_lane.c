/* The I/O thread: what it reads and writes is what the caller's own calls would, in the order asked for; its first
 * error comes once and stops the rest; and no signal is ever delivered to it. */
#include "io_files.h"

#include <pthread.h>
#include <signal.h>

#include "dist/comm.h"

static const struct favor_tensor_shape shape = {3, 1, 5, 4001, 24, FAVOR_FLOAT16, FAVOR_TOKENS_FIRST, true};
enum { BLOCK = 23 }; /* tokens; a rank has more blocks than the queue has room */

struct fixture {
  struct scratch scratch;
  struct favor_output_file *file;
  struct favor_lane *lane;
  const char *path;
};

static void fixture_begin(struct fixture *fixture) {
  const struct favor_output_tensor tensor = {"out", shape};
  scratch_begin(&fixture->scratch);
  fixture->path = scratch_path(&fixture->scratch, "out.h5");
  const struct favor_output_spec spec = {
      .path = fixture->path, .is_overwrite = true, .tensors = &tensor, .n_tensors = 1};
  assert_all(favor_output_create(fixture->scratch.context, &spec, &fixture->file) == FAVOR_OK);
  assert_all(favor_lane_create(fixture->scratch.context, &fixture->lane) == FAVOR_OK && fixture->lane);
}

static void fixture_end(struct fixture *fixture) {
  favor_lane_destroy(&fixture->lane);
  assert_all(fixture->lane == NULL);
  favor_output_abandon(&fixture->file);
  scratch_end(&fixture->scratch);
}

/* Writes this rank's tokens block by block from arrays that live until the end; returns the last ticket. */
static int64_t write_blocks(struct fixture *fixture, void **blocks, int64_t *n_blocks) {
  const int64_t end = part_end(shape.tokens);
  int64_t ticket = -1;
  *n_blocks = 0;
  for (int64_t begin = part_begin(shape.tokens); begin < end; begin += BLOCK) {
    const int64_t stop = begin + BLOCK < end ? begin + BLOCK : end;
    void *data = slab_values(&shape, 0, shape.heads, begin, stop, FAVOR_PRECISION_F32);
    ticket = favor_lane_write(fixture->lane, fixture->file, 0, 0, shape.heads, begin, stop, FAVOR_PRECISION_F32, data);
    if (ticket != *n_blocks) return -2;
    blocks[(*n_blocks)++] = data;
  }
  return ticket;
}

static void free_blocks(void **blocks, int64_t n) {
  for (int64_t i = 0; i < n; i++) free(blocks[i]);
}

static void test_writes_then_reads(void **state) {
  (void)state;
  struct fixture fixture;
  struct favor_lane_times times;
  void *blocks[256];
  int64_t n_blocks;
  fixture_begin(&fixture);
  const int64_t ticket = write_blocks(&fixture, blocks, &n_blocks);
  assert_all(ticket == n_blocks - 1 && favor_lane_wait(fixture.lane, ticket / 2) == FAVOR_OK);
  assert_all(favor_lane_wait(fixture.lane, -1) == FAVOR_OK && !dist_has_failed(fixture.scratch.context));
  free_blocks(blocks, n_blocks);
  favor_lane_times(fixture.lane, &times);
  const int64_t part_bytes =
      (part_end(shape.tokens) - part_begin(shape.tokens)) * shape.heads * shape.width * (int64_t)sizeof(uint16_t);
  assert_all(times.bytes_written == part_bytes && times.bytes_read == 0);
  assert_all(times.write_s > 0 && times.read_s == 0 && times.cpu_s > 0 && times.wait_s >= 0);
  assert_all(favor_output_finish(&fixture.file) == FAVOR_OK);
  assert_all(mpi_rank() != 0 || holds_values(fixture.path, "out", &shape));

  struct favor_tensor *tensor;
  assert_all(favor_tensor_open(fixture.scratch.context, fixture.path, "out", shape.layout, &tensor) == FAVOR_OK);
  const int64_t tokens = 700, n = shape.heads * tokens * shape.width;
  float *found[2] = {calloc((size_t)n, sizeof(float)), calloc((size_t)n, sizeof(float))};
  for (int i = 0; i < 2; i++)
    favor_lane_read(fixture.lane, tensor, 0, shape.heads, i * tokens, (i + 1) * tokens, FAVOR_PRECISION_F32, found[i]);
  assert_all(favor_lane_wait(fixture.lane, n_blocks + 1) == FAVOR_OK);
  for (int i = 0; i < 2; i++) {
    float *expected = slab_values(&shape, 0, shape.heads, i * tokens, (i + 1) * tokens, FAVOR_PRECISION_F32);
    assert_all(memcmp(expected, found[i], (size_t)n * sizeof(float)) == 0);
    free(expected);
    free(found[i]);
  }
  favor_lane_times(fixture.lane, &times);
  assert_all(times.bytes_read == 2 * n * (int64_t)sizeof(uint16_t) && times.read_s > 0);
  favor_tensor_close(&tensor);
  fixture_end(&fixture);
}

/* The same array goes out and is read back by jobs in one queue: each sees what those before it did. */
static void test_order(void **state) {
  (void)state;
  struct fixture fixture;
  struct favor_tensor *tensor;
  fixture_begin(&fixture);
  assert_all(favor_tensor_open(fixture.scratch.context, favor_output_part(fixture.file), "out", shape.layout,
                               &tensor) == FAVOR_OK);
  enum { N_ROUNDS = 100 };
  static float rounds[N_ROUNDS][24], found[N_ROUNDS][24];
  const int64_t token = part_begin(shape.tokens);
  bool is_right = true;
  for (int i = 0; i < N_ROUNDS; i++) {
    for (int c = 0; c < 24; c++) rounds[i][c] = (float)i;
    favor_lane_write(fixture.lane, fixture.file, 0, 2, 3, token, token + 1, FAVOR_PRECISION_F32, rounds[i]);
    favor_lane_read(fixture.lane, tensor, 2, 3, token, token + 1, FAVOR_PRECISION_F32, found[i]);
  }
  assert_all(favor_lane_wait(fixture.lane, 2 * N_ROUNDS - 1) == FAVOR_OK);
  for (int i = 0; i < N_ROUNDS; i++) is_right &= memcmp(rounds[i], found[i], sizeof found[i]) == 0;
  assert_all(is_right);
  favor_tensor_close(&tensor);
  fixture_end(&fixture);
}

/* The second job fails; the third is passed over, the array it would fill keeps its contents. */
static void test_first_error(void **state) {
  (void)state;
  struct fixture fixture;
  struct favor_tensor *tensor;
  float row[24] = {0}, untouched[24];
  fixture_begin(&fixture);
  struct favor_context *context = fixture.scratch.context;
  assert_all(favor_tensor_open(context, favor_output_part(fixture.file), "out", shape.layout, &tensor) == FAVOR_OK);
  memset(untouched, 0x5a, sizeof untouched);
  row[7] = 1e6f;
  favor_lane_read(fixture.lane, tensor, 0, 0, 0, 0, FAVOR_PRECISION_F32, NULL);
  favor_lane_write(fixture.lane, fixture.file, 0, 1, 2, 9, 10, FAVOR_PRECISION_F32, row);
  favor_lane_read(fixture.lane, tensor, 0, 1, 0, 1, FAVOR_PRECISION_F32, untouched);
  favor_lane_write(fixture.lane, fixture.file, 3, 0, 1, 0, 1, FAVOR_PRECISION_F32, row);
  assert_all(favor_lane_wait(fixture.lane, -1) == FAVOR_EDATA && dist_has_failed(context));
  assert_all(strstr(context->pending.text, "a value of out at head 1, token 9 does not fit into float16") != NULL);
  assert_all(((unsigned char *)untouched)[0] == 0x5a);
  favor_context_forget(context);
  assert_all(favor_lane_wait(fixture.lane, -1) == FAVOR_EDATA && !dist_has_failed(context));
  favor_tensor_close(&tensor);
  fixture_end(&fixture);
}

/* The signals that the lane's thread blocks, as the kernel tells; 0 where there is no such thread. */
static uint64_t blocked_by_lane(void) {
  uint64_t blocked = 0;
  DIR *directory = opendir("/proc/self/task");
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    char path[300], line[256];
    bool is_lane = false;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
      is_lane |= strcmp(line, "Name:\tfavor-io\n") == 0;
      if (is_lane && strncmp(line, "SigBlk:", 7) == 0) blocked = strtoull(line + 7, NULL, 16);
    }
    if (file) fclose(file);
  }
  if (directory) closedir(directory);
  return blocked;
}

static void test_signals(void **state) {
  (void)state;
  struct fixture fixture;
  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  fixture_begin(&fixture);
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  assert_all(favor_lane_wait(fixture.lane, favor_lane_write(fixture.lane, fixture.file, 0, 0, 0, 0, 0,
                                                            FAVOR_PRECISION_F32, NULL)) == FAVOR_OK);
  const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGHUP};
  const uint64_t blocked = blocked_by_lane();
  bool is_blocked = true;
  for (size_t i = 0; i < LENGTH(signals); i++) {
    is_blocked &= (blocked >> (signals[i] - 1) & 1) != 0;
    is_blocked &= sigismember(&before, signals[i]) == sigismember(&after, signals[i]);
  }
  assert_all(is_blocked);
  fixture_end(&fixture);
}

/* A lane that nobody waits for does its jobs before it ends. */
static void test_destroy_drains(void **state) {
  (void)state;
  struct fixture fixture;
  void *blocks[256];
  int64_t n_blocks;
  fixture_begin(&fixture);
  const int64_t ticket = write_blocks(&fixture, blocks, &n_blocks);
  favor_lane_destroy(&fixture.lane);
  favor_lane_destroy(&fixture.lane); /* accepts NULL */
  free_blocks(blocks, n_blocks);
  assert_all(ticket == n_blocks - 1 && favor_output_finish(&fixture.file) == FAVOR_OK);
  assert_all(mpi_rank() != 0 || holds_values(fixture.path, "out", &shape));
  fixture_end(&fixture);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_writes_then_reads), mpi_unit_test(test_order),          mpi_unit_test(test_first_error),
      mpi_unit_test(test_signals),           mpi_unit_test(test_destroy_drains),
  };
  return mpi_cmocka_main(&argc, &argv, "lane", tests, LENGTH(tests));
}

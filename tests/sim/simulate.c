/* A run of the plan on simulated ranks: src/dist as it is, on SimGrid's MPI; what a rank computes is time that passes.
 *
 * Every rank absorbs its tokens, batch of heads by batch, and begins the scan (causal) or the reduction (bidirectional)
 * of a batch's states when it has them; then it ends these in turn and emits. Between tiles it looks at what is in
 * flight, as the plan does. Prints a line of CSV, or, as a check, compares every rank's states with the merge of one
 * after another.
 *
 *   simulate causal|bidirectional SCAN NAME=VALUE...      (tests/sim/run gives all values)
 *
 * SCAN: those of --scan; linear, which is exscan where MPI's own cannot be called, on all ranks but the last; and
 * allgather, what others do: when all heads are absorbed every rank gets all states, and merges those it needs. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/binned.h"
#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "dist/agree.h"
#include "dist/count.h"
#include "dist/group.h"
#include "hooks.h"

/* What is given as NAME=VALUE. */
struct given {
  double tokens, heads, batch, tile; /* of a rank; heads of a batch; tokens of a tile */
  double rows, width;                /* of the state of a head */
  double absorb_ns, emit_ns;         /* a token and head */
  double poll_ns;                    /* a look at an operation in flight */
  double merge_s_per_byte;
  double is_check;
};

struct run {
  struct given given;
  bool is_causal, is_linear, is_gathered;
  const char *name; /* of the scan */
  enum favor_scan scan;
  struct favor_context *context;
  struct dist_traffic traffic;
  struct dist_group *group;
  int rank, size; /* of the shards of tokens; rank -1: none */
  int n_batches;
  int64_t batch_rows;
  size_t batch_bytes;
  char *partial, *result; /* [n_batches] states of batch_rows rows */
  char *gathered;         /* [size][n_batches] */
  int64_t bytes_sent;
};

static _Noreturn void leave(const char *text, const char *word) {
  fprintf(stderr, "simulate: error: %s '%s'\n", text, word);
  MPI_Abort(MPI_COMM_WORLD, 64);
  abort();
}

static void need(bool is_good, const struct run *run) {
  if (!is_good) leave("a step of src/dist failed:", run->context->pending.text);
}

/* ---- what to run ------------------------------------------------------------------------------------------------- */

static void read_scan(struct run *run, const char *name) {
  static const struct {
    const char *name;
    enum favor_scan scan;
  } scans[] = {{"auto", FAVOR_SCAN_AUTO},         {"exscan", FAVOR_SCAN_EXSCAN}, {"linear", FAVOR_SCAN_EXSCAN},
               {"doubling", FAVOR_SCAN_DOUBLING}, {"chain", FAVOR_SCAN_CHAIN},   {"nodes", FAVOR_SCAN_NODES},
               {"allgather", FAVOR_SCAN_AUTO}};
  run->name = name;
  run->is_linear = strcmp(name, "linear") == 0;
  run->is_gathered = strcmp(name, "allgather") == 0;
  for (size_t i = 0; i < sizeof scans / sizeof scans[0]; i++) {
    if (strcmp(name, scans[i].name) != 0) continue;
    run->scan = scans[i].scan;
    return;
  }
  leave("no such scan:", name);
}

static void read_value(struct given *given, const char *word) {
  const struct {
    const char *name;
    double *value;
  } values[] = {{"tokens", &given->tokens},
                {"heads", &given->heads},
                {"batch", &given->batch},
                {"tile", &given->tile},
                {"rows", &given->rows},
                {"width", &given->width},
                {"absorb_ns", &given->absorb_ns},
                {"emit_ns", &given->emit_ns},
                {"poll_ns", &given->poll_ns},
                {"check", &given->is_check},
                {"merge_s_per_byte", &given->merge_s_per_byte}};
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
    const size_t length = strlen(values[i].name);
    if (strncmp(word, values[i].name, length) != 0 || word[length] != '=') continue;
    char *end = NULL;
    *values[i].value = strtod(word + length + 1, &end);
    if (end != word + length + 1 && *end == '\0') return;
  }
  leave("not a value:", word);
}

static void read_words(struct run *run, int n_words, char **words) {
  if (n_words < 3) leave("too few words", "");
  run->is_causal = strcmp(words[1], "causal") == 0;
  if (!run->is_causal && strcmp(words[1], "bidirectional") != 0) leave("neither causal nor bidirectional:", words[1]);
  read_scan(run, words[2]);
  for (int i = 3; i < n_words; i++) read_value(&run->given, words[i]);
}

/* ---- what it works on -------------------------------------------------------------------------------------------- */

static char *states(const struct run *run, int64_t n) {
  char *memory = memory_zeroed((size_t)n, run->batch_bytes);
  if (!memory) leave("no memory for", "states");
  if (!sim_hooks.is_timed) binned_clear(memory, n * run->batch_rows, (int64_t)run->given.width, 2);
  return memory;
}

static void prepare(struct run *run) {
  const struct given *given = &run->given;
  const size_t row_bytes = binned_row_bytes((int64_t)given->width, 2);
  sim_hooks = (struct sim_hooks){.merge_s_per_row = given->merge_s_per_byte * (double)row_bytes,
                                 .poll_s = given->poll_ns * 1e-9,
                                 .is_timed = !given->is_check};
  if (favor_context_create(MPI_COMM_WORLD, &run->context) != FAVOR_OK) leave("no", "context");
  run->size = run->context->size - run->is_linear;
  run->rank = run->context->rank < run->size ? run->context->rank : -1;
  run->n_batches = (int)(given->heads / given->batch);
  run->batch_rows = (int64_t)(given->rows * given->batch);
  run->batch_bytes = row_bytes * (size_t)run->batch_rows;
  const struct dist_group_shape shape = {run->n_batches, run->n_batches, run->batch_rows, row_bytes};
  need(dist_group_create(run->context, 0, &shape, run->scan, &run->traffic, &run->group) == FAVOR_OK, run);
  dist_group_set(run->group, 0, run->rank < 0 ? 0 : run->size);
  run->partial = states(run, run->n_batches);
  run->result = states(run, run->n_batches);
  if (run->is_gathered) run->gathered = states(run, (int64_t)run->size * run->n_batches);
}

static void release(struct run *run) {
  free(run->partial);
  free(run->result);
  free(run->gathered);
  dist_group_destroy(&run->group);
  favor_context_destroy(&run->context);
}

static char *batch_of(const struct run *run, char *array, int64_t batch) {
  return array + run->batch_bytes * (size_t)batch;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

/* A batch of heads goes by: tile after tile while something is in flight, at once where nothing is to be looked at. */
static void compute(struct run *run, double price_ns) {
  bool is_done = run->traffic.n_in_flight == 0;
  for (double left = run->given.tokens * run->given.batch; left > 0;) {
    const double n = is_done || left < run->given.tile ? left : run->given.tile;
    sim_pass(n * price_ns * 1e-9 + sim_hooks.poll_s * run->traffic.n_in_flight);
    need(dist_group_progress(run->group, &is_done) == FAVOR_OK, run);
    left -= n;
  }
}

static void begin(struct run *run, int batch) {
  char *partial = batch_of(run, run->partial, batch), *result = batch_of(run, run->result, batch);
  enum favor_status status = run->is_causal ? dist_scan_begin(run->group, batch, run->batch_rows, partial, result)
                                            : dist_reduce_begin(run->group, batch, run->batch_rows, partial);
  need(status == FAVOR_OK, run);
}

/* LASP-2 (Sun et al., 2025): one collective call for the states of all heads, here one that blocks. */
static void gather(struct run *run) {
  const double begin_s = clock_now_s();
  const int bytes = dist_count((int64_t)run->batch_bytes * run->n_batches);
  MPI_Allgather(run->partial, bytes, MPI_BYTE, run->gathered, bytes, MPI_BYTE, MPI_COMM_WORLD);
  run->traffic.blocked_s = run->traffic.in_flight_s = clock_now_s() - begin_s;
  run->bytes_sent += (int64_t)bytes * (run->size - 1);
  for (int other = 0; other < (run->is_causal ? run->rank : run->size); other++) {
    char *from = batch_of(run, run->gathered, (int64_t)other * run->n_batches);
    binned_merge(from, run->result, run->n_batches * run->batch_rows);
  }
}

static void execute(struct run *run) {
  for (int batch = 0; batch < run->n_batches; batch++) {
    compute(run, run->given.absorb_ns);
    if (!run->is_gathered) begin(run, batch);
  }
  if (run->is_gathered) gather(run);
  for (int batch = 0; batch < run->n_batches; batch++) {
    need(dist_group_end(run->group, batch) == FAVOR_OK, run);
    compute(run, run->given.emit_ns);
  }
  run->bytes_sent += dist_group_bytes_sent(run->group);
}

/* ---- what it says ------------------------------------------------------------------------------------------------ */

static void time_run(struct run *run) {
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin_s = clock_now_s();
  if (run->rank >= 0) execute(run);
  const double in_flight_s = run->traffic.in_flight_s, blocked_s = run->traffic.blocked_s;
  double worst[] = {clock_now_s() - begin_s, blocked_s, in_flight_s > 0 ? blocked_s / in_flight_s : 0,
                    (double)run->bytes_sent};
  double sum[] = {in_flight_s, blocked_s};
  need(dist_max_double(run->context, worst, 4) == FAVOR_OK && dist_sum_double(run->context, sum, 2) == FAVOR_OK, run);
  if (run->rank != 0) return;
  printf("%s,%s,%d,%.0f,%.6f,%.6f,%.4f,%.4f,%.0f,%zu\n", run->is_causal ? "causal" : "bidirectional", run->name,
         run->size, run->given.tokens, worst[0], worst[1], sum[0] > 0 ? fdim(1, sum[1] / sum[0]) : 1, fdim(1, worst[2]),
         worst[3], run->batch_bytes * (size_t)run->n_batches);
}

static void check_run(struct run *run) {
  const struct check_shape shape = {run->size, run->n_batches, run->batch_rows, (int64_t)run->given.width};
  double n_wrong = 0;
  if (run->context->rank == 0) check_prepare(&shape);
  MPI_Barrier(MPI_COMM_WORLD);
  for (int batch = 0; run->rank >= 0 && batch < run->n_batches; batch++) {
    check_fill(&shape, run->rank, batch, batch_of(run, run->partial, batch));
  }
  if (run->rank >= 0) execute(run);
  char *found = run->is_causal || run->is_gathered ? run->result : run->partial;
  for (int batch = 0; run->rank >= 0 && batch < run->n_batches; batch++) {
    const int n_merged = run->is_causal ? run->rank : run->size;
    n_wrong += memcmp(batch_of(run, found, batch), check_merged(n_merged, batch), run->batch_bytes) != 0;
  }
  need(dist_sum_double(run->context, &n_wrong, 1) == FAVOR_OK, run);
  if (run->context->rank == 0) check_release();
  if (n_wrong > 0) leave("wrong states by", run->name);
}

int main(int argc, char **argv) {
  struct run run = {0};
  MPI_Init(&argc, &argv);
  read_words(&run, argc, argv);
  prepare(&run);
  (run.given.is_check ? check_run : time_run)(&run);
  release(&run);
  MPI_Finalize();
  return 0;
}

/* The same bits for every number of ranks, grid, scan, thread count, block size and layout; outputs and exported
 * states. The anchor is this rank alone: each rank runs the whole problem on MPI_COMM_SELF and holds its shard against
 * it. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

/* A problem with its tensors and the output of one rank. */
struct anchored {
  struct favor_problem problem;
  struct case_tensors tensors;
  void *out;
};

static void anchored_create(const struct favor_problem *problem, uint64_t seed, double spread, struct anchored *a) {
  a->problem = *problem;
  a->problem.threads = 1;
  case_tensors_create(problem, seed, spread, &a->tensors);
  a->out = malloc(run_out_bytes(problem) + 1);
}

static void anchored_run(const struct run_contexts *contexts, struct anchored *a) {
  enum favor_status status = run_problem(contexts->self, &a->problem, &a->tensors, RUN_EXECUTE, a->out);
  if (status != FAVOR_OK) run_print("alone: %s\n", favor_context_message(contexts->self));
  assert_all(status == FAVOR_OK);
}

static void anchored_destroy(struct anchored *a) {
  case_tensors_destroy(&a->tensors);
  free(a->out);
}

/* Whether the shard's rows of the two whole tensors have the same bytes. */
static bool shard_is_same(const struct favor_problem *problem, const struct favor_shard *shard, const void *x,
                          const void *y) {
  size_t row_bytes = run_element_bytes(problem) * (size_t)problem->value_width;
  size_t bytes = row_bytes * (size_t)(shard->token_end - shard->token_begin);
  for (int64_t h = shard->head_begin; h < shard->head_end; h++) {
    size_t at = row_bytes * (size_t)(h * problem->tokens + shard->token_begin);
    if (memcmp((const char *)x + at, (const char *)y + at, bytes) != 0) return false;
  }
  return true;
}

/* Whether the ranks' shards hold every row of the output exactly once. Collective. */
static bool shards_are_a_partition(const struct favor_problem *problem, const struct favor_shard *shard) {
  int64_t heads = problem->batch * problem->heads, n_rows = heads * problem->tokens, is_once = 1;
  int32_t *owners = calloc((size_t)n_rows + 1, sizeof *owners);
  for (int64_t h = shard->head_begin; h < shard->head_end; h++)
    for (int64_t i = shard->token_begin; i < shard->token_end; i++) owners[h * problem->tokens + i]++;
  MPI_Allreduce(MPI_IN_PLACE, owners, (int)n_rows, MPI_INT32_T, MPI_SUM, MPI_COMM_WORLD);
  for (int64_t row = 0; row < n_rows; row++) is_once = is_once && owners[row] == 1;
  free(owners);
  return is_once;
}

/* ---- exported states --------------------------------------------------------------------------------------------- */

/* The problem and tensors up to a token: segments are cut there too. Shares nothing with the whole. */
static void truncate_problem(const struct anchored *whole, int64_t tokens, struct favor_problem *problem,
                             int64_t **segments, struct case_tensors *t) {
  *problem = whole->problem;
  problem->tokens = tokens;
  *segments = NULL;
  if (whole->problem.segments != NULL) {
    int64_t n = 0;
    *segments = calloc((size_t)whole->problem.n_segments + 1, sizeof **segments);
    while (n < whole->problem.n_segments && whole->problem.segments[n + 1] < tokens) {
      (*segments)[n + 1] = whole->problem.segments[n + 1];
      n++;
    }
    (*segments)[n + 1] = tokens;
    problem->segments = *segments;
    problem->n_segments = n + 1;
  }
  case_tensors_slice(&whole->tensors, 0, tokens, t);
}

/* Local. Whether the states that `plan` exports are those which one rank has at the end of the first `tokens` tokens;
 * with none, those of no key: what one rank has before its first token. */
static bool states_are_those_at(const struct run_contexts *contexts, const struct anchored *whole,
                                const struct favor_plan *plan, enum favor_state_kind kind, int64_t tokens) {
  struct favor_problem problem;
  struct case_tensors t;
  int64_t *segments;
  bool is_empty = tokens == 0, is_same = true;
  truncate_problem(whole, is_empty ? 1 : tokens, &problem, &segments, &t);
  struct favor_plan *alone = NULL;
  void *out = malloc(run_out_bytes(&problem));
  is_same = favor_plan_create(contexts->self, &problem, &alone) == FAVOR_OK &&
            run_plan(alone, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK;
  if (is_same) {
    struct favor_shard shard;
    favor_plan_shard(plan, &shard);
    size_t bytes = favor_plan_export_bytes(plan);
    char *got = calloc(bytes, 1), *expected = calloc(bytes, 1);
    is_same = favor_plan_export_bytes(alone) == bytes;
    for (int64_t h = shard.kv_head_begin; h < shard.kv_head_end && is_same; h++)
      is_same =
          favor_plan_export_state(plan, kind, h, got) == FAVOR_OK &&
          favor_plan_export_state(alone, is_empty ? FAVOR_STATE_PREFIX : FAVOR_STATE_FINAL, h, expected) == FAVOR_OK &&
          memcmp(got, expected, bytes) == 0;
    free(got);
    free(expected);
  }
  favor_plan_destroy(&alone);
  free(out);
  free(segments);
  case_tensors_destroy(&t);
  return is_same;
}

static int64_t segment_begin_of(const struct favor_problem *problem, int64_t token) {
  int64_t begin = 0;
  for (int64_t s = 0; problem->segments != NULL && s < problem->n_segments; s++)
    if (problem->segments[s] <= token) begin = problem->segments[s];
  return begin;
}

static int64_t segment_end_of(const struct favor_problem *problem, int64_t token) {
  for (int64_t s = 0; problem->segments != NULL && s < problem->n_segments; s++)
    if (problem->segments[s + 1] > token) return problem->segments[s + 1];
  return problem->tokens;
}

/* Local: both states of this rank's shard against the runs of one rank that end where they stand. */
static bool states_are_same(const struct run_contexts *contexts, const struct anchored *whole,
                            const struct favor_plan *plan) {
  struct favor_shard shard;
  favor_plan_shard(plan, &shard);
  int64_t begin = shard.token_begin, end = shard.token_end;
  if (begin == end || shard.kv_head_begin == shard.kv_head_end) return true;
  const struct favor_problem *problem = &whole->problem;
  if (!problem->is_causal)
    return states_are_those_at(contexts, whole, plan, FAVOR_STATE_FINAL, segment_end_of(problem, end - 1));
  int64_t before = segment_begin_of(problem, begin) == begin ? 0 : begin;
  return states_are_those_at(contexts, whole, plan, FAVOR_STATE_PREFIX, before) &&
         states_are_those_at(contexts, whole, plan, FAVOR_STATE_FINAL, end);
}

/* ---- every way to run one problem -------------------------------------------------------------------------------- */

/* One way: collective. */
static void run_one_way(const struct run_contexts *contexts, const struct anchored *a,
                        const struct favor_problem *given, enum run_mode mode, bool has_states) {
  struct favor_plan *plan = NULL;
  struct favor_problem problem = *given, *way = &problem;
  if (!has_states) run_set_mode(&problem, mode); /* those of a streamed run are test_resume's */
  void *out = malloc(run_out_bytes(way) + 1);
  enum favor_status status = favor_plan_create(contexts->world, way, &plan);
  if (status == FAVOR_OK) status = run_plan(plan, way, &a->tensors, mode, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(status == FAVOR_OK);
  struct favor_shard shard;
  favor_plan_shard(plan, &shard);
  if (way->is_streamed) run_gather(MPI_COMM_WORLD, out, run_out_bytes(way));
  bool is_same = shard_is_same(way, &shard, out, a->out);
  bool is_partition = way->is_streamed || shards_are_a_partition(way, &shard);
  bool has_same_states = !has_states || states_are_same(contexts, a, plan);
  if (!is_same || !is_partition || !has_same_states)
    print_error("rank %d: %s, grid %lldx%lld, scan %d, threads %d, block %lld, mode %d: tokens %lld to %lld\n",
                mpi_rank(),
                is_same ? is_partition ? "states differ" : "shards overlap or leave gaps" : "outputs differ",
                (long long)way->grid_heads, (long long)way->grid_tokens, (int)way->scan, way->threads,
                (long long)way->block_tokens, (int)mode, (long long)shard.token_begin, (long long)shard.token_end);
  favor_plan_destroy(&plan);
  free(out);
  assert_all(is_same);
  assert_all(is_partition);
  assert_all(has_same_states);
}

/* Every grid that the ranks can form, more rows than heads too; along the way scans, threads, blocks and modes take
 * turns, so that each meets most of the others. */
static void run_every_grid(const struct run_contexts *contexts, const struct anchored *a, int64_t run_tokens) {
  struct favor_problem way = a->problem;
  const int64_t blocks[] = {0, run_tokens, 3 * run_tokens};
  int64_t turn = 0;
  for (int64_t grid_heads = 1; grid_heads <= mpi_size(); grid_heads++)
    for (int64_t grid_tokens = 1; grid_heads * grid_tokens <= mpi_size(); grid_tokens++, turn++) {
      way.grid_heads = grid_heads;
      way.grid_tokens = grid_tokens;
      way.threads = 1 + (int)(turn % 3);
      way.scan = (enum favor_scan)(turn % (FAVOR_SCAN_NODES + 1));
      way.block_tokens = blocks[turn % 3];
      run_one_way(contexts, a, &way, turn % 5 < 2 ? RUN_BLOCKS : RUN_EXECUTE, false);
    }
}

/* Every scan on the longest row of ranks, with the states. */
static void run_every_scan(const struct run_contexts *contexts, const struct anchored *a, int64_t run_tokens) {
  struct favor_problem way = a->problem;
  way.grid_heads = 1;
  way.grid_tokens = mpi_size();
  for (int scan = FAVOR_SCAN_EXSCAN; scan <= FAVOR_SCAN_NODES; scan++) {
    way.scan = (enum favor_scan)scan;
    way.threads = 1 + scan % 3;
    way.block_tokens = scan % 3 * run_tokens;
    run_one_way(contexts, a, &way, scan % 2 == 0 ? RUN_BLOCKS : RUN_EXECUTE, true);
  }
}

static struct favor_problem problem_of(bool is_causal, enum favor_precision precision) {
  struct favor_problem problem = favor_problem_default();
  problem.heads = 2;
  problem.key_width = 16;
  problem.value_width = 9;
  problem.features = 33;
  problem.seed = 20;
  problem.is_causal = is_causal;
  problem.precision = precision;
  return problem;
}

/* Both modes in all precisions of this machine, kernels taking turns from number `first_kernel` on; and both modes of
 * the hyperbolic map with that kernel, one in each precision, or both in bf16. */
static void for_each_kind(void (*body)(const struct run_contexts *contexts, struct favor_problem *problem),
                          uint64_t first_kernel) {
  static const struct {
    enum favor_precision precision;
    enum favor_map map;
  } kinds[] = {{FAVOR_PRECISION_F32, FAVOR_MAP_POSITIVE},    {FAVOR_PRECISION_F32, FAVOR_MAP_POSITIVE},
               {FAVOR_PRECISION_F64, FAVOR_MAP_POSITIVE},    {FAVOR_PRECISION_F64, FAVOR_MAP_POSITIVE},
               {FAVOR_PRECISION_F64, FAVOR_MAP_HYPERBOLIC},  {FAVOR_PRECISION_F32, FAVOR_MAP_HYPERBOLIC},
               {FAVOR_PRECISION_BF16, FAVOR_MAP_POSITIVE},   {FAVOR_PRECISION_BF16, FAVOR_MAP_POSITIVE},
               {FAVOR_PRECISION_BF16, FAVOR_MAP_HYPERBOLIC}, {FAVOR_PRECISION_BF16, FAVOR_MAP_HYPERBOLIC}};
  struct run_contexts contexts = run_contexts_open();
  for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
    if (case_count_kernels(kinds[kind].precision) == 0) continue;
    struct favor_problem problem = problem_of(kind % 2, kinds[kind].precision);
    problem.map = kinds[kind].map;
    problem.kernel = case_kernel(first_kernel + (kind < 4 ? kind + kind / 2 : 0), problem.precision);
    body(&contexts, &problem);
  }
  run_contexts_close(&contexts);
}

static void one_long_segment_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  int64_t run_tokens = run_tokens_of(contexts->self, problem);
  struct anchored a;
  problem->tokens = 7 * run_tokens + run_tokens / 3;
  problem->heads = problem->kv_heads = 2;
  anchored_create(problem, 1, 1.0, &a);
  anchored_run(contexts, &a);
  run_every_grid(contexts, &a, run_tokens);
  run_every_scan(contexts, &a, run_tokens);
  anchored_destroy(&a);
}

static void one_long_segment(void **state) {
  (void)state;
  for_each_kind(one_long_segment_of, 0);
}

/* The fast transform, of a width that is padded: its signs and lengths reach every rank, and tokens go through it in
 * groups that a run's end cuts. */
static void a_hadamard_projection_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  problem->kernel = "auto";
  problem->projection = FAVOR_PROJECTION_HADAMARD;
  problem->row_norm = problem->is_causal ? FAVOR_ROW_NORM_SQRT : FAVOR_ROW_NORM_CHI;
  problem->key_width = 20;
  problem->features = 75;
  problem->has_projection_per_head = true;
  one_long_segment_of(contexts, problem);
}

static void a_hadamard_projection(void **state) {
  (void)state;
  for_each_kind(a_hadamard_projection_of, 0);
}

/* Signed features, features of 0 and normalisers that vanish: in both modes and precisions in turns. */
static void other_maps(void **state) {
  (void)state;
  static const enum favor_map maps[] = {FAVOR_MAP_RELU, FAVOR_MAP_TRIGONOMETRIC, FAVOR_MAP_TANH, FAVOR_MAP_RELU};
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 4; i++) {
    struct favor_problem problem = problem_of(i % 2, i / 2 % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
    problem.map = maps[i];
    problem.eps = i == 3 ? 0 : -1;
    problem.is_negative_allowed = true;
    problem.projection = i == 3 ? FAVOR_PROJECTION_NONE : FAVOR_PROJECTION_SIMPLEX;
    if (i == 3) problem.features = problem.key_width;
    one_long_segment_of(&contexts, &problem);
  }
  run_contexts_close(&contexts);
}

/* Grouped heads and a batch; empty segments at both ends and in the middle, one token long, many runs long. */
static void ragged_segments_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  int64_t run = run_tokens_of(contexts->self, problem);
  int64_t segments[] = {0, 0, 1, 2 * run + 5, 2 * run + 5, 2 * run + 6, 5 * run + 6, 5 * run + 20, 6 * run, 6 * run};
  struct anchored a;
  problem->tokens = 6 * run;
  problem->segments = segments;
  problem->n_segments = 9;
  problem->batch = 2;
  problem->heads = 2;
  problem->kv_heads = 1;
  problem->has_projection_per_head = true;
  anchored_create(problem, 2, 0.7, &a);
  anchored_run(contexts, &a);
  run_every_grid(contexts, &a, run);
  run_every_scan(contexts, &a, run);
  anchored_destroy(&a);
}

static void ragged_segments(void **state) {
  (void)state;
  for_each_kind(ragged_segments_of, 1);
}

/* Heads enough, and tokens enough of each, that they are cut into batches whose states travel one after another; and
 * where tokens are one segment over no more ranks than batches, some are not absorbed first but relayed from rank to
 * rank. */
static void batches_of_heads(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int kind = 0; kind < 4; kind++) {
    struct favor_problem problem = problem_of(kind % 2, FAVOR_PRECISION_F32);
    problem.kernel = "reference";
    problem.heads = problem.kv_heads = 8;
    problem.key_width = 5;
    problem.value_width = 3;
    problem.features = 7;
    const int64_t run = run_tokens_of(contexts.self, &problem), n = 8 * run * mpi_size() + run / 2;
    int64_t segments[] = {0, run + 3, n / 2 + 5, n - run - 1, n};
    problem.tokens = n;
    if (kind >= 2) problem.segments = segments;
    if (kind >= 2) problem.n_segments = 4;
    struct anchored a;
    anchored_create(&problem, 30 + (uint64_t)kind, 1.0, &a);
    anchored_run(&contexts, &a);
    run_every_scan(&contexts, &a, 8 * run);
    anchored_destroy(&a);
  }
  run_contexts_close(&contexts);
}

/* Fewer tokens than a run, than ranks, and none. */
static void lengths_that_do_not_divide_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  static const int64_t lengths[] = {9, 10, 14, 2, 1, 0};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    struct anchored a;
    problem->tokens = lengths[i];
    anchored_create(problem, 3 + i, 1.0, &a);
    anchored_run(contexts, &a);
    struct favor_problem way = a.problem;
    way.grid_heads = 1;
    way.grid_tokens = mpi_size();
    run_one_way(contexts, &a, &way, i % 2 == 0 ? RUN_EXECUTE : RUN_BLOCKS, true);
    anchored_destroy(&a);
  }
}

static void lengths_that_do_not_divide(void **state) {
  (void)state;
  for_each_kind(lengths_that_do_not_divide_of, 2);
}

/* ---- keys whose weights span 2^40 -------------------------------------------------------------------------------- */

/* The least span over features of log2 of the keys' weights. */
static double least_span_bits(const struct run_contexts *contexts, const struct anchored *a) {
  const struct favor_problem *problem = &a->problem;
  struct favor_plan *plan = NULL;
  if (favor_plan_create(contexts->self, problem, &plan) != FAVOR_OK) return 0;
  double *w = run_projection_of_head(plan, problem, 0), least = INFINITY;
  for (int64_t i = 0; i < (problem->map == FAVOR_MAP_HYPERBOLIC ? 2 : 1) * problem->features; i++) {
    const double *row = w + i % problem->features * problem->key_width, sign = i < problem->features ? 1 : -1;
    double low = INFINITY, high = -INFINITY;
    for (int64_t j = 0; j < problem->tokens; j++) {
      const double *key = case_key(&a->tensors, 0, j);
      double l = 0;
      for (int64_t d = 0; d < problem->key_width; d++) l += sign * row[d] * key[d] - 0.5 * key[d] * key[d];
      low = fmin(low, l / 0.6931471805599453);
      high = fmax(high, l / 0.6931471805599453);
    }
    least = fmin(least, high - low);
  }
  free(w);
  favor_plan_destroy(&plan);
  return least;
}

/* The key of token j is 2.6 u_j times a deviate, u_j uniform in (0, 1): large and small ones in no order. */
static void spread_keys(struct anchored *a) {
  for (int64_t h = 0; h < a->tensors.kv_heads; h++)
    for (int64_t j = 0; j < a->tensors.tokens; j++) {
      double length = 2.6 * (double)(case_bits(77, (uint64_t)h, (uint64_t)j) >> 11) * 0x1p-53;
      for (int64_t d = 0; d < a->tensors.key_width; d++) case_key(&a->tensors, h, j)[d] *= length;
    }
  case_tensors_round(&a->problem, &a->tensors);
}

static void keys_that_span_40_bits_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  int64_t run_tokens = run_tokens_of(contexts->self, problem);
  struct anchored a;
  problem->scale = 1;
  problem->tokens = 5 * run_tokens + 7;
  anchored_create(problem, 4, 1.0, &a);
  spread_keys(&a);
  anchored_run(contexts, &a);
  assert_all(least_span_bits(contexts, &a) > 40);
  run_every_scan(contexts, &a, run_tokens);
  anchored_destroy(&a);
}

static void keys_that_span_40_bits(void **state) {
  (void)state;
  for_each_kind(keys_that_span_40_bits_of, 0);
}

/* ---- a segment alone, and packed --------------------------------------------------------------------------------- */

/* Runs tokens [begin, end) of the packed problem as a problem of their own, on all ranks; the rows must be the same. */
static void compare_alone(const struct run_contexts *contexts, const struct anchored *packed, int64_t begin,
                          int64_t end) {
  struct favor_problem problem = packed->problem;
  struct case_tensors t;
  problem.tokens = end - begin;
  problem.segments = NULL;
  problem.n_segments = 0;
  case_tensors_slice(&packed->tensors, begin, end, &t);
  char *alone = malloc(run_out_bytes(&problem) + 1);
  enum favor_status status = run_problem(contexts->world, &problem, &t, RUN_EXECUTE, alone);
  assert_all(status == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, alone, run_out_bytes(&problem));
  size_t row_bytes = run_element_bytes(&problem) * (size_t)problem.value_width;
  size_t bytes = row_bytes * (size_t)problem.tokens;
  bool is_same = true;
  for (int64_t h = 0; h < t.heads; h++)
    is_same =
        is_same && memcmp(alone + bytes * (size_t)h,
                          (char *)packed->out + row_bytes * (size_t)(h * packed->problem.tokens + begin), bytes) == 0;
  free(alone);
  case_tensors_destroy(&t);
  assert_all(is_same);
}

static void a_segment_alone_or_packed_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  int64_t run = run_tokens_of(contexts->self, problem);
  int64_t segments[] = {0, 3, run + 40, run + 40, 3 * run + 41, 3 * run + 42, 4 * run};
  struct anchored a;
  problem->tokens = 4 * run;
  problem->segments = segments;
  problem->n_segments = 6;
  anchored_create(problem, 5, 1.0, &a);
  anchored_run(contexts, &a);
  for (int s = 0; s < 6; s++) compare_alone(contexts, &a, segments[s], segments[s + 1]);
  anchored_destroy(&a);
}

static void a_segment_alone_or_packed(void **state) {
  (void)state;
  for_each_kind(a_segment_alone_or_packed_of, 3);
}

/* ---- the projection ---------------------------------------------------------------------------------------------- */

static void projection_does_not_know_the_ranks_of(const struct run_contexts *contexts, struct favor_problem *problem) {
  problem->tokens = 100;
  problem->kv_heads = 2;
  problem->features = 37;
  problem->has_projection_per_head = true;
  problem->row_norm = problem->is_causal ? FAVOR_ROW_NORM_CHI : FAVOR_ROW_NORM_SQRT;
  struct favor_plan *alone = NULL, *together = NULL;
  assert_all(favor_plan_create(contexts->self, problem, &alone) == FAVOR_OK);
  assert_all(favor_plan_create(contexts->world, problem, &together) == FAVOR_OK);
  size_t bytes = (size_t)(2 * problem->features * problem->key_width) * run_element_bytes(problem);
  assert_all(memcmp(favor_plan_projection(alone), favor_plan_projection(together), bytes) == 0);
  favor_plan_destroy(&together);
  favor_plan_destroy(&alone);
}

static void projection_does_not_know_the_ranks(void **state) {
  (void)state;
  for_each_kind(projection_does_not_know_the_ranks_of, 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(one_long_segment),
      mpi_unit_test(a_hadamard_projection),
      mpi_unit_test(other_maps),
      mpi_unit_test(ragged_segments),
      mpi_unit_test(batches_of_heads),
      mpi_unit_test(lengths_that_do_not_divide),
      mpi_unit_test(keys_that_span_40_bits),
      mpi_unit_test(a_segment_alone_or_packed),
      mpi_unit_test(projection_does_not_know_the_ranks),
  };
  return mpi_cmocka_main(&argc, &argv, "same_bits", tests, sizeof tests / sizeof tests[0]);
}

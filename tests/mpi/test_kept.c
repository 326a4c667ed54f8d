/* Features kept between the two passes of a causal shard change no bit, however many of them there is memory for. */
#include "mpi_cmocka.h"

#include <stdlib.h>
#include <string.h>

#include "run.h"

/* Tokens of 12 runs and a rest, and of a streamed block 2 runs. */
enum { TOKENS = 12 * 1536 + 700, BLOCK = 3072 };

static struct favor_problem causal_problem(void) {
  struct favor_problem problem = favor_problem_default();
  problem.tokens = TOKENS;
  problem.key_width = 16;
  problem.value_width = 20;
  problem.features = 40;
  problem.is_causal = true;
  problem.threads = 1;
  problem.grid_heads = 1;
  problem.grid_tokens = mpi_size();
  return problem;
}

/* Two runs of one plan, the second on other tensors than those whose features it still has. */
static void run_twice(struct favor_context *world, const struct favor_problem *problem, const struct case_tensors t[2],
                      enum run_mode mode, struct favor_plan_info *info, char *out) {
  struct favor_plan *plan;
  const enum favor_status status = favor_plan_create(world, problem, &plan);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(world));
  assert_all(status == FAVOR_OK);
  favor_plan_info(plan, info);
  for (int i = 0; i < 2; i++) {
    assert_all(run_plan(plan, problem, &t[i], mode, out + (size_t)i * run_out_bytes(problem)) == FAVOR_OK);
  }
  favor_plan_destroy(&plan);
}

/* What a rank has to hold so that this share of what would be kept can be. */
static int64_t bound_for(const struct favor_problem *problem, const struct favor_plan_info *info, double share) {
  const int64_t row = problem->batch * (problem->heads + problem->kv_heads) *
                      (problem->key_width + problem->value_width) * (int64_t)run_element_bytes(problem);
  const int64_t bytes = (int64_t)(info->memory_bytes - info->kept_bytes) + row * info->block_tokens +
                        (int64_t)(share * (double)info->kept_bytes);
  int64_t most = bytes;
  MPI_Allreduce(&bytes, &most, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
  return most;
}

/* Of the rank that keeps most or least. */
static size_t kept_bytes(const struct favor_plan_info *info, MPI_Op op) {
  unsigned long long bytes = info->kept_bytes;
  MPI_Allreduce(MPI_IN_PLACE, &bytes, 1, MPI_UNSIGNED_LONG_LONG, op, MPI_COMM_WORLD);
  return (size_t)bytes;
}

/* On this rank alone with one thread, which has nothing to keep. */
static void run_alone(struct favor_context *self, struct favor_problem problem, const struct case_tensors t[2],
                      char *out) {
  struct favor_plan_info info;
  struct favor_plan *plan;
  problem.threads = 1;
  problem.grid_tokens = 1;
  assert_all(favor_plan_create(self, &problem, &plan) == FAVOR_OK);
  favor_plan_info(plan, &info);
  assert_all(info.kept_bytes == 0);
  for (int i = 0; i < 2; i++) {
    assert_all(run_plan(plan, &problem, &t[i], RUN_EXECUTE, out + (size_t)i * run_out_bytes(&problem)) == FAVOR_OK);
  }
  favor_plan_destroy(&plan);
}

/* Everybody's rows of both outputs. */
static bool are_same(const char *alone, const char *mine, size_t bytes) {
  char *whole = malloc(bytes);
  memcpy(whole, mine, bytes);
  run_gather(MPI_COMM_WORLD, whole, bytes);
  const bool is_same = memcmp(alone, whole, bytes) == 0;
  free(whole);
  return is_same;
}

/* With memory for all features, for some, and on some rank for none. */
static void check(struct favor_problem problem, const struct case_tensors t[2], enum run_mode mode) {
  const size_t bytes = 2 * run_out_bytes(&problem);
  char *all = malloc(bytes), *other = malloc(bytes), *alone = malloc(bytes);
  struct favor_plan_info info, bounded;
  struct run_contexts contexts = run_contexts_open();
  run_alone(contexts.self, problem, t, alone);
  run_set_mode(&problem, mode);
  if (mode == RUN_BLOCKS) problem.block_tokens = BLOCK;
  run_twice(contexts.world, &problem, t, mode, &info, all);
  const bool has_features = strcmp(info.kernel, "blas") != 0 && strcmp(info.kernel, "reference") != 0;
  const bool is_kept = has_features && (mpi_size() > 1 || problem.threads > 1);
  assert_all((kept_bytes(&info, MPI_MAX) > 0) == is_kept);
  assert_all(are_same(alone, all, bytes));
  const double shares[] = {0.4, 0};
  for (int i = 0; i < 2; i++) {
    problem.memory_bytes = bound_for(&problem, &info, shares[i]);
    run_twice(contexts.world, &problem, t, mode, &bounded, other);
    assert_all(bounded.kept_bytes <= info.kept_bytes);
    assert_all(shares[i] > 0 ? (kept_bytes(&bounded, MPI_MAX) > 0) == is_kept : kept_bytes(&bounded, MPI_MIN) == 0);
    assert_all(are_same(alone, other, bytes));
  }
  free(all);
  free(other);
  free(alone);
  run_contexts_close(&contexts);
}

static void check_both(const struct favor_problem *problem, const struct case_tensors t[2]) {
  check(*problem, t, RUN_EXECUTE);
  check(*problem, t, RUN_BLOCKS);
}

static void check_problem(const struct favor_problem *problem, double spread) {
  struct case_tensors t[2];
  for (int i = 0; i < 2; i++) case_tensors_create(problem, 31 + (uint64_t)i, spread, &t[i]);
  check_both(problem, t);
  for (int i = 0; i < 2; i++) case_tensors_destroy(&t[i]);
}

static void every_kernel(void **state) {
  (void)state;
  for (enum favor_precision precision = FAVOR_PRECISION_F32; precision <= FAVOR_PRECISION_BF16; precision++) {
    for (uint64_t i = 0; i < case_count_kernels(precision); i++) {
      struct favor_problem problem = causal_problem();
      problem.precision = precision;
      problem.kernel = case_kernel(i, precision);
      if (strcmp(problem.kernel, "reference") == 0 || strcmp(problem.kernel, "blas") == 0) continue;
      check_problem(&problem, 0.5);
    }
  }
}

/* Tiles that are cut where exponents rise too far for one sum, and rows that are lost and computed anew. */
static void wild_exponents(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    struct favor_problem problem = causal_problem();
    if (i == 1) problem.map = FAVOR_MAP_HYPERBOLIC;
    if (i == 2) problem.projection = FAVOR_PROJECTION_HADAMARD;
    check_problem(&problem, i == 1 ? 4 : 12);
  }
}

/* Tiles that are cut where a value asks for another shift of its column, outputs at a shift that the run has not. */
static void values_far_from_1(void **state) {
  (void)state;
  struct favor_problem problem = causal_problem();
  struct case_tensors t[2];
  for (int i = 0; i < 2; i++) {
    case_tensors_create(&problem, 41 + (uint64_t)i, 1, &t[i]);
    for (int64_t token = 0; token < TOKENS; token += 97 + 13 * i) {
      for (int64_t e = 0; e < problem.value_width; e++) case_value(&t[i], 0, token)[e] *= token % 2 ? 1e25 : 1e-25;
    }
    case_tensors_round(&problem, &t[i]);
  }
  check_both(&problem, t);
  for (int i = 0; i < 2; i++) case_tensors_destroy(&t[i]);
}

static void segments_shared_heads_and_moved_keys(void **state) {
  (void)state;
  const int64_t segments[] = {0, 50, 50, 5000, 5100, 11000, 11001, TOKENS};
  struct favor_problem problem = causal_problem();
  problem.batch = 2;
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.segments = segments;
  problem.n_segments = (int64_t)(sizeof segments / sizeof segments[0]) - 1;
  check_problem(&problem, 1);
  problem.key_shift = FAVOR_KEY_SHIFT_MEAN;
  check_problem(&problem, 1);
}

/* On three ranks two batches, which are both absorbed first; on two more, most of which are relayed. */
static void batches_of_heads(void **state) {
  (void)state;
  struct favor_problem problem = causal_problem();
  mpi_skip_all_if(mpi_size() != 3);
  problem.heads = problem.kv_heads = 4;
  check_problem(&problem, 1);
}

/* More threads than heads: chunks of a head absorb first, alone and within a shard. */
static void threads_that_share_a_head(void **state) {
  (void)state;
  struct favor_problem problem = causal_problem();
  problem.threads = 3;
  check_problem(&problem, 1);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(every_kernel),      mpi_unit_test(wild_exponents),
      mpi_unit_test(values_far_from_1), mpi_unit_test(segments_shared_heads_and_moved_keys),
      mpi_unit_test(batches_of_heads),  mpi_unit_test(threads_that_share_a_head),
  };
  return mpi_cmocka_main(&argc, &argv, "kept", tests, sizeof tests / sizeof tests[0]);
}

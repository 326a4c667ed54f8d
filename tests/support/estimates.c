#include "estimates.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct combination estimates_combinations[ESTIMATES_N_COMBINATIONS] = {
    {"plain", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_NONE},
    {"shift", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_NONE},
    {"diagonal", FAVOR_MAP_HYPERBOLIC, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_DIAGONAL},
    {"full", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_FULL},
    {"oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_NONE},
    {"shift and diagonal", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_DIAGONAL},
    {"shift and full, hyperbolic", FAVOR_MAP_HYPERBOLIC, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_FULL},
    {"shift, diagonal and oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_DIAGONAL},
    {"shift, full and oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_FULL},
};

void estimates_combine(const struct combination *combination, struct favor_problem *problem) {
  problem->map = combination->map;
  problem->key_shift = combination->key_shift;
  problem->balance = combination->balance;
  if (problem->map == FAVOR_MAP_OPRF) problem->row_norm = FAVOR_ROW_NORM_CHI;
}

/* Columns of q grow from 1/4 to 4 times what they were, those of k shrink likewise, and both lie around a point that is
 * not the origin. */
void estimates_make_anisotropic(const struct favor_problem *problem, double offset, struct case_tensors *t) {
  const int64_t d = t->key_width;
  for (int64_t i = 0; i < t->heads * t->tokens * d; i++) {
    const double growth = d > 1 ? exp2(4.0 * (double)(i % d) / (double)(d - 1) - 2) : 2;
    t->q[i] = t->q[i] * growth + offset * cos((double)(i % d));
  }
  for (int64_t i = 0; i < t->kv_heads * t->tokens * d; i++) {
    const double growth = d > 1 ? exp2(4.0 * (double)(i % d) / (double)(d - 1) - 2) : 2;
    t->k[i] = t->k[i] / growth + offset * sin((double)(i % d) + (double)(i / (d * t->tokens)));
  }
  case_tensors_round(problem, t);
}

static double *copied(const double *x, int64_t count) {
  double *copy = x ? malloc((size_t)count * sizeof *copy) : NULL;
  if (copy) memcpy(copy, x, (size_t)count * sizeof *copy);
  return copy;
}

int64_t estimates_balance_count(const struct favor_problem *problem) {
  return problem->key_width * (problem->balance == FAVOR_BALANCE_FULL ? problem->key_width : 1);
}

static void own_estimates(const struct favor_problem *problem, const struct favor_estimates *estimates,
                          struct estimates_owned *owned) {
  const int64_t heads = problem->batch * problem->kv_heads;
  owned->key_shift = copied(estimates->key_shift, heads * problem->key_width);
  owned->balance = copied(estimates->balance, heads * estimates_balance_count(problem));
  owned->oprf_a = copied(estimates->oprf_a, heads);
}

void estimates_release(struct estimates_owned *owned) {
  free(owned->key_shift);
  free(owned->balance);
  free(owned->oprf_a);
}

static bool run_alone(const struct run_contexts *contexts, const struct favor_problem *problem,
                      const struct case_tensors *t, void *out, struct estimates_owned *owned) {
  struct favor_problem alone = *problem;
  alone.grid_heads = alone.grid_tokens = 0;
  struct favor_plan *plan = NULL;
  struct favor_estimates estimates = {0};
  bool is_right = favor_plan_create(contexts->self, &alone, &plan) == FAVOR_OK &&
                  run_plan(plan, &alone, t, RUN_EXECUTE, out) == FAVOR_OK &&
                  favor_plan_estimates(plan, &estimates) == FAVOR_OK;
  if (!is_right) run_print("alone: %s\n", favor_context_message(contexts->self));
  own_estimates(problem, &estimates, owned);
  favor_plan_destroy(&plan);
  return is_right;
}

static double *shared(double *x, bool is_used, int64_t count) {
  if (!is_used) return NULL;
  if (!x) x = malloc((size_t)count * sizeof *x);
  MPI_Bcast(x, (int)count, MPI_DOUBLE, 0, MPI_COMM_WORLD);
  return x;
}

bool estimates_alone(const struct run_contexts *contexts, const struct favor_problem *problem,
                     const struct case_tensors *t, void *out, struct estimates_owned *owned) {
  const int64_t heads = problem->batch * problem->kv_heads;
  int rank, is_right = 0;
  *owned = (struct estimates_owned){0};
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == 0) is_right = run_alone(contexts, problem, t, out, owned);
  MPI_Bcast(&is_right, 1, MPI_INT, 0, MPI_COMM_WORLD);
  if (!is_right) return false;
  MPI_Bcast(out, (int)run_out_bytes(problem), MPI_BYTE, 0, MPI_COMM_WORLD);
  owned->key_shift = shared(owned->key_shift, problem->key_shift != FAVOR_KEY_SHIFT_NONE, heads * problem->key_width);
  owned->balance =
      shared(owned->balance, problem->balance != FAVOR_BALANCE_NONE, heads * estimates_balance_count(problem));
  owned->oprf_a = shared(owned->oprf_a, problem->map == FAVOR_MAP_OPRF, heads);
  owned->estimates =
      (struct favor_estimates){.key_shift = owned->key_shift, .balance = owned->balance, .oprf_a = owned->oprf_a};
  return true;
}

struct oracle_move estimates_move(const struct favor_problem *problem, const struct favor_estimates *estimates,
                                  int64_t key_head) {
  struct oracle_move move = {0};
  const double *balance = estimates->balance ? estimates->balance + key_head * estimates_balance_count(problem) : NULL;
  if (estimates->key_shift) move.shift = estimates->key_shift + key_head * problem->key_width;
  if (problem->balance == FAVOR_BALANCE_FULL) move.l = balance;
  if (problem->balance == FAVOR_BALANCE_DIAGONAL) move.diagonal = balance;
  if (estimates->oprf_a) move.oprf_a = estimates->oprf_a[key_head];
  return move;
}

struct oracle_head estimates_head(const struct favor_problem *problem, const struct case_tensors *t,
                                  const double *projection) {
  return (struct oracle_head){.tokens = t->tokens,
                              .key_width = t->key_width,
                              .value_width = t->value_width,
                              .features = problem->features,
                              .segments = problem->segments,
                              .n_segments = problem->n_segments,
                              .is_causal = problem->is_causal,
                              .is_hyperbolic = problem->map == FAVOR_MAP_HYPERBOLIC,
                              .scale = problem->scale,
                              .projection = projection};
}

/* Whether the estimates of this rank's key heads have the bytes of those that it found alone. */
bool estimates_are_same(const struct favor_problem *problem, const struct favor_plan *plan,
                        const struct estimates_owned *owned) {
  struct favor_shard shard;
  struct favor_estimates own;
  favor_plan_shard(plan, &shard);
  if (favor_plan_estimates(plan, &own) != FAVOR_OK) return false;
  const int64_t counts[] = {problem->key_width, estimates_balance_count(problem), 1};
  const double *const mine[] = {own.key_shift, own.balance, own.oprf_a};
  const double *const alone[] = {owned->key_shift, owned->balance, owned->oprf_a};
  bool is_same = true;
  for (int i = 0; i < 3; i++) {
    const size_t bytes = (size_t)((shard.kv_head_end - shard.kv_head_begin) * counts[i]) * sizeof(double);
    is_same = is_same && (mine[i] != NULL) == (alone[i] != NULL);
    if (mine[i] && alone[i]) {
      is_same = is_same && memcmp(mine[i], alone[i] + shard.kv_head_begin * counts[i], bytes) == 0;
    }
  }
  return is_same;
}

struct favor_problem estimates_small_problem(void) {
  struct favor_problem problem = favor_problem_default();
  problem.precision = FAVOR_PRECISION_F64;
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.tokens = 301;
  problem.key_width = 12;
  problem.value_width = 5;
  problem.features = 30;
  return problem;
}

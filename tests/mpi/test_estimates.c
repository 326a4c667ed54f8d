/* Key shift, balance and oprf: what they are estimated to be, what they leave as it is, that the library computes with
 * them what the float64 oracle does, with the same bits however the work is shared out, and what they are good for. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oracle_moved.h"
#include "run.h"

/* ---- problems ---------------------------------------------------------------------------------------------------- */

/* A combination of what can be estimated. */
struct combination {
  const char *name;
  enum favor_map map;
  enum favor_key_shift key_shift;
  enum favor_balance balance;
};

static const struct combination combinations[] = {
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
enum { N_COMBINATIONS = sizeof combinations / sizeof combinations[0] };

static void combine(const struct combination *combination, struct favor_problem *problem) {
  problem->map = combination->map;
  problem->key_shift = combination->key_shift;
  problem->balance = combination->balance;
  if (problem->map == FAVOR_MAP_OPRF) problem->row_norm = FAVOR_ROW_NORM_CHI;
}

/* Columns of q grow from 1/4 to 4 times what they were, those of k shrink likewise, and both lie around a point that is
 * not the origin. */
static void make_anisotropic(const struct favor_problem *problem, double offset, struct case_tensors *t) {
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

/* The estimates of all key heads, from a run of this rank alone; owned by the caller. */
struct owned {
  struct favor_estimates estimates;
  double *key_shift, *balance, *oprf_a;
};

static double *copied(const double *x, int64_t count) {
  double *copy = x ? malloc((size_t)count * sizeof *copy) : NULL;
  if (copy) memcpy(copy, x, (size_t)count * sizeof *copy);
  return copy;
}

static int64_t balance_count(const struct favor_problem *problem) {
  return problem->key_width * (problem->balance == FAVOR_BALANCE_FULL ? problem->key_width : 1);
}

static void own_estimates(const struct favor_problem *problem, const struct favor_estimates *estimates,
                          struct owned *owned) {
  const int64_t heads = problem->batch * problem->kv_heads;
  owned->key_shift = copied(estimates->key_shift, heads * problem->key_width);
  owned->balance = copied(estimates->balance, heads * balance_count(problem));
  owned->oprf_a = copied(estimates->oprf_a, heads);
  owned->estimates =
      (struct favor_estimates){.key_shift = owned->key_shift, .balance = owned->balance, .oprf_a = owned->oprf_a};
}

static void release(struct owned *owned) {
  free(owned->key_shift);
  free(owned->balance);
  free(owned->oprf_a);
}

/* Runs on this rank alone. */
static bool estimate_alone(const struct run_contexts *contexts, const struct favor_problem *problem,
                           const struct case_tensors *t, void *out, struct owned *owned) {
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

static struct oracle_move move_of(const struct favor_problem *problem, const struct favor_estimates *estimates,
                                  int64_t key_head) {
  struct oracle_move move = {0};
  const double *balance = estimates->balance ? estimates->balance + key_head * balance_count(problem) : NULL;
  if (estimates->key_shift) move.shift = estimates->key_shift + key_head * problem->key_width;
  if (problem->balance == FAVOR_BALANCE_FULL) move.l = balance;
  if (problem->balance == FAVOR_BALANCE_DIAGONAL) move.diagonal = balance;
  if (estimates->oprf_a) move.oprf_a = estimates->oprf_a[key_head];
  return move;
}

static struct oracle_head head_of(const struct favor_problem *problem, const struct case_tensors *t,
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

/* ---- what is estimated ------------------------------------------------------------------------------------------- */

/* Two passes in long double over the tokens of a key head and all query heads that read it. */
struct naive {
  int64_t width;
  long double *query_mean, *key_mean; /* [D] */
  long double *query, *key;           /* [D][D], second moments about `centre` */
};

static void naive_side(const double *x, int64_t rows, int64_t d, bool is_centred, const double *about,
                       long double *mean, long double *square) {
  for (int64_t i = 0; i < rows * d; i++) mean[i % d] += (long double)x[i] / (long double)rows;
  for (int64_t t = 0; t < rows; t++) {
    for (int64_t i = 0; i < d; i++) {
      for (int64_t j = 0; j < d; j++) {
        const long double a = (long double)x[t * d + i] - (is_centred ? mean[i] : about ? (long double)about[i] : 0);
        const long double b = (long double)x[t * d + j] - (is_centred ? mean[j] : about ? (long double)about[j] : 0);
        square[i * d + j] += a * b / (long double)rows;
      }
    }
  }
}

static struct naive naive_create(const struct favor_problem *problem, const struct case_tensors *t, int64_t key_head,
                                 bool is_centred, const double *about) {
  const int64_t d = t->key_width, heads_per_key = t->heads / t->kv_heads;
  struct naive naive = {.width = d};
  long double **const all[] = {&naive.query_mean, &naive.key_mean, &naive.query, &naive.key};
  for (int i = 0; i < 4; i++) *all[i] = calloc((size_t)(d * d), sizeof(long double));
  (void)problem;
  naive_side(case_query(t, key_head * heads_per_key, 0), heads_per_key * t->tokens, d, is_centred, NULL,
             naive.query_mean, naive.query);
  naive_side(case_key(t, key_head, 0), t->tokens, d, is_centred, about, naive.key_mean, naive.key);
  return naive;
}

static void naive_destroy(struct naive *naive) {
  free(naive->query_mean);
  free(naive->key_mean);
  free(naive->query);
  free(naive->key);
}

/* |a - b| / |a| of D x D matrices. */
static double distance(int64_t count, const long double *a, const long double *b) {
  long double apart = 0, size = 0;
  for (int64_t i = 0; i < count; i++) {
    apart += (a[i] - b[i]) * (a[i] - b[i]);
    size += a[i] * a[i];
  }
  return (double)sqrtl(apart / size);
}

/* c = a^T m b for D x D matrices. */
static long double *sandwich(int64_t n, const long double *a, const long double *m, const long double *b) {
  long double *half = calloc((size_t)(n * n), sizeof *half), *c = calloc((size_t)(n * n), sizeof *c);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t d = 0; d < n; d++) half[i * n + j] += a[d * n + i] * m[d * n + j];
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t d = 0; d < n; d++) c[i * n + j] += half[i * n + d] * b[d * n + j];
  free(half);
  return c;
}

/* What counts as the variance of directions that have next to none: 2^-16 of the mean one, of a full balance on top. */
static void add_least_variance(int64_t n, long double *square) {
  long double trace = 0;
  for (int64_t d = 0; d < n; d++) trace += square[d * (n + 1)];
  for (int64_t d = 0; d < n; d++) square[d * (n + 1)] += trace / (long double)n * 0x1p-16L;
}

/* How far the balance is from what it is defined to be. Full: L^T L Mq L^T L = Mk, which is L Mq L^T = L^-T Mk L^-1. */
static double balance_error(const struct favor_problem *problem, struct naive *naive, const double *l) {
  const int64_t n = naive->width;
  double worst = 0;
  if (problem->balance == FAVOR_BALANCE_DIAGONAL) {
    for (int64_t d = 0; d < n; d++) {
      const long double right = powl(naive->key[d * (n + 1)] / naive->query[d * (n + 1)], 0.25L);
      worst = oracle_worse(worst, (double)fabsl(l[d] / right - 1));
    }
    return worst;
  }
  long double *p = calloc((size_t)(n * n), sizeof *p);
  add_least_variance(n, naive->query);
  add_least_variance(n, naive->key);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      if (i > j && l[i * n + j] != 0) worst = INFINITY; /* upper triangular */
      for (int64_t d = 0; d < n; d++) p[i * n + j] += (long double)l[d * n + i] * l[d * n + j];
    }
  }
  long double *back = sandwich(n, p, naive->query, p);
  worst = oracle_worse(worst, distance(n * n, naive->key, back));
  free(back);
  free(p);
  return worst;
}

/* The shift, and A from f by averages over tokens. */
static double shift_error(const struct naive *naive, const struct oracle_move *move) {
  const int64_t n = naive->width;
  long double *right = calloc((size_t)n, sizeof *right), *got = calloc((size_t)n, sizeof *got);
  for (int64_t j = 0; j < n; j++) {
    got[j] = move->shift[j];
    right[j] = naive->key_mean[j] + (move->diagonal ? move->diagonal[j] * move->diagonal[j]
                                     : move->l      ? 0
                                                    : 1) *
                                        naive->query_mean[j];
    for (int64_t i = 0; i < n && move->l; i++) {
      for (int64_t d = 0; d < n; d++)
        right[j] += (long double)move->l[i * n + j] * move->l[i * n + d] * naive->query_mean[d];
    }
  }
  const double error = distance(n, right, got);
  free(right);
  free(got);
  return error;
}

static double oprf_error(const struct favor_problem *problem, const struct case_tensors *t, int64_t key_head,
                         const struct oracle_move *move) {
  const int64_t d = t->key_width, group = t->heads / t->kv_heads, count = t->tokens * d;
  struct oracle_head head = head_of(problem, t, NULL);
  double *q = calloc((size_t)count, sizeof *q), *k = calloc((size_t)count, sizeof *k);
  long double norms = 0, *query = calloc((size_t)d, sizeof *query), *key = calloc((size_t)d, sizeof *key);
  for (int64_t h = 0; h < group; h++) {
    oracle_moved_tokens(&head, move, case_query(t, key_head * group + h, 0), case_key(t, key_head, 0), q, k);
    for (int64_t i = 0; i < count; i++) {
      norms += ((long double)q[i] * q[i] + (long double)k[i] * k[i]) / (long double)(group * t->tokens);
      query[i % d] += (long double)q[i] / (long double)(group * t->tokens);
      key[i % d] += (long double)k[i] / (long double)(group * t->tokens);
    }
  }
  long double f = norms;
  for (int64_t i = 0; i < d; i++) f += 2 * query[i] * key[i];
  f *= problem->scale > 0 ? problem->scale : 1 / sqrtl((long double)d);
  const long double w = (long double)d;
  const long double a = (w - 2 * f - sqrtl((2 * f + w) * (2 * f + w) + 8 * w * f)) / (16 * w);
  free(q);
  free(k);
  free(query);
  free(key);
  return (double)fabsl(move->oprf_a / a - 1);
}

static struct favor_problem small_problem(void) {
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

static void estimates_are_what_they_are_said_to_be(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  double worst[3] = {0};
  for (int c = 1; c < N_COMBINATIONS; c++) {
    static const int64_t segments[] = {0, 100, 100, 301};
    struct favor_problem problem = small_problem();
    problem.segments = segments;
    problem.n_segments = 3;
    problem.is_causal = c % 2 == 0;
    combine(&combinations[c], &problem);
    struct case_tensors t;
    struct owned owned;
    case_tensors_create(&problem, (uint64_t)c, 0.5, &t);
    make_anisotropic(&problem, 0.5, &t);
    void *out = malloc(run_out_bytes(&problem));
    assert_all(estimate_alone(&contexts, &problem, &t, out, &owned));
    for (int64_t g = 0; g < problem.kv_heads; g++) {
      const struct oracle_move move = move_of(&problem, &owned.estimates, g);
      struct naive naive = naive_create(&problem, &t, g, problem.key_shift != FAVOR_KEY_SHIFT_NONE, NULL);
      if (problem.key_shift != FAVOR_KEY_SHIFT_NONE) worst[0] = oracle_worse(worst[0], shift_error(&naive, &move));
      if (problem.balance != FAVOR_BALANCE_NONE) {
        worst[1] = oracle_worse(worst[1], balance_error(&problem, &naive, owned.balance + g * balance_count(&problem)));
      }
      if (problem.map == FAVOR_MAP_OPRF) worst[2] = oracle_worse(worst[2], oprf_error(&problem, &t, g, &move));
      naive_destroy(&naive);
    }
    release(&owned);
    free(out);
    case_tensors_destroy(&t);
  }
  run_print("estimates against long double: shift %.2g, balance %.2g, A %.2g\n", worst[0], worst[1], worst[2]);
  run_contexts_close(&contexts);
  assert_all(worst[0] < 1e-9);
  assert_all(worst[1] < 1e-9);
  assert_all(worst[2] < 1e-9);
}

/* L q . L^-T (k - s) = q.k - q.s: the same softmax. */
static void softmax_stays_as_it_is(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (int c = 1; c < N_COMBINATIONS; c++) {
    struct favor_problem problem = small_problem();
    problem.heads = problem.kv_heads = 1;
    problem.is_causal = c % 2 == 0;
    combine(&combinations[c], &problem);
    struct case_tensors t;
    struct owned owned;
    case_tensors_create(&problem, (uint64_t)c, 1.0, &t);
    make_anisotropic(&problem, 0.7, &t);
    void *out = malloc(run_out_bytes(&problem));
    assert_all(estimate_alone(&contexts, &problem, &t, out, &owned));
    const struct oracle_head head = head_of(&problem, &t, NULL);
    const struct oracle_move move = move_of(&problem, &owned.estimates, 0);
    const int64_t count = t.tokens * t.key_width, n_out = t.tokens * t.value_width;
    double *q = calloc((size_t)count, sizeof *q), *k = calloc((size_t)count, sizeof *k);
    double *exact = calloc((size_t)n_out, sizeof *exact), *moved = calloc((size_t)n_out, sizeof *moved);
    oracle_moved_tokens(&head, &move, t.q, t.k, q, k);
    oracle_softmax(&head, t.q, t.k, t.v, exact);
    oracle_softmax(&head, q, k, t.v, moved);
    worst = oracle_worse(worst, oracle_relative_error(moved, exact, n_out));
    free(q);
    free(k);
    free(exact);
    free(moved);
    free(out);
    release(&owned);
    case_tensors_destroy(&t);
  }
  run_print("softmax of moved tokens: %.2g\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst < 1e-12);
}

/* ---- the library against the oracle ------------------------------------------------------------------------------ */

/* The error of the worst head; heads are shared out over the ranks. Collective. */
static double worst_head_error(const struct favor_problem *problem, const struct favor_plan *plan,
                               const struct favor_estimates *estimates, const struct case_tensors *t, const void *out) {
  const int64_t count = t->tokens * t->value_width;
  double *expected = calloc((size_t)count + 1, sizeof *expected), *got = calloc((size_t)count + 1, sizeof *got);
  double worst = 0;
  for (int64_t h = mpi_rank(); h < t->heads; h += mpi_size()) {
    double *projection = run_projection_of_head(plan, problem, h);
    const struct oracle_head head = head_of(problem, t, projection);
    const int64_t kv = case_kv_head(problem, h);
    const struct oracle_move move = move_of(problem, estimates, kv);
    oracle_moved_attend(&head, &move, case_query(t, h, 0), case_key(t, kv, 0), case_value(t, kv, 0), expected);
    for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, h * count + i);
    worst = oracle_worse(worst, oracle_relative_error(got, expected, count));
    free(projection);
  }
  free(expected);
  free(got);
  MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

/* Whether the estimates of this rank's key heads have the bytes of those that it found alone. */
static bool estimates_are_same(const struct favor_problem *problem, const struct favor_plan *plan,
                               const struct owned *owned) {
  struct favor_shard shard;
  struct favor_estimates own;
  favor_plan_shard(plan, &shard);
  if (favor_plan_estimates(plan, &own) != FAVOR_OK) return false;
  const int64_t counts[] = {problem->key_width, balance_count(problem), 1};
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

/* A case on all ranks: against the oracle, and estimates and outputs against those of a rank alone. */
static double error_of_case(const struct run_contexts *contexts, const struct test_case *c) {
  const struct favor_problem *problem = &c->problem;
  struct case_tensors t;
  case_tensors_create(problem, c->number, c->spread, &t);
  make_anisotropic(problem, 0.3 * c->spread, &t);
  const size_t bytes = run_out_bytes(problem);
  void *out = malloc(bytes + 1), *alone = malloc(bytes + 1);
  struct owned owned;
  struct favor_plan *plan = NULL;
  assert_all(estimate_alone(contexts, problem, &t, alone, &owned));
  enum favor_status status = favor_plan_create(contexts->world, problem, &plan);
  if (status == FAVOR_OK) status = run_plan(plan, problem, &t, c->number % 3 ? RUN_EXECUTE : RUN_STEPS, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(status == FAVOR_OK);
  assert_all(estimates_are_same(problem, plan, &owned));
  run_gather(MPI_COMM_WORLD, out, bytes);
  assert_all(memcmp(out, alone, bytes) == 0);
  const double error = worst_head_error(problem, plan, &owned.estimates, &t, out);
  favor_plan_destroy(&plan);
  release(&owned);
  free(out);
  free(alone);
  case_tensors_destroy(&t);
  return error;
}

static void the_library_agrees_with_the_oracle(void **state) {
  (void)state;
  static const double bound[] = {[FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 2e-12};
  struct run_contexts contexts = run_contexts_open();
  double worst[2] = {0};
  for (uint64_t number = 0; number < 4 * (N_COMBINATIONS - 1); number++) {
    struct test_case c;
    case_draw(number, &c);
    combine(&combinations[1 + number / 4], &c.problem);
    if (c.problem.key_width > 64) c.problem.key_width = 47; /* the oracle multiplies whole matrices */
    case_set_tokens(&c, run_tokens_of(contexts.self, &c.problem));
    const double error = error_of_case(&contexts, &c);
    if (!(error <= bound[c.problem.precision])) {
      char text[256];
      case_describe(&c, text, sizeof text);
      run_print("%s, %s: error %.3g\n", combinations[1 + number / 4].name, text, error);
    }
    worst[c.problem.precision] = oracle_worse(worst[c.problem.precision], error);
    case_release(&c);
  }
  run_print("library against oracle: worst head %.3g in f32, %.3g in f64\n", worst[0], worst[1]);
  run_contexts_close(&contexts);
  assert_all(worst[FAVOR_PRECISION_F32] <= bound[FAVOR_PRECISION_F32]);
  assert_all(worst[FAVOR_PRECISION_F64] <= bound[FAVOR_PRECISION_F64]);
}

/* bf16 within its bound, where tokens are balanced and so about as long as the isotropic ones that it is stated for. */
static void bf16_agrees_with_the_oracle(void **state) {
  (void)state;
  if (case_count_kernels(FAVOR_PRECISION_BF16) == 0) return;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (uint64_t number = 0; number < 2 * N_COMBINATIONS; number++) {
    const struct combination *combination = &combinations[number / 2];
    struct test_case c = {.number = number, .problem = favor_problem_default(), .spread = 0.5};
    c.problem.precision = FAVOR_PRECISION_BF16;
    c.problem.is_causal = number % 2 == 0;
    c.problem.tokens = 700;
    c.problem.key_width = 48;
    combine(combination, &c.problem);
    if (combination->key_shift != FAVOR_KEY_SHIFT_MEAN || combination->balance == FAVOR_BALANCE_NONE) continue;
    const double error = error_of_case(&contexts, &c), share = error / case_bf16_bound(&c.problem, 0.5, 2 * sqrt(48));
    if (!(share <= 1)) run_print("%s: error %.3g, %.3g of its bound\n", combination->name, error, share);
    worst = oracle_worse(worst, share);
  }
  run_print("bf16 against oracle: worst head %.3g of its bound\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst <= 1);
}

/* ---- the same bits ----------------------------------------------------------------------------------------------- */

/* One problem on all ranks against `alone`: estimates and outputs. */
static void assert_same(const struct run_contexts *contexts, const struct favor_problem *problem,
                        const struct case_tensors *t, enum run_mode mode, const struct owned *owned,
                        const void *alone) {
  const size_t bytes = run_out_bytes(problem);
  void *out = malloc(bytes);
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts->world, problem, &plan) == FAVOR_OK);
  for (int run = 0; run < 2; run++) { /* a second one measures anew */
    assert_all(run_plan(plan, problem, t, mode, out) == FAVOR_OK);
    assert_all(estimates_are_same(problem, plan, owned));
    run_gather(MPI_COMM_WORLD, out, bytes);
    assert_all(memcmp(out, alone, bytes) == 0);
  }
  favor_plan_destroy(&plan);
  free(out);
}

/* Several runs of tokens; keys whose squares span 2^40, where sums in another order would differ. */
static void the_same_bits(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < 4; number++) {
    struct favor_problem problem = small_problem();
    problem.precision = number % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    problem.is_causal = number / 2;
    problem.features = 16;
    combine(&combinations[N_COMBINATIONS - 1 - number % 2], &problem);
    const int64_t run_tokens = run_tokens_of(contexts.self, &problem);
    problem.tokens = 5 * run_tokens + 17;
    const int64_t segments[] = {0, run_tokens / 3, run_tokens / 3, 3 * run_tokens, problem.tokens};
    problem.segments = segments;
    problem.n_segments = 4;
    problem.threads = 1;
    struct case_tensors t;
    struct owned owned;
    case_tensors_create(&problem, (uint64_t)number, 0.5, &t);
    for (int64_t i = 0; i < t.kv_heads * t.tokens * t.key_width; i++) t.k[i] *= exp2((double)(i / 12 % 21 - 20));
    make_anisotropic(&problem, 0.5, &t);
    void *alone = malloc(run_out_bytes(&problem));
    assert_all(estimate_alone(&contexts, &problem, &t, alone, &owned));
    for (int threads = 1; threads <= 2; threads++) {
      for (int64_t heads = 1; heads <= 2; heads++) {
        if (heads > mpi_size()) continue;
        problem.threads = threads;
        problem.grid_heads = heads;
        problem.grid_tokens = mpi_size() / heads;
        problem.block_tokens = threads == 2 ? 2 * run_tokens : 0;
        assert_same(&contexts, &problem, &t, threads == 2 ? RUN_STEPS : RUN_EXECUTE, &owned, alone);
      }
    }
    /* Given, they take no pass of their own and give the same. */
    problem.estimates = &owned.estimates;
    problem.block_tokens = 0;
    struct favor_plan *plan = NULL;
    struct favor_step step;
    struct favor_plan_info info;
    assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
    favor_plan_info(plan, &info);
    assert_all(info.is_strictly_causal == problem.is_causal);
    bool is_any_measured = false;
    for (int64_t i = 0; i < favor_plan_n_steps(plan); i++) {
      favor_plan_step(plan, i, &step);
      is_any_measured = is_any_measured || step.verb == FAVOR_MEASURE || step.verb == FAVOR_ESTIMATE;
    }
    assert_all(!is_any_measured);
    favor_plan_destroy(&plan);
    assert_same(&contexts, &problem, &t, RUN_EXECUTE, &owned, alone);
    /* So do those of which one part is given, and the other follows from the same data and it. */
    struct favor_estimates part = {.balance = owned.balance, .key_shift = owned.key_shift};
    problem.estimates = &part;
    assert_same(&contexts, &problem, &t, RUN_EXECUTE, &owned, alone);
    free(alone);
    release(&owned);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* What is given leaves the past alone: other last tokens change no earlier output. */
static void given_estimates_are_strictly_causal(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = small_problem();
  problem.is_causal = true;
  combine(&combinations[N_COMBINATIONS - 1], &problem);
  struct case_tensors t;
  struct owned owned;
  case_tensors_create(&problem, 3, 0.5, &t);
  make_anisotropic(&problem, 0.5, &t);
  const size_t bytes = run_out_bytes(&problem);
  void *before = malloc(bytes), *after = malloc(bytes);
  assert_all(estimate_alone(&contexts, &problem, &t, before, &owned));
  struct favor_plan_info info;
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  favor_plan_info(plan, &info);
  assert_all(!info.is_strictly_causal);
  favor_plan_destroy(&plan);
  for (int64_t g = 0; g < t.kv_heads; g++) {
    for (int64_t d = 0; d < t.key_width; d++) case_key(&t, g, t.tokens - 1)[d] *= -3;
  }
  problem.estimates = &owned.estimates;
  assert_all(run_problem(contexts.self, &problem, &t, RUN_EXECUTE, after) == FAVOR_OK);
  bool is_same = true, is_last_same = true;
  for (int64_t h = 0; h < t.heads; h++) {
    const size_t row = (size_t)t.value_width * sizeof(double), at = (size_t)(h * t.tokens) * row;
    const size_t past = (size_t)(t.tokens - 1) * row;
    is_same = is_same && memcmp((char *)before + at, (char *)after + at, past) == 0;
    is_last_same = is_last_same && memcmp((char *)before + at + past, (char *)after + at + past, row) == 0;
  }
  assert_all(is_same && !is_last_same);
  free(before);
  free(after);
  release(&owned);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

/* ---- the decoder ------------------------------------------------------------------------------------------------- */

static void the_decoder_goes_on_alike(void **state) {
  (void)state;
  enum { FIRST = 200 };
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (int c = 1; c < N_COMBINATIONS; c++) {
    struct favor_problem problem = small_problem();
    problem.is_causal = true;
    combine(&combinations[c], &problem);
    struct case_tensors t;
    struct owned owned;
    case_tensors_create(&problem, (uint64_t)c, 0.5, &t);
    make_anisotropic(&problem, 0.5, &t);
    double *batch = malloc(run_out_bytes(&problem)), *decoded = malloc(run_out_bytes(&problem));
    assert_all(estimate_alone(&contexts, &problem, &t, batch, &owned));
    memcpy(decoded, batch, run_out_bytes(&problem));
    struct favor_plan *plan = NULL;
    struct favor_decoder *decoder = NULL;
    assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
    assert_all(favor_decoder_create(plan, &decoder) == FAVOR_EUSAGE); /* nothing is estimated yet */
    favor_context_forget(contexts.self);
    favor_plan_destroy(&plan);
    problem.estimates = &owned.estimates;
    assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
    assert_all(favor_decoder_create(plan, &decoder) == FAVOR_OK);
    for (int64_t i = 0; i < t.tokens; i++) {
      struct favor_input q = {case_query(&t, 0, i), t.tokens * t.key_width, 0};
      struct favor_input k = {case_key(&t, 0, i), t.tokens * t.key_width, 0};
      struct favor_input v = {case_value(&t, 0, i), t.tokens * t.value_width, 0};
      struct favor_output out = {decoded + i * t.value_width, t.tokens * t.value_width, 0};
      assert_all(favor_decoder_step(decoder, &q, &k, &v, &out) == FAVOR_OK);
    }
    worst = oracle_worse(worst, oracle_relative_error(decoded, batch, t.heads * t.tokens * t.value_width));
    favor_decoder_destroy(&decoder);
    favor_plan_destroy(&plan);
    free(batch);
    free(decoded);
    release(&owned);
    case_tensors_destroy(&t);
  }
  run_print("decoder against batch: %.2g\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst < 1e-12);
}

/* ---- what is hard, and what is refused --------------------------------------------------------------------------- */

enum degeneracy {
  KEYS_ALIKE,
  NO_QUERIES,
  ALL_ZERO,
  ONE_COLUMN,
  ONE_TOKEN,
  NO_TOKEN,
  ONE_WIDE,
  FAR_AWAY,
  N_DEGENERACIES
};

static void degenerate(enum degeneracy kind, struct case_tensors *t) {
  for (int64_t i = 0; i < t->heads * t->tokens * t->key_width; i++) {
    if (kind == NO_QUERIES || kind == ALL_ZERO || (kind == ONE_COLUMN && i % t->key_width != 0)) t->q[i] = 0;
  }
  for (int64_t i = 0; i < t->kv_heads * t->tokens * t->key_width; i++) {
    if (kind == KEYS_ALIKE) t->k[i] = 3.7 * (double)(i % t->key_width);
    if (kind == ALL_ZERO || (kind == ONE_COLUMN && i % t->key_width != 1)) t->k[i] = 0;
    if (kind == FAR_AWAY) t->k[i] += 1e5;
  }
}

/* Finite outputs, which lie between the values, and finite estimates. */
static void degenerate_inputs_stay_finite(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < N_DEGENERACIES * N_COMBINATIONS * 2; number++) {
    const enum degeneracy kind = (enum degeneracy)(number % N_DEGENERACIES);
    struct favor_problem problem = small_problem();
    problem.precision = number / (N_DEGENERACIES * N_COMBINATIONS) ? FAVOR_PRECISION_F32 : FAVOR_PRECISION_F64;
    problem.is_causal = number % 3 == 0;
    problem.tokens = kind == NO_TOKEN ? 0 : kind == ONE_TOKEN ? 1 : 20;
    if (kind == ONE_WIDE) problem.key_width = 1;
    combine(&combinations[number / N_DEGENERACIES % N_COMBINATIONS], &problem);
    if (kind == FAR_AWAY && problem.key_shift == FAVOR_KEY_SHIFT_NONE) continue; /* such keys are too long */
    struct case_tensors t;
    struct owned owned;
    case_tensors_create(&problem, (uint64_t)number, 0.5, &t);
    degenerate(kind, &t);
    case_tensors_round(&problem, &t);
    void *out = malloc(run_out_bytes(&problem) + 1);
    assert_all(estimate_alone(&contexts, &problem, &t, out, &owned));
    bool is_right = true;
    const int64_t heads = problem.kv_heads, counts[] = {problem.key_width, balance_count(&problem), 1};
    const double *const values[] = {owned.key_shift, owned.balance, owned.oprf_a};
    for (int k = 0; k < 3; k++)
      for (int64_t i = 0; values[k] && i < heads * counts[k]; i++) is_right = is_right && isfinite(values[k][i]);
    for (int64_t i = 0; i < t.heads * t.tokens * t.value_width; i++)
      is_right = is_right && fabs(run_element(&problem, out, i)) < 4;
    if (!is_right)
      run_print("degenerate inputs %d, %s\n", (int)kind, combinations[number / N_DEGENERACIES % N_COMBINATIONS].name);
    assert_all(is_right);
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    release(&owned);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* The problem on all ranks ends with this status, and a message that says this. */
static void assert_refused(const struct run_contexts *contexts, const struct favor_problem *problem,
                           const struct case_tensors *t, enum favor_status expected, const char *text) {
  void *out = malloc(run_out_bytes(problem));
  const enum favor_status status = run_problem(contexts->world, problem, t, RUN_EXECUTE, out);
  const char *message = favor_context_message(contexts->world);
  if (status != expected || !strstr(message, text)) run_print("%d, '%s', not '%s'\n", (int)status, message, text);
  assert_all(status == expected && strstr(message, text) != NULL);
  free(out);
}

static void wrong_inputs_are_refused_by_name(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = small_problem();
  struct case_tensors t;
  case_tensors_create(&problem, 1, 0.5, &t);
  problem.map = FAVOR_MAP_OPRF;
  assert_refused(&contexts, &problem, &t, FAVOR_EUSAGE, "use row norm chi");
  combine(&combinations[N_COMBINATIONS - 1], &problem);
  double *balance = calloc((size_t)(2 * 12 * 12), sizeof *balance);
  problem.estimates = &(struct favor_estimates){.balance = balance};
  assert_refused(&contexts, &problem, &t, FAVOR_EINTERNAL, "balance of key head 0");
  double shift[24] = {0}, a[2] = {0, 0};
  problem.estimates = &(struct favor_estimates){.balance = balance, .key_shift = shift, .oprf_a = a};
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "the balance of key head 0 is singular");
  a[1] = 0.2;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "key head 1 is 0.2: the A of oprf must be finite and below 1/8");
  shift[13] = NAN;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "number 1 of key head 1 is nan");
  problem.estimates = NULL;
  case_query(&t, 3, 77)[2] = NAN;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "NaN in q, head 3, token 77");
  case_query(&t, 3, 77)[2] = 0;
  case_key(&t, 1, 300)[11] = INFINITY;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "Inf in k, head 1, token 300");
  shift[13] = a[1] = 0;
  for (int i = 0; i < 2 * 12; i++) balance[i / 12 * 144 + i % 12 * 13] = 1;
  problem.estimates = &(struct favor_estimates){.balance = balance, .key_shift = shift, .oprf_a = a};
  case_key(&t, 1, 300)[11] = 1e6;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "k of head 1, token 300 is too long once it is shifted");
  problem.estimates = NULL;
  case_key(&t, 1, 300)[11] = 1e200; /* whose square is no number to add up */
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "k of head 1, token 300 is too long");
  free(balance);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

/* ---- what they are good for -------------------------------------------------------------------------------------- */

/* Of random tokens, over draws of data and projection: the mean square error of the output over that of softmax. */
static double mean_square_error(const struct run_contexts *contexts, const struct combination *combination,
                                enum favor_row_norm row_norm, bool is_anisotropic) {
  enum { SEEDS = 8 };
  double mean = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct favor_problem problem = favor_problem_default();
    problem.precision = FAVOR_PRECISION_F64;
    problem.tokens = 256;
    problem.key_width = 16;
    problem.value_width = 4;
    problem.features = 128;
    problem.seed = seed;
    problem.row_norm = row_norm;
    combine(combination, &problem);
    struct case_tensors t;
    case_tensors_create(&problem, seed, 0.5, &t);
    if (is_anisotropic) make_anisotropic(&problem, 0.5, &t);
    double *out = malloc(run_out_bytes(&problem)), *exact = malloc(run_out_bytes(&problem));
    const struct oracle_head head = head_of(&problem, &t, NULL);
    assert_all(run_problem(contexts->self, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    oracle_softmax(&head, t.q, t.k, t.v, exact);
    const double error = oracle_relative_error(out, exact, t.tokens * t.value_width);
    mean += error * error / SEEDS;
    free(out);
    free(exact);
    case_tensors_destroy(&t);
  }
  return mean;
}

/* Anisotropic: columns whose scales spread over 16, and points away from the origin. */
static void balanced_and_oprf_inputs_are_better(void **state) {
  (void)state;
  enum { PLAIN, SHIFT, DIAGONAL, FULL, SHIFT_DIAGONAL, SHIFT_FULL, OPRF, ALL, N_MEASURED };
  static const struct combination measured[N_MEASURED] = {
      [PLAIN] = {"plain", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_NONE},
      [SHIFT] = {"shift", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_NONE},
      [DIAGONAL] = {"diagonal", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_DIAGONAL},
      [FULL] = {"full", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_FULL},
      [SHIFT_DIAGONAL] = {"shift and diagonal", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_DIAGONAL},
      [SHIFT_FULL] = {"shift and full", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_FULL},
      [OPRF] = {"oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_NONE},
      [ALL] = {"shift, full and oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_FULL},
  };
  struct run_contexts contexts = run_contexts_open();
  double isotropic[N_MEASURED][2], anisotropic[N_MEASURED][2]; /* by row norm; oprf has chi in any case */
  run_print("relative root mean square error, rows of length sqrt(D), chi(D): isotropic; anisotropic\n");
  for (int i = 0; i < N_MEASURED; i++) {
    for (int norm = 0; norm < 2; norm++) {
      isotropic[i][norm] = mean_square_error(&contexts, &measured[i], (enum favor_row_norm)norm, false);
      anisotropic[i][norm] = mean_square_error(&contexts, &measured[i], (enum favor_row_norm)norm, true);
    }
    run_print("  %-22s %.3f %.3f   %.3f %.3f\n", measured[i].name, sqrt(isotropic[i][0]), sqrt(isotropic[i][1]),
              sqrt(anisotropic[i][0]), sqrt(anisotropic[i][1]));
  }
  run_contexts_close(&contexts);
  const double *plain = anisotropic[PLAIN];
  assert_all(anisotropic[DIAGONAL][0] < plain[0] / 2.5 && anisotropic[FULL][0] < plain[0] / 3);
  assert_all(anisotropic[SHIFT_DIAGONAL][0] < plain[0] / 8 && anisotropic[SHIFT_FULL][0] < plain[0] / 8);
  assert_all(anisotropic[ALL][0] < plain[0] / 6 && anisotropic[ALL][1] < plain[1] / 15);
  /* Of rows of random length, which oprf has to have, it makes better use. */
  assert_all(isotropic[OPRF][1] < isotropic[PLAIN][1] / 1.2);
  assert_all(anisotropic[ALL][1] < anisotropic[SHIFT_FULL][1] / 1.2);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(estimates_are_what_they_are_said_to_be),
      mpi_unit_test(softmax_stays_as_it_is),
      mpi_unit_test(the_library_agrees_with_the_oracle),
      mpi_unit_test(bf16_agrees_with_the_oracle),
      mpi_unit_test(the_same_bits),
      mpi_unit_test(given_estimates_are_strictly_causal),
      mpi_unit_test(the_decoder_goes_on_alike),
      mpi_unit_test(degenerate_inputs_stay_finite),
      mpi_unit_test(wrong_inputs_are_refused_by_name),
      mpi_unit_test(balanced_and_oprf_inputs_are_better),
  };
  return mpi_cmocka_main(&argc, &argv, "estimates", tests, sizeof tests / sizeof tests[0]);
}

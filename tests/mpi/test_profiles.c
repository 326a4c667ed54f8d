/* Profiles, eps and key maxima beyond what packages were asked (test_golden.c): what favor.h says of them, written down
 * in long double and independently of the library, on inputs that are cut into segments and spread over ranks. */
#include "support/mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/oracle.h"
#include "support/run.h"

static struct run_contexts contexts;

/* ---- the definition --------------------------------------------------------------------------------------------- */

/* Of q and k. */
static const double usual_spread = 0.9;

/* Two batches, grouped heads, segments ragged and empty; a few long rows, as in the golden files. */
static struct favor_problem problem_of(bool is_causal, enum favor_precision precision) {
  static const int64_t segments[] = {0, 0, 1, 1900, 1900, 1907, 3000};
  struct favor_problem problem = favor_problem_default();
  problem.is_causal = is_causal;
  problem.precision = precision;
  problem.batch = 2;
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.tokens = 3000;
  problem.key_width = 8;
  problem.value_width = 5;
  problem.features = 20;
  problem.segments = segments;
  problem.n_segments = 6;
  problem.kernel = "reference"; /* its runs are short enough for several ranks */
  problem.seed = 5;
  return problem;
}

static void tensors_of(const struct favor_problem *problem, double spread, struct case_tensors *t) {
  case_tensors_create(problem, 31, spread, t);
  for (int64_t i = 0; i < problem->tokens; i += 37) {
    for (int64_t h = 0; h < t->heads; h++)
      for (int64_t d = 0; d < t->key_width; d++) case_query(t, h, i)[d] *= 5;
  }
  for (int64_t g = 0; g < t->kv_heads; g++) {
    for (int64_t d = 0; d < t->key_width; d++) case_key(t, g, 1000 + 500 * g)[d] *= 2 + (double)g / 4;
  }
  case_tensors_round(problem, t);
}

/* u_r = w_r . x~ of all features of a token; returns |x~|^2 / 2. */
static long double products(const struct favor_problem *problem, const double *projection, const double *x,
                            long double *u) {
  const int64_t m = problem->features, width = problem->key_width;
  const long double root_scale = powl((long double)width, -0.25L);
  long double norm2 = 0;
  for (int64_t d = 0; d < width; d++) norm2 += x[d] * root_scale * (x[d] * root_scale);
  for (int64_t r = 0; r < m; r++) {
    u[r] = 0;
    for (int64_t d = 0; d < width; d++) u[r] += projection[r * width + d] * (x[d] * root_scale);
    if (problem->map == FAVOR_MAP_HYPERBOLIC) u[m + r] = -u[r];
  }
  return norm2 / 2;
}

static int64_t n_features(const struct favor_problem *problem) {
  return problem->features * (problem->map == FAVOR_MAP_HYPERBOLIC ? 2 : 1);
}

static long double largest(int64_t n, const long double *x) {
  long double top = x[0];
  for (int64_t i = 1; i < n; i++) top = fmaxl(top, x[i]);
  return top;
}

/* phi(x) = R^-1/2 (exp(u - g - m) + eps) */
static void features(const struct favor_problem *problem, const double *projection, const double *x, bool is_query,
                     long double key_max, long double *phi) {
  const int64_t rows = n_features(problem);
  const long double half_norm = products(problem, projection, x, phi);
  const long double maximum = problem->key_max == FAVOR_KEY_MAX_NONE ? 0 : is_query ? largest(rows, phi) : key_max;
  for (int64_t r = 0; r < rows; r++) {
    phi[r] = (expl(phi[r] - half_norm - maximum) + fmax(problem->eps, 0)) / sqrtl((long double)rows);
  }
}

/* The largest u of key heads [begin, end). */
static double key_max_of(const struct favor_problem *problem, const struct case_tensors *t, const double *projection,
                         int64_t begin, int64_t end) {
  const int64_t stride = problem->has_projection_per_head ? problem->features * problem->key_width : 0;
  long double u[64], top = -INFINITY;
  for (int64_t g = begin; g < end; g++) {
    for (int64_t i = 0; i < t->tokens; i++) {
      products(problem, projection + g % problem->kv_heads * stride, case_key(t, g, i), u);
      top = fmaxl(top, largest(n_features(problem), u));
    }
  }
  return (double)top;
}

static void key_maxima_of(const struct favor_problem *problem, const struct case_tensors *t, const double *projection,
                          double *key_max) {
  const bool is_tensor = problem->key_max == FAVOR_KEY_MAX_TENSOR;
  for (int64_t g = 0; g < t->kv_heads; g++) {
    key_max[g] = key_max_of(problem, t, projection, is_tensor ? 0 : g, is_tensor ? t->kv_heads : g + 1);
  }
}

static long double guarded(const struct favor_problem *problem, long double sum, const long double *query) {
  const int64_t rows = n_features(problem);
  long double query_sum = 0;
  for (int64_t r = 0; r < rows; r++) query_sum += query[r];
  switch (problem->guard_rule) {
  case FAVOR_GUARD_SUM:
    return sum + problem->guard;
  case FAVOR_GUARD_PLAIN_SUM:
    return sum + problem->guard / (long double)rows;
  case FAVOR_GUARD_NORMALISER:
    return problem->is_causal ? sum + problem->guard * query_sum : sum;
  case FAVOR_GUARD_SMALL:
    return sum <= problem->guard ? sum + 2 * problem->guard : sum;
  default:
    return sum;
  }
}

/* A state of one segment of one key head: z [R], then s [R][E]. */
static void absorb(const struct favor_problem *problem, const long double *key, const double *v, long double *state) {
  const int64_t rows = n_features(problem), width = problem->value_width;
  for (int64_t r = 0; r < rows; r++) {
    state[r] += key[r];
    for (int64_t e = 0; e < width; e++) state[rows + r * width + e] += key[r] * v[e];
  }
}

static void emit(const struct favor_problem *problem, const long double *query, const long double *state, double *out) {
  const int64_t rows = n_features(problem), width = problem->value_width;
  long double sum = 0;
  for (int64_t r = 0; r < rows; r++) sum += query[r] * state[r];
  for (int64_t e = 0; e < width; e++) {
    long double numerator = 0;
    for (int64_t r = 0; r < rows; r++) numerator += query[r] * state[rows + r * width + e];
    out[e] = (double)(numerator / guarded(problem, sum, query));
  }
}

static void expect_segment(const struct favor_problem *problem, const struct case_tensors *t, const double *projection,
                           int64_t head, double key_max, int64_t begin, int64_t end, double *out) {
  const int64_t g = case_kv_head(problem, head);
  long double phi[64], state[64 * 8] = {0};
  for (int64_t i = begin; i < end && !problem->is_causal; i++) {
    features(problem, projection, case_key(t, g, i), false, key_max, phi);
    absorb(problem, phi, case_value(t, g, i), state);
  }
  for (int64_t i = begin; i < end; i++) {
    if (problem->is_causal) {
      features(problem, projection, case_key(t, g, i), false, key_max, phi);
      absorb(problem, phi, case_value(t, g, i), state);
    }
    features(problem, projection, case_query(t, head, i), true, key_max, phi);
    emit(problem, phi, state, out + (head * t->tokens + i) * t->value_width);
  }
}

static double *expect(const struct favor_problem *problem, const struct case_tensors *t, const double *projection) {
  const int64_t stride = problem->has_projection_per_head ? problem->features * problem->key_width : 0;
  double *out = calloc((size_t)(t->heads * t->tokens * t->value_width), sizeof *out), key_max[8];
  key_maxima_of(problem, t, projection, key_max);
  for (int64_t h = 0; h < t->heads; h++) {
    const int64_t g = case_kv_head(problem, h);
    for (int64_t s = 0; s < problem->n_segments; s++) {
      expect_segment(problem, t, projection + g % problem->kv_heads * stride, h, key_max[g], problem->segments[s],
                     problem->segments[s + 1], out);
    }
  }
  return out;
}

/* All projections of a plan in double. */
static double *projections_of(const struct favor_plan *plan, const struct favor_problem *problem) {
  const int64_t n = (problem->has_projection_per_head ? problem->kv_heads : 1) * problem->features * problem->key_width;
  double *projection = calloc((size_t)n, sizeof *projection);
  for (int64_t i = 0; i < n; i++) projection[i] = run_element(problem, favor_plan_projection(plan), i);
  return projection;
}

/* Whether the world's plan gives these bytes. */
static void check_bits(const struct favor_problem *problem, const struct case_tensors *t, enum run_mode mode,
                       const void *right) {
  const size_t bytes = run_out_bytes(problem);
  void *out = malloc(bytes);
  const enum favor_status status = run_problem(contexts.world, problem, t, mode, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts.world));
  assert_all(status == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, out, bytes);
  assert_all(memcmp(out, right, bytes) == 0);
  free(out);
}

/* The same bytes from any grid, threads and steps. */
static void check_all_bits(const struct favor_problem *given, const struct case_tensors *t, const void *right) {
  struct favor_problem problem = *given;
  check_bits(&problem, t, RUN_EXECUTE, right);
  problem.threads = mpi_size() > 2 ? 1 : 2; /* more would wait for each other on small machines */
  problem.grid_heads = 1;
  problem.grid_tokens = mpi_size();
  problem.block_tokens = 512;
  check_bits(&problem, t, RUN_BLOCKS, right);
}

/* Key maxima, given back, give the same bytes from outputs that no later token changes. */
static void check_estimates(const struct favor_problem *given, const struct case_tensors *t, struct favor_plan *plan,
                            const double *projection, const void *right) {
  struct favor_estimates estimates;
  struct favor_plan_info info;
  double expected[8];
  assert_all(favor_plan_estimates(plan, &estimates) == FAVOR_OK);
  favor_plan_info(plan, &info);
  assert_all((estimates.key_max != NULL) == (given->key_max != FAVOR_KEY_MAX_NONE));
  assert_all(info.is_strictly_causal == (given->is_causal && !estimates.key_max));
  if (!estimates.key_max) return;
  bool is_right = true;
  if (mpi_rank() == 0) key_maxima_of(given, t, projection, expected);
  for (int64_t g = 0; g < t->kv_heads && mpi_rank() == 0; g++) {
    is_right = is_right && fabs(estimates.key_max[g] - expected[g]) <= 1e-12 * expected[g];
  }
  assert_all(is_right);
  struct favor_problem problem = *given;
  struct favor_plan *given_plan = NULL;
  problem.estimates = &estimates;
  check_bits(&problem, t, RUN_BLOCKS, right);
  assert_all(favor_plan_create(contexts.world, &problem, &given_plan) == FAVOR_OK);
  favor_plan_info(given_plan, &info);
  assert_all(info.is_strictly_causal == given->is_causal);
  favor_plan_destroy(&given_plan);
}

/* On rank 0, whose word the others take; all have the same output. */
static double error_of(const struct favor_problem *problem, const struct case_tensors *t, const double *projection,
                       const void *out) {
  const int64_t count = t->heads * t->tokens * t->value_width;
  if (mpi_rank() != 0) return 0;
  double *got = calloc((size_t)count, sizeof *got), *expected = expect(problem, t, projection);
  for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, i);
  const double error = oracle_relative_error(got, expected, count);
  free(expected);
  free(got);
  return error;
}

/* One rank against the definition, then all ranks against that one. */
static void check_definition(const char *name, const struct favor_problem *given, double spread, double bound) {
  struct favor_problem problem = *given;
  struct favor_plan *plan = NULL;
  struct case_tensors t;
  tensors_of(&problem, spread, &t);
  void *out = malloc(run_out_bytes(&problem));
  problem.threads = 1;
  assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
  assert_all(run_plan(plan, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
  double *projection = projections_of(plan, &problem);
  const double error = error_of(&problem, &t, projection, out);
  run_print("  %s, %s, %s: %.1e\n", name, problem.is_causal ? "causal" : "bidirectional",
            problem.precision == FAVOR_PRECISION_F64 ? "f64" : "f32", error);
  assert_all(error <= bound);
  check_all_bits(&problem, &t, out);
  check_estimates(&problem, &t, plan, projection, out);
  favor_plan_destroy(&plan);
  free(projection);
  free(out);
  case_tensors_destroy(&t);
}

static void definitions_hold(void **state) {
  (void)state;
  contexts = run_contexts_open();
  for (int i = 0; favor_profile_name(i); i++) {
    struct favor_problem problem = problem_of(i % 2, FAVOR_PRECISION_F64);
    assert_all(favor_problem_set_profile(&problem, favor_profile_name(i)) == FAVOR_OK);
    check_definition(favor_profile_name(i), &problem, usual_spread, 1e-12);
    problem.is_causal = !problem.is_causal;
    problem.precision = FAVOR_PRECISION_F32;
    check_definition(favor_profile_name(i), &problem, usual_spread, 1e-5);
  }
  run_contexts_close(&contexts);
}

/* Rows so long that a tile's own weights are lost, and computed again apart: their guard is the same. */
static void lost_rows_are_guarded(void **state) {
  (void)state;
  contexts = run_contexts_open();
  struct favor_problem problem = problem_of(true, FAVOR_PRECISION_F64);
  assert_all(favor_problem_set_profile(&problem, "idiap") == FAVOR_OK);
  check_definition("idiap, long rows", &problem, 8, 1e-12);
  assert_all(favor_problem_set_profile(&problem, "slim") == FAVOR_OK);
  check_definition("slim, long rows", &problem, 8, 1e-12);
  run_contexts_close(&contexts);
}

/* eps and key maxima without a profile: both maps, and a scale of the packages' that no maximum is taken off. */
static void parts_hold_alone(void **state) {
  (void)state;
  contexts = run_contexts_open();
  struct favor_problem problem = problem_of(true, FAVOR_PRECISION_F64);
  problem.map = FAVOR_MAP_HYPERBOLIC;
  problem.eps = 1e-3;
  problem.key_max = FAVOR_KEY_MAX_TENSOR;
  check_definition("hyperbolic, eps 1e-3, tensor", &problem, usual_spread, 1e-12);
  problem.key_max = FAVOR_KEY_MAX_NONE;
  check_definition("hyperbolic, eps 1e-3", &problem, usual_spread, 1e-12);
  problem.map = FAVOR_MAP_POSITIVE;
  problem.is_causal = false;
  check_definition("positive, eps 1e-3", &problem, usual_spread, 1e-12);
  run_contexts_close(&contexts);
}

/* ---- what else has to hold -------------------------------------------------------------------------------------- */

/* However long rows are, or all 0: outputs are finite, and no weight is negative. */
static void outputs_stay_finite(void **state) {
  (void)state;
  static const double spreads[] = {0, 1e-30, 30, 500};
  contexts = run_contexts_open();
  for (int i = 0; favor_profile_name(i); i++) {
    for (int j = 0; j < 8; j++) {
      struct favor_problem problem = problem_of(j % 2, FAVOR_PRECISION_F32);
      struct case_tensors t;
      favor_problem_set_profile(&problem, favor_profile_name(i));
      problem.tokens = 300;
      problem.segments = NULL;
      case_tensors_create(&problem, 7, spreads[j / 2], &t);
      float *out = malloc(run_out_bytes(&problem));
      assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
      bool is_mean = true;
      for (int64_t n = 0; n < t.heads * t.tokens * t.value_width; n++) is_mean = is_mean && fabsf(out[n]) <= 3.5F;
      assert_all(is_mean);
      free(out);
      case_tensors_destroy(&t);
    }
  }
  run_contexts_close(&contexts);
}

static void refuse(const struct favor_problem *problem, const char *text) {
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts.world, problem, &plan) == FAVOR_EUSAGE);
  assert_all(strstr(favor_context_message(contexts.world), text) != NULL);
}

static void wrong_problems_are_refused(void **state) {
  (void)state;
  contexts = run_contexts_open();
  const struct favor_problem plain = problem_of(true, FAVOR_PRECISION_F32);
  struct favor_problem problem = plain;
  assert_all(favor_problem_set_profile(&problem, "lucid") == FAVOR_EUSAGE);
  assert_all(memcmp(&problem, &plain, sizeof problem) == 0);
  assert_all(favor_problem_set_profile(&problem, "lucidrains") == FAVOR_OK);
  problem.balance = FAVOR_BALANCE_DIAGONAL;
  refuse(&problem, "key shift and balance leave softmax attention as it is");
  problem.balance = FAVOR_BALANCE_NONE;
  problem.guard = 0;
  refuse(&problem, "guard is 0");
  problem.map = FAVOR_MAP_RELU;
  refuse(&problem, "map relu takes no guard");
  problem.guard_rule = FAVOR_GUARD_NONE;
  refuse(&problem, "map relu takes no key maximum");
  run_contexts_close(&contexts);
}

/* A number that is none, in the last key, is named although only the pass for the maximum has seen it. */
static void what_is_not_finite_is_refused(void **state) {
  (void)state;
  contexts = run_contexts_open();
  struct favor_problem problem = problem_of(true, FAVOR_PRECISION_F32);
  struct case_tensors t;
  favor_problem_set_profile(&problem, "lucidrains-legacy");
  case_tensors_create(&problem, 8, 1, &t);
  case_key(&t, 3, 2999)[2] = (double)NAN;
  void *out = malloc(run_out_bytes(&problem));
  assert_all(run_problem(contexts.world, &problem, &t, RUN_BLOCKS, out) == FAVOR_EDATA);
  assert_all(strstr(favor_context_message(contexts.world), "NaN in k, head 3, token 2999") != NULL);
  free(out);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(definitions_hold),           mpi_unit_test(lost_rows_are_guarded),
      mpi_unit_test(parts_hold_alone),           mpi_unit_test(outputs_stay_finite),
      mpi_unit_test(wrong_problems_are_refused), mpi_unit_test(what_is_not_finite_is_refused),
  };
  return mpi_cmocka_main(&argc, &argv, "profiles", tests, sizeof tests / sizeof tests[0]);
}

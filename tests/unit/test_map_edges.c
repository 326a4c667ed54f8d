/* The maps beside the exponential ones on one rank: states and the decoder against the oracle, and what happens where
 * features or normalisers vanish. */
#include "mpi_cmocka.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "map_cases.h"
#include "run.h"

/* ---- states and the decoder -------------------------------------------------------------------------------------- */

/* One head by the library, from start to end: [N][E]. Owned by the caller. */
static double *attend_alone(const struct run_contexts *contexts, const struct favor_problem *problem,
                            const struct case_tensors *t) {
  int64_t count = t->heads * t->tokens * t->value_width;
  void *out = malloc(run_out_bytes(problem) + 1);
  double *got = calloc((size_t)count + 1, sizeof *got);
  enum favor_status status = run_problem(contexts->self, problem, t, RUN_EXECUTE, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->self));
  assert_all(status == FAVOR_OK);
  for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, i);
  free(out);
  return got;
}

static struct favor_problem small_problem(int map, bool is_causal, enum favor_precision precision) {
  struct favor_problem problem = favor_problem_default();
  problem.map = map_cases[map].map;
  problem.is_negative_allowed = true;
  problem.is_causal = is_causal;
  problem.precision = precision;
  problem.tokens = 300;
  problem.key_width = 12;
  problem.value_width = 5;
  problem.features = 40;
  return problem;
}

/* Every number of the state within BOUND of the sizes of its terms. */
static double excess_of_state(const struct favor_problem *problem, const struct favor_plan *plan,
                              const struct oracle_state *right) {
  int64_t m = oracle_map_features(problem->map) * problem->features, width = problem->value_width;
  void *bytes = malloc(favor_plan_export_bytes(plan));
  int32_t *exponent = calloc((size_t)m, sizeof *exponent);
  double *s = calloc((size_t)(m * width), sizeof *s), *z = calloc((size_t)m, sizeof *z), worst = 0;
  assert_all(favor_plan_export_state(plan, FAVOR_STATE_FINAL, 0, bytes) == FAVOR_OK);
  favor_state_decode(bytes, exponent, s, z);
  for (int64_t i = 0; i < m * (width + 1); i++) {
    int64_t r = i / (width + 1), e = i % (width + 1), at = r * width + e;
    double expected = e < width ? right->s[at] : right->z[r], size = e < width ? right->s_size[at] : right->z_size[r];
    double error = fabs(ldexp((e < width ? s[at] : z[r]), exponent[r]) - expected);
    if (error > 0) worst = oracle_worse(worst, (double)(error / size) / map_case_bound[problem->precision]);
  }
  free(bytes);
  free(exponent);
  free(s);
  free(z);
  return worst;
}

/* S and z, numerator and denominator of every output. */
static void states_agree_with_oracle(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (int map = 0; map < N_MAP_CASES; map++) {
    for (int precision = FAVOR_PRECISION_F32; precision <= FAVOR_PRECISION_F64; precision++) {
      struct favor_problem problem = small_problem(map, false, (enum favor_precision)precision);
      struct case_tensors t;
      case_tensors_create(&problem, (uint64_t)map, 1, &t);
      struct favor_plan *plan = NULL;
      void *out = malloc(run_out_bytes(&problem));
      assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
      assert_all(run_plan(plan, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
      double *projection = run_projection_of_head(plan, &problem, 0);
      struct oracle_head head = map_case_head(&problem, projection);
      struct oracle_state right =
          oracle_map_state(&head, problem.map, map_case_eps(&problem), t.k, t.v, 0, problem.tokens);
      double excess = excess_of_state(&problem, plan, &right);
      if (!(excess <= 1))
        run_print("%s, precision %d: state at %.3g of the bound\n", map_cases[map].name, precision, excess);
      worst = oracle_worse(worst, excess);
      oracle_state_destroy(&right);
      free(projection);
      free(out);
      favor_plan_destroy(&plan);
      case_tensors_destroy(&t);
    }
  }
  run_print("states: worst number at %.3f of the bound\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst <= 1);
}

/* The data in the problem's type. */
static void *packed(const struct favor_problem *problem, const double *x, int64_t n) {
  bool is_f64 = problem->precision == FAVOR_PRECISION_F64;
  void *to = malloc((size_t)n * sizeof(double));
  for (int64_t i = 0; i < n; i++) {
    if (is_f64)
      ((double *)to)[i] = x[i];
    else
      ((float *)to)[i] = (float)x[i];
  }
  return to;
}

/* One head token by token: [N][E]. Owned by the caller. */
static double *decode_alone(const struct run_contexts *contexts, const struct favor_problem *problem,
                            const struct case_tensors *t) {
  size_t bytes = run_element_bytes(problem);
  int64_t n = t->tokens, d = t->key_width, e = t->value_width;
  char *q = packed(problem, t->q, n * d), *k = packed(problem, t->k, n * d), *v = packed(problem, t->v, n * e);
  char *out = malloc((size_t)(n * e) * bytes);
  double *got = calloc((size_t)(n * e), sizeof *got);
  struct favor_plan *plan = NULL;
  struct favor_decoder *decoder = NULL;
  assert_all(favor_plan_create(contexts->self, problem, &plan) == FAVOR_OK);
  assert_all(favor_decoder_create(plan, &decoder) == FAVOR_OK);
  for (int64_t i = 0; i < n; i++) {
    struct favor_input query = {q + (size_t)(i * d) * bytes, d, d}, key = {k + (size_t)(i * d) * bytes, d, d};
    struct favor_input value = {v + (size_t)(i * e) * bytes, e, e};
    struct favor_output output = {out + (size_t)(i * e) * bytes, e, e};
    assert_all(favor_decoder_step(decoder, &query, &key, &value, &output) == FAVOR_OK);
  }
  for (int64_t i = 0; i < n * e; i++) got[i] = run_element(problem, out, i);
  favor_decoder_destroy(&decoder);
  favor_plan_destroy(&plan);
  free(q);
  free(k);
  free(v);
  free(out);
  return got;
}

/* The projection of a plan of this problem on one rank. */
static double *projection_of(const struct run_contexts *contexts, const struct favor_problem *problem) {
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts->self, problem, &plan) == FAVOR_OK);
  double *projection = run_projection_of_head(plan, problem, 0);
  favor_plan_destroy(&plan);
  return projection;
}

/* How far a head is from the oracle's; got is freed. */
static double excess_of_alone(const struct run_contexts *contexts, const struct favor_problem *problem, bool is_signed,
                              const struct case_tensors *t, double *got) {
  double *projection = projection_of(contexts, problem);
  struct oracle_head head = map_case_head(problem, projection);
  struct oracle_quotients right = oracle_map_attend(&head, problem->map, map_case_eps(problem), t->q, t->k, t->v);
  double excess = map_case_excess(problem, is_signed, &right, got);
  oracle_quotients_destroy(&right);
  free(projection);
  free(got);
  return excess;
}

static void decoder_agrees_with_oracle(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (int map = 0; map < N_MAP_CASES; map++) {
    struct favor_problem problem = small_problem(map, true, map % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)map, 1, &t);
    double excess =
        excess_of_alone(&contexts, &problem, map_cases[map].is_signed, &t, decode_alone(&contexts, &problem, &t));
    if (!(excess <= 1)) run_print("%s: decoder at %.3g of the bound\n", map_cases[map].name, excess);
    worst = oracle_worse(worst, excess);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
  assert_all(worst <= 1);
}

/* ---- where features or normalisers are lost ---------------------------------------------------------------------- */

/* Features that are large for queries are tiny for keys: products of them leave float, and in a causal tile all weights
 * do. u is +-reach. */
static void opposed_features_are_not_lost(void **state) {
  (void)state;
  static const struct {
    enum favor_map map;
    double reach;
  } kinds[] = {{FAVOR_MAP_ELU, 120}, {FAVOR_MAP_EXP, 120}, {FAVOR_MAP_GELU, 15}, {FAVOR_MAP_SIGMOID, 120}};
  static const double w[] = {30, -30};
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 8; i++) {
    int map = map_case_at(kinds[i / 2].map);
    struct favor_problem problem = small_problem(map, i % 2, FAVOR_PRECISION_F32);
    problem.eps = 0;
    problem.key_width = 1;
    problem.features = 2;
    problem.scale = 1;
    problem.projection_data = w;
    struct case_tensors t;
    case_tensors_create(&problem, 1, 0.1, &t);
    for (int64_t j = 0; j < problem.tokens; j++) {
      t.q[j] = (1 + 0.01 * t.q[j]) * kinds[i / 2].reach / 30;
      t.k[j] = (0.01 * t.k[j] - 1) * kinds[i / 2].reach / 30;
    }
    case_tensors_round(&problem, &t);
    double excess =
        excess_of_alone(&contexts, &problem, map_cases[map].is_signed, &t, attend_alone(&contexts, &problem, &t));
    if (!(excess <= 1)) run_print("%s, %d: %.3g of the bound\n", map_cases[map].name, i % 2, excess);
    assert_all(excess <= 1);
    if (problem.is_causal) {
      excess =
          excess_of_alone(&contexts, &problem, map_cases[map].is_signed, &t, decode_alone(&contexts, &problem, &t));
      assert_all(excess <= 1);
    }
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Where the normaliser is 0 the output is 0, all else stays as the oracle has it. relu of the tokens themselves with
 * eps 0: no key of a run of tokens, and no query of every third, has a feature. */
static void no_features_give_zeros(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 8; i++) {
    struct favor_problem problem =
        small_problem(map_case_at(FAVOR_MAP_RELU), i % 2, i / 2 % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
    problem.eps = 0;
    problem.projection = FAVOR_PROJECTION_NONE;
    problem.features = problem.key_width;
    problem.kernel = i / 4 ? "reference" : "blas";
    struct case_tensors t;
    case_tensors_create(&problem, 1, 1, &t);
    for (int64_t j = 0; j < problem.tokens * problem.key_width; j++) {
      if (j / problem.key_width < 130) t.k[j] = -fabs(t.k[j]);
      if (j / problem.key_width % 3 == 0) t.q[j] = -fabs(t.q[j]);
    }
    double *got = attend_alone(&contexts, &problem, &t), *decoded = NULL;
    if (problem.is_causal) decoded = decode_alone(&contexts, &problem, &t);
    for (int64_t j = 0; j < problem.tokens; j++) {
      bool is_lost = j % 3 == 0 || (problem.is_causal && j < 130);
      for (int64_t e = 0; e < problem.value_width; e++) {
        double out = got[j * problem.value_width + e];
        assert_all(isfinite(out) && (out == 0) == is_lost);
        if (decoded) {
          assert_all((decoded[j * problem.value_width + e] == 0) == is_lost);
          assert_all(fabs(decoded[j * problem.value_width + e] - out) < 1e-5 * (1 + fabs(out)));
        }
      }
    }
    free(decoded);
    free(got);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* The identity of one number: weights q k. Keys 1, -1 cancel to exactly 0; 1 and -1 + 2^-20 leave 2^-20, by which
 * values of the size of the largest number are divided. */
static void cancelled_normalisers_are_bounded(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 4; i++) {
    struct favor_problem problem =
        small_problem(map_case_at(FAVOR_MAP_IDENTITY), true, i % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
    const double most = i % 2 ? DBL_MAX : (double)FLT_MAX;
    problem.kernel = i / 2 ? "reference" : "blas";
    problem.eps = 0;
    problem.scale = 1;
    problem.projection = FAVOR_PROJECTION_NONE;
    problem.tokens = 4;
    problem.features = problem.key_width = 1;
    problem.value_width = 2;
    double q[] = {1, 1, 1, -1}, k[] = {1, -1, 1, -1 + 0x1p-20}, v[] = {3, most, 1, 0, most, 2, 1, -2};
    struct case_tensors t = {
        .heads = 1, .kv_heads = 1, .tokens = 4, .key_width = 1, .value_width = 2, .q = q, .k = k, .v = v};
    double *got = attend_alone(&contexts, &problem, &t), *decoded = decode_alone(&contexts, &problem, &t);
    for (int j = 0; j < 2; j++) {
      const double *out = j ? decoded : got;
      assert_all(out[0] == 3 && out[1] == most); /* one key: its value, whatever it weighs */
      assert_all(out[2] == 0 && out[3] == 0);
      assert_all(out[4] == most);
      assert_all(out[6] == most && out[7] == most); /* sums of the largest number over 2^-20 */
    }
    free(got);
    free(decoded);
  }
  run_contexts_close(&contexts);
}

/* Long tokens: finite outputs, whatever features become. */
static void long_tokens_stay_finite(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int map = 0; map < N_MAP_CASES; map++) {
    for (int i = 0; i < 8; i++) {
      struct favor_problem problem = small_problem(map, i % 2, i / 2 % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
      problem.eps = i / 4 ? 0 : -1;
      struct case_tensors t;
      case_tensors_create(&problem, 3, i / 4 ? 800 : 40, &t);
      double *got = attend_alone(&contexts, &problem, &t);
      for (int64_t j = 0; j < problem.tokens * problem.value_width; j++) assert_all(isfinite(got[j]));
      free(got);
      case_tensors_destroy(&t);
    }
  }
  run_contexts_close(&contexts);
}

static void library_knows_figures_of_relu(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = small_problem(map_case_at(FAVOR_MAP_RELU), false, FAVOR_PRECISION_F64);
  problem.tokens = 4;
  problem.key_width = problem.features = 2;
  problem.value_width = 1;
  problem.scale = 1;
  problem.eps = 0;
  problem.projection = FAVOR_PROJECTION_NONE;
  struct case_tensors t = {.heads = 1,
                           .kv_heads = 1,
                           .tokens = 4,
                           .key_width = 2,
                           .value_width = 1,
                           .q = (double *)(uintptr_t)map_case_relu_q,
                           .k = (double *)(uintptr_t)map_case_relu_k,
                           .v = (double *)(uintptr_t)map_case_relu_v};
  double *got = attend_alone(&contexts, &problem, &t);
  for (int i = 0; i < 4; i++) assert_all(fabs(got[i] - map_case_relu_out[i]) < 1e-15);
  free(got);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(states_agree_with_oracle),          mpi_unit_test(decoder_agrees_with_oracle),
      mpi_unit_test(opposed_features_are_not_lost),     mpi_unit_test(no_features_give_zeros),
      mpi_unit_test(cancelled_normalisers_are_bounded), mpi_unit_test(long_tokens_stay_finite),
      mpi_unit_test(library_knows_figures_of_relu),
  };
  return mpi_cmocka_main(&argc, &argv, "map edges", tests, sizeof tests / sizeof tests[0]);
}

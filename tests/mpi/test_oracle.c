/* The library against the float64 oracle: random shapes of every map on every number of ranks; and the oracle against
 * itself. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>

#include "oracle.h"
#include "run.h"

static const double BOUND[] = {[FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 1e-12};

/* ---- the oracle itself ------------------------------------------------------------------------------------------- */

/* One feature, w = 1, scale 1: the weights are exp(k - k^2/2), whatever q is. */
static void oracle_knows_the_sigmoid(void **state) {
  (void)state;
  const double w = 1, q[2] = {3, -1}, k[2] = {0, 1}, v[2] = {0, 1};
  struct oracle_head head = {
      .tokens = 2, .key_width = 1, .value_width = 1, .features = 1, .scale = 1, .projection = &w};
  double out[2];
  oracle_attend(&head, q, k, v, out);
  assert_all(fabs(out[0] - 0.62245933120185456) < 1e-15 && fabs(out[1] - 0.62245933120185456) < 1e-15);
  head.is_causal = true;
  oracle_attend(&head, q, k, v, out);
  assert_all(out[0] == 0 && fabs(out[1] - 0.62245933120185456) < 1e-15);
  int64_t segments[] = {0, 0, 1, 2};
  head.segments = segments;
  head.n_segments = 3;
  oracle_attend(&head, q, k, v, out);
  assert_all(out[0] == 0 && out[1] == 1);
}

/* The same of both signs: the weights are cosh(q + k) exp(-(q^2 + k^2) / 2). */
static void oracle_knows_the_hyperbolic_cosine(void **state) {
  (void)state;
  const double w = 1, q[2] = {3, -1}, k[2] = {0, 1}, v[2] = {0, 1};
  struct oracle_head head = {.tokens = 2,
                             .key_width = 1,
                             .value_width = 1,
                             .features = 1,
                             .is_hyperbolic = true,
                             .scale = 1,
                             .projection = &w};
  double out[2];
  oracle_attend(&head, q, k, v, out);
  for (int i = 0; i < 2; i++) {
    double weight[2] = {cosh(q[i]), cosh(q[i] + 1) * exp(-0.5)};
    assert_all(fabs(out[i] - weight[1] / (weight[0] + weight[1])) < 1e-15);
  }
}

/* Running sums with their maxima, and all pairs in long double: two ways to the same numbers. */
static void oracle_agrees_with_all_pairs(void **state) {
  (void)state;
  static const double spreads[] = {0.1, 1, 4, 20};
  int64_t segments[] = {0, 0, 1, 20, 20, 47};
  double worst = 0;
  for (uint64_t number = 0; number < 16; number++) {
    struct favor_problem problem = favor_problem_default();
    problem.precision = FAVOR_PRECISION_F64;
    problem.tokens = 47;
    problem.key_width = 1 + (int64_t)(case_bits(number, 1, 0) % 40);
    problem.value_width = 1 + (int64_t)(case_bits(number, 1, 1) % 6);
    struct oracle_head head = {.tokens = problem.tokens,
                               .key_width = problem.key_width,
                               .value_width = problem.value_width,
                               .features = 1 + (int64_t)(case_bits(number, 1, 2) % 30),
                               .segments = number % 3 == 0 ? NULL : segments,
                               .n_segments = 5,
                               .is_causal = number % 2 == 0,
                               .is_hyperbolic = number / 2 % 2 == 1};
    struct case_tensors t;
    case_tensors_create(&problem, number, spreads[number / 4], &t);
    double *w = calloc((size_t)(head.features * head.key_width), sizeof *w);
    for (int64_t i = 0; i < head.features * head.key_width; i++) w[i] = case_deviate(number, 9, (uint64_t)i);
    head.projection = w;
    int64_t count = head.tokens * head.value_width;
    double *running = calloc((size_t)count, sizeof *running), *pairs = calloc((size_t)count, sizeof *pairs);
    oracle_attend(&head, t.q, t.k, t.v, running);
    oracle_attend_pairs(&head, t.q, t.k, t.v, pairs);
    worst = oracle_worse(worst, oracle_relative_error(running, pairs, count));
    free(running);
    free(pairs);
    free(w);
    case_tensors_destroy(&t);
  }
  run_print("oracle: running sums against all pairs: %.2g\n", worst);
  assert_all(worst < 1e-12);
}

static double normal(uint64_t index) {
  double u = ((double)(case_bits(7, 1, index) >> 11) + 0.5) * 0x1p-53;
  return sqrt(-2 * log(u)) * cos(6.283185307179586477 * (double)(case_bits(7, 2, index) >> 11) * 0x1p-53);
}

/* The error falls as M^-1/2: of 2^16 features about 1/32 of that of 64. */
static void oracle_approaches_softmax(void **state) {
  (void)state;
  enum { MANY = 1 << 16, FEW = 64, D = 3 };
  struct favor_problem problem = favor_problem_default();
  problem.precision = FAVOR_PRECISION_F64;
  problem.tokens = 24;
  problem.key_width = D;
  problem.value_width = 4;
  struct case_tensors t;
  case_tensors_create(&problem, 5, 0.7, &t);
  double *w = calloc((size_t)MANY * D, sizeof *w), error[2];
  for (int64_t i = 0; i < (int64_t)MANY * D; i++) w[i] = normal((uint64_t)i);
  for (int pass = 0; pass < 2; pass++) {
    struct oracle_head head = {.tokens = 24,
                               .key_width = D,
                               .value_width = 4,
                               .features = pass == 0 ? FEW : MANY,
                               .is_causal = true,
                               .projection = w};
    double out[24 * 4], exact[24 * 4];
    oracle_attend(&head, t.q, t.k, t.v, out);
    oracle_softmax(&head, t.q, t.k, t.v, exact);
    error[pass] = oracle_relative_error(out, exact, 24 * 4);
  }
  run_print("oracle against softmax: %.3g with %d features, %.3g with %d\n", error[0], FEW, error[1], MANY);
  assert_all(error[1] < 0.02 && error[1] < error[0] / 16);
  free(w);
  case_tensors_destroy(&t);
}

/* ---- the library ------------------------------------------------------------------------------------------------- */

/* The error of the worst head; heads are shared out over the ranks. Collective. */
static double worst_head_error(const struct favor_problem *problem, const struct favor_plan *plan,
                               const struct case_tensors *t, const void *out) {
  int64_t count = t->tokens * t->value_width;
  double *expected = calloc((size_t)count + 1, sizeof *expected), *got = calloc((size_t)count + 1, sizeof *got);
  double worst = 0;
  for (int64_t h = mpi_rank(); h < t->heads; h += mpi_size()) {
    double *projection = run_projection_of_head(plan, problem, h);
    struct oracle_head head = {.tokens = t->tokens,
                               .key_width = t->key_width,
                               .value_width = t->value_width,
                               .features = problem->features,
                               .segments = problem->segments,
                               .n_segments = problem->n_segments,
                               .is_causal = problem->is_causal,
                               .is_hyperbolic = problem->map == FAVOR_MAP_HYPERBOLIC,
                               .scale = problem->scale,
                               .projection = projection};
    int64_t kv = case_kv_head(problem, h);
    oracle_attend(&head, case_query(t, h, 0), case_key(t, kv, 0), case_value(t, kv, 0), expected);
    for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, h * count + i);
    worst = oracle_worse(worst, oracle_relative_error(got, expected, count));
    free(projection);
  }
  free(expected);
  free(got);
  MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

static double longest_row(const struct favor_plan *plan, const struct favor_problem *problem) {
  int64_t n_projections = problem->has_projection_per_head ? problem->kv_heads : 1, width = problem->key_width;
  double longest2 = 0;
  for (int64_t r = 0; r < n_projections * problem->features; r++) {
    double norm2 = 0;
    for (int64_t d = 0; d < width; d++) {
      norm2 += pow(run_element(problem, favor_plan_projection(plan), r * width + d), 2);
    }
    longest2 = fmax(longest2, norm2);
  }
  return sqrt(longest2);
}

static double error_of_case(const struct run_contexts *contexts, struct test_case *c, double *longest) {
  case_set_tokens(c, run_tokens_of(contexts->self, &c->problem));
  struct case_tensors t;
  case_tensors_create(&c->problem, c->number, c->spread, &t);
  void *out = malloc(run_out_bytes(&c->problem) + 1);
  struct favor_plan *plan = NULL;
  enum favor_status status = favor_plan_create(contexts->world, &c->problem, &plan);
  if (status == FAVOR_OK) status = run_plan(plan, &c->problem, &t, RUN_EXECUTE, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  double error = INFINITY;
  if (status == FAVOR_OK) {
    run_gather(MPI_COMM_WORLD, out, run_out_bytes(&c->problem));
    error = worst_head_error(&c->problem, plan, &t, out);
    *longest = longest_row(plan, &c->problem);
  }
  favor_plan_destroy(&plan);
  free(out);
  case_tensors_destroy(&t);
  return error;
}

/* Cases [begin, end). */
static void agree_with_oracle(enum favor_map map, uint64_t begin, uint64_t end) {
  struct run_contexts contexts = run_contexts_open();
  double worst[2] = {0, 0};
  for (uint64_t number = begin; number < end; number++) {
    struct test_case c;
    case_draw(number, &c);
    c.problem.map = map;
    double longest, error = error_of_case(&contexts, &c, &longest);
    if (!(error <= BOUND[c.problem.precision])) {
      char text[256];
      case_describe(&c, text, sizeof text);
      run_print("%s: error %.3g\n", text, error);
    }
    worst[c.problem.precision] = oracle_worse(worst[c.problem.precision], error);
    case_release(&c);
  }
  run_print("library against oracle, %d shapes: worst head %.3g in f32, %.3g in f64\n", (int)(end - begin),
            worst[FAVOR_PRECISION_F32], worst[FAVOR_PRECISION_F64]);
  run_contexts_close(&contexts);
  assert_all(worst[FAVOR_PRECISION_F32] <= BOUND[FAVOR_PRECISION_F32]);
  assert_all(worst[FAVOR_PRECISION_F64] <= BOUND[FAVOR_PRECISION_F64]);
}

static void positive_map_agrees_with_oracle(void **state) {
  (void)state;
  agree_with_oracle(FAVOR_MAP_POSITIVE, 0, 40);
}

/* 20 numbers in a row cover what 40 do, but for the kernels that meet each spread. */
static void hyperbolic_map_agrees_with_oracle(void **state) {
  (void)state;
  agree_with_oracle(FAVOR_MAP_HYPERBOLIC, 40, 60);
}

/* The shape that bf16 is promised for, and the cases of f32 above, on the W that the plan rounded. */
static void bf16_agrees_with_oracle(void **state) {
  (void)state;
  if (case_count_kernels(FAVOR_PRECISION_BF16) == 0) return;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0, worst_of_promise = 0;
  for (uint64_t number = 0; number < 60; number++) {
    struct test_case c;
    case_draw(number, &c);
    c.problem.map = number < 40 ? FAVOR_MAP_POSITIVE : FAVOR_MAP_HYPERBOLIC;
    if (c.problem.precision == FAVOR_PRECISION_F32) {
      c.problem.precision = FAVOR_PRECISION_BF16;
      c.problem.kernel = case_kernel(number, FAVOR_PRECISION_BF16);
      bool is_promise = number < 4;
      if (is_promise) {
        c.problem.key_width = c.problem.value_width = 64;
        c.problem.features = 256;
        c.problem.scale = 0;
        c.spread = 0.5;
      }
      double longest = 0, error = error_of_case(&contexts, &c, &longest);
      double share = error / case_bf16_bound(&c.problem, c.spread, longest);
      if (!(share <= 1)) {
        char text[256];
        case_describe(&c, text, sizeof text);
        run_print("%s: error %.3g of its bound\n", text, share);
      }
      worst = oracle_worse(worst, share);
      if (is_promise) worst_of_promise = oracle_worse(worst_of_promise, error);
    }
    case_release(&c);
  }
  run_print("bf16 against oracle: worst head %.3g at D=E=64, M=256, spread 0.5; elsewhere %.3g of the bound\n",
            worst_of_promise, worst);
  run_contexts_close(&contexts);
  assert_all(worst_of_promise <= 4e-3);
  assert_all(worst <= 1);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(oracle_knows_the_sigmoid),        mpi_unit_test(oracle_knows_the_hyperbolic_cosine),
      mpi_unit_test(oracle_agrees_with_all_pairs),    mpi_unit_test(oracle_approaches_softmax),
      mpi_unit_test(positive_map_agrees_with_oracle), mpi_unit_test(hyperbolic_map_agrees_with_oracle),
      mpi_unit_test(bf16_agrees_with_oracle),
  };
  return mpi_cmocka_main(&argc, &argv, "oracle", tests, sizeof tests / sizeof tests[0]);
}

/* Every map beside the exponential ones against the oracle, on every number of ranks, with every projection; what
 * happens where a normaliser vanishes; and what is refused. */
#include "mpi_cmocka.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle_maps.h"
#include "run.h"

/* Of outputs where no feature is negative; else of numerators and normalisers, relative to the sizes of their terms. */
static const double BOUND[] = {[FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 1e-12};

static const struct {
  enum favor_map map;
  const char *name;
  bool is_signed;
} MAPS[] = {
    {FAVOR_MAP_TRIGONOMETRIC, "trigonometric", true},
    {FAVOR_MAP_RELU, "relu", false},
    {FAVOR_MAP_ELU, "elu", false},
    {FAVOR_MAP_EXP, "exp", false},
    {FAVOR_MAP_GELU, "gelu", true},
    {FAVOR_MAP_SIGMOID, "sigmoid", false},
    {FAVOR_MAP_TANH, "tanh", true},
    {FAVOR_MAP_ABS, "abs", false},
    {FAVOR_MAP_SQUARE, "square", false},
    {FAVOR_MAP_COS, "cos", true},
    {FAVOR_MAP_IDENTITY, "identity", true},
};
enum { N_MAPS = sizeof MAPS / sizeof MAPS[0] };

/* eps as the library uses it. */
static double eps_of(const struct favor_problem *problem) {
  if (problem->eps >= 0) return problem->eps;
  return problem->map == FAVOR_MAP_TRIGONOMETRIC ? 0 : 1e-3;
}

static struct oracle_head head_of(const struct favor_problem *problem, const double *projection) {
  return (struct oracle_head){.tokens = problem->tokens,
                              .key_width = problem->key_width,
                              .value_width = problem->value_width,
                              .features = problem->features,
                              .segments = problem->segments,
                              .n_segments = problem->n_segments,
                              .is_causal = problem->is_causal,
                              .scale = problem->scale,
                              .projection = projection};
}

/* ---- the oracle itself ------------------------------------------------------------------------------------------- */

/* The figures of google-research/scenic's test of relu attention without a projection: 26/19, 58/43, 6/5, 36/26. */
static const double RELU_Q[] = {1, 2, 3, 4, 1, -1, 1, 3}, RELU_K[] = {-3, 1, 1, 5, -2, -3, 4, 1};
static const double RELU_V[] = {-1, 2, 3, 1}, RELU_OUT[] = {26.0 / 19, 58.0 / 43, 6.0 / 5, 36.0 / 26};
static const double IDENTITY[] = {1, 0, 0, 1};

static void oracle_knows_figures_of_relu(void **state) {
  (void)state;
  struct oracle_head head = {
      .tokens = 4, .key_width = 2, .value_width = 1, .features = 2, .scale = 1, .projection = IDENTITY};
  struct oracle_quotients found = oracle_map_attend(&head, FAVOR_MAP_RELU, 0, RELU_Q, RELU_K, RELU_V);
  for (int i = 0; i < 4; i++) {
    assert_all(fabs((double)(found.numerator[i] / found.normaliser[i]) - RELU_OUT[i]) < 1e-15);
  }
  oracle_quotients_destroy(&found);
}

/* Values of the functions from tables, at u = 1 and -2; and cos, exp and their like from identities. */
static void oracle_knows_the_functions(void **state) {
  (void)state;
  static const struct {
    enum favor_map map;
    double at_1, at_minus_2;
  } values[] = {{FAVOR_MAP_RELU, 1, 0},
                {FAVOR_MAP_ELU, 2, 0.1353352832366127},
                {FAVOR_MAP_EXP, 2.718281828459045, 0.1353352832366127},
                {FAVOR_MAP_GELU, 0.8413447460685429, -0.0455002638963584},
                {FAVOR_MAP_SIGMOID, 0.7310585786300049, 0.1192029220221176},
                {FAVOR_MAP_TANH, 0.7615941559557649, -0.9640275800758169},
                {FAVOR_MAP_ABS, 1, 2},
                {FAVOR_MAP_SQUARE, 1, 4},
                {FAVOR_MAP_COS, 0.5403023058681398, -0.4161468365471424},
                {FAVOR_MAP_IDENTITY, 1, -2}};
  const double w = 1, x[2] = {1, -2};
  struct oracle_head head = {.key_width = 1, .features = 1, .scale = 1, .projection = &w};
  long double phi[2];
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
    for (int j = 0; j < 2; j++) {
      oracle_map_features_of(&head, values[i].map, 0.25, &x[j], phi);
      assert_all(fabs((double)phi[0] - 0.25 - (j ? values[i].at_minus_2 : values[i].at_1)) < 1e-15);
    }
  }
  oracle_map_features_of(&head, FAVOR_MAP_TRIGONOMETRIC, 0, &x[1], phi);
  assert_all(fabs((double)hypotl(phi[0], phi[1]) - exp(2)) < 1e-14 && phi[0] < 0 && phi[1] < 0);
}

/* Against the other oracle, where both know the map. */
static void oracle_agrees_with_that_of_exponentials(void **state) {
  (void)state;
  struct favor_problem problem = favor_problem_default();
  problem.tokens = 31;
  problem.key_width = 5;
  problem.value_width = 3;
  problem.precision = FAVOR_PRECISION_F64;
  problem.features = 9;
  struct case_tensors t;
  case_tensors_create(&problem, 1, 1, &t);
  double w[45], expected[93];
  for (int i = 0; i < 45; i++) w[i] = case_deviate(1, 9, (uint64_t)i);
  int64_t segments[] = {0, 12, 12, 31};
  problem.segments = segments;
  problem.n_segments = 3;
  for (int i = 0; i < 4; i++) {
    enum favor_map map = i % 2 ? FAVOR_MAP_HYPERBOLIC : FAVOR_MAP_POSITIVE;
    struct oracle_head head = head_of(&problem, w);
    head.is_causal = i / 2;
    head.is_hyperbolic = i % 2;
    oracle_attend(&head, t.q, t.k, t.v, expected);
    struct oracle_quotients found = oracle_map_attend(&head, map, 0, t.q, t.k, t.v);
    for (int j = 0; j < 93; j++) {
      assert_all(fabs((double)(found.numerator[j] / found.normaliser[j / 3]) - expected[j]) < 1e-13);
    }
    oracle_quotients_destroy(&found);
  }
  case_tensors_destroy(&t);
}

/* ---- the library against the oracle ------------------------------------------------------------------------------ */

/* How far the outputs of a head are from the oracle's, in units of BOUND. */
static double excess_of_head(const struct favor_problem *problem, bool is_signed, const struct oracle_quotients *right,
                             const double *got) {
  int64_t width = problem->value_width, count = problem->tokens * width;
  const double bound = BOUND[problem->precision];
  double worst = 0, error2 = 0, norm2 = 0;
  for (int64_t i = 0; i < count; i++) {
    long double total = right->normaliser[i / width], expected = right->numerator[i] / total;
    if (!isfinite(got[i])) return INFINITY;
    error2 += pow((double)((long double)got[i] - expected), 2);
    norm2 += pow((double)expected, 2);
    if (!is_signed) continue;
    double error = (double)fabsl((long double)got[i] * total - right->numerator[i]);
    double size = (double)(right->numerator_size[i] + fabsl((long double)got[i]) * right->normaliser_size[i / width]);
    if (error > 0) worst = oracle_worse(worst, error / size / bound);
  }
  return is_signed ? worst : error2 > 0 ? sqrt(error2 / norm2) / bound : 0;
}

/* The worst head; heads are shared out over the ranks. Collective. */
static double excess_of(const struct favor_problem *problem, bool is_signed, const struct favor_plan *plan,
                        const struct case_tensors *t, const void *out) {
  int64_t count = t->tokens * t->value_width;
  double *got = calloc((size_t)count + 1, sizeof *got), worst = 0;
  for (int64_t h = mpi_rank(); h < t->heads; h += mpi_size()) {
    double *projection = run_projection_of_head(plan, problem, h);
    struct oracle_head head = head_of(problem, projection);
    int64_t kv = case_kv_head(problem, h);
    struct oracle_quotients right = oracle_map_attend(&head, problem->map, eps_of(problem), case_query(t, h, 0),
                                                      case_key(t, kv, 0), case_value(t, kv, 0));
    for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, h * count + i);
    worst = oracle_worse(worst, excess_of_head(problem, is_signed, &right, got));
    oracle_quotients_destroy(&right);
    free(projection);
  }
  free(got);
  MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

static double excess_of_case(const struct run_contexts *contexts, struct test_case *c, bool is_signed) {
  case_set_tokens(c, run_tokens_of(contexts->self, &c->problem));
  struct case_tensors t;
  case_tensors_create(&c->problem, c->number, c->spread, &t);
  void *out = malloc(run_out_bytes(&c->problem) + 1);
  struct favor_plan *plan = NULL;
  enum favor_status status = favor_plan_create(contexts->world, &c->problem, &plan);
  if (status == FAVOR_OK) status = run_plan(plan, &c->problem, &t, RUN_EXECUTE, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  double excess = INFINITY;
  if (status == FAVOR_OK) {
    run_gather(MPI_COMM_WORLD, out, run_out_bytes(&c->problem));
    excess = excess_of(&c->problem, is_signed, plan, &t, out);
  }
  favor_plan_destroy(&plan);
  free(out);
  case_tensors_destroy(&t);
  return excess;
}

/* Case 4 i + j is of map i, in mode and precision j. eps: 0, or the map's own. */
static void draw_case(int map, uint64_t mode, bool has_eps, struct test_case *c) {
  static const enum favor_projection projections[] = {FAVOR_PROJECTION_NONE, FAVOR_PROJECTION_ORTHOGONAL,
                                                      FAVOR_PROJECTION_SIMPLEX, FAVOR_PROJECTION_HADAMARD};
  uint64_t number = 4 * (uint64_t)map + mode;
  case_draw(100 + number, c);
  c->problem.map = MAPS[map].map;
  c->problem.kernel = number % 3 ? "auto" : "reference";
  c->problem.eps = has_eps ? -1 : 0;
  c->problem.is_negative_allowed = true;
  c->problem.projection = projections[number % 4 ^ (number / 4 % 4)];
  if (MAPS[map].map == FAVOR_MAP_TRIGONOMETRIC && c->problem.projection == FAVOR_PROJECTION_NONE) {
    c->problem.projection = FAVOR_PROJECTION_GAUSSIAN;
  }
  if (c->problem.projection == FAVOR_PROJECTION_NONE) c->problem.features = c->problem.key_width;
}

static void agree_with_oracle(bool has_eps) {
  struct run_contexts contexts = run_contexts_open();
  double worst_of_all = 0;
  for (int map = 0; map < N_MAPS; map++) {
    double worst = 0;
    for (uint64_t mode = 0; mode < 4; mode++) {
      struct test_case c;
      draw_case(map, mode, has_eps, &c);
      double excess = excess_of_case(&contexts, &c, MAPS[map].is_signed);
      if (!(excess <= 1)) {
        char text[256];
        case_describe(&c, text, sizeof text);
        run_print("%s, %s: %.3g of the bound\n", MAPS[map].name, text, excess);
      }
      worst = oracle_worse(worst, excess);
      case_release(&c);
    }
    run_print("%-13s worst case at %.3f of the bound\n", MAPS[map].name, worst);
    worst_of_all = oracle_worse(worst_of_all, worst);
  }
  run_contexts_close(&contexts);
  assert_all(worst_of_all <= 1);
}

static void maps_agree_with_oracle(void **state) {
  (void)state;
  agree_with_oracle(true);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(oracle_knows_figures_of_relu),
      mpi_unit_test(oracle_knows_the_functions),
      mpi_unit_test(oracle_agrees_with_that_of_exponentials),
      mpi_unit_test(maps_agree_with_oracle),
  };
  return mpi_cmocka_main(&argc, &argv, "maps", tests, sizeof tests / sizeof tests[0]);
}

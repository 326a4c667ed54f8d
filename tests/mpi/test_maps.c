/* Every map beside the exponential ones against the oracle, on every number of ranks, with every projection; and what
 * is refused. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"
#include "map_cases.h"
#include "run.h"

/* ---- the oracle itself ------------------------------------------------------------------------------------------- */

static const double IDENTITY[] = {1, 0, 0, 1};

static void oracle_knows_figures_of_relu(void **state) {
  (void)state;
  struct oracle_head head = {
      .tokens = 4, .key_width = 2, .value_width = 1, .features = 2, .scale = 1, .projection = IDENTITY};
  struct oracle_quotients found =
      oracle_map_attend(&head, FAVOR_MAP_RELU, 0, map_case_relu_q, map_case_relu_k, map_case_relu_v);
  for (int i = 0; i < 4; i++) {
    assert_all(fabs((double)(found.numerator[i] / found.normaliser[i]) - map_case_relu_out[i]) < 1e-15);
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
  double phi[2];
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
    for (int j = 0; j < 2; j++) {
      oracle_map_features_of(&head, values[i].map, 0.25, &x[j], phi);
      assert_all(fabs((double)phi[0] - 0.25 - (j ? values[i].at_minus_2 : values[i].at_1)) < 1e-15);
    }
  }
  oracle_map_features_of(&head, FAVOR_MAP_TRIGONOMETRIC, 0, &x[1], phi);
  assert_all(fabs((double)hypot(phi[0], phi[1]) - exp(2)) < 1e-14 && phi[0] < 0 && phi[1] < 0);
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
    struct oracle_head head = map_case_head(&problem, w);
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

/* The worst head; heads are shared out over the ranks. Collective. */
static double excess_of(const struct favor_problem *problem, bool is_signed, const struct favor_plan *plan,
                        const struct case_tensors *t, const void *out) {
  int64_t count = t->tokens * t->value_width;
  double *got = calloc((size_t)count + 1, sizeof *got), worst = 0;
  for (int64_t h = mpi_rank(); h < t->heads; h += mpi_size()) {
    double *projection = run_projection_of_head(plan, problem, h);
    struct oracle_head head = map_case_head(problem, projection);
    int64_t kv = case_kv_head(problem, h);
    struct oracle_quotients right = oracle_map_attend(&head, problem->map, map_case_eps(problem), case_query(t, h, 0),
                                                      case_key(t, kv, 0), case_value(t, kv, 0));
    for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, h * count + i);
    worst = oracle_worse(worst, map_case_excess(problem, is_signed, &right, got));
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
  c->problem.map = map_cases[map].map;
  c->problem.kernel = number % 3 ? "auto" : "reference";
  c->problem.eps = has_eps ? -1 : 0;
  c->problem.is_negative_allowed = true;
  c->problem.projection = projections[number % 4 ^ (number / 4 % 4)];
  if (map_cases[map].map == FAVOR_MAP_TRIGONOMETRIC && c->problem.projection == FAVOR_PROJECTION_NONE) {
    c->problem.projection = FAVOR_PROJECTION_GAUSSIAN;
  }
  if (c->problem.projection == FAVOR_PROJECTION_NONE) c->problem.features = c->problem.key_width;
}

static void agree_with_oracle(bool has_eps) {
  struct run_contexts contexts = run_contexts_open();
  double worst_of_all = 0;
  for (int map = 0; map < N_MAP_CASES; map++) {
    double worst = 0;
    for (uint64_t mode = 0; mode < 4; mode++) {
      struct test_case c;
      draw_case(map, mode, has_eps, &c);
      double excess = excess_of_case(&contexts, &c, map_cases[map].is_signed);
      if (!(excess <= 1)) {
        char text[256];
        case_describe(&c, text, sizeof text);
        run_print("%s, %s: %.3g of the bound\n", map_cases[map].name, text, excess);
      }
      worst = oracle_worse(worst, excess);
      case_release(&c);
    }
    run_print("%-13s worst case at %.3f of the bound\n", map_cases[map].name, worst);
    worst_of_all = oracle_worse(worst_of_all, worst);
  }
  run_contexts_close(&contexts);
  assert_all(worst_of_all <= 1);
}

static void maps_agree_with_oracle(void **state) {
  (void)state;
  agree_with_oracle(true);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

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

static void refuse(const struct run_contexts *contexts, const struct favor_problem *problem, const char *text) {
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts->world, problem, &plan) == FAVOR_EUSAGE && plan == NULL);
  if (!strstr(favor_context_message(contexts->world), text)) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(strstr(favor_context_message(contexts->world), text) != NULL);
}

static void maps_that_can_vanish_are_refused(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int map = 0; map < N_MAP_CASES; map++) {
    for (int has_eps = 0; has_eps < 2; has_eps++) {
      struct favor_problem problem = small_problem(map, false, FAVOR_PRECISION_F32);
      problem.is_negative_allowed = false;
      problem.eps = has_eps ? -1 : 0;
      const char *name = map_cases[map].name;
      bool is_positive = strcmp(name, "elu") == 0 || strcmp(name, "exp") == 0 || strcmp(name, "sigmoid") == 0;
      struct favor_plan *plan = NULL;
      if (map_cases[map].is_signed) {
        refuse(&contexts, &problem, "negative features");
      } else if (!is_positive && !has_eps) {
        refuse(&contexts, &problem, "with eps 0");
      } else {
        assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
        favor_plan_destroy(&plan);
        continue;
      }
      assert_all(strstr(favor_context_message(contexts.world), name) != NULL);
      assert_all(strstr(favor_context_message(contexts.world), "--allow-negative") != NULL);
    }
  }
  run_contexts_close(&contexts);
}

static void what_does_not_go_together_is_refused(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem relu = small_problem(map_case_at(FAVOR_MAP_RELU), false, FAVOR_PRECISION_F32), problem = relu;
  problem.precision = FAVOR_PRECISION_BF16;
  refuse(&contexts, &problem, "no kernel has map relu in precision bf16");
  if (kernel_find("avx512", FAVOR_PRECISION_F32, NULL)) {
    problem = relu;
    problem.kernel = "avx512";
    refuse(&contexts, &problem, "kernel avx512 does not have map relu; in precision f32 these do: blas, reference");
  }
  static const double wrong[] = {1e-31, 1e31, (double)INFINITY, (double)NAN};
  for (int i = 0; i < 4; i++) {
    problem = relu;
    problem.eps = wrong[i];
    refuse(&contexts, &problem, "eps is");
  }
  problem = relu;
  problem.map = FAVOR_MAP_TRIGONOMETRIC;
  problem.eps = 1e-6;
  refuse(&contexts, &problem, "map trigonometric needs none");
  problem.map = FAVOR_MAP_POSITIVE;
  problem.eps = -1;
  problem.projection = FAVOR_PROJECTION_NONE;
  refuse(&contexts, &problem, "map positive is an estimate over random rows");
  problem = relu;
  problem.projection = FAVOR_PROJECTION_NONE;
  refuse(&contexts, &problem, "features is 40: with projection none it must be the key width, 12");
  problem = relu;
  problem.eps = mpi_rank() == mpi_size() - 1 ? 1e-2 : 1e-3;
  if (mpi_size() > 1) refuse(&contexts, &problem, "different");
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(oracle_knows_figures_of_relu),
      mpi_unit_test(oracle_knows_the_functions),
      mpi_unit_test(oracle_agrees_with_that_of_exponentials),
      mpi_unit_test(maps_agree_with_oracle),
      mpi_unit_test(maps_that_can_vanish_are_refused),
      mpi_unit_test(what_does_not_go_together_is_refused),
  };
  return mpi_cmocka_main(&argc, &argv, "maps", tests, sizeof tests / sizeof tests[0]);
}

/* What public packages answer (tests/data/golden), from the library, from what `favor verify` holds outputs to, and
 * from a decoder. */
#include "support/mpi_cmocka.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <favor/favor_io.h>

#include "core/check.h"
#include "kernel/kernel.h"
#include "support/oracle.h"
#include "support/run.h"

static struct run_contexts contexts;

/* ---- golden files ----------------------------------------------------------------------------------------------- */

/* Of a package that computed in float, and of one that computed in double (the library then too). */
static const double float_bound = 1e-5, double_bound = 1e-11;

struct golden {
  char path[512];
  struct favor_problem problem;
  struct case_tensors tensors;
  double *projection;
};

static double *read_tensor(const char *path, const char *name, struct favor_tensor_shape *shape) {
  struct favor_tensor *tensor = NULL;
  assert_all(favor_tensor_open(contexts.world, path, name, FAVOR_HEADS_FIRST, &tensor) == FAVOR_OK);
  favor_tensor_shape(tensor, shape);
  const int64_t heads = shape->batch * shape->heads;
  double *x = calloc((size_t)(heads * shape->tokens * shape->width), sizeof *x);
  const enum favor_status status = favor_tensor_read(tensor, 0, heads, 0, shape->tokens, FAVOR_PRECISION_F64, x);
  assert_all(status == FAVOR_OK);
  favor_tensor_close(&tensor);
  return x;
}

static void golden_open(const char *profile, struct golden *golden) {
  struct favor_tensor_shape shape;
  int n_dims;
  int64_t dims[4];
  *golden = (struct golden){.problem = favor_problem_default()};
  snprintf(golden->path, sizeof golden->path, "%s/%s.h5", GOLDEN, profile);
  golden->tensors.q = read_tensor(golden->path, "q", &shape);
  golden->tensors.k = read_tensor(golden->path, "k", &shape);
  struct favor_problem *problem = &golden->problem;
  problem->batch = shape.batch;
  problem->heads = problem->kv_heads = shape.heads;
  problem->tokens = shape.tokens;
  problem->key_width = shape.width;
  golden->tensors.v = read_tensor(golden->path, "v", &shape);
  problem->value_width = shape.width;
  assert_all(favor_problem_set_profile(problem, profile) == FAVOR_OK);
  enum favor_status status =
      favor_double_read(contexts.world, golden->path, "projection", &n_dims, dims, &golden->projection);
  assert_all(status == FAVOR_OK);
  assert_all((n_dims == 3) == problem->has_projection_per_head);
  problem->features = dims[n_dims - 2];
  problem->projection_data = golden->projection;
  golden->tensors.heads = golden->tensors.kv_heads = problem->batch * problem->heads;
  golden->tensors.tokens = problem->tokens;
  golden->tensors.key_width = problem->key_width;
  golden->tensors.value_width = problem->value_width;
}

static void golden_close(struct golden *golden) {
  case_tensors_destroy(&golden->tensors);
  free(golden->projection);
}

/* The worst |row - expected row| / |expected row| over all rows, Euclidean norms. */
static double worst_row(const struct favor_problem *problem, const void *out, const double *expected) {
  const int64_t width = problem->value_width, rows = problem->batch * problem->heads * problem->tokens;
  double row[64], worst = 0;
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t e = 0; e < width; e++) row[e] = run_element(problem, out, i * width + e);
    worst = oracle_worse(worst, oracle_relative_error(row, expected + i * width, width));
  }
  return worst;
}

/* One answer of a package: of the problem, which is causal or not, what it gave, and whether it computed in float. */
struct answer {
  const struct golden *golden;
  const char *name;
  struct favor_problem problem;
  double *expected;
  bool is_of_floats;
};

static void for_each_answer_of(const char *profile, void (*check)(const struct answer *)) {
  static const char *const names[] = {"out", "out_causal"};
  struct golden golden;
  golden_open(profile, &golden);
  for (int is_causal = strcmp(profile, "slim") == 0; is_causal < 2; is_causal++) { /* slim is causal only */
    struct answer answer = {.golden = &golden, .name = names[is_causal], .problem = golden.problem};
    struct favor_tensor_shape shape;
    answer.is_of_floats = strcmp(profile, "google-tf") == 0 || (is_causal && strcmp(profile, "idiap") == 0);
    answer.problem.is_causal = is_causal;
    answer.expected = read_tensor(golden.path, names[is_causal], &shape);
    check(&answer);
    free(answer.expected);
  }
  golden_close(&golden);
}

static void for_each_answer(void (*check)(const struct answer *)) {
  contexts = run_contexts_open();
  for (int i = 0; favor_profile_name(i); i++) for_each_answer_of(favor_profile_name(i), check);
  run_contexts_close(&contexts);
}

static void judge(const struct answer *answer, const char *by, const struct favor_problem *problem, const void *out,
                  double bound) {
  const double error = worst_row(problem, out, answer->expected);
  run_print("  %s %s by %s: worst row %.1e\n", strrchr(answer->golden->path, '/') + 1, answer->name, by, error);
  assert_all(error <= bound);
}

/* ---- by the library --------------------------------------------------------------------------------------------- */

static void match_library(const struct answer *answer) {
  for (enum favor_precision precision = FAVOR_PRECISION_F32; precision <= FAVOR_PRECISION_F64; precision++) {
    const bool is_f64 = precision == FAVOR_PRECISION_F64;
    struct favor_problem problem = answer->problem;
    problem.precision = precision;
    void *out = malloc(run_out_bytes(&problem));
    assert_all(run_problem(contexts.world, &problem, &answer->golden->tensors, RUN_BLOCKS, out) == FAVOR_OK);
    run_gather(MPI_COMM_WORLD, out, run_out_bytes(&problem));
    judge(answer, is_f64 ? "f64" : "f32", &problem, out, is_f64 && !answer->is_of_floats ? double_bound : float_bound);
    free(out);
  }
}

static void packages_are_matched(void **state) {
  (void)state;
  for_each_answer(match_library);
}

/* ---- by a decoder, one token at a time --------------------------------------------------------------------------- */

static void decode(struct favor_decoder *decoder, const struct favor_problem *problem, const struct case_tensors *t,
                   double *out) {
  for (int64_t i = 0; i < t->tokens; i++) {
    struct favor_input q = {case_query(t, 0, i), t->tokens * t->key_width, 0},
                       k = {case_key(t, 0, i), t->tokens * t->key_width, 0},
                       v = {case_value(t, 0, i), t->tokens * t->value_width, 0};
    struct favor_output row = {out + i * problem->value_width, t->tokens * t->value_width, 0};
    assert_all(favor_decoder_step(decoder, &q, &k, &v, &row) == FAVOR_OK);
  }
}

static void match_decoder(const struct answer *answer) {
  struct favor_problem problem = answer->problem;
  struct favor_plan *plan = NULL;
  struct favor_decoder *decoder = NULL;
  if (!problem.is_causal) return;
  problem.precision = FAVOR_PRECISION_F64;
  double *out = malloc(run_out_bytes(&problem));
  assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
  assert_all(run_plan(plan, &problem, &answer->golden->tensors, RUN_EXECUTE, out) == FAVOR_OK); /* finds key maxima */
  assert_all(favor_decoder_create(plan, &decoder) == FAVOR_OK);
  decode(decoder, &problem, &answer->golden->tensors, out);
  judge(answer, "decoder", &problem, out, answer->is_of_floats ? float_bound : double_bound);
  favor_decoder_destroy(&decoder);
  favor_plan_destroy(&plan);
  free(out);
}

static void decoders_match_packages(void **state) {
  (void)state;
  for_each_answer(match_decoder);
}

/* ---- by what verify takes for right ------------------------------------------------------------------------------ */

/* The key maxima that a run finds; owned by the caller. */
static double *key_maxima_of(const struct answer *answer) {
  struct favor_problem problem = answer->problem;
  struct favor_plan *plan = NULL;
  struct favor_estimates estimates;
  problem.precision = FAVOR_PRECISION_F64;
  void *out = malloc(run_out_bytes(&problem));
  double *key_max = calloc((size_t)answer->golden->tensors.kv_heads, sizeof *key_max);
  assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
  assert_all(run_plan(plan, &problem, &answer->golden->tensors, RUN_EXECUTE, out) == FAVOR_OK);
  assert_all(favor_plan_estimates(plan, &estimates) == FAVOR_OK);
  for (int64_t g = 0; g < answer->golden->tensors.kv_heads && estimates.key_max; g++) key_max[g] = estimates.key_max[g];
  favor_plan_destroy(&plan);
  free(out);
  return key_max;
}

/* Every token is a row of the sample. */
static struct check *check_of(const struct answer *answer, const double *key_max) {
  const struct favor_problem *problem = &answer->problem;
  const struct case_tensors *t = &answer->golden->tensors;
  struct check_row rows[64];
  double *q = calloc((size_t)(t->tokens * t->heads * t->key_width), sizeof *q);
  for (int64_t i = 0; i < t->tokens; i++) {
    rows[i] = check_row_of(i, t->tokens, NULL, 0, problem->is_causal);
    for (int64_t h = 0; h < t->heads; h++) {
      memcpy(q + (i * t->heads + h) * t->key_width, case_query(t, h, i), (size_t)t->key_width * sizeof *q);
    }
  }
  const struct check_problem given = {.rows = rows,
                                      .n_rows = t->tokens,
                                      .key_heads = t->kv_heads,
                                      .heads_per_key = t->heads / t->kv_heads,
                                      .key_width = t->key_width,
                                      .value_width = t->value_width,
                                      .map = problem->map,
                                      .eps = problem->eps,
                                      .key_max = problem->key_max,
                                      .guard_rule = problem->guard_rule,
                                      .guard = problem->guard,
                                      .is_causal = problem->is_causal,
                                      .features = problem->features,
                                      .scale = 1 / sqrt((double)t->key_width),
                                      .projection = problem->projection_data,
                                      .projections = problem->has_projection_per_head ? problem->kv_heads : 1,
                                      .estimates = {.key_max = key_max}};
  struct check *check = check_create(&given, q);
  free(q);
  return check;
}

static void match_check(const struct answer *answer) {
  const struct case_tensors *t = &answer->golden->tensors;
  struct favor_problem problem = answer->problem;
  double *key_max = key_maxima_of(answer);
  struct check *check = check_of(answer, key_max);
  assert_all(check != NULL);
  problem.precision = FAVOR_PRECISION_F64;
  double *out = malloc(run_out_bytes(&problem));
  for (int64_t g = 0; g < t->kv_heads; g++) {
    check_absorb(check, g, 0, t->tokens, case_key(t, g, 0), case_value(t, g, 0));
  }
  for (int64_t h = 0; h < t->heads; h++) {
    for (int64_t i = 0; i < t->tokens; i++) {
      check_value(check, CHECK_DEFINITION, i, h, out + (h * t->tokens + i) * t->value_width);
    }
  }
  judge(answer, "check", &problem, out, answer->is_of_floats ? float_bound : double_bound);
  check_destroy(&check);
  free(key_max);
  free(out);
}

static void checks_match_packages(void **state) {
  (void)state;
  kernel_blas_single_thread();
  for_each_answer(match_check);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(packages_are_matched),
      mpi_unit_test(decoders_match_packages),
      mpi_unit_test(checks_match_packages),
  };
  return mpi_cmocka_main(&argc, &argv, "golden", tests, sizeof tests / sizeof tests[0]);
}

/* The baselines that need no products: the mean of v, and v itself. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "run.h"

/* Two batches, grouped heads, segments ragged and empty. */
static struct favor_problem problem_of(enum favor_method method, bool is_causal) {
  static const int64_t segments[] = {0, 0, 1, 3900, 3900, 3907, 6000};
  struct favor_problem problem = favor_problem_default();
  problem.method = method;
  problem.is_causal = is_causal;
  problem.batch = 2;
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.tokens = 6000;
  problem.key_width = 3;
  problem.value_width = 5;
  problem.segments = segments;
  problem.n_segments = 6;
  problem.kernel = "reference"; /* its runs are short enough for 7 ranks */
  return problem;
}

/* The mean of v over the segment, or up to the token: sums from the segment's first token in long double. */
static void expect_mean(const struct favor_problem *problem, const struct case_tensors *t, double *expected) {
  for (int64_t h = 0; h < t->heads; h++) {
    for (int64_t s = 0; s < problem->n_segments; s++) {
      int64_t begin = problem->segments[s], end = problem->segments[s + 1];
      for (int64_t e = 0; e < t->value_width; e++) {
        long double sum = 0, total = 0;
        for (int64_t i = begin; i < end; i++) total += case_value(t, case_kv_head(problem, h), i)[e];
        for (int64_t i = begin; i < end; i++) {
          sum += case_value(t, case_kv_head(problem, h), i)[e];
          long double mean = problem->is_causal ? sum / (i - begin + 1) : total / (end - begin);
          expected[(h * t->tokens + i) * t->value_width + e] = (double)mean;
        }
      }
    }
  }
}

static void expect_copy(const struct favor_problem *problem, const struct case_tensors *t, double *expected) {
  int64_t count = t->tokens * t->value_width;
  for (int64_t h = 0; h < t->heads; h++) {
    memcpy(expected + h * count, case_value(t, case_kv_head(problem, h), 0), (size_t)count * sizeof *expected);
  }
}

/* The error against the definition, and whether one rank and one thread give the same bytes. */
static void check_method(enum favor_method method, enum favor_precision precision, enum run_mode mode, double bound) {
  struct run_contexts contexts = run_contexts_open();
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct favor_problem problem = problem_of(method, is_causal);
    problem.precision = precision;
    problem.threads = 2;
    if (mode == RUN_BLOCKS) problem.block_tokens = 1;
    struct case_tensors t;
    case_tensors_create(&problem, 3, 1, &t);
    size_t bytes = run_out_bytes(&problem);
    int64_t count = t.heads * t.tokens * t.value_width;
    void *out = malloc(bytes), *alone = malloc(bytes);
    double *expected = calloc((size_t)count, sizeof *expected), *got = calloc((size_t)count, sizeof *got);
    enum favor_status status = run_problem(contexts.world, &problem, &t, mode, out);
    if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts.world));
    assert_all(status == FAVOR_OK);
    run_gather(MPI_COMM_WORLD, out, bytes);
    problem.threads = 1;
    assert_all(run_problem(contexts.self, &problem, &t, RUN_EXECUTE, alone) == FAVOR_OK);
    assert_all(memcmp(out, alone, bytes) == 0);
    (method == FAVOR_METHOD_MEAN ? expect_mean : expect_copy)(&problem, &t, expected);
    for (int64_t i = 0; i < count; i++) got[i] = run_element(&problem, out, i);
    double error = oracle_relative_error(got, expected, count);
    run_print("method %d, precision %d, causal %d: error %.3g\n", (int)method, (int)precision, is_causal, error);
    assert_all(error <= bound);
    free(out);
    free(alone);
    free(expected);
    free(got);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

static void mean_is_the_mean(void **state) {
  (void)state;
  check_method(FAVOR_METHOD_MEAN, FAVOR_PRECISION_F32, RUN_EXECUTE, 2e-5);
  check_method(FAVOR_METHOD_MEAN, FAVOR_PRECISION_F64, RUN_BLOCKS, 1e-13);
}

static void copy_is_a_copy(void **state) {
  (void)state;
  check_method(FAVOR_METHOD_COPY, FAVOR_PRECISION_F32, RUN_EXECUTE, 0);
  check_method(FAVOR_METHOD_COPY, FAVOR_PRECISION_F64, RUN_BLOCKS, 0);
}

/* Queries and keys have no say, however long; NaN in v is refused by name all the same. */
static void inputs_are_judged_by_their_use(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (enum favor_method method = FAVOR_METHOD_MEAN; method <= FAVOR_METHOD_COPY; method++) {
    struct favor_problem problem = problem_of(method, false);
    struct case_tensors t;
    case_tensors_create(&problem, 4, 1e15, &t);
    void *out = malloc(run_out_bytes(&problem));
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    case_value(&t, 3, 4500)[1] = NAN;
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EDATA);
    assert_all(strstr(favor_context_message(contexts.world), "NaN in v, head 3, token 4500") != NULL);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(mean_is_the_mean),
      mpi_unit_test(copy_is_a_copy),
      mpi_unit_test(inputs_are_judged_by_their_use),
  };
  return mpi_cmocka_main(&argc, &argv, "methods", tests, sizeof tests / sizeof tests[0]);
}

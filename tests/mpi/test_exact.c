/* Softmax attention as it is defined: against the oracle, with the same bits on any ranks, and the laws it obeys. */
#include "mpi_cmocka.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "run.h"

/* Two batches, grouped heads, segments ragged and empty, one of them longer than a block that is broadcast. */
enum { N_SEGMENTS = 7, TOKENS = 1500 };
static const int64_t ragged[N_SEGMENTS + 1] = {0, 0, 1, 64, 64, 1300, 1363, TOKENS};

static struct favor_problem problem_of(bool is_causal, enum favor_precision precision) {
  struct favor_problem problem = favor_problem_default();
  problem.method = FAVOR_METHOD_EXACT;
  problem.is_causal = is_causal;
  problem.precision = precision;
  problem.batch = 2;
  problem.heads = 2;
  problem.kv_heads = 1;
  problem.tokens = TOKENS;
  problem.key_width = 6;
  problem.value_width = 5;
  problem.segments = ragged;
  problem.n_segments = N_SEGMENTS;
  problem.threads = 1;
  return problem;
}

static struct favor_problem one_segment_of(bool is_causal, enum favor_precision precision, int64_t tokens) {
  struct favor_problem problem = problem_of(is_causal, precision);
  problem.batch = problem.heads = 1;
  problem.tokens = tokens;
  problem.segments = NULL;
  problem.n_segments = 0;
  return problem;
}

/* The whole output of all ranks, which must succeed. */
static void *run(const struct run_contexts *contexts, const struct favor_problem *problem, const struct case_tensors *t,
                 enum run_mode mode) {
  void *out = malloc(run_out_bytes(problem) + 1);
  enum favor_status status = run_problem(contexts->world, problem, t, mode, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(status == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, out, run_out_bytes(problem));
  return out;
}

/* ---- the definition ---------------------------------------------------------------------------------------------- */

/* The largest relative error of a head. Collective: each rank asks the oracle about some. */
static double error_of(const struct favor_problem *problem, const struct case_tensors *t, const void *out) {
  struct oracle_head head = {.tokens = t->tokens,
                             .key_width = t->key_width,
                             .value_width = t->value_width,
                             .segments = problem->segments,
                             .n_segments = problem->n_segments,
                             .is_causal = problem->is_causal,
                             .scale = problem->scale};
  int64_t count = t->tokens * t->value_width;
  double *expected = calloc((size_t)count, sizeof *expected), *got = calloc((size_t)count, sizeof *got), worst = 0;
  for (int64_t h = mpi_rank(); h < t->heads; h += mpi_size()) {
    int64_t g = case_kv_head(problem, h);
    oracle_softmax(&head, case_query(t, h, 0), case_key(t, g, 0), case_value(t, g, 0), expected);
    for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, h * count + i);
    worst = oracle_worse(worst, oracle_relative_error(got, expected, count));
  }
  free(expected);
  free(got);
  MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

static double bound_of(enum favor_precision precision) { return precision == FAVOR_PRECISION_F64 ? 1e-11 : 2e-5; }

static void check_error(const struct run_contexts *contexts, const char *what, const struct favor_problem *problem,
                        const struct case_tensors *t, enum run_mode mode, double bound) {
  void *out = run(contexts, problem, t, mode);
  double error = error_of(problem, t, out);
  run_print("%s: precision %d, causal %d: error %.3g\n", what, (int)problem->precision, problem->is_causal, error);
  assert_all(error <= bound);
  free(out);
}

static void spreads_of_every_size(void **state) {
  (void)state;
  static const double spreads[] = {0.1, 1, 2.5, 5, 20};
  struct run_contexts contexts = run_contexts_open();
  for (size_t i = 0; i < 2 * sizeof spreads / sizeof spreads[0]; i++) {
    struct favor_problem problem = one_segment_of(i % 2, FAVOR_PRECISION_F32, 210);
    problem.heads = problem.kv_heads = 2;
    problem.key_width = 64;
    problem.value_width = 7;
    struct case_tensors t;
    case_tensors_create(&problem, i, spreads[i / 2], &t);
    check_error(&contexts, "spread", &problem, &t, RUN_EXECUTE, bound_of(problem.precision));
    problem.precision = FAVOR_PRECISION_F64;
    check_error(&contexts, "spread", &problem, &t, RUN_BLOCKS, bound_of(problem.precision));
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

static void shapes_of_every_kind(void **state) {
  (void)state;
  static const struct {
    int64_t key_width, value_width, tokens;
    double scale;
  } shapes[] = {{1, 1, 65, 0}, {3, 130, 64, 2}, {100, 1, 129, 1e-3}, {16, 16, 1, 0}, {5, 7, 2, 1}, {2, 2, 0, 0}};
  struct run_contexts contexts = run_contexts_open();
  for (size_t i = 0; i < 4 * sizeof shapes / sizeof shapes[0]; i++) {
    struct favor_problem problem =
        one_segment_of(i % 2, i / 2 % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32, shapes[i / 4].tokens);
    problem.key_width = shapes[i / 4].key_width;
    problem.value_width = shapes[i / 4].value_width;
    problem.scale = shapes[i / 4].scale;
    problem.batch = 3;
    struct case_tensors t;
    case_tensors_create(&problem, i, 1, &t);
    check_error(&contexts, "shape", &problem, &t, RUN_EXECUTE, bound_of(problem.precision));
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

static void ragged_segments(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 2; i++) {
    struct favor_problem problem = problem_of(i, i ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)i, 1.5, &t);
    check_error(&contexts, "segments", &problem, &t, i ? RUN_BLOCKS : RUN_EXECUTE, bound_of(problem.precision));
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* ---- far from 1 -------------------------------------------------------------------------------------------------- */

/* Queries of every length meet keys that differ little: logits reach 1e6, and their differences, some of the order of
 * 1, decide. */
static void logits_up_to_1e6(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 4; i++) {
    struct favor_problem problem = one_segment_of(i % 2, i / 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32, 300);
    problem.scale = 1;
    struct case_tensors t;
    double most = 0;
    case_tensors_create(&problem, (uint64_t)i, 1, &t);
    for (int64_t n = t.tokens - 1; n >= 0; n--) {
      for (int64_t d = 0; d < t.key_width; d++) {
        case_query(&t, 0, n)[d] *= pow(10, (double)(n % 13) / 2);
        case_key(&t, 0, n)[d] = case_key(&t, 0, 0)[d] + (n > 0 ? 1e-6 * case_key(&t, 0, n)[d] : 0);
      }
    }
    case_tensors_round(&problem, &t);
    for (int64_t n = 0; n < t.tokens; n++) {
      double dot = 0;
      for (int64_t d = 0; d < t.key_width; d++) dot += case_query(&t, 0, n)[d] * case_key(&t, 0, n)[d];
      most = fmax(most, dot);
    }
    assert_all(most > 1e6);
    check_error(&contexts, "long queries", &problem, &t, RUN_EXECUTE, i / 2 ? 1e-9 : 2e-5);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Lengths at both ends of the range, whose products are ordinary; and products of 2^40, which leave one key. */
static void lengths_of_every_size(void **state) {
  (void)state;
  static const double factors[][2] = {{0x1p100, 0x1p-100}, {0x1p20, 0x1p20}, {0x1p900, 0x1p-900}, {0x1p20, 0x1p20}};
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 8; i++) {
    struct favor_problem problem = one_segment_of(i % 2, i / 4 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32, 150);
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)i, 1, &t);
    for (int64_t j = 0; j < t.tokens * t.key_width; j++) {
      t.q[j] *= factors[i / 2][0];
      t.k[j] *= factors[i / 2][1];
    }
    check_error(&contexts, "lengths", &problem, &t, RUN_EXECUTE, bound_of(problem.precision));
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Values up to the largest number beside ordinary ones. */
static void values_up_to_the_largest(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 4; i++) {
    struct favor_problem problem = one_segment_of(i % 2, i / 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32, 300);
    double largest = i / 2 ? DBL_MAX : (double)FLT_MAX;
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)i, 0.3, &t);
    for (int64_t j = 0; j < t.tokens; j++) case_value(&t, 0, j)[0] = j % 7 ? largest : -largest;
    for (int64_t j = 150; j < t.tokens; j++) case_value(&t, 0, j)[1] *= largest / 8;
    check_error(&contexts, "large values", &problem, &t, RUN_EXECUTE, bound_of(problem.precision));
    /* Ordinary columns beside them lose nothing. */
    void *out = run(&contexts, &problem, &t, RUN_EXECUTE), *plain;
    for (int64_t j = 0; j < t.tokens; j++) case_value(&t, 0, j)[0] = case_value(&t, 0, j)[1] = 0;
    plain = run(&contexts, &problem, &t, RUN_EXECUTE);
    bool is_same = true;
    for (int64_t j = 0; j < t.tokens * t.value_width; j++) {
      if (j % t.value_width < 2) continue;
      is_same = is_same && run_element(&problem, out, j) == run_element(&problem, plain, j);
    }
    assert_all(is_same);
    free(out);
    free(plain);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Everything at the end of the range: nothing but a mean of the values may come out. */
static void finite_inputs_give_finite_outputs(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 8; i++) {
    struct favor_problem problem = one_segment_of(i % 2, i / 2 % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32, 200);
    double largest = i / 2 % 2 ? DBL_MAX : (double)FLT_MAX;
    problem.scale = i / 4 ? 1e30 : 1e-30;
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)i, 1, &t);
    for (int64_t j = 0; j < t.tokens * t.key_width; j++) {
      t.q[j] = j % 5 ? (j % 3 ? largest : -largest) : 0;
      t.k[j] = j % 7 ? (j % 4 ? largest : -largest) : 1;
    }
    void *out = run(&contexts, &problem, &t, RUN_EXECUTE);
    bool is_within = true;
    for (int64_t e = 0; e < t.value_width; e++) {
      double low = INFINITY, high = -INFINITY;
      for (int64_t j = 0; j < t.tokens; j++) {
        low = fmin(low, case_value(&t, 0, j)[e]);
        high = fmax(high, case_value(&t, 0, j)[e]);
      }
      for (int64_t j = 0; j < t.tokens; j++) {
        double x = run_element(&problem, out, j * t.value_width + e);
        is_within = is_within && x >= low - 1e-6 && x <= high + 1e-6;
      }
    }
    assert_all(is_within);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* ---- the same bits ----------------------------------------------------------------------------------------------- */

/* All ranks in a row, one over, in two rows, and in more rows than there are key heads. */
static void same_bits_on_any_grid(void **state) {
  (void)state;
  const int64_t size = mpi_size(),
                grids[][2] = {
                    {1, size}, {1, size > 1 ? size - 1 : 1}, {size > 1 ? 2 : 1, size > 1 ? size / 2 : 1}, {size, 1}};
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 4; i++) {
    struct favor_problem problem = problem_of(i % 2, i / 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)i, i % 2 ? 1 : 4, &t);
    void *alone = malloc(run_out_bytes(&problem));
    assert_all(run_problem(contexts.self, &problem, &t, RUN_EXECUTE, alone) == FAVOR_OK);
    for (int turn = 0; turn < 4; turn++) {
      problem.grid_heads = grids[turn][0];
      problem.grid_tokens = grids[turn][1];
      problem.threads = turn == i ? 3 : 1; /* where ranks crowd, threads that wait cost most */
      void *out = run(&contexts, &problem, &t, turn % 2 ? RUN_BLOCKS : RUN_EXECUTE);
      assert_all(memcmp(out, alone, run_out_bytes(&problem)) == 0);
      free(out);
    }
    free(alone);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* A segment in a packed problem is what it is alone. */
static void a_segment_alone_or_packed(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 2; i++) {
    struct favor_problem problem = problem_of(i, FAVOR_PRECISION_F32);
    struct case_tensors t, part;
    case_tensors_create(&problem, 5, 2, &t);
    char *packed = run(&contexts, &problem, &t, RUN_EXECUTE);
    for (int s = 0; s < N_SEGMENTS; s++) {
      struct favor_problem lone = problem;
      lone.tokens = ragged[s + 1] - ragged[s];
      lone.segments = NULL;
      case_tensors_slice(&t, ragged[s], ragged[s + 1], &part);
      char *alone = run(&contexts, &lone, &part, RUN_EXECUTE);
      size_t row = run_element_bytes(&problem) * (size_t)problem.value_width, bytes = row * (size_t)lone.tokens;
      bool is_same = true;
      for (int64_t h = 0; h < t.heads; h++) {
        const char *there = packed + row * (size_t)(h * problem.tokens + ragged[s]);
        is_same = is_same && memcmp(alone + (size_t)h * bytes, there, bytes) == 0;
      }
      assert_all(is_same);
      free(alone);
      case_tensors_destroy(&part);
    }
    free(packed);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* ---- laws -------------------------------------------------------------------------------------------------------- */

/* Causal: whatever follows a token, however large, leaves its output as it is, to the last bit. */
static void the_future_does_not_matter(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 2; i++) {
    struct favor_problem problem = one_segment_of(true, i ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32, 1100);
    struct case_tensors t;
    case_tensors_create(&problem, 6, 1, &t);
    const int64_t now = 1059; /* in the middle of a tile */
    char *before = run(&contexts, &problem, &t, RUN_EXECUTE);
    for (int64_t j = now; j < t.tokens; j++) {
      for (int64_t d = 0; d < t.key_width; d++) case_query(&t, 0, j)[d] = case_key(&t, 0, j)[d] = (double)FLT_MAX;
      for (int64_t e = 0; e < t.value_width; e++) case_value(&t, 0, j)[e] = -(double)FLT_MAX;
    }
    char *after = run(&contexts, &problem, &t, RUN_EXECUTE);
    size_t row = run_element_bytes(&problem) * (size_t)problem.value_width;
    assert_all(memcmp(before, after, row * (size_t)now) == 0);
    assert_all(memcmp(before + row * (size_t)now, after + row * (size_t)now, row) != 0);
    free(before);
    free(after);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Equal values are their own mean. */
static void a_constant_stays(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct favor_problem problem = problem_of(is_causal, FAVOR_PRECISION_F32);
    struct case_tensors t;
    case_tensors_create(&problem, 7, 3, &t);
    for (int64_t i = 0; i < t.kv_heads * t.tokens * t.value_width; i++) t.v[i] = 0.75 + (double)(i % t.value_width);
    void *out = run(&contexts, &problem, &t, RUN_EXECUTE);
    double worst = 0;
    for (int64_t i = 0; i < t.heads * t.tokens * t.value_width; i++) {
      double expected = 0.75 + (double)(i % t.value_width);
      worst = oracle_worse(worst, fabs(run_element(&problem, out, i) - expected) / expected);
    }
    run_print("constant values, causal %d: error %.3g\n", is_causal, worst);
    assert_all(worst <= 1e-6);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Reversed tokens: the same outputs, reversed; the order of sums differs. And a vector added to all keys cancels. */
static void order_and_origin_do_not_matter(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = one_segment_of(false, FAVOR_PRECISION_F32, 700);
  struct case_tensors t, mirrored;
  int64_t n = problem.tokens, d = problem.key_width, e = problem.value_width;
  case_tensors_create(&problem, 8, 1, &t);
  case_tensors_create(&problem, 8, 1, &mirrored);
  for (int64_t i = 0; i < n; i++) {
    memcpy(case_query(&mirrored, 0, n - 1 - i), case_query(&t, 0, i), (size_t)d * sizeof(double));
    memcpy(case_value(&mirrored, 0, n - 1 - i), case_value(&t, 0, i), (size_t)e * sizeof(double));
    for (int64_t c = 0; c < d; c++) case_key(&mirrored, 0, n - 1 - i)[c] = case_key(&t, 0, i)[c] + 0.5;
  }
  case_tensors_round(&problem, &mirrored);
  void *out = run(&contexts, &problem, &t, RUN_EXECUTE), *other = run(&contexts, &problem, &mirrored, RUN_EXECUTE);
  double *x = calloc((size_t)(n * e), sizeof *x), *y = calloc((size_t)(n * e), sizeof *y);
  for (int64_t i = 0; i < n * e; i++) {
    x[i] = run_element(&problem, out, i);
    y[i] = run_element(&problem, other, (n - 1 - i / e) * e + i % e);
  }
  assert_all(oracle_relative_error(y, x, n * e) <= 1e-5);
  free(out);
  free(other);
  free(x);
  free(y);
  case_tensors_destroy(&t);
  case_tensors_destroy(&mirrored);
  run_contexts_close(&contexts);
}

/* ---- refusals, and what the plan says of itself ------------------------------------------------------------------ */

static void what_cannot_be_computed_is_refused(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(true, FAVOR_PRECISION_F32);
  struct case_tensors t;
  case_tensors_create(&problem, 9, 1, &t);
  void *out = malloc(run_out_bytes(&problem));
  case_key(&t, 1, 1400)[2] = NAN;
  assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EDATA);
  assert_all(strstr(favor_context_message(contexts.world), "NaN in k, head 1, token 1400") != NULL);
  case_query(&t, 3, 700)[0] = INFINITY;
  assert_all(run_problem(contexts.world, &problem, &t, RUN_BLOCKS, out) == FAVOR_EDATA);
  assert_all(strstr(favor_context_message(contexts.world), "in ") != NULL);
  problem.kernel = "reference";
  assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EUSAGE);
  assert_all(strstr(favor_context_message(contexts.world), "use kernel blas, or auto") != NULL);
  problem.kernel = "auto";
  problem.memory_bytes = 100000;
  assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EUSAGE);
  assert_all(strstr(favor_context_message(contexts.world), "use more ranks") != NULL);
  free(out);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

static void a_plan_knows_its_work(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct favor_problem problem = problem_of(is_causal, FAVOR_PRECISION_F32);
    struct favor_plan *plan;
    struct favor_plan_info info;
    assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
    favor_plan_info(plan, &info);
    double pairs = 0;
    for (int s = 0; s < N_SEGMENTS; s++) {
      for (int64_t i = ragged[s]; i < ragged[s + 1]; i++)
        pairs += (double)((is_causal ? i + 1 : ragged[s + 1]) - ragged[s]);
    }
    assert_all(info.flops == 2 * pairs * 4 * (6 + 5));
    assert_all(strcmp(info.kernel, "blas") == 0 && strcmp(info.scan, "none") == 0);
    assert_all(info.state_bytes == 0 && favor_plan_projection(plan) == NULL);
    favor_plan_destroy(&plan);
  }
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(spreads_of_every_size),
      mpi_unit_test(shapes_of_every_kind),
      mpi_unit_test(ragged_segments),
      mpi_unit_test(logits_up_to_1e6),
      mpi_unit_test(lengths_of_every_size),
      mpi_unit_test(values_up_to_the_largest),
      mpi_unit_test(finite_inputs_give_finite_outputs),
      mpi_unit_test(same_bits_on_any_grid),
      mpi_unit_test(a_segment_alone_or_packed),
      mpi_unit_test(the_future_does_not_matter),
      mpi_unit_test(a_constant_stays),
      mpi_unit_test(order_and_origin_do_not_matter),
      mpi_unit_test(what_cannot_be_computed_is_refused),
      mpi_unit_test(a_plan_knows_its_work),
  };
  return mpi_cmocka_main(&argc, &argv, "exact", tests, sizeof tests / sizeof tests[0]);
}

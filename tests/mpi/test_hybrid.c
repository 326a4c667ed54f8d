/* FAVOR+ with a window: exact attention inside it, features outside, against the definition in double. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "run.h"

/* ---- the definition ---------------------------------------------------------------------------------------------- */

/* One query head beside its key head; [N][...] all. */
struct head {
  const struct favor_problem *problem;
  int64_t n_features;
  double scale;
  const double *q, *k, *v;
  double *q_log, *k_log; /* [N][R]: logarithms of features with their factor R^-1/2, */
  double *q_top, *k_top; /* [N]: the largest of a token's, which is taken off them, */
  double *q_exp, *k_exp; /* [N][R]: exp of them */
};

static void take_features(const struct head *head, const double *projection, const double *x, double *logs,
                          double *tops, double *exps) {
  const struct favor_problem *problem = head->problem;
  int64_t d = problem->key_width, m = problem->features, all = head->n_features;
  for (int64_t i = 0; i < problem->tokens; i++) {
    double half_norm = 0, *row = logs + i * all, top = -INFINITY;
    for (int64_t c = 0; c < d; c++) half_norm += head->scale * x[i * d + c] * x[i * d + c] / 2;
    for (int64_t r = 0; r < all; r++) {
      double u = 0;
      for (int64_t c = 0; c < d; c++) u += projection[r % m * d + c] * sqrt(head->scale) * x[i * d + c];
      row[r] = (r < m ? u : -u) - half_norm - log((double)all) / 2;
      top = fmax(top, row[r]);
    }
    tops[i] = top;
    for (int64_t r = 0; r < all; r++) {
      row[r] -= top;
      exps[i * all + r] = exp(row[r]);
    }
  }
}

/* log of the weight of key j for query i. */
static double log_weight(const struct head *head, int64_t i, int64_t j) {
  int64_t d = head->problem->key_width, m = head->n_features;
  double sum = 0;
  if (llabs(i - j) <= head->problem->window) {
    for (int64_t c = 0; c < d; c++) sum += head->scale * head->q[i * d + c] * head->k[j * d + c];
    return sum;
  }
  const double *a = head->q_exp + i * m, *b = head->k_exp + j * m;
  for (int64_t r = 0; r < m; r++) sum += a[r] * b[r];
  if (sum > 1e-200) return head->q_top[i] + head->k_top[j] + log(sum);
  double top = -INFINITY;
  a = head->q_log + i * m;
  b = head->k_log + j * m;
  for (int64_t r = 0; r < m; r++) top = fmax(top, a[r] + b[r]);
  sum = 0;
  for (int64_t r = 0; r < m; r++) sum += exp(a[r] + b[r] - top);
  return head->q_top[i] + head->k_top[j] + top + log(sum);
}

/* Row i: keys [begin, end). logs: scratch [N]. */
static void attend_row(const struct head *head, int64_t i, int64_t begin, int64_t end, double *logs, double *out) {
  int64_t width = head->problem->value_width;
  double top = -INFINITY, total = 0;
  for (int64_t j = begin; j < end; j++) {
    logs[j] = log_weight(head, i, j);
    top = fmax(top, logs[j]);
  }
  for (int64_t e = 0; e < width; e++) out[e] = 0;
  for (int64_t j = begin; j < end; j++) {
    double weight = exp(logs[j] - top);
    total += weight;
    for (int64_t e = 0; e < width; e++) out[e] += weight * head->v[j * width + e];
  }
  for (int64_t e = 0; e < width; e++) out[e] /= total;
}

static double *numbers(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }

/* Collective: |out - definition| / |definition| of the worst head; each rank takes its share of the rows. */
static double worst_error(const struct favor_problem *problem, const struct favor_plan *plan,
                          const struct case_tensors *t, const void *out) {
  int64_t n = t->tokens, width = t->value_width;
  struct head head = {.problem = problem,
                      .n_features = problem->features * (problem->map == FAVOR_MAP_HYPERBOLIC ? 2 : 1),
                      .scale = problem->scale > 0 ? problem->scale : 1 / sqrt((double)t->key_width)};
  head.q_log = numbers(n * head.n_features), head.k_log = numbers(n * head.n_features);
  head.q_exp = numbers(n * head.n_features), head.k_exp = numbers(n * head.n_features);
  head.q_top = numbers(n), head.k_top = numbers(n);
  double *logs = numbers(n), *row = numbers(width), *got = numbers(width), worst = 0;
  for (int64_t h = 0; h < t->heads; h++) {
    double sums[2] = {0, 0};
    int64_t kv = case_kv_head(problem, h);
    double *projection = run_projection_of_head(plan, problem, h);
    head.q = case_query(t, h, 0), head.k = case_key(t, kv, 0), head.v = case_value(t, kv, 0);
    take_features(&head, projection, head.q, head.q_log, head.q_top, head.q_exp);
    take_features(&head, projection, head.k, head.k_log, head.k_top, head.k_exp);
    for (int64_t s = 0; s < problem->n_segments; s++) {
      int64_t begin = problem->segments[s], end = problem->segments[s + 1];
      for (int64_t i = begin; i < end; i++) {
        if (i % mpi_size() != mpi_rank()) continue;
        attend_row(&head, i, begin, problem->is_causal ? i + 1 : end, logs, row);
        for (int64_t e = 0; e < width; e++) {
          double x = run_element(problem, out, (h * n + i) * width + e);
          sums[0] += (x - row[e]) * (x - row[e]);
          sums[1] += row[e] * row[e];
        }
      }
    }
    MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    worst = oracle_worse(worst, sqrt(sums[0] / sums[1]));
    free(projection);
  }
  free(head.q_log), free(head.k_log), free(head.q_exp), free(head.k_exp), free(head.q_top), free(head.k_top);
  free(logs), free(row), free(got);
  return worst;
}

/* ---- problems ---------------------------------------------------------------------------------------------------- */

static const int64_t ragged[] = {0, 0, 1, 700, 700, 707, 1300};
static const int64_t single[] = {0, 1300};

/* Tiles of 32 tokens and runs of 256, so that seven ranks have some. */
static struct favor_problem problem_of(bool is_causal, int64_t window) {
  struct favor_problem problem = favor_problem_default();
  problem.is_causal = is_causal;
  problem.heads = 2;
  problem.kv_heads = 1;
  problem.tokens = 1300;
  problem.key_width = 16;
  problem.value_width = 5;
  problem.features = 24;
  problem.segments = ragged;
  problem.n_segments = 6;
  problem.kernel = "reference";
  problem.window = window;
  problem.threads = 1;
  return problem;
}

static bool has_run(struct favor_context *context, const struct favor_problem *problem, const struct case_tensors *t,
                    void *out) {
  enum favor_status status = run_problem(context, problem, t, RUN_EXECUTE, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(context));
  return status == FAVOR_OK;
}

/* Collective: the whole output, which must be the same bytes on one rank and one thread. */
static void *output_of(struct run_contexts *contexts, struct favor_problem problem, const struct case_tensors *t) {
  size_t bytes = run_out_bytes(&problem);
  void *out = malloc(bytes), *alone = malloc(bytes);
  assert_all(has_run(contexts->world, &problem, t, out));
  run_gather(MPI_COMM_WORLD, out, bytes);
  problem.threads = 1;
  problem.grid_heads = problem.grid_tokens = 0;
  bool is_same = mpi_rank() != 0 || (has_run(contexts->self, &problem, t, alone) && memcmp(out, alone, bytes) == 0);
  assert_all(is_same);
  free(alone);
  return out;
}

/* Collective: the error of a problem's output. */
static double error_of(struct run_contexts *contexts, const struct favor_problem *problem, uint64_t seed,
                       double spread) {
  struct case_tensors t;
  case_tensors_create(problem, seed, spread, &t);
  void *out = output_of(contexts, *problem, &t);
  struct favor_plan *plan = NULL;
  struct favor_problem alone = *problem;
  alone.grid_heads = alone.grid_tokens = 0;
  assert_all(favor_plan_create(contexts->self, &alone, &plan) == FAVOR_OK);
  double error = worst_error(problem, plan, &t, out);
  favor_plan_destroy(&plan);
  free(out);
  case_tensors_destroy(&t);
  return error;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void agrees_with_the_definition(void **state) {
  (void)state;
  static const int64_t windows[] = {0, 1, 31, 32, 101, 5000};
  static const double spreads[] = {0.5, 1, 2, 4};
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < 24; number++) {
    struct favor_problem problem = problem_of(number % 2, windows[number / 2 % 6]);
    problem.precision = number >= 12 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    if (number % 3 == 1) problem.map = FAVOR_MAP_HYPERBOLIC;
    if (number % 5 == 2) problem.segments = single, problem.n_segments = 1;
    if (number % 4 == 3) problem.batch = 2, problem.heads = problem.kv_heads = 1;
    problem.has_projection_per_head = number % 4 == 2;
    if (number % 7 == 6 && mpi_size() > 1) problem.grid_heads = 1, problem.grid_tokens = mpi_size() - 1;
    problem.threads = 1 + number / 2 % 2;
    double spread = spreads[(number + number / 6) % 4];
    double error = error_of(&contexts, &problem, (uint64_t)number, spread);
    run_print("case %2d: window %4lld, causal %d, spread %g, precision %d: error %.3g\n", number,
              (long long)problem.window, problem.is_causal, spread, (int)problem.precision, error);
    assert_all(error <= (problem.precision == FAVOR_PRECISION_F64 ? 1e-11 : 2e-5));
  }
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(agrees_with_the_definition),
  };
  return mpi_cmocka_main(&argc, &argv, "hybrid", tests, sizeof tests / sizeof tests[0]);
}

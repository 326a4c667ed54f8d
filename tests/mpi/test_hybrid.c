/* FAVOR+ with a window: exact attention inside it, features outside, against the definition in double. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "estimates.h"

/* ---- the definition ---------------------------------------------------------------------------------------------- */

/* One query head beside its key head, moved as the estimates say; [N][...] all. */
struct head {
  const struct favor_problem *problem;
  int64_t n_features;
  double scale, oprf_a;
  double *q, *k;
  const double *v;
  double *q_log, *k_log; /* [N][R]: logarithms of features with their factor R^-1/2 Dc, */
  double *q_top, *k_top; /* [N]: the largest of a token's, which is taken off them, */
  double *q_exp, *k_exp; /* [N][R]: exp of them */
};

static void take_features(const struct head *head, const double *projection, const double *x, double *logs,
                          double *tops, double *exps) {
  const struct favor_problem *problem = head->problem;
  int64_t d = problem->key_width, m = problem->features, all = head->n_features;
  const double b2 = 1 - 4 * head->oprf_a, log_factor = (double)d / 4 * log(b2) - log((double)all) / 2;
  for (int64_t i = 0; i < problem->tokens; i++) {
    double half_norm = 0, *row = logs + i * all, top = -INFINITY;
    for (int64_t c = 0; c < d; c++) half_norm += head->scale * x[i * d + c] * x[i * d + c] / 2;
    for (int64_t r = 0; r < all; r++) {
      const double *w = projection + r % m * d;
      double u = 0, w2 = 0;
      for (int64_t c = 0; c < d; c++) {
        u += w[c] * sqrt(head->scale * b2) * x[i * d + c];
        w2 += w[c] * w[c];
      }
      row[r] = head->oprf_a * w2 + (r < m ? u : -u) - half_norm + log_factor;
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

/* Collective: |out - definition| / |definition| of the worst head; each rank takes its share of the rows. estimates:
 * of all key heads. */
static double worst_error(const struct favor_problem *problem, const struct favor_plan *plan,
                          const struct favor_estimates *estimates, const struct case_tensors *t, const void *out) {
  int64_t n = t->tokens, width = t->value_width;
  struct head head = {.problem = problem,
                      .n_features = problem->features * (problem->map == FAVOR_MAP_HYPERBOLIC ? 2 : 1),
                      .scale = problem->scale > 0 ? problem->scale : 1 / sqrt((double)t->key_width)};
  head.q_log = numbers(n * head.n_features), head.k_log = numbers(n * head.n_features);
  head.q_exp = numbers(n * head.n_features), head.k_exp = numbers(n * head.n_features);
  head.q_top = numbers(n), head.k_top = numbers(n);
  head.q = numbers(n * t->key_width), head.k = numbers(n * t->key_width);
  double *logs = numbers(n), *row = numbers(width), *got = numbers(width), worst = 0;
  for (int64_t h = 0; h < t->heads; h++) {
    double sums[2] = {0, 0};
    int64_t kv = case_kv_head(problem, h);
    double *projection = run_projection_of_head(plan, problem, h);
    const struct oracle_move move = estimates_move(problem, estimates, kv);
    const struct oracle_head rows = estimates_head(problem, t, projection);
    oracle_moved_tokens(&rows, &move, case_query(t, h, 0), case_key(t, kv, 0), head.q, head.k);
    head.v = case_value(t, kv, 0), head.oprf_a = move.oprf_a;
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
  free(head.q), free(head.k), free(logs), free(row), free(got);
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
                    enum run_mode mode, void *out) {
  enum favor_status status = run_problem(context, problem, t, mode, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(context));
  return status == FAVOR_OK;
}

/* Collective: the whole output, which must be the same bytes on one rank and one thread. */
static void *output_of(struct run_contexts *contexts, struct favor_problem problem, const struct case_tensors *t) {
  size_t bytes = run_out_bytes(&problem);
  void *out = malloc(bytes), *alone = malloc(bytes);
  assert_all(has_run(contexts->world, &problem, t, mpi_size() % 2 ? RUN_EXECUTE : RUN_BLOCKS, out));
  run_gather(MPI_COMM_WORLD, out, bytes);
  problem.threads = 1;
  problem.grid_heads = problem.grid_tokens = 0;
  bool is_same =
      mpi_rank() != 0 || (has_run(contexts->self, &problem, t, RUN_EXECUTE, alone) && memcmp(out, alone, bytes) == 0);
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
  double error = worst_error(problem, plan, &(struct favor_estimates){0}, &t, out);
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
    if (mpi_size() > 1 && (number / 2 + mpi_size()) % 2 != 0) continue; /* time */
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

/* As wide as real heads; and with the longest runs of the kernels of this machine. */
static void agrees_where_it_is_wide_or_long(void **state) {
  (void)state;
  static const int64_t windows[] = {0, 70};
  struct run_contexts contexts = run_contexts_open();
  for (int number = mpi_size() == 1 ? 0 : 6; number < 8; number++) {
    struct favor_problem problem = problem_of(number % 2, windows[number / 2 % 2]);
    problem.kernel = "auto";
    problem.precision = number == 7 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    problem.heads = 1;
    problem.segments = NULL;
    problem.tokens = 5000;
    if (number < 4) {
      problem.tokens = 500;
      problem.key_width = problem.value_width = 64;
      problem.features = 256;
    }
    const int64_t whole[] = {0, problem.tokens};
    problem.segments = whole;
    problem.n_segments = 1;
    double error = error_of(&contexts, &problem, (uint64_t)number, number < 4 ? 4 : 1);
    run_print("case %2d: tokens %lld, width %lld: error %.3g\n", number, (long long)problem.tokens,
              (long long)problem.key_width, error);
    assert_all(error <= (problem.precision == FAVOR_PRECISION_F64 ? 1e-11 : 2e-5));
  }
  run_contexts_close(&contexts);
}

/* Collective: the error where something is estimated from the tokens, or given with the problem. What was estimated has
 * the same bytes on one rank too. */
static double error_of_moved(struct run_contexts *contexts, const struct favor_problem *problem,
                             const struct case_tensors *t) {
  struct estimates_owned owned;
  void *out = output_of(contexts, *problem, t), *alone = malloc(run_out_bytes(problem));
  struct favor_plan *plan = NULL;
  assert_all(estimates_alone(contexts, problem, t, alone, &owned));
  assert_all(favor_plan_create(contexts->world, problem, &plan) == FAVOR_OK);
  assert_all(run_plan(plan, problem, t, RUN_EXECUTE, alone) == FAVOR_OK);
  assert_all(estimates_are_same(problem, plan, &owned));
  double error = worst_error(problem, plan, &owned.estimates, t, out);
  favor_plan_destroy(&plan);
  estimates_release(&owned);
  free(alone);
  free(out);
  return error;
}

/* The same row transforms inside the window and outside, each of them alone and all together, and oprf at its true
 * scale: windows of none to most of the weight. */
static void agrees_where_tokens_are_moved(void **state) {
  (void)state;
  static const int64_t windows[] = {0, 40, 200};
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < 2 * (ESTIMATES_N_COMBINATIONS - 1); number++) {
    if (mpi_size() > 1 && (number / 2 + mpi_size()) % 2 != 0) continue; /* time */
    const struct combination *combination = &estimates_combinations[1 + number / 2];
    struct favor_problem problem = problem_of(number % 2, windows[number % 3]);
    problem.kv_heads = 1 + number / 4 % 2;
    problem.precision = (number + number / 2) % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    problem.threads = 1 + number / 3 % 2;
    problem.has_projection_per_head = number % 5 == 3;
    if (number % 4 == 1 && mpi_size() > 1) problem.grid_heads = 1, problem.grid_tokens = mpi_size() - 1;
    estimates_combine(combination, &problem);
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)number, 0.7, &t);
    estimates_make_anisotropic(&problem, 0.7, &t);
    double error = error_of_moved(&contexts, &problem, &t);
    run_print("%s: window %lld, causal %d, precision %d: error %.3g\n", combination->name, (long long)problem.window,
              problem.is_causal, (int)problem.precision, error);
    assert_all(error <= (problem.precision == FAVOR_PRECISION_F64 ? 1e-11 : 2e-5));
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Few keys, opposite to their queries and long: a query and a key weigh most in different features, so that f32 holds
 * no product of theirs, and the window's own weight is less than all of them. */
static void weights_that_underflow_are_found_again(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    const int64_t whole[] = {0, 8};
    struct favor_problem problem = problem_of(is_causal, 0);
    problem.tokens = 8;
    problem.segments = whole;
    problem.n_segments = 1;
    struct case_tensors t;
    case_tensors_create(&problem, 9, 40, &t);
    for (int64_t i = 0; i < t.tokens * t.key_width; i++) t.k[i] = -t.q[i];
    void *out = output_of(&contexts, problem, &t);
    struct favor_plan *plan = NULL;
    assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
    double error = worst_error(&problem, plan, &(struct favor_estimates){0}, &t, out);
    run_print("opposite keys, causal %d: error %.3g\n", is_causal, error);
    assert_all(error <= 2e-5);
    favor_plan_destroy(&plan);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* The same, of tokens that are moved, which the double path has to know of; f64 takes it too. */
static void moved_weights_that_underflow_are_found_again(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    const int64_t whole[] = {0, 8};
    struct favor_problem problem = problem_of(is_causal, 0);
    double shift[16], balance[16], a = -0.3;
    for (int d = 0; d < 16; d++) {
      shift[d] = 0.1 * d;
      balance[d] = d % 2 ? 1.3 : -0.8;
    }
    problem.precision = FAVOR_PRECISION_F64;
    problem.tokens = 8;
    problem.segments = whole;
    problem.n_segments = 1;
    estimates_combine(&estimates_combinations[ESTIMATES_N_COMBINATIONS - 2], &problem);
    problem.estimates = &(struct favor_estimates){.key_shift = shift, .balance = balance, .oprf_a = &a};
    struct case_tensors t;
    case_tensors_create(&problem, 9, 40, &t);
    for (int64_t i = 0; i < t.tokens * t.key_width; i++) t.k[i] = -t.q[i];
    double error = error_of_moved(&contexts, &problem, &t);
    run_print("opposite keys, moved, causal %d: error %.3g\n", is_causal, error);
    assert_all(error <= 1e-11);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Tokens that drift: what is near in place is near in q and k, as rotary positions or a text's topics make it. */
static void make_local(const struct favor_problem *problem, uint64_t seed, struct case_tensors *t) {
  enum { STREAM_DRIFT = 77 };
  const double step = 0.2, noise = 0.3;
  int64_t d = t->key_width;
  double *place = numbers(d);
  for (int64_t i = 0; i < t->tokens; i++) {
    for (int64_t c = 0; c < d; c++) {
      double drift = case_deviate(seed, STREAM_DRIFT, (uint64_t)(i * d + c));
      place[c] = i == 0 ? drift : sqrt(1 - step * step) * place[c] + step * drift;
      t->q[i * d + c] = place[c] + noise * t->q[i * d + c];
      t->k[i * d + c] = place[c] + noise * t->k[i * d + c];
    }
  }
  case_tensors_round(problem, t);
  free(place);
}

/* The error against softmax, of one head of one segment; each rank by itself. */
static double softmax_error(struct run_contexts *contexts, const struct favor_problem *problem,
                            const struct case_tensors *t, const double *exact) {
  int64_t count = t->tokens * t->value_width;
  void *out = malloc(run_out_bytes(problem));
  double *got = numbers(count);
  bool is_run = has_run(contexts->self, problem, t, RUN_EXECUTE, out);
  for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, i);
  double error = is_run ? oracle_relative_error(got, exact, count) : NAN;
  free(out);
  free(got);
  return error;
}

/* Measured over draws 0 to 9, bidirectional and causal in turn: the error falls by a factor of 3.0 to 4.8. */
static void a_window_pays_where_structure_is_local(void **state) {
  (void)state;
  mpi_skip_all_if(mpi_size() > 1); /* the same bits there */
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < 4; number++) {
    const int64_t whole[] = {0, 1200};
    struct favor_problem problem = problem_of(number % 2, -1);
    problem.heads = 1;
    problem.tokens = 1200;
    problem.segments = whole;
    problem.n_segments = 1;
    problem.key_width = 32;
    problem.features = 128;
    problem.seed = (uint64_t)number;
    problem.kernel = "auto";
    struct oracle_head head = {.tokens = 1200,
                               .key_width = 32,
                               .value_width = problem.value_width,
                               .segments = whole,
                               .n_segments = 1,
                               .is_causal = problem.is_causal};
    struct case_tensors t;
    case_tensors_create(&problem, (uint64_t)number, 1, &t);
    make_local(&problem, (uint64_t)number, &t);
    double *exact = numbers(t.tokens * t.value_width);
    oracle_softmax(&head, t.q, t.k, t.v, exact);
    double without = softmax_error(&contexts, &problem, &t, exact);
    problem.window = 64;
    double with = softmax_error(&contexts, &problem, &t, exact);
    problem.window = 1199;
    double all = softmax_error(&contexts, &problem, &t, exact);
    run_print("draw %d, causal %d: error %.3g, with a window %.3g, of all tokens %.3g\n", number, problem.is_causal,
              without, with, all);
    assert_all(all <= 2e-5);
    assert_all(with * 2.5 < without);
    free(exact);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* ---- laws -------------------------------------------------------------------------------------------------------- */

static bool rows_are_same(const struct favor_problem *a, const void *a_out, const struct favor_problem *b,
                          const void *b_out, int64_t n_rows) {
  size_t row = (size_t)a->value_width * run_element_bytes(a);
  for (int64_t h = 0; h < a->heads; h++) {
    const char *x = (const char *)a_out + (size_t)(h * a->tokens) * row;
    const char *y = (const char *)b_out + (size_t)(h * b->tokens) * row;
    if (memcmp(x, y, (size_t)n_rows * row) != 0) return false;
  }
  return true;
}

/* Neither a last token that is unlike all others nor its absence changes a bit of an earlier output. */
static void the_future_has_no_say(void **state) {
  (void)state;
  static const int64_t windows[] = {0, 40, 300};
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < 3; number++) {
    const int64_t longer[] = {0, 621}, shorter[] = {0, 620};
    struct favor_problem problem = problem_of(true, windows[number]);
    problem.tokens = 621;
    problem.segments = longer;
    problem.n_segments = 1;
    struct case_tensors t, cut;
    case_tensors_create(&problem, 12, 2, &t);
    case_tensors_slice(&t, 0, 620, &cut);
    struct favor_problem without = problem;
    without.tokens = 620;
    without.segments = shorter;
    for (int64_t c = 0; c < t.key_width; c++) case_query(&t, 0, 620)[c] = 50;
    for (int64_t c = 0; c < t.key_width; c++) case_key(&t, 0, 620)[c] = 50;
    for (int64_t e = 0; e < t.value_width; e++) case_value(&t, 0, 620)[e] = 1e15;
    void *out = output_of(&contexts, problem, &t), *before = output_of(&contexts, without, &cut);
    assert_all(rows_are_same(&problem, out, &without, before, 620));
    free(out);
    free(before);
    case_tensors_destroy(&t);
    case_tensors_destroy(&cut);
  }
  run_contexts_close(&contexts);
}

static void values_of_any_size_are_as_good(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct favor_problem problem = problem_of(is_causal, 40);
    struct case_tensors t;
    case_tensors_create(&problem, 13, 1, &t);
    for (int64_t j = 0; j < t.tokens; j++) case_value(&t, 0, j)[2] = 1.5;
    void *out = output_of(&contexts, problem, &t);
    for (int64_t j = 0; j < t.tokens; j++) {
      case_value(&t, 0, j)[0] *= 0x1p100;
      case_value(&t, 0, j)[1] *= 0x1p-100;
    }
    void *scaled = output_of(&contexts, problem, &t);
    bool is_scaled = true, is_constant = true;
    for (int64_t row = 0; row < t.heads * t.tokens; row++) {
      const float *x = (float *)out + row * t.value_width, *y = (float *)scaled + row * t.value_width;
      is_scaled = is_scaled && y[0] == x[0] * 0x1p100F && y[1] == x[1] * 0x1p-100F;
      is_constant = is_constant && fabsf(x[2] - 1.5F) < 1e-6F && x[2] == y[2];
    }
    assert_all(is_scaled);
    assert_all(is_constant);
    free(out);
    free(scaled);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

static void refuse(struct favor_context *context, const struct favor_problem *problem, const struct case_tensors *t,
                   enum favor_status status, const char *text) {
  void *out = malloc(run_out_bytes(problem));
  assert_all(run_problem(context, problem, t, RUN_EXECUTE, out) == status);
  assert_all(strstr(favor_context_message(context), text) != NULL);
  free(out);
}

static void what_cannot_be_is_refused(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(false, 5);
  struct case_tensors t;
  case_tensors_create(&problem, 14, 1, &t);
  double kept = case_key(&t, 0, 900)[3];
  case_key(&t, 0, 900)[3] = 1e4;
  refuse(contexts.world, &problem, &t, FAVOR_EDATA, "k of head 0, token 900 is too long");
  case_key(&t, 0, 900)[3] = NAN;
  refuse(contexts.world, &problem, &t, FAVOR_EDATA, "NaN in k, head 0, token 900");
  case_key(&t, 0, 900)[3] = kept;
  /* What a shift makes short is taken, and what a balance makes long is not. */
  double shift[16] = {[3] = 1e5}, balance[16];
  for (int d = 0; d < 16; d++) balance[d] = d == 3 ? 1e-5 : 1;
  problem.key_shift = FAVOR_KEY_SHIFT_MEAN;
  problem.estimates = &(struct favor_estimates){.key_shift = shift, .balance = balance};
  for (int64_t j = 0; j < t.tokens; j++) case_key(&t, 0, j)[3] = 1e5;
  void *out = malloc(run_out_bytes(&problem));
  assert_all(has_run(contexts.world, &problem, &t, RUN_EXECUTE, out));
  free(out);
  for (int64_t j = 0; j < t.tokens; j++) case_key(&t, 0, j)[3] = 0;
  case_key(&t, 0, 901)[3] = 1;
  problem.key_shift = FAVOR_KEY_SHIFT_NONE;
  problem.balance = FAVOR_BALANCE_DIAGONAL;
  refuse(contexts.world, &problem, &t, FAVOR_EDATA, "k of head 0, token 901 is too long once it is shifted");
  /* What fails in the pass that measures is the end of the run. */
  problem.estimates = NULL;
  struct favor_plan *plan = NULL;
  struct favor_estimates early;
  out = malloc(run_out_bytes(&problem));
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  if (mpi_rank() == 0) favor_plan_estimates(plan, &early);
  assert_all(run_plan(plan, &problem, &t, RUN_EXECUTE, out) == FAVOR_EUSAGE);
  assert_all(strstr(favor_context_message(contexts.world), "before a run has measured") != NULL);
  favor_plan_destroy(&plan);
  free(out);
  problem.balance = FAVOR_BALANCE_NONE;
  problem.memory_bytes = 1000;
  refuse(contexts.world, &problem, &t, FAVOR_EUSAGE, "use more ranks");
  problem.memory_bytes = 0;
  problem.window = -2;
  refuse(contexts.world, &problem, &t, FAVOR_EUSAGE, "window is -2");
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(agrees_with_the_definition),
      mpi_unit_test(agrees_where_it_is_wide_or_long),
      mpi_unit_test(agrees_where_tokens_are_moved),
      mpi_unit_test(weights_that_underflow_are_found_again),
      mpi_unit_test(moved_weights_that_underflow_are_found_again),
      mpi_unit_test(a_window_pays_where_structure_is_local),
      mpi_unit_test(the_future_has_no_say),
      mpi_unit_test(values_of_any_size_are_as_good),
      mpi_unit_test(what_cannot_be_is_refused),
  };
  return mpi_cmocka_main(&argc, &argv, "hybrid", tests, sizeof tests / sizeof tests[0]);
}

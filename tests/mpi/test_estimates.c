/* Key shift, balance and oprf: what they are estimated to be, what they leave as it is, that the decoder goes on alike,
 * and what they are good for. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "estimates.h"

/* ---- what is estimated ------------------------------------------------------------------------------------------- */

/* Two passes in long double over the tokens of a key head and all query heads that read it. */
struct naive {
  int64_t width;
  long double *query_mean, *key_mean; /* [D] */
  long double *query, *key;           /* [D][D], second moments about `centre` */
};

static void naive_side(const double *x, int64_t rows, int64_t d, bool is_centred, const double *about,
                       long double *mean, long double *square) {
  for (int64_t i = 0; i < rows * d; i++) mean[i % d] += (long double)x[i] / (long double)rows;
  for (int64_t t = 0; t < rows; t++) {
    for (int64_t i = 0; i < d; i++) {
      for (int64_t j = 0; j < d; j++) {
        const long double a = (long double)x[t * d + i] - (is_centred ? mean[i] : about ? (long double)about[i] : 0);
        const long double b = (long double)x[t * d + j] - (is_centred ? mean[j] : about ? (long double)about[j] : 0);
        square[i * d + j] += a * b / (long double)rows;
      }
    }
  }
}

static struct naive naive_create(const struct favor_problem *problem, const struct case_tensors *t, int64_t key_head,
                                 bool is_centred, const double *about) {
  const int64_t d = t->key_width, heads_per_key = t->heads / t->kv_heads;
  struct naive naive = {.width = d};
  long double **const all[] = {&naive.query_mean, &naive.key_mean, &naive.query, &naive.key};
  for (int i = 0; i < 4; i++) *all[i] = calloc((size_t)(d * d), sizeof(long double));
  (void)problem;
  naive_side(case_query(t, key_head * heads_per_key, 0), heads_per_key * t->tokens, d, is_centred, NULL,
             naive.query_mean, naive.query);
  naive_side(case_key(t, key_head, 0), t->tokens, d, is_centred, about, naive.key_mean, naive.key);
  return naive;
}

static void naive_destroy(struct naive *naive) {
  free(naive->query_mean);
  free(naive->key_mean);
  free(naive->query);
  free(naive->key);
}

/* |a - b| / |a| of D x D matrices. */
static double distance(int64_t count, const long double *a, const long double *b) {
  long double apart = 0, size = 0;
  for (int64_t i = 0; i < count; i++) {
    apart += (a[i] - b[i]) * (a[i] - b[i]);
    size += a[i] * a[i];
  }
  return (double)sqrtl(apart / size);
}

/* c = a^T m b for D x D matrices. */
static long double *sandwich(int64_t n, const long double *a, const long double *m, const long double *b) {
  long double *half = calloc((size_t)(n * n), sizeof *half), *c = calloc((size_t)(n * n), sizeof *c);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t d = 0; d < n; d++) half[i * n + j] += a[d * n + i] * m[d * n + j];
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t d = 0; d < n; d++) c[i * n + j] += half[i * n + d] * b[d * n + j];
  free(half);
  return c;
}

/* What counts as the variance of directions that have next to none: 2^-16 of the mean one, of a full balance on top. */
static void add_least_variance(int64_t n, long double *square) {
  long double trace = 0;
  for (int64_t d = 0; d < n; d++) trace += square[d * (n + 1)];
  for (int64_t d = 0; d < n; d++) square[d * (n + 1)] += trace / (long double)n * 0x1p-16L;
}

/* How far the balance is from what it is defined to be. Full: L^T L Mq L^T L = Mk, which is L Mq L^T = L^-T Mk L^-1. */
static double balance_error(const struct favor_problem *problem, struct naive *naive, const double *l) {
  const int64_t n = naive->width;
  double worst = 0;
  if (problem->balance == FAVOR_BALANCE_DIAGONAL) {
    for (int64_t d = 0; d < n; d++) {
      const long double right = powl(naive->key[d * (n + 1)] / naive->query[d * (n + 1)], 0.25L);
      worst = oracle_worse(worst, (double)fabsl(l[d] / right - 1));
    }
    return worst;
  }
  long double *p = calloc((size_t)(n * n), sizeof *p);
  add_least_variance(n, naive->query);
  add_least_variance(n, naive->key);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      if (i > j && l[i * n + j] != 0) worst = INFINITY; /* upper triangular */
      for (int64_t d = 0; d < n; d++) p[i * n + j] += (long double)l[d * n + i] * l[d * n + j];
    }
  }
  long double *back = sandwich(n, p, naive->query, p);
  worst = oracle_worse(worst, distance(n * n, naive->key, back));
  free(back);
  free(p);
  return worst;
}

/* The shift, and A from f by averages over tokens. */
static double shift_error(const struct naive *naive, const struct oracle_move *move) {
  const int64_t n = naive->width;
  long double *right = calloc((size_t)n, sizeof *right), *got = calloc((size_t)n, sizeof *got);
  for (int64_t j = 0; j < n; j++) {
    got[j] = move->shift[j];
    right[j] = naive->key_mean[j] + (move->diagonal ? move->diagonal[j] * move->diagonal[j]
                                     : move->l      ? 0
                                                    : 1) *
                                        naive->query_mean[j];
    for (int64_t i = 0; i < n && move->l; i++) {
      for (int64_t d = 0; d < n; d++)
        right[j] += (long double)move->l[i * n + j] * move->l[i * n + d] * naive->query_mean[d];
    }
  }
  const double error = distance(n, right, got);
  free(right);
  free(got);
  return error;
}

static double oprf_error(const struct favor_problem *problem, const struct case_tensors *t, int64_t key_head,
                         const struct oracle_move *move) {
  const int64_t d = t->key_width, group = t->heads / t->kv_heads, count = t->tokens * d;
  struct oracle_head head = estimates_head(problem, t, NULL);
  double *q = calloc((size_t)count, sizeof *q), *k = calloc((size_t)count, sizeof *k);
  long double norms = 0, *query = calloc((size_t)d, sizeof *query), *key = calloc((size_t)d, sizeof *key);
  for (int64_t h = 0; h < group; h++) {
    oracle_moved_tokens(&head, move, case_query(t, key_head * group + h, 0), case_key(t, key_head, 0), q, k);
    for (int64_t i = 0; i < count; i++) {
      norms += ((long double)q[i] * q[i] + (long double)k[i] * k[i]) / (long double)(group * t->tokens);
      query[i % d] += (long double)q[i] / (long double)(group * t->tokens);
      key[i % d] += (long double)k[i] / (long double)(group * t->tokens);
    }
  }
  long double f = norms;
  for (int64_t i = 0; i < d; i++) f += 2 * query[i] * key[i];
  f *= problem->scale > 0 ? problem->scale : 1 / sqrtl((long double)d);
  const long double w = (long double)d;
  const long double a = (w - 2 * f - sqrtl((2 * f + w) * (2 * f + w) + 8 * w * f)) / (16 * w);
  free(q);
  free(k);
  free(query);
  free(key);
  return (double)fabsl(move->oprf_a / a - 1);
}

static void estimates_are_what_they_are_said_to_be(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  double worst[3] = {0};
  for (int c = 1; c < ESTIMATES_N_COMBINATIONS; c++) {
    static const int64_t segments[] = {0, 100, 100, 301};
    struct favor_problem problem = estimates_small_problem();
    problem.segments = segments;
    problem.n_segments = 3;
    problem.is_causal = c % 2 == 0;
    estimates_combine(&estimates_combinations[c], &problem);
    struct case_tensors t;
    struct estimates_owned owned;
    case_tensors_create(&problem, (uint64_t)c, 0.5, &t);
    estimates_make_anisotropic(&problem, 0.5, &t);
    void *out = malloc(run_out_bytes(&problem));
    assert_all(estimates_alone(&contexts, &problem, &t, out, &owned));
    for (int64_t g = 0; g < problem.kv_heads; g++) {
      const struct oracle_move move = estimates_move(&problem, &owned.estimates, g);
      struct naive naive = naive_create(&problem, &t, g, problem.key_shift != FAVOR_KEY_SHIFT_NONE, NULL);
      if (problem.key_shift != FAVOR_KEY_SHIFT_NONE) worst[0] = oracle_worse(worst[0], shift_error(&naive, &move));
      if (problem.balance != FAVOR_BALANCE_NONE) {
        worst[1] = oracle_worse(worst[1],
                                balance_error(&problem, &naive, owned.balance + g * estimates_balance_count(&problem)));
      }
      if (problem.map == FAVOR_MAP_OPRF) worst[2] = oracle_worse(worst[2], oprf_error(&problem, &t, g, &move));
      naive_destroy(&naive);
    }
    estimates_release(&owned);
    free(out);
    case_tensors_destroy(&t);
  }
  run_print("estimates against long double: shift %.2g, balance %.2g, A %.2g\n", worst[0], worst[1], worst[2]);
  run_contexts_close(&contexts);
  assert_all(worst[0] < 1e-9);
  assert_all(worst[1] < 1e-9);
  assert_all(worst[2] < 1e-9);
}

/* L q . L^-T (k - s) = q.k - q.s: the same softmax. */
static void softmax_stays_as_it_is(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (int c = 1; c < ESTIMATES_N_COMBINATIONS; c++) {
    struct favor_problem problem = estimates_small_problem();
    problem.heads = problem.kv_heads = 1;
    problem.is_causal = c % 2 == 0;
    estimates_combine(&estimates_combinations[c], &problem);
    struct case_tensors t;
    struct estimates_owned owned;
    case_tensors_create(&problem, (uint64_t)c, 1.0, &t);
    estimates_make_anisotropic(&problem, 0.7, &t);
    void *out = malloc(run_out_bytes(&problem));
    assert_all(estimates_alone(&contexts, &problem, &t, out, &owned));
    const struct oracle_head head = estimates_head(&problem, &t, NULL);
    const struct oracle_move move = estimates_move(&problem, &owned.estimates, 0);
    const int64_t count = t.tokens * t.key_width, n_out = t.tokens * t.value_width;
    double *q = calloc((size_t)count, sizeof *q), *k = calloc((size_t)count, sizeof *k);
    double *exact = calloc((size_t)n_out, sizeof *exact), *moved = calloc((size_t)n_out, sizeof *moved);
    oracle_moved_tokens(&head, &move, t.q, t.k, q, k);
    oracle_softmax(&head, t.q, t.k, t.v, exact);
    oracle_softmax(&head, q, k, t.v, moved);
    worst = oracle_worse(worst, oracle_relative_error(moved, exact, n_out));
    free(q);
    free(k);
    free(exact);
    free(moved);
    free(out);
    estimates_release(&owned);
    case_tensors_destroy(&t);
  }
  run_print("softmax of moved tokens: %.2g\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst < 1e-12);
}

/* ---- the decoder ------------------------------------------------------------------------------------------------- */

static void the_decoder_goes_on_alike(void **state) {
  (void)state;
  enum { FIRST = 200 };
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (int c = 1; c < ESTIMATES_N_COMBINATIONS; c++) {
    struct favor_problem problem = estimates_small_problem();
    problem.is_causal = true;
    estimates_combine(&estimates_combinations[c], &problem);
    struct case_tensors t;
    struct estimates_owned owned;
    case_tensors_create(&problem, (uint64_t)c, 0.5, &t);
    estimates_make_anisotropic(&problem, 0.5, &t);
    double *batch = malloc(run_out_bytes(&problem)), *decoded = malloc(run_out_bytes(&problem));
    assert_all(estimates_alone(&contexts, &problem, &t, batch, &owned));
    memcpy(decoded, batch, run_out_bytes(&problem));
    struct favor_plan *plan = NULL;
    struct favor_decoder *decoder = NULL;
    assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
    assert_all(favor_decoder_create(plan, &decoder) == FAVOR_EUSAGE); /* nothing is estimated yet */
    favor_context_forget(contexts.self);
    favor_plan_destroy(&plan);
    problem.estimates = &owned.estimates;
    assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
    assert_all(favor_decoder_create(plan, &decoder) == FAVOR_OK);
    for (int64_t i = 0; i < t.tokens; i++) {
      struct favor_input q = {case_query(&t, 0, i), t.tokens * t.key_width, 0};
      struct favor_input k = {case_key(&t, 0, i), t.tokens * t.key_width, 0};
      struct favor_input v = {case_value(&t, 0, i), t.tokens * t.value_width, 0};
      struct favor_output out = {decoded + i * t.value_width, t.tokens * t.value_width, 0};
      assert_all(favor_decoder_step(decoder, &q, &k, &v, &out) == FAVOR_OK);
    }
    worst = oracle_worse(worst, oracle_relative_error(decoded, batch, t.heads * t.tokens * t.value_width));
    favor_decoder_destroy(&decoder);
    favor_plan_destroy(&plan);
    free(batch);
    free(decoded);
    estimates_release(&owned);
    case_tensors_destroy(&t);
  }
  run_print("decoder against batch: %.2g\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst < 1e-12);
}

/* ---- what they are good for -------------------------------------------------------------------------------------- */

/* Of random tokens, over draws of data and projection: the mean square error of the output over that of softmax. */
static double mean_square_error(const struct run_contexts *contexts, const struct combination *combination,
                                enum favor_row_norm row_norm, bool is_anisotropic) {
  enum { SEEDS = 8 };
  double mean = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct favor_problem problem = favor_problem_default();
    problem.precision = FAVOR_PRECISION_F64;
    problem.tokens = 256;
    problem.key_width = 16;
    problem.value_width = 4;
    problem.features = 128;
    problem.seed = seed;
    problem.row_norm = row_norm;
    estimates_combine(combination, &problem);
    struct case_tensors t;
    case_tensors_create(&problem, seed, 0.5, &t);
    if (is_anisotropic) estimates_make_anisotropic(&problem, 0.5, &t);
    double *out = malloc(run_out_bytes(&problem)), *exact = malloc(run_out_bytes(&problem));
    const struct oracle_head head = estimates_head(&problem, &t, NULL);
    assert_all(run_problem(contexts->self, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    oracle_softmax(&head, t.q, t.k, t.v, exact);
    const double error = oracle_relative_error(out, exact, t.tokens * t.value_width);
    mean += error * error / SEEDS;
    free(out);
    free(exact);
    case_tensors_destroy(&t);
  }
  return mean;
}

/* Anisotropic: columns whose scales spread over 16, and points away from the origin. */
static void balanced_and_oprf_inputs_are_better(void **state) {
  (void)state;
  enum { PLAIN, SHIFT, DIAGONAL, FULL, SHIFT_DIAGONAL, SHIFT_FULL, OPRF, ALL, N_MEASURED };
  static const struct combination measured[N_MEASURED] = {
      [PLAIN] = {"plain", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_NONE},
      [SHIFT] = {"shift", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_NONE},
      [DIAGONAL] = {"diagonal", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_DIAGONAL},
      [FULL] = {"full", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_FULL},
      [SHIFT_DIAGONAL] = {"shift and diagonal", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_DIAGONAL},
      [SHIFT_FULL] = {"shift and full", FAVOR_MAP_POSITIVE, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_FULL},
      [OPRF] = {"oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_NONE, FAVOR_BALANCE_NONE},
      [ALL] = {"shift, full and oprf", FAVOR_MAP_OPRF, FAVOR_KEY_SHIFT_MEAN, FAVOR_BALANCE_FULL},
  };
  struct run_contexts contexts = run_contexts_open();
  double isotropic[N_MEASURED][2], anisotropic[N_MEASURED][2]; /* by row norm; oprf has chi in any case */
  run_print("relative root mean square error, rows of length sqrt(D), chi(D): isotropic; anisotropic\n");
  for (int i = 0; i < N_MEASURED; i++) {
    for (int norm = 0; norm < 2; norm++) {
      isotropic[i][norm] = mean_square_error(&contexts, &measured[i], (enum favor_row_norm)norm, false);
      anisotropic[i][norm] = mean_square_error(&contexts, &measured[i], (enum favor_row_norm)norm, true);
    }
    run_print("  %-22s %.3f %.3f   %.3f %.3f\n", measured[i].name, sqrt(isotropic[i][0]), sqrt(isotropic[i][1]),
              sqrt(anisotropic[i][0]), sqrt(anisotropic[i][1]));
  }
  run_contexts_close(&contexts);
  const double *plain = anisotropic[PLAIN];
  assert_all(anisotropic[DIAGONAL][0] < plain[0] / 2.5 && anisotropic[FULL][0] < plain[0] / 3);
  assert_all(anisotropic[SHIFT_DIAGONAL][0] < plain[0] / 8 && anisotropic[SHIFT_FULL][0] < plain[0] / 8);
  assert_all(anisotropic[ALL][0] < plain[0] / 6 && anisotropic[ALL][1] < plain[1] / 15);
  /* Of rows of random length, which oprf has to have, it makes better use. */
  assert_all(isotropic[OPRF][1] < isotropic[PLAIN][1] / 1.2);
  assert_all(anisotropic[ALL][1] < anisotropic[SHIFT_FULL][1] / 1.2);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(estimates_are_what_they_are_said_to_be),
      mpi_unit_test(softmax_stays_as_it_is),
      mpi_unit_test(the_decoder_goes_on_alike),
      mpi_unit_test(balanced_and_oprf_inputs_are_better),
  };
  return mpi_cmocka_main(&argc, &argv, "estimates", tests, sizeof tests / sizeof tests[0]);
}

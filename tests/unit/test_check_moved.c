/* The check of an output (core/check.h) where keys are shifted, tokens balanced and rows weighed by oprf: its
 * definition is that of the oracle, with a window too, and its exact answer is still softmax of the tokens as they
 * came.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/random.h"
#include "core/check.h"
#include "support/oracle_moved.h"

enum { TOKENS = 300, KEY_HEADS = 2, HEADS = 4, D = 6, E = 3, M = 10, ROWS = 20 };

struct data {
  double q[HEADS][TOKENS][D], k[KEY_HEADS][TOKENS][D], v[KEY_HEADS][TOKENS][E];
  double projection[M][D], shift[KEY_HEADS][D], balance[KEY_HEADS][D * D], oprf_a[KEY_HEADS];
  double sampled[ROWS][HEADS][D], definition[TOKENS][E], exact[TOKENS][E];
};

static struct data *make_data(enum favor_balance balance) {
  struct data *data = calloc(1, sizeof *data);
  assert_non_null(data);
  struct random_stream stream = random_stream(5, RANDOM_MAKE, 0, 0);
  random_normal(&stream, 0, (int64_t)(offsetof(struct data, oprf_a) / sizeof(double)), &data->q[0][0][0]);
  for (int g = 0; g < KEY_HEADS; g++) {
    data->oprf_a[g] = -0.07 * (g + 1);
    for (int i = 0; i < D * D; i++) { /* far from singular, and from symmetric */
      if (balance == FAVOR_BALANCE_FULL) data->balance[g][i] = 0.3 * data->balance[g][i] + (i % (D + 1) == 0 ? 2 : 0);
    }
  }
  return data;
}

/* The balance of a key head as the check counts it: [key heads][D] where it is diagonal. */
static double *balances(struct data *data, enum favor_balance balance, int g) {
  return &data->balance[0][0] + g * (balance == FAVOR_BALANCE_FULL ? D * D : D);
}

/* The weight of key k' for query q' by features at their true scale, an estimate of exp(q'~.k'~). */
static double feature_weight(const struct oracle_head *head, double a, const double *q, const double *k) {
  const int signs = head->is_hyperbolic ? 2 : 1;
  double norms = 0, sum = 0;
  for (int d = 0; d < D; d++) norms += head->scale * (q[d] * q[d] + k[d] * k[d]) / 2;
  for (int r = 0; r < M; r++) {
    double u = 0, w2 = 0;
    for (int d = 0; d < D; d++) {
      u += head->projection[r * D + d] * sqrt(head->scale) * (q[d] + k[d]);
      w2 += head->projection[r * D + d] * head->projection[r * D + d];
    }
    u *= sqrt(1 - 4 * a);
    sum += exp(2 * a * w2 + u - norms) + (signs == 2 ? exp(-u - norms) : 0);
  }
  return pow(1 - 4 * a, D / 2.0) * sum / (signs * M);
}

/* Attention with exact weights of the moved tokens inside the window. */
static void attend_with_window(const struct oracle_head *head, const struct oracle_move *move, int64_t window,
                               const double *q, const double *k, const double *v, double *out) {
  double(*moved_q)[D] = calloc(TOKENS, sizeof *moved_q), (*moved_k)[D] = calloc(TOKENS, sizeof *moved_k);
  assert_true(moved_q && moved_k);
  oracle_moved_tokens(head, move, q, k, moved_q[0], moved_k[0]);
  for (int i = 0; i < TOKENS; i++) {
    double total = 0, sums[E] = {0};
    for (int j = 0; j < (head->is_causal ? i + 1 : TOKENS); j++) {
      double logit = 0;
      for (int d = 0; d < D; d++) logit += head->scale * moved_q[i][d] * moved_k[j][d];
      const double weight =
          labs(i - j) <= window ? exp(logit) : feature_weight(head, move->oprf_a, moved_q[i], moved_k[j]);
      total += weight;
      for (int e = 0; e < E; e++) sums[e] += weight * v[j * E + e];
    }
    for (int e = 0; e < E; e++) out[i * E + e] = sums[e] / total;
  }
  free(moved_q);
  free(moved_k);
}

/* window -1: none */
static void check_combination(enum favor_map map, bool is_shifted, enum favor_balance balance, bool is_causal,
                              int64_t window) {
  struct data *data = make_data(balance);
  struct check_row rows[ROWS];
  int64_t tokens[ROWS];
  check_sample(TOKENS, ROWS, 3, tokens, NULL);
  for (int i = 0; i < ROWS; i++) {
    rows[i] = check_row_of(tokens[i], TOKENS, NULL, 1, is_causal);
    for (int h = 0; h < HEADS; h++)
      for (int d = 0; d < D; d++) data->sampled[i][h][d] = data->q[h][tokens[i]][d];
  }
  const struct check_problem problem = {.rows = rows,
                                        .n_rows = ROWS,
                                        .key_heads = KEY_HEADS,
                                        .heads_per_key = HEADS / KEY_HEADS,
                                        .key_width = D,
                                        .value_width = E,
                                        .map = map,
                                        .features = M,
                                        .scale = 0.4,
                                        .projection = data->projection[0],
                                        .projections = 1,
                                        .balance = balance,
                                        .has_window = window >= 0,
                                        .window = window,
                                        .estimates = {.key_shift = is_shifted ? data->shift[0] : NULL,
                                                      .balance = data->balance[0],
                                                      .oprf_a = data->oprf_a}};
  struct check *check = check_create(&problem, data->sampled[0][0]);
  assert_non_null(check);
  for (int g = 0; g < KEY_HEADS; g++) check_absorb(check, g, 0, TOKENS, data->k[g][0], data->v[g][0]);
  for (int h = 0; h < HEADS; h++) {
    const int g = h / (HEADS / KEY_HEADS);
    const struct oracle_head head = {.tokens = TOKENS,
                                     .key_width = D,
                                     .value_width = E,
                                     .features = M,
                                     .is_causal = is_causal,
                                     .is_hyperbolic = map == FAVOR_MAP_HYPERBOLIC,
                                     .scale = 0.4,
                                     .projection = data->projection[0]};
    const double *l = balances(data, balance, g);
    const struct oracle_move move = {.shift = is_shifted ? data->shift[g] : NULL,
                                     .diagonal = balance == FAVOR_BALANCE_DIAGONAL ? l : NULL,
                                     .l = balance == FAVOR_BALANCE_FULL ? l : NULL,
                                     .oprf_a = map == FAVOR_MAP_OPRF ? data->oprf_a[g] : 0};
    const double *q = data->q[h][0], *k = data->k[g][0], *v = data->v[g][0];
    if (window < 0) {
      oracle_moved_attend(&head, &move, q, k, v, data->definition[0]);
    } else {
      attend_with_window(&head, &move, window, q, k, v, data->definition[0]);
    }
    oracle_softmax(&head, q, k, v, data->exact[0]);
    for (int i = 0; i < ROWS; i++) {
      double definition[E], exact[E];
      check_value(check, CHECK_DEFINITION, i, h, definition);
      check_value(check, CHECK_EXACT, i, h, exact);
      assert_true(oracle_relative_error(definition, data->definition[tokens[i]], E) < 1e-11);
      assert_true(oracle_relative_error(exact, data->exact[tokens[i]], E) < 1e-12);
    }
  }
  check_destroy(&check);
  free(data);
}

static void test_definitions_are_the_oracles(void **state) {
  (void)state;
  static const enum favor_map maps[] = {FAVOR_MAP_POSITIVE, FAVOR_MAP_HYPERBOLIC, FAVOR_MAP_OPRF};
  static const int64_t windows[] = {-1, 0, 30, TOKENS};
  for (int number = 0; number < 3 * 2 * 3; number++) {
    for (int i = 0; i < 4; i++) {
      check_combination(maps[number / 6], number % 2, (enum favor_balance)(number / 2 % 3), number % 5 < 2, windows[i]);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_definitions_are_the_oracles)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Features of tokens, from their definition. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/check_internal.h"
#include "core/check_map.h"
#include "core/check_math.h"
#include "feature/map.h"

static const double *projection_of(const struct check *check, int64_t key_head) {
  const struct check_problem *problem = &check->problem;
  return problem->projection + key_head % problem->projections * problem->features * problem->key_width;
}

static double half_norm_of(const double *x, int64_t width) {
  double half_norm = 0;
  for (int64_t d = 0; d < width; d++) half_norm += 0.5 * x[d] * x[d];
  return half_norm;
}

/* One token's w_r.x~ become logarithms of features, less their largest, which is returned, and features are their
 * exponentials. Of an exponential map, whose half norm is left out. */
static double take_exponentials(const struct check *check, double *logs, double *features) {
  const int64_t m = check->n_features, directions = check->problem.features;
  for (int64_t r = directions; r < m; r++) logs[r] = -logs[r - directions];
  const double top = check_largest(logs, m);
  check_exp_below(logs, top, m, features);
  for (int64_t r = 0; r < m; r++) logs[r] -= top;
  return top;
}

/* The same of another map; 0 where all features are 0. */
static double take_mapped(const struct check *check, double half_norm, double *logs, double *features) {
  const int64_t m = check->n_features;
  check_map_features(check->problem.map, check->problem.eps, check->problem.features, half_norm, logs, features);
  double top = check_largest(logs, m);
  if (top == -INFINITY) top = 0;
  check_exp_below(logs, top, m, check->sizes);
  for (int64_t r = 0; r < m; r++) {
    features[r] = copysign(check->sizes[r], features[r]);
    logs[r] -= top;
  }
  return top;
}

/* x~ as features see it: shifted (keys) and balanced. */
static const double *move_tokens(struct check *check, int64_t key_head, bool is_key, const double *x, int64_t n) {
  const struct check_problem *problem = &check->problem;
  const int64_t width = problem->key_width, balance_size = problem->balance == FAVOR_BALANCE_FULL ? width : 1;
  const double *shift = is_key ? problem->estimates.key_shift : NULL, root_scale = sqrt(problem->scale);
  const double *balance = problem->balance != FAVOR_BALANCE_NONE ? problem->estimates.balance : NULL;
  if (!shift && !balance) return x;
  if (balance) balance += key_head * width * balance_size;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t d = 0; d < width; d++) {
      double moved = x[i * width + d] - (shift ? root_scale * shift[key_head * width + d] : 0);
      if (problem->balance == FAVOR_BALANCE_DIAGONAL) moved = is_key ? moved / balance[d] : moved * balance[d];
      check->moved[i * width + d] = moved;
    }
  }
  if (problem->balance != FAVOR_BALANCE_FULL) return check->moved;
  double *from = check->moved, *to = check->moved + CHECK_TILE_TOKENS * width;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, is_key ? CblasNoTrans : CblasTrans, check_narrow(n), check_narrow(width),
              check_narrow(width), 1.0, from, check_narrow(width),
              is_key ? check->inverse + key_head * width * width : balance, check_narrow(width), 0.0, to,
              check_narrow(width));
  return to;
}

/* What oprf makes of w_r.x~: sqrt(1 - 4 A) times it, and A |w_r|^2. */
static void weigh_rows(const struct check *check, int64_t key_head, int64_t n, double *logs) {
  const int64_t width = check->problem.key_width, m = check->n_features;
  const double a = check->problem.estimates.oprf_a[key_head], factor = sqrt(1 - 4 * a);
  const double *projection = projection_of(check, key_head);
  for (int64_t r = 0; r < m; r++) {
    const double row_norm = cblas_dnrm2(check_narrow(width), projection + r * width, 1);
    for (int64_t i = 0; i < n; i++) logs[i * m + r] = logs[i * m + r] * factor + a * row_norm * row_norm;
  }
}

/* What a token's exponents are relative to, from its w_r.x~: enum favor_key_max. */
static double maximum(const struct check *check, int64_t key_head, bool is_key, const double *products) {
  if (!check->is_relative) return 0;
  if (is_key) return check->problem.estimates.key_max[key_head];
  return check_map_maximum(check->problem.map, check->problem.features, products);
}

void check_take_features(struct check *check, int64_t key_head, bool is_key, const double *x, int64_t n, double *logs,
                         double *features, double *tops) {
  const int64_t width = check->problem.key_width, m = check->n_features;
  const bool is_exponential = !map_at(check->problem.map)->rows && !check->is_plain;
  x = move_tokens(check, key_head, is_key, x, n);
  check_multiply_transposed(n, check->problem.features, width, x, projection_of(check, key_head), logs, m);
  if (check->problem.map == FAVOR_MAP_OPRF) weigh_rows(check, key_head, n, logs);
  for (int64_t i = 0; i < n; i++) {
    const double half_norm = half_norm_of(x + i * width, width);
    const double off = half_norm + maximum(check, key_head, is_key, logs + i * m);
    tops[i] = is_exponential ? take_exponentials(check, logs + i * m, features + i * m) - half_norm
                             : take_mapped(check, off, logs + i * m, features + i * m);
  }
}

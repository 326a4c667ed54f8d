/* The weights of a tile of keys, from their definitions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/check_internal.h"
#include "core/check_math.h"

/* A sum of products of features below this may have lost terms to underflow and is computed again by logarithms. */
static const double least_sum = 1e-200;
/* A weight this far below the largest, as a logarithm, changes no bit even if every key of 2^40 has it. */
static const double negligible = 100.0;

/* Features whose products are summed: logarithms, and numbers of their signs (NULL: all positive). */
struct factor {
  const double *logs, *signed_features;
};

/* The logarithm of the size of sum_r +-exp(a_r + b_r), without underflow, and its sign. */
static double log_sum(struct factor a, struct factor b, int64_t n, double *sign) {
  double top = -INFINITY, sum = 0;
  for (int64_t r = 0; r < n; r++) top = fmax(top, a.logs[r] + b.logs[r]);
  *sign = 1;
  if (top == -INFINITY) return top;
  for (int64_t r = 0; r < n; r++) {
    const bool is_minus = a.signed_features && signbit(a.signed_features[r]) != signbit(b.signed_features[r]);
    const double term = exp(a.logs[r] + b.logs[r] - top);
    sum += is_minus ? -term : term;
  }
  if (sum < 0) *sign = -1;
  return top + log(fabs(sum));
}

/* The logarithms of the sizes of sum_r a_r b_r over features of the meeting's queries and keys, less what all keys of a
 * query share; their signs go to check->signs. */
static void weigh_features(const struct check_meeting *meeting, const double *q_feature, const double *k_feature,
                           bool is_signed) {
  const struct check *check = meeting->check;
  const int64_t m = check->n_features;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  const double log_least_sum = log(least_sum);
  check_multiply_transposed(meeting->n_queries, meeting->n_keys, m, q_feature, k_feature, check->weights,
                            CHECK_TILE_TOKENS);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    double *weights = check->weights + i * CHECK_TILE_TOKENS;
    for (int64_t j = 0; j < meeting->n_keys; j++) {
      const double key_top = check->k_top[j], size = fabs(weights[j]);
      double sign = weights[j] < 0 ? -1 : 1;
      if (size >= least_sum) {
        weights[j] = key_top + log(size);
      } else if (key_top + log_least_sum < meeting->tops[i] - negligible) {
        weights[j] = -INFINITY;
      } else {
        const struct factor a = {check->q_log + (first + i) * m, is_signed ? q_feature + i * m : NULL};
        const struct factor b = {check->k_log + j * m, is_signed ? k_feature + j * m : NULL};
        weights[j] = key_top + log_sum(a, b, m, &sign);
      }
      if (is_signed) check->signs[i * CHECK_TILE_TOKENS + j] = sign;
    }
  }
}

/* The logarithm of what all weights of features have in common and their sums leave out: 1/R, and Dc^2 of oprf. */
static double log_common(const struct check *check, int64_t key_head) {
  const double log_features = log((double)check->n_features);
  if (check->problem.map != FAVOR_MAP_OPRF) return -log_features;
  return (double)check->problem.key_width / 2 * log(1 - 4 * check->problem.estimates.oprf_a[key_head]) - log_features;
}

/* The logarithms of exact weights in place of those inside the window, less what was taken off the others. A shift
 * counts here too, as the features outside have it; a balance does not, as L q . L^-T k = q . k. */
static void join_window(const struct check_meeting *meeting) {
  const struct check *check = meeting->check;
  const struct check_problem *problem = &check->problem;
  const int64_t width = problem->key_width, first = meeting->key_head * check->n_queries + meeting->query_begin;
  const double *shift = problem->estimates.key_shift, root_scale = sqrt(problem->scale);
  const double common = log_common(check, meeting->key_head);
  if (shift) shift += meeting->key_head * width;
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const double *q = check->q + (first + i) * width, off = check->q_top[first + i] + common;
    const int64_t token = check_row_at(meeting, i)->token;
    for (int64_t j = 0; j < meeting->n_keys; j++) {
      if (llabs(meeting->token + j - token) > problem->window) continue;
      double product = 0;
      for (int64_t d = 0; d < width; d++) {
        product += q[d] * (check->k[j * width + d] - (shift ? root_scale * shift[d] : 0));
      }
      check->weights[i * CHECK_TILE_TOKENS + j] = product - off;
    }
  }
}

static void weigh_by_definition(const struct check_meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  weigh_features(meeting, check->q_feature + first * check->n_features, check->k_feature, check->is_signed);
  if (check->problem.has_window) join_window(meeting);
}

static void take_sizes(const double *x, int64_t n, double *sizes) {
  for (int64_t i = 0; i < n; i++) sizes[i] = fabs(x[i]);
}

/* By the sizes of the definition's terms. */
static void weigh_sizes(const struct check_meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t m = check->n_features, first = meeting->key_head * check->n_queries + meeting->query_begin;
  take_sizes(check->q_feature + first * m, meeting->n_queries * m, check->q_size);
  take_sizes(check->k_feature, meeting->n_keys * m, check->k_size);
  weigh_features(meeting, check->q_size, check->k_size, false);
}

static void weigh_exactly(const struct check_meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t width = check->problem.key_width;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  check_multiply_transposed(meeting->n_queries, meeting->n_keys, width, check->q + first * width, check->k,
                            check->weights, CHECK_TILE_TOKENS);
}

static void weigh_equally(const struct check_meeting *meeting) {
  for (int64_t i = 0; i < meeting->n_queries; i++)
    memset(meeting->check->weights + i * CHECK_TILE_TOKENS, 0, CHECK_TILE_TOKENS * sizeof(double));
}

/* What else than A(i) decides which keys have a weight: the first key of the tile, up to the one after the last. */
struct span {
  int64_t begin, end;
};

/* Takes the weight from the tile's keys outside [span.begin, span.end) and at or after token `from`. */
static void keep_span(const struct check_meeting *meeting, int64_t query, struct span span, int64_t from) {
  double *logs = meeting->check->weights + query * CHECK_TILE_TOKENS;
  for (int64_t j = 0; j < meeting->n_keys; j++) {
    const int64_t token = meeting->token + j;
    if (token >= from && (token < span.begin || token >= span.end)) logs[j] = -INFINITY;
  }
}

/* Softmax over the window and the global tokens; a global token itself attends to all of A(i). */
static void weigh_window(const struct check_meeting *meeting) {
  const struct check_problem *problem = &meeting->check->problem;
  weigh_exactly(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const struct check_row *row = check_row_at(meeting, i);
    const int64_t after_globals = row->key_begin + problem->global_tokens;
    if (row->token < after_globals) continue;
    keep_span(meeting, i, (struct span){row->token - problem->window, row->token + problem->window + 1}, after_globals);
  }
}

static void weigh_itself(const struct check_meeting *meeting) {
  weigh_equally(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const int64_t token = check_row_at(meeting, i)->token;
    keep_span(meeting, i, (struct span){token, token + 1}, meeting->token);
  }
}

typedef void weigh_function(const struct check_meeting *meeting);

bool check_weigh(const struct check_meeting *meeting, int number) {
  static weigh_function *const definitions[] = {[CHECK_FEATURES] = weigh_by_definition,
                                                [CHECK_SOFTMAX] = weigh_exactly,
                                                [CHECK_WINDOW] = weigh_window,
                                                [CHECK_EQUAL] = weigh_equally,
                                                [CHECK_ITSELF] = weigh_itself};
  static weigh_function *const others[] = {
      [CHECK_EXACT] = weigh_exactly, [CHECK_MEAN] = weigh_equally, [CHECK_SIZES] = weigh_sizes};
  const struct check *check = meeting->check;
  (number == CHECK_DEFINITION ? definitions[check->problem.definition] : others[number])(meeting);
  return check->is_signed && number == CHECK_DEFINITION;
}

#include "core/check_internal.h"

#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/status.h"
#include "core/check_map.h"
#include "feature/map.h"
#include "feature/moments.h"

enum { TILE = 256, CHUNK = 512 }; /* keys and queries taken at a time */

/* A sum of products of features below this may have lost terms to underflow and is computed again by logarithms. */
static const double least_sum = 1e-200;
/* A weight this far below the largest, as a logarithm, changes no bit even if every key of 2^40 has it. */
static const double negligible = 100.0;

/* ---- sampling --------------------------------------------------------------------------------------------------- */

/* Where part i of n things in n_parts parts begins; the first n % n_parts parts have one more. */
static int64_t part_begin(int64_t n, int64_t n_parts, int64_t i) {
  const int64_t rest = n % n_parts;
  return n / n_parts * i + (i < rest ? i : rest);
}

void check_sample(int64_t n_tokens, int64_t n_rows, uint64_t seed, int64_t *tokens) {
  struct random_stream stream = random_stream(seed, RANDOM_SAMPLE, 0, 0);
  for (int64_t i = 0; i < n_rows; i++) {
    const int64_t begin = part_begin(n_tokens, n_rows, i), end = part_begin(n_tokens, n_rows, i + 1);
    tokens[i] = begin + (int64_t)(random_bits(&stream, (uint64_t)i) % (uint64_t)(end - begin));
  }
  if (n_rows >= 2) {
    tokens[0] = 0;
    tokens[n_rows - 1] = n_tokens - 1;
  }
}

struct check_row check_row_of(int64_t token, int64_t n_tokens, const int64_t *segments, int64_t n_segments,
                              bool is_causal) {
  struct check_row row = {.token = token, .key_begin = 0, .key_end = n_tokens};
  if (segments) {
    int64_t low = 0, high = n_segments; /* segments[low] <= token < segments[high] */
    while (high - low > 1) {
      int64_t middle = low + (high - low) / 2;
      if (segments[middle] <= token)
        low = middle;
      else
        high = middle;
    }
    row.key_begin = segments[low];
    row.key_end = segments[high];
  }
  if (is_causal) row.key_end = token + 1;
  return row;
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

/* Where exp() is taken to be 0: rint(x / ln 2) is -1023, as which exp_negative makes a power of two without a bit. */
static const double least_exponent = -709.2;

/* For least_exponent <= x <= 0, to a few units in the last place; 0 where the result would be subnormal.
 * exp(x) = 2^n exp(f), |f| <= ln 2 / 2, by its Taylor series. No branch and no call, so that loops of it are vectors.
 */
static inline double exp_negative(double x) {
  const double log2_e = 0x1.71547652b82fep0, ln2_high = 0x1.62e42fefa39efp-1, ln2_low = 0x1.abc9e3b39803fp-56;
  const double to_integer = 0x1.8p52; /* adding it rounds to an integer, which then stands in the low bits */
  const double sum = x * log2_e + to_integer, n = sum - to_integer;
  const double f = (x - n * ln2_high) - n * ln2_low;
  double p = 1.0 / 6227020800.0;
  p = p * f + 1.0 / 479001600.0;
  p = p * f + 1.0 / 39916800.0;
  p = p * f + 1.0 / 3628800.0;
  p = p * f + 1.0 / 362880.0;
  p = p * f + 1.0 / 40320.0;
  p = p * f + 1.0 / 5040.0;
  p = p * f + 1.0 / 720.0;
  p = p * f + 1.0 / 120.0;
  p = p * f + 1.0 / 24.0;
  p = p * f + 1.0 / 6.0;
  p = p * f + 0.5;
  p = p * f + 1.0;
  p = p * f + 1.0;
  uint64_t bits;
  memcpy(&bits, &sum, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
}

/* y[i] = exp(x[i] - top), where no x is above top. Two loops, for in one the compiler makes the bound a branch. */
static void exp_below(const double *x, double top, int64_t n, double *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const double below = x[i] - top;
    y[i] = below > least_exponent ? below : least_exponent;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = exp_negative(y[i]);
}

static double largest(const double *x, int64_t n) {
  double top = -INFINITY;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
  return top;
}

static int narrow(int64_t n) {
  FAVOR_ASSERT(n >= 0 && n <= INT_MAX);
  return (int)n;
}

/* c [m][n] = a [m][k] b^T, b [n][k] */
static void multiply_transposed(int64_t m, int64_t n, int64_t k, const double *a, const double *b, double *c,
                                int64_t c_stride) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, narrow(m), narrow(n), narrow(k), 1.0, a, narrow(k), b, narrow(k),
              0.0, c, narrow(c_stride));
}

static void scale_copy(const double *x, int64_t n, double factor, double *scaled) {
  for (int64_t i = 0; i < n; i++) scaled[i] = x[i] * factor;
}

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
  const double top = largest(logs, m);
  exp_below(logs, top, m, features);
  for (int64_t r = 0; r < m; r++) logs[r] -= top;
  return top;
}

/* The same of another map; 0 where all features are 0. */
static double take_mapped(const struct check *check, double half_norm, double *logs, double *features) {
  const int64_t m = check->n_features;
  check_map_features(check->problem.map, check->problem.eps, check->problem.features, half_norm, logs, features);
  double top = largest(logs, m);
  if (top == -INFINITY) top = 0;
  exp_below(logs, top, m, check->row);
  for (int64_t r = 0; r < m; r++) {
    features[r] = copysign(check->row[r], features[r]);
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
  double *from = check->moved, *to = check->moved + check->most_tokens * width;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, is_key ? CblasNoTrans : CblasTrans, narrow(n), narrow(width), narrow(width),
              1.0, from, narrow(width), is_key ? check->inverse + key_head * width * width : balance, narrow(width),
              0.0, to, narrow(width));
  return to;
}

/* What oprf makes of w_r.x~: sqrt(1 - 4 A) times it, and A |w_r|^2. */
static void weigh_rows(const struct check *check, int64_t key_head, int64_t n, double *logs) {
  const int64_t width = check->problem.key_width, m = check->n_features;
  const double a = check->problem.estimates.oprf_a[key_head], factor = sqrt(1 - 4 * a);
  const double *projection = projection_of(check, key_head);
  for (int64_t r = 0; r < m; r++) {
    const double row_norm = cblas_dnrm2(narrow(width), projection + r * width, 1);
    for (int64_t i = 0; i < n; i++) logs[i * m + r] = logs[i * m + r] * factor + a * row_norm * row_norm;
  }
}

/* What a token's exponents are relative to, from its w_r.x~: enum favor_key_max. */
static double maximum(const struct check *check, int64_t key_head, bool is_key, const double *products) {
  if (!check->is_relative) return 0;
  if (is_key) return check->problem.estimates.key_max[key_head];
  return check_map_maximum(check->problem.map, check->problem.features, products);
}

/* Features of n tokens x~, queries or keys; tops: what was taken off a token's logarithms. */
static void take_features(struct check *check, int64_t key_head, bool is_key, const double *x, int64_t n, double *logs,
                          double *features, double *tops) {
  const int64_t width = check->problem.key_width, m = check->n_features;
  const bool is_exponential = !map_at(check->problem.map)->rows && !check->is_plain;
  x = move_tokens(check, key_head, is_key, x, n);
  multiply_transposed(n, check->problem.features, width, x, projection_of(check, key_head), logs, m);
  if (check->problem.map == FAVOR_MAP_OPRF) weigh_rows(check, key_head, n, logs);
  for (int64_t i = 0; i < n; i++) {
    const double half_norm = half_norm_of(x + i * width, width);
    const double off = half_norm + maximum(check, key_head, is_key, logs + i * m);
    tops[i] = is_exponential ? take_exponentials(check, logs + i * m, features + i * m) - half_norm
                             : take_mapped(check, off, logs + i * m, features + i * m);
  }
}

/* ---- construction ----------------------------------------------------------------------------------------------- */

static bool allocate(struct check *check) {
  const struct check_problem *problem = &check->problem;
  const size_t key_heads = (size_t)problem->key_heads, queries = key_heads * (size_t)check->n_queries;
  const size_t width = (size_t)problem->key_width, m = (size_t)check->n_features;
  const size_t columns = 1 + (size_t)problem->value_width, number = sizeof(double);
  const size_t n_sums = (size_t)check->n_sums, n_signed = check->is_signed ? m : 0;
  check->q = memory_zeroed(queries * width, number);
  check->q_log = memory_zeroed(queries * m, number);
  check->q_top = memory_zeroed(queries, number);
  check->q_feature = memory_zeroed(queries * m, number);
  check->tops = memory_zeroed(queries * n_sums, number);
  check->sums = memory_zeroed(queries * n_sums * columns, number);
  check->row = memory_zeroed(m, number);
  check->most_tokens = check->n_queries > TILE ? check->n_queries : TILE;
  check->moved = memory_zeroed(2 * (size_t)check->most_tokens * width, number);
  check->inverse = memory_zeroed(problem->balance == FAVOR_BALANCE_FULL ? key_heads * width * width : 0, number);
  check->k = memory_zeroed(TILE * width, number);
  check->v = memory_zeroed(TILE * columns, number);
  check->k_log = memory_zeroed(TILE * m, number);
  check->k_feature = memory_zeroed(TILE * m, number);
  check->k_top = memory_zeroed(TILE, number);
  check->weights = memory_zeroed(CHUNK * TILE, number);
  check->signs = memory_zeroed(check->is_signed ? CHUNK * TILE : 0, number);
  check->q_size = memory_zeroed(CHUNK * n_signed, number);
  check->k_size = memory_zeroed(TILE * n_signed, number);
  check->answers = memory_zeroed(CHECK_N_ANSWERS * (size_t)problem->value_width, number);
  return check->q && check->q_log && check->q_feature && check->tops && check->sums && check->k && check->v &&
         check->k_log && check->k_feature && check->k_top && check->weights && check->answers && check->row &&
         check->moved && check->inverse && check->q_top && check->signs && check->q_size && check->k_size;
}

/* Its own rows and projection instead of the caller's. */
static bool copy_problem(struct check *check, const struct check_problem *problem) {
  const size_t n_weights = (size_t)(problem->projections * problem->features * problem->key_width);
  struct check_row *rows = memory_zeroed((size_t)problem->n_rows, sizeof *rows);
  double *projection = memory_zeroed(n_weights, sizeof *projection);
  check->problem = *problem;
  check->problem.rows = rows;
  check->problem.projection = projection;
  check->n_queries = problem->n_rows * problem->heads_per_key;
  check->n_features = problem->features * map_signs(problem->map);
  check->is_signed = map_at(problem->map)->sign == MAP_SIGNED;
  check->is_plain = map_at(problem->map)->plain_rows && (problem->eps > 0 || problem->guard_rule != FAVOR_GUARD_NONE);
  check->is_relative = check->is_plain && problem->key_max != FAVOR_KEY_MAX_NONE;
  check->n_sums = check->is_signed ? CHECK_MAX_SUMS : CHECK_N_ANSWERS;
  if (!rows || !projection) return false;
  memcpy(rows, problem->rows, (size_t)problem->n_rows * sizeof *rows);
  memcpy(projection, problem->projection, n_weights * sizeof *projection);
  return true;
}

/* [n_rows][all heads] becomes [key head][n_rows][heads of it], scaled. */
static void take_queries(struct check *check, const double *q) {
  const struct check_problem *problem = &check->problem;
  const int64_t group = problem->heads_per_key * problem->key_width, m = check->n_features;
  for (int64_t g = 0; g < problem->key_heads; g++) {
    double *own = check->q + g * check->n_queries * problem->key_width;
    for (int64_t i = 0; i < problem->n_rows; i++)
      scale_copy(q + (i * problem->key_heads + g) * group, group, sqrt(problem->scale), own + i * group);
    take_features(check, g, false, own, check->n_queries, check->q_log + g * check->n_queries * m,
                  check->q_feature + g * check->n_queries * m, check->q_top + g * check->n_queries);
  }
}

/* False without memory. A singular balance leaves no numbers, and so no answer that an output could agree with. */
static bool invert_balances(struct check *check) {
  const int64_t width = check->problem.key_width, count = width * width;
  if (check->problem.balance != FAVOR_BALANCE_FULL) return true;
  double *work = memory_zeroed((size_t)count, sizeof *work);
  for (int64_t g = 0; g < check->problem.key_heads && work; g++) {
    double *inverse = check->inverse + g * count;
    if (!moments_invert(width, check->problem.estimates.balance + g * count, inverse, work)) inverse[0] = NAN;
  }
  free(work);
  return work != NULL;
}

struct check *check_create(const struct check_problem *problem, const double *q) {
  struct check *check = memory_zeroed(1, sizeof *check);
  if (!check) return NULL;
  if (!copy_problem(check, problem) || !allocate(check) || !invert_balances(check)) {
    check_destroy(&check);
    return NULL;
  }
  const int64_t n_tops = problem->key_heads * check_n_tops(check);
  for (int64_t i = 0; i < n_tops; i++) check->tops[i] = -INFINITY;
  take_queries(check, q);
  return check;
}

void check_destroy(struct check **check) {
  if (!check || !*check) return;
  struct check *gone = *check;
  free((void *)gone->problem.rows);
  free((void *)gone->problem.projection);
  free(gone->inverse);
  free(gone->moved);
  free(gone->q);
  free(gone->q_log);
  free(gone->q_top);
  free(gone->q_feature);
  free(gone->tops);
  free(gone->sums);
  free(gone->k);
  free(gone->v);
  free(gone->k_log);
  free(gone->k_feature);
  free(gone->k_top);
  free(gone->weights);
  free(gone->row);
  free(gone->signs);
  free(gone->q_size);
  free(gone->k_size);
  free(gone->answers);
  free(gone);
  *check = NULL;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static bool is_needed_by(const struct check_row *row, int64_t begin, int64_t end) {
  return row->key_begin < end && row->key_end > begin;
}

bool check_needs(const struct check *check, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < check->problem.n_rows; i++)
    if (is_needed_by(&check->problem.rows[i], begin, end)) return true;
  return false;
}

/* A tile and some queries of a key head: what the loops below share. */
struct meeting {
  struct check *check;
  int64_t key_head;
  int64_t token, n_keys;          /* tokens [token, token + n_keys) */
  int64_t query_begin, n_queries; /* queries of the key head */
  double *tops, *sums;            /* of the answer at hand, from query_begin on */
};

/* Keys of the tile outside A(i) get weight 0. */
static void mask(const struct meeting *meeting) {
  const struct check_problem *problem = &meeting->check->problem;
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const struct check_row *row = &problem->rows[(meeting->query_begin + i) / problem->heads_per_key];
    double *logs = meeting->check->weights + i * TILE;
    for (int64_t j = 0; j < meeting->n_keys && meeting->token + j < row->key_begin; j++) logs[j] = -INFINITY;
    for (int64_t j = meeting->n_keys; j > 0 && meeting->token + j > row->key_end; j--) logs[j - 1] = -INFINITY;
  }
}

/* Adds the tile's keys to the sums of an answer; the weights hold logarithms. signs: of the weights, or NULL. */
static void fold(const struct meeting *meeting, const double *signs) {
  const int64_t columns = 1 + meeting->check->problem.value_width;
  double *weights = meeting->check->weights;
  mask(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    double *logs = weights + i * TILE, *sum = meeting->sums + i * columns;
    const double old = meeting->tops[i], top = fmax(old, largest(logs, meeting->n_keys));
    if (top > old) {
      const double factor = exp(old - top); /* 0 from -infinity */
      for (int64_t e = 0; e < columns; e++) sum[e] *= factor;
      meeting->tops[i] = top;
    }
    exp_below(logs, top, meeting->n_keys, logs);
    for (int64_t j = 0; signs && j < meeting->n_keys; j++) logs[j] *= signs[i * TILE + j];
  }
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(meeting->n_queries), narrow(columns),
              narrow(meeting->n_keys), 1.0, weights, TILE, meeting->check->v, narrow(columns), 1.0, meeting->sums,
              narrow(columns));
}

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
static void weigh_features(const struct meeting *meeting, const double *q_feature, const double *k_feature,
                           bool is_signed) {
  const struct check *check = meeting->check;
  const int64_t m = check->n_features;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  const double log_least_sum = log(least_sum);
  multiply_transposed(meeting->n_queries, meeting->n_keys, m, q_feature, k_feature, check->weights, TILE);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    double *weights = check->weights + i * TILE;
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
      if (is_signed) check->signs[i * TILE + j] = sign;
    }
  }
}

static void weigh_by_definition(const struct meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  weigh_features(meeting, check->q_feature + first * check->n_features, check->k_feature, check->is_signed);
}

static void take_sizes(const double *x, int64_t n, double *sizes) {
  for (int64_t i = 0; i < n; i++) sizes[i] = fabs(x[i]);
}

/* By the sizes of the definition's terms. */
static void weigh_sizes(const struct meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t m = check->n_features, first = meeting->key_head * check->n_queries + meeting->query_begin;
  take_sizes(check->q_feature + first * m, meeting->n_queries * m, check->q_size);
  take_sizes(check->k_feature, meeting->n_keys * m, check->k_size);
  weigh_features(meeting, check->q_size, check->k_size, false);
}

static void weigh_exactly(const struct meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t width = check->problem.key_width;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  multiply_transposed(meeting->n_queries, meeting->n_keys, width, check->q + first * width, check->k, check->weights,
                      TILE);
}

static void weigh_equally(const struct meeting *meeting) {
  for (int64_t i = 0; i < meeting->n_queries; i++) memset(meeting->check->weights + i * TILE, 0, TILE * sizeof(double));
}

static void meet(struct meeting *meeting) {
  static void (*const weigh[CHECK_MAX_SUMS])(const struct meeting *) = {[CHECK_DEFINITION] = weigh_by_definition,
                                                                        [CHECK_EXACT] = weigh_exactly,
                                                                        [CHECK_MEAN] = weigh_equally,
                                                                        [CHECK_SIZES] = weigh_sizes};
  struct check *check = meeting->check;
  const int64_t columns = 1 + check->problem.value_width;
  for (int number = 0; number < check->n_sums; number++) {
    int64_t place = (int64_t)number * check->n_queries + meeting->query_begin;
    meeting->tops = check_tops(check, meeting->key_head) + place;
    meeting->sums = check_sums(check, meeting->key_head) + place * columns;
    weigh[number](meeting);
    fold(meeting, check->is_signed && number == CHECK_DEFINITION ? check->signs : NULL);
  }
}

static void load_tile(struct check *check, int64_t key_head, int64_t n, const double *k, const double *v) {
  const struct check_problem *problem = &check->problem;
  const int64_t value_width = problem->value_width;
  scale_copy(k, n * problem->key_width, sqrt(problem->scale), check->k);
  for (int64_t j = 0; j < n; j++) {
    check->v[j * (1 + value_width)] = 1.0;
    memcpy(check->v + j * (1 + value_width) + 1, v + j * value_width, (size_t)value_width * sizeof *v);
  }
  take_features(check, key_head, true, check->k, n, check->k_log, check->k_feature, check->k_top);
}

/* Both ends of A(i) grow with i, so the rows that need a tile stand together. */
static void absorb_tile(struct check *check, int64_t key_head, int64_t token, int64_t n, const double *k,
                        const double *v) {
  const struct check_problem *problem = &check->problem;
  int64_t begin = 0, end = problem->n_rows;
  while (begin < end && !is_needed_by(&problem->rows[begin], token, token + n)) begin++;
  while (begin < end && !is_needed_by(&problem->rows[end - 1], token, token + n)) end--;
  if (begin == end) return;
  load_tile(check, key_head, n, k, v);
  const int64_t query_end = end * problem->heads_per_key;
  for (int64_t query = begin * problem->heads_per_key; query < query_end; query += CHUNK) {
    struct meeting meeting = {.check = check,
                              .key_head = key_head,
                              .token = token,
                              .n_keys = n,
                              .query_begin = query,
                              .n_queries = query_end - query < CHUNK ? query_end - query : CHUNK};
    meet(&meeting);
  }
}

void check_absorb(struct check *check, int64_t key_head, int64_t begin, int64_t end, const double *k, const double *v) {
  for (int64_t token = begin; token < end; token += TILE)
    absorb_tile(check, key_head, token, end - token < TILE ? end - token : TILE,
                k + (token - begin) * check->problem.key_width, v + (token - begin) * check->problem.value_width);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

int64_t check_n_tops(const struct check *check) { return check->n_sums * check->n_queries; }
double *check_tops(struct check *check, int64_t key_head) { return check->tops + key_head * check_n_tops(check); }

int64_t check_n_sums(const struct check *check) { return check_n_tops(check) * (1 + check->problem.value_width); }
double *check_sums(struct check *check, int64_t key_head) { return check->sums + key_head * check_n_sums(check); }

void check_rescale(struct check *check, int64_t key_head, const double *tops) {
  const int64_t columns = 1 + check->problem.value_width;
  double *own = check_tops(check, key_head), *sums = check_sums(check, key_head);
  for (int64_t i = 0; i < check_n_tops(check); i++) {
    if (tops[i] == own[i]) continue; /* also where both are -infinity */
    const double factor = exp(own[i] - tops[i]);
    for (int64_t e = 0; e < columns; e++) sums[i * columns + e] *= factor;
    own[i] = tops[i];
  }
}

int64_t check_place(const struct check *check, int number, int64_t row, int64_t head) {
  const int64_t group = check->problem.heads_per_key;
  return (head / group * check->n_sums + number) * check->n_queries + row * group + head % group;
}

void check_value(const struct check *check, enum check_answer answer, int64_t row, int64_t head, double *out) {
  const int64_t width = check->problem.value_width, place = check_place(check, (int)answer, row, head);
  const double *sums = check->sums + place * (1 + width);
  double total = sums[0];
  if (answer == CHECK_DEFINITION && check->is_plain) total += check_guard(check, place, row, head);
  for (int64_t e = 0; e < width; e++) out[e] = total == 0 ? 0 : sums[1 + e] / total;
}

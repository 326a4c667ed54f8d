#include "core/check.h"

#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/status.h"
#include "feature/map.h"

enum { TILE = 256, CHUNK = 512 }; /* keys and queries taken at a time */

/* A sum of products of features below this may have lost terms to underflow and is computed again by logarithms. */
static const double least_sum = 1e-200;
/* A weight this far below the largest, as a logarithm, changes no bit even if every key of 2^40 has it. */
static const double negligible = 100.0;

struct check {
  struct check_problem problem; /* owns rows and projection */
  int64_t n_queries;            /* of one key head: n_rows * heads_per_key */
  int64_t n_features;           /* R: of M directions, with one sign or both */
  double *q;                    /* [key_heads][n_queries][D]: q~ */
  double *q_log;                /* [key_heads][n_queries][R]: logarithms of features, less the query's largest */
  double *q_feature;            /* exp of it */
  double *q_top;                /* [key_heads][n_queries]: what was taken off, with |q~|^2/2 */
  double *tops;                 /* [key_heads][CHECK_N_ANSWERS][n_queries] */
  double *sums;                 /* [key_heads][CHECK_N_ANSWERS][n_queries][1 + E] */
  /* one tile of keys */
  double *k;         /* [TILE][D]: k~ */
  double *v;         /* [TILE][1 + E]: 1, v */
  double *k_log;     /* [TILE][R] */
  double *k_feature; /* [TILE][R] */
  double *k_top;     /* [TILE]: what was taken off the logarithms of a key's features */
  double *weights;   /* [CHUNK][TILE] */
  double *answers;   /* [CHECK_N_ANSWERS][E], of the row that is judged */
};

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

/* Features of n tokens x~: logarithms w_r.x~ - |x~|^2/2, and those of -w_r where both signs count, less the token's
 * largest, and their exponentials. */
static void take_features(const struct check *check, const double *projection, const double *x, int64_t n, double *logs,
                          double *features, double *tops) {
  const int64_t width = check->problem.key_width, m = check->n_features, directions = check->problem.features;
  multiply_transposed(n, directions, width, x, projection, logs, m);
  for (int64_t i = 0; i < n; i++) {
    double *row = logs + i * m;
    for (int64_t r = directions; r < m; r++) row[r] = -row[r - directions];
    double top = largest(row, m);
    exp_below(row, top, m, features + i * m);
    for (int64_t r = 0; r < m; r++) row[r] -= top;
    const double *token = x + i * width;
    double half_norm = 0;
    for (int64_t d = 0; d < width; d++) half_norm += 0.5 * token[d] * token[d];
    tops[i] = top - half_norm;
  }
}

/* ---- construction ----------------------------------------------------------------------------------------------- */

static bool allocate(struct check *check) {
  const struct check_problem *problem = &check->problem;
  const size_t key_heads = (size_t)problem->key_heads, queries = key_heads * (size_t)check->n_queries;
  const size_t width = (size_t)problem->key_width, m = (size_t)check->n_features;
  const size_t columns = 1 + (size_t)problem->value_width, number = sizeof(double);
  check->q = memory_zeroed(queries * width, number);
  check->q_log = memory_zeroed(queries * m, number);
  check->q_feature = memory_zeroed(queries * m, number);
  check->q_top = memory_zeroed(queries, number);
  check->tops = memory_zeroed(queries * CHECK_N_ANSWERS, number);
  check->sums = memory_zeroed(queries * CHECK_N_ANSWERS * columns, number);
  check->k = memory_zeroed(TILE * width, number);
  check->v = memory_zeroed(TILE * columns, number);
  check->k_log = memory_zeroed(TILE * m, number);
  check->k_feature = memory_zeroed(TILE * m, number);
  check->k_top = memory_zeroed(TILE, number);
  check->weights = memory_zeroed(CHUNK * TILE, number);
  check->answers = memory_zeroed(CHECK_N_ANSWERS * (size_t)problem->value_width, number);
  return check->q && check->q_log && check->q_feature && check->q_top && check->tops && check->sums && check->k &&
         check->v && check->k_log && check->k_feature && check->k_top && check->weights && check->answers;
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
    take_features(check, projection_of(check, g), own, check->n_queries, check->q_log + g * check->n_queries * m,
                  check->q_feature + g * check->n_queries * m, check->q_top + g * check->n_queries);
  }
}

struct check *check_create(const struct check_problem *problem, const double *q) {
  struct check *check = memory_zeroed(1, sizeof *check);
  if (!check) return NULL;
  if (!copy_problem(check, problem) || !allocate(check)) {
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
  free(gone->q);
  free(gone->q_log);
  free(gone->q_feature);
  free(gone->q_top);
  free(gone->tops);
  free(gone->sums);
  free(gone->k);
  free(gone->v);
  free(gone->k_log);
  free(gone->k_feature);
  free(gone->k_top);
  free(gone->weights);
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

/* Adds the tile's keys to the sums of an answer; the weights hold logarithms. */
static void fold(const struct meeting *meeting) {
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
  }
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(meeting->n_queries), narrow(columns),
              narrow(meeting->n_keys), 1.0, weights, TILE, meeting->check->v, narrow(columns), 1.0, meeting->sums,
              narrow(columns));
}

/* log sum_r exp(a_r + b_r) without underflow. */
static double log_sum(const double *a, const double *b, int64_t n) {
  double top = -INFINITY, sum = 0;
  for (int64_t r = 0; r < n; r++) top = fmax(top, a[r] + b[r]);
  for (int64_t r = 0; r < n; r++) sum += exp(a[r] + b[r] - top);
  return top + log(sum);
}

/* The logarithms of features' weights, less what all keys of a query share. */
static void weigh_by_features(const struct meeting *meeting) {
  const struct check *check = meeting->check;
  const int64_t m = check->n_features;
  const int64_t first = meeting->key_head * check->n_queries + meeting->query_begin;
  const double log_least_sum = log(least_sum);
  multiply_transposed(meeting->n_queries, meeting->n_keys, m, check->q_feature + first * m, check->k_feature,
                      check->weights, TILE);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    double *weights = check->weights + i * TILE;
    for (int64_t j = 0; j < meeting->n_keys; j++) {
      const double key_top = check->k_top[j];
      if (weights[j] >= least_sum)
        weights[j] = key_top + log(weights[j]);
      else if (key_top + log_least_sum < meeting->tops[i] - negligible)
        weights[j] = -INFINITY;
      else
        weights[j] = key_top + log_sum(check->q_log + (first + i) * m, check->k_log + j * m, m);
    }
  }
}

/* The logarithms of exact weights in place of those inside the window, less what was taken off the others. */
static void join_window(const struct meeting *meeting) {
  const struct check *check = meeting->check;
  const struct check_problem *problem = &check->problem;
  const int64_t width = problem->key_width, first = meeting->key_head * check->n_queries + meeting->query_begin;
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const double *q = check->q + (first + i) * width, off = check->q_top[first + i] - log((double)check->n_features);
    const int64_t token = problem->rows[(meeting->query_begin + i) / problem->heads_per_key].token;
    for (int64_t j = 0; j < meeting->n_keys; j++) {
      if (llabs(meeting->token + j - token) > problem->window) continue;
      double product = 0;
      for (int64_t d = 0; d < width; d++) product += q[d] * check->k[j * width + d];
      check->weights[i * TILE + j] = product - off;
    }
  }
}

static void weigh_by_definition(const struct meeting *meeting) {
  weigh_by_features(meeting);
  if (meeting->check->problem.has_window) join_window(meeting);
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
  static void (*const weigh[CHECK_N_ANSWERS])(const struct meeting *) = {
      [CHECK_DEFINITION] = weigh_by_definition, [CHECK_EXACT] = weigh_exactly, [CHECK_MEAN] = weigh_equally};
  struct check *check = meeting->check;
  const int64_t columns = 1 + check->problem.value_width;
  for (int answer = 0; answer < CHECK_N_ANSWERS; answer++) {
    int64_t place = (int64_t)answer * check->n_queries + meeting->query_begin;
    meeting->tops = check_tops(check, meeting->key_head) + place;
    meeting->sums = check_sums(check, meeting->key_head) + place * columns;
    weigh[answer](meeting);
    fold(meeting);
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
  take_features(check, projection_of(check, key_head), check->k, n, check->k_log, check->k_feature, check->k_top);
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

int64_t check_n_tops(const struct check *check) { return CHECK_N_ANSWERS * check->n_queries; }
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

void check_value(const struct check *check, enum check_answer answer, int64_t row, int64_t head, double *out) {
  const struct check_problem *problem = &check->problem;
  const int64_t key_head = head / problem->heads_per_key, width = problem->value_width;
  const int64_t query = row * problem->heads_per_key + head % problem->heads_per_key;
  const int64_t place = (key_head * CHECK_N_ANSWERS + answer) * check->n_queries + query;
  const double *sums = check->sums + place * (1 + width);
  for (int64_t e = 0; e < width; e++) out[e] = sums[1 + e] / sums[0];
}

/* How far `out` is from `definition` beyond half a unit in the last place of the latter; infinite where either is no
 * finite number. */
static double distance_beyond_rounding(double out, double definition, struct check_type type) {
  const double distance = fabs(out - definition);
  if (!isfinite(distance)) return INFINITY;
  int exponent = definition == 0.0 ? type.min_exponent : ilogb(definition);
  if (exponent < type.min_exponent) exponent = type.min_exponent;
  return fmax(0.0, distance - ldexp(1.0, exponent - type.digits));
}

/* Adds the squares of one row to the sums of its head. */
static void judge_row(const struct check *check, int64_t row, int64_t head, const double *out, struct check_type type,
                      struct check_head *sums) {
  const int64_t width = check->problem.value_width;
  const double *definition = check->answers + CHECK_DEFINITION * width;
  const double *exact = check->answers + CHECK_EXACT * width, *mean = check->answers + CHECK_MEAN * width;
  for (int answer = 0; answer < CHECK_N_ANSWERS; answer++)
    check_value(check, answer, row, head, check->answers + answer * width);
  for (int64_t e = 0; e < width; e++) {
    const double beyond = distance_beyond_rounding(out[e], definition[e], type);
    const double from_exact = isfinite(out[e]) ? out[e] - exact[e] : INFINITY, from_mean = mean[e] - exact[e];
    sums->definition += (long double)definition[e] * definition[e];
    sums->definition_error += (long double)beyond * beyond;
    sums->exact += (long double)exact[e] * exact[e];
    sums->exact_error += (long double)from_exact * from_exact;
    sums->mean_error += (long double)from_mean * from_mean;
  }
}

void check_judge(const struct check *check, int64_t head, const double *out, struct check_type type,
                 struct check_head *judged) {
  const struct check_problem *problem = &check->problem;
  const int64_t row_stride = problem->key_heads * problem->heads_per_key * problem->value_width;
  out += head * problem->value_width;
  *judged = (struct check_head){0};
  for (int64_t i = 0; i < problem->n_rows; i++) judge_row(check, i, head, out + i * row_stride, type, judged);
  const long double mean_square = judged->definition / (long double)problem->n_rows;
  for (int64_t i = 0; i < problem->n_rows; i++) {
    struct check_head row = {0};
    judge_row(check, i, head, out + i * row_stride, type, &row);
    const double error = check_ratio(row.definition_error, fmaxl(row.definition, mean_square));
    if (error > judged->worst_error) {
      judged->worst_error = error;
      judged->worst_row = i;
    }
  }
}

double check_ratio(long double error, long double reference) {
  if (!isfinite(error) || !isfinite(reference)) return INFINITY;
  return error == 0 ? 0.0 : (double)sqrtl(error / reference);
}

#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/binned.h"
#include "base/memory.h"
#include "base/status.h"
#include "core/check_internal.h"
#include "feature/map.h"

enum {
  TILE = CHECK_TILE_TOKENS, /* keys and */
  CHUNK = 512,              /* queries taken at a time */
  N_BINS = 3,
  SUM_BITS = 9 /* what a sum over a tile may be longer than its largest addend: sums of values stay within double */
};

/* A sum of products of features below this may have lost terms to underflow and is computed again by logarithms. */
static const double least_sum = 1e-200;
/* A weight this far below the largest, as a logarithm, changes no bit even if every key of 2^40 has it. */
static const double negligible = 100.0;

struct check {
  struct check_problem problem; /* owns rows and projection */
  int64_t n_queries;            /* of one key head: n_rows * heads_per_key */
  int64_t n_features;           /* R: of M directions, with one sign or both; 0 where no definition asks for any */
  int first_answer;             /* CHECK_DEFINITION, or the one after it */
  double *q;                    /* [key_heads][n_queries][D]: q~ */
  double *q_log;                /* [key_heads][n_queries][R]: logarithms of features, less the query's largest */
  double *q_feature;            /* exp of it */
  double *tops;                 /* [key_heads][answers][n_queries]: the largest logarithm of a weight seen here */
  size_t row_bytes;
  void *sums;            /* [key_heads][answers][n_queries] binned rows of 1 + E */
  double *answers;       /* [CHECK_N_ANSWERS][E], of the row that is judged */
  struct check *workers; /* [threads]: copies of this, each with memory of its own for what follows: one tile of keys */
  double *k;             /* [TILE][D]: k~ */
  double *v;             /* [TILE][1 + E]: 1, v, times 2^-SUM_BITS */
  double *k_log;         /* [TILE][R] */
  double *k_feature;     /* [TILE][R] */
  double *k_top;         /* [TILE]: what was taken off the logarithms of a key's features */
  double *weights;       /* [CHUNK][TILE] */
  double *partial;       /* [CHUNK][1 + E]: sums over the tile */
};

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
    if (tops) {
      const double *token = x + i * width;
      double half_norm = 0;
      for (int64_t d = 0; d < width; d++) half_norm += 0.5 * token[d] * token[d];
      tops[i] = top - half_norm;
    }
  }
}

/* ---- construction ----------------------------------------------------------------------------------------------- */

static int n_threads(const struct check *check) { return check->problem.threads > 1 ? check->problem.threads : 1; }

static bool allocate(struct check *check) {
  const struct check_problem *problem = &check->problem;
  const size_t key_heads = (size_t)problem->key_heads, queries = key_heads * (size_t)check->n_queries;
  const size_t n_answers = (size_t)(CHECK_N_ANSWERS - check->first_answer);
  const size_t width = (size_t)problem->key_width, m = (size_t)check->n_features;
  const size_t columns = 1 + (size_t)problem->value_width, number = sizeof(double);
  check->q = memory_zeroed(queries * width, number);
  check->q_log = memory_zeroed(queries * m, number);
  check->q_feature = memory_zeroed(queries * m, number);
  check->tops = memory_zeroed(queries * n_answers, number);
  check->row_bytes = binned_row_bytes((int64_t)columns, N_BINS);
  check->sums = memory_zeroed(queries * n_answers, check->row_bytes);
  check->answers = memory_zeroed(CHECK_N_ANSWERS * (size_t)problem->value_width, number);
  check->workers = memory_zeroed((size_t)n_threads(check), sizeof *check->workers);
  return check->q && check->q_log && check->q_feature && check->tops && check->sums && check->answers && check->workers;
}

/* A copy for one thread. */
static bool hire(const struct check *check, struct check *worker) {
  const size_t width = (size_t)check->problem.key_width, m = (size_t)check->n_features, number = sizeof(double);
  const size_t columns = 1 + (size_t)check->problem.value_width;
  *worker = *check;
  worker->k = memory_zeroed(TILE * width, number);
  worker->v = memory_zeroed(TILE * columns, number);
  worker->k_log = memory_zeroed(TILE * m, number);
  worker->k_feature = memory_zeroed(TILE * m, number);
  worker->k_top = memory_zeroed(TILE, number);
  worker->weights = memory_zeroed(CHUNK * TILE, number);
  worker->partial = memory_zeroed(CHUNK * columns, number);
  return worker->k && worker->v && worker->k_log && worker->k_feature && worker->k_top && worker->weights &&
         worker->partial;
}

static bool hire_all(struct check *check) {
  bool has_all = true;
  for (int i = 0; i < n_threads(check); i++) has_all = hire(check, &check->workers[i]) && has_all;
  return has_all;
}

/* Its own rows and projection instead of the caller's. */
static bool copy_problem(struct check *check, const struct check_problem *problem) {
  const bool has_features = problem->definition == CHECK_FEATURES;
  const size_t n_weights = has_features ? (size_t)(problem->projections * problem->features * problem->key_width) : 0;
  struct check_row *rows = memory_zeroed((size_t)problem->n_rows, sizeof *rows);
  double *projection = memory_zeroed(n_weights, sizeof *projection);
  check->problem = *problem;
  check->problem.rows = rows;
  check->problem.projection = projection;
  check->n_queries = problem->n_rows * problem->heads_per_key;
  check->n_features = has_features ? problem->features * map_signs(problem->map) : 0;
  check->first_answer = problem->definition == CHECK_NONE ? CHECK_DEFINITION + 1 : CHECK_DEFINITION;
  if (!rows || !projection) return false;
  memcpy(rows, problem->rows, (size_t)problem->n_rows * sizeof *rows);
  if (has_features) memcpy(projection, problem->projection, n_weights * sizeof *projection);
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
    if (check->n_features == 0) continue;
    take_features(check, projection_of(check, g), own, check->n_queries, check->q_log + g * check->n_queries * m,
                  check->q_feature + g * check->n_queries * m, NULL);
  }
}

struct check *check_create(const struct check_problem *problem, const double *q) {
  struct check *check = memory_zeroed(1, sizeof *check);
  if (!check) return NULL;
  if (!copy_problem(check, problem) || !allocate(check) || !hire_all(check)) {
    check_destroy(&check);
    return NULL;
  }
  const int64_t n_rows = problem->key_heads * check_n_rows(check);
  for (int64_t i = 0; i < n_rows; i++) check->tops[i] = -INFINITY;
  binned_clear(check->sums, n_rows, 1 + problem->value_width, N_BINS);
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
  free(gone->tops);
  free(gone->sums);
  for (int i = 0; gone->workers && i < n_threads(gone); i++) {
    struct check *worker = &gone->workers[i];
    free(worker->k);
    free(worker->v);
    free(worker->k_log);
    free(worker->k_feature);
    free(worker->k_top);
    free(worker->weights);
    free(worker->partial);
  }
  free(gone->workers);
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
  double *tops;                   /* of the answer at hand, from query_begin on */
  void *sums;                     /* the same */
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

/* In place of a query's logarithms their exponentials, in units of a power of two above the largest: the exponent is
 * returned. The tile alone decides it, and so what the tile adds to the sums. */
static int64_t raise_to_powers(double *logs, int64_t n, double top) {
  const double log2_e = 0x1.71547652b82fep0, ln2 = 0x1.62e42fefa39efp-1;
  const double most = 0x1p30; /* an exponent that binned rows can hold; beyond are inputs that attend refuses */
  if (!(fabs(top) < most)) {  /* also where A(i) has no key here */
    memset(logs, 0, (size_t)n * sizeof *logs);
    return 0;
  }
  const double exponent = ceil(top * log2_e);
  exp_below(logs, exponent * ln2, n, logs);
  return (int64_t)exponent;
}

/* Adds the tile's keys to the sums of an answer; the weights hold logarithms. */
static void fold(const struct meeting *meeting) {
  struct check *check = meeting->check;
  const int64_t columns = 1 + check->problem.value_width;
  int64_t exponents[CHUNK];
  mask(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    double *logs = check->weights + i * TILE;
    const double top = largest(logs, meeting->n_keys);
    meeting->tops[i] = fmax(meeting->tops[i], top);
    exponents[i] = raise_to_powers(logs, meeting->n_keys, top);
  }
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(meeting->n_queries), narrow(columns),
              narrow(meeting->n_keys), 1.0, check->weights, TILE, check->v, narrow(columns), 0.0, check->partial,
              narrow(columns));
  for (int64_t i = 0; i < meeting->n_queries; i++)
    binned_deposit(binned_row_at(meeting->sums, check->row_bytes, i), 0, columns, check->partial + i * columns,
                   exponents[i] + SUM_BITS, NULL);
}

/* log sum_r exp(a_r + b_r) without underflow. */
static double log_sum(const double *a, const double *b, int64_t n) {
  double top = -INFINITY, sum = 0;
  for (int64_t r = 0; r < n; r++) top = fmax(top, a[r] + b[r]);
  for (int64_t r = 0; r < n; r++) sum += exp(a[r] + b[r] - top);
  return top + log(sum);
}

/* The logarithms of the definition's weights, less what all keys of a query share. */
static void weigh_by_definition(const struct meeting *meeting) {
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

/* What else than A(i) decides which keys have a weight: the first key of the tile, up to the one after the last. */
struct span {
  int64_t begin, end;
};

/* Takes the weight from the tile's keys outside [span.begin, span.end) and at or after token `from`. */
static void keep_span(const struct meeting *meeting, int64_t query, struct span span, int64_t from) {
  double *logs = meeting->check->weights + query * TILE;
  for (int64_t j = 0; j < meeting->n_keys; j++) {
    const int64_t token = meeting->token + j;
    if (token >= from && (token < span.begin || token >= span.end)) logs[j] = -INFINITY;
  }
}

static const struct check_row *row_of(const struct meeting *meeting, int64_t query) {
  const struct check_problem *problem = &meeting->check->problem;
  return &problem->rows[(meeting->query_begin + query) / problem->heads_per_key];
}

/* Softmax over the window and the global tokens; a global token itself attends to all of A(i). */
static void weigh_window(const struct meeting *meeting) {
  const struct check_problem *problem = &meeting->check->problem;
  weigh_exactly(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const struct check_row *row = row_of(meeting, i);
    const int64_t after_globals = row->key_begin + problem->global_tokens;
    if (row->token < after_globals) continue;
    keep_span(meeting, i, (struct span){row->token - problem->window, row->token + problem->window + 1}, after_globals);
  }
}

static void weigh_itself(const struct meeting *meeting) {
  weigh_equally(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const int64_t token = row_of(meeting, i)->token;
    keep_span(meeting, i, (struct span){token, token + 1}, meeting->token);
  }
}

typedef void weigh_function(const struct meeting *meeting);

static weigh_function *weigh_of(const struct check *check, enum check_answer answer) {
  static weigh_function *const definitions[] = {[CHECK_FEATURES] = weigh_by_definition,
                                                [CHECK_SOFTMAX] = weigh_exactly,
                                                [CHECK_WINDOW] = weigh_window,
                                                [CHECK_EQUAL] = weigh_equally,
                                                [CHECK_ITSELF] = weigh_itself};
  static weigh_function *const answers[] = {[CHECK_EXACT] = weigh_exactly, [CHECK_MEAN] = weigh_equally};
  return answer == CHECK_DEFINITION ? definitions[check->problem.definition] : answers[answer];
}

/* Where an answer to a key head's queries stands among all. */
static int64_t place_of(const struct check *check, int64_t key_head, enum check_answer answer, int64_t query) {
  const int64_t n_answers = CHECK_N_ANSWERS - check->first_answer;
  return (key_head * n_answers + (int64_t)answer - check->first_answer) * check->n_queries + query;
}

static void meet(struct meeting *meeting) {
  struct check *check = meeting->check;
  for (int answer = check->first_answer; answer < CHECK_N_ANSWERS; answer++) {
    const int64_t place = place_of(check, meeting->key_head, answer, meeting->query_begin);
    meeting->tops = check->tops + place;
    meeting->sums = binned_row_at(check->sums, check->row_bytes, place);
    weigh_of(check, answer)(meeting);
    fold(meeting);
  }
}

static void load_tile(struct check *check, int64_t key_head, int64_t n, const double *k, const double *v) {
  const struct check_problem *problem = &check->problem;
  const int64_t value_width = problem->value_width;
  const double unit = ldexp(1.0, -SUM_BITS);
  scale_copy(k, n * problem->key_width, sqrt(problem->scale), check->k);
  for (int64_t j = 0; j < n; j++) {
    check->v[j * (1 + value_width)] = unit;
    scale_copy(v + j * value_width, value_width, unit, check->v + j * (1 + value_width) + 1);
  }
  if (check->n_features == 0) return;
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
  struct check *worker = &check->workers[omp_get_thread_num()];
  FAVOR_ASSERT(begin % TILE == 0 && omp_get_thread_num() < n_threads(check));
  for (int64_t token = begin; token < end; token += TILE)
    absorb_tile(worker, key_head, token, end - token < TILE ? end - token : TILE,
                k + (token - begin) * check->problem.key_width, v + (token - begin) * check->problem.value_width);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

int64_t check_n_rows(const struct check *check) { return (CHECK_N_ANSWERS - check->first_answer) * check->n_queries; }
size_t check_row_bytes(const struct check *check) { return check->row_bytes; }
void *check_rows(struct check *check, int64_t key_head) {
  return binned_row_at(check->sums, check->row_bytes, key_head * check_n_rows(check));
}

void check_value(const struct check *check, enum check_answer answer, int64_t row, int64_t head, double *out) {
  const struct check_problem *problem = &check->problem;
  const int64_t key_head = head / problem->heads_per_key, width = problem->value_width;
  const int64_t query = row * problem->heads_per_key + head % problem->heads_per_key;
  const struct binned_row *sums =
      binned_row_at_const(check->sums, check->row_bytes, place_of(check, key_head, answer, query));
  double sum_of_weights;
  const int64_t exponent = binned_magnitude(sums, 0);
  binned_value(sums, 0, 1, exponent, NULL, &sum_of_weights);
  binned_value(sums, 1, width, exponent, NULL, out);
  for (int64_t e = 0; e < width; e++) out[e] /= sum_of_weights;
}

const struct check_problem *check_problem_of(const struct check *check) { return &check->problem; }
double *check_scratch(const struct check *check) { return check->answers; }

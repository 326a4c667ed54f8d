#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/binned.h"
#include "base/memory.h"
#include "base/status.h"
#include "core/check_internal.h"
#include "core/check_map.h"
#include "core/check_math.h"
#include "feature/map.h"
#include "feature/moments.h"

enum {
  TILE = CHECK_TILE_TOKENS,
  CHUNK = CHECK_CHUNK_QUERIES,
  N_BINS = 3,
  SUM_BITS = 9 /* what a sum over a tile may be longer than its largest addend: sums of values stay within double */
};

static const double ln2 = 0x1.62e42fefa39efp-1;

/* ---- construction ----------------------------------------------------------------------------------------------- */

static int n_threads(const struct check *check) { return check->problem.threads > 1 ? check->problem.threads : 1; }

static bool allocate(struct check *check) {
  const struct check_problem *problem = &check->problem;
  const size_t key_heads = (size_t)problem->key_heads, queries = key_heads * (size_t)check->n_queries;
  const size_t n_sums = (size_t)(check->n_sums - check->first_sum);
  const size_t width = (size_t)problem->key_width, m = (size_t)check->n_features;
  const size_t columns = 1 + (size_t)problem->value_width, number = sizeof(double);
  check->q = memory_zeroed(queries * width, number);
  check->q_log = memory_zeroed(queries * m, number);
  check->q_feature = memory_zeroed(queries * m, number);
  check->q_top = memory_zeroed(queries, number);
  check->inverse = memory_zeroed(problem->balance == FAVOR_BALANCE_FULL ? key_heads * width * width : 0, number);
  check->tops = memory_zeroed(queries * n_sums, number);
  check->row_bytes = binned_row_bytes((int64_t)columns, N_BINS);
  check->sums = memory_zeroed(queries * n_sums, check->row_bytes);
  check->answers = memory_zeroed(CHECK_N_ANSWERS * (size_t)problem->value_width, number);
  check->workers = memory_zeroed((size_t)n_threads(check), sizeof *check->workers);
  return check->q && check->q_log && check->q_feature && check->q_top && check->inverse && check->tops && check->sums &&
         check->answers && check->workers;
}

/* A copy for one thread. */
static bool hire(const struct check *check, struct check *worker) {
  const size_t width = (size_t)check->problem.key_width, m = (size_t)check->n_features, number = sizeof(double);
  const size_t columns = 1 + (size_t)check->problem.value_width, n_signed = check->is_signed ? m : 0;
  *worker = *check;
  worker->k = memory_zeroed(TILE * width, number);
  worker->v = memory_zeroed(TILE * columns, number);
  worker->moved = memory_zeroed(2 * TILE * width, number);
  worker->sizes = memory_zeroed(m, number);
  worker->k_log = memory_zeroed(TILE * m, number);
  worker->k_feature = memory_zeroed(TILE * m, number);
  worker->k_top = memory_zeroed(TILE, number);
  worker->weights = memory_zeroed(CHUNK * TILE, number);
  worker->signs = memory_zeroed(check->is_signed ? CHUNK * TILE : 0, number);
  worker->q_size = memory_zeroed(CHUNK * n_signed, number);
  worker->k_size = memory_zeroed(TILE * n_signed, number);
  worker->partial = memory_zeroed(CHUNK * columns, number);
  return worker->k && worker->v && worker->moved && worker->sizes && worker->k_log && worker->k_feature &&
         worker->k_top && worker->weights && worker->signs && worker->q_size && worker->k_size && worker->partial;
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
  const struct map *map = map_at(problem->map);
  check->is_signed = has_features && map->sign == MAP_SIGNED;
  check->is_plain = has_features && map->plain_rows && (problem->eps > 0 || problem->guard_rule != FAVOR_GUARD_NONE);
  check->is_relative = check->is_plain && problem->key_max != FAVOR_KEY_MAX_NONE;
  check->first_sum = problem->definition == CHECK_NONE ? CHECK_DEFINITION + 1 : CHECK_DEFINITION;
  check->n_sums = check->is_signed ? CHECK_MAX_SUMS : CHECK_N_ANSWERS;
  if (!rows || !projection) return false;
  memcpy(rows, problem->rows, (size_t)problem->n_rows * sizeof *rows);
  if (has_features) memcpy(projection, problem->projection, n_weights * sizeof *projection);
  return true;
}

/* False without memory. */
static bool invert_balances(struct check *check) {
  const int64_t width = check->problem.key_width, count = width * width;
  if (check->n_features == 0 || check->problem.balance != FAVOR_BALANCE_FULL) return true;
  double *work = memory_zeroed((size_t)count, sizeof *work);
  for (int64_t g = 0; g < check->problem.key_heads && work; g++) {
    double *inverse = check->inverse + g * count;
    if (moments_invert(width, check->problem.estimates.balance + g * count, inverse, work)) continue;
    memset(inverse, 0, (size_t)count * sizeof *inverse);
    check->is_singular = true;
  }
  free(work);
  return work != NULL;
}

/* [n_rows][all heads] becomes [key head][n_rows][heads of it], scaled. */
static void take_queries(struct check *check, const double *q) {
  const struct check_problem *problem = &check->problem;
  const int64_t group = problem->heads_per_key * problem->key_width, m = check->n_features;
  for (int64_t g = 0; g < problem->key_heads; g++) {
    double *own = check->q + g * check->n_queries * problem->key_width;
    for (int64_t i = 0; i < problem->n_rows; i++)
      check_scale_copy(q + (i * problem->key_heads + g) * group, group, sqrt(problem->scale), own + i * group);
    for (int64_t i = 0; i < check->n_queries && m > 0; i += TILE) {
      const int64_t at = g * check->n_queries + i, n = check->n_queries - i < TILE ? check->n_queries - i : TILE;
      check_take_features(&check->workers[0], g, false, own + i * problem->key_width, n, check->q_log + at * m,
                          check->q_feature + at * m, check->q_top + at);
    }
  }
}

struct check *check_create(const struct check_problem *problem, const double *q) {
  struct check *check = memory_zeroed(1, sizeof *check);
  if (!check) return NULL;
  if (!copy_problem(check, problem) || !allocate(check) || !hire_all(check) || !invert_balances(check)) {
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
  free(gone->q_top);
  free(gone->inverse);
  free(gone->tops);
  free(gone->sums);
  for (int i = 0; gone->workers && i < n_threads(gone); i++) {
    struct check *worker = &gone->workers[i];
    free(worker->k);
    free(worker->v);
    free(worker->moved);
    free(worker->sizes);
    free(worker->k_log);
    free(worker->k_feature);
    free(worker->k_top);
    free(worker->weights);
    free(worker->signs);
    free(worker->q_size);
    free(worker->k_size);
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

/* Keys of the tile outside A(i) get weight 0. */
static void mask(const struct check_meeting *meeting) {
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    const struct check_row *row = check_row_at(meeting, i);
    double *logs = meeting->check->weights + i * TILE;
    for (int64_t j = 0; j < meeting->n_keys && meeting->token + j < row->key_begin; j++) logs[j] = -INFINITY;
    for (int64_t j = meeting->n_keys; j > 0 && meeting->token + j > row->key_end; j--) logs[j - 1] = -INFINITY;
  }
}

/* In place of a query's logarithms their exponentials, in units of a power of two above the largest: the exponent is
 * returned. The tile alone decides it, and so what the tile adds to the sums. */
static int64_t raise_to_powers(double *logs, int64_t n, double top) {
  const double log2_e = 0x1.71547652b82fep0;
  const double most = 0x1p30; /* an exponent that binned rows can hold; beyond are inputs that attend refuses */
  if (!(fabs(top) < most)) {  /* also where A(i) has no key here */
    memset(logs, 0, (size_t)n * sizeof *logs);
    return 0;
  }
  const double exponent = ceil(top * log2_e);
  check_exp_below(logs, exponent * ln2, n, logs);
  return (int64_t)exponent;
}

/* Adds the tile's keys to sums; the weights hold the logarithms of their sizes. signs: of the weights, or NULL. */
static void fold(const struct check_meeting *meeting, const double *signs) {
  struct check *check = meeting->check;
  const int64_t columns = 1 + check->problem.value_width;
  int64_t exponents[CHUNK];
  mask(meeting);
  for (int64_t i = 0; i < meeting->n_queries; i++) {
    double *logs = check->weights + i * TILE;
    const double top = check_largest(logs, meeting->n_keys);
    meeting->tops[i] = fmax(meeting->tops[i], top);
    exponents[i] = raise_to_powers(logs, meeting->n_keys, top);
    for (int64_t j = 0; signs && j < meeting->n_keys; j++) logs[j] *= signs[i * TILE + j];
  }
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, check_narrow(meeting->n_queries), check_narrow(columns),
              check_narrow(meeting->n_keys), 1.0, check->weights, TILE, check->v, check_narrow(columns), 0.0,
              check->partial, check_narrow(columns));
  for (int64_t i = 0; i < meeting->n_queries; i++)
    binned_deposit(binned_row_at(meeting->sums, check->row_bytes, i), 0, columns, check->partial + i * columns,
                   exponents[i] + SUM_BITS, NULL);
}

static void meet(struct check_meeting *meeting) {
  struct check *check = meeting->check;
  for (int number = check->first_sum; number < check->n_sums; number++) {
    const int64_t place = check_place(check, meeting->key_head, number, meeting->query_begin);
    meeting->tops = check->tops + place;
    meeting->sums = binned_row_at(check->sums, check->row_bytes, place);
    fold(meeting, check_weigh(meeting, number) ? check->signs : NULL);
  }
}

static void load_tile(struct check *check, int64_t key_head, int64_t n, const double *k, const double *v) {
  const struct check_problem *problem = &check->problem;
  const int64_t value_width = problem->value_width;
  const double unit = ldexp(1.0, -SUM_BITS);
  check_scale_copy(k, n * problem->key_width, sqrt(problem->scale), check->k);
  for (int64_t j = 0; j < n; j++) {
    check->v[j * (1 + value_width)] = unit;
    check_scale_copy(v + j * value_width, value_width, unit, check->v + j * (1 + value_width) + 1);
  }
  if (check->n_features == 0) return;
  check_take_features(check, key_head, true, check->k, n, check->k_log, check->k_feature, check->k_top);
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
    struct check_meeting meeting = {.check = check,
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

int64_t check_n_rows(const struct check *check) { return (check->n_sums - check->first_sum) * check->n_queries; }
size_t check_row_bytes(const struct check *check) { return check->row_bytes; }
void *check_rows(struct check *check, int64_t key_head) {
  return binned_row_at(check->sums, check->row_bytes, key_head * check_n_rows(check));
}

int64_t check_place(const struct check *check, int64_t key_head, int number, int64_t query) {
  return key_head * check_n_rows(check) + (number - check->first_sum) * check->n_queries + query;
}

static int64_t query_of(const struct check *check, int64_t row, int64_t head) {
  return row * check->problem.heads_per_key + head % check->problem.heads_per_key;
}

const struct binned_row *check_sums_of(const struct check *check, int number, int64_t row, int64_t head) {
  const int64_t key_head = head / check->problem.heads_per_key;
  return binned_row_at_const(check->sums, check->row_bytes,
                             check_place(check, key_head, number, query_of(check, row, head)));
}

/* What a guard adds to the definition's normaliser, total 2^exponent, over 2^exponent. */
static double guard_of(const struct check *check, double total, int64_t exponent, int64_t row, int64_t head) {
  const int64_t m = check->n_features;
  const int64_t query = head / check->problem.heads_per_key * check->n_queries + query_of(check, row, head);
  double query_sum = 0;
  for (int64_t r = 0; r < m; r++) query_sum += check->q_feature[query * m + r];
  return check_map_guard(&check->problem, total, (double)exponent * ln2 + check->q_top[query], query_sum,
                         check->q_top[query]);
}

void check_value(const struct check *check, enum check_answer answer, int64_t row, int64_t head, double *out) {
  const int64_t width = check->problem.value_width;
  const struct binned_row *sums = check_sums_of(check, (int)answer, row, head);
  const int64_t exponent = binned_magnitude(sums, 0);
  if (answer == CHECK_DEFINITION && check->is_singular) {
    for (int64_t e = 0; e < width; e++) out[e] = NAN;
    return;
  }
  if (exponent == BINNED_NONE) {
    memset(out, 0, (size_t)width * sizeof *out);
    return;
  }
  double total;
  binned_value(sums, 0, 1, exponent, NULL, &total);
  binned_value(sums, 1, width, exponent, NULL, out);
  if (answer == CHECK_DEFINITION && check->is_plain) total += guard_of(check, total, exponent, row, head);
  for (int64_t e = 0; e < width; e++) out[e] /= total;
}

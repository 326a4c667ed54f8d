#include "plan/estimate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "feature/moments.h"
#include "plan/plan.h"

static const double *given_values(const struct favor_estimates *given, int kind) {
  if (!given) return NULL;
  const double *const values[] = {
      [ESTIMATE_SHIFT] = given->key_shift, [ESTIMATE_BALANCE] = given->balance, [ESTIMATE_OPRF_A] = given->oprf_a};
  return values[kind];
}

static bool is_used(const struct favor_problem *problem, int kind) {
  if (problem->method != FAVOR_METHOD_FAVOR) return false;
  return kind == ESTIMATE_SHIFT     ? problem->key_shift != FAVOR_KEY_SHIFT_NONE
         : kind == ESTIMATE_BALANCE ? problem->balance != FAVOR_BALANCE_NONE
                                    : problem->map == FAVOR_MAP_OPRF;
}

static int64_t count_of(const struct favor_problem *problem, int kind) {
  const int64_t width = problem->key_width;
  if (kind == ESTIMATE_BALANCE) return problem->balance == FAVOR_BALANCE_FULL ? width * width : width;
  return kind == ESTIMATE_SHIFT ? width : 1;
}

/* ---- what is given ---------------------------------------------------------------------------------------------- */

static bool is_valid(const struct favor_problem *problem, int kind, double x) {
  if (!isfinite(x)) return false;
  if (kind == ESTIMATE_OPRF_A) return x < 0.125;
  return kind != ESTIMATE_BALANCE || problem->balance == FAVOR_BALANCE_FULL || x != 0;
}

void estimate_check(struct favor_context *context, const struct favor_problem *problem) {
  static const char *const names[] = {"a key shift must be finite",
                                      "a balance must be finite, and a diagonal one not 0",
                                      "the A of oprf must be finite and below 1/8"};
  const int64_t heads = problem->batch * problem->kv_heads;
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    const double *values = is_used(problem, kind) ? given_values(problem->estimates, kind) : NULL;
    const int64_t count = count_of(problem, kind);
    for (int64_t i = 0; values && i < heads * count; i++) {
      if (is_valid(problem, kind, values[i])) continue;
      dist_fail(context, FAVOR_EDATA, "estimates: number %lld of key head %lld is %g: %s", (long long)(i % count),
                (long long)(i / count), values[i], names[kind]);
      break;
    }
  }
}

uint64_t estimate_digest(const struct favor_problem *problem, uint64_t digest) {
  const size_t heads = (size_t)(problem->batch * problem->kv_heads);
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    const double *values = is_used(problem, kind) ? given_values(problem->estimates, kind) : NULL;
    const int64_t is_given = values != NULL;
    digest = dist_digest(digest, &is_given, sizeof is_given);
    if (values) digest = dist_digest(digest, values, heads * (size_t)count_of(problem, kind) * sizeof *values);
  }
  return digest;
}

/* ---- making it -------------------------------------------------------------------------------------------------- */

void estimate_choose(struct favor_plan *plan, const struct favor_estimates *given) {
  const struct favor_problem *problem = &plan->problem;
  struct estimate *estimate = &plan->estimate;
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    estimate->is_used[kind] = is_used(problem, kind);
    estimate->is_measured[kind] = estimate->is_used[kind] && !given_values(given, kind);
    estimate->count[kind] = count_of(problem, kind);
    plan->engine.has_transform |= estimate->is_used[kind];
  }
  if (estimate->is_used[ESTIMATE_OPRF_A]) plan->engine.shape.key_width += transform_n_biases(problem->precision);
  const bool has_squares = estimate->is_measured[ESTIMATE_BALANCE] || estimate->is_measured[ESTIMATE_OPRF_A];
  const int64_t n_squares = problem->balance == FAVOR_BALANCE_FULL ? problem->key_width : 1;
  estimate->measure = measure_make(problem->key_width, has_squares ? n_squares : 0);
  estimate->sums_count = (measure_sums_count(&estimate->measure) + 7) / 8 * 8; /* whole cache lines */
}

/* Means and squares of one key head, then what deriving needs. */
static size_t work_count(const struct favor_plan *plan) {
  const int64_t width = plan->problem.key_width;
  return (size_t)(2 * width * (1 + plan->estimate.measure.n_squares)) + moments_work_count(width);
}

static size_t n_of_balance(const struct favor_plan *plan, enum favor_balance balance) {
  const size_t units = (size_t)range_count(plan->units), width = (size_t)plan->problem.key_width;
  if (!plan->estimate.is_used[ESTIMATE_BALANCE] || plan->problem.balance != balance) return 0;
  return balance == FAVOR_BALANCE_FULL ? units * width * width : units * width;
}

size_t estimate_bytes(const struct favor_plan *plan) {
  const struct estimate *estimate = &plan->estimate;
  const size_t units = (size_t)range_count(plan->units);
  if (!plan->engine.has_transform) return 0;
  size_t doubles = n_of_balance(plan, FAVOR_BALANCE_DIAGONAL) + 2 * n_of_balance(plan, FAVOR_BALANCE_FULL);
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    if (estimate->is_used[kind]) doubles += units * (size_t)estimate->count[kind];
  }
  if (n_of_balance(plan, FAVOR_BALANCE_FULL) > 0) doubles += 4 * units * (size_t)plan->problem.key_width;
  doubles += work_count(plan);
  size_t bytes = doubles * sizeof(double) + units * sizeof *estimate->transforms;
  if (!estimate_is_any_measured(estimate)) return bytes;
  /* The group keeps up to two more for what is on its way. */
  return bytes + (plan->grid.tokens > 1 ? 3 : 1) * units * measure_unit_bytes(&estimate->measure) +
         (size_t)plan->threads * estimate->sums_count * sizeof(double);
}

static void allocate(struct favor_plan *plan) {
  struct estimate *estimate = &plan->estimate;
  const size_t units = (size_t)range_count(plan->units), width = (size_t)plan->problem.key_width;
  const size_t n_full = n_of_balance(plan, FAVOR_BALANCE_FULL);
  bool has_all = true;
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    if (!estimate->is_used[kind]) continue;
    estimate->values[kind] = memory_zeroed(units * (size_t)estimate->count[kind], sizeof(double));
    has_all = has_all && estimate->values[kind];
  }
  estimate->reciprocal = memory_zeroed(n_of_balance(plan, FAVOR_BALANCE_DIAGONAL), sizeof(double));
  estimate->inverse = memory_zeroed(n_full, sizeof(double));
  estimate->transposed = memory_zeroed(n_full, sizeof(double));
  estimate->extents = memory_zeroed(n_full > 0 ? 4 * units * width : 0, sizeof *estimate->extents);
  estimate->transforms = memory_zeroed(units, sizeof *estimate->transforms);
  estimate->work = memory_zeroed(work_count(plan), sizeof(double));
  has_all = has_all && estimate->reciprocal && estimate->inverse && estimate->transposed && estimate->extents &&
            estimate->transforms && estimate->work;
  if (estimate_is_any_measured(estimate)) {
    estimate->rows = memory_zeroed(units, measure_unit_bytes(&estimate->measure));
    estimate->sums = memory_zeroed((size_t)plan->threads * estimate->sums_count, sizeof(double));
    has_all = has_all && estimate->rows && estimate->sums;
  }
  if (!has_all) dist_fail(plan->context, FAVOR_ENOMEM, "no memory for the estimates of %zu key heads", units);
}

/* The reproducible rows count what they sum. */
static void check_n_runs(const struct favor_plan *plan) {
  const int64_t run = plan->tokens.run_tokens;
  int64_t n_runs = 0;
  for (int64_t s = 0; s < plan->problem.n_segments; s++) {
    n_runs += (plan->offsets[s + 1] - plan->offsets[s] + run - 1) / run;
  }
  if (n_runs <= BINNED_MAX_ADDENDS) return;
  dist_fail(plan->context, FAVOR_EUSAGE,
            "%lld runs of tokens are too many to estimate from, at most %d are possible; give the estimates of a part",
            (long long)n_runs, BINNED_MAX_ADDENDS);
}

void estimate_free(struct estimate *estimate) {
  dist_group_destroy(&estimate->group);
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) free(estimate->values[kind]);
  free(estimate->reciprocal);
  free(estimate->inverse);
  free(estimate->transposed);
  free(estimate->extents);
  free(estimate->transforms);
  free(estimate->work);
  free(estimate->rows);
  free(estimate->sums);
}

void estimate_make_group(struct favor_plan *plan) {
  const struct estimate *estimate = &plan->estimate;
  if (!estimate_is_any_measured(estimate)) return;
  const int64_t units = range_count(plan->units), row = plan->context->rank / plan->grid.tokens;
  if (units > INT32_MAX / measure_n_rows(&estimate->measure)) {
    dist_fail(plan->context, FAVOR_EUSAGE, "%lld key heads are too many to estimate on one rank; use more ranks",
              (long long)units);
  }
  const struct dist_group_shape shape = {
      .n_lanes = 1, .n_units = units, .unit_rows = measure_n_rows(&estimate->measure), .row_bytes = estimate->measure.row_bytes};
  dist_group_create(plan->context, units > 0 ? (int)row : -1, &shape, FAVOR_SCAN_EXSCAN, NULL, &plan->estimate.group);
}

/* ---- transforms ------------------------------------------------------------------------------------------------- */

/* Where the rows of a square matrix have numbers other than 0. */
static void find_extents(int64_t n, const double *matrix, int64_t *begin, int64_t *end) {
  for (int64_t d = 0; d < n; d++) {
    begin[d] = 0;
    end[d] = n;
    while (begin[d] < end[d] && matrix[d * n + begin[d]] == 0) begin[d]++;
    while (begin[d] < end[d] && matrix[d * n + end[d] - 1] == 0) end[d]--;
  }
}

static void set_diagonal(struct estimate *estimate, int64_t unit, int64_t width, struct row_transform *transform) {
  const double *l = estimate->values[ESTIMATE_BALANCE] + unit * width;
  double *reciprocal = estimate->reciprocal + unit * width;
  for (int64_t d = 0; d < width; d++) reciprocal[d] = 1 / l[d];
  transform->query.diagonal = l;
  transform->key.diagonal = reciprocal;
}

/* False where L is singular. */
static bool set_full(struct estimate *estimate, int64_t unit, int64_t width, struct row_transform *transform) {
  const int64_t count = width * width;
  const double *l = estimate->values[ESTIMATE_BALANCE] + unit * count;
  double *transposed = estimate->transposed + unit * count, *inverse = estimate->inverse + unit * count;
  int64_t *extents = estimate->extents + unit * 4 * width;
  if (!moments_invert(width, l, inverse, estimate->work)) return false;
  for (int64_t i = 0; i < width; i++) {
    for (int64_t j = 0; j < width; j++) transposed[j * width + i] = l[i * width + j];
  }
  find_extents(width, transposed, extents, extents + width);
  find_extents(width, inverse, extents + 2 * width, extents + 3 * width);
  transform->query = (struct transform_side){.matrix = transposed, .begin = extents, .end = extents + width};
  transform->key = (struct transform_side){.matrix = inverse, .begin = extents + 2 * width, .end = extents + 3 * width};
  return true;
}

/* Bc, what the columns of biases hold, and what is common to all: see transform.h, and plan.c for those of W. */
static void set_oprf(const struct favor_plan *plan, double a, struct row_transform *transform) {
  const struct favor_problem *problem = &plan->problem;
  const double ln2 = 0.693147180559945309417232121458176568, width = (double)problem->key_width;
  const double factor = sqrt(problem->scale) / ln2;
  const double bias = 2 * a * plan_bias_unit(plan) / sqrt(problem->scale);
  transform->factor = sqrt(1 - 4 * a);
  transform->log2_common = width / 2 * log2(1 - 4 * a) + 2 * a * width / ln2;
  transform->bias[0] = bias;
  if (problem->precision != FAVOR_PRECISION_BF16) return;
  /* What the kernel rounds is the product with its factor. */
  const double high = plan_round_weight(FAVOR_PRECISION_BF16, bias * factor);
  transform->bias[0] = transform->bias[2] = high / factor;
  transform->bias[1] = plan_round_weight(FAVOR_PRECISION_BF16, bias * factor - high) / factor;
}

/* The row transform of a key head whose numbers are known. False where its balance is singular. */
static bool set_transform(struct favor_plan *plan, int64_t unit) {
  struct estimate *estimate = &plan->estimate;
  const int64_t width = plan->problem.key_width;
  struct row_transform *transform = &estimate->transforms[unit];
  *transform = (struct row_transform){.factor = 1};
  if (estimate->is_used[ESTIMATE_BALANCE]) {
    if (plan->problem.balance == FAVOR_BALANCE_DIAGONAL) {
      set_diagonal(estimate, unit, width, transform);
    } else if (!set_full(estimate, unit, width, transform)) {
      return false;
    }
  }
  if (estimate->is_used[ESTIMATE_SHIFT]) transform->key.shift = estimate->values[ESTIMATE_SHIFT] + unit * width;
  if (estimate->is_used[ESTIMATE_OPRF_A]) set_oprf(plan, estimate->values[ESTIMATE_OPRF_A][unit], transform);
  transform->query.is_identity = !estimate->is_used[ESTIMATE_BALANCE] && !estimate->is_used[ESTIMATE_OPRF_A];
  return true;
}

void estimate_allocate(struct favor_plan *plan, const struct favor_estimates *given) {
  struct estimate *estimate = &plan->estimate;
  if (!plan->engine.has_transform) return;
  estimate->n_units = range_count(plan->units);
  allocate(plan);
  if (estimate_is_any_measured(estimate)) check_n_runs(plan);
  if (dist_has_failed(plan->context)) return;
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    if (!estimate->is_used[kind] || estimate->is_measured[kind]) continue;
    const double *values = given_values(given, kind) + plan->units.begin * estimate->count[kind];
    memcpy(estimate->values[kind], values, (size_t)(estimate->n_units * estimate->count[kind]) * sizeof *values);
  }
  if (estimate_is_any_measured(estimate)) return;
  for (int64_t unit = 0; unit < estimate->n_units; unit++) {
    if (set_transform(plan, unit)) continue;
    dist_fail(plan->context, FAVOR_EDATA, "estimates: the balance of key head %lld is singular",
              (long long)(plan->units.begin + unit));
    return;
  }
  estimate->is_known = true;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

void estimate_begin(struct favor_plan *plan) {
  struct estimate *estimate = &plan->estimate;
  if (!estimate_is_any_measured(estimate)) return;
  estimate->is_known = false;
  binned_clear(estimate->rows, estimate->n_units * measure_n_rows(&estimate->measure), estimate->measure.width,
               MEASURE_N_BINS);
}

/* The means of a key head, in estimate->work; *rest: what follows them there. */
static struct moments read_moments(const struct favor_plan *plan, int64_t unit, double **rest) {
  const struct estimate *estimate = &plan->estimate;
  const struct measure *measure = &estimate->measure;
  const double tokens = (double)plan->problem.tokens, heads = (double)plan->engine.heads_per_key;
  const int64_t width = measure->width;
  const void *rows = (const char *)estimate->rows + measure_unit_bytes(measure) * (size_t)unit;
  double *query = estimate->work, *key = query + width, *query_square = key + width,
         *key_square = query_square + measure->n_squares * width;
  measure_read(measure, rows, MEASURE_QUERIES, tokens > 0 ? 1 / (tokens * heads) : 0, query, query_square);
  measure_read(measure, rows, MEASURE_KEYS, tokens > 0 ? 1 / tokens : 0, key, key_square);
  *rest = key_square + measure->n_squares * width;
  return (struct moments){.width = width,
                          .is_full = plan->problem.balance == FAVOR_BALANCE_FULL,
                          .query_mean = query,
                          .key_mean = key,
                          .query_square = query_square,
                          .key_square = key_square};
}

/* What is missing of a key head's numbers. Records FAVOR_EINTERNAL where LAPACK fails, or where what it gave cannot be
 * inverted. */
static void derive(struct favor_plan *plan, int64_t unit) {
  struct estimate *estimate = &plan->estimate;
  double *work, *values[ESTIMATE_N_KINDS];
  const struct moments moments = read_moments(plan, unit, &work);
  for (int kind = 0; kind < ESTIMATE_N_KINDS; kind++) {
    values[kind] = estimate->is_used[kind] ? estimate->values[kind] + unit * estimate->count[kind] : NULL;
  }
  const double *shift = estimate->is_measured[ESTIMATE_SHIFT] ? NULL : values[ESTIMATE_SHIFT];
  bool is_right = !estimate->is_measured[ESTIMATE_BALANCE] ||
                  moments_find_balance(&moments, plan->problem.balance, estimate->is_used[ESTIMATE_SHIFT], shift,
                                       values[ESTIMATE_BALANCE], work) == FAVOR_OK;
  struct moments_balance balance = {.kind = estimate->is_used[ESTIMATE_BALANCE] ? plan->problem.balance
                                                                                : FAVOR_BALANCE_NONE,
                                    .l = values[ESTIMATE_BALANCE]};
  if (estimate->is_measured[ESTIMATE_SHIFT]) moments_find_shift(&moments, &balance, values[ESTIMATE_SHIFT], work);
  if (balance.kind == FAVOR_BALANCE_FULL && is_right) {
    double *inverse = estimate->inverse + unit * moments.width * moments.width;
    is_right = moments_invert(moments.width, balance.l, inverse, work);
    balance.inverse = inverse;
  }
  if (estimate->is_measured[ESTIMATE_OPRF_A] && is_right) {
    *values[ESTIMATE_OPRF_A] = moments_find_oprf_a(&moments, &balance, values[ESTIMATE_SHIFT], plan->problem.scale);
  }
  if (is_right && set_transform(plan, unit)) return;
  dist_fail(plan->context, FAVOR_EINTERNAL, "the balance of key head %lld cannot be estimated; use another --balance",
            (long long)(plan->units.begin + unit));
}

enum favor_status estimate_meet(struct favor_plan *plan) {
  struct estimate *estimate = &plan->estimate;
  plan->outcome = dist_agree(plan->context, DIST_SITE_ESTIMATE, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  if (estimate->group && dist_group_size(estimate->group) > 1) {
    dist_reduce_begin(estimate->group, 0, estimate->n_units * measure_n_rows(&estimate->measure), estimate->rows);
    dist_group_end(estimate->group, 0);
  }
  for (int64_t unit = 0; unit < estimate->n_units && !dist_has_failed(plan->context); unit++) derive(plan, unit);
  estimate->is_known = !dist_has_failed(plan->context);
  return dist_has_failed(plan->context) ? plan->context->pending.code : FAVOR_OK;
}

enum favor_status favor_plan_estimates(const struct favor_plan *plan, struct favor_estimates *estimates) {
  const struct estimate *estimate = &plan->estimate;
  *estimates = (struct favor_estimates){0};
  const bool is_key_max_missing = plan->key_max.is_used && !plan->key_max.is_known;
  if ((plan->engine.has_transform && !estimate->is_known) || is_key_max_missing) {
    return dist_fail(plan->context, FAVOR_EUSAGE, "nothing is estimated before a run has measured queries and keys");
  }
  *estimates = (struct favor_estimates){.key_shift = estimate->values[ESTIMATE_SHIFT],
                                        .balance = estimate->values[ESTIMATE_BALANCE],
                                        .oprf_a = estimate->values[ESTIMATE_OPRF_A],
                                        .key_max = plan->key_max.values};
  return FAVOR_OK;
}

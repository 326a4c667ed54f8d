#include "core/worker.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/vectors.h"

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Hands out pieces of one block of memory; with next == NULL only adds up. */
static void *take(char *memory, size_t *total, size_t bytes) {
  void *piece = memory ? memory + *total : NULL;
  *total += round_up(bytes);
  return piece;
}

static size_t carve(const struct engine *engine, char *memory, struct worker *worker) {
  size_t m = (size_t)engine->shape.features, e = (size_t)engine->shape.value_width, total = 0;
  size_t tile = (size_t)engine->kernel->tile_tokens;
  struct sum *sums[] = {&worker->run, &worker->raised, &worker->view, &worker->before};
  for (int i = 0; i < 4; i++) {
    void *piece = take(memory, &total, sum_bytes(engine));
    if (piece) sum_place(engine, piece, sums[i]);
  }
  worker->scratch = take(memory, &total, engine->ops->scratch_bytes(&engine->shape));
  worker->rows = take(memory, &total, engine_state_bytes(engine));
  worker->row = take(memory, &total, STATE_SCRATCH(e) * sizeof(double));
  worker->half_norm = take(memory, &total, tile * sizeof(double));
  worker->query_half_norm = take(memory, &total, (size_t)engine->heads_per_key * tile * sizeof(double));
  worker->peak = take(memory, &total, e * engine->real_bytes);
  worker->query_peak = take(memory, &total, (size_t)engine->key_width * engine->real_bytes);
  worker->shift = take(memory, &total, e * sizeof(int32_t));
  worker->v_scale = take(memory, &total, e * engine->real_bytes);
  worker->out_scale = take(memory, &total, e * engine->real_bytes);
  worker->exact = take(memory, &total, (2 * m + e) * sizeof(double));
  worker->exact_exponent = take(memory, &total, 2 * m * sizeof(int32_t));
  worker->is_lost = take(memory, &total, (size_t)engine->heads_per_key * tile * sizeof(bool));
  if (engine->has_transform) {
    size_t rows_bytes = tile * (size_t)engine->shape.key_width * engine->real_bytes;
    worker->keys = take(memory, &total, rows_bytes);
    worker->queries = take(memory, &total, (size_t)engine->heads_per_key * rows_bytes);
    worker->transform_work = take(memory, &total, transform_work_count(engine->key_width) * sizeof(double));
  }
  return total;
}

size_t worker_bytes(const struct engine *engine) {
  struct worker worker;
  return carve(engine, NULL, &worker);
}

void worker_place(const struct engine *engine, void *memory, struct worker *worker) { carve(engine, memory, worker); }

/* |x~|^2 / 2 in units of ln 2. */
static const double longest_half_norm = LONGEST_HALF_NORM / 0.693147180559945309417232121458176568;

enum refusal_kind worker_blame(const struct engine *engine, const void *row, int64_t width) {
  enum refusal_kind kind = REFUSAL_NONE;
  for (int64_t i = 0; i < width; i++) {
    double x = real_at(engine, row, i);
    if (isnan(x)) return REFUSAL_NAN;
    if (isinf(x)) kind = REFUSAL_INF;
  }
  return kind;
}

VECTORS static uint32_t largest_of_32(int64_t n, const uint32_t *x) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

VECTORS static uint64_t largest_of_64(int64_t n, const uint64_t *x) {
  uint64_t largest = 0;
  for (int64_t i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/* The largest of n peaks, Inf or NaN if one is: by their bits, as in kernel_ops.peaks. */
static double largest_peak(const struct engine *engine, int64_t n, const void *peak) {
  if (engine->precision == FAVOR_PRECISION_F64) {
    double largest;
    uint64_t bits = largest_of_64(n, peak);
    memcpy(&largest, &bits, sizeof largest);
    return largest;
  }
  float largest;
  uint32_t bits = largest_of_32(n, peak);
  memcpy(&largest, &bits, sizeof largest);
  return (double)largest;
}

/* Whether no row can be too long, NaN or Inf, from the largest element alone. */
static bool are_short(const struct engine *engine, int64_t n, const void *x, int64_t stride, void *peak) {
  int64_t width = engine->key_width;
  memset(peak, 0, (size_t)width * engine->real_bytes);
  engine->ops->peaks(n, width, x, stride, peak);
  double largest = largest_peak(engine, width, peak);
  return (double)width * largest * largest * engine->half_norm_factor <= longest_half_norm;
}

/* x *= factor; returns how many are above the limit or NaN. */
VECTORS static int64_t scale_and_count(int64_t n, double *x, double factor, double limit) {
  int64_t n_beyond = 0;
  for (int64_t i = 0; i < n; i++) {
    x[i] *= factor;
    n_beyond += !(x[i] <= limit);
  }
  return n_beyond;
}

bool worker_measure_rows(const struct engine *engine, char tensor, int64_t n, const void *x, int64_t stride,
                         double longest, double *half_norm, struct refusal *refusal) {
  engine->ops->norms(n, engine->key_width, x, stride, half_norm);
  if (scale_and_count(n, half_norm, engine->half_norm_factor, longest) == 0) return true;
  int64_t i = 0;
  while (half_norm[i] <= longest) i++;
  enum refusal_kind kind = worker_blame(engine, row_in(engine, x, stride, i), engine->key_width);
  *refusal = (struct refusal){kind == REFUSAL_NONE ? REFUSAL_TOO_LONG : kind, tensor, 0, i};
  return false;
}

/* Transformed rows of x; half_norm NULL: queries. False at the first row that cannot be computed with. */
static bool transform_tile(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                           int64_t n, const void *x, int64_t stride, void *rows, double *half_norm,
                           struct refusal *refusal) {
  int64_t n_right =
      transform_rows(engine, transform, n, x, stride, longest_half_norm, worker->transform_work, rows, half_norm);
  if (n_right == n) return true;
  enum refusal_kind kind = worker_blame(engine, row_in(engine, x, stride, n_right), engine->key_width);
  *refusal =
      (struct refusal){kind == REFUSAL_NONE ? REFUSAL_TOO_LONG_TRANSFORMED : kind, half_norm ? 'k' : 'q', 0, n_right};
  return false;
}

int64_t worker_magnitude(double x) {
  int exponent;
  if (x == 0) return BINNED_NONE;
  frexp(x, &exponent);
  return exponent;
}

bool worker_measure_values(const struct engine *engine, struct worker *worker, int64_t n, const void *v, int64_t stride,
                           struct refusal *refusal) {
  int64_t width = engine->shape.value_width;
  memset(worker->peak, 0, (size_t)width * engine->real_bytes);
  engine->ops->peaks(n, width, v, stride, worker->peak);
  worker->largest_value = largest_peak(engine, width, worker->peak);
  for (int64_t i = 0; i < n && !isfinite(worker->largest_value); i++) {
    enum refusal_kind kind = worker_blame(engine, row_in(engine, v, stride, i), width);
    if (kind == REFUSAL_NONE) continue;
    *refusal = (struct refusal){kind, 'v', 0, i};
    return false;
  }
  return true;
}

/* Columns that hold nothing yet take the shift of their first value that is not 0. Returns how many tokens stand before
 * the first such value, past the first token, that asks for a shift: they must not know of it. */
static int64_t begin_columns(const struct engine *engine, int64_t n, const void *v, int64_t stride, struct sum *run) {
  for (int64_t e = 0; e < engine->shape.value_width; e++) {
    for (int64_t i = 0; i < n && run->shift[e] == SHIFT_NONE; i++) {
      int32_t shift = shift_for(engine->precision, worker_magnitude(real_at(engine, row_in(engine, v, stride, i), e)));
      if (i == 0 || shift == 0) {
        run->shift[e] = shift;
      } else if (shift != SHIFT_NONE) {
        n = i;
      }
    }
  }
  return n;
}

/* Whether the row's values enter the run as it is; what they need otherwise. */
static bool row_fits(const struct engine *engine, const void *row, const struct sum *run, int32_t *needed) {
  bool fits = true;
  for (int64_t e = 0; e < engine->shape.value_width; e++) {
    int64_t magnitude = worker_magnitude(real_at(engine, row, e));
    bool holds = shift_holds(engine->precision, run->shift[e], magnitude);
    needed[e] = holds ? SHIFT_NONE : shift_for(engine->precision, magnitude);
    fits = fits && holds;
  }
  return fits;
}

/* How many shifts are neither 0 nor `other`. */
VECTORS static int64_t count_shifted(int64_t n, const int32_t *shift, int32_t other) {
  int64_t n_shifted = 0;
  for (int64_t e = 0; e < n; e++) n_shifted += (shift[e] != 0) & (shift[e] != other);
  return n_shifted;
}

/* Whether all columns are as they are for ordinary values, and hold the tile's. */
static bool is_ordinary(const struct engine *engine, const struct worker *worker, const struct sum *run) {
  return count_shifted(engine->shape.value_width, run->shift, 0) == 0 &&
         shift_holds(engine->precision, 0, worker_magnitude(worker->largest_value));
}

int64_t worker_settle_shifts(const struct engine *engine, struct worker *worker, int64_t n, const void *v,
                             int64_t v_stride, struct sum *run) {
  if (is_ordinary(engine, worker, run)) return n;
  n = begin_columns(engine, n, v, v_stride, run);
  if (row_fits(engine, worker->peak, run, worker->shift)) return n;
  for (int64_t i = 0; i < n; i++) {
    if (row_fits(engine, row_in(engine, v, v_stride, i), run, worker->shift)) continue;
    if (i > 0) return i;
    sum_raise_shift(engine, run, worker->shift);
  }
  return n;
}

bool worker_measure_keys(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                         struct kernel_keys *keys, struct refusal *refusal) {
  if (transform && !transform->key.is_identity) {
    if (!transform_tile(engine, worker, transform, keys->n, keys->k, keys->k_stride, worker->keys, worker->half_norm,
                        refusal)) {
      return false;
    }
    keys->k = worker->keys;
    keys->k_stride = engine->shape.key_width;
  } else if (!worker_measure_rows(engine, 'k', keys->n, keys->k, keys->k_stride, longest_half_norm, worker->half_norm,
                                  refusal)) {
    return false;
  }
  return worker_measure_values(engine, worker, keys->n, keys->v, keys->v_stride, refusal);
}

static bool transform_queries(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                              struct kernel_queries *queries, struct refusal *refusal) {
  const int64_t stride = engine->shape.key_width, head_stride = engine->kernel->tile_tokens * stride;
  for (int64_t h = 0; h < queries->n_heads; h++) {
    const void *q = row_in(engine, queries->q, queries->q_head_stride, h);
    void *rows = row_out(engine, worker->queries, head_stride, h);
    if (transform_tile(engine, worker, transform, queries->n, q, queries->q_stride, rows, NULL, refusal)) continue;
    refusal->head = h;
    return false;
  }
  queries->q = worker->queries;
  queries->q_head_stride = head_stride;
  queries->q_stride = stride;
  return true;
}

bool worker_measure_queries(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                            struct kernel_queries *queries, struct refusal *refusal) {
  if (transform && !transform->query.is_identity) {
    return transform_queries(engine, worker, transform, queries, refusal);
  }
  for (int64_t h = 0; h < queries->n_heads; h++) {
    const void *q = row_in(engine, queries->q, queries->q_head_stride, h);
    double *half_norm = worker->query_half_norm + h * engine->kernel->tile_tokens;
    if (!engine->shape.map && are_short(engine, queries->n, q, queries->q_stride, worker->query_peak)) continue;
    if (worker_measure_rows(engine, 'q', queries->n, q, queries->q_stride, longest_half_norm, half_norm, refusal)) {
      continue;
    }
    refusal->head = h;
    return false;
  }
  return true;
}

double worker_guarded(const struct engine *engine, const struct head_weights *weights, const double *fraction,
                      const int32_t *exponent, double total, int64_t top) {
  const struct kernel_guard *guard = &weights->parameters.guard;
  if (!engine->shape.map || guard->rule == KERNEL_GUARD_NONE) return total;
  int64_t highest = exponent[0];
  double sum = 0;
  for (int64_t r = 0; r < engine->shape.features; r++) highest = exponent[r] > highest ? exponent[r] : highest;
  for (int64_t r = 0; r < engine->shape.features; r++) sum += scaled_by(fraction[r], exponent[r] - highest);
  return kernel_guarded(guard, total, top, sum, highest);
}

struct kernel_queries worker_cut_queries(const struct engine *engine, const struct kernel_queries *queries,
                                         int64_t begin, int64_t n) {
  struct kernel_queries cut = *queries;
  cut.n = n;
  cut.q = row_in(engine, queries->q, queries->q_stride, begin);
  cut.out = row_out(engine, queries->out, queries->out_stride, begin);
  return cut;
}

const void *worker_scale(const struct engine *engine, const int32_t *shift, int sign, void *scale) {
  int64_t width = engine->shape.value_width;
  if (count_shifted(width, shift, SHIFT_NONE) == 0) return NULL;
  for (int64_t e = 0; e < width; e++) {
    set_real(engine, scale, e, shift[e] == SHIFT_NONE ? 1 : ldexp(1, sign * shift[e]));
  }
  return scale;
}

void worker_norms(const struct engine *engine, const struct worker *worker, struct kernel_queries *queries) {
  queries->half_norm = worker->query_half_norm;
  queries->half_norm_head_stride = engine->kernel->tile_tokens;
}

void worker_features(const struct engine *engine, const struct head_weights *weights, const void *x, bool is_query,
                     double half_norm, double *fraction, int32_t *exponent) {
  int64_t width = engine->shape.key_width, directions = engine->shape.directions;
  for (int64_t r = 0; r < directions; r++) {
    double sum = 0;
    for (int64_t d = 0; d < width; d++) sum += weights->exact[r * width + d] * real_at(engine, x, d);
    fraction[r] = sum;
  }
  if (engine->shape.map) {
    const struct kernel_map_row row = {directions, half_norm, is_query, &weights->parameters};
    engine->shape.map->f64(&row, fraction, exponent);
    return;
  }
  for (int64_t r = directions; r < engine->shape.features; r++) fraction[r] = -fraction[r - directions];
  for (int64_t r = 0; r < engine->shape.features; r++) {
    double l = fraction[r] - half_norm, nearest = rint(l);
    fraction[r] = exp2(l - nearest);
    exponent[r] = (int32_t)nearest;
  }
}

void worker_deposit(const struct engine *engine, struct worker *worker, void *rows) {
  const double begin = clock_now_s();
  state_deposit(engine, &worker->run, worker->row, rows);
  worker->accumulate_s += clock_now_s() - begin;
}

void worker_view(const struct engine *engine, struct worker *worker, const void *rows) {
  const double begin = clock_now_s();
  state_view(engine, rows, worker->row, &worker->view);
  worker->accumulate_s += clock_now_s() - begin;
}

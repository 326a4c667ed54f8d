#include "core/worker.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"

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
  worker->query_half_norm = take(memory, &total, tile * sizeof(double));
  worker->peak = take(memory, &total, e * engine->real_bytes);
  worker->query_peak = take(memory, &total, (size_t)engine->shape.key_width * engine->real_bytes);
  worker->shift = take(memory, &total, e * sizeof(int32_t));
  worker->v_scale = take(memory, &total, e * engine->real_bytes);
  worker->out_scale = take(memory, &total, e * engine->real_bytes);
  worker->exact = take(memory, &total, (2 * m + e) * sizeof(double));
  worker->is_lost = take(memory, &total, (size_t)engine->heads_per_key * tile * sizeof(bool));
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

/* Whether no row can be too long, NaN or Inf, from each column's largest element alone. */
static bool are_short(const struct engine *engine, int64_t n, const void *x, int64_t stride, void *peak) {
  int64_t width = engine->shape.key_width;
  memset(peak, 0, (size_t)width * engine->real_bytes);
  engine->ops->peaks(n, width, x, stride, peak);
  double norm2 = 0;
  for (int64_t d = 0; d < width; d++) norm2 += real_at(engine, peak, d) * real_at(engine, peak, d);
  return norm2 * engine->half_norm_factor <= longest_half_norm;
}

/* half_norm of n rows; false at the first row that is not finite or too long. */
static bool measure_rows(const struct engine *engine, char tensor, int64_t n, const void *x, int64_t stride,
                         double *half_norm, struct refusal *refusal) {
  engine->ops->norms(n, engine->shape.key_width, x, stride, half_norm);
  for (int64_t i = 0; i < n; i++) {
    half_norm[i] *= engine->half_norm_factor;
    if (half_norm[i] <= longest_half_norm) continue;
    enum refusal_kind kind = worker_blame(engine, row_in(engine, x, stride, i), engine->shape.key_width);
    *refusal = (struct refusal){kind == REFUSAL_NONE ? REFUSAL_TOO_LONG : kind, tensor, 0, i};
    return false;
  }
  return true;
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
  bool is_finite = true;
  for (int64_t e = 0; e < width; e++) is_finite = is_finite && isfinite(real_at(engine, worker->peak, e));
  for (int64_t i = 0; i < n && !is_finite; i++) {
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

/* Whether all columns are as they are for ordinary values, and hold the tile's. */
static bool is_ordinary(const struct engine *engine, const struct worker *worker, const struct sum *run) {
  double largest = 0;
  for (int64_t e = 0; e < engine->shape.value_width; e++) {
    if (run->shift[e] != 0) return false;
    double peak = real_at(engine, worker->peak, e);
    largest = peak > largest ? peak : largest;
  }
  return shift_holds(engine->precision, 0, worker_magnitude(largest));
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

bool worker_measure_keys(const struct engine *engine, struct worker *worker, int64_t n, const void *k, int64_t k_stride,
                         const void *v, int64_t v_stride, struct refusal *refusal) {
  return measure_rows(engine, 'k', n, k, k_stride, worker->half_norm, refusal) &&
         worker_measure_values(engine, worker, n, v, v_stride, refusal);
}

bool worker_measure_queries(const struct engine *engine, struct worker *worker, const struct kernel_queries *queries,
                            struct refusal *refusal) {
  for (int64_t h = 0; h < queries->n_heads; h++) {
    const void *q = row_in(engine, queries->q, queries->q_head_stride, h);
    if (are_short(engine, queries->n, q, queries->q_stride, worker->query_peak)) continue;
    if (measure_rows(engine, 'q', queries->n, q, queries->q_stride, worker->query_half_norm, refusal)) continue;
    refusal->head = h;
    return false;
  }
  return true;
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
  int64_t width = engine->shape.value_width, n_ordinary = 0;
  while (n_ordinary < width && (shift[n_ordinary] == 0 || shift[n_ordinary] == SHIFT_NONE)) n_ordinary++;
  if (n_ordinary == width) return NULL;
  for (int64_t e = 0; e < width; e++) {
    set_real(engine, scale, e, shift[e] == SHIFT_NONE ? 1 : ldexp(1, sign * shift[e]));
  }
  return scale;
}

void worker_project(const struct engine *engine, const struct head_weights *weights, const void *x, double half_norm,
                    double *l) {
  int64_t width = engine->shape.key_width, directions = engine->shape.directions;
  bool has_both_signs = kernel_signs(&engine->shape) == 2;
  for (int64_t r = 0; r < directions; r++) {
    double sum = 0;
    for (int64_t d = 0; d < width; d++) sum += weights->exact[r * width + d] * real_at(engine, x, d);
    l[r] = sum - half_norm;
    if (has_both_signs) l[directions + r] = -sum - half_norm;
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

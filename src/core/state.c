#include "core/state.h"

#include <math.h>
#include <string.h>

#include "base/vectors.h"

/* Sums of up to 2^40 values below 2^highest stay finite; products of values above 2^lowest with the smallest weights
 * that count (KERNEL_LOST_BELOW) stay normal. */
static const int32_t shift_highest[] = {
    [FAVOR_PRECISION_F32] = 60, [FAVOR_PRECISION_F64] = 400, [FAVOR_PRECISION_BF16] = 60};
static const int32_t shift_lowest[] = {
    [FAVOR_PRECISION_F32] = -40, [FAVOR_PRECISION_F64] = -400, [FAVOR_PRECISION_BF16] = -40};
/* Both 2^shift and 2^-shift are normal numbers. */
static const int32_t shift_limit[] = {
    [FAVOR_PRECISION_F32] = 120, [FAVOR_PRECISION_F64] = 1000, [FAVOR_PRECISION_BF16] = 120};
static const int bins_for[] = {[FAVOR_PRECISION_F32] = 2, [FAVOR_PRECISION_F64] = 3, [FAVOR_PRECISION_BF16] = 2};

struct engine engine_make(const struct kernel *kernel, enum favor_precision precision, int64_t key_width,
                          int64_t value_width, int64_t directions, int64_t signs, int64_t heads_per_key, double scale) {
  struct engine engine = {
      .kernel = kernel,
      .ops = &kernel->real[precision],
      .precision = precision,
      .shape = {.key_width = key_width,
                .value_width = value_width,
                .directions = directions,
                .features = directions * signs,
                .s_stride = (value_width + 15) / 16 * 16},
      .half_norm_factor = scale / (2 * 0.693147180559945309417232121458176568),
      .key_width = key_width,
      .heads_per_key = heads_per_key,
      .n_bins = bins_for[precision],
      .real_bytes = precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float),
      .row_bytes = binned_row_bytes(value_width + 1, bins_for[precision]),
  };
  return engine;
}

int32_t shift_for(enum favor_precision precision, int64_t magnitude) {
  if (magnitude == BINNED_NONE) return SHIFT_NONE;
  if (magnitude >= shift_lowest[precision] && magnitude <= shift_highest[precision]) return 0;
  int32_t limit = shift_limit[precision];
  return magnitude > limit ? limit : magnitude < -limit ? -limit : (int32_t)magnitude;
}

bool shift_holds(enum favor_precision precision, int32_t shift, int64_t magnitude) {
  return magnitude == BINNED_NONE || magnitude <= (int64_t)shift + shift_highest[precision];
}

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t sum_bytes(const struct engine *engine) {
  size_t m = (size_t)engine->shape.features, e = (size_t)engine->shape.value_width;
  return round_up(m * (size_t)engine->shape.s_stride * engine->real_bytes) + round_up(m * engine->real_bytes) +
         round_up(m * sizeof(int32_t)) + round_up((e + 1) * sizeof(int32_t));
}

void sum_place(const struct engine *engine, void *memory, struct sum *sum) {
  size_t m = (size_t)engine->shape.features;
  char *next = memory;
  sum->kernel.s = next;
  next += round_up(m * (size_t)engine->shape.s_stride * engine->real_bytes);
  sum->kernel.z = next;
  next += round_up(m * engine->real_bytes);
  sum->kernel.exponent = (int32_t *)next;
  next += round_up(m * sizeof(int32_t));
  sum->shift = (int32_t *)next;
  sum->shift[engine->shape.value_width] = 0;
  sum_clear(engine, sum);
}

void sum_clear(const struct engine *engine, struct sum *sum) {
  sum->kernel.is_empty = true;
  for (int64_t e = 0; e < engine->shape.value_width; e++) sum->shift[e] = SHIFT_NONE;
}

/* x[i] *= 2^power for a strided column. */
static void scale_column(const struct engine *engine, void *s, int64_t e, int power) {
  int64_t stride = engine->shape.s_stride;
  for (int64_t r = 0; r < engine->shape.features; r++) {
    if (engine->precision == FAVOR_PRECISION_F64) {
      double *x = (double *)s + r * stride + e;
      *x = ldexp(*x, power);
    } else {
      float *x = (float *)s + r * stride + e;
      *x = ldexpf(*x, power);
    }
  }
}

VECTORS static int64_t count_higher(int64_t n, const int32_t *shift, const int32_t *than) {
  int64_t n_higher = 0;
  for (int64_t e = 0; e < n; e++) n_higher += shift[e] > than[e];
  return n_higher;
}

void sum_raise_shift(const struct engine *engine, struct sum *sum, const int32_t *shift) {
  if (count_higher(engine->shape.value_width, shift, sum->shift) == 0) return;
  for (int64_t e = 0; e < engine->shape.value_width; e++) {
    if (shift[e] <= sum->shift[e]) continue;
    if (!sum->kernel.is_empty && sum->shift[e] != SHIFT_NONE) {
      scale_column(engine, sum->kernel.s, e, sum->shift[e] - shift[e]);
    }
    sum->shift[e] = shift[e];
  }
}

void sum_copy(const struct engine *engine, const struct sum *from, struct sum *to) {
  size_t m = (size_t)engine->shape.features;
  to->kernel.is_empty = from->kernel.is_empty;
  memcpy(to->shift, from->shift, (size_t)engine->shape.value_width * sizeof *to->shift);
  if (from->kernel.is_empty) return;
  memcpy(to->kernel.exponent, from->kernel.exponent, m * sizeof *to->kernel.exponent);
  memcpy(to->kernel.z, from->kernel.z, m * engine->real_bytes);
  memcpy(to->kernel.s, from->kernel.s, m * (size_t)engine->shape.s_stride * engine->real_bytes);
}

VECTORS static int64_t count_different(int64_t n, const int32_t *shift, const int32_t *other) {
  int64_t n_different = 0;
  for (int64_t e = 0; e < n; e++) {
    int32_t a = shift[e] == SHIFT_NONE ? 0 : shift[e], b = other[e] == SHIFT_NONE ? 0 : other[e];
    n_different += a != b;
  }
  return n_different;
}

bool sum_is_at_shift(const struct engine *engine, const struct sum *sum, const int32_t *shift) {
  return count_different(engine->shape.value_width, sum->shift, shift) == 0;
}

void state_clear(const struct engine *engine, void *rows) {
  binned_clear(rows, engine->shape.features, engine->shape.value_width + 1, engine->n_bins);
}

VECTORS static void widen(int64_t n, const float *restrict from, double *restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

VECTORS static void narrow(int64_t n, const double *restrict from, float *restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

VECTORS static void raise_peaks(int64_t n, const double *restrict x, double *restrict peak) {
  for (int64_t i = 0; i < n; i++) peak[i] = fabs(x[i]) > peak[i] ? fabs(x[i]) : peak[i];
}

void state_deposit(const struct engine *engine, const struct sum *sum, double *scratch, void *rows) {
  if (sum->kernel.is_empty) return;
  double *row = scratch;
  int64_t e_width = engine->shape.value_width, stride = engine->shape.s_stride;
  for (int64_t r = 0; r < engine->shape.features; r++) {
    struct binned_row *to = binned_row_at(rows, engine->row_bytes, r);
    int32_t exponent = sum->kernel.exponent[r];
    if (engine->precision == FAVOR_PRECISION_F64) {
      memcpy(row, (const double *)sum->kernel.s + r * stride, (size_t)e_width * sizeof *row);
      row[e_width] = ((const double *)sum->kernel.z)[r];
    } else {
      widen(e_width, (const float *)sum->kernel.s + r * stride, row);
      row[e_width] = ((const float *)sum->kernel.z)[r];
    }
    binned_raise(to, exponent);
    binned_deposit(to, 0, e_width + 1, row, exponent, sum->shift);
  }
}

/* The exact shifts under which the state's columns are read: from the largest |S_re| 2^-exponent_r of each. */
static void find_shifts(const struct engine *engine, const void *rows, int32_t *shift) {
  for (int64_t e = 0; e < engine->shape.value_width; e++) {
    int64_t highest = BINNED_NONE;
    for (int64_t r = 0; r < engine->shape.features; r++) {
      const struct binned_row *row = binned_row_at_const(rows, engine->row_bytes, r);
      int64_t magnitude = binned_magnitude(row, e);
      if (magnitude != BINNED_NONE && magnitude - row->exponent > highest) highest = magnitude - row->exponent;
    }
    shift[e] = shift_for(engine->precision, highest);
  }
}

/* s and z of the view at its columns' shifts; peak[e] = max_r |s_re|. */
static void round_rows(const struct engine *engine, const void *rows, double *row, double *peak, struct sum *view) {
  int64_t width = engine->shape.value_width, stride = engine->shape.s_stride;
  memset(peak, 0, (size_t)width * sizeof *peak);
  for (int64_t r = 0; r < engine->shape.features; r++) {
    const struct binned_row *from = binned_row_at_const(rows, engine->row_bytes, r);
    binned_value(from, 0, width + 1, from->exponent, view->shift, row);
    view->kernel.exponent[r] = from->exponent;
    raise_peaks(width, row, peak);
    if (engine->precision == FAVOR_PRECISION_F64) {
      memcpy((double *)view->kernel.s + r * stride, row, (size_t)width * sizeof *row);
      ((double *)view->kernel.z)[r] = row[width];
    } else {
      narrow(width, row, (float *)view->kernel.s + r * stride);
      ((float *)view->kernel.z)[r] = (float)row[width];
    }
  }
}

void state_view(const struct engine *engine, const void *rows, double *scratch, struct sum *view) {
  int64_t width = engine->shape.value_width;
  double *peak = scratch + width + 1;
  sum_clear(engine, view);
  if (binned_row_at_const(rows, engine->row_bytes, 0)->exponent == BINNED_NONE) return;
  view->kernel.is_empty = false;
  for (int64_t e = 0; e < width; e++) view->shift[e] = 0;
  round_rows(engine, rows, scratch, peak, view);
  bool is_ordinary = true;
  for (int64_t e = 0; e < width; e++) {
    int exponent = 0;
    if (isfinite(peak[e])) frexp(peak[e], &exponent);
    bool is_near_one = isfinite(peak[e]) && peak[e] != 0 && shift_for(engine->precision, exponent) == 0;
    is_ordinary = is_ordinary && is_near_one;
  }
  if (is_ordinary) return;
  find_shifts(engine, rows, view->shift);
  round_rows(engine, rows, scratch, peak, view);
}

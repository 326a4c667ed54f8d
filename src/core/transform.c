#include "core/transform.h"

#include <math.h>
#include <string.h>

#include "base/vectors.h"

enum { LANES = 8, AT_ONCE = 4 };

static int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* A row that came, and one that leaves, each padded with zeros. */
size_t transform_work_count(int64_t width) { return 2 * (size_t)round_up(width); }

VECTORS static void load_f32(int64_t n, const float *restrict x, double *restrict y) {
  for (int64_t d = 0; d < n; d++) y[d] = x[d];
}

VECTORS static void subtract(int64_t n, const double *restrict shift, double *restrict x) {
  for (int64_t d = 0; d < n; d++) x[d] -= shift[d];
}

VECTORS static void scale(int64_t n, const double *restrict factor, double *restrict x) {
  for (int64_t d = 0; d < n; d++) x[d] *= factor[d];
}

/* y[begin, end) += sum of four rows of a matrix times x. */
VECTORS static void add_rows(int64_t begin, int64_t end, int64_t width, const double *restrict x,
                             const double *restrict rows, double *restrict y) {
  const double a = x[0], b = x[1], c = x[2], d = x[3];
  for (int64_t j = begin; j < end; j++) {
    y[j] += (a * rows[j] + b * rows[width + j]) + (c * rows[2 * width + j] + d * rows[3 * width + j]);
  }
}

VECTORS static void add_row(int64_t begin, int64_t end, double x, const double *restrict row, double *restrict y) {
  for (int64_t j = begin; j < end; j++) y[j] += x * row[j];
}

static int64_t least(const int64_t *x) {
  int64_t low = x[0];
  for (int i = 1; i < AT_ONCE; i++) low = x[i] < low ? x[i] : low;
  return low;
}

static int64_t most(const int64_t *x) {
  int64_t high = x[0];
  for (int i = 1; i < AT_ONCE; i++) high = x[i] > high ? x[i] : high;
  return high;
}

/* y = x times the side's matrix. */
static void multiply(int64_t width, const struct transform_side *side, const double *x, double *y) {
  memset(y, 0, (size_t)width * sizeof *y);
  int64_t d = 0;
  for (; d + AT_ONCE <= width; d += AT_ONCE) {
    add_rows(least(side->begin + d), most(side->end + d), width, x + d, side->matrix + d * width, y);
  }
  for (; d < width; d++) add_row(side->begin[d], side->end[d], x[d], side->matrix + d * width, y);
}

/* Of a row padded with zeros to whole LANES. */
VECTORS static double norm2_of(int64_t n, const double *x) {
  double sums[LANES] = {0};
  for (int64_t d = 0; d < n; d += LANES) {
    for (int i = 0; i < LANES; i++) sums[i] += x[d + i] * x[d + i];
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

VECTORS static void store_f32(int64_t n, const double *restrict x, double factor, float *restrict row) {
  for (int64_t d = 0; d < n; d++) row[d] = (float)(x[d] * factor);
}

VECTORS static void store_f64(int64_t n, const double *restrict x, double factor, double *restrict row) {
  for (int64_t d = 0; d < n; d++) row[d] = x[d] * factor;
}

/* One row in double: L q, or L^-T (k - s). work is zero beyond the width. */
static const double *move_row(const struct engine *engine, const struct transform_side *side, const void *x,
                              double *work) {
  const int64_t width = engine->key_width;
  double *came = work, *left = work + round_up(width);
  if (engine->precision == FAVOR_PRECISION_F64) {
    memcpy(came, x, (size_t)width * sizeof *came);
  } else {
    load_f32(width, x, came);
  }
  if (side->shift) subtract(width, side->shift, came);
  if (side->diagonal) scale(width, side->diagonal, came);
  if (!side->matrix) return came;
  multiply(width, side, came, left);
  return left;
}

int64_t transform_rows(const struct engine *engine, const struct row_transform *transform, int64_t n, const void *x,
                       int64_t stride, double longest, double *work, void *rows, double *half_norm) {
  const int64_t width = engine->key_width, n_biases = engine->shape.key_width - width;
  const struct transform_side *side = half_norm ? &transform->key : &transform->query;
  double bias2 = 0;
  for (int64_t b = 0; b < n_biases; b++) bias2 += half_norm ? transform->bias[b] * transform->bias[b] : 0;
  memset(work, 0, transform_work_count(width) * sizeof *work);
  for (int64_t i = 0; i < n; i++) {
    const char *from = (const char *)x + (int64_t)engine->real_bytes * stride * i;
    char *to = (char *)rows + (int64_t)engine->real_bytes * engine->shape.key_width * i;
    const double *row = move_row(engine, side, from, work);
    const double norm2 = norm2_of(round_up(width), row);
    const double whole = norm2 * (transform->factor * transform->factor) + bias2;
    if (!(whole * engine->half_norm_factor <= longest)) return i;
    if (half_norm) half_norm[i] = norm2 * engine->half_norm_factor;
    if (engine->precision == FAVOR_PRECISION_F64) {
      store_f64(width, row, transform->factor, (double *)to);
      for (int64_t b = 0; b < n_biases; b++) ((double *)to)[width + b] = half_norm ? transform->bias[b] : 0;
    } else {
      store_f32(width, row, transform->factor, (float *)to);
      for (int64_t b = 0; b < n_biases; b++) ((float *)to)[width + b] = half_norm ? (float)transform->bias[b] : 0;
    }
  }
  return n;
}

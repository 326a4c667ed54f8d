#include "core/key_max.h"

static double product_f64(int64_t n, const double *w, const double *x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < n; d++) sum += w[d] * x[d];
  return sum;
}

static double product_f32(int64_t n, const double *w, const float *x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < n; d++) sum += w[d] * (double)x[d];
  return sum;
}

static double row_max(const struct engine *engine, const struct head_weights *weights, const void *k) {
  const int64_t width = engine->shape.key_width;
  const bool has_both_signs = kernel_signs(&engine->shape) == 2, is_f64 = engine->precision == FAVOR_PRECISION_F64;
  double highest = -INFINITY;
  for (int64_t r = 0; r < engine->shape.directions; r++) {
    const double *w = weights->exact + r * width, u = is_f64 ? product_f64(width, w, k) : product_f32(width, w, k);
    highest = fmax(highest, has_both_signs ? fabs(u) : u);
  }
  return highest;
}

bool key_max_add(const struct engine *engine, struct worker *worker, const struct head_weights *weights, int64_t n,
                 const void *k, int64_t stride, double *highest, struct refusal *refusal) {
  const int64_t tile = engine->kernel->tile_tokens;
  for (int64_t t = 0; t < n; t += tile) {
    const int64_t count = n - t < tile ? n - t : tile;
    if (!worker_measure_rows(engine, 'k', count, row_in(engine, k, stride, t), stride, DBL_MAX, worker->half_norm,
                             refusal)) {
      refusal->token += t;
      return false;
    }
    for (int64_t i = t; i < t + count; i++) {
      *highest = fmax(*highest, row_max(engine, weights, row_in(engine, k, stride, i)));
    }
  }
  return true;
}

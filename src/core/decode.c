#include "core/decode.h"

#include <float.h>
#include <math.h>

void decode_take(const struct engine *engine, const struct head_weights *weights, const void *k, double half_norm,
                 const void *v, double *log_weight, struct decode_state *state) {
  int64_t width = engine->shape.value_width;
  const double down = ldexp(1, -DECODE_SHIFT);
  worker_project(engine, weights, k, half_norm, log_weight);
  for (int64_t r = 0; r < engine->shape.features; r++) {
    int32_t exponent = (int32_t)rint(log_weight[r]);
    double *s = state->s + r * width, keep = 1;
    if (exponent > state->exponent[r]) {
      keep = state->exponent[r] == BINNED_NONE ? 0 : ldexp(1, state->exponent[r] - exponent);
      state->exponent[r] = exponent;
    }
    double weight = exp2(log_weight[r] - state->exponent[r]);
    for (int64_t e = 0; e < width; e++) s[e] = s[e] * keep + weight * (real_at(engine, v, e) * down);
    state->z[r] = state->z[r] * keep + weight;
  }
}

void decode_read(const struct engine *engine, const struct head_weights *weights, const void *q,
                 const struct decode_state *state, double *log_weight, double *sum, void *out) {
  int64_t width = engine->shape.value_width, features = engine->shape.features;
  double highest = -INFINITY, total = 0;
  worker_project(engine, weights, q, 0, log_weight);
  for (int64_t r = 0; r < features; r++) {
    log_weight[r] += state->exponent[r];
    highest = fmax(highest, log_weight[r]);
  }
  for (int64_t e = 0; e < width; e++) sum[e] = 0;
  for (int64_t r = 0; r < features; r++) {
    double weight = exp2(log_weight[r] - highest);
    const double *s = state->s + r * width;
    total += weight * state->z[r];
    for (int64_t e = 0; e < width; e++) sum[e] += weight * s[e];
  }
  /* A mean of finite values is finite: only rounding could pass the largest number. */
  const double most = engine->precision == FAVOR_PRECISION_F64 ? DBL_MAX : FLT_MAX, up = ldexp(1, DECODE_SHIFT);
  for (int64_t e = 0; e < width; e++) set_real(engine, out, e, fmin(fmax(sum[e] / total * up, -most), most));
}

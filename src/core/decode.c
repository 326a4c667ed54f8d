#include "core/decode.h"

void decode_take(const struct engine *engine, const struct head_weights *weights, const void *k, double half_norm,
                 const void *v, const struct decode_features *features, struct decode_state *state) {
  int64_t width = engine->shape.value_width;
  const double down = ldexp(1, -DECODE_SHIFT);
  worker_features(engine, weights, k, false, half_norm, features->fraction, features->exponent);
  for (int64_t r = 0; r < engine->shape.features; r++) {
    int32_t exponent = features->exponent[r];
    double *s = state->s + r * width, keep = 1;
    if (exponent > state->exponent[r]) {
      keep = state->exponent[r] == BINNED_NONE ? 0 : scaled_by(1, (int64_t)state->exponent[r] - exponent);
      state->exponent[r] = exponent;
    }
    double weight = scaled_by(features->fraction[r], (int64_t)exponent - state->exponent[r]);
    for (int64_t e = 0; e < width; e++) s[e] = s[e] * keep + weight * (real_at(engine, v, e) * down);
    state->z[r] = state->z[r] * keep + weight;
  }
}

void decode_read(const struct engine *engine, const struct head_weights *weights, const void *q, double half_norm,
                 const struct decode_state *state, const struct decode_features *features, double *sum, void *out) {
  int64_t width = engine->shape.value_width, m = engine->shape.features, highest = INT64_MIN;
  double total = 0;
  worker_features(engine, weights, q, true, half_norm, features->fraction, features->exponent);
  for (int64_t r = 0; r < m; r++) {
    int64_t n = (int64_t)features->exponent[r] + state->exponent[r];
    highest = n > highest ? n : highest;
  }
  for (int64_t e = 0; e < width; e++) sum[e] = 0;
  for (int64_t r = 0; r < m; r++) {
    int64_t n = (int64_t)features->exponent[r] + state->exponent[r];
    double weight = scaled_by(features->fraction[r], n - highest);
    const double *s = state->s + r * width;
    total += weight * state->z[r];
    for (int64_t e = 0; e < width; e++) sum[e] += weight * s[e];
  }
  total = worker_guarded(engine, weights, features->fraction, features->exponent, total, highest);
  const double up = ldexp(1, DECODE_SHIFT);
  for (int64_t e = 0; e < width; e++) set_real(engine, out, e, total == 0 ? 0 : sum[e] / total * up);
}

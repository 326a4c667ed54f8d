/* Part of body.h: W as products take it. */

/* W in panels as wide as the blocks of vectors_at, [panel][D, pairs][direction], zeros past the last direction, or what
 * body_hadamard.h packs; then this. */
struct NAME(weights_end) {
  REAL factor;  /* of tokens, 1 where W has it */
  REAL is_long; /* 1 where exponents may be long */
};

INLINE const FACTOR *NAME(weights_at)(const struct kernel_job *job, int64_t direction) {
  return (const FACTOR *)job->weights + direction * NAME(factors_of)(job->shape->key_width);
}

#ifndef PAIRS
/* body_hadamard.h */
static int64_t NAME(hadamard_count)(const struct kernel_shape *shape);
static void NAME(pack_hadamard)(const struct kernel_shape *shape, const struct kernel_projection *projection,
                                double factor, REAL *packed);
#endif

/* Factors. */
static int64_t NAME(weights_count)(const struct kernel_shape *shape) {
#ifndef PAIRS
  if (shape->hadamard_width > 0) return NAME(hadamard_count)(shape);
#endif
  return NAME(round_up)(shape->directions, LANES) * NAME(factors_of)(shape->key_width);
}

static size_t NAME(weights_bytes)(const struct kernel_shape *shape) {
  return (size_t)NAME(weights_count)(shape) * sizeof(FACTOR) + sizeof(struct NAME(weights_end));
}

INLINE struct NAME(weights_end) NAME(weights_end)(const struct kernel_job *job) {
  struct NAME(weights_end) end;
  memcpy(&end, (const FACTOR *)job->weights + NAME(weights_count)(job->shape), sizeof end);
  return end;
}

static bool NAME(has_long)(const struct kernel_job *job) { return NAME(weights_end)(job).is_long != 0; }

static void NAME(pack_dense)(const struct kernel_shape *shape, const double *w, double factor, FACTOR *next) {
  int64_t m = shape->directions, width = shape->key_width;
  for (int64_t at = 0, n; at < m; at += n) {
    n = NAME(vectors_at)(m, at) * LANES;
    for (int64_t d = 0; d < width; d += PAIR) {
      for (int64_t r = at; r < at + n; r++)
        *next++ = r < m ? NAME(weight_factor)(width - d, w + r * width + d, factor) : 0;
    }
  }
}

static void NAME(pack_weights)(const struct kernel_shape *shape, const struct kernel_projection *projection,
                               double factor, void *weights) {
  int64_t m = shape->directions, width = shape->key_width;
  const double *w = projection->w;
  double longest2 = 0;
#ifndef PAIRS
  if (shape->hadamard_width > 0)
    NAME(pack_hadamard)(shape, projection, factor, weights);
  else
#endif
    NAME(pack_dense)(shape, w, factor, weights);
  for (int64_t r = 0; r < m; r++) {
    double norm2 = 0;
    for (int64_t d = 0; d < width; d++) norm2 += w[r * width + d] * w[r * width + d];
    longest2 = norm2 > longest2 ? norm2 : longest2;
  }
  struct NAME(weights_end) end = {.factor = NAME(token_factor)(factor),
                                  .is_long = 1.01 * sqrt(longest2) * LONGEST_TOKEN + 1 > LONGEST_EXPONENT};
  memcpy((FACTOR *)weights + NAME(weights_count)(shape), &end, sizeof end);
}

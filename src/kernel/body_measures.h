/* Part of body.h: what core asks of tokens before it lets them in. */

/* |x_i|^2 of n_rows rows. */
INLINE void NAME(norms_of)(const int n_rows, int64_t width, const REAL *x, int64_t stride, double *norm2) {
  WIDE sums[NORM_ROWS];
  int64_t whole = width / WIDE_LANES * WIDE_LANES;
  UNROLL for (int i = 0; i < n_rows; i++) sums[i] = (WIDE){0};
  for (int64_t d = 0; d < whole; d += WIDE_LANES) {
    UNROLL for (int i = 0; i < n_rows; i++) {
      WIDE part = NAME(widen)(x + i * stride + d);
      sums[i] = wide_fused(part, part, sums[i]);
    }
  }
  UNROLL for (int i = 0; i < n_rows; i++) {
    double sum = wide_total(sums[i]);
    for (int64_t d = whole; d < width; d++) sum += (double)x[i * stride + d] * (double)x[i * stride + d];
    norm2[i] = sum;
  }
}

static void NAME(norms)(int64_t n, int64_t width, const void *x, int64_t stride, double *norm2) {
  const REAL *rows = x;
  int64_t i = 0;
  for (; i + NORM_ROWS <= n; i += NORM_ROWS) NAME(norms_of)(NORM_ROWS, width, rows + i * stride, stride, norm2 + i);
  for (; i < n; i++) NAME(norms_of)(1, width, rows + i * stride, stride, norm2 + i);
}

/* Columns [at, at + n_vectors vectors) of NAME(peaks), all of them there or not. */
INLINE void NAME(peaks_of)(const bool is_whole, const int n_vectors, int64_t n, int64_t n_columns, const REAL *x,
                           int64_t stride, REAL *peak) {
  const INTS no_sign = NAME(splat_int)((INT)((REAL_BITS) ~(REAL_BITS)0 >> 1));
  INTS highest[COLUMNS];
  UNROLL for (int c = 0; c < n_vectors; c++) {
    highest[c] = (INTS)NAME(load_first)(peak + c * LANES, n_columns - c * LANES);
  }
  for (int64_t i = 0; i < n; i++) {
    UNROLL for (int c = 0; c < n_vectors; c++) {
      const REAL *from = x + i * stride + c * LANES;
      VEC row = is_whole ? NAME(load)(from) : NAME(load_first)(from, n_columns - c * LANES);
      highest[c] = NAME(larger)(highest[c], (INTS)row & no_sign);
    }
  }
  UNROLL for (int c = 0; c < n_vectors; c++) {
    NAME(store_first)(peak + c * LANES, n_columns - c * LANES, (VEC)highest[c]);
  }
}

static void NAME(peaks)(int64_t n, int64_t width, const void *x, int64_t stride, void *peak) {
  for (int64_t at = 0, n_vectors; at < width; at += n_vectors * LANES) {
    n_vectors = NAME(vectors_at)(width, at);
    const REAL *columns = (const REAL *)x + at;
    REAL *peaks = (REAL *)peak + at;
    if (width - at >= n_vectors * LANES) {
      FOR_VECTORS(n_vectors, NAME(peaks_of)(true, N_VECTORS, n, width - at, columns, stride, peaks));
    } else {
      FOR_VECTORS(n_vectors, NAME(peaks_of)(false, N_VECTORS, n, width - at, columns, stride, peaks));
    }
  }
}

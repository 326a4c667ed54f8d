/* Sums of rows with signs. The including file defines REAL and NAME(x). Signs are exact and sums go token by token, so
 * bits do not depend on how wide vectors are. */

/* sum[r][e] = sum_j sign[r][j] x[j][e]; r in [0, LINFORMER_BLOCK_ROWS), j in [0, n), e in [0, width), width a multiple
 * of LANES. */
VECTORS static void NAME(sum_signed)(int64_t n, int64_t width, const REAL *restrict sign, const REAL *restrict x,
                                     REAL *restrict sum) {
  enum { GROUP = 4 };
  for (int64_t first = 0; first < width; first += LANES) {
    for (int64_t r = 0; r < LINFORMER_BLOCK_ROWS; r += GROUP) {
      REAL a[LANES] = {0}, b[LANES] = {0}, c[LANES] = {0}, d[LANES] = {0};
      const REAL *s = sign + r * LINFORMER_TILE;
      for (int64_t j = 0; j < n; j++) {
        const REAL *row = x + j * width + first;
        for (int e = 0; e < LANES; e++) {
          a[e] += s[j] * row[e];
          b[e] += s[LINFORMER_TILE + j] * row[e];
          c[e] += s[2 * LINFORMER_TILE + j] * row[e];
          d[e] += s[3 * LINFORMER_TILE + j] * row[e];
        }
      }
      REAL *to = sum + r * width + first;
      memcpy(to, a, sizeof a);
      memcpy(to + width, b, sizeof b);
      memcpy(to + 2 * width, c, sizeof c);
      memcpy(to + 3 * width, d, sizeof d);
    }
  }
}

/* sign[r][j] of bit r of bits[j]. */
VECTORS static void NAME(spread_signs)(int64_t n, const uint64_t *restrict bits, REAL *restrict sign) {
  for (int64_t r = 0; r < LINFORMER_BLOCK_ROWS; r++) {
    for (int64_t j = 0; j < n; j++) sign[r * LINFORMER_TILE + j] = bits[j] >> r & 1 ? -1 : 1;
  }
}

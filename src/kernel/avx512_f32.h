/* Vectors of 512 bits as body.h wants them: of float, and of double for norms. */
typedef double wide __attribute__((vector_size(64)));
#define WIDE wide
#define WIDE_LANES 8
INLINE double wide_total(wide a) { return _mm512_reduce_add_pd(a); }

INLINE wide wide_fused(wide a, wide b, wide c) { return _mm512_fmadd_pd(a, b, c); }

typedef float vec_f32 __attribute__((vector_size(64)));
typedef int32_t ints_f32 __attribute__((vector_size(64)));

INLINE vec_f32 splat_f32(float x) { return _mm512_set1_ps(x); }
INLINE vec_f32 fused_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE __mmask16 first_f32(int64_t n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }
INLINE vec_f32 load_first_f32(const float *x, int64_t n) { return _mm512_maskz_loadu_ps(first_f32(n), x); }
INLINE void store_first_f32(float *x, int64_t n, vec_f32 v) { _mm512_mask_storeu_ps(x, first_f32(n), v); }
INLINE ints_f32 load_exponents_f32(const int32_t *x, int64_t n, int32_t rest) {
  return (ints_f32)_mm512_mask_loadu_epi32(_mm512_set1_epi32(rest), first_f32(n), x);
}
INLINE void store_exponents_f32(int32_t *x, int64_t n, ints_f32 v) {
  _mm512_mask_storeu_epi32(x, first_f32(n), (__m512i)v);
}
INLINE ints_f32 larger_f32(ints_f32 a, ints_f32 b) { return (ints_f32)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE int32_t largest_f32(ints_f32 a) { return _mm512_reduce_max_epi32((__m512i)a); }
INLINE float total_f32(vec_f32 a) { return _mm512_reduce_add_ps(a); }
INLINE wide widen_f32(const float *x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }
INLINE ints_f32 to_ints_f32(vec_f32 a) { return (ints_f32)_mm512_cvtps_epi32(a); }
INLINE vec_f32 first_of_f32(vec_f32 v, int64_t n) { return _mm512_maskz_mov_ps(first_f32(n), v); }
INLINE vec_f32 zip_low_f32(vec_f32 a, vec_f32 b) {
  const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(a, order, b);
}
INLINE vec_f32 zip_high_f32(vec_f32 a, vec_f32 b) {
  const __m512i order = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return _mm512_permutex2var_ps(a, order, b);
}

/* Pairs and quads of rows within the quarters of a vector first, as many cores do that in more units than they have for
 * shuffles across the whole of it; then the quarters. */
INLINE void transpose_f32(vec_f32 square[16]) {
  __m512 pair[16], quad[16], half[16];
  UNROLL for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_ps(square[i], square[i + 1]);
    pair[i + 1] = _mm512_unpackhi_ps(square[i], square[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) {
    UNROLL for (int high = 0; high < 2; high++) {
      __m512d a = _mm512_castps_pd(pair[i + high]), b = _mm512_castps_pd(pair[i + high + 2]);
      quad[i + 2 * high] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      quad[i + 2 * high + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  enum { EVEN = 0x88, ODD = 0xdd }; /* quarters 0 and 2 of both vectors, or 1 and 3 */
  UNROLL for (int i = 0; i < 4; i++) {
    UNROLL for (int at = 0; at < 16; at += 8) {
      half[at + i] = _mm512_shuffle_f32x4(quad[at + i], quad[at + i + 4], EVEN);
      half[at + i + 4] = _mm512_shuffle_f32x4(quad[at + i], quad[at + i + 4], ODD);
    }
  }
  UNROLL for (int i = 0; i < 8; i++) {
    square[i] = _mm512_shuffle_f32x4(half[i], half[i + 8], EVEN);
    square[i + 8] = _mm512_shuffle_f32x4(half[i], half[i + 8], ODD);
  }
}

#define HAS_TRANSPOSE

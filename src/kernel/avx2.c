/* Vectors of 256 bits: AVX2 and FMA, with 16 registers; f32 alone. */
#if defined(__x86_64__)
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#pragma GCC optimize("O3")

/* A block's 12 accumulators, a row of 2 and a factor are 15 of the 16 registers. */
enum { ROWS = 6, NORM_ROWS = 4, TILE = 96, CAUSAL_TILE = 48, MAX_PARTS = 4, RUN_TILES = 16 };
#define COLUMNS 2
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef double wide __attribute__((vector_size(32)));
#define WIDE wide
#define WIDE_LANES 4
INLINE double wide_total(wide a) {
  __m128d pair = _mm256_castpd256_pd128(a) + _mm256_extractf128_pd(a, 1);
  return pair[0] + pair[1];
}

INLINE wide wide_fused(wide a, wide b, wide c) { return _mm256_fmadd_pd(a, b, c); }

typedef float vec_f32 __attribute__((vector_size(32)));
typedef int32_t ints_f32 __attribute__((vector_size(32)));

INLINE vec_f32 splat_f32(float x) { return _mm256_set1_ps(x); }
INLINE vec_f32 fused_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fmadd_ps(a, b, c); }
/* All ones in the first n lanes. Masked loads and stores do not touch the others' memory. */
INLINE __m256i first_f32(int64_t n) {
  int32_t count = (int32_t)(n >= 8 ? 8 : n <= 0 ? 0 : n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec_f32 load_first_f32(const float *x, int64_t n) { return _mm256_maskload_ps(x, first_f32(n)); }
INLINE void store_first_f32(float *x, int64_t n, vec_f32 v) { _mm256_maskstore_ps(x, first_f32(n), v); }
INLINE ints_f32 load_exponents_f32(const int32_t *x, int64_t n, int32_t rest) {
  __m256i is_first = first_f32(n);
  return (ints_f32)_mm256_blendv_epi8(_mm256_set1_epi32(rest), _mm256_maskload_epi32(x, is_first), is_first);
}
INLINE void store_exponents_f32(int32_t *x, int64_t n, ints_f32 v) {
  _mm256_maskstore_epi32(x, first_f32(n), (__m256i)v);
}
INLINE ints_f32 larger_f32(ints_f32 a, ints_f32 b) { return (ints_f32)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE int32_t largest_f32(ints_f32 a) {
  __m128i v = _mm_max_epi32(_mm256_castsi256_si128((__m256i)a), _mm256_extracti128_si256((__m256i)a, 1));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(1, 0, 3, 2)));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(2, 3, 0, 1)));
  return _mm_cvtsi128_si32(v);
}
INLINE float total_f32(vec_f32 a) {
  __m128 v = _mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1);
  v += _mm_movehl_ps(v, v);
  return v[0] + v[1];
}
INLINE wide widen_f32(const float *x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
INLINE vec_f32 nearest_f32(vec_f32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE ints_f32 to_ints_f32(vec_f32 a) { return (ints_f32)_mm256_cvtps_epi32(a); }
INLINE vec_f32 scaled_f32(vec_f32 x, ints_f32 e) { return (vec_f32)(((ints_f32)x + (e << 23)) & (e > -126)); }

INLINE vec_f32 first_of_f32(vec_f32 v, int64_t n) { return _mm256_and_ps(v, (vec_f32)first_f32(n)); }
INLINE vec_f32 zip_low_f32(vec_f32 a, vec_f32 b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
INLINE vec_f32 zip_high_f32(vec_f32 a, vec_f32 b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

#define LANES 8
#define VEC vec_f32
#define INTS ints_f32
#define INT int32_t
#define TABLE_BITS 0
#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#include "kernel/body.h"
#undef NAME

#pragma GCC pop_options

static bool is_supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#define NAME_F32(x) x##_f32
const struct kernel kernel_avx2 = {
    .name = "avx2",
    .is_supported = is_supported,
    .tile_tokens = TILE,
    .causal_tokens = CAUSAL_TILE,
    .run_tiles = RUN_TILES,
    .real = {KERNEL_OPS(NAME_F32)},
};
#endif

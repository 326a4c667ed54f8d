/* Vectors of 512 bits: AVX-512 F, BW, DQ and VL, with 32 registers. */
#if defined(__x86_64__)
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#pragma GCC optimize("O3")

/* A block's 24 accumulators, a row of 4 and a factor are 29 of the 32 registers. */
enum { ROWS = 6, NORM_ROWS = 4, TILE = 96, CAUSAL_TILE = 48, MAX_PARTS = 4, RUN_TILES = 16 };
#define COLUMNS 4
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#include "kernel/avx512_f32.h"

INLINE vec_f32 nearest_f32(vec_f32 a) { return _mm512_roundscale_ps(a, 5 << 4 | _MM_FROUND_TO_NEAREST_INT); }
/* Without comparisons: some cores make masks in the units of multiplication. */
INLINE vec_f32 scaled_f32(vec_f32 x, ints_f32 e) {
  __m512i is_low = _mm512_srai_epi32(_mm512_add_epi32((__m512i)e, _mm512_set1_epi32(125)), 31);
  return (vec_f32)_mm512_andnot_epi32(is_low, _mm512_add_epi32((__m512i)x, _mm512_slli_epi32((__m512i)e, 23)));
}
/* 2^(i/32). */
static const float powers_f32[32] = {
    0x1p0f,        0x1.059b0ep0f, 0x1.0b5586p0f, 0x1.11301ep0f, 0x1.172b84p0f, 0x1.1d4874p0f, 0x1.2387a6p0f,
    0x1.29e9ep0f,  0x1.306fep0f,  0x1.371a74p0f, 0x1.3dea64p0f, 0x1.44e086p0f, 0x1.4bfdaep0f, 0x1.5342b6p0f,
    0x1.5ab07ep0f, 0x1.6247ecp0f, 0x1.6a09e6p0f, 0x1.71f75ep0f, 0x1.7a1148p0f, 0x1.82589ap0f, 0x1.8ace54p0f,
    0x1.93737cp0f, 0x1.9c4918p0f, 0x1.a5503cp0f, 0x1.ae89fap0f, 0x1.b7f77p0f,  0x1.c199bep0f, 0x1.cb720ep0f,
    0x1.d5818ep0f, 0x1.dfc974p0f, 0x1.ea4afap0f, 0x1.f50766p0f};
INLINE vec_f32 look_up_f32(ints_f32 i) {
  return _mm512_permutex2var_ps(_mm512_loadu_ps(powers_f32), (__m512i)i, _mm512_loadu_ps(powers_f32 + 16));
}

#define LANES 16
#define VEC vec_f32
#define INTS ints_f32
#define INT int32_t
/* With |x| <= 1/64: 2^x = 1 + x (TABLE_FIRST + TABLE_SECOND x), the series' third term economised (Chebyshev): relative
 * error 5.4e-8, none at 0. */
#define TABLE_BITS 5
#define TABLE_FIRST 0x1.62e584p-1f
#define TABLE_SECOND 0x1.ebfd1cp-3f
#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#include "kernel/body.h"
#undef NAME

#undef LANES
#undef VEC
#undef INTS
#undef INT
#undef TABLE_BITS
#undef HAS_TRANSPOSE

typedef double vec_f64 __attribute__((vector_size(64)));
typedef int64_t ints_f64 __attribute__((vector_size(64)));

INLINE vec_f64 splat_f64(double x) { return _mm512_set1_pd(x); }
INLINE vec_f64 fused_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fmadd_pd(a, b, c); }
INLINE __mmask8 first_f64(int64_t n) { return (__mmask8)(n >= 8 ? 0xff : n <= 0 ? 0 : (1 << n) - 1); }
INLINE vec_f64 first_of_f64(vec_f64 v, int64_t n) { return _mm512_maskz_mov_pd(first_f64(n), v); }
INLINE vec_f64 load_first_f64(const double *x, int64_t n) { return _mm512_maskz_loadu_pd(first_f64(n), x); }
INLINE void store_first_f64(double *x, int64_t n, vec_f64 v) { _mm512_mask_storeu_pd(x, first_f64(n), v); }
INLINE ints_f64 load_exponents_f64(const int32_t *x, int64_t n, int64_t rest) {
  __m256i narrow = _mm256_mask_loadu_epi32(_mm256_set1_epi32((int32_t)rest), first_f64(n), x);
  return (ints_f64)_mm512_cvtepi32_epi64(narrow);
}
INLINE void store_exponents_f64(int32_t *x, int64_t n, ints_f64 v) {
  _mm256_mask_storeu_epi32(x, first_f64(n), _mm512_cvtepi64_epi32((__m512i)v));
}
INLINE ints_f64 larger_f64(ints_f64 a, ints_f64 b) { return (ints_f64)_mm512_max_epi64((__m512i)a, (__m512i)b); }
INLINE int64_t largest_f64(ints_f64 a) { return _mm512_reduce_max_epi64((__m512i)a); }
INLINE double total_f64(vec_f64 a) { return _mm512_reduce_add_pd(a); }
INLINE wide widen_f64(const double *x) { return _mm512_loadu_pd(x); }
INLINE vec_f64 nearest_f64(vec_f64 a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE ints_f64 to_ints_f64(vec_f64 a) { return (ints_f64)_mm512_cvtpd_epi64(a); }
INLINE vec_f64 scaled_f64(vec_f64 x, ints_f64 e) {
  __mmask8 is_normal = _mm512_cmpgt_epi64_mask((__m512i)e, _mm512_set1_epi64(-1022));
  return (vec_f64)_mm512_maskz_add_epi64(is_normal, (__m512i)x, _mm512_slli_epi64((__m512i)e, 52));
}
INLINE vec_f64 zip_low_f64(vec_f64 a, vec_f64 b) {
  return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b);
}
INLINE vec_f64 zip_high_f64(vec_f64 a, vec_f64 b) {
  return _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b);
}

#define LANES 8
#define VEC vec_f64
#define INTS ints_f64
#define INT int64_t
#define TABLE_BITS 0
#include "kernel/real_f64.h"
#define NAME(x) x##_f64
#include "kernel/body.h"
#undef NAME

#pragma GCC pop_options

static bool is_supported(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#define NAME_F32(x) x##_f32
#define NAME_F64(x) x##_f64
const struct kernel kernel_avx512 = {
    .name = "avx512",
    .is_supported = is_supported,
    .tile_tokens = TILE,
    .causal_tokens = CAUSAL_TILE,
    .run_tiles = RUN_TILES,
    .real = {KERNEL_OPS(NAME_F32), KERNEL_OPS(NAME_F64)},
};
#endif

/* Vectors of 512 bits whose products are of pairs of bfloat16, added in f32: AVX-512 BF16 besides what avx512.c takes.
 */
#if defined(__x86_64__)
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include <favor/favor.h>

#include "kernel/kernel.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#pragma GCC optimize("O3")

/* Registers as in avx512.c. Products take half the time there, and so a tile, at whose end S is read and written, is
 * twice as long, and a run, at whose end sums enter the state: 1,536 keys, whose sum in f32 has bits to spare here. */
enum { ROWS = 6, NORM_ROWS = 4, TILE = 192, CAUSAL_TILE = 48, MAX_PARTS = 4, RUN_TILES = 8 };
#define COLUMNS 4
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#include "kernel/avx512_f32.h"

INLINE vec_f32 nearest_f32(vec_f32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }

/* Below the normal range it is what is taken for 0 where it is rounded. A comparison would occupy the units that
 * products need; these do not. */
INLINE vec_f32 scaled_f32(vec_f32 x, ints_f32 e) { return _mm512_scalef_ps(x, _mm512_cvtepi32_ps((__m512i)e)); }

INLINE vec_f32 product_f32(ints_f32 a, ints_f32 b, vec_f32 sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
INLINE ints_f32 join_neighbours_f32(vec_f32 first, vec_f32 second) {
  return (ints_f32)_mm512_cvtne2ps_pbh(second, first);
}
INLINE ints_f32 join_lanes_f32(vec_f32 low, vec_f32 high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (ints_f32)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
INLINE int32_t pair_of_f32(float low, float high) {
  return _mm_cvtsi128_si32((__m128i)_mm_cvtneps_pbh(_mm_setr_ps(low, high, 0, 0)));
}
INLINE ints_f32 load_pairs_f32(const int32_t *x, int64_t n) {
  return (ints_f32)_mm512_maskz_loadu_epi32(first_f32(n), x);
}
INLINE void store_pairs_f32(int32_t *x, int64_t n, ints_f32 v) {
  _mm512_mask_storeu_epi32(x, first_f32(n), (__m512i)v);
}

INLINE void store_numbers_f32(uint16_t *x, int64_t n, vec_f32 v) {
  _mm256_mask_storeu_epi16(x, first_f32(n), (__m256i)_mm512_cvtneps_pbh(v));
}

#define LANES 16
#define VEC vec_f32
#define INTS ints_f32
#define INT int32_t
#define PAIRS
#define TABLE_BITS 0
#include "kernel/real_f32.h"
/* 2^x as there, but minimax with a largest relative error of 1.02e-4: features are rounded to within 2^-8. */
#undef EXP2_COEFFICIENTS
#define EXP2_COEFFICIENTS 0x1.c2a216p-5f, 0x1.f00c4ep-3f, 0x1.62f5fap-1f
#define NAME(x) x##_f32
#include "kernel/body.h"
#undef NAME

#pragma GCC pop_options

static bool is_supported(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bf16");
}
#define NAME_F32(x) x##_f32
const struct kernel kernel_avx512bf16 = {
    .name = "avx512bf16",
    .is_supported = is_supported,
    .tile_tokens = TILE,
    .causal_tokens = CAUSAL_TILE,
    .run_tiles = RUN_TILES,
    .real = {[FAVOR_PRECISION_BF16] = KERNEL_OPS(NAME_F32)},
};
#endif

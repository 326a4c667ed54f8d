#include "io/half.h"

#include <math.h>
#include <string.h>

/* The method for binary16 is F. Giesen's (half_to_float_fast5 and float_to_half_fast3_rtne, public domain): shift the
 * fields into place and let one floating-point addition normalise or round the subnormals. */

enum {
  SIGN = 0x8000,
  HALF_INFINITY = 0x7c00,
  HALF_QUIET = 0x0200,
  HALF_SHIFT = 23 - 10, /* between the mantissas of binary32 and binary16 */
  BFLOAT_INFINITY = 0x7f80,
  BFLOAT_QUIET = 0x0040,
  BFLOAT_SHIFT = 16
};
#define FLOAT_SIGN UINT32_C(0x80000000)
#define FLOAT_INFINITY UINT32_C(0x7f800000)
#define FLOAT_EXPONENT_ONE UINT32_C(0x00800000) /* 1 in the exponent field */

static inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

/* Both are computed: a choice by ?: becomes a branch around a floating-point addition, which no compiler may remove. */
static inline uint32_t choose(bool condition, uint32_t yes, uint32_t no) {
  uint32_t mask = (uint32_t)0 - (uint32_t)condition;
  return (yes & mask) | (no & ~mask);
}

static inline float float_of_half(uint16_t half) {
  const uint32_t exponent_mask = (uint32_t)HALF_INFINITY << HALF_SHIFT;
  const uint32_t smallest_normal = 113 * FLOAT_EXPONENT_ONE; /* 2^-14 */
  uint32_t bits = (uint32_t)(half & 0x7fff) << HALF_SHIFT;
  uint32_t exponent = bits & exponent_mask;
  bits += (127 - 15) * FLOAT_EXPONENT_ONE;
  uint32_t special = bits + (128 - 16) * FLOAT_EXPONENT_ONE;
  uint32_t subnormal = bits_of(float_of(bits + FLOAT_EXPONENT_ONE) - float_of(smallest_normal));
  bits = choose(exponent == exponent_mask, special, bits);
  bits = choose(exponent == 0, subnormal, bits);
  return float_of(bits | (uint32_t)(half & SIGN) << 16);
}

static inline uint16_t half_of_bits(uint32_t signed_bits) {
  const uint32_t above_range = (127 + 16) * FLOAT_EXPONENT_ONE;  /* 2^16 */
  const uint32_t smallest_normal = 113 * FLOAT_EXPONENT_ONE;     /* 2^-14 */
  const uint32_t rounder = (127 - 15 + 14) * FLOAT_EXPONENT_ONE; /* 1/2: its last bit is worth 2^-24 */
  const uint32_t rebias = (uint32_t)0 - (127 - 15) * FLOAT_EXPONENT_ONE;
  uint32_t bits = signed_bits & ~FLOAT_SIGN;
  uint32_t nan = HALF_INFINITY | HALF_QUIET | ((bits >> HALF_SHIFT) & 0x3ff);
  uint32_t subnormal = bits_of(float_of(bits) + float_of(rounder)) - rounder;
  uint32_t is_odd = (bits >> HALF_SHIFT) & 1;
  uint32_t half = (bits + rebias + 0xfff + is_odd) >> HALF_SHIFT;
  half = choose(bits < smallest_normal, subnormal, half);
  half = choose(bits >= above_range, HALF_INFINITY, half);
  half = choose(bits > FLOAT_INFINITY, nan, half);
  return (uint16_t)(half | (signed_bits >> 16 & SIGN));
}

static inline uint16_t bfloat_of_bits(uint32_t bits) {
  uint32_t nan = bits >> BFLOAT_SHIFT | BFLOAT_QUIET;
  uint32_t rounded = (bits + 0x7fff + (bits >> BFLOAT_SHIFT & 1)) >> BFLOAT_SHIFT;
  return (uint16_t)choose((bits & ~FLOAT_SIGN) > FLOAT_INFINITY, nan, rounded);
}

/* The double rounded to odd: what is inexact is cut towards zero and gets an odd last bit. A second rounding, to fewer
 * bits by at least two, then gives what one rounding would have given (Boldo and Melquiond, "Emulation of FMA and
 * correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 2008). */
static inline uint32_t odd_bits_of(double x) {
  float nearest = (float)x;
  uint32_t bits = bits_of(nearest);
  uint32_t is_inexact = (double)nearest != x; /* and where x is NaN, whose last bit means nothing */
  uint32_t is_larger = fabs((double)nearest) > fabs(x);
  return (bits - is_larger) | is_inexact;
}

/* Is the rounded number infinite although the number was finite? */
static inline uint32_t became_infinite(uint32_t bits, uint16_t rounded, uint32_t infinity) {
  return ((bits & ~FLOAT_SIGN) < FLOAT_INFINITY) & ((rounded & 0x7fffu) == infinity);
}

/* On x86-64 GCC compiles each loop twice, and the loader picks what the machine can run; the bits are the same. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define FOR_EVERY_VECTOR_WIDTH __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_VECTOR_WIDTH
#endif

FOR_EVERY_VECTOR_WIDTH void half_to_float(int64_t n, const uint16_t *restrict from, float *restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = float_of_half(from[i]);
}

FOR_EVERY_VECTOR_WIDTH void half_to_double(int64_t n, const uint16_t *restrict from, double *restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = (double)float_of_half(from[i]);
}

FOR_EVERY_VECTOR_WIDTH void bfloat_to_float(int64_t n, const uint16_t *restrict from, float *restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = float_of((uint32_t)from[i] << BFLOAT_SHIFT);
}

FOR_EVERY_VECTOR_WIDTH void bfloat_to_double(int64_t n, const uint16_t *restrict from, double *restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = (double)float_of((uint32_t)from[i] << BFLOAT_SHIFT);
}

FOR_EVERY_VECTOR_WIDTH bool half_from_float(int64_t n, const float *restrict from, uint16_t *restrict to) {
  uint32_t overflow = 0;
#pragma omp simd reduction(| : overflow)
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = bits_of(from[i]);
    to[i] = half_of_bits(bits);
    overflow |= became_infinite(bits, to[i], HALF_INFINITY);
  }
  return overflow == 0;
}

FOR_EVERY_VECTOR_WIDTH bool half_from_double(int64_t n, const double *restrict from, uint16_t *restrict to) {
  uint32_t overflow = 0;
#pragma omp simd reduction(| : overflow)
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = odd_bits_of(from[i]);
    to[i] = half_of_bits(bits);
    overflow |= became_infinite(bits, to[i], HALF_INFINITY);
  }
  return overflow == 0;
}

FOR_EVERY_VECTOR_WIDTH bool bfloat_from_float(int64_t n, const float *restrict from, uint16_t *restrict to) {
  uint32_t overflow = 0;
#pragma omp simd reduction(| : overflow)
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = bits_of(from[i]);
    to[i] = bfloat_of_bits(bits);
    overflow |= became_infinite(bits, to[i], BFLOAT_INFINITY);
  }
  return overflow == 0;
}

FOR_EVERY_VECTOR_WIDTH bool bfloat_from_double(int64_t n, const double *restrict from, uint16_t *restrict to) {
  uint32_t overflow = 0;
#pragma omp simd reduction(| : overflow)
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = odd_bits_of(from[i]);
    to[i] = bfloat_of_bits(bits);
    overflow |= became_infinite(bits, to[i], BFLOAT_INFINITY);
  }
  return overflow == 0;
}

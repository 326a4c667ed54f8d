/* float, for kernel/tile_body.h. */
#undef REAL
#undef REAL_BITS
#undef REAL_MANTISSA_BITS
#undef REAL_BIAS
#undef REAL_MAX
#undef REAL_MAP
#define REAL float
#define REAL_BITS uint32_t
#define REAL_MANTISSA_BITS 23
#define REAL_BIAS 127
#define REAL_MAP f32
#define REAL_MAX FLT_MAX
/* 2^x on [-1/2, 1/2] as 1 + x p(x), p interpolating (2^x - 1) / x at the Chebyshev nodes, highest power first: 1 exactly
 * at 0. Largest relative error 5.1e-9. */
#undef EXP2_COEFFICIENTS
#define EXP2_COEFFICIENTS                                                                                              \
  0x1.44138ap-13f, 0x1.5f0890p-10f, 0x1.3b2a54p-7f, 0x1.c6af6cp-5f, 0x1.ebfbe0p-3f, 0x1.62e430p-1f

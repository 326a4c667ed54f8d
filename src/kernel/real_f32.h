/* float, for kernel/tile_body.h. */
#undef REAL
#undef REAL_BITS
#undef REAL_MANTISSA_BITS
#undef REAL_BIAS
#undef REAL_MAX
#define REAL float
#define REAL_BITS uint32_t
#define REAL_MANTISSA_BITS 23
#define REAL_BIAS 127
#define REAL_MAX FLT_MAX

/* double, for kernel/tile_body.h. */
#undef REAL
#undef REAL_BITS
#undef REAL_MANTISSA_BITS
#undef REAL_BIAS
#undef REAL_MAX
#define REAL double
#define REAL_BITS uint64_t
#define REAL_MANTISSA_BITS 52
#define REAL_BIAS 1023
#define REAL_MAX DBL_MAX

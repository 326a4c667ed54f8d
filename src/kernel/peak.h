/* The limit that kernels are held against: the rate of multiply-adds on registers alone, measured, not looked up. */
#ifndef FAVOR_KERNEL_PEAK_H
#define FAVOR_KERNEL_PEAK_H

#include <stdbool.h>

/* In order of speed. The baseline is what every machine of the build's architecture has, with separate multiplications
 * and additions (x86-64: SSE2). BF16 dot products take pairs of 16-bit numbers and add in f32. */
enum peak_isa { PEAK_BASELINE, PEAK_AVX2, PEAK_AVX512, PEAK_AVX512_BF16, PEAK_N_ISAS };

const char *peak_name(enum peak_isa isa);

/* Can this machine run it, in this precision (enum favor_precision)? */
bool peak_is_supported(enum peak_isa isa, int precision);

/* Of one core in GFLOP/s, from a loop of independent multiply-adds that runs for about this long on the calling thread.
 * One sample: the caller repeats it and takes the median. 0 where unsupported. */
double peak_sample(enum peak_isa isa, int precision, double seconds);

#endif

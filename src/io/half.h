/* float16 (IEEE 754 binary16) and bfloat16 (the upper half of a binary32), from and to float and double.
 *
 * Every conversion is exact where it can be and rounds once, to nearest even, where not. NaN stays NaN, keeps its sign
 * and the upper bits of its payload, and becomes quiet when it is narrowed. The loops have no branches, so that
 * compilers turn them into vectors. n >= 0; source and target must not overlap.
 */
#ifndef FAVOR_IO_HALF_H
#define FAVOR_IO_HALF_H

#include <stdbool.h>
#include <stdint.h>

void half_to_float(int64_t n, const uint16_t *from, float *to);
void half_to_double(int64_t n, const uint16_t *from, double *to);
void bfloat_to_float(int64_t n, const uint16_t *from, float *to);
void bfloat_to_double(int64_t n, const uint16_t *from, double *to);

/* Narrowing. False where a finite number became infinite. */
bool half_from_float(int64_t n, const float *from, uint16_t *to);
bool half_from_double(int64_t n, const double *from, uint16_t *to);
bool bfloat_from_float(int64_t n, const float *from, uint16_t *to);
bool bfloat_from_double(int64_t n, const double *from, uint16_t *to);

#endif

/* Arithmetic of the check. */
#ifndef FAVOR_CORE_CHECK_MATH_H
#define FAVOR_CORE_CHECK_MATH_H

#include <stdint.h>

/* y[i] = exp(x[i] - top), where no x is above top; 0 where the result would be subnormal, and of NaN. */
void check_exp_below(const double *x, double top, int64_t n, double *y);

/* -infinity of none. */
double check_largest(const double *x, int64_t n);

void check_scale_copy(const double *x, int64_t n, double factor, double *scaled);

/* An int, as BLAS counts. */
int check_narrow(int64_t n);

/* c [m][n] = a [m][k] b^T, b [n][k] */
void check_multiply_transposed(int64_t m, int64_t n, int64_t k, const double *a, const double *b, double *c,
                               int64_t c_stride);

#endif

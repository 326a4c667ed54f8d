#include "core/check_math.h"

#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/status.h"

/* Where exp() is taken to be 0: rint(x / ln 2) is -1023, as which exp_negative makes a power of two without a bit. */
static const double least_exponent = -709.2;

/* For least_exponent <= x <= 0, to a few units in the last place; 0 where the result would be subnormal.
 * exp(x) = 2^n exp(f), |f| <= ln 2 / 2, by its Taylor series. No branch and no call, so that loops of it are vectors.
 */
static inline double exp_negative(double x) {
  const double log2_e = 0x1.71547652b82fep0, ln2_high = 0x1.62e42fefa39efp-1, ln2_low = 0x1.abc9e3b39803fp-56;
  const double to_integer = 0x1.8p52; /* adding it rounds to an integer, which then stands in the low bits */
  const double sum = x * log2_e + to_integer, n = sum - to_integer;
  const double f = (x - n * ln2_high) - n * ln2_low;
  double p = 1.0 / 6227020800.0;
  p = p * f + 1.0 / 479001600.0;
  p = p * f + 1.0 / 39916800.0;
  p = p * f + 1.0 / 3628800.0;
  p = p * f + 1.0 / 362880.0;
  p = p * f + 1.0 / 40320.0;
  p = p * f + 1.0 / 5040.0;
  p = p * f + 1.0 / 720.0;
  p = p * f + 1.0 / 120.0;
  p = p * f + 1.0 / 24.0;
  p = p * f + 1.0 / 6.0;
  p = p * f + 0.5;
  p = p * f + 1.0;
  p = p * f + 1.0;
  uint64_t bits;
  memcpy(&bits, &sum, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
}

/* Two loops, for in one the compiler makes the bound a branch. */
void check_exp_below(const double *x, double top, int64_t n, double *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const double below = x[i] - top;
    y[i] = below > least_exponent ? below : least_exponent;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = exp_negative(y[i]);
}

double check_largest(const double *x, int64_t n) {
  double top = -INFINITY;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
  return top;
}

int check_narrow(int64_t n) {
  FAVOR_ASSERT(n >= 0 && n <= INT_MAX);
  return (int)n;
}

/* c [m][n] = a [m][k] b^T, b [n][k] */
void check_multiply_transposed(int64_t m, int64_t n, int64_t k, const double *a, const double *b, double *c,
                               int64_t c_stride) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, check_narrow(m), check_narrow(n), check_narrow(k), 1.0, a,
              check_narrow(k), b, check_narrow(k), 0.0, c, check_narrow(c_stride));
}

void check_scale_copy(const double *x, int64_t n, double factor, double *scaled) {
  for (int64_t i = 0; i < n; i++) scaled[i] = x[i] * factor;
}

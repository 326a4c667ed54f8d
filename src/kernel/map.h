/* Feature maps beside the exponential ones of kernel.h, as kernels call them: a function for each precision that turns
 * the products u_r = w_r . x~ of one token into its features. What else there is to know of a map stands in
 * feature/map.h.
 *
 * A feature is fraction 2^exponent with 1/2 <= |fraction| <= 1; one that is 0, or below the least normal number of the
 * type that it is computed in, is 0 2^KERNEL_EXPONENT_OF_ZERO. Exponents stay between that and its negative.
 */
#ifndef FAVOR_KERNEL_MAP_H
#define FAVOR_KERNEL_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernel/guard.h"

/* Below the exponent of every other feature (plan bounds what enters), and far enough from INT32_MIN for sums of two
 * and differences of those to stay integers of 32 bits. */
#define KERNEL_EXPONENT_OF_ZERO (-(INT32_C(1) << 29))

/* Of one key head. */
struct kernel_map_parameters {
  double eps; /* added to each feature */
  /* Of the exponential maps: keys' features are divided by exp(key_max), a query's by the largest of its exp(u). */
  bool is_relative;
  double key_max;
  struct kernel_guard guard;
};

/* A token. */
struct kernel_map_row {
  int64_t directions; /* M */
  double half_norm;   /* |x~|^2 / 2 in units of ln 2 */
  bool is_query;
  const struct kernel_map_parameters *parameters;
};

struct kernel_map {
  int64_t features_per_direction; /* 1 or 2; feature directions + r is the second of direction r */
  /* feature holds u_r in its first `directions` elements and takes the fractions of all features. */
  void (*f32)(const struct kernel_map_row *row, float *feature, int32_t *exponent);
  void (*f64)(const struct kernel_map_row *row, double *feature, int32_t *exponent);
};

/* The exponential maps in the form of the public packages: exp(u - |x~|^2 / 2), less a maximum in the exponent where
 * they are relative, plus eps. Without either they are those of kernel.h, which this form is slower than. */
extern const struct kernel_map kernel_map_positive, kernel_map_hyperbolic;
extern const struct kernel_map kernel_map_trigonometric, kernel_map_relu, kernel_map_elu, kernel_map_exp,
    kernel_map_gelu, kernel_map_sigmoid, kernel_map_tanh, kernel_map_abs, kernel_map_square, kernel_map_cos,
    kernel_map_identity;

#endif

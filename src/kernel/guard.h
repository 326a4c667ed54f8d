/* Guards of the normaliser, as public packages have them: what is done to a sum of products of features before it
 * divides. All that is here is of features as maps make them, without the factor M^-1/2 of favor.h. */
#ifndef FAVOR_KERNEL_GUARD_H
#define FAVOR_KERNEL_GUARD_H

#include <math.h>
#include <stdint.h>

enum kernel_guard_rule {
  KERNEL_GUARD_NONE = 0,
  KERNEL_GUARD_ADD,          /* sum + value */
  KERNEL_GUARD_ADD_FEATURES, /* sum + value times the sum of the query's features */
  KERNEL_GUARD_ADD_TO_SMALL  /* sum + 2 value where |sum| <= value */
};

struct kernel_guard {
  enum kernel_guard_rule rule;
  double value;
};

/* The normaliser total 2^exponent, guarded, at the same exponent; query_sum 2^query_exponent is the sum of the query's
 * features. Infinite where the guard leaves the range of double at this exponent: the output is then 0, as it should
 * be.
 */
static inline double kernel_guarded(const struct kernel_guard *guard, double total, int64_t exponent, double query_sum,
                                    int64_t query_exponent) {
  switch (guard->rule) {
  case KERNEL_GUARD_ADD:
    return total + ldexp(guard->value, (int)-exponent);
  case KERNEL_GUARD_ADD_FEATURES:
    return total + ldexp(guard->value * query_sum, (int)(query_exponent - exponent));
  case KERNEL_GUARD_ADD_TO_SMALL:
    return fabs(ldexp(total, (int)exponent)) <= guard->value ? total + ldexp(2 * guard->value, (int)-exponent) : total;
  case KERNEL_GUARD_NONE:
    break;
  }
  return total;
}

#endif

/* The one place where a 64-bit count becomes MPI's int. */
#ifndef FAVOR_DIST_COUNT_H
#define FAVOR_DIST_COUNT_H

#include <limits.h>
#include <stdint.h>

#include "base/status.h"

static inline int dist_count(int64_t n) {
  FAVOR_ASSERT(n >= 0 && n <= INT_MAX);
  return (int)n;
}

#endif

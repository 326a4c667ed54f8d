#include "io/type.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "io/half.h"

static const struct {
  const char *name;
  size_t bytes;
} types[] = {
    [FAVOR_FLOAT16] = {"float16", 2},
    [FAVOR_BFLOAT16] = {"bfloat16", 2},
    [FAVOR_FLOAT32] = {"float32", 4},
    [FAVOR_FLOAT64] = {"float64", 8},
};

const char *favor_type_name(enum favor_type type) {
  return (unsigned)type <= FAVOR_FLOAT64 ? types[type].name : "unknown type";
}

size_t favor_type_bytes(enum favor_type type) { return (unsigned)type <= FAVOR_FLOAT64 ? types[type].bytes : 0; }

size_t type_precision_bytes(enum favor_precision precision) {
  return precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float);
}

bool type_is_native(enum favor_type type, enum favor_precision precision) {
  return type == (precision == FAVOR_PRECISION_F64 ? FAVOR_FLOAT64 : FAVOR_FLOAT32);
}

static void widen(int64_t n, const float *restrict from, double *restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] = (double)from[i];
}

static bool narrow(int64_t n, const double *restrict from, float *restrict to) {
  int overflow = 0;
#pragma omp simd reduction(| : overflow)
  for (int64_t i = 0; i < n; i++) {
    to[i] = (float)from[i];
    overflow |= (fabsf(to[i]) == INFINITY) & (fabs(from[i]) < (double)INFINITY);
  }
  return overflow == 0;
}

void type_decode(enum favor_type type, enum favor_precision precision, int64_t n, const void *from, void *to) {
  bool is_double = precision == FAVOR_PRECISION_F64;
  if (type_is_native(type, precision)) {
    memcpy(to, from, (size_t)n * favor_type_bytes(type));
    return;
  }
  switch (type) {
  case FAVOR_FLOAT16:
    is_double ? half_to_double(n, from, to) : half_to_float(n, from, to);
    return;
  case FAVOR_BFLOAT16:
    is_double ? bfloat_to_double(n, from, to) : bfloat_to_float(n, from, to);
    return;
  case FAVOR_FLOAT32:
    widen(n, from, to);
    return;
  case FAVOR_FLOAT64:
    narrow(n, from, to);
    return;
  }
  FAVOR_ASSERT(false);
}

bool type_encode(enum favor_type type, enum favor_precision precision, int64_t n, const void *from, void *to) {
  bool is_double = precision == FAVOR_PRECISION_F64;
  if (type_is_native(type, precision)) {
    memcpy(to, from, (size_t)n * favor_type_bytes(type));
    return true;
  }
  switch (type) {
  case FAVOR_FLOAT16:
    return is_double ? half_from_double(n, from, to) : half_from_float(n, from, to);
  case FAVOR_BFLOAT16:
    return is_double ? bfloat_from_double(n, from, to) : bfloat_from_float(n, from, to);
  case FAVOR_FLOAT32:
    return narrow(n, from, to);
  case FAVOR_FLOAT64:
    widen(n, from, to);
    return true;
  }
  FAVOR_ASSERT(false);
}

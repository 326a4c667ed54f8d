/* The specification: plain C, one rounding an operation, in the order in which it is written. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

enum { TILE = 32, RUN_TILES = 8 };

/* Products in plain loops; instantiated for both precisions. */
#define DEFINE_PRODUCTS(REAL, SUFFIX)                                                                                  \
  static void product_nt_##SUFFIX(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *b,          \
                                  int64_t ldb, REAL *c, int64_t ldc) {                                                 \
    for (int64_t i = 0; i < m; i++) {                                                                                  \
      for (int64_t j = 0; j < n; j++) {                                                                                \
        REAL sum = 0;                                                                                                  \
        for (int64_t l = 0; l < k; l++) sum += a[i * lda + l] * b[j * ldb + l];                                        \
        c[i * ldc + j] = sum;                                                                                          \
      }                                                                                                                \
    }                                                                                                                  \
  }                                                                                                                    \
  static void product_nn_##SUFFIX(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *b,          \
                                  int64_t ldb, REAL *c, int64_t ldc) {                                                 \
    for (int64_t i = 0; i < m; i++) {                                                                                  \
      for (int64_t j = 0; j < n; j++) c[i * ldc + j] = 0;                                                              \
      for (int64_t l = 0; l < k; l++) {                                                                                \
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] += a[i * lda + l] * b[l * ldb + j];                             \
      }                                                                                                                \
    }                                                                                                                  \
  }                                                                                                                    \
  static void product_tn_add_##SUFFIX(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *b,      \
                                      int64_t ldb, REAL *c, int64_t ldc) {                                             \
    for (int64_t l = 0; l < k; l++) {                                                                                  \
      for (int64_t i = 0; i < m; i++) {                                                                                \
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] += a[l * lda + i] * b[l * ldb + j];                             \
      }                                                                                                                \
    }                                                                                                                  \
  }

DEFINE_PRODUCTS(float, f32)
DEFINE_PRODUCTS(double, f64)

static float exp2_fraction_f32(float x) { return exp2f(x); }
static double exp2_fraction_f64(double x) { return exp2(x); }
static float nearest_f32(float x) { return rintf(x); }
static double nearest_f64(double x) { return rint(x); }

#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#include "kernel/tile_body.h"
#undef NAME

#include "kernel/real_f64.h"
#define NAME(x) x##_f64
#include "kernel/tile_body.h"
#undef NAME

static bool always(void) { return true; }

#define NAME_F32(x) x##_f32
#define NAME_F64(x) x##_f64
const struct kernel kernel_reference = {
    .name = "reference",
    .is_supported = always,
    .tile_tokens = TILE,
    .causal_tokens = TILE,
    .run_tiles = RUN_TILES,
    .has_maps = true,
    .real = {KERNEL_OPS(NAME_F32), KERNEL_OPS(NAME_F64)},
};

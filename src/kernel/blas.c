/* Tiles on BLAS products: the element-wise parts are loops that the compiler turns into vectors. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernel/gemm.h"
#include "kernel/kernel.h"

enum { TILE = 64, RUN_TILES = 4 };

void kernel_blas_single_thread(void) { openblas_set_num_threads(1); }

const char *kernel_blas_description(void) {
  static char text[256]; /* the same text whoever writes it */
  snprintf(text, sizeof text, "%s core %s", openblas_get_config(), openblas_get_corename());
  return text;
}

#if defined(__x86_64__)
static bool is_supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#else
static bool is_supported(void) { return true; }
#endif
#pragma GCC optimize("O3")

#define DEFINE_PRODUCTS(REAL, SUFFIX)                                                                                  \
  static void product_nt_##SUFFIX(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *b,          \
                                  int64_t ldb, REAL *c, int64_t ldc) {                                                 \
    gemm_##SUFFIX(CblasNoTrans, CblasTrans, m, n, k, a, lda, b, ldb, 0, c, ldc);                                       \
  }                                                                                                                    \
  static void product_nn_##SUFFIX(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *b,          \
                                  int64_t ldb, REAL *c, int64_t ldc) {                                                 \
    gemm_##SUFFIX(CblasNoTrans, CblasNoTrans, m, n, k, a, lda, b, ldb, 0, c, ldc);                                     \
  }                                                                                                                    \
  static void product_tn_add_##SUFFIX(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *b,      \
                                      int64_t ldb, REAL *c, int64_t ldc) {                                             \
    gemm_##SUFFIX(CblasTrans, CblasNoTrans, m, n, k, a, lda, b, ldb, 1, c, ldc);                                       \
  }

DEFINE_PRODUCTS(float, f32)
DEFINE_PRODUCTS(double, f64)

/* 2^x on [-1/2, 1/2] as 1 + x p(x), p interpolating (2^x - 1) / x at the Chebyshev nodes: 1 exactly at 0.
 * Largest relative errors 5.1e-9 (degree 6) and 1.2e-19 (degree 12). */
static inline float exp2_fraction_f32(float x) {
  float p = 0x1.44138ap-13f;
  p = fmaf(p, x, 0x1.5f0890p-10f);
  p = fmaf(p, x, 0x1.3b2a54p-7f);
  p = fmaf(p, x, 0x1.c6af6cp-5f);
  p = fmaf(p, x, 0x1.ebfbe0p-3f);
  p = fmaf(p, x, 0x1.62e430p-1f);
  return fmaf(p, x, 1);
}

static inline double exp2_fraction_f64(double x) {
  double p = 2.572932417736230421e-11;
  p = fma(p, x, 4.455817908336064493e-10);
  p = fma(p, x, 7.054897304155499277e-9);
  p = fma(p, x, 1.01780570877339411e-7);
  p = fma(p, x, 1.321548680870556279e-6);
  p = fma(p, x, 0.00001525273384155677259);
  p = fma(p, x, 0.0001540353039337073341);
  p = fma(p, x, 0.00133335581464064707);
  p = fma(p, x, 0.009618129107628479493);
  p = fma(p, x, 0.05550410866482162704);
  p = fma(p, x, 0.2402265069591007123);
  p = fma(p, x, 0.6931471805599453093);
  return fma(p, x, 1);
}

static inline float nearest_f32(float x) { return rintf(x); }
static inline double nearest_f64(double x) { return rint(x); }

#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#include "kernel/tile_body.h"
#undef NAME

#include "kernel/real_f64.h"
#define NAME(x) x##_f64
#include "kernel/tile_body.h"
#undef NAME

#if defined(__x86_64__)
#pragma GCC pop_options
#endif

#define NAME_F32(x) x##_f32
#define NAME_F64(x) x##_f64
const struct kernel kernel_blas = {
    .name = "blas",
    .is_supported = is_supported,
    .tile_tokens = TILE,
    .causal_tokens = TILE,
    .run_tiles = RUN_TILES,
    .has_maps = true,
    .real = {KERNEL_OPS(NAME_F32), KERNEL_OPS(NAME_F64)},
};

/* Products of OpenBLAS, row-major, with 64-bit sizes that the caller keeps below 2^31. */
#ifndef FAVOR_KERNEL_GEMM_H
#define FAVOR_KERNEL_GEMM_H

#include <cblas.h>
#include <stdint.h>

/* An OpenBLAS built without threads keeps its buffers without locks: concurrent calls give wrong numbers (seen with
 * Debian 12's libopenblas0-serial, 0.3.21). The pthread build, kept to one thread, is safe and is what
 * jobs/common.sh installs; under the other one threads take turns. */
#define GEMM_IN_TURN(call)                                                                                             \
  do {                                                                                                                 \
    if (openblas_get_parallel() != OPENBLAS_SEQUENTIAL) {                                                              \
      call;                                                                                                            \
    } else {                                                                                                           \
      _Pragma("omp critical(favor_gemm)") call;                                                                        \
    }                                                                                                                  \
  } while (0)

/* gemm: c [m][n] = op(a) op(b) + beta c, k being the index summed over. gemv: y [m] = a [m][n] x. */
#define DEFINE_GEMM(REAL, PREFIX, SUFFIX)                                                                              \
  static inline void gemm_##SUFFIX(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k,            \
                                   const REAL *a, int64_t lda, const REAL *b, int64_t ldb, REAL beta, REAL *c,         \
                                   int64_t ldc) {                                                                      \
    GEMM_IN_TURN(cblas_##PREFIX##gemm(CblasRowMajor, ta, tb, (int)m, (int)n, (int)k, 1, a, (int)lda, b, (int)ldb,      \
                                      beta, c, (int)ldc));                                                             \
  }                                                                                                                    \
  static inline void gemv_##SUFFIX(int64_t m, int64_t n, const REAL *a, int64_t lda, const REAL *x, REAL *y) {         \
    GEMM_IN_TURN(cblas_##PREFIX##gemv(CblasRowMajor, CblasNoTrans, (int)m, (int)n, 1, a, (int)lda, x, 1, 0, y, 1));    \
  }

DEFINE_GEMM(float, s, f32)
DEFINE_GEMM(double, d, f64)
#undef DEFINE_GEMM

#endif

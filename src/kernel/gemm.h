/* Products of BLAS, from several threads. */
#ifndef FAVOR_KERNEL_GEMM_H
#define FAVOR_KERNEL_GEMM_H

#include <cblas.h>

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

#endif

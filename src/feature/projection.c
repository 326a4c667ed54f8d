#include "feature/projection.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>

#include "base/random.h"

/* Haar-distributed orthogonal rows from a Gaussian block: its QR factor Q, with column j times sign(R_jj). Without the
 * sign the distribution depends on the factorisation's habits and kernels come out biased (Mezzadri, "How to generate
 * random matrices from the classical compact groups", Notices AMS 2007). */
static enum favor_status orthogonalise(double *block, int64_t width, double *work) {
  double *tau = work, *sign = work + width;
  lapack_int n = (lapack_int)width;
  if (LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, n, n, block, n, tau) != 0) return FAVOR_EINTERNAL;
  for (int64_t j = 0; j < width; j++) sign[j] = block[j * width + j] < 0 ? -1 : 1;
  if (LAPACKE_dorgqr(LAPACK_ROW_MAJOR, n, n, n, block, n, tau) != 0) return FAVOR_EINTERNAL;
  for (int64_t i = 0; i < width; i++) {
    for (int64_t j = 0; j < width; j++) block[i * width + j] *= sign[j];
  }
  return FAVOR_OK;
}

/* The table of projections: how a block of iid normal rows [D][D] becomes directions. */
static const struct {
  enum favor_status (*turn_block)(double *block, int64_t width, double *work); /* NULL: taken as they are */
  bool is_normal; /* rows have their own chi(D) lengths already */
} projections[] = {
    [FAVOR_PROJECTION_ORTHOGONAL] = {orthogonalise, false},
    [FAVOR_PROJECTION_GAUSSIAN] = {NULL, true},
};

size_t projection_work_count(int64_t width) { return (size_t)width * (size_t)width + 2 * (size_t)width; }

/* The length of a normal row of this width. */
static double chi(const struct random_stream *stream, int64_t row, int64_t width, double *normal) {
  random_normal(stream, (uint64_t)row * (uint64_t)width, width, normal);
  return cblas_dnrm2((int)width, normal, 1);
}

enum favor_status projection_draw(enum favor_projection kind, enum favor_row_norm row_norm,
                                  const struct projection_name *name, int64_t features, int64_t width, double *work,
                                  double *w) {
  uint64_t seed =
      random_bits(&(struct random_stream){.key = {(uint32_t)name->seed, (uint32_t)(name->seed >> 32)},
                                          .words = {(uint32_t)name->redraw, (uint32_t)(name->redraw >> 32)}},
                  name->layer);
  struct random_stream entries = random_stream(seed, RANDOM_PROJECTION, (uint64_t)name->key_head, 0);
  struct random_stream lengths = random_stream(seed, RANDOM_ROW_NORM, (uint64_t)name->key_head, 0);
  double *block = work, *rest = work + width * width;
  for (int64_t first = 0; first < features; first += width) {
    random_normal(&entries, (uint64_t)first * (uint64_t)width, width * width, block);
    if (projections[kind].turn_block) {
      enum favor_status status = projections[kind].turn_block(block, width, rest);
      if (status != FAVOR_OK) return status;
    }
    int64_t n_rows = features - first < width ? features - first : width;
    for (int64_t r = 0; r < n_rows; r++) {
      double *row = block + r * width;
      double length = sqrt((double)width);
      if (row_norm == FAVOR_ROW_NORM_CHI) {
        length = projections[kind].is_normal ? cblas_dnrm2((int)width, row, 1) : chi(&lengths, first + r, width, rest);
      }
      double factor = length / cblas_dnrm2((int)width, row, 1);
      for (int64_t d = 0; d < width; d++) w[(first + r) * width + d] = row[d] * factor;
    }
  }
  return FAVOR_OK;
}

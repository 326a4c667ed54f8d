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

/* The same for directions of pairwise cosine -1 / (D - 1): sqrt(D / (D - 1)) (e_i - the mean of all e), which are the
 * corners of a regular simplex in the space of dimension D - 1, turned by Q (Reid et al., "Simplex random features",
 * ICML 2023). */
static enum favor_status turn_simplex(double *block, int64_t width, double *work) {
  enum favor_status status = orthogonalise(block, width, work);
  if (status != FAVOR_OK || width == 1) return status;
  double factor = sqrt((double)width / (double)(width - 1));
  for (int64_t j = 0; j < width; j++) {
    double mean = 0;
    for (int64_t i = 0; i < width; i++) mean += block[i * width + j] / (double)width;
    for (int64_t i = 0; i < width; i++) block[i * width + j] = factor * (block[i * width + j] - mean);
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
    [FAVOR_PROJECTION_SIMPLEX] = {turn_simplex, false},
};

uint64_t projection_seed(const struct projection_name *name) {
  return random_bits(&(struct random_stream){.key = {(uint32_t)name->seed, (uint32_t)(name->seed >> 32)},
                                             .words = {(uint32_t)name->redraw, (uint32_t)(name->redraw >> 32)}},
                     name->layer);
}

size_t projection_work_count(int64_t width) { return (size_t)width * (size_t)width + 2 * (size_t)width; }

/* The length of a normal row of this width. */
static double chi(const struct random_stream *stream, int64_t row, int64_t width, double *normal) {
  random_normal(stream, (uint64_t)row * (uint64_t)width, width, normal);
  return cblas_dnrm2((int)width, normal, 1);
}

enum favor_status projection_draw(enum favor_projection kind, enum favor_row_norm row_norm,
                                  const struct projection_name *name, int64_t features, int64_t width, double *work,
                                  double *w) {
  if (kind == FAVOR_PROJECTION_NONE) {
    for (int64_t i = 0; i < features * width; i++) w[i] = i / width == i % width;
    return FAVOR_OK;
  }
  uint64_t seed = projection_seed(name);
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

/* ---- Hadamard ---------------------------------------------------------------------------------------------------- */

int64_t projection_hadamard_width(int64_t width) {
  int64_t padded = 1;
  while (padded < width) padded *= 2;
  return padded;
}

static int64_t blocks_of(int64_t features, int64_t padded) { return (features + padded - 1) / padded; }

int64_t projection_signs_count(int64_t features, int64_t width) {
  int64_t padded = projection_hadamard_width(width);
  return (1 + 2 * blocks_of(features, padded)) * padded;
}

/* x = H x, not normalised, by the fast Walsh-Hadamard transform. */
static void transform(int64_t n, double *x) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t i = 0; i < n; i++) {
      if (i & half) continue;
      double a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
}

/* One sign a bit of the stream: its element 64 i + j is bit j of number i. */
static void draw_signs(const struct random_stream *stream, int64_t n, double *signs) {
  for (int64_t i = 0; i < n; i++) {
    signs[i] = random_bits(stream, (uint64_t)i / 64) >> (i % 64) & 1 ? -1 : 1;
  }
}

void projection_draw_hadamard(enum favor_row_norm row_norm, const struct projection_name *name, int64_t features,
                              int64_t width, double *work, double *signs, double *lengths, double *w) {
  uint64_t seed = projection_seed(name);
  int64_t padded = projection_hadamard_width(width);
  struct random_stream bits = random_stream(seed, RANDOM_SIGN, (uint64_t)name->key_head, 0);
  struct random_stream normals = random_stream(seed, RANDOM_ROW_NORM, (uint64_t)name->key_head, 0);
  draw_signs(&bits, projection_signs_count(features, width), signs);
  double *row = work;
  for (int64_t r = 0; r < features; r++) {
    const double *own = signs + (1 + 2 * (r / padded)) * padded;
    lengths[r] = row_norm == FAVOR_ROW_NORM_CHI ? chi(&normals, r, padded, row) : sqrt((double)padded);
    /* (H D2 H D1 H D0)^T e_i from the right: all matrices are symmetric. */
    for (int64_t d = 0; d < padded; d++) row[d] = d == r % padded;
    for (int round = 2; round >= 0; round--) {
      const double *of_round = round == 0 ? signs : own + (round - 1) * padded;
      transform(padded, row);
      for (int64_t d = 0; d < padded; d++) row[d] *= of_round[d];
    }
    double factor = lengths[r] / ((double)padded * sqrt((double)padded));
    for (int64_t d = 0; d < width; d++) w[r * width + d] = row[d] * factor;
  }
}

/* The projection W: M rows of width D, drawn in blocks of D rows.
 * Choromanski et al. 2021, section 2.4 (orthogonal random features); the Hadamard projection is the structured variant
 * of Yu et al. 2016, "Orthogonal random features"; the simplex one of Reid et al. 2023; without one W is the identity.
 */
#ifndef FAVOR_FEATURE_PROJECTION_H
#define FAVOR_FEATURE_PROJECTION_H

#include <favor/favor.h>

struct projection_name {
  uint64_t seed, layer, redraw;
  int64_t key_head; /* 0 where the projection is shared */
};

/* The seed of everything that is drawn for one layer and redraw; the key head is no part of it. */
uint64_t projection_seed(const struct projection_name *name);

/* w [features][width] is a function of its arguments alone (and of the LAPACK that runs: draw on one rank).
 * work holds projection_work_count(width) doubles. Errors: FAVOR_EINTERNAL (LAPACK refuses). */
size_t projection_work_count(int64_t width);
enum favor_status projection_draw(enum favor_projection kind, enum favor_row_norm row_norm,
                                  const struct projection_name *name, int64_t features, int64_t width, double *work,
                                  double *w);

/* The Hadamard projection as struct kernel_projection describes it, in place of projection_draw: D' is the width padded
 * to a power of two, a block has D' rows and three rounds of random signs and H, and lengths are sqrt(D') or chi(D'),
 * so that w.x has the variance |x|^2 whatever D is.
 *
 * The first round is common to all blocks, which saves each of them a transform. It only spreads x evenly, and sharing
 * it costs nothing that shows. Measured over 20,000 draws of M = 256 rows of D = 64, |x + y|^2 = 4, in four directions
 * of x + y, of the kernel's estimate over the kernel: with lengths sqrt(D') the bias is -0.055 to -0.056 (orthogonal
 * rows: -0.054 to -0.056; three rounds to each block: -0.052 to -0.060) and the mean square error 0.076 to 0.093 (0.077
 * to 0.099; 0.073 to 0.106); with lengths chi(D') the bias is 0.000 to 0.003, standard error 0.003 (-0.004 to 0.000;
 * -0.004 to 0.000). Two rounds in all are too few: 0.049 along an axis. Few signs are not quite a rotation: at D = 16
 * and along an axis chi lengths leave a bias of -0.017 (three rounds to each block: -0.011).
 *
 * signs [1 + 2 blocks][D'] and lengths [features] have projection_signs_count and `features` elements;
 * work holds D' doubles. */
int64_t projection_hadamard_width(int64_t width);
int64_t projection_signs_count(int64_t features, int64_t width);
void projection_draw_hadamard(enum favor_row_norm row_norm, const struct projection_name *name, int64_t features,
                              int64_t width, double *work, double *signs, double *lengths, double *w);

#endif

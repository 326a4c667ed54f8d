/* The projection W: M rows of width D, drawn in blocks of D rows.
 * Choromanski et al. 2021, section 2.4 (orthogonal random features). */
#ifndef FAVOR_FEATURE_PROJECTION_H
#define FAVOR_FEATURE_PROJECTION_H

#include <favor/favor.h>

struct projection_name {
  uint64_t seed, layer, redraw;
  int64_t key_head; /* 0 where the projection is shared */
};

/* w [features][width] is a function of its arguments alone (and of the LAPACK that runs: draw on one rank).
 * work holds projection_work_count(width) doubles. Errors: FAVOR_EINTERNAL (LAPACK refuses). */
size_t projection_work_count(int64_t width);
enum favor_status projection_draw(enum favor_projection kind, enum favor_row_norm row_norm,
                                  const struct projection_name *name, int64_t features, int64_t width, double *work,
                                  double *w);

#endif

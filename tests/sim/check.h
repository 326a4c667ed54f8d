/* What states have to be: made once for all ranks, which are threads of one process. */
#ifndef FAVOR_SIM_CHECK_H
#define FAVOR_SIM_CHECK_H

#include <stdint.h>

struct check_shape {
  int size, n_batches; /* ranks; states of each */
  int64_t n_rows, width;
};

/* The state that a rank brings: rows of very different magnitudes, some empty. */
void check_fill(const struct check_shape *shape, int rank, int batch, void *state);

/* By one rank, before the others ask and after they have. */
void check_prepare(const struct check_shape *shape);
void check_release(void);

/* The states of ranks [0, n_ranks) merged one after another. */
const void *check_merged(int n_ranks, int batch);

#endif

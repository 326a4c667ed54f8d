/* One head, one token: a causal state in double that advances at constant cost. Written from the definition. */
#ifndef FAVOR_CORE_DECODE_H
#define FAVOR_CORE_DECODE_H

#include "core/worker.h"

/* Values are kept times 2^-DECODE_SHIFT, so that sums of the largest stay finite. S_re = s[r][e] 2^(exponent[r] +
 * DECODE_SHIFT), z_r = z[r] 2^exponent[r]; exponent BINNED_NONE where no key was taken. */
enum { DECODE_SHIFT = 64 };
struct decode_state {
  int32_t *exponent; /* [M] */
  double *s, *z;     /* [M][E], [M] */
};

/* Scratch. */
struct decode_features {
  double *fraction;  /* [M] */
  int32_t *exponent; /* [M] */
};

/* state += the key and its value. k, v: real [D], [E]; half_norm as kernel_keys'. */
void decode_take(const struct engine *engine, const struct head_weights *weights, const void *k, double half_norm,
                 const void *v, const struct decode_features *features, struct decode_state *state);

/* out [E] of the query from a state that took a key. half_norm as worker_features'. sum: scratch [E]. */
void decode_read(const struct engine *engine, const struct head_weights *weights, const void *q, double half_norm,
                 const struct decode_state *state, const struct decode_features *features, double *sum, void *out);

#endif

/* The key maximum of public packages (favor.h, enum favor_key_max): the largest u over the features of some keys. */
#ifndef FAVOR_CORE_KEY_MAX_H
#define FAVOR_CORE_KEY_MAX_H

#include "core/worker.h"

/* *highest = max(*highest, u_r of n rows of one key head), n of any size; where both signs of a direction count, of
 * |u|. In double, a function of each row alone. False at the first row that cannot be computed with: refusal filled. */
bool key_max_add(const struct engine *engine, struct worker *worker, const struct head_weights *weights, int64_t n,
                 const void *k, int64_t stride, double *highest, struct refusal *refusal);

#endif

/* What a token shard does that absorbs its keys first, on a plan that has no such shard: for measuring. */
#ifndef FAVOR_PLAN_REHEARSE_H
#define FAVOR_PLAN_REHEARSE_H

#include "plan/execute.h"

/* Local: the keys of the rank's whole shard into states, and then all outputs, features being kept from the one to the
 * other. The plan is causal and not streamed; what it keeps from now on is its whole shard's. False: its kernel keeps
 * none, or there is no memory. */
bool rehearse_kept(struct favor_plan *plan, const struct block_arrays *arrays, double *keep_s, double *kept_s);

#endif

/* Which process grid: the cheapest by arithmetic. */
#ifndef FAVOR_PLAN_COST_H
#define FAVOR_PLAN_COST_H

#include <favor/favor.h>

struct grid {
  int64_t heads, tokens; /* ranks along each axis */
  const char *reason;
};

/* Into how many batches a rank's heads are cut at most: the states of one travel while others are computed. */
enum { COST_MOST_BATCHES = 8 };

/* Of n_batches, those that every one of n_parts causal token shards absorbs before it computes outputs: what keeps the
 * last shard busy until the first head that is not absorbed is relayed to it. */
int64_t cost_absorbed_batches(int64_t n_parts, int64_t n_batches);

/* The grid of least work on the busiest rank among those with heads * tokens <= size and heads <= n_units (flat key
 * heads). Work in units of M D flops a query head and token (E = D): 8, and 4 more for the causal heads that token
 * shards absorb first, to know their prefixes; ties go to more heads, which share nothing. */
struct grid cost_grid(const struct favor_problem *problem, int64_t n_units, int64_t size);

#endif

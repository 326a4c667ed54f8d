/* Which process grid: the cheapest by arithmetic. */
#ifndef FAVOR_PLAN_COST_H
#define FAVOR_PLAN_COST_H

#include <favor/favor.h>

struct grid {
  int64_t heads, tokens; /* ranks along each axis */
  const char *reason;
};

/* The grid of least work on the busiest rank among those with heads * tokens <= size and heads <= n_units (flat key
 * heads). Work in units of M D flops a query head and token (E = D): 8, and 12 for a causal token shard that must know
 * its prefix first; ties go to more heads, which share nothing. */
struct grid cost_grid(const struct favor_problem *problem, int64_t n_units, int64_t size);

#endif

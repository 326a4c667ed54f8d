/* Which process grid: the cheapest by arithmetic. */
#ifndef FAVOR_PLAN_COST_H
#define FAVOR_PLAN_COST_H

#include <favor/favor.h>

/* The ranks that a plan has, and what is the same on all of them. */
struct cost_job {
  int64_t size, threads; /* of a rank, at most */
  int64_t run_tokens;    /* shards are whole runs */
  bool keeps_features; /* of keys that are absorbed first (plan/kept.h): the kernel can, and memory is taken for granted
                        */
};

struct grid {
  int64_t heads, tokens; /* ranks along each axis */
  const char *reason;
};

/* Into how many batches a rank's heads are cut, so that states of some travel while others are computed: at most that
 * many, but few where there is little to compute, as a batch has to keep all threads busy; causal heads are sequential,
 * so that a batch has one for each thread. part_tokens: of a rank, at a time. */
enum { COST_MOST_BATCHES = 8 };
int cost_batches(const struct favor_problem *problem, const struct cost_job *job, int64_t n_units, int64_t part_tokens);

/* Of n_batches, those that every one of n_parts causal token shards absorbs before it computes outputs: what keeps the
 * last shard busy until the first head that is not absorbed is relayed to it; or all, where that costs less. */
int64_t cost_absorbed_batches(const struct cost_job *job, int64_t n_parts, int64_t n_batches);

/* The grid of least work on the busiest rank among those with heads * tokens <= job->size and heads <= n_units (flat
 * key heads). Work in units of M D flops a query head and token (E = D): 8, and for the causal heads that token shards
 * absorb first, to know their prefixes, 4 more, or what takes as long as 3 where their features are kept (measured;
 * doc/scaling.md); ties go to more heads, which share nothing. */
struct grid cost_grid(const struct favor_problem *problem, const struct cost_job *job, int64_t n_units);

#endif

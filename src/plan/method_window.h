/* FAVOR_METHOD_WINDOW. Keys and values travel as packed tiles (core/exact.h): every rank gets those within the window
 * of its shard, from as many ranks as they stand on, and the global tokens' of the segments that it holds tokens of.
 * Each tile of queries folds the global tokens first, then its window, tile by tile in order of tokens. */
#ifndef FAVOR_PLAN_METHOD_WINDOW_H
#define FAVOR_PLAN_METHOD_WINDOW_H

#include "core/exact.h"
#include "plan/halo.h"
#include "plan/method.h"

extern const struct method method_window;

/* Everything in one piece of memory, which begins with this. Works on one key head at a time. */
struct window {
  struct exact exact;
  size_t sums_bytes, scratch_bytes, partial_bytes;
  struct halo keys;               /* of packed tiles, by number */
  struct halo queries;            /* [heads of the group][D] of global tokens of segments that are shared */
  char *sums, *scratch, *partial; /* [threads]; partial [threads][EXACT_TILE] */
  /* Of global queries [tokens][heads of the group]: of a segment that stays on the rank, of the two that are shared,
   * and what other ranks found for those that this one owns. */
  char *own_partials, *shared_partials[2], *incoming;
  struct dist_piece *sends, *receives; /* of partials */
  int64_t n_sends, n_receives;
};

/* The global tokens of a segment, in causal mode as far as any of these tokens sees them. */
struct range window_globals(const struct favor_plan *plan, struct range segment, int64_t end);

/* A tile's keys, in a range of the halo that holds them. */
const void *window_tile(const struct favor_plan *plan, int64_t tile);

/* ---- global queries (window_globals.c): bidirectional, they attend to whole segments; a causal one sees nothing but
 * global keys, and is no exception. Every rank folds its own keys' tiles for them, each apart, into sums whose addition
 * is exact (core/partial.h), which meet on the rank that owns the query. ---- */

static inline bool window_has_global_queries(const struct favor_plan *plan) {
  return plan->problem.global_tokens > 0 && !plan->problem.is_causal;
}

/* Queries that other ranks wish for, [heads of the group][D]; counted and placed with the window. */
extern const struct halo_kind window_query_halo;

/* Rows of partials, and pieces of their exchange (which are filled in where there is memory for them). */
struct window_globals_sizes {
  int64_t own_rows, shared_rows[2], incoming_rows;
};
struct window_globals_sizes window_globals_count(const struct favor_plan *plan, struct window *window);

/* Collective over the axis: the outputs of global queries of one key head. */
void window_globals_attend(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit);

#endif

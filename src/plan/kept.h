/* Features that a causal plan keeps from the keys that it absorbs first until their outputs are computed. */
#ifndef FAVOR_PLAN_KEPT_H
#define FAVOR_PLAN_KEPT_H

#include "core/kept.h"

struct favor_plan;

struct kept {
  struct kept_tag *tags; /* [n_units][unit_tiles] */
  char *features;        /* the same, of tile_bytes each */
  int64_t begin;         /* the token of the first place, from a block's first */
  int64_t n_units;       /* the rank's key heads; 0: nothing is kept */
  int64_t unit_tiles;
  size_t tile_bytes;
  int64_t pass; /* the block at hand, counted from the plan's first */
};

/* Local, once block_tokens are known: how much is kept, in what is left of problem.memory_bytes. */
void kept_choose(struct favor_plan *plan);
size_t kept_bytes(const struct favor_plan *plan);
/* Of the tokens whose keys may be absorbed first, those whose features are kept. */
double kept_share(const struct favor_plan *plan);

/* Local: allocates and touches it; where it cannot be had, nothing is kept. */
void kept_allocate(struct favor_plan *plan);
void kept_free(struct favor_plan *plan);
/* Local: from now on all of a block's, whatever kept_choose said, if there is memory for it. */
void kept_take_all(struct favor_plan *plan);

/* The places of tiles of a key head, from a token on that is so far from the block's first. */
struct kept_tiles kept_of(const struct favor_plan *plan, int64_t unit, int64_t offset, int64_t token);

#endif

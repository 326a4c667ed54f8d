/* What a block does, by kind, and what goes on from block to block. */
#ifndef FAVOR_PLAN_BLOCKS_H
#define FAVOR_PLAN_BLOCKS_H

#include "plan/execute.h"

/* Collective along the token axis, where it has several ranks. Errors stay with the context. */
void blocks_attend(struct favor_plan *plan, const struct block_arrays *arrays, const struct planned_block *block);
void blocks_absorb(struct favor_plan *plan, const struct block_arrays *arrays, const struct planned_block *block);
void blocks_emit(struct favor_plan *plan, const struct block_arrays *arrays, const struct planned_block *block);

/* Collective along the token axis: the states with which the next block goes on, on the first rank of a row of the
 * grid. Valid until then; the next block finds all as if nothing had been asked. */
void *blocks_gather(struct favor_plan *plan);

/* Collective likewise: nothing is on its way any more. */
void blocks_end(struct favor_plan *plan);

/* Local, once, when all is allocated: states on their way advance from now on between the tiles of a block. */
void blocks_watch(struct favor_plan *plan);

/* Local: records what is wrong with the states of a resumed run. */
void saved_check(struct favor_plan *plan);

/* Local: the rows of which the first rank of a row goes on at a position, for a resume to fill. */
void *blocks_carried(struct favor_plan *plan);

#endif

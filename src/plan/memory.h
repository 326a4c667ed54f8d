/* All memory of a plan, and how large a block may be beside it. */
#ifndef FAVOR_PLAN_MEMORY_H
#define FAVOR_PLAN_MEMORY_H

#include "plan/plan.h"

/* Bytes that one token of a block of q, k, v and out takes the caller on this rank. */
size_t plan_token_bytes(const struct favor_plan *plan);

/* Bytes that plan_allocate will take. */
size_t plan_fixed_bytes(const struct favor_plan *plan);

/* What a rank has to say on how large a block may be: bytes of a token of a block, all else that is in memory, and the
 * tokens of a block where no bound says less. The largest of all ranks counts. */
struct plan_needs {
  int64_t token_bytes, fixed_bytes, wanted_tokens;
};
struct plan_needs plan_needs(const struct favor_plan *plan);
/* Local: plan_choose_block of a plan that streams, the needs of all ranks being known; and of any other. */
void plan_fit_block(struct favor_plan *plan, const struct plan_needs *needs);
void plan_fit_whole(struct favor_plan *plan);

/* Collective: chooses block_tokens within problem.memory_bytes, and what is kept in the rest of it; records
 * FAVOR_EUSAGE where nothing fits. */
void plan_choose_block(struct favor_plan *plan);

/* Local: the blocks after a position; records FAVOR_ENOMEM. */
void plan_list_blocks(struct favor_plan *plan, const struct favor_position *from);

/* Local: allocates and touches states, workers and what is kept; records FAVOR_ENOMEM. */
void plan_allocate(struct favor_plan *plan);
void plan_free(struct favor_plan *plan);

#endif

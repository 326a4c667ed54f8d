/* The work of one block on this rank's threads. */
#ifndef FAVOR_PLAN_EXECUTE_H
#define FAVOR_PLAN_EXECUTE_H

#include "plan/plan.h"

/* The caller's arrays, which start at token `begin`, and those of the rank's key heads that are at hand. */
struct block_arrays {
  int64_t begin;
  struct range units;
  const struct favor_input *q, *k, *v;
  const struct favor_output *out;
};

/* Keys of one segment into the slot's states, which the caller cleared at its start. */
void execute_absorb(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, enum slot slot);

/* Outputs of a range: from the slot's complete states (bidirectional, has_keys false); or segment by segment with the
 * range's own keys, where the first segment may go on from the slot's states and the last may be continued later. */
void execute_emit(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, enum slot slot,
                  bool has_keys);

/* Refuses what is not finite in q, k, v of a range. */
void execute_check(struct favor_plan *plan, const struct block_arrays *arrays, struct range range);

/* The values of a range as its outputs. */
void execute_copy(struct favor_plan *plan, const struct block_arrays *arrays, struct range range);

/* Queries and keys of a range into the moments. */
void execute_measure(struct favor_plan *plan, const struct block_arrays *arrays, struct range range);

/* Keys of a range into the key maximum. */
void execute_key_max(struct favor_plan *plan, const struct block_arrays *arrays, struct range range);

/* Of the refusals that the threads of a block meet, keeps that of the lowest token (then tensor, then head). Its token
 * is counted from `begin`, its head from those of the unit. */
void execute_refuse(struct favor_plan *plan, int64_t unit, int64_t begin, struct refusal refusal);

#endif

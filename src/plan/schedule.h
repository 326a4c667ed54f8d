/* The steps of one rank: which tokens are absorbed, when states meet, which tokens are emitted.
 *
 * Tokens of segments that other ranks share (spans) are absorbed first and emitted last, so that the states meet behind
 * the work on the rank's own segments. */
#ifndef FAVOR_PLAN_SCHEDULE_H
#define FAVOR_PLAN_SCHEDULE_H

#include <favor/favor.h>

#include "plan/tokens.h"

/* Which state a step works on. */
enum slot {
  SLOT_OWN,    /* of the segment at hand, from its start */
  SLOT_SPAN_0, /* partial state of span 0: what the group merges */
  SLOT_SPAN_1,
  SLOT_WAITING /* causal: the state that came from the ranks before */
};

struct planned_step {
  struct favor_step step;
  enum slot slot;
};

enum schedule_kind {
  SCHEDULE_BIDIRECTIONAL,
  SCHEDULE_CAUSAL,
  SCHEDULE_COPY, /* no states: values become outputs */
  SCHEDULE_WHOLE /* no states: one step for all (plan/method.h) */
};

struct schedule {
  enum schedule_kind kind;
  const struct tokens *tokens;
  struct range shard;
  struct span spans[2];
  bool has_spans;         /* anywhere: every rank then takes the combine steps */
  unsigned measure_needs; /* of what is estimated from the data, before all else; 0: nothing is */
  int64_t block_tokens;
  struct planned_step *steps; /* NULL: only count */
  int64_t n_steps;
};

static inline bool schedule_has_states(const struct schedule *schedule) {
  return schedule->kind == SCHEDULE_BIDIRECTIONAL || schedule->kind == SCHEDULE_CAUSAL;
}

/* Fills steps (where not NULL) and n_steps. */
void schedule_build(struct schedule *schedule);

#endif

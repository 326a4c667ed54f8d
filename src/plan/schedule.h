/* The blocks of a run: which tokens of the axis all ranks take next, and what becomes of them.
 *
 * Without streaming a block is the whole axis. Else a block is as much as its ranks' memory holds, and after each all
 * of a row of the grid stand at one place: what goes on from there is one state a key head (struct favor_position). A
 * segment that is longer than a block is absorbed block by block and then emitted, unless it is causal. */
#ifndef FAVOR_PLAN_SCHEDULE_H
#define FAVOR_PLAN_SCHEDULE_H

#include <favor/favor.h>

#include "plan/tokens.h"

/* Which state work is done on. */
enum slot {
  SLOT_OWN,    /* of the segment at hand, from its start; on the first rank of a row it goes on from block to block */
  SLOT_SPAN_0, /* partial state of span 0: what the group merges */
  SLOT_SPAN_1,
  SLOT_WAITING /* causal: the state that came from the ranks before */
};

enum block_kind {
  BLOCK_MEASURE, /* queries and keys into what estimates come from */
  BLOCK_ATTEND,  /* outputs of all its tokens: whole segments, or when causal whatever came before */
  BLOCK_ABSORB,  /* keys of a part of one segment */
  BLOCK_EMIT,    /* outputs of a part of one segment whose keys are all absorbed */
  BLOCK_COPY,    /* values become outputs */
  BLOCK_WHOLE    /* the shard at once (plan/method.h) */
};

/* The same on every rank. */
struct planned_block {
  enum block_kind kind;
  struct range window; /* of the axis */
  bool is_last_measure;
  struct favor_position after;
};

enum schedule_kind {
  SCHEDULE_BIDIRECTIONAL,
  SCHEDULE_CAUSAL,
  SCHEDULE_COPY, /* no states: values become outputs */
  SCHEDULE_WHOLE /* no states: one block for all (plan/method.h) */
};

struct schedule {
  enum schedule_kind kind;
  const struct tokens *tokens;
  int64_t n_parts;              /* ranks of a row of the grid */
  int64_t part;                 /* this rank's place among them; -1: it owns nothing */
  struct range shard;           /* what the part owns; of a streamed plan all tokens */
  bool may_meet;                /* states of several ranks may be of one segment */
  unsigned measure_needs;       /* of what is estimated from the data, before all else; 0: nothing is */
  int64_t block_tokens;         /* of a part, at most */
  int64_t window_tokens;        /* of a block, at most; 0: the whole axis at once */
  struct planned_block *blocks; /* NULL: only count */
  int64_t n_blocks;
};

static inline bool schedule_has_states(const struct schedule *schedule) {
  return schedule->kind == SCHEDULE_BIDIRECTIONAL || schedule->kind == SCHEDULE_CAUSAL;
}

/* Fills blocks (where not NULL) and n_blocks: those after a position. */
void schedule_build(struct schedule *schedule, const struct favor_position *from);

/* FAVOR_NEEDS_... of a rank that has tokens of a block of this kind. */
unsigned schedule_needs(const struct schedule *schedule, enum block_kind kind);

/* What a block is to this rank: its own tokens and what it needs of them. */
void schedule_own(const struct schedule *schedule, const struct planned_block *block, struct favor_block *own);

/* The tokens of a window for which every one of n_parts has room for block_tokens; 0 where it has none for a run. */
int64_t schedule_window_tokens(int64_t n_parts, int64_t block_tokens, int64_t run_tokens);

#endif

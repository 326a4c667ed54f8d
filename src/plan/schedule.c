#include "plan/schedule.h"

static void add(struct schedule *schedule, enum favor_verb verb, enum slot slot, struct range range, unsigned needs) {
  if (schedule->steps) {
    schedule->steps[schedule->n_steps] = (struct planned_step){
        .step = {.verb = verb, .token_begin = range.begin, .token_end = range.end, .needs = needs}, .slot = slot};
  }
  schedule->n_steps++;
}

/* One step a block of whole runs; a block may hold the ends of several segments. */
static void add_blocks(struct schedule *schedule, enum favor_verb verb, enum slot slot, struct range range,
                       unsigned needs) {
  for (int64_t begin = range.begin; begin < range.end;) {
    int64_t end = range.end;
    if (end - begin > schedule->block_tokens) {
      end = tokens_run_floor(schedule->tokens, begin + schedule->block_tokens);
    }
    add(schedule, verb, slot, (struct range){begin, end}, needs);
    begin = end;
  }
}

enum {
  NEEDS_KEYS = FAVOR_NEEDS_K | FAVOR_NEEDS_V,
  NEEDS_QUERIES = FAVOR_NEEDS_Q | FAVOR_NEEDS_OUT,
  NEEDS_ALL = NEEDS_KEYS | NEEDS_QUERIES
};

/* Whole segments, bidirectional: as many as fit into one step; a longer one is absorbed, then emitted. */
static void add_whole_segments(struct schedule *schedule, struct range range) {
  for (int64_t begin = range.begin; begin < range.end;) {
    int64_t end = tokens_segment(schedule->tokens, begin).end;
    if (end - begin > schedule->block_tokens) {
      add_blocks(schedule, FAVOR_ABSORB, SLOT_OWN, (struct range){begin, end}, NEEDS_KEYS);
      add_blocks(schedule, FAVOR_EMIT, SLOT_OWN, (struct range){begin, end}, NEEDS_QUERIES);
      begin = end;
      continue;
    }
    while (end < range.end) {
      int64_t next = tokens_segment(schedule->tokens, end).end;
      if (next - begin > schedule->block_tokens) break;
      end = next;
    }
    add(schedule, FAVOR_EMIT, SLOT_OWN, (struct range){begin, end}, NEEDS_ALL);
    begin = end;
  }
}

/* The part of the shard before its first own segment, and from its last on, that belong to spans. */
static struct range own_segments(const struct schedule *schedule) {
  struct range own = schedule->shard;
  for (int i = 0; i < 2; i++) {
    const struct span *span = &schedule->spans[i];
    if (!span->is_member) continue;
    if (!span->is_first) own.begin = span->piece.end;
    if (span->is_first) own.end = span->piece.begin;
  }
  if (own.end < own.begin) own.end = own.begin;
  return own;
}

static void build_bidirectional(struct schedule *schedule) {
  for (int i = 0; i < 2; i++) {
    if (!schedule->spans[i].is_member) continue;
    add_blocks(schedule, FAVOR_ABSORB, SLOT_SPAN_0 + i, schedule->spans[i].piece, NEEDS_KEYS);
  }
  if (schedule->has_spans) add(schedule, FAVOR_COMBINE_BEGIN, SLOT_OWN, (struct range){0, 0}, 0);
  add_whole_segments(schedule, own_segments(schedule));
  if (schedule->has_spans) add(schedule, FAVOR_COMBINE_END, SLOT_OWN, (struct range){0, 0}, 0);
  for (int i = 0; i < 2; i++) {
    if (!schedule->spans[i].is_member) continue;
    add_blocks(schedule, FAVOR_EMIT, SLOT_SPAN_0 + i, schedule->spans[i].piece, NEEDS_QUERIES);
  }
}

static void build_causal(struct schedule *schedule) {
  struct range waiting = {schedule->shard.begin, schedule->shard.begin};
  for (int i = 0; i < 2; i++) {
    const struct span *span = &schedule->spans[i];
    if (!span->is_member) continue;
    /* The last of a span has nobody to tell. */
    if (!span->is_last) add_blocks(schedule, FAVOR_ABSORB, SLOT_SPAN_0 + i, span->piece, NEEDS_KEYS);
    if (!span->is_first) waiting = span->piece;
  }
  if (schedule->has_spans) add(schedule, FAVOR_COMBINE_BEGIN, SLOT_OWN, (struct range){0, 0}, 0);
  add_blocks(schedule, FAVOR_EMIT, SLOT_OWN, (struct range){waiting.end, schedule->shard.end}, NEEDS_ALL);
  if (schedule->has_spans) add(schedule, FAVOR_COMBINE_END, SLOT_OWN, (struct range){0, 0}, 0);
  add_blocks(schedule, FAVOR_EMIT, SLOT_WAITING, waiting, NEEDS_ALL);
}

void schedule_build(struct schedule *schedule) {
  schedule->n_steps = 0;
  if (schedule->measure_needs != 0) {
    add_blocks(schedule, FAVOR_MEASURE, SLOT_OWN, schedule->shard, schedule->measure_needs);
    add(schedule, FAVOR_ESTIMATE, SLOT_OWN, (struct range){0, 0}, 0);
  }
  switch (schedule->kind) {
  case SCHEDULE_BIDIRECTIONAL:
    build_bidirectional(schedule);
    break;
  case SCHEDULE_CAUSAL:
    build_causal(schedule);
    break;
  case SCHEDULE_COPY:
    add_blocks(schedule, FAVOR_EMIT, SLOT_OWN, schedule->shard, FAVOR_NEEDS_V | FAVOR_NEEDS_OUT);
    break;
  case SCHEDULE_WHOLE:
    add(schedule, FAVOR_ATTEND, SLOT_OWN, schedule->shard, NEEDS_ALL);
    break;
  }
}

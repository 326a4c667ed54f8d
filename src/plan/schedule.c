#include "plan/schedule.h"

static void add(struct schedule *schedule, enum block_kind kind, struct range window, int64_t emitted,
                int64_t absorbed) {
  if (schedule->blocks) {
    schedule->blocks[schedule->n_blocks] = (struct planned_block){
        .kind = kind, .window = window, .after = {emitted, absorbed < emitted ? emitted : absorbed}};
  }
  schedule->n_blocks++;
}

/* The end of a window that starts at a run. */
static int64_t window_end(const struct schedule *schedule, int64_t begin) {
  int64_t n = schedule->tokens->n_tokens, most = schedule->window_tokens;
  return most == 0 || n - begin <= most ? n : tokens_run_floor(schedule->tokens, begin + most);
}

static void add_measure(struct schedule *schedule) {
  int64_t first = schedule->n_blocks;
  for (int64_t begin = 0; begin < schedule->tokens->n_tokens || schedule->n_blocks == first;) {
    struct range window = {begin, window_end(schedule, begin)};
    add(schedule, BLOCK_MEASURE, window, 0, 0);
    begin = window.end;
  }
  if (schedule->blocks) schedule->blocks[schedule->n_blocks - 1].is_last_measure = true;
}

/* Blocks of one kind over a range; the position follows its end as that kind moves it. */
static void add_range(struct schedule *schedule, enum block_kind kind, struct range range,
                      const struct favor_position *absorbed) {
  for (int64_t begin = range.begin; begin < range.end;) {
    int64_t end = window_end(schedule, begin);
    if (end > range.end) end = range.end;
    if (kind == BLOCK_ABSORB) {
      add(schedule, kind, (struct range){begin, end}, absorbed->tokens_emitted, end);
    } else {
      bool is_done = end == range.end;
      add(schedule, kind, (struct range){begin, end}, end, kind == BLOCK_EMIT && !is_done ? range.end : end);
    }
    begin = end;
  }
}

/* Whole segments, as many as fit into a block; a longer one is absorbed, then emitted. */
static void build_bidirectional(struct schedule *schedule, struct favor_position at) {
  const struct tokens *tokens = schedule->tokens;
  while (at.tokens_emitted < tokens->n_tokens) {
    struct range segment = tokens_segment(tokens, at.tokens_emitted);
    int64_t end = window_end(schedule, at.tokens_emitted);
    if (at.tokens_absorbed > at.tokens_emitted || segment.end > end) {
      int64_t begin = at.tokens_absorbed > at.tokens_emitted ? at.tokens_absorbed : at.tokens_emitted;
      add_range(schedule, BLOCK_ABSORB, (struct range){begin, segment.end}, &at);
      add_range(schedule, BLOCK_EMIT, (struct range){at.tokens_emitted, segment.end}, NULL);
      end = segment.end;
    } else {
      if (end < tokens->n_tokens) end = tokens_segment(tokens, end).begin;
      add(schedule, BLOCK_ATTEND, (struct range){at.tokens_emitted, end}, end, end);
    }
    at = (struct favor_position){end, end};
  }
}

void schedule_build(struct schedule *schedule, const struct favor_position *from) {
  const int64_t n_tokens = schedule->tokens->n_tokens;
  const struct range rest = {from->tokens_emitted, n_tokens};
  bool is_start = from->tokens_emitted == 0 && from->tokens_absorbed == 0;
  schedule->n_blocks = 0;
  if (schedule->measure_needs != 0 && is_start) add_measure(schedule);
  switch (schedule->kind) {
  case SCHEDULE_BIDIRECTIONAL:
    build_bidirectional(schedule, *from);
    break;
  case SCHEDULE_CAUSAL:
    add_range(schedule, BLOCK_ATTEND, rest, NULL);
    break;
  case SCHEDULE_COPY:
    add_range(schedule, BLOCK_COPY, rest, NULL);
    break;
  case SCHEDULE_WHOLE:
    add(schedule, BLOCK_WHOLE, rest, n_tokens, n_tokens);
    break;
  }
}

unsigned schedule_needs(const struct schedule *schedule, enum block_kind kind) {
  enum { NEEDS_KEYS = FAVOR_NEEDS_K | FAVOR_NEEDS_V, NEEDS_QUERIES = FAVOR_NEEDS_Q | FAVOR_NEEDS_OUT };
  static const unsigned needs[] = {[BLOCK_ATTEND] = NEEDS_KEYS | NEEDS_QUERIES,
                                   [BLOCK_ABSORB] = NEEDS_KEYS,
                                   [BLOCK_EMIT] = NEEDS_QUERIES,
                                   [BLOCK_COPY] = FAVOR_NEEDS_V | FAVOR_NEEDS_OUT,
                                   [BLOCK_WHOLE] = NEEDS_KEYS | NEEDS_QUERIES};
  return kind == BLOCK_MEASURE ? schedule->measure_needs : needs[kind];
}

void schedule_own(const struct schedule *schedule, const struct planned_block *block, struct favor_block *own) {
  *own = (struct favor_block){.token_begin = block->window.begin, .token_end = block->window.begin};
  own->after = block->after;
  if (schedule->part < 0) return;
  struct range range = tokens_share(schedule->tokens, block->window, schedule->n_parts, schedule->part);
  own->token_begin = range.begin;
  own->token_end = range.end;
  if (range_count(range) > 0) own->needs = schedule_needs(schedule, block->kind);
}

/* A share is at most a part of the window and a run more, as it is cut at runs. */
int64_t schedule_window_tokens(int64_t n_parts, int64_t block_tokens, int64_t run_tokens) {
  if (n_parts == 1) return block_tokens;
  return n_parts * (block_tokens - run_tokens) >= run_tokens ? n_parts * (block_tokens - run_tokens) : 0;
}

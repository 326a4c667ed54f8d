/* The token axis: segments, runs, and who owns which tokens.
 *
 * A run is a fixed number of tokens counted from its segment's first token; the last of a segment may be shorter.
 * Shards and blocks begin and end at runs. */
#ifndef FAVOR_PLAN_TOKENS_H
#define FAVOR_PLAN_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

struct range {
  int64_t begin, end;
};
static inline int64_t range_count(struct range range) { return range.end - range.begin; }

struct tokens {
  int64_t n_tokens;
  int64_t n_segments;
  const int64_t *offsets; /* [n_segments + 1] */
  int64_t run_tokens;
};

/* The number of the segment that holds token t, 0 <= t < n_tokens, and its tokens. */
int64_t tokens_segment_index(const struct tokens *tokens, int64_t t);
struct range tokens_segment(const struct tokens *tokens, int64_t t);

/* The last start of a run at or before t, the first one at or after t; n_tokens for t = n_tokens. */
int64_t tokens_run_floor(const struct tokens *tokens, int64_t t);
int64_t tokens_run_ceiling(const struct tokens *tokens, int64_t t);

/* What part `index` of n_parts has of a window that begins and ends at runs: nearly equal, cut at runs, possibly empty;
 * part 0 is so only where the window is. */
struct range tokens_share(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t index);
/* The same of all tokens. */
struct range tokens_shard(const struct tokens *tokens, int64_t n_parts, int64_t index);

/* A segment of whose tokens in a window several parts have some. Its members are all parts from the first of these to
 * the last, also those between that have none. */
struct span {
  bool is_member;         /* this part */
  int64_t first_part;     /* the first member */
  int64_t n_parts;        /* members */
  bool is_first, is_last; /* of the members */
  struct range piece;     /* the tokens of it that this part has */
};

/* The spans of a window one after another, along the axis. */
struct span_walk {
  const struct tokens *tokens;
  struct range window;
  int64_t n_parts;
  int64_t number;       /* of the span at hand; -1 before the first */
  int64_t first, last;  /* its members */
  struct range segment; /* its tokens that are in the window */
};
static inline struct span_walk tokens_walk_spans(const struct tokens *tokens, struct range window, int64_t n_parts) {
  return (struct span_walk){.tokens = tokens, .window = window, .n_parts = n_parts, .number = -1};
}
/* False past the last. All steps together take O(n_parts log n_parts) looks at a share. */
bool tokens_next_span(struct span_walk *walk);
/* The span at hand, as a member of it sees it. */
struct span tokens_member_span(const struct span_walk *walk, int64_t index);

/* The at most two spans of part `index`. Spans are numbered along the axis; those of one part have numbers of
 * different parity, so span[parity] never collides: two rounds of disjoint groups serve them all. */
void tokens_spans(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t index,
                  struct span spans[2]);

#endif

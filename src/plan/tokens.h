/* The token axis: segments, runs, and who owns which tokens.
 *
 * A run is a fixed number of tokens counted from its segment's first token; the last of a segment may be shorter.
 * Shards and steps begin and end at runs. */
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

/* The last start of a run at or before t; n_tokens for t = n_tokens. */
int64_t tokens_run_floor(const struct tokens *tokens, int64_t t);

/* What part `index` of n_parts owns: nearly equal, cut at runs, possibly empty. */
struct range tokens_shard(const struct tokens *tokens, int64_t n_parts, int64_t index);

/* A segment that several parts share. */
struct span {
  bool is_member;         /* of this part: it owns some of the segment's tokens, or stands between parts that do */
  int64_t first_part;     /* the span's name: the first part that owns some of it */
  int64_t n_parts;        /* from that to the last one that does */
  bool is_first, is_last; /* among the parts that own some of it */
  struct range piece;     /* the tokens of it that this part owns, possibly none */
};

/* The at most two spans of part `index`. Spans are numbered along the axis; those of one part have numbers of
 * different parity, so span[parity] never collides: two rounds of disjoint groups serve them all. */
void tokens_spans(const struct tokens *tokens, int64_t n_parts, int64_t index, struct span spans[2]);

#endif

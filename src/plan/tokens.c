#include "plan/tokens.h"

int64_t tokens_segment_index(const struct tokens *tokens, int64_t t) {
  /* The last segment that begins at or before t; empty ones before it begin at the same token and end there. */
  int64_t low = 0, high = tokens->n_segments - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (tokens->offsets[middle] <= t) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

struct range tokens_segment(const struct tokens *tokens, int64_t t) {
  int64_t index = tokens_segment_index(tokens, t);
  return (struct range){tokens->offsets[index], tokens->offsets[index + 1]};
}

int64_t tokens_run_floor(const struct tokens *tokens, int64_t t) {
  if (t >= tokens->n_tokens) return tokens->n_tokens;
  int64_t begin = tokens_segment(tokens, t).begin;
  return t - (t - begin) % tokens->run_tokens;
}

int64_t tokens_run_ceiling(const struct tokens *tokens, int64_t t) {
  int64_t floor = tokens_run_floor(tokens, t);
  if (floor == t) return t;
  struct range segment = tokens_segment(tokens, t);
  return floor + tokens->run_tokens < segment.end ? floor + tokens->run_tokens : segment.end;
}

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t boundary(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t index) {
  int64_t whole = range_count(window) / n_parts, rest = range_count(window) % n_parts;
  return tokens_run_ceiling(tokens, window.begin + whole * index + ceil_divide(rest * index, n_parts));
}

struct range tokens_share(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t index) {
  return (struct range){boundary(tokens, window, n_parts, index), boundary(tokens, window, n_parts, index + 1)};
}

struct range tokens_shard(const struct tokens *tokens, int64_t n_parts, int64_t index) {
  return tokens_share(tokens, (struct range){0, tokens->n_tokens}, n_parts, index);
}

/* The last part that has some of a window's tokens before `end`, of those from `part` on. */
static int64_t last_part(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t part, int64_t end) {
  int64_t last = part;
  for (int64_t next = part + 1; next < n_parts; next++) {
    struct range share = tokens_share(tokens, window, n_parts, next);
    if (share.begin >= end) break;
    if (range_count(share) > 0) last = next;
  }
  return last;
}

void tokens_spans(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t index,
                  struct span spans[2]) {
  spans[0] = spans[1] = (struct span){0};
  int64_t number = 0;
  for (int64_t part = 0; part < n_parts && part <= index;) {
    struct range share = tokens_share(tokens, window, n_parts, part);
    struct range segment = range_count(share) > 0 ? tokens_segment(tokens, share.end - 1) : share;
    if (segment.end > window.end) segment.end = window.end;
    if (segment.end <= share.end) { /* nothing, or its last segment ends with it */
      part++;
      continue;
    }
    int64_t last = last_part(tokens, window, n_parts, part, segment.end);
    if (index <= last) {
      struct range own = tokens_share(tokens, window, n_parts, index);
      struct span *span = &spans[number % 2];
      *span = (struct span){.is_member = true,
                            .first_part = part,
                            .n_parts = last - part + 1,
                            .is_first = index == part,
                            .is_last = index == last,
                            .piece = own};
      if (range_count(own) > 0 && span->piece.begin < segment.begin) span->piece.begin = segment.begin;
      if (range_count(own) > 0 && span->piece.end > segment.end) span->piece.end = segment.end;
    }
    number++;
    part = last;
  }
}

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

/* The last part that has some of a window's tokens before `end`, of those from `part` on, which has some. */
static int64_t last_part(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t part, int64_t end) {
  /* The last that begins before `end`: the next one begins there or later, so it is not empty. */
  int64_t low = part, high = n_parts - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (boundary(tokens, window, n_parts, middle) < end) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

bool tokens_next_span(struct span_walk *walk) {
  /* The last member of a span may be the first of the next. */
  for (int64_t part = walk->number < 0 ? 0 : walk->last; part < walk->n_parts; part++) {
    const struct range share = tokens_share(walk->tokens, walk->window, walk->n_parts, part);
    if (range_count(share) == 0) continue;
    struct range segment = tokens_segment(walk->tokens, share.end - 1);
    if (segment.end > walk->window.end) segment.end = walk->window.end;
    if (segment.end <= share.end) continue; /* its last segment ends with it */
    walk->number++;
    walk->first = part;
    walk->last = last_part(walk->tokens, walk->window, walk->n_parts, part, segment.end);
    walk->segment = segment;
    return true;
  }
  return false;
}

struct span tokens_member_span(const struct span_walk *walk, int64_t index) {
  const struct range own = tokens_share(walk->tokens, walk->window, walk->n_parts, index);
  struct span span = {.is_member = true,
                      .first_part = walk->first,
                      .n_parts = walk->last - walk->first + 1,
                      .is_first = index == walk->first,
                      .is_last = index == walk->last,
                      .piece = own};
  if (range_count(own) > 0 && own.begin < walk->segment.begin) span.piece.begin = walk->segment.begin;
  if (range_count(own) > 0 && own.end > walk->segment.end) span.piece.end = walk->segment.end;
  return span;
}

void tokens_spans(const struct tokens *tokens, struct range window, int64_t n_parts, int64_t index,
                  struct span spans[2]) {
  struct span_walk walk = tokens_walk_spans(tokens, window, n_parts);
  spans[0] = spans[1] = (struct span){0};
  while (tokens_next_span(&walk) && walk.first <= index) {
    if (index <= walk.last) spans[walk.number % 2] = tokens_member_span(&walk, index);
  }
}

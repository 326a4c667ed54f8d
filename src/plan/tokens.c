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

static int64_t boundary(const struct tokens *tokens, int64_t n_parts, int64_t index) {
  int64_t whole = tokens->n_tokens / n_parts, rest = tokens->n_tokens % n_parts;
  return tokens_run_floor(tokens, whole * index + rest * index / n_parts);
}

struct range tokens_shard(const struct tokens *tokens, int64_t n_parts, int64_t index) {
  return (struct range){boundary(tokens, n_parts, index), boundary(tokens, n_parts, index + 1)};
}

void tokens_spans(const struct tokens *tokens, int64_t n_parts, int64_t index, struct span spans[2]) {
  spans[0] = spans[1] = (struct span){0};
  int64_t number = 0;
  for (int64_t part = 0; part < n_parts;) {
    struct range shard = tokens_shard(tokens, n_parts, part);
    if (range_count(shard) == 0) {
      part++;
      continue;
    }
    struct range segment = tokens_segment(tokens, shard.end - 1);
    if (segment.end <= shard.end) { /* its last segment ends with it */
      part++;
      continue;
    }
    /* The segment goes on: find the last part that owns some of it. */
    int64_t last = part;
    for (int64_t next = part + 1; next < n_parts; next++) {
      struct range other = tokens_shard(tokens, n_parts, next);
      if (other.begin >= segment.end) break;
      if (range_count(other) > 0) last = next;
    }
    struct range own = tokens_shard(tokens, n_parts, index);
    if (index >= part && index <= last) {
      struct span *span = &spans[number % 2];
      span->is_member = true;
      span->first_part = part;
      span->n_parts = last - part + 1;
      span->is_first = index == part;
      span->is_last = index == last;
      span->piece.begin = own.begin > segment.begin ? own.begin : segment.begin;
      span->piece.end = own.end < segment.end ? own.end : segment.end;
    }
    number++;
    part = last;
  }
}

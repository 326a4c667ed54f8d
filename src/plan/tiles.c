#include "plan/tiles.h"

void tiles_number(struct tiles *tiles) {
  const struct tokens *tokens = tiles->tokens;
  tiles->before[0] = 0;
  for (int64_t s = 0; s < tokens->n_segments; s++) {
    int64_t n = tokens->offsets[s + 1] - tokens->offsets[s];
    tiles->before[s + 1] = tiles->before[s] + (n + tokens->run_tokens - 1) / tokens->run_tokens;
  }
}

int64_t tiles_at(const struct tiles *tiles, int64_t t) {
  const struct tokens *tokens = tiles->tokens;
  if (t >= tokens->n_tokens) return tiles->before[tokens->n_segments];
  int64_t segment = tokens_segment_index(tokens, t);
  return tiles->before[segment] + (t - tokens->offsets[segment]) / tokens->run_tokens;
}

struct tile tiles_tile(const struct tiles *tiles, int64_t index) {
  const struct tokens *tokens = tiles->tokens;
  /* The last segment with at most this many tiles before it: it is not empty. */
  int64_t low = 0, high = tokens->n_segments - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (tiles->before[middle] <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  struct tile tile = {.segment = {tokens->offsets[low], tokens->offsets[low + 1]}};
  tile.tokens.begin = tile.segment.begin + (index - tiles->before[low]) * tokens->run_tokens;
  tile.tokens.end = tile.tokens.begin + tokens->run_tokens;
  if (tile.tokens.end > tile.segment.end) tile.tokens.end = tile.segment.end;
  return tile;
}

struct range tiles_of(const struct tiles *tiles, struct range tokens) {
  if (range_count(tokens) <= 0) return (struct range){0, 0};
  return (struct range){tiles_at(tiles, tokens.begin), tiles_at(tiles, tokens.end - 1) + 1};
}

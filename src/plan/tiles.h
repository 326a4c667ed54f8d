/* All tiles of the token axis by number: run_tokens tokens counted from their segment's first one, a segment's last
 * tile maybe shorter. Shards are whole tiles, so of them too each part has a range. */
#ifndef FAVOR_PLAN_TILES_H
#define FAVOR_PLAN_TILES_H

#include "plan/tokens.h"

struct tiles {
  const struct tokens *tokens;
  int64_t *before; /* [n_segments + 1]: tiles before each segment, and all; the caller's memory */
};

/* Fills `before` from tokens. */
void tiles_number(struct tiles *tiles);

/* The tile that token t, 0 <= t <= n_tokens, stands in or begins. */
int64_t tiles_at(const struct tiles *tiles, int64_t t);

/* The tokens of a tile, and its segment. */
struct tile {
  struct range tokens, segment;
};
struct tile tiles_tile(const struct tiles *tiles, int64_t index);

/* The tiles that hold tokens of a range. */
struct range tiles_of(const struct tiles *tiles, struct range tokens);

#endif

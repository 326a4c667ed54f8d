/* Features of keys, kept from attend_absorb for attend_causal over the same tokens: a place for each tile.
 *
 * What stands in a place is known by its first token and by the pass; anything else is as if nothing stood there. So
 * tokens may share a place, and nobody has to clear one: whatever is not found is computed again, to the same bits. */
#ifndef FAVOR_CORE_KEPT_H
#define FAVOR_CORE_KEPT_H

#include "kernel/kernel.h"

struct kept_tag {
  int64_t pass, token;
};

/* The places of a piece's tiles. */
struct kept_tiles {
  struct kept_tag *tags; /* [n] */
  char *features;        /* [n] tiles of tile_bytes, kernel_ops.features_bytes */
  size_t tile_bytes;
  int64_t n; /* from the piece's first tile; 0: none are kept, and nothing else is valid */
  struct kept_tag first;
};

static inline struct kernel_features *kept_at(const struct kept_tiles *kept, int64_t tile) {
  return (struct kernel_features *)(void *)(kept->features + kept->tile_bytes * (size_t)tile);
}

static inline struct kept_tag kept_tag_of(const struct kept_tiles *kept, const struct kernel *kernel, int64_t tile) {
  return (struct kept_tag){kept->first.pass, kept->first.token + tile * kernel->tile_tokens};
}

/* The place of the tile at token t of the piece, made its own; NULL where there is none, or none starts there. */
static inline struct kernel_features *kept_claim(const struct kept_tiles *kept, const struct kernel *kernel,
                                                 int64_t t) {
  const int64_t tile = t / kernel->tile_tokens;
  if (tile >= kept->n || t % kernel->tile_tokens != 0) return NULL;
  struct kernel_features *features = kept_at(kept, tile);
  kept->tags[tile] = kept_tag_of(kept, kernel, tile);
  features->n = 0;
  return features;
}

/* The features of the tile that token t of the piece is in, where a causal tile starts; else NULL. */
static inline struct kernel_features *kept_find(const struct kept_tiles *kept, const struct kernel *kernel, int64_t t) {
  const int64_t tile = t / kernel->tile_tokens;
  if (tile >= kept->n || t % kernel->causal_tokens != 0) return NULL;
  const struct kept_tag tag = kept_tag_of(kept, kernel, tile);
  return kept->tags[tile].pass == tag.pass && kept->tags[tile].token == tag.token ? kept_at(kept, tile) : NULL;
}

#endif

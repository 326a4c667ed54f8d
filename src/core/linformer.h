/* Keys and values projected along the length of their segment (Wang et al. 2020, "Linformer"): the mathematics of one
 * rank.
 *
 *   k'_r = sum_j E_rj k_j,  v'_r = sum_j F_rj v_j,  E_rj and F_rj independently +-M^-1/2 (favor.h)
 *
 * Row r is a binned row (base/binned.h) of D + E elements, M^1/2 k'_r and M^1/2 v'_r. A tile's own sums are real; their
 * addition is exact, so any threads and ranks give the same bits. */
#ifndef FAVOR_CORE_LINFORMER_H
#define FAVOR_CORE_LINFORMER_H

#include "base/random.h"
#include "core/attend.h"
#include "feature/projection.h"

enum {
  LINFORMER_TILE = 128,     /* tokens */
  LINFORMER_BLOCK_ROWS = 64 /* whose signs are drawn together */
};

struct linformer {
  const struct engine *engine;
  int64_t rows;                      /* M */
  struct random_stream keys, values; /* the signs of E and F */
};
/* For one key head; name.key_head is its number in the problem. */
struct linformer linformer_make(const struct engine *engine, int64_t rows, const struct projection_name *name);

size_t linformer_row_bytes(const struct engine *engine);
void linformer_clear(const struct linformer *linformer, void *rows);

static inline int64_t linformer_blocks(const struct linformer *linformer) {
  return (linformer->rows + LINFORMER_BLOCK_ROWS - 1) / LINFORMER_BLOCK_ROWS;
}

/* Adds a piece of a segment, whose first token is number `token` of the segment and begins a tile, to the rows of one
 * block. rows: all M. scratch: linformer_scratch_bytes, aligned to 64. */
size_t linformer_scratch_bytes(const struct engine *engine);
void linformer_absorb(const struct linformer *linformer, const struct piece_keys *keys, int64_t token, int64_t block,
                      void *rows, void *scratch);

/* k' real [M][D] and v' real [M][E], of complete rows; the largest number in place of larger ones. */
void linformer_read(const struct linformer *linformer, const void *rows, double *row, void *k, void *v);

#endif

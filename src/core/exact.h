/* Softmax attention of one head, tile by tile: the mathematics of one rank.
 *
 *   out_i = sum_j p_ij v_j / sum_j p_ij,  p_ij = exp(scale q_i . k_j)   over the keys j that query i sees
 *
 * Tiles of keys are folded one after the other into the running sums of a tile of queries, each query with a running
 * maximum (online softmax, Milakov and Gimelshein 2018; the outer loop of FlashAttention, Dao et al. 2022). The maximum
 * is kept as an integer power of two, p_ij = 2^f 2^(n - top) with |f| <= 1/2, as kernel.h keeps features: when it
 * rises, what was summed is scaled exactly. Products and exponentials of a tile are real; tiles meet in double, so that
 * sums over millions of keys do not drift.
 *
 * Bits. A tile is computed with the same operations however many of its queries and keys are there, and a query's
 * outputs depend on the keys it sees alone, their places in their tiles, and the order of the tiles. Nothing finite
 * overflows: a query whose |q_i| |k_j| is so large that the logit would be no good in real has this tile's logits in
 * double (of doubles: in long double), and values near the largest number enter scaled.
 */
#ifndef FAVOR_CORE_EXACT_H
#define FAVOR_CORE_EXACT_H

#include "core/attend.h"

enum { EXACT_TILE = 64 };

struct exact {
  const struct engine *engine; /* its precision, f32 or f64, its widths and its norms() */
  double scale;                /* of the logits */
};

/* A tile of keys and values, ready to be folded: plain bytes without addresses, which other ranks may be sent.
 * 1 <= keys->n <= EXACT_TILE, all finite. */
size_t exact_keys_bytes(const struct exact *exact);
void exact_pack(const struct exact *exact, const struct piece_keys *keys, void *packed);

/* A tile of queries, 1 <= n <= EXACT_TILE, all finite, with their running sums in memory of exact_sums_bytes. */
struct exact_queries {
  int64_t n;
  const void *q;
  int64_t q_stride; /* elements */
  void *sums;
};
size_t exact_sums_bytes(const struct exact *exact);
/* Forgets all keys. */
void exact_begin(const struct exact *exact, const struct exact_queries *queries);

/* The keys of the tile that a query sees, counted in the tile; begin == end: none. */
struct exact_range {
  int32_t begin, end;
};
/* visible [n], or NULL where every query sees the whole tile. scratch: exact_scratch_bytes, of this thread. */
size_t exact_scratch_bytes(const struct exact *exact);
void exact_fold(const struct exact *exact, const void *packed, const struct exact_queries *queries,
                const struct exact_range *visible, void *scratch);

/* The same where a query sees any keys of a tile: bit j of seen[i] stands for key j. */
void exact_fold_some(const struct exact *exact, const void *packed, const struct exact_queries *queries,
                     const uint64_t *seen, void *scratch);

/* A query's running sums: its weights and its weights times values [E], both relative to 2^top, an integer; of the
 * values at some scale of exact.c's own, the same for all queries. total 0: it saw no key. */
struct exact_sum {
  double *top, *total, *acc;
};
struct exact_sum exact_sum_at(const struct exact *exact, const struct exact_queries *queries, int64_t i);

/* The outputs, out [n] rows of E at a stride; zeros for a query that saw no key. */
void exact_emit(const struct exact *exact, const struct exact_queries *queries, void *out, int64_t out_stride);

#endif

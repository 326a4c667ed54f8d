/* Exact attention inside a window joined to features outside it: the arithmetic on tiles.
 *
 * All weights of a query are kept in the units of the kernels (kernel/kernel.h): a feature weight is
 *   sum_r 2^l_r(q_i) 2^l_r(k_j), without the query's half norm and the factor 1/R of the estimate of exp(q~.k~),
 * so an exact weight is brought to them: 2^(q~_i.k~_j / ln 2 + h_i + exact_log2), exact_log2 = log2 R.
 * Weights are value 2^integer, so that every change of scale is exact. A row of a tile of queries is summed at the
 * integer exponent of its largest weight so far, which is in [1/2, 2) there: nothing underflows that counts, the sum of
 * a row is never 0, and what is 0 beside the rest may be.
 *
 * Rows are those that kernels see (core/transform.h), inside the window too: the exact weights of L q and L^-T (k - s)
 * are those of q and k times a factor of the query alone. With oprf they are Bc times longer, so that norms and exact
 * products are divided by Bc^2; their columns of biases are 0 in queries, and so of no account in q.k; and R becomes
 * R / (Dc^2 exp(2 A D)), as features leave that out.
 *
 * A tile is computed with the same operations however many of its tokens are there. */
#ifndef FAVOR_CORE_HYBRID_TILE_H
#define FAVOR_CORE_HYBRID_TILE_H

#include "core/transform.h"

/* Of a weight of nothing; far below all others, and far enough from the ends of int32_t to be added to. */
#define HYBRID_NOTHING (INT32_MIN / 2)

/* Products of features below 2^-HYBRID_LOST_BELOW of the largest factors may have underflowed in part. */
enum { HYBRID_LOST_BELOW = 80 };

/* Features of a few tiles of keys are kept: all that a tile of queries meets where those are few, else the two at
 * either end of its windows, each of which meets two tiles of queries in a row. */
enum { HYBRID_SLOTS = 8 };

/* A tile of keys as the factor of a product: 2^(l_r - top), top = max_r n_r. */
struct hybrid_keys {
  int64_t token; /* its first; -1: nothing */
  void *factor;  /* real [tile][R] */
  int32_t *top;  /* [tile] */
};

/* One thread's scratch. "real" is double in f64 and float in f32. */
struct hybrid_tile {
  const struct engine *engine;
  int64_t tokens; /* of a tile */
  /* Of the head at hand. */
  double exact_log2;
  double half_norm_factor; /* the engine's over Bc^2 */
  const void *projection;  /* real [directions][D], W sqrt(scale) / ln 2 */

  int64_t n_queries;
  void *q;               /* real [tile][D], zeros past n_queries */
  void *fraction;        /* real [tile][R]: 2^f of the queries */
  int32_t *exponent;     /* [tile][R]: n */
  void *query;           /* real [tile][R]: 2^(l_r - query_top) */
  int32_t *query_top;    /* [tile] */
  double *half_norm;     /* [tile] */
  void *exact_part;      /* real [tile] */
  int32_t *exact_whole;  /* [tile]: h_i + exact_log2 = whole + part */
  void *factor;          /* real [tile][R] */
  int32_t *key_exponent; /* [tile][R]: n of the keys at hand */
  void *state_sum;       /* real [tile][E] */
  void *state_total;     /* real [tile] */
  int32_t *state_top;    /* [tile] */
  struct hybrid_keys slot[HYBRID_SLOTS];

  void *k, *v;                 /* real [tile][D], [tile][E]: keys that need padding, values */
  void *logit, *pair, *weight; /* real [tile][tile] */
  void *row;                   /* real [tile]: a row of weights, */
  int32_t *row_exponent;       /* [tile]: and their exponents */
  void *near_sum;              /* real [tile][E]: of the tiles that were met one by one */
  void *near_part;             /* real [tile]: sum of a tile's weights */
  double *near_total;          /* [tile] */
  int32_t *near_top;           /* [tile] */
  int32_t *far_reach;          /* [tile]: the largest top of the keys met by features */
  void *ones;                  /* real [tile] */

  int32_t *near_shift;                      /* [E]: columns of near_sum stand for 2^near_shift of it */
  void *v_scale;                            /* real [E]: 2^-near_shift */
  double *near_scale, *state_scale, *scale; /* [E]: 2^near_shift, 2^shift of the state's columns, 1 */
};

/* A tile of keys that meets the tile of queries. */
struct hybrid_meeting {
  int64_t n_keys;
  const void *k, *v;       /* rows of D, E without a gap */
  const void *v_scale;     /* real [E], powers of two that values enter with; NULL: ones */
  int64_t ahead;           /* the first key's token less the first query's */
  int64_t before, after;   /* the window of query i: keys from i - before to i + after, i among them */
  bool is_causal;          /* no key is past its query */
  struct hybrid_keys *far; /* for keys outside the window; NULL: there is none */
};

size_t hybrid_tile_bytes(const struct engine *engine, int64_t tokens);
/* Lays a tile out in memory of hybrid_tile_bytes (zeroed, aligned to 64). */
void hybrid_tile_place(const struct engine *engine, int64_t tokens, void *memory, struct hybrid_tile *tile);

/* Takes the next head. */
void hybrid_take_head(struct hybrid_tile *tile, const struct row_transform *transform, const void *projection);
/* half_norm [n] of keys, rows of shape.key_width without a gap. */
void hybrid_half_norms(const struct hybrid_tile *tile, int64_t n, const void *k, double *half_norm);
/* Takes the next n queries; forgets what they met. */
void hybrid_take_queries(struct hybrid_tile *tile, int64_t n, const void *q, int64_t q_stride);
/* state_sum[i] = sum_r 2^l_r S_r, state_total[i] = sum_r 2^l_r z_r, at exponent state_top[i]. */
void hybrid_read_state(struct hybrid_tile *tile, const struct kernel_sum *state);
/* Computes features of n keys, rows of D without a gap. */
void hybrid_take_keys(struct hybrid_tile *tile, int64_t n, const void *k, struct hybrid_keys *keys);
/* near_sum[i] += sum_j weight_ij v_j, near_total[i] += sum_j weight_ij, at exponent near_top[i], which rises first. */
void hybrid_meet(struct hybrid_tile *tile, const struct hybrid_meeting *meeting);

/* sum[e] scale[e] factor, of a row of E reals. */
struct hybrid_part {
  const void *sum;
  const double *scale; /* [E], powers of two */
  double factor;
};
/* out[e] = the sum of the parts, within the range of real; out may be the sum of one of them. */
void hybrid_combine(const struct engine *engine, const struct hybrid_part parts[3], void *out);

/* to += from, both filled and at the same shifts. */
void hybrid_add_sum(const struct engine *engine, const struct kernel_sum *from, struct kernel_sum *to);

#endif

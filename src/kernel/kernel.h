/* Kernels: the arithmetic on one tile of tokens, as data.
 *
 * A kernel is a name, a test of the machine, two block sizes and one table of functions for each precision. It never
 * allocates, never fails and never communicates; `reference` is plain C and the specification of the others.
 *
 * Numbers. W is packed as W' = W sqrt(scale) / ln 2, so that for a token x and feature r
 *   u_r = w'_r . x,   h = |x|^2 scale / (2 ln 2),   log2 of the feature's weight: l_r = u_r - h (the factor M^-1/2
 * cancels in every output). The half norm is split, h = H + eta with H = rint(h), and then
 *   n_r = rint(u_r - eta) - H,   f_r = (u_r - eta) - rint(u_r - eta),   phi_r = 2^f_r 2^n_r,   |f_r| <= 1/2,
 * so that the largest rounding error is one of u_r, and every change of scale is by an exact power of two. (A kernel
 * may cut elsewhere, with -1/2 <= f_r <= 1, as long as integers are exact.) A query's half norm cancels in its output
 * and is left out: H = eta = 0. Where a shape has both signs of every direction, feature directions + r is that of
 * -w'_r: the same with -u_r in place of u_r.
 *
 * That is for the exponential maps. Where a shape names another map (map.h), W is packed as W sqrt(scale), the map
 * makes phi_r = f_r 2^n_r of u_r = w_r . x~, and f_r may be negative or 0. The rest is the same but for what signs
 * allow: a normaliser may be 0, and the output is then 0; outputs beyond the largest number of `real` become that
 * number.
 *
 * A sum holds keys of one run, or a state rounded for reading: row r, column e stand for s[r][e] 2^(exponent[r] +
 * shift[e]) and z[r] 2^exponent[r], exponent[r] = max n_r over the keys absorbed. All rows are filled or none is.
 *
 * Results depend only on what stands before: a tile is computed with the same operations however many of its tokens
 * are there, so that neither the end of a segment nor anything later changes a bit of an earlier causal output.
 */
#ifndef FAVOR_KERNEL_KERNEL_H
#define FAVOR_KERNEL_KERNEL_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernel/map.h"

enum { KERNEL_N_PRECISIONS = 3 }; /* of enum favor_precision */

struct kernel_shape {
  int64_t key_width;   /* D */
  int64_t value_width; /* E */
  int64_t directions;  /* rows of W */
  int64_t features;    /* M, rows of a sum: the directions, or those of both signs (kernel_signs), or the map's */
  int64_t s_stride;    /* elements from one row of a sum's s to the next, >= E, a multiple of 16 */
  /* D', the power of two from D up: the projection is a Hadamard one, and its fast transform may be used; 0: it is not.
   */
  int64_t hadamard_width;
  const struct kernel_map *map; /* NULL: exponential, of one sign or both */
};

/* The projection of one key head. */
struct kernel_projection {
  const double *w; /* [directions][D], already rounded to real */
  /* Of a Hadamard projection, else NULL: row b D' + i of W is
   *   lengths[b D' + i] D'^-3/2 (row i of H diag(signs[2 b + 2]) H diag(signs[2 b + 1]) H diag(signs[0])), cut to D
   * columns, with H[i][j] = (-1)^(number of ones in i & j), Sylvester's Hadamard matrix. */
  const double *signs;   /* [1 + 2 blocks][D'], 1 and -1 */
  const double *lengths; /* [directions] */
};

/* How many features a direction has: 2 where both its signs count, or its map makes two. */
static inline int64_t kernel_signs(const struct kernel_shape *shape) { return shape->features / shape->directions; }

/* "real" is double in the f64 table, and float in those of f32 and bf16. In bf16 both factors of every product are
 * rounded to bfloat16 (8 bits of a mantissa, the exponents of f32), W before it comes here; what is summed stays float.
 */
struct kernel_sum {
  int32_t *exponent; /* [M] */
  void *s;           /* real [M][s_stride] */
  void *z;           /* real [M] */
  bool is_empty;     /* no key absorbed: nothing else is valid */
};

struct kernel_keys {
  int64_t n; /* tokens, 1 <= n <= tile_tokens */
  const void *k;
  int64_t k_stride;
  const void *v;
  int64_t v_stride;
  const double *half_norm; /* [n] h of each key; causal: neither it nor k is read where kernel_has_features */
  const void *v_scale;     /* real [E], powers of two that values enter the sum with; NULL: ones */
  /* NULL; or for absorb, where to keep the features of these keys, which start a tile; or for causal, those of the tile
   * that the keys are in. */
  struct kernel_features *features;
  int64_t features_begin; /* causal: where in that tile the keys start, at a multiple of causal_tokens */
};

/* The features of a tile of keys, kept by absorb() so that causal() need not compute them again: features_bytes of
 * memory, aligned to 64, those of one tile after those of the one before. Both passes must come with the same tokens,
 * and the same sums. */
struct kernel_features {
  int64_t n; /* how many keys they are of; 0: of none, as they did not fit the exponents of one sum */
};

/* The same n tokens of each query head that shares the key head. */
struct kernel_queries {
  int64_t n;
  int64_t n_heads;
  const void *q;
  int64_t q_head_stride, q_stride;
  void *out;
  int64_t out_head_stride, out_stride;
  const void *out_scale;   /* real [E], powers of two that outputs leave with; NULL: ones */
  const double *half_norm; /* [n_heads] at a stride, [n] h of each query; not read without a map */
  int64_t half_norm_head_stride;
  bool *is_lost; /* [n_heads][n], causal only: set where the row's weights were lost (kernel_is_lost) */
};

struct kernel_job {
  const struct kernel_shape *shape;
  const void *weights;                            /* from pack_weights */
  void *scratch;                                  /* scratch_bytes, of this thread */
  const struct kernel_map_parameters *parameters; /* of the key head's map; NULL without one */
};

struct kernel_ops {
  size_t (*features_bytes)(const struct kernel_shape *shape); /* NULL: this kernel keeps no features */
  size_t (*weights_bytes)(const struct kernel_shape *shape);
  /* factor = sqrt(scale) / ln 2, and with a map sqrt(scale). */
  void (*pack_weights)(const struct kernel_shape *shape, const struct kernel_projection *projection, double factor,
                       void *weights);
  size_t (*scratch_bytes)(const struct kernel_shape *shape);

  /* norm2[i] = |x_i|^2 in double; NaN or Inf in a row makes its norm2 so. */
  void (*norms)(int64_t n, int64_t width, const void *x, int64_t stride, double *norm2);
  /* peak[e] = max(peak[e], |x_ie|) as an integer of real's bits, so that Inf and NaN are the largest. */
  void (*peaks)(int64_t n, int64_t width, const void *x, int64_t stride, void *peak);

  /* sum += the tile's keys: the exponents rise first. */
  void (*absorb)(const struct kernel_job *job, const struct kernel_keys *keys, struct kernel_sum *sum);
  /* out_i = Q'_i S / Q'_i z from a filled state. */
  void (*emit)(const struct kernel_job *job, const struct kernel_queries *queries, const struct kernel_sum *state);
  /* out_i from the keys before the tile, of which the state holds some and the sum the others, and the tile's keys
   * j <= i, queries and keys being the same tokens; then sum += keys. Either may be empty; their shifts are those of
   * v_scale. Lost rows are left unwritten; `before`, memory for a sum, holds state + sum of before the tile then. */
  void (*causal)(const struct kernel_job *job, const struct kernel_keys *keys, const struct kernel_queries *queries,
                 const struct kernel_sum *state, struct kernel_sum *sum, struct kernel_sum *before);
};

struct kernel {
  const char *name;
  bool (*is_supported)(void);
  int64_t tile_tokens;                         /* most tokens of absorb() and emit() */
  int64_t causal_tokens;                       /* most tokens of causal(): divides tile_tokens */
  int64_t run_tiles;                           /* tiles summed in `real` before they go into the reproducible state */
  bool has_maps;                               /* of map.h; or else the exponential ones alone */
  struct kernel_ops real[KERNEL_N_PRECISIONS]; /* by enum favor_precision; absorb == NULL where it is missing */
};

/* Whether causal(), of a kernel with these causal_tokens, takes the features of these keys from keys->features. */
static inline bool kernel_has_features(int64_t causal_tokens, const struct kernel_keys *keys) {
  if (!keys->features) return false;
  const int64_t n = keys->features->n - keys->features_begin;
  return keys->n == (n < causal_tokens ? n : causal_tokens);
}

/* A causal row's own tile is lost where its f32 weights are so small that products may have underflowed
 * (intra: their sum, at exponent intra_exponent), unless the state's part (>= 1/2 at state_exponent) dwarfs them. The
 * caller computes lost rows anew in double, with exponents of unlimited range. Of signed weights a sum that is not
 * small tells that not all of them are; a small one may be their cancelling, and is then computed anew for nothing. */
#define KERNEL_LOST_BELOW 0x1p-80
#define KERNEL_DWARFED_BY 40
static inline bool kernel_is_lost(double intra, int64_t intra_exponent, bool has_state, int64_t state_exponent) {
  return !(fabs(intra) >= KERNEL_LOST_BELOW) && !(has_state && state_exponent - intra_exponent >= -KERNEL_DWARFED_BY);
}

extern const struct kernel kernel_reference;
extern const struct kernel kernel_blas;
extern const struct kernel kernel_avx512, kernel_avx512bf16, kernel_avx2; /* on x86-64 */

/* The kernels of this build, best first; NULL past the last. */
const struct kernel *kernel_at(int index);
/* By name, or the best supported one for "auto", that has the precision and the map (NULL: the exponential ones, which
 * every kernel has); NULL: no such kernel here. */
const struct kernel *kernel_find(const char *name, int precision, const struct kernel_map *map);

/* Keeps BLAS to the calling thread. */
void kernel_blas_single_thread(void);
/* Which BLAS, and the core it chose: part of what ranks must agree on, as its bits depend on it. */
const char *kernel_blas_description(void);

#endif

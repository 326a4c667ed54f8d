/* The tile algorithm of kernel.h, once for each kernel that works on matrix products of tile size and each precision.
 *
 * The including file defines
 *   REAL           float or double
 *   REAL_BITS      uint32_t or uint64_t, and the format: REAL_MANTISSA_BITS, REAL_BIAS, REAL_MAX
 *   REAL_MAP       the member of struct kernel_map that is for REAL
 *   TILE           tokens of a tile
 *   NAME(x)        the name of function x in this instance
 * and before inclusion, row-major, c = a b + beta c with beta 0 or 1:
 *   NAME(product_nt)(m, n, k, a, lda, b, ldb, c, ldc)          c  = a b^T
 *   NAME(product_nn)(m, n, k, a, lda, b, ldb, c, ldc)          c  = a b
 *   NAME(product_tn_add)(m, n, k, a, lda, b, ldb, c, ldc)      c += a^T b
 *   NAME(exp2_fraction)(x), NAME(nearest)(x)                   2^x for |x| <= 1/2; rint(x)
 */

/* 2^n, and 0 where that is below the normal range: flushed, so that it is a function of n alone. n <= REAL_BIAS. */
static inline REAL NAME(power_of_two)(int32_t n) {
  int32_t biased = n + REAL_BIAS;
  biased = biased < 0 ? 0 : biased;
  REAL_BITS bits = (REAL_BITS)biased << REAL_MANTISSA_BITS;
  REAL x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Exponents differ by less than 2^31 (plan checks the sizes that enter); the lowest is as good as minus infinity. */
static inline int32_t NAME(step_down)(int32_t from, int32_t to) { return from < to ? from - to : 0; }

#include "kernel/join.h"

struct NAME(scratch) {
  REAL *x, *v;                                /* [TILE][D], [TILE][E]: a tile that needs padding or scaling */
  REAL *key, *query;                          /* [TILE][M]: 2^f, or a map's f */
  REAL *weight;                               /* [TILE][M]: a factor of a product */
  REAL *key_tile;                             /* [TILE][M]: keys at their own exponents */
  REAL *pair;                                 /* [TILE][TILE]: weights of key j for query i */
  REAL *state_sum, *tile_sum;                 /* [TILE][E] */
  int32_t *key_n, *query_n;                   /* [TILE][M]: n */
  int32_t *key_top, *query_top, *feature_top; /* [TILE], [TILE], [M]: maxima of n */
};

static size_t NAME(carve)(const struct kernel_shape *shape, void *memory, struct NAME(scratch) * scratch) {
  size_t d = (size_t)shape->key_width, e = (size_t)shape->value_width, m = (size_t)shape->features;
  char *next = memory;
  size_t total = 0;
#define TAKE(field, count)                                                                                             \
  do {                                                                                                                 \
    if (scratch) scratch->field = (void *)(next + total);                                                              \
    total += ((count) * sizeof(*((struct NAME(scratch) *)0)->field) + 63) / 64 * 64;                                   \
  } while (0)
  TAKE(x, TILE * d);
  TAKE(v, TILE * e);
  TAKE(key, TILE * m);
  TAKE(query, TILE * m);
  TAKE(weight, TILE * m);
  TAKE(key_tile, TILE * m);
  TAKE(pair, (size_t)TILE * TILE);
  TAKE(state_sum, TILE * e);
  TAKE(tile_sum, TILE * e);
  TAKE(key_n, TILE * m);
  TAKE(query_n, TILE * m);
  TAKE(key_top, TILE);
  TAKE(query_top, TILE);
  TAKE(feature_top, m);
#undef TAKE
  return total;
}

static size_t NAME(scratch_bytes)(const struct kernel_shape *shape) { return NAME(carve)(shape, NULL, NULL); }

static size_t NAME(weights_bytes)(const struct kernel_shape *shape) {
  return (size_t)shape->directions * (size_t)shape->key_width * sizeof(REAL);
}

static void NAME(pack_weights)(const struct kernel_shape *shape, const struct kernel_projection *projection,
                               double factor, void *weights) {
  REAL *packed = weights;
  for (int64_t i = 0; i < shape->directions * shape->key_width; i++) packed[i] = (REAL)(projection->w[i] * factor);
}

static void NAME(norms)(int64_t n, int64_t width, const void *x, int64_t stride, double *norm2) {
  const REAL *rows = x;
  for (int64_t i = 0; i < n; i++) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < width; d++) sum += (double)rows[i * stride + d] * (double)rows[i * stride + d];
    norm2[i] = sum;
  }
}

static void NAME(peaks)(int64_t n, int64_t width, const void *x, int64_t stride, void *peak) {
  const REAL_BITS *rows = x;
  REAL_BITS *highest = peak;
  const REAL_BITS no_sign = (REAL_BITS) ~(REAL_BITS)0 >> 1;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t e = 0; e < width; e++) {
      REAL_BITS magnitude = rows[i * stride + e] & no_sign;
      highest[e] = magnitude > highest[e] ? magnitude : highest[e];
    }
  }
}

/* Rows [0, n) of x times scale (NULL: ones), zeros up to TILE. */
static void NAME(pad)(int64_t n, int64_t width, const REAL *x, int64_t stride, const REAL *scale, REAL *padded) {
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < width; c++) padded[i * width + c] = x[i * stride + c] * (scale ? scale[c] : 1);
  }
  memset(padded + n * width, 0, (size_t)((TILE - n) * width) * sizeof(REAL));
}

/* One token by the exponential maps: u becomes 2^f, returns the largest exponent. half_norm: NULL for queries. */
static int32_t NAME(exponentials)(const struct kernel_shape *shape, const double *half_norm, REAL *restrict u,
                                  int32_t *restrict exponent) {
  int64_t m = shape->features, directions = shape->directions;
  double whole = half_norm ? rint(*half_norm) : 0;
  REAL part = half_norm ? (REAL)(*half_norm - whole) : 0;
  int32_t down = (int32_t)whole, highest = INT32_MIN;
  for (int64_t r = directions; r < m; r++) u[r] = -u[r - directions];
  for (int64_t r = 0; r < m; r++) {
    REAL l = u[r] - part, nearest = NAME(nearest)(l);
    int32_t here = (int32_t)nearest - down;
    u[r] = NAME(exp2_fraction)(l - nearest);
    exponent[r] = here;
    highest = here > highest ? here : highest;
  }
  return highest;
}

/* The same by another map. */
static int32_t NAME(mapped)(const struct kernel_job *job, bool is_query, double half_norm, REAL *u, int32_t *exponent) {
  const struct kernel_map_row row = {.directions = job->shape->directions,
                                     .half_norm = half_norm,
                                     .is_query = is_query,
                                     .parameters = job->parameters};
  int32_t highest = INT32_MIN;
  job->shape->map->REAL_MAP(&row, u, exponent);
  for (int64_t r = 0; r < job->shape->features; r++) highest = exponent[r] > highest ? exponent[r] : highest;
  return highest;
}

/* u[i][r] = f, a power of two or what the map gives, exponent[i][r] = n, top[i] = max_r n of each token; rows past n
 * are zeros. half_norm: NULL for queries of exponential maps. */
static void NAME(features)(const struct kernel_job *job, int64_t n, const REAL *x, int64_t stride, bool is_query,
                           const double *half_norm, REAL *padded, REAL *restrict u, int32_t *restrict exponent,
                           int32_t *top) {
  int64_t width = job->shape->key_width, m = job->shape->features;
  if (n < TILE || stride > INT32_MAX) { /* BLAS counts in int */
    NAME(pad)(n, width, x, stride, NULL, padded);
    x = padded;
    stride = width;
  }
  NAME(product_nt)(TILE, job->shape->directions, width, x, stride, job->weights, width, u, m);
  for (int64_t i = 0; i < n; i++) {
    REAL *row = u + i * m;
    int32_t *row_exponent = exponent + i * m;
    top[i] = job->shape->map ? NAME(mapped)(job, is_query, half_norm[i], row, row_exponent)
                             : NAME(exponentials)(job->shape, half_norm ? half_norm + i : NULL, row, row_exponent);
  }
  memset(u + n * m, 0, (size_t)((TILE - n) * m) * sizeof(REAL));
  memset(exponent + n * m, 0, (size_t)((TILE - n) * m) * sizeof(int32_t));
}

/* The tile's values, padded and scaled where they must be. */
static const REAL *NAME(values)(const struct kernel_job *job, const struct kernel_keys *keys, REAL *padded,
                                int64_t *stride) {
  int64_t width = job->shape->value_width;
  *stride = keys->v_stride;
  if (keys->n == TILE && !keys->v_scale && keys->v_stride <= INT32_MAX) return keys->v;
  NAME(pad)(keys->n, width, keys->v, keys->v_stride, keys->v_scale, padded);
  *stride = width;
  return padded;
}

/* Raises the sum's exponents to those of the tile's keys. */
static void NAME(raise)(const struct kernel_shape *shape, int64_t n, const int32_t *key_n, int32_t *feature_top,
                        struct kernel_sum *sum) {
  int64_t m = shape->features;
  REAL *s = sum->s, *z = sum->z;
  memcpy(feature_top, key_n, (size_t)m * sizeof *feature_top);
  for (int64_t i = 1; i < n; i++) {
    for (int64_t r = 0; r < m; r++) {
      feature_top[r] = key_n[i * m + r] > feature_top[r] ? key_n[i * m + r] : feature_top[r];
    }
  }
  if (sum->is_empty) {
    memcpy(sum->exponent, feature_top, (size_t)m * sizeof *feature_top);
    memset(s, 0, (size_t)(m * shape->s_stride) * sizeof(REAL));
    memset(z, 0, (size_t)m * sizeof(REAL));
    sum->is_empty = false;
    return;
  }
  for (int64_t r = 0; r < m; r++) {
    if (feature_top[r] <= sum->exponent[r]) continue;
    REAL factor = NAME(power_of_two)(sum->exponent[r] - feature_top[r]);
    sum->exponent[r] = feature_top[r];
    z[r] *= factor;
    for (int64_t e = 0; e < shape->value_width; e++) s[r * shape->s_stride + e] *= factor;
  }
}

/* sum += keys, from features already computed. */
static void NAME(accumulate)(const struct kernel_shape *shape, const struct NAME(scratch) * scratch, int64_t n,
                             const REAL *v, int64_t v_stride, struct kernel_sum *sum) {
  int64_t m = shape->features;
  NAME(raise)(shape, n, scratch->key_n, scratch->feature_top, sum);
  REAL *restrict z = sum->z;
  const int32_t *restrict top = sum->exponent;
  for (int64_t i = 0; i < n; i++) {
    const REAL *restrict key = scratch->key + i * m;
    const int32_t *restrict exponent = scratch->key_n + i * m;
    REAL *restrict weight = scratch->weight + i * m;
    for (int64_t r = 0; r < m; r++) {
      weight[r] = key[r] * NAME(power_of_two)(NAME(step_down)(exponent[r], top[r]));
      z[r] += weight[r];
    }
  }
  memset(scratch->weight + n * m, 0, (size_t)((TILE - n) * m) * sizeof(REAL));
  NAME(product_tn_add)(m, shape->value_width, TILE, scratch->weight, m, v, v_stride, sum->s, shape->s_stride);
}

static void NAME(absorb)(const struct kernel_job *job, const struct kernel_keys *keys, struct kernel_sum *sum) {
  struct NAME(scratch) scratch;
  NAME(carve)(job->shape, job->scratch, &scratch);
  NAME(features)
  (job, keys->n, keys->k, keys->k_stride, false, keys->half_norm, scratch.x, scratch.key, scratch.key_n,
   scratch.key_top);
  int64_t v_stride;
  const REAL *v = NAME(values)(job, keys, scratch.v, &v_stride);
  NAME(accumulate)(job->shape, &scratch, keys->n, v, v_stride, sum);
}

/* For each query: state_sum[i] = Q'_i S, total[i] = Q'_i z, at exponent top[i] = max_r (n_ir + exponent_r). */
static void NAME(read_state)(const struct kernel_shape *shape, const struct NAME(scratch) * scratch, int64_t n,
                             const struct kernel_sum *state, REAL *total, int32_t *top) {
  int64_t m = shape->features;
  const REAL *restrict z = state->z;
  const int32_t *restrict state_exponent = state->exponent;
  for (int64_t i = 0; i < n; i++) {
    const REAL *restrict query = scratch->query + i * m;
    const int32_t *restrict exponent = scratch->query_n + i * m;
    REAL *restrict weight = scratch->weight + i * m;
    int32_t highest = INT32_MIN;
    for (int64_t r = 0; r < m; r++) {
      int32_t here = exponent[r] + state_exponent[r];
      highest = here > highest ? here : highest;
    }
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t r = 0; r < m; r++) {
      weight[r] = query[r] * NAME(power_of_two)(NAME(step_down)(exponent[r] + state_exponent[r], highest));
      sum += weight[r] * z[r];
    }
    total[i] = sum;
    top[i] = highest;
  }
  memset(scratch->weight + n * m, 0, (size_t)((TILE - n) * m) * sizeof(REAL));
  NAME(product_nn)
  (TILE, shape->value_width, m, scratch->weight, m, state->s, shape->s_stride, scratch->state_sum, shape->value_width);
}

static inline REAL NAME(within_range)(double x) {
  x = x > (double)REAL_MAX ? (double)REAL_MAX : x;
  return (REAL)(x < -(double)REAL_MAX ? -(double)REAL_MAX : x);
}

/* A row of outputs, (a x + b y) / total, leaves at its columns' scales. A mean of finite values with positive weights
 * is finite, and only rounding could pass the largest number; with signed weights it may be anything, and is 0 where
 * the weights cancel. */
static void NAME(leave)(int64_t width, double a, const REAL *restrict x, double b, const REAL *restrict y, double total,
                        const REAL *restrict scale, REAL *restrict out) {
  const double inverse = total == 0 ? 0 : 1 / total;
  if (isinf(inverse)) { /* 0 times that would be no number */
    for (int64_t e = 0; e < width; e++) {
      double mean = (a * (double)x[e] + b * (double)y[e]) / total;
      out[e] = NAME(within_range)(scale ? mean * (double)scale[e] : mean);
    }
  } else if (scale) {
    for (int64_t e = 0; e < width; e++) {
      out[e] = NAME(within_range)((a * (double)x[e] + b * (double)y[e]) * inverse * (double)scale[e]);
    }
  } else { /* a loop of its own: in one with the other, vectors would load from nowhere under a mask, which is slow */
    for (int64_t e = 0; e < width; e++) {
      out[e] = NAME(within_range)((a * (double)x[e] + b * (double)y[e]) * inverse);
    }
  }
}

/* The normaliser of query i of scratch, guarded as the map's parameters say. */
static double NAME(guarded)(const struct kernel_job *job, const struct NAME(scratch) * scratch, int64_t i, double total,
                            int64_t exponent) {
  if (!job->shape->map || job->parameters->guard.rule == KERNEL_GUARD_NONE) return total;
  int64_t m = job->shape->features;
  const REAL *query = scratch->query + i * m;
  const int32_t *query_n = scratch->query_n + i * m, top = scratch->query_top[i];
  double sum = 0;
  for (int64_t r = 0; r < m; r++) sum += (double)(query[r] * NAME(power_of_two)(NAME(step_down)(query_n[r], top)));
  return kernel_guarded(&job->parameters->guard, total, exponent, sum, top);
}

static const REAL *NAME(head_q)(const struct kernel_queries *queries, int64_t h) {
  return (const REAL *)queries->q + h * queries->q_head_stride;
}

static const double *NAME(head_norms)(const struct kernel_job *job, const struct kernel_queries *queries, int64_t h) {
  return job->shape->map ? queries->half_norm + h * queries->half_norm_head_stride : NULL;
}

static REAL *NAME(head_out)(const struct kernel_queries *queries, int64_t h) {
  return (REAL *)queries->out + h * queries->out_head_stride;
}

static void NAME(emit)(const struct kernel_job *job, const struct kernel_queries *queries,
                       const struct kernel_sum *state) {
  struct NAME(scratch) scratch;
  NAME(carve)(job->shape, job->scratch, &scratch);
  REAL total[TILE];
  int32_t top[TILE];
  int64_t width = job->shape->value_width;
  for (int64_t h = 0; h < queries->n_heads; h++) {
    NAME(features)
    (job, queries->n, NAME(head_q)(queries, h), queries->q_stride, true, NAME(head_norms)(job, queries, h), scratch.x,
     scratch.query, scratch.query_n, scratch.query_top);
    NAME(read_state)(job->shape, &scratch, queries->n, state, total, top);
    for (int64_t i = 0; i < queries->n; i++) {
      REAL *out = NAME(head_out)(queries, h) + i * queries->out_stride;
      double guarded = NAME(guarded)(job, &scratch, i, (double)total[i], top[i]);
      const REAL *sum = scratch.state_sum + i * width;
      NAME(leave)(width, 1, sum, 0, sum, guarded, queries->out_scale, out);
    }
  }
}

/* Each row of f 2^(n - top) of one side of the tile. */
static void NAME(at_own_exponent)(int64_t n, int64_t m, const REAL *fraction, const int32_t *exponent,
                                  const int32_t *top, REAL *weight) {
  for (int64_t i = 0; i < n; i++) {
    const REAL *restrict from = fraction + i * m;
    const int32_t *restrict n_row = exponent + i * m;
    REAL *restrict to = weight + i * m;
    int32_t highest = top[i];
    for (int64_t r = 0; r < m; r++) to[r] = from[r] * NAME(power_of_two)(NAME(step_down)(n_row[r], highest));
  }
  memset(weight + n * m, 0, (size_t)((TILE - n) * m) * sizeof(REAL));
}

/* The tile's own part: tile_sum[i] = sum_{j <= i} weight_ij v_j, total[i] = sum weight_ij, at exponent
 * query_top[i] + reach[i], reach[i] = max_{j <= i} key_top[j]. */
static void NAME(read_tile)(const struct kernel_shape *shape, const struct NAME(scratch) * scratch, int64_t n,
                            const REAL *v, int64_t v_stride, REAL *total, int32_t *reach) {
  int64_t m = shape->features;
  NAME(at_own_exponent)(n, m, scratch->query, scratch->query_n, scratch->query_top, scratch->weight);
  NAME(product_nt)(TILE, TILE, m, scratch->weight, m, scratch->key_tile, m, scratch->pair, TILE);
  for (int64_t i = 0; i < n; i++) {
    REAL *restrict row = scratch->pair + i * TILE;
    reach[i] = i > 0 && reach[i - 1] > scratch->key_top[i] ? reach[i - 1] : scratch->key_top[i];
    REAL sum = 0;
    for (int64_t j = 0; j <= i; j++) {
      row[j] *= NAME(power_of_two)(NAME(step_down)(scratch->key_top[j], reach[i]));
      sum += row[j];
    }
    memset(row + i + 1, 0, (size_t)(TILE - i - 1) * sizeof(REAL));
    total[i] = sum;
  }
  memset(scratch->pair + n * TILE, 0, (size_t)((TILE - n) * TILE) * sizeof(REAL));
  NAME(product_nn)
  (TILE, shape->value_width, TILE, scratch->pair, TILE, v, v_stride, scratch->tile_sum, shape->value_width);
}

/* Row i: the state's part and the tile's, each at its own exponent, joined in double. */
static void NAME(join)(const struct kernel_job *job, const struct NAME(scratch) * scratch, int64_t i,
                       double state_total, int64_t state_exponent, double tile_total, int64_t tile_exponent,
                       const REAL *scale, REAL *out) {
  int64_t width = job->shape->value_width;
  const REAL *state_sum = scratch->state_sum + i * width, *tile_sum = scratch->tile_sum + i * width;
  int64_t apart = tile_exponent - state_exponent;
  double state_scale = apart > 0 ? ldexp(1, (int)(apart > 2000 ? -2000 : -apart)) : 1;
  double tile_scale = apart < 0 ? ldexp(1, (int)(apart < -2000 ? -2000 : apart)) : 1;
  double total = state_scale * state_total + tile_scale * tile_total;
  total = NAME(guarded)(job, scratch, i, total, apart > 0 ? tile_exponent : state_exponent);
  NAME(leave)(width, state_scale, state_sum, tile_scale, tile_sum, total, scale, out);
}

static void NAME(causal_head)(const struct kernel_job *job, const struct NAME(scratch) * scratch,
                              const struct kernel_queries *queries, int64_t h, const REAL *v, int64_t v_stride,
                              const struct kernel_sum *state) {
  REAL state_total[TILE], tile_total[TILE];
  int32_t state_top[TILE], reach[TILE];
  int64_t width = job->shape->value_width;
  bool has_state = !state->is_empty;
  bool *is_lost = queries->is_lost + h * queries->n;
  NAME(features)
  (job, queries->n, NAME(head_q)(queries, h), queries->q_stride, true, NAME(head_norms)(job, queries, h), scratch->x,
   scratch->query, scratch->query_n, scratch->query_top);
  if (has_state) {
    NAME(read_state)(job->shape, scratch, queries->n, state, state_total, state_top);
  } else {
    memset(scratch->state_sum, 0, (size_t)(TILE * width) * sizeof(REAL));
  }
  NAME(read_tile)(job->shape, scratch, queries->n, v, v_stride, tile_total, reach);
  for (int64_t i = 0; i < queries->n; i++) {
    int64_t tile_exponent = (int64_t)scratch->query_top[i] + reach[i];
    int64_t state_exponent = has_state ? state_top[i] : tile_exponent;
    is_lost[i] = kernel_is_lost((double)tile_total[i], tile_exponent, has_state, state_exponent);
    if (is_lost[i]) continue;
    NAME(join)
    (job, scratch, i, has_state ? (double)state_total[i] : 0, state_exponent, (double)tile_total[i], tile_exponent,
     queries->out_scale, NAME(head_out)(queries, h) + i * queries->out_stride);
  }
}

static void NAME(causal)(const struct kernel_job *job, const struct kernel_keys *keys,
                         const struct kernel_queries *queries, const struct kernel_sum *state, struct kernel_sum *sum,
                         struct kernel_sum *before) {
  struct NAME(scratch) scratch;
  NAME(carve)(job->shape, job->scratch, &scratch);
  NAME(join_sums)(job->shape, state, sum, before);
  NAME(features)
  (job, keys->n, keys->k, keys->k_stride, false, keys->half_norm, scratch.x, scratch.key, scratch.key_n,
   scratch.key_top);
  NAME(at_own_exponent)(keys->n, job->shape->features, scratch.key, scratch.key_n, scratch.key_top, scratch.key_tile);
  int64_t v_stride;
  const REAL *v = NAME(values)(job, keys, scratch.v, &v_stride);
  for (int64_t h = 0; h < queries->n_heads; h++) NAME(causal_head)(job, &scratch, queries, h, v, v_stride, before);
  NAME(accumulate)(job->shape, &scratch, keys->n, v, v_stride, sum);
}

#define KERNEL_OPS(NAME_)                                                                                              \
  {                                                                                                                    \
    .weights_bytes = NAME_(weights_bytes), .pack_weights = NAME_(pack_weights), .scratch_bytes = NAME_(scratch_bytes), \
    .norms = NAME_(norms), .peaks = NAME_(peaks), .absorb = NAME_(absorb), .emit = NAME_(emit),                        \
    .causal = NAME_(causal)                                                                                            \
  }

#include "core/exact.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/vectors.h"
#include "kernel/gemm.h"

enum { TILE = EXACT_TILE, LANES = 16 };

#define LOG2_E 1.442695040888963407359924681001892137

static inline size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* A packed tile of keys: this, then k [D][TILE] transposed (plain products are faster than with a transposed factor),
 * then v [TILE][E]; what is past n is zero. */
struct packed {
  int64_t n;
  double length[TILE]; /* |k_j| */
  double longest;      /* of them */
  bool has_large;      /* among the values */
};

static const void *packed_k(const void *packed) { return (const char *)packed + round_up(sizeof(struct packed)); }
static const void *packed_v(const struct exact *exact, const void *packed) {
  const struct kernel_shape *shape = &exact->engine->shape;
  return (const char *)packed_k(packed) + round_up((size_t)(TILE * shape->key_width) * exact->engine->real_bytes);
}

/* The running sums of a tile of queries: this, then acc [TILE][E], sums of weights times values. */
struct sums {
  double length[TILE]; /* |q_i| */
  double top[TILE];    /* weights are relative to 2^top, an integer; NO_TOP: no key yet */
  double total[TILE];  /* sums of weights */
};
#define NO_TOP (-DBL_MAX)

static double *sums_acc(void *sums) { return (double *)((char *)sums + round_up(sizeof(struct sums))); }

size_t exact_keys_bytes(const struct exact *exact) {
  const struct kernel_shape *shape = &exact->engine->shape;
  size_t real = exact->engine->real_bytes;
  return round_up(sizeof(struct packed)) + round_up((size_t)(TILE * shape->key_width) * real) +
         round_up((size_t)(TILE * shape->value_width) * real);
}

size_t exact_sums_bytes(const struct exact *exact) {
  return round_up(sizeof(struct sums)) + (size_t)(TILE * exact->engine->shape.value_width) * sizeof(double);
}

/* Lengths of n rows, none below what squares of doubles can tell. */
static void measure(const struct exact *exact, int64_t n, const void *x, int64_t stride, double *length) {
  exact->engine->ops->norms(n, exact->engine->shape.key_width, x, stride, length);
  for (int64_t i = 0; i < n; i++) length[i] = fmax(sqrt(length[i]), 1e-150);
}

void exact_begin(const struct exact *exact, const struct exact_queries *queries) {
  struct sums *sums = queries->sums;
  memset(sums, 0, exact_sums_bytes(exact));
  measure(exact, queries->n, queries->q, queries->q_stride, sums->length);
  for (int64_t i = 0; i < TILE; i++) sums->top[i] = NO_TOP;
}

/* Where scale |q| |k| passes this, the logit is computed in a longer precision. A product in float is off by some 1e-7
 * of |q| |k|; one in double is as good as it can be, but powers of two have to stay integers. */
#define LONG_LOGIT_F32 32.0
#define LONG_LOGIT_F64 0x1p26

/* What a fold knows of each query. */
struct rows {
  struct exact_range range[TILE];
  bool is_long[TILE]; /* logits in a longer precision */
  bool has_long, has_short;
  double factor[TILE];  /* that its sums are scaled with before they take the tile */
  const uint64_t *seen; /* of the range, by bits; NULL: all of it */
};

static inline bool is_seen(const struct rows *rows, int64_t i, int32_t j) {
  return !rows->seen || (rows->seen[i] >> j & 1);
}

static struct exact_range range_of_bits(uint64_t seen) {
  if (seen == 0) return (struct exact_range){0, 0};
  return (struct exact_range){__builtin_ctzll(seen), TILE - __builtin_clzll(seen)};
}

/* Whether |scale q . k| may pass `limit`, for which keys in its range. The lengths of doubles may overflow to infinity
 * or make NaN of 0 times that: long too. */
static bool is_row_long(const struct packed *keys, double length, const struct rows *rows, int64_t i, double limit) {
  if (length * keys->longest <= limit) return false;
  for (int32_t j = rows->range[i].begin; j < rows->range[i].end; j++) {
    if (is_seen(rows, i, j) && !(length * keys->length[j] <= limit)) return true;
  }
  return false;
}

/* False where no query sees a key. */
static bool look_at_rows(const struct exact *exact, const struct packed *keys, const struct exact_queries *queries,
                         const struct exact_range *visible, double limit, struct rows *rows) {
  const struct sums *sums = queries->sums;
  bool is_any = false;
  rows->has_long = rows->has_short = false;
  for (int64_t i = 0; i < queries->n; i++) {
    rows->range[i] = rows->seen ? range_of_bits(rows->seen[i])
                     : visible  ? visible[i]
                                : (struct exact_range){0, (int32_t)keys->n};
    rows->factor[i] = 1;
    rows->is_long[i] = false;
    if (rows->range[i].begin == rows->range[i].end) continue;
    is_any = true;
    rows->is_long[i] = is_row_long(keys, sums->length[i], rows, i, limit / exact->scale);
    rows->has_long = rows->has_long || rows->is_long[i];
    rows->has_short = rows->has_short || !rows->is_long[i];
  }
  return is_any;
}

/* Raises a query's top to at least n, and tells how its sums have to be scaled for it. */
static double raise_top(struct sums *sums, int64_t i, double n) {
  double before = sums->top[i];
  if (n <= before) return 1;
  sums->top[i] = n;
  return before == NO_TOP || before - n < -2000 ? 0 : ldexp(1, (int)(before - n));
}

/* c = a b, row-major: a [TILE][k], b [k][n], c [TILE][n]. */
static void product_f32(int64_t n, int64_t k, const float *a, const float *b, float *c) {
  GEMM_IN_TURN(cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, TILE, (int)n, (int)k, 1, a, (int)k, b, (int)n, 0,
                           c, (int)n));
}
static void product_f64(int64_t n, int64_t k, const double *a, const double *b, double *c) {
  GEMM_IN_TURN(cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, TILE, (int)n, (int)k, 1, a, (int)k, b, (int)n, 0,
                           c, (int)n));
}

VECTORS static void widen(int64_t n, const float *restrict from, double *restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] = (double)from[i];
}

/* q_i . k_j of long rows, at least, in double. wide: 2 TILE D. */
static void long_products_f32(const struct rows *rows, int64_t width, const float *q, const float *k, double *wide,
                              double *product) {
  (void)rows;
  widen(TILE * width, q, wide);
  widen(TILE * width, k, wide + TILE * width);
  product_f64(TILE, width, wide, wide + TILE * width, product);
}

/* Of doubles in long double, which holds every product of two. Beyond MOST_PRODUCT they count as equal. */
#define MOST_PRODUCT 1e270L
static void long_products_f64(const struct rows *rows, int64_t width, const double *q, const double *k, double *wide,
                              double *product) {
  (void)wide;
  for (int64_t i = 0; i < TILE; i++) {
    for (int64_t j = 0; j < TILE && rows->is_long[i]; j++) {
      long double sum = 0;
      for (int64_t d = 0; d < width; d++) sum += (long double)q[i * width + d] * (long double)k[d * TILE + j];
      product[i * TILE + j] = (double)fmaxl(fminl(sum, MOST_PRODUCT), -MOST_PRODUCT);
    }
  }
}

/* Of 16 lanes. */
#define ROTATED_BY_8(x) __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define ROTATED_BY_4(x) __builtin_shufflevector(x, x, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3)
#define ROTATED_BY_2(x) __builtin_shufflevector(x, x, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1)

#include "kernel/real_f64.h"
#define NAME(x) x##_f64
#define FMA fma
#define RINT rint
#define LARGE_VALUE 0x1p900
#define LARGE_SCALE 0x1p-100
#define ACC_SCALE 0x1p-64
#include "core/exact_body.h"
#undef NAME
#undef FMA
#undef RINT
#undef LARGE_VALUE
#undef LARGE_SCALE
#undef ACC_SCALE

#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#define FMA fmaf
#define RINT rintf
#define LARGE_VALUE 0x1p100f
#define LARGE_SCALE 0x1p-32f
#define ACC_SCALE 1.0
#include "core/exact_body.h"

static bool is_f64(const struct exact *exact) { return exact->engine->precision == FAVOR_PRECISION_F64; }

void exact_pack(const struct exact *exact, const struct piece_keys *keys, void *packed) {
  memset(packed, 0, exact_keys_bytes(exact));
  (is_f64(exact) ? pack_f64 : pack_f32)(exact, keys, packed);
}

size_t exact_scratch_bytes(const struct exact *exact) {
  return is_f64(exact) ? carve_f64(exact, NULL, NULL) : carve_f32(exact, NULL, NULL);
}

static void fold(const struct exact *exact, const void *packed, const struct exact_queries *queries,
                 const struct exact_range *visible, const uint64_t *seen, void *scratch) {
  struct rows rows = {.seen = seen};
  double limit = is_f64(exact) ? LONG_LOGIT_F64 : LONG_LOGIT_F32;
  if (!look_at_rows(exact, packed, queries, visible, limit, &rows)) return;
  (is_f64(exact) ? fold_f64 : fold_f32)(exact, packed, queries, &rows, scratch);
}

void exact_fold(const struct exact *exact, const void *packed, const struct exact_queries *queries,
                const struct exact_range *visible, void *scratch) {
  fold(exact, packed, queries, visible, NULL, scratch);
}

void exact_fold_some(const struct exact *exact, const void *packed, const struct exact_queries *queries,
                     const uint64_t *seen, void *scratch) {
  fold(exact, packed, queries, NULL, seen, scratch);
}

struct exact_sum exact_sum_at(const struct exact *exact, const struct exact_queries *queries, int64_t i) {
  struct sums *sums = queries->sums;
  return (struct exact_sum){&sums->top[i], &sums->total[i], sums_acc(sums) + i * exact->engine->shape.value_width};
}

void exact_emit(const struct exact *exact, const struct exact_queries *queries, void *out, int64_t out_stride) {
  (is_f64(exact) ? emit_f64 : emit_f32)(exact, queries, out, out_stride);
}

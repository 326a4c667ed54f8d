/* The fused tile algorithm of kernel.h on vectors, once for each instruction set and precision. Features go from the
 * registers that a product left them in through the exponential into a tile of scratch, and from there into the state
 * or the output; they never reach main memory.
 *
 * The including file defines, besides REAL and its format (real_f32.h, real_f64.h),
 *   NAME(x)          the name of x in this instance
 *   VEC, INTS, INT   a vector of REAL, one of integers as wide, and such an integer
 *   LANES            elements of a vector
 *   COLUMNS          vectors of a register block, which is ROWS x COLUMNS accumulators: 2 or 4
 *   TILE             tokens of a tile, a multiple of ROWS
 *   NORM_ROWS        rows whose norms are summed at a time
 *   CAUSAL_TILE      tokens of a causal tile, a multiple of ROWS and of LANES that divides TILE
 *   MAX_PARTS        see struct waiting
 * and, each inline,
 *   VEC NAME(splat)(REAL), NAME(fused)(VEC a, VEC b, VEC c): a b + c, rounded once
 *   VEC NAME(load_first)(const REAL *, int64_t n), void NAME(store_first)(REAL *, int64_t n, VEC),
 *     INTS NAME(load_exponents)(const int32_t *, int64_t n, INT rest),
 *     void NAME(store_exponents)(int32_t *, int64_t n, INTS): n lanes, all of them where n > LANES and none where
 *     n < 0; memory of the others is not touched, and they are zeros or `rest`
 *   VEC NAME(first_of)(VEC, int64_t n): likewise
 *   INTS NAME(larger)(INTS, INTS), INT NAME(largest)(INTS), REAL NAME(total)(VEC)
 *   TABLE_BITS       0, or b: powers of two come from a table of 2^b with two terms of the series, and
 *   VEC NAME(look_up)(INTS i): 2^(i 2^-b) of the lowest b bits of i
 *   VEC NAME(nearest)(VEC), to a multiple of 2^-TABLE_BITS; INTS NAME(to_ints)(VEC), of whole numbers
 *   VEC NAME(scaled)(VEC x, INTS e): x 2^e for x in [1/2, 4), 0 where that is below the normal range or near it
 *   WIDE             a vector of WIDE_LANES doubles; WIDE NAME(widen)(const REAL *), double wide_total(WIDE),
 *                    WIDE wide_fused(WIDE a, WIDE b, WIDE c)
 *   VEC NAME(zip_low)(VEC a, VEC b), NAME(zip_high): a0 b0 a1 b1 ..., the lower and the upper half of it
 *   HAS_TRANSPOSE    if it has void NAME(transpose)(VEC square[LANES]), faster than by zips
 *
 * Factors of products are of type FACTOR: REAL itself, or with PAIRS defined (REAL being float) two of them next to
 * each other along the summed index, rounded to bfloat16, in 32 bits. Sums are REAL in both. body_single.h and
 * body_pairs.h store factors and have what else depends on it. PAIRS wants more of the including file:
 *   VEC NAME(product)(INTS a, INTS b, VEC sum): both products of each pair, added to sum
 *   INT NAME(pair_of)(REAL low, REAL high): rounded, as in the next two
 *   INTS NAME(join_lanes)(VEC low, VEC high): low0 high0, low1 high1, ...
 *   INTS NAME(join_neighbours)(VEC first, VEC second): first0 first1, first2 first3, ...
 *   void NAME(store_numbers)(uint16_t *, int64_t n, VEC): rounded; as store_first
 *   INTS NAME(load_pairs)(const INT *, int64_t n), void NAME(store_pairs)(INT *, int64_t n, INTS): as load_first
 *
 * Exponents. Scaling by a power of two is exact, so no tile waits for its maxima: features are stored at exponents
 * that are known before, and what depends on them is shifted to the true maxima afterwards.
 *   Key j, feature r is stored as 2^(l_jr - base_r): base is the sum's exponent, or for an empty sum that of the tile's
 *     first key plus FIRST_KEY_ABOVE. The tile ends before the first key beyond KEY_LIMIT of that; the next part of it
 *     starts with the exponents raised. What a tile does to a sum so depends on the sum and its own keys, in order.
 *   Query i is stored as 2^(n_ir + f_ir + base_r - m_i), m_i guessed from the first vector of features. Where the true
 *     maximum is more than QUERY_LIMIT above m_i the row is shifted down by it. Numerator and denominator share m_i.
 * Both signs of a direction come from one product: u' = u - eta leaves it, and -u - eta = -u' - 2 eta. Features of the
 * minus signs stand after all those of the plus signs, without a gap: a vector that holds the last of either is written
 * by its lanes (store_lanes).
 * In a causal tile queries and keys share base, so the weight of key j for query i is the plain product of their stored
 * features, at exponent m_i, and no later key has a say in it. The state is read at base as well (NEAR).
 * With these limits every sum of products stays finite: in f32 values are below 2^60 and states below 2^100 (in f64
 * 2^400 and 2^440, see shift_window in core/state.c), so that 2^20 features and a tile of tokens leave room.
 */

#undef FACTOR
#undef FACTORS
#undef PAIR
#ifdef PAIRS
#define FACTOR INT
#define FACTORS INTS
#define PAIR 2
#else
#define FACTOR REAL
#define FACTORS VEC
#define PAIR 1
#endif

/* Keys of a causal tile, padded to whole vectors of numbers. */
#ifndef COLUMN_ROW
#define COLUMN_ROW ((CAUSAL_TILE + PAIR * LANES - 1) / (PAIR * LANES) * (PAIR * LANES))
#endif

enum {
  NAME(KEY_LIMIT) = (REAL_BIAS + 1) / 4,            /* 32 in f32 */
  NAME(FIRST_KEY_ABOVE) = (REAL_BIAS + 1) * 3 / 16, /* 24 */
  NAME(NEAR) = (REAL_BIAS + 1) * 15 / 64,           /* 30 */
  NAME(GUESS_ABOVE) = 16,
  NAME(QUERY_LIMIT) = 4,
  NAME(ABSENT) = 1 << 29,    /* below every key that counts: of the row that an odd key is paired with */
  NAME(NO_FEATURE) = 1 << 30 /* beyond every exponent: 2^(l - NO_FEATURE) is 0 */
};

#ifndef FOR_VECTORS
#define NOINLINE __attribute__((noinline))
/* |x~| / ln 2 of the longest token that core lets in (LONGEST_HALF_NORM). */
#define LONGEST_TOKEN 4179.0

/* Compiles `call` with N_VECTORS a constant. */
// clang-format off
#if COLUMNS == 4
#define FOR_VECTORS(count, call)                                                                                       \
  switch (count) {                                                                                                     \
  case 1: { enum { N_VECTORS = 1 }; call; } break;                                                                     \
  case 2: { enum { N_VECTORS = 2 }; call; } break;                                                                     \
  case 3: { enum { N_VECTORS = 3 }; call; } break;                                                                     \
  default: { enum { N_VECTORS = 4 }; call; } break;                                                                    \
  }
#else
#define FOR_VECTORS(count, call)                                                                                       \
  switch (count) {                                                                                                     \
  case 1: { enum { N_VECTORS = 1 }; call; } break;                                                                     \
  default: { enum { N_VECTORS = 2 }; call; } break;                                                                    \
  }
#endif
// clang-format on
#endif

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

INLINE VEC NAME(load)(const REAL *x) {
  VEC v;
  memcpy(&v, x, sizeof v);
  return v;
}

INLINE void NAME(store)(REAL *x, VEC v) { memcpy(x, &v, sizeof v); }

/* The first n lanes, n > 0. */
INLINE VEC NAME(load_lanes)(const REAL *x, int64_t n) { return n >= LANES ? NAME(load)(x) : NAME(load_first)(x, n); }
INLINE void NAME(store_lanes)(REAL *x, int64_t n, VEC v) {
  if (n >= LANES) {
    NAME(store)(x, v);
  } else {
    NAME(store_first)(x, n, v);
  }
}

INLINE INTS NAME(load_ints)(const INT *x) {
  INTS v;
  memcpy(&v, x, sizeof v);
  return v;
}

INLINE void NAME(store_ints)(INT *x, INTS v) { memcpy(x, &v, sizeof v); }

INLINE INTS NAME(splat_int)(INT x) { return (INTS){0} + x; }

/* As load_lanes; the other lanes are `rest`. */
INLINE INTS NAME(load_int_lanes)(const INT *x, int64_t n, INT rest) {
  if (n >= LANES) return NAME(load_ints)(x);
  INTS v = (INTS)NAME(load_first)((const REAL *)x, n);
  return (INTS)NAME(first_of)((VEC)(v - rest), n) + rest;
}

INLINE void NAME(store_int_lanes)(INT *x, int64_t n, INTS v) { NAME(store_lanes)((REAL *)x, n, (VEC)v); }

#ifndef HAS_TRANSPOSE
/* Rows become columns: zips rows half a square apart, again and again. */
INLINE void NAME(transpose)(VEC square[LANES]) {
  VEC zipped[LANES];
  UNROLL for (int step = 1; step < LANES; step *= 2) {
    UNROLL for (int i = 0; i < LANES / 2; i++) {
      zipped[2 * i] = NAME(zip_low)(square[i], square[i + LANES / 2]);
      zipped[2 * i + 1] = NAME(zip_high)(square[i], square[i + LANES / 2]);
    }
    UNROLL for (int i = 0; i < LANES; i++) square[i] = zipped[i];
  }
}
#endif

/* Whether any lane is above the limit. */
INLINE bool NAME(any_above)(INTS v, INT limit) { return NAME(largest)(v) > limit; }

INLINE INT NAME(bits)(REAL x) {
  INT bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

/* 2^n, 0 below the normal range. n <= REAL_BIAS. */
INLINE REAL NAME(power_of_two)(int64_t n) {
  INT bits = (INT)(n < -REAL_BIAS ? 0 : n + REAL_BIAS) << REAL_MANTISSA_BITS;
  REAL x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Adding TO_INTEGER to |x| < LONGEST_EXPONENT leaves x, rounded to a multiple of 2^-TABLE_BITS, in the low bits. */
#undef TO_INTEGER
#undef LONGEST_EXPONENT
#undef BIAS
#define TO_INTEGER ((REAL)3 * (REAL)((INT)1 << (REAL_MANTISSA_BITS - 1 - TABLE_BITS)))
#define LONGEST_EXPONENT ((double)((INT)1 << (REAL_MANTISSA_BITS - 1 - TABLE_BITS)))
#define BIAS (NAME(bits)(TO_INTEGER) >> TABLE_BITS)

static const REAL NAME(coefficients)[] = {EXP2_COEFFICIENTS, 1};

/* 2^x for |x| <= 1/2. */
INLINE VEC NAME(exp2_fraction)(VEC x) {
  enum { N = sizeof NAME(coefficients) / sizeof NAME(coefficients)[0] };
  const REAL *coefficients = NAME(coefficients);
  __asm__ volatile("" : "+r"(coefficients));
  VEC p = NAME(splat)(coefficients[0]);
  UNROLL for (int i = 1; i < N; i++) p = NAME(fused)(p, x, NAME(splat)(coefficients[i]));
  return p;
}

/* 2^l = result 2^(n - BIAS). Integers by an addition: multiplications are what the core has to do most of. With a table
 * n is the whole part of l rounded to a multiple of 2^-TABLE_BITS; without, rint(l). */
INLINE VEC NAME(exp2_parts)(bool is_long, VEC l, INTS *n) {
  VEC nearest;
  INTS bits;
  if (is_long) {
    nearest = NAME(nearest)(l);
    INTS below = NAME(to_ints)(nearest);
    below += (INTS)(__builtin_convertvector(below, VEC) > nearest);
    bits = NAME(to_ints)((nearest - __builtin_convertvector(below, VEC)) * NAME(splat)(1 << TABLE_BITS));
    *n = below + BIAS;
  } else {
    VEC sum = l + NAME(splat)(TO_INTEGER);
    nearest = sum - NAME(splat)(TO_INTEGER);
    bits = (INTS)sum;
    *n = bits >> TABLE_BITS;
  }
  VEC x = l - nearest;
#if TABLE_BITS
  VEC from_table = NAME(look_up)(bits);
  return NAME(fused)(from_table * x, NAME(fused)(NAME(splat)(TABLE_SECOND), x, NAME(splat)(TABLE_FIRST)), from_table);
#else
  (void)bits;
  return NAME(exp2_fraction)(x);
#endif
}

#ifdef PAIRS
INLINE FACTORS NAME(load_factors)(const FACTOR *x) { return NAME(load_ints)(x); }
INLINE FACTORS NAME(splat_factor)(FACTOR x) { return NAME(splat_int)(x); }

/* W was rounded before, as it is: what it is to be multiplied with enters the tokens. */
INLINE FACTOR NAME(weight_factor)(int64_t n_left, const double *w, double factor) {
  (void)factor;
  return NAME(pair_of)((REAL)w[0], n_left > 1 ? (REAL)w[1] : 0);
}
INLINE REAL NAME(token_factor)(double factor) { return (REAL)factor; }
#else
INLINE FACTORS NAME(load_factors)(const FACTOR *x) { return NAME(load)(x); }
INLINE FACTORS NAME(splat_factor)(FACTOR x) { return NAME(splat)(x); }
INLINE VEC NAME(product)(FACTORS a, FACTORS b, VEC sum) { return NAME(fused)(a, b, sum); }

INLINE FACTOR NAME(weight_factor)(int64_t n_left, const double *w, double factor) {
  (void)n_left;
  return (REAL)(w[0] * factor);
}
INLINE REAL NAME(token_factor)(double factor) { return (void)factor, 1; }
#endif

/* sum[i][c] += sum_{begin <= l < end} a[i][l a_step] b[l][c]. The accumulators stay in registers once inlined. */
INLINE void NAME(multiply)(const int n_vectors, int64_t begin, int64_t end, const FACTOR *const a[ROWS], int64_t a_step,
                           const FACTOR *b, int64_t b_stride, VEC sum[ROWS][COLUMNS]) {
  for (int64_t l = begin; l < end; l++) {
    FACTORS row[COLUMNS];
    UNROLL for (int c = 0; c < n_vectors; c++) row[c] = NAME(load_factors)(b + l * b_stride + c * LANES);
    UNROLL for (int i = 0; i < ROWS; i++) {
      FACTORS factor = NAME(splat_factor)(a[i][l * a_step]);
      UNROLL for (int c = 0; c < n_vectors; c++) sum[i][c] = NAME(product)(factor, row[c], sum[i][c]);
    }
  }
}

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

INLINE int64_t NAME(round_up)(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
INLINE int64_t NAME(smaller)(int64_t a, int64_t b) { return a < b ? a : b; }
/* Factors that n numbers make. */
INLINE int64_t NAME(factors_of)(int64_t n) { return (n + PAIR - 1) / PAIR; }
/* A width is cut into as few blocks as there can be, about equally wide. */
INLINE int64_t NAME(blocks_of)(int64_t width) { return (width + COLUMNS * LANES - 1) / (COLUMNS * LANES); }

/* Vectors of the block that starts at `at`. */
INLINE int64_t NAME(vectors_at)(int64_t width, int64_t at) {
  int64_t n_left = (width - at + LANES - 1) / LANES, n_blocks = NAME(blocks_of)(width - at);
  return (n_left + n_blocks - 1) / n_blocks;
}

/* Keys whose features and values are in scratch but not in S yet, in parts of CAUSAL_TILE or fewer: every part was
 * stored at exponents of its own, and its sum is lifted to the next part's. */
struct NAME(waiting) {
  int64_t n; /* keys, each part padded to whole pairs */
  int n_parts;
  int64_t end[MAX_PARTS]; /* of each part */
  bool is_first;          /* S was empty before them */
  const FACTOR *value;    /* their values, scratch->e_row apart: in scratch, or where they came from */
};

/* What the next causal tile reads, where this one's keys have kept features. */
struct NAME(ahead) {
  const FACTOR *key; /* NULL: nothing is asked for */
  const REAL *value;
  int64_t value_stride;
};

struct NAME(scratch) {
  int64_t m_row;       /* M rounded up to panels */
  int64_t key_row;     /* an odd number of vectors, so that rows spread over the sets of a cache */
  int64_t query_row;   /* likewise */
  int64_t x_row;       /* D rounded up to vectors */
  int64_t e_row;       /* E rounded up to vectors */
  FACTOR *key;         /* [TILE, pairs of keys][key_row] */
  FACTOR *key_columns; /* [m_row, pairs of features][COLUMN_ROW]: the same, features first */
  FACTOR *value;       /* [TILE + ROWS, pairs of keys][e_row] */
  FACTOR *query;       /* [TILE][query_row, pairs of features] */
  FACTOR *x;           /* [TILE][x_row, pairs]: keys or queries, where they are rounded */
  INT *token_top;      /* [TILE] of the queries, see struct pass */
  INTS *token_highest; /* [TILE] */
  FACTOR *pair;        /* [ROWS][COLUMN_ROW, pairs of keys] */
  REAL *part;          /* [CAUSAL_TILE][e_row]: sums over a state that is far */
  INT *far_top;        /* [CAUSAL_TILE]: their exponents */
  REAL *far_total;     /* [CAUSAL_TILE] */
  REAL *spare;         /* [s_stride]: of a row past the last */
  INT *base, *top;     /* [m_row] of the keys: exponents that they are stored at, their maxima */
  REAL *z;             /* [m_row]: the sum's z at base */
  REAL *lift;          /* [MAX_PARTS][m_row]: 2^(base - new exponent) */
  INT *query_base;     /* [m_row]: base, padded so that no query has a feature there */
  INT *state_base;     /* [m_row]: the exponents that queries are stored at */
  REAL *state_z;       /* [m_row] */
  FACTOR *z_factors;   /* [PAIR][query_row]: state_z to be multiplied with, in the pairs' precision and what it left */
  FACTOR *state_s;     /* [M, pairs of features][s_stride] */
  REAL *mixed;         /* [rows of a Hadamard block][LANES]: tokens after the common round */
  REAL *turned;        /* the same: in the rounds of a block */
  struct NAME(waiting) waiting;
  size_t kept_bytes; /* from the features kept of a tile to those of the next; 0: none are kept */
  struct NAME(ahead) ahead;
  bool is_cut; /* some key so far did not go together with those before it */
};

/* Rows of a block of the fast transform; 0 for a dense projection. */
INLINE int64_t NAME(hadamard_rows)(const struct kernel_shape *shape) {
  return shape->hadamard_width == 0 || shape->hadamard_width > LANES ? shape->hadamard_width : LANES;
}

static size_t NAME(carve)(const struct kernel_shape *shape, void *memory, struct NAME(scratch) * scratch) {
  int64_t m_row = NAME(round_up)(shape->features, LANES), key_row = (m_row / LANES | 1) * LANES;
  int64_t query_row = (NAME(round_up)(NAME(factors_of)(m_row), LANES) / LANES | 1) * LANES;
  int64_t x_row = NAME(round_up)(NAME(factors_of)(shape->key_width), LANES);
  int64_t e_row = NAME(round_up)(shape->value_width, LANES);
  scratch->m_row = m_row;
  scratch->key_row = key_row;
  scratch->query_row = query_row;
  scratch->x_row = x_row;
  scratch->e_row = e_row;
  scratch->waiting = (struct NAME(waiting)){.n = 0};
  scratch->kept_bytes = 0;
  scratch->ahead = (struct NAME(ahead)){.key = NULL};
  scratch->is_cut = false;
  size_t total = 0;
#define TAKE(field, count)                                                                                             \
  do {                                                                                                                 \
    scratch->field = (void *)(memory ? (char *)memory + total : NULL);                                                 \
    total += ((size_t)(count) * sizeof *scratch->field + 63) / 64 * 64;                                                \
  } while (0)
  TAKE(key, TILE / PAIR * key_row);
  TAKE(key_columns, NAME(factors_of)(m_row) * COLUMN_ROW);
  TAKE(value, NAME(factors_of)(TILE + ROWS) * e_row);
  TAKE(query, TILE * query_row);
  TAKE(x, PAIR == 1 ? 0 : TILE * x_row);
  TAKE(token_top, TILE);
  TAKE(token_highest, TILE);
  TAKE(pair, ROWS * NAME(factors_of)(COLUMN_ROW));
  TAKE(part, CAUSAL_TILE * e_row);
  TAKE(far_top, CAUSAL_TILE);
  TAKE(far_total, CAUSAL_TILE);
  TAKE(spare, shape->s_stride);
  TAKE(base, m_row);
  TAKE(top, m_row);
  TAKE(z, m_row);
  TAKE(lift, MAX_PARTS * m_row);
  TAKE(query_base, m_row);
  TAKE(state_base, m_row);
  TAKE(state_z, m_row);
  TAKE(z_factors, PAIR == 1 ? 0 : PAIR * query_row);
  TAKE(state_s, NAME(factors_of)(shape->features) * shape->s_stride);
  TAKE(mixed, NAME(hadamard_rows)(shape) * LANES);
  TAKE(turned, NAME(hadamard_rows)(shape) * LANES);
#undef TAKE
  return total;
}

static size_t NAME(scratch_bytes)(const struct kernel_shape *shape) {
  struct NAME(scratch) scratch;
  return NAME(carve)(shape, NULL, &scratch);
}

#include "kernel/body_kept.h"

/* A vector of row r of state + sum at the exponents `base` of the tile, which are those of a sum that is not empty. */
INLINE VEC NAME(moved)(const bool has_state, const bool has_sum, const struct kernel_sum *state,
                       const struct kernel_sum *sum, const struct NAME(scratch) * scratch, int64_t r, int64_t at) {
  VEC x = NAME(splat)(0);
  if (has_state) {
    REAL factor = NAME(power_of_two)(state->exponent[r] - scratch->base[r]);
    x = NAME(load)((const REAL *)state->s + at) * NAME(splat)(factor);
  }
  if (has_sum) x += NAME(load)((const REAL *)sum->s + at);
  return x;
}

#include "kernel/join.h"

#include "kernel/body_measures.h"
#include "kernel/body_weights.h"
#include "kernel/body_features.h"
#ifndef PAIRS
#include "kernel/body_hadamard.h"
#endif
#include "kernel/body_keys.h"
#include "kernel/body_queries.h"
#include "kernel/body_causal.h"

#ifndef KERNEL_OPS
#define KERNEL_OPS(NAME_)                                                                                              \
  {                                                                                                                    \
    .weights_bytes = NAME_(weights_bytes), .pack_weights = NAME_(pack_weights), .scratch_bytes = NAME_(scratch_bytes), \
    .features_bytes = NAME_(features_bytes), .norms = NAME_(norms), .peaks = NAME_(peaks), .absorb = NAME_(absorb),    \
    .emit = NAME_(emit), .causal = NAME_(causal)                                                                       \
  }
#endif

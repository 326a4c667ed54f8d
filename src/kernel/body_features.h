/* Part of body.h: the features of a tile's keys or queries. */

/* Rows [first, first + ROWS) of n; past the last they repeat it. */
INLINE void NAME(rows_at)(const FACTOR *x, int64_t stride, int64_t first, int64_t n, const FACTOR *row[ROWS]) {
  UNROLL for (int i = 0; i < ROWS; i++) row[i] = x + NAME(smaller)(first + i, n - 1) * stride;
}

/* Keys or queries of a tile, or of a part of it. */
struct NAME(tokens) {
  int64_t n;
  const REAL *x;
  int64_t stride;
  const double *half_norm; /* NULL: queries */
  const REAL *companion;   /* the values or outputs that go with them */
  int64_t companion_stride;
};

/* Tokens on their way through one panel of features. The product of a block of
 * tokens is followed by the exponentials of the block before, a vector to each step of the depth: the two need
 * different units of the core. */
struct NAME(pass) {
  const struct NAME(tokens) *tokens;
  const FACTOR *x; /* the tokens, to be multiplied with W */
  int64_t x_row;
  bool is_long; /* exponents may be too large for the quick way to integers */
  bool is_first_key, is_guess;
  int64_t panel, n_panels;
  INT *base;           /* of the panel, as all that follows */
  INT *top;            /* keys */
  REAL *z;             /* keys: gains their features */
  INT *token_top;      /* queries: m */
  INTS *token_highest; /* queries: largest exponent less m, by lanes */
  FACTOR *features;    /* keys: [n, pairs][row]; queries: [n][row, pairs] */
  int64_t row;
  /* the block before */
  int64_t at, n_rows;
  VEC u[ROWS][COLUMNS];
  INT down[ROWS];
};

/* Vector c of row i of the block before. */
INLINE VEC NAME(key_weight)(const bool is_long, struct NAME(pass) *pass, int64_t i, int c) {
  VEC fraction;
  INTS here = NAME(whole)(is_long, pass->u[i][c], &fraction) - pass->down[i];
  INT *top = pass->top + c * LANES;
  NAME(store_ints)(top, NAME(larger)(NAME(load_ints)(top), here));
  return NAME(scaled)(NAME(exp2_fraction)(fraction), here - NAME(load_ints)(pass->base + c * LANES));
}

INLINE VEC NAME(query_weight)(const bool is_long, struct NAME(pass) *pass, int64_t i, int c) {
  VEC fraction;
  INTS here = NAME(whole)(is_long, pass->u[i][c], &fraction) - pass->down[i] + NAME(load_ints)(pass->base + c * LANES);
  INTS *highest = pass->token_highest + pass->at + i;
  *highest = NAME(larger)(*highest, here);
  return NAME(scaled)(NAME(exp2_fraction)(fraction), here);
}

#ifdef PAIRS
#include "kernel/body_pairs.h"
#else
#include "kernel/body_single.h"
#endif

/* Finishes a vector of factors: of keys from row i on, of queries from vector c on. */
INLINE void NAME(weigh)(const bool is_key, const bool is_long, const int n_vectors, struct NAME(pass) *pass, int64_t i,
                        int c) {
  if (is_key) {
    NAME(weigh_key)(is_long, pass, i, c);
  } else {
    NAME(weigh_query)(is_long, n_vectors, pass, i, c);
  }
}

/* The rest of the block before, without a product to go with it. */
INLINE void NAME(finish_block)(const bool is_key, const int n_vectors, struct NAME(pass) *pass) {
  const int rows = is_key ? PAIR : 1, vectors = is_key ? 1 : PAIR;
  for (int64_t i = 0; i < pass->n_rows; i += rows) {
    UNROLL for (int c = 0; c < n_vectors; c += vectors) {
      if (pass->is_long) {
        NAME(weigh)(is_key, true, n_vectors, pass, i, c);
      } else {
        NAME(weigh)(is_key, false, n_vectors, pass, i, c);
      }
    }
  }
  pass->n_rows = 0;
}

/* What must be known of the first key before any feature is stored: base. */
INLINE void NAME(set_base)(const int n_vectors, struct NAME(pass) *pass) {
  UNROLL for (int c = 0; c < n_vectors; c++) {
    VEC fraction;
    INTS here = NAME(whole)(pass->is_long, pass->u[0][c], &fraction) - pass->down[0] + NAME(FIRST_KEY_ABOVE);
    NAME(store_ints)(pass->base + c * LANES, here);
  }
}

/* m of each query of a block. */
INLINE void NAME(guess_tops)(struct NAME(pass) *pass) {
  UNROLL for (int i = 0; i < ROWS; i++) {
    VEC fraction;
    INTS here =
        NAME(whole)(pass->is_long, pass->u[i][0], &fraction) - NAME(bits)(TO_INTEGER) + NAME(load_ints)(pass->base);
    pass->token_top[pass->at + i] = NAME(largest)(here) + NAME(GUESS_ABOVE);
  }
}

/* Asks for row i to come to the second-level cache. Past the end of an array it is an address and no more. */
INLINE void NAME(fetch_row)(const REAL *x, int64_t stride, int64_t width, int64_t i) {
  enum { LINE = 64 };
  uintptr_t row = (uintptr_t)x + (uintptr_t)(i * stride) * sizeof *x;
  for (size_t at = 0; at < (size_t)width * sizeof *x; at += LINE) __builtin_prefetch((const void *)(row + at), 0, 2);
}

/* A panel's share of ROWS tokens of the next tile, while this one is computed with. */
static void NAME(fetch_ahead)(const struct NAME(pass) *pass, const struct kernel_shape *shape, int64_t at) {
  const struct NAME(tokens) *tokens = pass->tokens;
  for (int64_t i = pass->panel; i < ROWS; i += pass->n_panels) {
    NAME(fetch_row)(tokens->x, tokens->stride, shape->key_width, at + TILE + i);
    NAME(fetch_row)(tokens->companion, tokens->companion_stride, shape->value_width, at + TILE + i);
  }
}

/* Steps of a block's product in turns with vectors of the block before; returns the steps done. Deep: the product has
 * enough of them for PAIR to a vector, or else it has what there is of one. */
INLINE int64_t NAME(interleave)(const bool is_key, const bool is_deep, const int n_vectors, int64_t depth,
                                const FACTOR *const x[ROWS], const FACTOR *weights, VEC u[ROWS][COLUMNS],
                                struct NAME(pass) *pass) {
  const int rows = is_key ? PAIR : 1, vectors = is_key ? 1 : PAIR;
  int64_t l = 0;
  for (int64_t i = 0; i < pass->n_rows; i += rows) {
    UNROLL for (int c = 0; c < n_vectors; c += vectors) {
      int64_t end = is_deep ? l + PAIR : NAME(smaller)(l + 1, depth);
      NAME(multiply)(n_vectors, l, end, x, 1, weights, n_vectors * LANES, u);
      NAME(weigh)(is_key, false, n_vectors, pass, i, c);
      l = end;
    }
  }
  return l;
}

/* A block of tokens at `at`; finishes the one before. */
INLINE void NAME(feature_block)(const bool is_key, const int n_vectors, int64_t depth, const FACTOR *weights,
                                int64_t at, struct NAME(pass) *pass) {
  const FACTOR *x[ROWS];
  VEC u[ROWS][COLUMNS];
  INT down[ROWS];
  NAME(rows_at)(pass->x, pass->x_row, at, pass->tokens->n, x);
  UNROLL for (int i = 0; i < ROWS; i++) {
    double h = is_key ? pass->tokens->half_norm[NAME(smaller)(at + i, pass->tokens->n - 1)] : 0, whole = rint(h);
    down[i] = NAME(bits)(TO_INTEGER) + (INT)whole;
    if (PAIR > 1 && at + i >= pass->tokens->n) down[i] += NAME(ABSENT);
    UNROLL for (int c = 0; c < n_vectors; c++) u[i][c] = NAME(splat)((REAL)(whole - h));
  }
  int64_t l = 0;
  if (pass->is_long) {
    NAME(finish_block)(is_key, n_vectors, pass);
  } else if (PAIR > 1 && depth >= ROWS * COLUMNS) {
    l = NAME(interleave)(is_key, true, n_vectors, depth, x, weights, u, pass);
  } else {
    l = NAME(interleave)(is_key, false, n_vectors, depth, x, weights, u, pass);
  }
  NAME(multiply)(n_vectors, l, depth, x, 1, weights, n_vectors * LANES, u);
  pass->at = at;
  pass->n_rows = NAME(smaller)(ROWS, pass->tokens->n - at);
  memcpy(pass->u, u, sizeof u);
  memcpy(pass->down, down, sizeof down);
}

INLINE void NAME(feature_panel)(const bool is_key, const int n_vectors, const struct kernel_shape *shape,
                                const FACTOR *weights, struct NAME(pass) *pass) {
  int64_t depth = NAME(factors_of)(shape->key_width);
  pass->n_rows = 0;
  for (int64_t at = 0; at < pass->tokens->n; at += ROWS) {
    NAME(fetch_ahead)(pass, shape, at);
    NAME(feature_block)(is_key, n_vectors, depth, weights, at, pass);
    if (is_key && at == 0 && pass->is_first_key) NAME(set_base)(n_vectors, pass);
    if (!is_key) {
      if (pass->is_guess) NAME(guess_tops)(pass);
      for (int i = 0; i < ROWS; i++) pass->down[i] += pass->token_top[at + i];
    }
  }
  NAME(finish_block)(is_key, n_vectors, pass);
}

/* Part of body.h: the features of a tile's keys or queries. */

/* Rows [first, first + ROWS) of n; past the last they repeat it. */
INLINE void NAME(rows_at)(const FACTOR *x, int64_t stride, int64_t first, int64_t n, const FACTOR *row[ROWS]) {
  UNROLL for (int i = 0; i < ROWS; i++) row[i] = x + NAME(smaller)(first + i, n - 1) * stride;
}

/* Most tokens of a block: of a dense product, or of a group that is transformed together. */
#undef BLOCK_ROWS
#define BLOCK_ROWS (ROWS > LANES ? ROWS : LANES)

/* Keys or queries of a tile, or of a part of it. */
struct NAME(tokens) {
  int64_t n;
  const REAL *x;
  int64_t stride;
  const double *half_norm; /* NULL: queries */
  const REAL *companion;   /* the values or outputs that go with them */
  int64_t companion_stride;
};

/* Tokens on their way through one panel of directions. The product of a block of tokens goes together with the
 * exponentials of the block before. */
struct NAME(pass) {
  const struct NAME(tokens) * tokens;
  const FACTOR *x; /* the tokens, to be multiplied with W */
  int64_t x_row;
  bool is_long; /* exponents may be too large for the quick way to integers */
  bool is_first_key, is_guess;
  struct NAME(ahead) ahead;
  int64_t key_row; /* of scratch */
  int64_t panel, n_panels;
  int64_t n_directions; /* from the panel's first to the last there is */
  int64_t minus;        /* columns from a direction's plus feature to its minus feature */
  INT *base;            /* of the panel's plus features, as all that follows */
  INT *top;             /* keys */
  REAL *z;              /* keys: gains their features */
  INT *token_top;       /* queries: m */
  INTS *token_highest;  /* queries: largest exponent less m, by lanes */
  FACTOR *features;     /* keys: [n, pairs][row]; queries: [n][row, pairs] */
  int64_t row;
  /* the block before */
  int64_t at, n_rows;
  VEC u[ROWS][COLUMNS];
  INT down[BLOCK_ROWS];
  REAL mirror[BLOCK_ROWS]; /* of two signs: -2 eta */
};

/* A vector of features: of which directions, counted from the panel's first in vectors, and with which sign. */
struct NAME(vector) {
  int64_t c;
  int sign;                /* 0 plus, 1 minus */
  int64_t column, n_lanes; /* where it stands from the panel's first feature, and how much of it is there */
};

/* With one sign, lanes past the last direction are padding and as good as any. */
INLINE struct NAME(vector)
    NAME(vector_of)(const int n_signs, const struct NAME(pass) * pass, int64_t c, const int sign) {
  return (struct NAME(vector)){.c = c,
                               .sign = sign,
                               .column = sign * pass->minus + c * LANES,
                               .n_lanes = n_signs == 1 ? LANES : pass->n_directions - c * LANES};
}

/* exp2_parts of l + H of row i, whose u is given. */
INLINE VEC NAME(parts_of)(const bool is_long, const struct NAME(pass) * pass, VEC u, int64_t i,
                          struct NAME(vector) vector, INTS *n) {
  return NAME(exp2_parts)(is_long, vector.sign ? NAME(splat)(pass->mirror[i]) - u : u, n);
}

/* A vector of row i of the block before. What is gathered over rows or vectors is the caller's to keep in registers:
 * stores take turns with multiplications. */
INLINE VEC NAME(key_weight)(const bool is_long, struct NAME(pass) * pass, VEC u, int64_t i, struct NAME(vector) vector,
                            INTS *top) {
  INTS here;
  VEC fraction = NAME(parts_of)(is_long, pass, u, i, vector, &here);
  here -= pass->down[i];
  *top = NAME(larger)(*top, here);
  return NAME(scaled)(fraction, here - NAME(load_int_lanes)(pass->base + vector.column, vector.n_lanes, 0));
}

INLINE VEC NAME(query_weight)(const bool is_long, struct NAME(pass) * pass, VEC u, int64_t i,
                              struct NAME(vector) vector, INTS *highest) {
  INTS here;
  VEC fraction = NAME(parts_of)(is_long, pass, u, i, vector, &here);
  here += NAME(load_int_lanes)(pass->base + vector.column, vector.n_lanes, -NAME(NO_FEATURE)) - pass->down[i];
  *highest = NAME(larger)(*highest, here);
  return NAME(scaled)(fraction, here);
}

#ifdef PAIRS
#include "kernel/body_pairs.h"
#else
#include "kernel/body_single.h"
#endif

/* A product that goes on while the block before is finished, some steps of the depth at a time, from step l on. */
struct NAME(product) {
  const FACTOR *x[ROWS];
  const FACTOR *weights;
  int64_t depth, steps, l;
  VEC u[ROWS][COLUMNS];
};

INLINE void NAME(advance)(const int n_vectors, const bool is_deep, struct NAME(product) * product) {
  int64_t steps = is_deep ? product->steps : 1;
  NAME(multiply)
  (n_vectors, product->l, NAME(smaller)(product->l + steps, product->depth), product->x, 1, product->weights,
   n_vectors * LANES, product->u);
  product->l += steps;
}

/* Vectors of factors that a block's features fill: each takes turns with the product. */
INLINE int64_t NAME(count_factors)(const bool is_key, const int n_signs, int64_t n_vectors) {
  if (is_key) return ROWS / PAIR * n_signs * n_vectors;
  return ROWS * (n_signs == 1 ? NAME(factors_of)(n_vectors) : n_signs * n_vectors);
}

/* Finishes n rows of the block before. Each vector of factors goes with some steps of the product (NULL: none): the two
 * need different units of the core. */
INLINE void NAME(finish_keys)(const int n_signs, const int n_vectors, const bool is_long, const int64_t n,
                              struct NAME(pass) * pass, const bool is_deep, struct NAME(product) * product) {
  for (int64_t c = 0; c < n_vectors; c++) {
    UNROLL for (int sign = 0; sign < n_signs; sign++) {
      struct NAME(vector) vector = NAME(vector_of)(n_signs, pass, c, sign);
      INTS top = NAME(load_int_lanes)(pass->top + vector.column, vector.n_lanes, 0);
      VEC z = NAME(load_lanes)(pass->z + vector.column, vector.n_lanes);
      UNROLL for (int64_t i = 0; i < n; i += PAIR) {
        if (product) NAME(advance)(n_vectors, is_deep, product);
        NAME(weigh_key)(is_long, pass, i, vector, &top, &z);
      }
      NAME(store_int_lanes)(pass->top + vector.column, vector.n_lanes, top);
      NAME(store_lanes)(pass->z + vector.column, vector.n_lanes, z);
    }
  }
}

INLINE void NAME(finish_queries)(const int n_signs, const int n_vectors, const bool is_long, const int64_t n,
                                 struct NAME(pass) * pass, const bool is_deep, struct NAME(product) * product) {
  for (int64_t i = 0; i < n; i++) {
    INTS highest = pass->token_highest[pass->at + i];
    UNROLL for (int64_t c = 0; c < n_vectors; c += n_signs == 1 ? PAIR : 1) {
      UNROLL for (int sign = 0; sign < n_signs; sign++) {
        if (product) NAME(advance)(n_vectors, is_deep, product);
        NAME(weigh_query)(n_signs, n_vectors, is_long, pass, i, NAME(vector_of)(n_signs, pass, c, sign), &highest);
      }
    }
    pass->token_highest[pass->at + i] = highest;
  }
}

INLINE void NAME(finish)(const bool is_key, const int n_signs, const int n_vectors, const bool is_long, const int64_t n,
                         struct NAME(pass) * pass, const bool is_deep, struct NAME(product) * product) {
  if (is_key) {
    NAME(finish_keys)(n_signs, n_vectors, is_long, n, pass, is_deep, product);
  } else {
    NAME(finish_queries)(n_signs, n_vectors, is_long, n, pass, is_deep, product);
  }
}

/* The block before, without a product to go with it. */
INLINE void NAME(finish_alone)(const bool is_key, const int n_signs, const int n_vectors, struct NAME(pass) * pass) {
  if (pass->is_long) {
    NAME(finish)(is_key, n_signs, n_vectors, true, pass->n_rows, pass, false, NULL);
  } else {
    NAME(finish)(is_key, n_signs, n_vectors, false, pass->n_rows, pass, false, NULL);
  }
  pass->n_rows = 0;
}

/* What must be known of the first key before any feature is stored: base, of vector c. */
INLINE void NAME(set_base)(const int n_signs, struct NAME(pass) * pass, VEC u, int64_t c) {
  UNROLL for (int sign = 0; sign < n_signs; sign++) {
    struct NAME(vector) vector = NAME(vector_of)(n_signs, pass, c, sign);
    INTS here;
    NAME(parts_of)(pass->is_long, pass, u, 0, vector, &here);
    here += NAME(FIRST_KEY_ABOVE) - pass->down[0];
    NAME(store_int_lanes)(pass->base + vector.column, vector.n_lanes, here);
  }
}

/* m of query i of a block, from the first vector of each sign. */
INLINE void NAME(guess_top)(const int n_signs, struct NAME(pass) * pass, VEC u, int64_t i) {
  INTS highest = NAME(splat_int)(-NAME(NO_FEATURE));
  UNROLL for (int sign = 0; sign < n_signs; sign++) {
    struct NAME(vector) vector = NAME(vector_of)(n_signs, pass, 0, sign);
    INTS here;
    NAME(parts_of)(pass->is_long, pass, u, i, vector, &here);
    here += NAME(load_int_lanes)(pass->base + vector.column, vector.n_lanes, -NAME(NO_FEATURE)) - BIAS;
    highest = sign ? NAME(larger)(highest, here) : here;
  }
  pass->token_top[pass->at + i] = NAME(largest)(highest) + NAME(GUESS_ABOVE);
}

/* A panel's share of rows [first, first + n_rows): every n_panels-th line is asked to come to the second-level cache.
 * Past the end of an array it is an address and no more. Rows are the inner loop, without branches: these instructions
 * stand between two products. */
INLINE void NAME(fetch_rows)(const int is_written, const REAL *x, int64_t stride, int64_t width, int64_t first,
                             const int n_rows, const struct NAME(pass) * pass) {
  enum { LINE = 64 / sizeof(REAL) };
  uintptr_t row_bytes = (uintptr_t)stride * sizeof *x, row = (uintptr_t)x + (uintptr_t)first * row_bytes;
  for (int64_t at = pass->panel * LINE; at < width; at += pass->n_panels * LINE) {
    uintptr_t line = row + (uintptr_t)at * sizeof *x;
    UNROLL for (int i = 0; i < n_rows; i++) {
      const void *address = (const void *)(line + (uintptr_t)i * row_bytes);
      if (is_written) {
        __builtin_prefetch(address, 1, 2);
      } else {
        __builtin_prefetch(address, 0, 2);
      }
    }
  }
}

/* A panel's share of n_rows tokens of the next tile, while this one is computed with. */
INLINE void NAME(fetch_ahead)(const bool is_key, const struct NAME(pass) * pass, const struct kernel_shape *shape,
                              const int n_rows, int64_t at) {
  const struct NAME(tokens) *tokens = pass->tokens;
  NAME(fetch_rows)(0, tokens->x, tokens->stride, shape->key_width, at + TILE, n_rows, pass);
  NAME(fetch_rows)(0, tokens->companion, tokens->companion_stride, shape->value_width, at + TILE, n_rows, pass);
  if (!pass->ahead.key) return;
  NAME(fetch_rows)
  (is_key, (const REAL *)pass->ahead.key, pass->key_row, shape->features, at / PAIR, n_rows / PAIR, pass);
  if (is_key) return;
  NAME(fetch_rows)(0, pass->ahead.value, pass->ahead.value_stride, shape->value_width, at + CAUSAL_TILE, n_rows, pass);
}

/* h = H + eta of token i, past the last that of the last: -eta, and what the exponents are taken down by. */
INLINE void NAME(split_norm)(const bool is_key, const struct NAME(tokens) * tokens, int64_t i, REAL *minus_eta,
                             INT *down) {
  double h = is_key ? tokens->half_norm[NAME(smaller)(i, tokens->n - 1)] : 0, whole = rint(h);
  *down = BIAS + (INT)whole;
  *minus_eta = (REAL)(whole - h);
}

/* A block of tokens at `at`; finishes the one before. */
INLINE void NAME(feature_block)(const bool is_key, const int n_signs, const int n_vectors, const bool is_deep,
                                int64_t depth, const FACTOR *weights, int64_t at, struct NAME(pass) * pass) {
  const int64_t n_weighed = NAME(count_factors)(is_key, n_signs, n_vectors);
  struct NAME(product) product = {.weights = weights, .depth = depth, .steps = depth / n_weighed};
  INT down[ROWS];
  REAL mirror[ROWS];
  NAME(rows_at)(pass->x, pass->x_row, at, pass->tokens->n, product.x);
  UNROLL for (int i = 0; i < ROWS; i++) {
    REAL minus_eta;
    NAME(split_norm)(is_key, pass->tokens, at + i, &minus_eta, &down[i]);
    if (PAIR > 1 && at + i >= pass->tokens->n) down[i] += NAME(ABSENT);
    mirror[i] = 2 * minus_eta;
    UNROLL for (int c = 0; c < n_vectors; c++) product.u[i][c] = NAME(splat)(minus_eta);
  }
  if (pass->is_long) NAME(finish_alone)(is_key, n_signs, n_vectors, pass);
  if (pass->n_rows != 0) NAME(finish)(is_key, n_signs, n_vectors, false, ROWS, pass, is_deep, &product);
  NAME(multiply)(n_vectors, product.l, depth, product.x, 1, weights, n_vectors * LANES, product.u);
  pass->at = at;
  pass->n_rows = NAME(smaller)(ROWS, pass->tokens->n - at);
  memcpy(pass->u, product.u, sizeof product.u);
  memcpy(pass->down, down, sizeof down);
  if (n_signs == 2) memcpy(pass->mirror, mirror, sizeof mirror);
}

/* All tokens of a pass; is_deep: the depth has two steps or more for each vector of a block. */
INLINE void NAME(feature_panel)(const bool is_key, const int n_signs, const int n_vectors, const bool is_deep,
                                const struct kernel_shape *shape, const FACTOR *weights, struct NAME(pass) * pass) {
  int64_t depth = NAME(factors_of)(shape->key_width);
  pass->n_rows = 0;
  for (int64_t at = 0; at < pass->tokens->n; at += ROWS) {
    NAME(fetch_ahead)(is_key, pass, shape, ROWS, at);
    NAME(feature_block)(is_key, n_signs, n_vectors, is_deep, depth, weights, at, pass);
    if (is_key && at == 0 && pass->is_first_key) {
      UNROLL for (int c = 0; c < n_vectors; c++) NAME(set_base)(n_signs, pass, pass->u[0][c], c);
    }
    if (!is_key) {
      if (pass->is_guess) {
        UNROLL for (int i = 0; i < ROWS; i++) NAME(guess_top)(n_signs, pass, pass->u[i][0], i);
      }
      for (int i = 0; i < ROWS; i++) pass->down[i] += pass->token_top[at + i];
    }
  }
  NAME(finish_alone)(is_key, n_signs, n_vectors, pass);
}

/* Each a function of its own, as compilers keep less in registers when they see several at once. */
#define PANEL(IS_KEY, N_SIGNS, N_VECTORS, IS_DEEP)                                                                     \
  static NOINLINE void NAME(panel_##IS_KEY##N_SIGNS##N_VECTORS##IS_DEEP)(                                              \
      const struct kernel_shape *shape, const FACTOR *weights, const struct NAME(pass) * pass) {                       \
    struct NAME(pass) own = *pass; /* whose members may be kept in registers */                                        \
    NAME(feature_panel)(IS_KEY, N_SIGNS, N_VECTORS, IS_DEEP, shape, weights, &own);                                    \
  }
#define PANELS_OF(N_SIGNS, N_VECTORS)                                                                                  \
  PANEL(0, N_SIGNS, N_VECTORS, 0)                                                                                      \
  PANEL(0, N_SIGNS, N_VECTORS, 1) PANEL(1, N_SIGNS, N_VECTORS, 0) PANEL(1, N_SIGNS, N_VECTORS, 1)
#define PANELS(N_VECTORS) PANELS_OF(1, N_VECTORS) PANELS_OF(2, N_VECTORS)
PANELS(1)
PANELS(2)
#if COLUMNS == 4
PANELS(3)
PANELS(4)
#endif
#undef PANEL
#undef PANELS_OF
#undef PANELS

static void NAME(panel)(bool is_key, int64_t n_vectors, const struct kernel_shape *shape, const FACTOR *weights,
                        struct NAME(pass) * pass) {
  typedef void panel(const struct kernel_shape *, const FACTOR *, const struct NAME(pass) *);
  static panel *const panels[COLUMNS][2][2][2] = {
#define DEPTHS(IS_KEY, N_SIGNS, N) {NAME(panel_##IS_KEY##N_SIGNS##N##0), NAME(panel_##IS_KEY##N_SIGNS##N##1)}
#define PANELS(N)                                                                                                      \
  {                                                                                                                    \
    {DEPTHS(0, 1, N), DEPTHS(0, 2, N)}, { DEPTHS(1, 1, N), DEPTHS(1, 2, N) }                                           \
  }
    PANELS(1),
    PANELS(2),
#if COLUMNS == 4
    PANELS(3),
    PANELS(4),
#endif
#undef DEPTHS
#undef PANELS
  };
  int64_t n_signs = kernel_signs(shape);
  bool is_deep = NAME(factors_of)(shape->key_width) >= 2 * NAME(count_factors)(is_key, (int)n_signs, n_vectors);
  panels[n_vectors - 1][is_key][n_signs - 1][is_deep](shape, weights, pass);
}

/* Part of body.h: factors that are pairs of numbers rounded to bfloat16, next to each other along the summed index:
 * elements of a token, neighbouring features of a query or the state, neighbouring keys (their features, their values
 * and their weights). An odd one is joined with a zero, which adds nothing. Whatever is divided by a sum of weights is
 * a product with these weights as they are rounded here, and the sum is theirs too. */

enum { NAME(TWO_ONES) = 0x3f803f80, NAME(LOW_HALF) = 0xffff };

/* The numbers of a pair as REAL: of 16 bits all zeros below. */
INLINE VEC NAME(low_of)(INTS pairs) { return (VEC)(pairs << 16); }
INLINE VEC NAME(high_of)(INTS pairs) { return (VEC)(pairs & ~NAME(LOW_HALF)); }

/* ---- features ---------------------------------------------------------------------------------------------------- */

/* Finishes a vector of rows i and i + 1, of which the second may be absent. */
INLINE void NAME(weigh_key)(const bool is_long, struct NAME(pass) * pass, int64_t i, struct NAME(vector) vector,
                            INTS *top, VEC *z) {
  VEC weight = NAME(key_weight)(is_long, pass, pass->u[i][vector.c], i, vector, top);
  VEC next = NAME(key_weight)(is_long, pass, pass->u[i + 1][vector.c], i + 1, vector, top);
  INTS pairs = NAME(join_lanes)(weight, next);
  *z = NAME(product)(pairs, NAME(splat_int)(NAME(TWO_ONES)), *z);
  NAME(store_int_lanes)(pass->features + ((pass->at + i) >> 1) * pass->row + vector.column, vector.n_lanes, pairs);
}

/* Finishes a vector of row i, or with one sign two next to each other, of which the second may be past the panel. Minus
 * features may start in the middle of a pair. */
INLINE void NAME(weigh_query)(const int n_signs, const int n_vectors, const bool is_long, struct NAME(pass) * pass,
                              int64_t i, struct NAME(vector) vector, INTS *highest) {
  uint16_t *features = (uint16_t *)(pass->features + (pass->at + i) * pass->row) + vector.column;
  VEC weight = NAME(query_weight)(is_long, pass, pass->u[i][vector.c], i, vector, highest);
  if (n_signs == 1 && vector.c + 1 < n_vectors) {
    struct NAME(vector) next = NAME(vector_of)(n_signs, pass, vector.c + 1, vector.sign);
    VEC neighbour = NAME(query_weight)(is_long, pass, pass->u[i][next.c], i, next, highest);
    INTS pairs = NAME(join_neighbours)(weight, neighbour);
    memcpy(features, &pairs, sizeof pairs);
  } else {
    NAME(store_numbers)(features, vector.n_lanes, weight);
  }
}

/* Zeros in n rows past the last feature: vectors of two signs, written by their lanes, do not reach there. */
INLINE void NAME(pad_features)(const bool is_key, const struct kernel_shape *shape, int64_t n, FACTOR *features,
                               int64_t row) {
  int64_t m = shape->features, n_past = NAME(round_up)(m, LANES) - m;
  for (int64_t i = 0; i < (is_key ? NAME(factors_of)(n) : n); i++) {
    if (is_key) {
      NAME(store_pairs)(features + i * row + m, n_past, NAME(splat_int)(0));
    } else {
      NAME(store_numbers)((uint16_t *)(features + i * row) + m, n_past, NAME(splat)(0));
    }
  }
}

static int64_t NAME(token_row)(const struct NAME(tokens) * tokens, const struct NAME(scratch) * scratch) {
  (void)tokens;
  return scratch->x_row;
}

/* Keys or queries to be multiplied with W. */
static const FACTOR *NAME(token_factors)(const struct kernel_job *job, const struct NAME(tokens) * tokens,
                                         const struct NAME(scratch) * scratch) {
  int64_t width = job->shape->key_width;
  VEC factor = NAME(splat)(NAME(weights_end)(job).factor);
  for (int64_t i = 0; i < tokens->n; i++) {
    const REAL *x = tokens->x + i * tokens->stride;
    FACTOR *to = scratch->x + i * scratch->x_row;
    int64_t d = 0;
    for (; d + 2 * LANES <= width; d += 2 * LANES) {
      VEC first = NAME(load)(x + d), second = NAME(load)(x + d + LANES);
      NAME(store_ints)(to + d / PAIR, NAME(join_neighbours)(first * factor, second * factor));
    }
    if (d == width) continue;
    VEC first = NAME(load_first)(x + d, width - d), second = NAME(splat)(0);
    if (d + LANES < width) second = NAME(load_first)(x + d + LANES, width - d - LANES);
    NAME(store_ints)(to + d / PAIR, NAME(join_neighbours)(first * factor, second * factor));
  }
  return scratch->x;
}

static void NAME(scale_factors)(FACTOR *x, int64_t n, REAL factor) {
  for (int64_t r = 0; r < n; r += LANES) {
    INTS pairs = NAME(load_pairs)(x + r, n - r);
    VEC low = NAME(low_of)(pairs) * factor, high = NAME(high_of)(pairs) * factor;
    NAME(store_pairs)(x + r, n - r, NAME(join_lanes)(low, high));
  }
}

/* ---- values and states ------------------------------------------------------------------------------------------- */

/* Values are never pairs of them. */
INLINE bool NAME(are_packed)(const struct kernel_job *job, const struct kernel_keys *keys,
                             const struct NAME(scratch) * scratch) {
  (void)job;
  (void)keys;
  (void)scratch;
  return false;
}

/* Values [begin, begin + n) at their scale, padded with zeros to vectors and to whole blocks of keys. */
static void NAME(pack_values)(const struct kernel_job *job, const struct kernel_keys *keys, int64_t begin, int64_t n,
                              const struct NAME(scratch) * scratch) {
  int64_t width = job->shape->value_width;
  const REAL *scale = keys->v_scale;
  FACTOR *to = scratch->value + scratch->waiting.n / PAIR * scratch->e_row;
  for (int64_t j = 0; j < NAME(round_up)(n, ROWS); j += PAIR, to += scratch->e_row) {
    const REAL *from = (const REAL *)keys->v + (begin + j) * keys->v_stride;
    for (int64_t e = 0; e < width; e += LANES) {
      VEC low = NAME(splat)(0), high = low;
      if (j < n) low = NAME(load_first)(from + e, width - e);
      if (j + 1 < n) high = NAME(load_first)(from + keys->v_stride + e, width - e);
      if (scale) {
        VEC by = NAME(load_first)(scale + e, width - e);
        low *= by;
        high *= by;
      }
      NAME(store_ints)(to + e, NAME(join_lanes)(low, high));
    }
  }
}

/* state_z in two parts: a state of constant values is that constant times z, and a z rounded like it would add its
 * error to theirs. */
static void NAME(split_z)(const struct NAME(scratch) * scratch) {
  FACTOR *rounded = scratch->z_factors, *rest = rounded + scratch->query_row;
  for (int64_t r = 0; r < scratch->m_row; r += 2 * LANES) {
    VEC first = NAME(load)(scratch->state_z + r), second = NAME(splat)(0);
    if (r + LANES < scratch->m_row) second = NAME(load)(scratch->state_z + r + LANES);
    INTS pairs = NAME(join_neighbours)(first, second);
    VEC even = NAME(low_of)(pairs), odd = NAME(high_of)(pairs);
    NAME(store_ints)(rounded + r / PAIR, pairs);
    first -= NAME(zip_low)(even, odd);
    second -= NAME(zip_high)(even, odd);
    NAME(store_ints)(rest + r / PAIR, NAME(join_neighbours)(first, second));
  }
}

/* The state as it is, state_z being loaded. */
static const FACTOR *NAME(state_factors)(const struct kernel_job *job, const struct kernel_sum *state,
                                         const struct NAME(scratch) * scratch) {
  int64_t m = job->shape->features, stride = job->shape->s_stride;
  NAME(split_z)(scratch);
  for (int64_t r = 0; r < m; r += PAIR) {
    const REAL *row = (const REAL *)state->s + r * stride;
    for (int64_t e = 0; e < stride; e += LANES) {
      VEC next = r + 1 < m ? NAME(load)(row + stride + e) : NAME(splat)(0);
      NAME(store_ints)(scratch->state_s + r / PAIR * stride + e, NAME(join_lanes)(NAME(load)(row + e), next));
    }
  }
  return scratch->state_s;
}

/* state_s = state + sum at the exponents `base` of the tile, state_z being there. */
INLINE void NAME(move_rows)(const bool has_state, const bool has_sum, const struct kernel_shape *shape,
                            const struct kernel_sum *state, const struct kernel_sum *sum,
                            const struct NAME(scratch) * scratch) {
  int64_t m = shape->features, stride = shape->s_stride;
  NAME(split_z)(scratch);
  for (int64_t r = 0; r < m; r += PAIR) {
    for (int64_t e = 0; e < stride; e += LANES) {
      VEC row = NAME(moved)(has_state, has_sum, state, sum, scratch, r, r * stride + e), next = NAME(splat)(0);
      if (r + 1 < m) next = NAME(moved)(has_state, has_sum, state, sum, scratch, r + 1, (r + 1) * stride + e);
      NAME(store_ints)(scratch->state_s + r / PAIR * stride + e, NAME(join_lanes)(row, next));
    }
  }
}

/* total[i] = the product of each of ROWS queries with state_z. */
static void NAME(normalisers)(int64_t first, const struct NAME(scratch) * scratch, REAL total[ROWS]) {
  const FACTOR *rounded = scratch->z_factors, *rest = rounded + scratch->query_row;
  int64_t n = NAME(factors_of)(scratch->m_row);
  VEC sum[ROWS];
  UNROLL for (int i = 0; i < ROWS; i++) sum[i] = NAME(splat)(0);
  for (int64_t r = 0; r < n; r += LANES) {
    INTS most = NAME(load_ints)(rounded + r), least = NAME(load_ints)(rest + r);
    UNROLL for (int i = 0; i < ROWS; i++) {
      INTS query = NAME(load_pairs)(scratch->query + (first + i) * scratch->query_row + r, n - r);
      sum[i] = NAME(product)(query, most, NAME(product)(query, least, sum[i]));
    }
  }
  UNROLL for (int i = 0; i < ROWS; i++) total[i] = NAME(total)(sum[i]);
}

/* ---- causal tiles ------------------------------------------------------------------------------------------------ */

/* Two rows of features, a lane a pair of keys: to one of pairs of features, a lane a key. */
INLINE void NAME(pair_features)(VEC even, VEC odd, FACTOR *to) {
  INTS first = ((INTS)even & NAME(LOW_HALF)) | ((INTS)odd << 16);
  INTS second = (((INTS)even >> 16) & NAME(LOW_HALF)) | ((INTS)odd & ~NAME(LOW_HALF));
  NAME(store)((REAL *)to, NAME(zip_low)((VEC)first, (VEC)second));
  NAME(store)((REAL *)to + LANES, NAME(zip_high)((VEC)first, (VEC)second));
}

/* key_columns[r][j] = features 2 r, 2 r + 1 of key j. */
static void NAME(transpose_keys)(int64_t n, const struct NAME(scratch) * scratch) {
  for (int64_t j = 0; j < NAME(factors_of)(n); j += LANES) {
    for (int64_t r = 0; r < scratch->m_row; r += LANES) {
      VEC square[LANES];
      UNROLL for (int i = 0; i < LANES; i++) {
        square[i] = (VEC)NAME(load_ints)(scratch->key + (j + i) * scratch->key_row + r);
      }
      NAME(transpose)(square);
      UNROLL for (int i = 0; i < LANES; i += PAIR) {
        FACTOR *to = scratch->key_columns + (r + i) / PAIR * COLUMN_ROW + j * PAIR;
        NAME(pair_features)(square[i], square[i + 1], to);
      }
    }
  }
}

/* Weights of keys [at, at + n_vectors vectors) for queries [first, first + ROWS), to scratch->pair; of later keys
 * zeros. */
INLINE void NAME(keep_weights)(const int n_vectors, int64_t first, int64_t at, VEC weights[ROWS][COLUMNS],
                               const struct NAME(scratch) * scratch) {
  UNROLL for (int i = 0; i < ROWS; i++) {
    FACTOR *pairs = scratch->pair + i * (COLUMN_ROW / PAIR) + at / PAIR;
    int64_t n = first + i + 1 - at;
    UNROLL for (int c = 0; c < n_vectors; c += PAIR) {
      VEC keys = NAME(first_of)(weights[i][c], n - c * LANES);
      if (c + 1 < n_vectors) {
        VEC next = NAME(first_of)(weights[i][c + 1], n - (c + 1) * LANES);
        NAME(store_ints)(pairs + c * LANES / PAIR, NAME(join_neighbours)(keys, next));
      } else {
        NAME(store_pairs)(pairs + c * LANES / PAIR, LANES / PAIR, NAME(join_neighbours)(keys, NAME(splat)(0)));
      }
    }
  }
}

/* The sum of weights of keys 0 .. i for each query i of ROWS. */
static void NAME(pair_totals)(int64_t first, const struct NAME(scratch) * scratch, REAL total[ROWS]) {
  int64_t n = (first + ROWS) / PAIR;
  for (int i = 0; i < ROWS; i++) {
    VEC sum = NAME(splat)(0);
    for (int64_t j = 0; j < n; j += LANES) {
      INTS pairs = NAME(load_pairs)(scratch->pair + i * (COLUMN_ROW / PAIR) + j, n - j);
      sum = NAME(product)(pairs, NAME(splat_int)(NAME(TWO_ONES)), sum);
    }
    total[i] = NAME(total)(sum);
  }
}

/* sum += weights times values of keys 0 .. i, columns [at, at + n_vectors vectors), for each query i of ROWS. */
INLINE void NAME(weigh_values)(const int n_vectors, int64_t first, int64_t at, const struct NAME(scratch) * scratch,
                               VEC sum[ROWS][COLUMNS]) {
  const FACTOR *row[ROWS];
  UNROLL for (int i = 0; i < ROWS; i++) row[i] = scratch->pair + i * (COLUMN_ROW / PAIR);
  NAME(multiply)(n_vectors, 0, (first + ROWS) / PAIR, row, 1, scratch->waiting.value + at, scratch->e_row, sum);
}

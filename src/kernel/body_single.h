/* Part of body.h: factors that are numbers of type REAL, and so stay what and where they are. */

/* Finishes a vector of row i, whose u is given. */
INLINE void NAME(weigh_key_of)(const bool is_long, struct NAME(pass) * pass, VEC u, int64_t i,
                               struct NAME(vector) vector, INTS *top, VEC *z) {
  VEC weight = NAME(key_weight)(is_long, pass, u, i, vector, top);
  *z += weight;
  NAME(store_lanes)(pass->features + (pass->at + i) * pass->row + vector.column, vector.n_lanes, weight);
}

INLINE void NAME(weigh_query_of)(const bool is_long, struct NAME(pass) * pass, VEC u, int64_t i,
                                 struct NAME(vector) vector, INTS *highest) {
  VEC weight = NAME(query_weight)(is_long, pass, u, i, vector, highest);
  NAME(store_lanes)(pass->features + (pass->at + i) * pass->row + vector.column, vector.n_lanes, weight);
}

/* Finishes a vector of row i. */
INLINE void NAME(weigh_key)(const bool is_long, struct NAME(pass) * pass, int64_t i, struct NAME(vector) vector,
                            INTS *top, VEC *z) {
  NAME(weigh_key_of)(is_long, pass, pass->u[i][vector.c], i, vector, top, z);
}

INLINE void NAME(weigh_query)(const int n_signs, const int n_vectors, const bool is_long, struct NAME(pass) * pass,
                              int64_t i, struct NAME(vector) vector, INTS *highest) {
  (void)n_signs;
  (void)n_vectors;
  NAME(weigh_query_of)(is_long, pass, pass->u[i][vector.c], i, vector, highest);
}

/* Zeros in n rows past the last feature: vectors of two signs, written by their lanes, do not reach there. */
INLINE void NAME(pad_features)(const bool is_key, const struct kernel_shape *shape, int64_t n, FACTOR *features,
                               int64_t row) {
  (void)is_key;
  int64_t m = shape->features, n_past = NAME(round_up)(m, LANES) - m;
  for (int64_t i = 0; i < n && n_past > 0; i++) NAME(store_first)(features + i * row + m, n_past, NAME(splat)(0));
}

/* Keys or queries to be multiplied with W, and elements from one to the next. */
static const FACTOR *NAME(token_factors)(const struct kernel_job *job, const struct NAME(tokens) * tokens,
                                         const struct NAME(scratch) * scratch) {
  (void)job;
  (void)scratch;
  return tokens->x;
}

static int64_t NAME(token_row)(const struct NAME(tokens) * tokens, const struct NAME(scratch) * scratch) {
  (void)scratch;
  return tokens->stride;
}

/* Whether values are what pack_values would make of them. */
INLINE bool NAME(are_packed)(const struct kernel_job *job, const struct kernel_keys *keys,
                             const struct NAME(scratch) * scratch) {
  return !keys->v_scale && keys->v_stride == scratch->e_row && job->shape->value_width == scratch->e_row;
}

/* Values [begin, begin + n) at their scale, padded with zeros to vectors. */
static void NAME(pack_values)(const struct kernel_job *job, const struct kernel_keys *keys, int64_t begin, int64_t n,
                              const struct NAME(scratch) * scratch) {
  int64_t width = job->shape->value_width, whole = width / LANES * LANES;
  const REAL *scale = keys->v_scale;
  for (int64_t j = 0; j < n; j++) {
    const REAL *from = (const REAL *)keys->v + (begin + j) * keys->v_stride;
    REAL *to = scratch->value + (scratch->waiting.n + j) * scratch->e_row;
    for (int64_t e = 0; e < whole; e += LANES) NAME(store)(to + e, NAME(load)(from + e));
    if (whole < width) NAME(store)(to + whole, NAME(load_first)(from + whole, width - whole));
    for (int64_t e = 0; scale && e < width; e += LANES) {
      NAME(store)(to + e, NAME(load)(to + e) * NAME(load_first)(scale + e, width - e));
    }
  }
}

static void NAME(scale_factors)(FACTOR *x, int64_t n, REAL factor) {
  for (int64_t r = 0; r < n; r++) x[r] *= factor;
}

/* The state as it is. */
static const FACTOR *NAME(state_factors)(const struct kernel_job *job, const struct kernel_sum *state,
                                         const struct NAME(scratch) * scratch) {
  (void)job;
  (void)scratch;
  return state->s;
}

/* state_s = state + sum at the exponents `base` of the tile. */
INLINE void NAME(move_rows)(const bool has_state, const bool has_sum, const struct kernel_shape *shape,
                            const struct kernel_sum *state, const struct kernel_sum *sum,
                            const struct NAME(scratch) * scratch) {
  for (int64_t r = 0; r < shape->features; r++) {
    for (int64_t at = r * shape->s_stride; at < (r + 1) * shape->s_stride; at += LANES) {
      NAME(store)(scratch->state_s + at, NAME(moved)(has_state, has_sum, state, sum, scratch, r, at));
    }
  }
}

/* total[i] = the product of each of ROWS queries with state_z. */
static void NAME(normalisers)(int64_t first, const struct NAME(scratch) * scratch, REAL total[ROWS]) {
  VEC sum[ROWS];
  UNROLL for (int i = 0; i < ROWS; i++) sum[i] = NAME(splat)(0);
  for (int64_t r = 0; r < scratch->m_row; r += LANES) {
    VEC part = NAME(load)(scratch->state_z + r);
    UNROLL for (int i = 0; i < ROWS; i++) {
      sum[i] = NAME(fused)(NAME(load)(scratch->query + (first + i) * scratch->query_row + r), part, sum[i]);
    }
  }
  UNROLL for (int i = 0; i < ROWS; i++) total[i] = NAME(total)(sum[i]);
}

/* key_columns[r][j] = key[j][r]. */
static void NAME(transpose_keys)(int64_t n, const struct NAME(scratch) * scratch) {
  for (int64_t j = 0; j < n; j += LANES) {
    for (int64_t r = 0; r < scratch->m_row; r += LANES) {
      VEC square[LANES];
      UNROLL for (int i = 0; i < LANES; i++) square[i] = NAME(load)(scratch->key + (j + i) * scratch->key_row + r);
      NAME(transpose)(square);
      UNROLL for (int i = 0; i < LANES; i++) NAME(store)(scratch->key_columns + (r + i) * COLUMN_ROW + j, square[i]);
    }
  }
}

/* Weights of keys [at, at + n_vectors vectors) for queries [first, first + ROWS), to scratch->pair. */
INLINE void NAME(keep_weights)(const int n_vectors, int64_t first, int64_t at, VEC weights[ROWS][COLUMNS],
                               const struct NAME(scratch) * scratch) {
  (void)first;
  UNROLL for (int i = 0; i < ROWS; i++) {
    UNROLL for (int c = 0; c < n_vectors; c++) {
      NAME(store)(scratch->pair + i * COLUMN_ROW + at + c * LANES, weights[i][c]);
    }
  }
}

/* The sum of weights of keys 0 .. i for each query i of ROWS. */
static void NAME(pair_totals)(int64_t first, const struct NAME(scratch) * scratch, REAL total[ROWS]) {
  for (int i = 0; i < ROWS; i++) {
    VEC sum = NAME(splat)(0);
    for (int64_t j = 0; j <= first + i; j += LANES) {
      sum += NAME(first_of)(NAME(load)(scratch->pair + i * COLUMN_ROW + j), first + i + 1 - j);
    }
    total[i] = NAME(total)(sum);
  }
}

/* sum += weights times values of keys 0 .. i, columns [at, at + n_vectors vectors), for each query i of ROWS. */
INLINE void NAME(weigh_values)(const int n_vectors, int64_t first, int64_t at, const struct NAME(scratch) * scratch,
                               VEC sum[ROWS][COLUMNS]) {
  const FACTOR *row[ROWS], *value = scratch->waiting.value + at;
  UNROLL for (int i = 0; i < ROWS; i++) row[i] = scratch->pair + i * COLUMN_ROW;
  NAME(multiply)(n_vectors, 0, first + 1, row, 1, value, scratch->e_row, sum);
  UNROLL for (int j = 1; j < ROWS; j++) { /* key first + j is for the queries from there on */
    UNROLL for (int i = j; i < ROWS; i++) {
      VEC weight = NAME(splat)(row[i][first + j]);
      UNROLL for (int c = 0; c < n_vectors; c++) {
        sum[i][c] = NAME(fused)(weight, NAME(load)(value + (first + j) * scratch->e_row + c * LANES), sum[i][c]);
      }
    }
  }
}

/* Part of body.h: the causal tile. */

/* Whether the state can be read by queries at the exponents `base` of the tile: no row of it is much larger or smaller
 * there than where it is kept. The sum's rows are kept there. */
static bool NAME(is_near)(const struct kernel_job *job, const struct kernel_sum *state,
                          const struct NAME(scratch) * scratch) {
  int64_t m = job->shape->features;
  INTS apart = NAME(splat_int)(0);
  for (int64_t r = 0; r < m && !state->is_empty; r += LANES) {
    INTS base = NAME(load_ints)(scratch->base + r);
    INTS difference = NAME(load_exponents)(state->exponent + r, m - r, 0) - base;
    if (m - r < LANES) difference = (INTS)NAME(first_of)((VEC)difference, m - r);
    apart = NAME(larger)(apart, NAME(larger)(difference, -difference));
  }
  return !NAME(any_above)(apart, NAME(NEAR));
}

/* state_s and state_z = state + sum at the exponents `base` of the tile, which are those of a sum that is not empty. */
INLINE void NAME(move)(const bool has_state, const bool has_sum, const struct kernel_job *job,
                       const struct kernel_sum *state, const struct kernel_sum *sum, struct NAME(scratch) * scratch) {
  for (int64_t r = 0; r < scratch->m_row; r++) scratch->state_z[r] = 0;
  for (int64_t r = 0; r < job->shape->features; r++) {
    REAL factor = has_state ? NAME(power_of_two)(state->exponent[r] - scratch->base[r]) : 0;
    if (has_state) scratch->state_z[r] += ((const REAL *)state->z)[r] * factor;
    if (has_sum) scratch->state_z[r] += ((const REAL *)sum->z)[r];
  }
  NAME(move_rows)(has_state, has_sum, job->shape, state, sum, scratch);
}

static void NAME(move_state)(const struct kernel_job *job, const struct kernel_sum *state, const struct kernel_sum *sum,
                             struct NAME(scratch) * scratch) {
  if (sum->is_empty) {
    NAME(move)(true, false, job, state, sum, scratch);
  } else if (state->is_empty) {
    NAME(move)(false, true, job, state, sum, scratch);
  } else {
    NAME(move)(true, true, job, state, sum, scratch);
  }
}

/* Weights of keys 0 .. first + ROWS - 1 for ROWS queries, in scratch->pair: columns [at, at + n_vectors vectors). */
INLINE void NAME(pair_block)(const int n_vectors, const struct kernel_job *job, int64_t first, int64_t at,
                             const struct NAME(scratch) * scratch) {
  VEC sum[ROWS][COLUMNS];
  NAME(multiply_queries)(n_vectors, job, first, scratch->key_columns + at, COLUMN_ROW, scratch, sum);
  NAME(keep_weights)(n_vectors, first, at, sum, scratch);
}

/* A row's output is own[i] times the sum over the tile's keys plus state[i] times that over the state. */
struct NAME(factors) {
  REAL own[ROWS], state[ROWS];
};

/* Columns [at, at + n_vectors vectors) of the outputs of ROWS queries. s: the state's rows at the tile's exponents, or
 * NULL; part: sums over the state at exponents of their own, or NULL. */
INLINE void NAME(causal_block)(const int n_vectors, const struct kernel_job *job, const FACTOR *s, const REAL *part,
                               int64_t at, int64_t first, const struct NAME(factors) * factors,
                               const struct NAME(scratch) * scratch, const struct NAME(target) * target) {
  const FACTOR *query[ROWS];
  VEC sum[ROWS][COLUMNS];
  UNROLL for (int i = 0; i < ROWS; i++) { UNROLL for (int c = 0; c < n_vectors; c++) sum[i][c] = NAME(splat)(0); }
  NAME(weigh_values)(n_vectors, first, at, scratch, sum);
  if (s) { /* last: one by one, the tile's own weights would be lost in a state of millions of keys */
    NAME(query_rows)(scratch, first, query);
    NAME(multiply)(n_vectors, 0, NAME(factors_of)(job->shape->features), query, 1, s + at, job->shape->s_stride, sum);
  }
  UNROLL for (int i = 0; i < ROWS; i++) {
    if (i >= target->n) break;
    UNROLL for (int c = 0; c < n_vectors; c++) {
      VEC out = sum[i][c] * NAME(splat)(factors->own[i]);
      if (part) {
        VEC other = NAME(load)(part + (first + i) * scratch->e_row + at + c * LANES);
        out = NAME(fused)(other, NAME(splat)(factors->state[i]), out);
      }
      NAME(leave)(target, i, at + c * LANES, out);
    }
  }
}

/* Sums of ROWS queries over the state, from features at its own exponents. */
INLINE void NAME(state_block)(const int n_vectors, const struct kernel_job *job, const FACTOR *s, int64_t at,
                              int64_t first, const struct NAME(scratch) * scratch) {
  VEC sum[ROWS][COLUMNS];
  NAME(multiply_queries)(n_vectors, job, first, s + at, job->shape->s_stride, scratch, sum);
  UNROLL for (int i = 0; i < ROWS; i++) {
    UNROLL for (int c = 0; c < n_vectors; c++) {
      NAME(store)(scratch->part + (first + i) * scratch->e_row + at + c * LANES, sum[i][c]);
    }
  }
}

/* The state's part of n queries at its own exponents: scratch->part, far_total and far_top. */
static void NAME(read_far_state)(const struct kernel_job *job, const struct NAME(tokens) * tokens,
                                 const struct kernel_sum *state, struct NAME(scratch) * scratch) {
  int64_t n = tokens->n, width = job->shape->value_width;
  NAME(load_state)(job, state, scratch);
  const FACTOR *s = NAME(state_factors)(job, state, scratch);
  NAME(query_features)(job, tokens, scratch->state_base, scratch);
  memcpy(scratch->far_top, scratch->token_top, (size_t)n * sizeof *scratch->far_top);
  for (int64_t i = 0; i < n; i += ROWS) {
    NAME(normalisers)(i, scratch, scratch->far_total + i);
    for (int64_t at = 0, n_vectors; at < width; at += n_vectors * LANES) {
      n_vectors = NAME(vectors_at)(width, at);
      FOR_VECTORS(n_vectors, NAME(state_block)(N_VECTORS, job, s, at, i, scratch));
    }
  }
}

enum NAME(place) { NAME(NO_STATE), NAME(NEAR_STATE), NAME(FAR_STATE) };

/* What joins the two sums of ROWS queries, each at its own exponent if the state is far. */
static struct NAME(factors) NAME(join)(enum NAME(place) place, int64_t first, int64_t n, const REAL pairs[ROWS],
                                       const struct NAME(scratch) * scratch) {
  struct NAME(factors) factors = {{0}, {0}};
  REAL near[ROWS] = {0};
  if (place == NAME(NEAR_STATE)) NAME(normalisers)(first, scratch, near);
  for (int64_t i = 0; i < n; i++) {
    if (place == NAME(FAR_STATE)) {
      int64_t above = scratch->token_top[first + i] - scratch->far_top[first + i];
      REAL own = NAME(power_of_two)(above < 0 ? above : 0), state = NAME(power_of_two)(above > 0 ? -above : 0);
      REAL total = own * pairs[i] + state * scratch->far_total[first + i];
      factors.own[i] = own / total;
      factors.state[i] = state / total;
    } else {
      factors.own[i] = 1 / (pairs[i] + near[i]);
    }
  }
  return factors;
}

/* Outputs of queries [begin, begin + n) of one head, keys [begin, begin + n) and their values being in scratch. */
static void NAME(causal_head)(const struct kernel_job *job, const struct kernel_queries *queries, int64_t h,
                              int64_t begin, int64_t n, const struct kernel_sum *state, enum NAME(place) place,
                              struct NAME(scratch) * scratch) {
  int64_t width = job->shape->value_width;
  struct NAME(tokens) tokens = NAME(tokens_of)(queries, h, begin, n);
  const FACTOR *s = place == NAME(NEAR_STATE) ? scratch->state_s : NULL;
  const REAL *part = place == NAME(FAR_STATE) ? scratch->part : NULL;
  if (part) NAME(read_far_state)(job, &tokens, state, scratch);
  NAME(query_features)(job, &tokens, scratch->query_base, scratch);
  for (int64_t i = 0; i < n; i += ROWS) {
    for (int64_t at = 0, n_vectors; at < i + ROWS; at += n_vectors * LANES) {
      n_vectors = NAME(vectors_at)(i + ROWS, at);
      FOR_VECTORS(n_vectors, NAME(pair_block)(N_VECTORS, job, i, at, scratch));
    }
    REAL pairs[ROWS];
    NAME(pair_totals)(i, scratch, pairs);
    struct NAME(target) target = NAME(target_of)(job, queries, h, begin + i, n - i);
    struct NAME(factors) factors = NAME(join)(place, i, target.n, pairs, scratch);
    for (int64_t at = 0, n_vectors; at < width; at += n_vectors * LANES) {
      n_vectors = NAME(vectors_at)(width, at);
      FOR_VECTORS(n_vectors, NAME(causal_block)(N_VECTORS, job, s, part, at, i, &factors, scratch, &target));
    }
  }
}

/* Features of as many of the tile's keys from `begin` as go together, kept or computed; returns how many. */
static int64_t NAME(causal_keys)(const struct kernel_job *job, const struct kernel_keys *keys, int64_t begin,
                                 struct kernel_sum *sum, struct NAME(scratch) * scratch) {
  if (kernel_has_features(CAUSAL_TILE, keys)) {
    NAME(take_kept)(job, keys, scratch);
    return keys->n;
  }
  struct NAME(tokens) part = NAME(part_of)(keys, begin, keys->n);
  return NAME(take_keys)(job, &part, sum, scratch);
}

/* As many tokens from `begin` as go together; returns their end. */
static int64_t NAME(causal_part)(const struct kernel_job *job, const struct kernel_keys *keys,
                                 const struct kernel_queries *queries, int64_t begin, const struct kernel_sum *state,
                                 struct kernel_sum *sum, struct kernel_sum *before, struct NAME(scratch) * scratch) {
  int64_t n = NAME(causal_keys)(job, keys, begin, sum, scratch);
  /* Products go through whole blocks of keys. */
  bool is_in_place = n % ROWS == 0 && NAME(are_packed)(job, keys, scratch);
  NAME(bring_values)(is_in_place, job, keys, begin, n, scratch);
  NAME(transpose_keys)(n, scratch);
  enum NAME(place) place = state->is_empty && sum->is_empty     ? NAME(NO_STATE)
                           : NAME(is_near)(job, state, scratch) ? NAME(NEAR_STATE)
                                                                : NAME(FAR_STATE);
  if (place == NAME(NEAR_STATE)) NAME(move_state)(job, state, sum, scratch);
  if (place == NAME(FAR_STATE)) NAME(join_sums)(job->shape, state, sum, before);
  for (int64_t r = 0; r < scratch->m_row; r += LANES) {
    INTS base = NAME(load_ints)(scratch->base + r);
    NAME(store_ints)(scratch->query_base + r, base);
  }
  for (int64_t r = job->shape->features; r < scratch->m_row; r++) scratch->query_base[r] = -NAME(NO_FEATURE);
  for (int64_t h = 0; h < queries->n_heads; h++) {
    NAME(causal_head)(job, queries, h, begin, n, before, place, scratch);
    scratch->ahead.key = NULL;
  }
  NAME(add_part)(job, n, sum, scratch);
  NAME(add_waiting)(job, sum, scratch);
  return begin + n;
}

static void NAME(causal)(const struct kernel_job *job, const struct kernel_keys *keys,
                         const struct kernel_queries *queries, const struct kernel_sum *state, struct kernel_sum *sum,
                         struct kernel_sum *before) {
  struct NAME(scratch) scratch;
  NAME(carve)(job->shape, job->scratch, &scratch);
  memset(queries->is_lost, 0, (size_t)(queries->n_heads * queries->n) * sizeof *queries->is_lost);
  for (int64_t begin = 0; begin < keys->n;) {
    begin = NAME(causal_part)(job, keys, queries, begin, state, sum, before, &scratch);
  }
}

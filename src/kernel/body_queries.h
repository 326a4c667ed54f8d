/* Part of body.h: outputs of queries from a state. */

/* One pass over all panels; the first guesses m. */
static void NAME(query_pass)(const struct kernel_job *job, const INT *base, bool is_guess, struct NAME(pass) * pass,
                             struct NAME(scratch) * scratch) {
  int64_t directions = job->shape->directions;
  for (int64_t i = 0; i < pass->tokens->n; i++) {
    scratch->token_highest[i] = NAME(splat_int)(-NAME(NO_FEATURE));
  }
  if (kernel_signs(job->shape) == 2)
    NAME(pad_features)(false, job->shape, pass->tokens->n, scratch->query, scratch->query_row);
#ifndef PAIRS
  if (job->shape->hadamard_width > 0) {
    pass->is_guess = is_guess;
    pass->base = (INT *)base;
    pass->features = scratch->query;
    NAME(hadamard_features)(false, job, scratch, pass);
    return;
  }
#endif
  pass->panel = 0;
  for (int64_t at = 0, n_vectors; at < directions; at += n_vectors * LANES) {
    n_vectors = NAME(vectors_at)(directions, at);
    pass->n_directions = directions - at;
    pass->is_guess = is_guess && at == 0;
    pass->base = (INT *)base + at;
    pass->features = scratch->query + at / PAIR;
    NAME(panel)(false, n_vectors, job->shape, NAME(weights_at)(job, at), pass);
    pass->panel++;
  }
}

/* Features of queries at exponents base in scratch->query, less token_top. */
static void NAME(query_features)(const struct kernel_job *job, const struct NAME(tokens) * tokens, const INT *base,
                                 struct NAME(scratch) * scratch) {
  int64_t n = tokens->n;
  struct NAME(pass) pass = {.tokens = tokens,
                            .is_long = NAME(has_long)(job),
                            .x = NAME(token_factors)(job, tokens, scratch),
                            .x_row = NAME(token_row)(tokens, scratch),
                            .token_top = scratch->token_top,
                            .token_highest = scratch->token_highest,
                            .n_panels = NAME(blocks_of)(job->shape->directions),
                            .minus = job->shape->directions,
                            .row = scratch->query_row,
                            .ahead = scratch->ahead,
                            .key_row = scratch->key_row};
  NAME(query_pass)(job, base, true, &pass, scratch);
  INTS highest = NAME(splat_int)(-NAME(NO_FEATURE));
  for (int64_t i = 0; i < n; i++) highest = NAME(larger)(highest, scratch->token_highest[i]);
  if (!NAME(any_above)(highest, NAME(QUERY_LIMIT))) return;
  bool is_out = false;
  for (int64_t i = 0; i < n; i++) {
    INT up = NAME(largest)(scratch->token_highest[i]);
    if (up <= NAME(QUERY_LIMIT)) continue;
    scratch->token_top[i] += up;
    is_out |= up > REAL_BIAS - 8;
    REAL factor = NAME(power_of_two)(-(int64_t)up);
    NAME(scale_factors)(scratch->query + i * scratch->query_row, NAME(factors_of)(scratch->m_row), factor);
  }
  if (is_out) NAME(query_pass)(job, base, false, &pass, scratch);
}

INLINE void NAME(query_rows)(const struct NAME(scratch) * scratch, int64_t at, const FACTOR *query[ROWS]) {
  UNROLL for (int i = 0; i < ROWS; i++) query[i] = scratch->query + (at + i) * scratch->query_row;
}

/* Where ROWS rows of output go; n of them are there. */
struct NAME(target) {
  int64_t n;
  REAL *out;
  int64_t stride;
  const REAL *scale;
  int64_t width;
};

/* An output leaves at its column's scale. A weighted mean of finite values is finite: only rounding could pass the
 * largest number. */
INLINE void NAME(leave)(const struct NAME(target) * target, int i, int64_t at, VEC x) {
  int64_t n = target->width - at;
  REAL *out = target->out + i * target->stride + at;
  if (target->scale) {
    x *= NAME(load_first)(target->scale + at, n);
    VEC largest = NAME(splat)(REAL_MAX), below = (VEC)((INTS)largest & (INTS)(x > largest));
    VEC lowest = (VEC)((INTS)-largest & (INTS)(x < -largest));
    INTS is_inside = (INTS)(x <= largest) & (INTS)(x >= -largest);
    x = (VEC)(((INTS)x & is_inside) | (INTS)below | (INTS)lowest);
  }
  NAME(store_lanes)(out, n, x);
}

/* sum = the products of ROWS queries with columns of `rows`, one row to a feature (or pair of them). */
INLINE void NAME(multiply_queries)(const int n_vectors, const struct kernel_job *job, int64_t first, const FACTOR *rows,
                                   int64_t stride, const struct NAME(scratch) * scratch, VEC sum[ROWS][COLUMNS]) {
  const FACTOR *query[ROWS];
  NAME(query_rows)(scratch, first, query);
  UNROLL for (int i = 0; i < ROWS; i++) { UNROLL for (int c = 0; c < n_vectors; c++) sum[i][c] = NAME(splat)(0); }
  NAME(multiply)(n_vectors, 0, NAME(factors_of)(job->shape->features), query, 1, rows, stride, sum);
}

INLINE void NAME(emit_block)(const int n_vectors, const struct kernel_job *job, const FACTOR *s, int64_t at,
                             int64_t first, const REAL factor[ROWS], const struct NAME(scratch) * scratch,
                             const struct NAME(target) * target) {
  VEC sum[ROWS][COLUMNS];
  NAME(multiply_queries)(n_vectors, job, first, s + at, job->shape->s_stride, scratch, sum);
  UNROLL for (int i = 0; i < ROWS; i++) {
    if (i >= target->n) break;
    UNROLL for (int c = 0; c < n_vectors; c++) {
      NAME(leave)(target, i, at + c * LANES, sum[i][c] * NAME(splat)(factor[i]));
    }
  }
}

/* The state's exponents and normaliser, padded. */
static void NAME(load_state)(const struct kernel_job *job, const struct kernel_sum *state,
                             struct NAME(scratch) * scratch) {
  int64_t m = job->shape->features;
  const REAL *z = state->z;
  for (int64_t r = 0; r < scratch->m_row; r += LANES) {
    NAME(store_ints)(scratch->state_base + r, NAME(load_exponents)(state->exponent + r, m - r, -NAME(NO_FEATURE)));
    NAME(store)(scratch->state_z + r, NAME(load_first)(z + r, m - r));
  }
}

static struct NAME(target) NAME(target_of)(const struct kernel_job *job, const struct kernel_queries *queries,
                                           int64_t h, int64_t begin, int64_t n) {
  return (struct NAME(target)){.n = NAME(smaller)(n, ROWS),
                               .out = (REAL *)queries->out + h * queries->out_head_stride + begin * queries->out_stride,
                               .stride = queries->out_stride,
                               .scale = queries->out_scale,
                               .width = job->shape->value_width};
}

static struct NAME(tokens) NAME(tokens_of)(const struct kernel_queries *queries, int64_t h, int64_t begin, int64_t n) {
  return (struct NAME(tokens)){.n = n,
                               .x = (const REAL *)queries->q + h * queries->q_head_stride + begin * queries->q_stride,
                               .stride = queries->q_stride,
                               .companion = (const REAL *)queries->out + h * queries->out_head_stride +
                                            begin * queries->out_stride,
                               .companion_stride = queries->out_stride};
}

static void NAME(emit)(const struct kernel_job *job, const struct kernel_queries *queries,
                       const struct kernel_sum *state) {
  struct NAME(scratch) scratch;
  NAME(carve)(job->shape, job->scratch, &scratch);
  NAME(load_state)(job, state, &scratch);
  const FACTOR *s = NAME(state_factors)(job, state, &scratch);
  int64_t width = job->shape->value_width;
  for (int64_t h = 0; h < queries->n_heads; h++) {
    struct NAME(tokens) tokens = NAME(tokens_of)(queries, h, 0, queries->n);
    NAME(query_features)(job, &tokens, scratch.state_base, &scratch);
    for (int64_t i = 0; i < queries->n; i += ROWS) {
      struct NAME(target) target = NAME(target_of)(job, queries, h, i, queries->n - i);
      REAL factor[ROWS];
      NAME(normalisers)(i, &scratch, factor);
      UNROLL for (int row = 0; row < ROWS; row++) factor[row] = 1 / factor[row];
      for (int64_t at = 0, n_vectors; at < width; at += n_vectors * LANES) {
        n_vectors = NAME(vectors_at)(width, at);
        FOR_VECTORS(n_vectors, NAME(emit_block)(N_VECTORS, job, s, at, i, factor, &scratch, &target));
      }
    }
  }
}

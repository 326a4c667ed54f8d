/* core/hybrid_tile.h for one precision. The including file defines REAL and its format (kernel/real_f32.h, real_f64.h),
 * NAME(x), and NAME(gemm), NAME(gemv) as in kernel/gemm.h. Loops marked VECTORS do not depend on the width of vectors:
 * products are rounded before they are added. */

/* 2^n, and 0 where that is below the normal range. n <= REAL_BIAS. */
static inline REAL NAME(power_of_two)(int32_t n) {
  int32_t biased = n + REAL_BIAS;
  biased = biased < 0 ? 0 : biased;
  REAL_BITS bits = (REAL_BITS)biased << REAL_MANTISSA_BITS;
  REAL x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline int32_t NAME(step_down)(int32_t from, int32_t to) { return from < to ? from - to : 0; }

/* 2^x for |x| <= 1/2. */
static inline REAL NAME(exp2_fraction)(REAL x) {
  static const REAL coefficients[] = {EXP2_COEFFICIENTS};
  REAL p = coefficients[0];
#pragma GCC unroll 16
  for (size_t i = 1; i < sizeof coefficients / sizeof coefficients[0]; i++) p = p * x + coefficients[i];
  return p * x + 1;
}

/* One token: u_r - part, r < m, becomes 2^f, exponent[r] = n, with n lower by `down`. Returns max_r n_r. */
VECTORS static int32_t NAME(split)(int64_t m, REAL part, int32_t down, REAL *restrict u, int32_t *restrict exponent) {
  int32_t highest = INT32_MIN;
  for (int64_t r = 0; r < m; r++) {
    REAL l = u[r] - part, nearest = NAME(nearest)(l);
    int32_t here = (int32_t)nearest - down;
    u[r] = NAME(exp2_fraction)(l - nearest);
    exponent[r] = here;
    highest = here > highest ? here : highest;
  }
  return highest;
}

/* to[r] = fraction[r] 2^(exponent[r] - top). */
VECTORS static void NAME(at_top)(int64_t m, const REAL *restrict fraction, const int32_t *restrict exponent,
                                 int32_t top, REAL *restrict to) {
  for (int64_t r = 0; r < m; r++) to[r] = fraction[r] * NAME(power_of_two)(NAME(step_down)(exponent[r], top));
}

/* Features of n tokens of a tile, whose x is padded: u = 2^f, exponent = n, top = max n. */
static void NAME(features)(const struct hybrid_tile *tile, int64_t n, const REAL *x, const double *half_norm, REAL *u,
                           int32_t *exponent, int32_t *top) {
  const struct kernel_shape *shape = &tile->engine->shape;
  int64_t width = shape->key_width, m = shape->features, directions = shape->directions;
  NAME(gemm)
  (CblasNoTrans, CblasTrans, tile->tokens, directions, width, x, width, tile->projection, width, 0, u, m);
  for (int64_t i = 0; i < n; i++) {
    double whole = half_norm ? rint(half_norm[i]) : 0;
    REAL part = half_norm ? (REAL)(half_norm[i] - whole) : 0, *row = u + i * m;
    for (int64_t r = directions; r < m; r++) row[r] = -row[r - directions];
    top[i] = NAME(split)(m, part, (int32_t)whole, row, exponent + i * m);
  }
}

static void NAME(at_own_tops)(const struct hybrid_tile *tile, int64_t n, const REAL *fraction, const int32_t *exponent,
                              const int32_t *top, REAL *to) {
  int64_t m = tile->engine->shape.features;
  for (int64_t i = 0; i < n; i++) NAME(at_top)(m, fraction + i * m, exponent + i * m, top[i], to + i * m);
  memset(to + n * m, 0, (size_t)((tile->tokens - n) * m) * sizeof(REAL));
}

/* Rows [0, n) of x times scale (NULL: ones), zeros up to a tile. */
static void NAME(pad)(const struct hybrid_tile *tile, int64_t n, int64_t width, const REAL *x, int64_t stride,
                      const REAL *scale, REAL *padded) {
  for (int64_t i = 0; i < n; i++) {
    memcpy(padded + i * width, x + i * stride, (size_t)width * sizeof *x);
    for (int64_t c = 0; scale && c < width; c++) padded[i * width + c] *= scale[c];
  }
  memset(padded + n * width, 0, (size_t)((tile->tokens - n) * width) * sizeof(REAL));
}

static void NAME(take_queries)(struct hybrid_tile *tile, int64_t n, const void *q, int64_t q_stride) {
  const struct engine *engine = tile->engine;
  REAL *part = tile->exact_part;
  tile->n_queries = n;
  NAME(pad)(tile, n, engine->shape.key_width, q, q_stride, NULL, tile->q);
  NAME(features)(tile, n, tile->q, NULL, tile->fraction, tile->exponent, tile->query_top);
  NAME(at_own_tops)(tile, n, tile->fraction, tile->exponent, tile->query_top, tile->query);
  hybrid_half_norms(tile, n, tile->q, tile->half_norm);
  for (int64_t i = 0; i < n; i++) {
    double offset = tile->half_norm[i] + tile->exact_log2, whole = rint(offset);
    tile->exact_whole[i] = (int32_t)whole;
    part[i] = (REAL)(offset - whole);
    tile->near_total[i] = 0;
    tile->near_top[i] = tile->far_reach[i] = HYBRID_NOTHING;
  }
  memset(tile->near_sum, 0, (size_t)(tile->tokens * engine->shape.value_width) * sizeof(REAL));
}

static void NAME(take_keys)(struct hybrid_tile *tile, int64_t n, const void *k, struct hybrid_keys *keys) {
  int64_t width = tile->engine->shape.key_width;
  REAL *fraction = tile->factor; /* the next state is read after all meetings, the one before has been */
  int32_t *exponent = tile->key_exponent;
  hybrid_half_norms(tile, n, k, tile->half_norm);
  if (n < tile->tokens) NAME(pad)(tile, n, width, k, width, NULL, tile->k);
  NAME(features)(tile, n, n < tile->tokens ? tile->k : k, tile->half_norm, fraction, exponent, keys->top);
  NAME(at_own_tops)(tile, n, fraction, exponent, keys->top, keys->factor);
}

VECTORS static int32_t NAME(highest_sum)(int64_t m, const int32_t *restrict a, const int32_t *restrict b) {
  int32_t highest = INT32_MIN;
  for (int64_t r = 0; r < m; r++) highest = a[r] + b[r] > highest ? a[r] + b[r] : highest;
  return highest;
}

VECTORS static void NAME(weigh_state)(int64_t m, const REAL *restrict fraction, const int32_t *restrict a,
                                      const int32_t *restrict b, int32_t top, REAL *restrict weight) {
  for (int64_t r = 0; r < m; r++) weight[r] = fraction[r] * NAME(power_of_two)(NAME(step_down)(a[r] + b[r], top));
}

static void NAME(read_state)(struct hybrid_tile *tile, const struct kernel_sum *state) {
  const struct kernel_shape *shape = &tile->engine->shape;
  int64_t m = shape->features, n = tile->n_queries;
  const REAL *fraction = tile->fraction;
  REAL *weight = tile->factor;
  for (int64_t i = 0; i < n; i++) {
    const int32_t *exponent = tile->exponent + i * m;
    tile->state_top[i] = NAME(highest_sum)(m, exponent, state->exponent);
    NAME(weigh_state)(m, fraction + i * m, exponent, state->exponent, tile->state_top[i], weight + i * m);
  }
  memset(weight + n * m, 0, (size_t)((tile->tokens - n) * m) * sizeof(REAL));
  NAME(gemm)
  (CblasNoTrans, CblasNoTrans, tile->tokens, shape->value_width, m, weight, m, state->s, shape->s_stride, 0,
   tile->state_sum, shape->value_width);
  NAME(gemv)(tile->tokens, m, weight, m, state->z, tile->state_total);
}

/* Weights 2^(factor logit + part + whole). */
VECTORS static void NAME(weigh_exactly)(int64_t n, const REAL *restrict logit, REAL factor, REAL part, int32_t whole,
                                        REAL *restrict value, int32_t *restrict exponent) {
  for (int64_t j = 0; j < n; j++) {
    REAL l = factor * logit[j] + part, nearest = NAME(nearest)(l);
    value[j] = NAME(exp2_fraction)(l - nearest);
    exponent[j] = (int32_t)nearest + whole;
  }
}

/* Weights pair 2^(own_top + top), as a number of [1, 2) and an exponent; too small to be normal: nothing. */
VECTORS static void NAME(weigh_pairs)(int64_t n, const REAL *restrict pair, int32_t own_top,
                                      const int32_t *restrict top, REAL *restrict value, int32_t *restrict exponent) {
  const REAL_BITS one = (REAL_BITS)REAL_BIAS << REAL_MANTISSA_BITS;
  const REAL_BITS mantissa = ((REAL_BITS)1 << REAL_MANTISSA_BITS) - 1;
  for (int64_t j = 0; j < n; j++) {
    REAL_BITS bits;
    memcpy(&bits, &pair[j], sizeof bits);
    int32_t biased = (int32_t)(bits >> REAL_MANTISSA_BITS);
    bits = biased > 0 ? (bits & mantissa) | one : 0;
    memcpy(&value[j], &bits, sizeof bits);
    exponent[j] = biased > 0 ? own_top + top[j] + biased - REAL_BIAS : HYBRID_NOTHING;
  }
}

VECTORS static int32_t NAME(highest)(int64_t n, const int32_t *restrict x) {
  int32_t highest = HYBRID_NOTHING;
  for (int64_t j = 0; j < n; j++) highest = x[j] > highest ? x[j] : highest;
  return highest;
}

VECTORS static void NAME(scale_row)(int64_t n, REAL factor, REAL *restrict x) {
  for (int64_t e = 0; e < n; e++) x[e] *= factor;
}

static int64_t NAME(clamp)(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

/* The weights of query i for the tile's keys, in row i of tile->weight at its exponent near_top[i], which rises first.
 */
static void NAME(weigh_row)(struct hybrid_tile *tile, const struct hybrid_meeting *meeting, int64_t i) {
  int64_t width = tile->engine->shape.value_width, n = meeting->n_keys, here = i - meeting->ahead;
  REAL *weight = (REAL *)tile->weight + i * tile->tokens, *sum = (REAL *)tile->near_sum + i * width, *value = tile->row;
  const REAL *logit = (const REAL *)tile->logit + i * tile->tokens, *part = tile->exact_part;
  const REAL *pair = (const REAL *)tile->pair + i * tile->tokens;
  int32_t *exponent = tile->row_exponent;
  if (meeting->is_causal) n = NAME(clamp)(here + 1, 0, n);
  /* Keys [first, last) are inside the window. */
  int64_t first = NAME(clamp)(here - meeting->before, 0, n), last = NAME(clamp)(here + meeting->after + 1, first, n);
  NAME(weigh_exactly)
  (last - first, logit + first, (REAL)(2 * tile->half_norm_factor), part[i], tile->exact_whole[i], value + first,
   exponent + first);
  if (meeting->far) {
    const int32_t *top = meeting->far->top;
    int32_t own = tile->query_top[i];
    NAME(weigh_pairs)(first, pair, own, top, value, exponent);
    NAME(weigh_pairs)(n - last, pair + last, own, top + last, value + last, exponent + last);
    int32_t before = NAME(highest)(first, top), after = NAME(highest)(n - last, top + last);
    int32_t reach = before > after ? before : after;
    if (reach > tile->far_reach[i]) tile->far_reach[i] = reach;
  }
  int32_t highest = NAME(highest)(n, exponent);
  if (highest > tile->near_top[i]) {
    REAL factor = NAME(power_of_two)(tile->near_top[i] - highest);
    NAME(scale_row)(width, factor, sum);
    tile->near_total[i] *= (double)factor;
    tile->near_top[i] = highest;
  }
  NAME(at_top)(n, value, exponent, tile->near_top[i], weight);
  memset(weight + n, 0, (size_t)(tile->tokens - n) * sizeof *weight);
}

static void NAME(meet)(struct hybrid_tile *tile, const struct hybrid_meeting *meeting) {
  const struct kernel_shape *shape = &tile->engine->shape;
  int64_t width = shape->key_width, m = shape->features, tokens = tile->tokens, n = meeting->n_keys;
  const REAL *k = meeting->k, *v = meeting->v, *part = tile->near_part;
  if (n < tokens) {
    NAME(pad)(tile, n, width, k, width, NULL, tile->k);
    k = tile->k;
  }
  if (n < tokens || meeting->v_scale) {
    NAME(pad)(tile, n, shape->value_width, v, shape->value_width, meeting->v_scale, tile->v);
    v = tile->v;
  }
  NAME(gemm)(CblasNoTrans, CblasTrans, tokens, tokens, width, tile->q, width, k, width, 0, tile->logit, tokens);
  if (meeting->far) {
    NAME(gemm)
    (CblasNoTrans, CblasTrans, tokens, tokens, m, tile->query, m, meeting->far->factor, m, 0, tile->pair, tokens);
  }
  for (int64_t i = 0; i < tile->n_queries; i++) NAME(weigh_row)(tile, meeting, i);
  memset((REAL *)tile->weight + tile->n_queries * tokens, 0,
         (size_t)((tokens - tile->n_queries) * tokens) * sizeof(REAL));
  NAME(gemm)
  (CblasNoTrans, CblasNoTrans, tokens, shape->value_width, tokens, tile->weight, tokens, v, shape->value_width, 1,
   tile->near_sum, shape->value_width);
  NAME(gemv)(tokens, tokens, tile->weight, tokens, tile->ones, tile->near_part);
  for (int64_t i = 0; i < tile->n_queries; i++) tile->near_total[i] += (double)part[i];
}

VECTORS static void NAME(add_row)(int64_t n, REAL own, REAL other, const REAL *restrict from, REAL *restrict to) {
  for (int64_t e = 0; e < n; e++) to[e] = to[e] * own + from[e] * other;
}

static void NAME(add_sum)(const struct kernel_shape *shape, const struct kernel_sum *from, struct kernel_sum *to) {
  const REAL *from_z = from->z, *from_s = from->s;
  REAL *z = to->z, *s = to->s;
  for (int64_t r = 0; r < shape->features; r++) {
    int32_t own = to->exponent[r], other = from->exponent[r], top = own > other ? own : other;
    REAL own_factor = NAME(power_of_two)(own - top), other_factor = NAME(power_of_two)(other - top);
    to->exponent[r] = top;
    z[r] = z[r] * own_factor + from_z[r] * other_factor;
    NAME(add_row)
    (shape->value_width, own_factor, other_factor, from_s + r * shape->s_stride, s + r * shape->s_stride);
  }
}

VECTORS static void NAME(combine)(int64_t n, const struct hybrid_part *parts, REAL *out) {
  const REAL *a = parts[0].sum, *b = parts[1].sum, *c = parts[2].sum;
  const double *a_scale = parts[0].scale, *b_scale = parts[1].scale, *c_scale = parts[2].scale;
  const double a_factor = parts[0].factor, b_factor = parts[1].factor, c_factor = parts[2].factor;
#pragma GCC ivdep
  for (int64_t e = 0; e < n; e++) {
    double x = (double)a[e] * a_scale[e] * a_factor + (double)b[e] * b_scale[e] * b_factor +
               (double)c[e] * c_scale[e] * c_factor;
    out[e] = (REAL)(x > (double)REAL_MAX ? (double)REAL_MAX : x < -(double)REAL_MAX ? -(double)REAL_MAX : x);
  }
}

/* Part of body.h: keys and values into a sum. */

/* Whether some key is beyond the limit of its base. */
static bool NAME(is_beyond)(const struct NAME(scratch) * scratch) {
  INTS highest = NAME(splat_int)(-NAME(NO_FEATURE));
  for (int64_t r = 0; r < scratch->m_row; r += LANES) {
    highest = NAME(larger)(highest, NAME(load_ints)(scratch->top + r) - NAME(load_ints)(scratch->base + r));
  }
  return NAME(any_above)(highest, NAME(KEY_LIMIT));
}

/* Columns [at, at + n_vectors vectors) of rows [r, r + ROWS) of S. */
INLINE void NAME(add_block)(const int n_vectors, int64_t r, int64_t at, const struct NAME(scratch) * scratch,
                            REAL *const s[ROWS]) {
  const struct NAME(waiting) *waiting = &scratch->waiting;
  const FACTOR *value = waiting->value + at;
  VEC sum[ROWS][COLUMNS];
  const FACTOR *key[ROWS];
  UNROLL for (int i = 0; i < ROWS; i++) {
    key[i] = scratch->key + r + i;
    UNROLL for (int c = 0; c < n_vectors; c++) {
      sum[i][c] = waiting->is_first ? NAME(splat)(0) : NAME(load)(s[i] + at + c * LANES);
    }
  }
  int64_t j = 0;
  for (int part = 0; part < waiting->n_parts; part++) {
    int64_t end = waiting->end[part] / PAIR;
    NAME(multiply)(n_vectors, j, end, key, scratch->key_row, value, scratch->e_row, sum);
    j = end;
    const REAL *lift = scratch->lift + part * scratch->m_row + r;
    bool is_lifted = false;
    UNROLL for (int i = 0; i < ROWS; i++) is_lifted |= lift[i] != 1;
    if (!is_lifted) continue;
    UNROLL for (int i = 0; i < ROWS; i++) {
      UNROLL for (int c = 0; c < n_vectors; c++) sum[i][c] *= NAME(splat)(lift[i]);
    }
  }
  UNROLL for (int i = 0; i < ROWS; i++) {
    UNROLL for (int c = 0; c < n_vectors; c++) NAME(store)(s[i] + at + c * LANES, sum[i][c]);
  }
}

/* S += the waiting keys. */
static void NAME(add_waiting)(const struct kernel_job *job, struct kernel_sum *sum, struct NAME(scratch) * scratch) {
  int64_t m = job->shape->features, width = job->shape->value_width;
  for (int64_t r = 0; r < m; r += ROWS) {
    REAL *s[ROWS];
    UNROLL for (int i = 0; i < ROWS; i++) {
      s[i] = r + i < m ? (REAL *)sum->s + (r + i) * job->shape->s_stride : scratch->spare;
    }
    for (int64_t at = 0, n_vectors; at < width; at += n_vectors * LANES) {
      n_vectors = NAME(vectors_at)(width, at);
      FOR_VECTORS(n_vectors, NAME(add_block)(N_VECTORS, r, at, scratch, s));
    }
  }
  scratch->waiting = (struct NAME(waiting)){.n = 0};
}

/* n more keys wait; the sum's exponents and z have them. */
static void NAME(add_part)(const struct kernel_job *job, int64_t n, struct kernel_sum *sum,
                           struct NAME(scratch) * scratch) {
  struct NAME(waiting) *waiting = &scratch->waiting;
  int64_t m = job->shape->features;
  REAL *z = sum->z, *lifts = scratch->lift + waiting->n_parts * scratch->m_row;
  for (int64_t r = 0; r < m; r += LANES) {
    INTS top = NAME(load_ints)(scratch->top + r);
    if (!sum->is_empty) top = NAME(larger)(top, NAME(load_exponents)(sum->exponent + r, m - r, -NAME(NO_FEATURE)));
    VEC lift = NAME(scaled)(NAME(splat)(1), NAME(load_ints)(scratch->base + r) - top);
    NAME(store)(lifts + r, lift);
    NAME(store_exponents)(sum->exponent + r, m - r, top);
    NAME(store_first)(z + r, m - r, NAME(load)(scratch->z + r) * lift);
  }
  for (int64_t r = m; r < scratch->m_row; r++) lifts[r] = 1;
  if (sum->is_empty) waiting->is_first = true;
  sum->is_empty = false;
  waiting->n += NAME(round_up)(n, PAIR);
  waiting->end[waiting->n_parts++] = waiting->n;
}

/* All features of some keys: key, top, base and z of scratch. */
static void NAME(key_features)(const struct kernel_job *job, const struct NAME(tokens) * part,
                               const struct kernel_sum *sum, struct NAME(scratch) * scratch) {
  int64_t m = job->shape->features, directions = job->shape->directions;
  FACTOR *features = scratch->key + scratch->waiting.n / PAIR * scratch->key_row;
  const REAL *z = sum->z;
  for (int64_t r = 0; r < scratch->m_row; r += LANES) {
    int64_t n = sum->is_empty ? 0 : m - r;
    NAME(store_ints)(scratch->top + r, NAME(splat_int)(-NAME(NO_FEATURE)));
    NAME(store_ints)(scratch->base + r, NAME(load_exponents)(sum->exponent + r, n, 0));
    NAME(store)(scratch->z + r, NAME(load_first)(z + r, n));
  }
  struct NAME(pass) pass = {.tokens = part,
                            .is_long = NAME(has_long)(job),
                            .is_first_key = sum->is_empty,
                            .x = NAME(token_factors)(job, part, scratch),
                            .x_row = NAME(token_row)(part, scratch),
                            .n_panels = NAME(blocks_of)(directions),
                            .minus = directions,
                            .row = scratch->key_row,
                            .key_row = scratch->key_row};
  if (scratch->kept_bytes > 0) pass.ahead.key = NAME(beyond)(features, scratch->kept_bytes);
  if (kernel_signs(job->shape) == 2) NAME(pad_features)(true, job->shape, part->n, features, scratch->key_row);
#ifndef PAIRS
  if (job->shape->hadamard_width > 0) {
    pass.base = scratch->base;
    pass.top = scratch->top;
    pass.z = scratch->z;
    pass.features = features;
    NAME(hadamard_features)(true, job, scratch, &pass);
    return;
  }
#endif
  for (int64_t at = 0, n_vectors; at < directions; at += n_vectors * LANES) {
    n_vectors = NAME(vectors_at)(directions, at);
    pass.n_directions = directions - at;
    pass.base = scratch->base + at;
    pass.top = scratch->top + at;
    pass.z = scratch->z + at;
    pass.features = features + at;
    NAME(panel)(true, n_vectors, job->shape, NAME(weights_at)(job, at), &pass);
    pass.panel++;
  }
}

/* How many of the keys come before the first that is beyond the limit of its base, one of which there is. */
static int64_t NAME(count_within)(const struct kernel_job *job, const struct NAME(tokens) * part,
                                  struct kernel_sum *sum, struct NAME(scratch) * scratch) {
  int64_t low = 0, high = part->n; /* low are within, high are not */
  struct NAME(tokens) tried = *part;
  while (high - low > 1) {
    tried.n = low + (high - low) / 2;
    NAME(key_features)(job, &tried, sum, scratch);
    if (NAME(is_beyond)(scratch)) {
      high = tried.n;
    } else {
      low = tried.n;
    }
  }
  return low;
}

static void NAME(scale_row)(REAL *s, int64_t width, REAL factor) {
  for (int64_t e = 0; e < width; e++) s[e] *= factor;
}

/* Raises the sum's exponents to those of one key; no key waits after it. */
static void NAME(raise_to)(const struct kernel_job *job, const struct NAME(tokens) * key, struct kernel_sum *sum,
                           struct NAME(scratch) * scratch) {
  NAME(add_waiting)(job, sum, scratch);
  NAME(key_features)(job, key, sum, scratch);
  REAL *s = sum->s, *z = sum->z;
  for (int64_t r = 0; r < job->shape->features; r++) {
    if (scratch->top[r] <= sum->exponent[r]) continue;
    REAL factor = NAME(power_of_two)(sum->exponent[r] - scratch->top[r]);
    sum->exponent[r] = (int32_t)scratch->top[r];
    z[r] *= factor;
    NAME(scale_row)(s + r * job->shape->s_stride, job->shape->s_stride, factor);
  }
}

/* Features of as many of the keys as go together, at least one; returns how many. */
static int64_t NAME(take_keys)(const struct kernel_job *job, const struct NAME(tokens) * part, struct kernel_sum *sum,
                               struct NAME(scratch) * scratch) {
  NAME(key_features)(job, part, sum, scratch);
  if (!NAME(is_beyond)(scratch)) return part->n;
  scratch->is_cut = true;
  struct NAME(tokens) within = *part;
  within.n = NAME(count_within)(job, part, sum, scratch);
  if (within.n == 0) {
    within.n = 1;
    NAME(raise_to)(job, &within, sum, scratch);
  }
  NAME(key_features)(job, &within, sum, scratch);
  return within.n;
}

static struct NAME(tokens) NAME(part_of)(const struct kernel_keys *keys, int64_t begin, int64_t end) {
  return (struct NAME(tokens)){.n = end - begin,
                               .x = (const REAL *)keys->k + begin * keys->k_stride,
                               .stride = keys->k_stride,
                               .half_norm = keys->half_norm + begin,
                               .companion = (const REAL *)keys->v + begin * keys->v_stride,
                               .companion_stride = keys->v_stride};
}

/* Values [begin, begin + n), to be read in place or from scratch: all that wait alike. */
static void NAME(bring_values)(bool is_in_place, const struct kernel_job *job, const struct kernel_keys *keys,
                               int64_t begin, int64_t n, struct NAME(scratch) * scratch) {
  struct NAME(waiting) *waiting = &scratch->waiting;
  if (is_in_place) {
    waiting->value = (const FACTOR *)keys->v + (begin - waiting->n) * scratch->e_row;
  } else {
    waiting->value = scratch->value;
    NAME(pack_values)(job, keys, begin, n, scratch);
  }
}

/* Parts end where tiles of a causal pass end, so that both do the same to the sum. */
static void NAME(absorb_range)(const struct kernel_job *job, const struct kernel_keys *keys, int64_t begin, int64_t end,
                               struct kernel_sum *sum, struct NAME(scratch) * scratch) {
  while (begin < end) {
    int64_t tile_end = begin - begin % CAUSAL_TILE + CAUSAL_TILE;
    struct NAME(tokens) part = NAME(part_of)(keys, begin, NAME(smaller)(tile_end, end));
    const struct NAME(waiting) *waiting = &scratch->waiting;
    if (waiting->n_parts == MAX_PARTS || waiting->n + part.n > TILE) NAME(add_waiting)(job, sum, scratch);
    if (keys->features) NAME(enter_part)(keys->features, begin / CAUSAL_TILE, scratch);
    int64_t n = NAME(take_keys)(job, &part, sum, scratch);
    NAME(bring_values)(NAME(are_packed)(job, keys, scratch), job, keys, begin, n, scratch);
    NAME(add_part)(job, n, sum, scratch);
    begin += n;
  }
  NAME(add_waiting)(job, sum, scratch);
}

static void NAME(absorb)(const struct kernel_job *job, const struct kernel_keys *keys, struct kernel_sum *sum) {
  struct NAME(scratch) scratch;
  NAME(carve)(job->shape, job->scratch, &scratch);
  if (keys->features) NAME(keep_keys)(job, keys->features, &scratch);
  NAME(absorb_range)(job, keys, 0, keys->n, sum, &scratch);
  if (keys->features) keys->features->n = scratch.is_cut ? 0 : keys->n;
}

/* Part of body.h: features that absorb() leaves in memory for causal(), in the place that they are summed from. */

/* Exponents and normalisers of each part of a tile (its causal tiles), then the features of its keys: of the
 * last part whole squares are read, and the last row in whole blocks. */
enum {
  NAME(N_PARTS) = TILE / CAUSAL_TILE,
  NAME(PART_FACTS) = 3,
  NAME(PART_ROWS) = CAUSAL_TILE / PAIR,
  NAME(ROWS_PAST) = (NAME(PART_ROWS) + LANES - 1) / LANES * LANES - NAME(PART_ROWS)
};

static size_t NAME(features_bytes)(const struct kernel_shape *shape) {
  struct NAME(scratch) scratch;
  NAME(carve)(shape, NULL, &scratch);
  int64_t n_rows = NAME(N_PARTS) * NAME(PART_ROWS) + NAME(ROWS_PAST);
  int64_t n = NAME(N_PARTS) * NAME(PART_FACTS) * scratch.m_row + n_rows * scratch.key_row + NAME(round_up)(ROWS, LANES);
  return (sizeof(struct kernel_features) + 63) / 64 * 64 + ((size_t)n * sizeof(FACTOR) + 63) / 64 * 64;
}

static FACTOR *NAME(kept_facts)(struct kernel_features *features) {
  return (FACTOR *)(void *)((char *)features + (sizeof *features + 63) / 64 * 64);
}

/* Past the last tile an address and no more. */
static const FACTOR *NAME(beyond)(const FACTOR *x, size_t bytes) { return (const FACTOR *)((uintptr_t)x + bytes); }

/* Features, exponents and normalisers are where those of a part are kept. */
static void NAME(enter_part)(struct kernel_features *features, int64_t part, struct NAME(scratch) * scratch) {
  FACTOR *facts = NAME(kept_facts)(features) + part * NAME(PART_FACTS) * scratch->m_row;
  scratch->base = (INT *)(void *)facts;
  scratch->top = scratch->base + scratch->m_row;
  scratch->z = (REAL *)(void *)(scratch->top + scratch->m_row);
}

/* The keys of a tile are left there. */
static void NAME(keep_keys)(const struct kernel_job *job, struct kernel_features *features,
                            struct NAME(scratch) * scratch) {
  scratch->key = NAME(kept_facts)(features) + NAME(N_PARTS) * NAME(PART_FACTS) * scratch->m_row;
  scratch->kept_bytes = NAME(features_bytes)(job->shape);
}

/* The keys of a causal tile are taken from there. */
static void NAME(take_kept)(const struct kernel_job *job, const struct kernel_keys *keys,
                            struct NAME(scratch) * scratch) {
  const int64_t part = keys->features_begin / CAUSAL_TILE, part_factors = NAME(PART_ROWS) * scratch->key_row;
  NAME(enter_part)(keys->features, part, scratch);
  NAME(keep_keys)(job, keys->features, scratch);
  scratch->key += part * part_factors;
  scratch->ahead = (struct NAME(ahead)){
      .key = scratch->key + part_factors, .value = (const REAL *)keys->v, .value_stride = keys->v_stride};
  if (part + 1 < NAME(N_PARTS)) return;
  scratch->ahead.key = NAME(beyond)(scratch->key - part * part_factors, scratch->kept_bytes);
}

/* Part of body.h: u of a Hadamard projection by its fast transform; kernel.h says what W is, D' log D' work stands for
 * D'^2.
 *
 * LANES tokens go together, one in each lane: row d holds element d of all of them, and a stage of H adds and subtracts
 * rows whose numbers differ in one bit. The stages of H commute. Those of the bits below LANES stay within squares of
 * LANES rows, which fit in registers ("near"); the others ("far") take a pass over all rows for each three bits.
 *   once:        transpose the tokens, signs, near and far stages           mixed = H D0 x
 *   each block:  signs, near stages | far, signs, far | near, transpose     u = lengths (H D2 H D1 mixed)
 * A block of the kernel has at least LANES rows: where D' < LANES it is LANES / D' blocks of W side by side. */

/* Packed: signs of the common round [rows]; for each block signs of its two rounds and the factors of u [3][rows]. */
static int64_t NAME(hadamard_count)(const struct kernel_shape *shape) {
  int64_t rows = NAME(hadamard_rows)(shape);
  return rows + (shape->directions + rows - 1) / rows * 3 * rows;
}

static void NAME(pack_hadamard)(const struct kernel_shape *shape, const struct kernel_projection *projection,
                                double factor, REAL *packed) {
  int64_t rows = NAME(hadamard_rows)(shape), width = shape->hadamard_width, m = shape->directions;
  double norm = factor / ((double)width * sqrt((double)width)); /* of three H that are not normalised */
  for (int64_t i = 0; i < rows; i++) packed[i] = i < width ? (REAL)projection->signs[i] : 0;
  for (int64_t r = 0; r < NAME(round_up)(m, rows); r++) {
    REAL *block = packed + rows + r / rows * 3 * rows + r % rows;
    const double *signs = projection->signs + (1 + 2 * (r / width)) * width + r % width;
    bool has_block = r / width * width < m;
    block[0] = has_block ? (REAL)signs[0] : 0;
    block[rows] = has_block ? (REAL)signs[width] : 0;
    block[2 * rows] = r < m ? (REAL)(projection->lengths[r] * norm) : 0;
  }
}

/* The stage of H that joins rows `half` apart. */
INLINE void NAME(stage)(const int n_rows, const int half, VEC *x) {
  UNROLL for (int i = 0; i < n_rows; i++) {
    if (i & half) continue;
    VEC a = x[i], b = x[i + half];
    x[i] = a + b;
    x[i + half] = a - b;
  }
}

/* The stage of neighbours, of rows times their signs: exact, and half of the multiplications come with a sum. */
INLINE void NAME(signed_stage)(const int n_rows, const REAL *signs, int64_t step, VEC *x) {
  UNROLL for (int i = 0; i < n_rows; i += 2) {
    VEC sign = NAME(splat)(signs[i * step]), b = x[i + 1] * NAME(splat)(signs[(i + 1) * step]);
    x[i + 1] = NAME(fused)(x[i], sign, -b);
    x[i] = NAME(fused)(x[i], sign, b);
  }
}

/* All stages of n_rows rows `step` apart in their array, after their signs where there are some. */
INLINE void NAME(stages)(const int n_rows, const bool has_signs, const REAL *signs, int64_t step, VEC *x) {
  if (n_rows == 1) {
    if (has_signs) x[0] *= NAME(splat)(signs[0]);
    return;
  }
  if (has_signs) {
    NAME(signed_stage)(n_rows, signs, step, x);
  } else {
    NAME(stage)(n_rows, 1, x);
  }
  UNROLL for (int half = 2; half < n_rows; half *= 2) NAME(stage)(n_rows, half, x);
}

enum { NAME(FAR_ROWS) = 8 };

/* Far stages of the bits in [step, n_rows step) of n rows; where there are signs, once more after them. */
INLINE void NAME(far_pass)(const int n_rows, const bool has_signs, int64_t n, int64_t step, const REAL *signs,
                           REAL *rows) {
  for (int64_t first = 0; first < n; first += n_rows * step) {
    for (int64_t at = first; at < first + step; at++) {
      VEC x[NAME(FAR_ROWS)];
      UNROLL for (int i = 0; i < n_rows; i++) x[i] = NAME(load)(rows + (at + i * step) * LANES);
      NAME(stages)(n_rows, false, NULL, step, x);
      if (has_signs) NAME(stages)(n_rows, true, signs + at, step, x);
      UNROLL for (int i = 0; i < n_rows; i++) NAME(store)(rows + (at + i * step) * LANES, x[i]);
    }
  }
}

/* All stages of n rows from that of the bit `step` up; where there are signs, then those and the same stages again. */
INLINE void NAME(far_stages)(const bool has_signs, int64_t n, int64_t width, int64_t step, const REAL *signs,
                             REAL *rows) {
  const int64_t first = step;
  for (; width / step > NAME(FAR_ROWS); step *= NAME(FAR_ROWS)) {
    NAME(far_pass)(NAME(FAR_ROWS), false, n, step, NULL, rows);
  }
  switch (width / step) {
  case 8:
    NAME(far_pass)(8, has_signs, n, step, signs, rows);
    break;
  case 4:
    NAME(far_pass)(4, has_signs, n, step, signs, rows);
    break;
  case 2:
    NAME(far_pass)(2, has_signs, n, step, signs, rows);
    break;
  default:
    if (has_signs) NAME(far_pass)(1, true, n, step, signs, rows);
  }
  while (has_signs && step > first) {
    step /= NAME(FAR_ROWS);
    NAME(far_pass)(NAME(FAR_ROWS), false, n, step, NULL, rows);
  }
}

/* mixed of the tokens from `at`; past the last they repeat it. */
INLINE void NAME(mix_tokens)(const bool is_wide, const struct kernel_job *job, const struct NAME(tokens) * tokens,
                             int64_t at, REAL *mixed) {
  const struct kernel_shape *shape = job->shape;
  const REAL *signs = job->weights, *x[LANES];
  int64_t rows = NAME(hadamard_rows)(shape), width = shape->hadamard_width;
  for (int i = 0; i < LANES; i++) x[i] = tokens->x + NAME(smaller)(at + i, tokens->n - 1) * tokens->stride;
  for (int64_t d = 0; d < rows; d += LANES) {
    VEC square[LANES], sign = NAME(load)(signs + d);
    UNROLL for (int i = 0; i < LANES; i++) square[i] = NAME(load_first)(x[i] + d, shape->key_width - d) * sign;
    NAME(transpose)(square);
    if (is_wide) NAME(stages)(LANES, false, NULL, 1, square);
    UNROLL for (int i = 0; i < LANES; i++) NAME(store)(mixed + (d + i) * LANES, square[i]);
  }
  NAME(far_stages)(false, rows, width, is_wide ? LANES : 1, NULL, mixed);
  for (int64_t d = width; d < rows; d++) { /* blocks side by side */
    NAME(store)(mixed + d * LANES, NAME(load)(mixed + d % width * LANES));
  }
}

/* The rounds of one block but for the last near stages: turned. */
INLINE void NAME(turn_block)(const bool is_wide, int64_t rows, int64_t width, const REAL *signs, const REAL *mixed,
                             REAL *turned) {
  for (int64_t d = 0; d < rows; d += LANES) {
    VEC square[LANES];
    UNROLL for (int i = 0; i < LANES; i++) square[i] = NAME(load)(mixed + (d + i) * LANES);
    if (is_wide) {
      NAME(stages)(LANES, true, signs + d, 1, square);
    } else {
      UNROLL for (int i = 0; i < LANES; i++) square[i] *= NAME(splat)(signs[i]);
    }
    UNROLL for (int i = 0; i < LANES; i++) NAME(store)(turned + (d + i) * LANES, square[i]);
  }
  NAME(far_stages)(true, rows, width, is_wide ? LANES : 1, signs + rows, turned);
}

/* Rows of a square of a block as a vector of u of each token. */
INLINE void NAME(finish_square)(const bool is_wide, const REAL *rows, const REAL *factors, const REAL minus_eta[LANES],
                                VEC u[LANES]) {
  const VEC factor = NAME(load)(factors);
  UNROLL for (int i = 0; i < LANES; i++) u[i] = NAME(load)(rows + i * LANES);
  if (is_wide) NAME(stages)(LANES, false, NULL, 1, u);
  NAME(transpose)(u);
  UNROLL for (int i = 0; i < LANES; i++) u[i] = NAME(fused)(u[i], factor, NAME(splat)(minus_eta[i]));
}

/* One vector of features of each sign, of the n tokens that are there. */
INLINE void NAME(finish_group)(const bool is_key, const int n_signs, const bool is_long, int64_t n, const VEC u[LANES],
                               struct NAME(pass) * pass) {
  UNROLL for (int sign = 0; sign < n_signs; sign++) {
    struct NAME(vector) vector = NAME(vector_of)(n_signs, pass, 0, sign);
    if (!is_key) {
      INTS *highest = pass->token_highest + pass->at;
      UNROLL for (int i = 0; i < LANES; i++) {
        if (i < n) NAME(weigh_query_of)(is_long, pass, u[i], i, vector, highest + i);
      }
      continue;
    }
    INTS top = NAME(load_int_lanes)(pass->top + vector.column, vector.n_lanes, 0);
    VEC z = NAME(load_lanes)(pass->z + vector.column, vector.n_lanes);
    UNROLL for (int i = 0; i < LANES; i++) {
      if (i < n) NAME(weigh_key_of)(is_long, pass, u[i], i, vector, &top, &z);
    }
    NAME(store_int_lanes)(pass->top + vector.column, vector.n_lanes, top);
    NAME(store_lanes)(pass->z + vector.column, vector.n_lanes, z);
  }
}

/* Directions [r, r + LANES) of the group at pass->at, of n tokens; pass is at r. */
INLINE void NAME(hadamard_vector)(const bool is_key, const int n_signs, const bool is_wide,
                                  const struct kernel_job *job, int64_t r, const REAL minus_eta[LANES], int64_t n,
                                  const struct NAME(scratch) * scratch, struct NAME(pass) * pass) {
  int64_t rows = NAME(hadamard_rows)(job->shape), width = job->shape->hadamard_width;
  const REAL *block = (const REAL *)job->weights + rows + r / rows * 3 * rows;
  VEC u[LANES];
  if (r % rows == 0) NAME(turn_block)(is_wide, rows, width, block, scratch->mixed, scratch->turned);
  NAME(finish_square)(is_wide, scratch->turned + r % rows * LANES, block + 2 * rows + r % rows, minus_eta, u);
  if (is_key && pass->at == 0 && pass->is_first_key) NAME(set_base)(n_signs, pass, u[0], 0);
  if (!is_key && r == 0) {
    if (pass->is_guess) {
      UNROLL for (int i = 0; i < LANES; i++) NAME(guess_top)(n_signs, pass, u[i], i);
    }
    for (int i = 0; i < LANES; i++) pass->down[i] += pass->token_top[pass->at + i];
  }
  if (pass->is_long) {
    NAME(finish_group)(is_key, n_signs, true, n, u, pass);
  } else {
    NAME(finish_group)(is_key, n_signs, false, n, u, pass);
  }
}

/* All features of LANES tokens at pass->at. */
INLINE void NAME(hadamard_group)(const bool is_key, const int n_signs, const bool is_wide, const struct kernel_job *job,
                                 const struct NAME(scratch) * scratch, struct NAME(pass) * pass) {
  const int64_t m = job->shape->directions, n = NAME(smaller)(LANES, pass->tokens->n - pass->at);
  REAL minus_eta[LANES];
  for (int i = 0; i < LANES; i++) {
    NAME(split_norm)(is_key, pass->tokens, pass->at + i, &minus_eta[i], &pass->down[i]);
    pass->mirror[i] = 2 * minus_eta[i];
  }
  NAME(mix_tokens)(is_wide, job, pass->tokens, pass->at, scratch->mixed);
  for (int64_t r = 0; r < m; r += LANES, pass->panel++) {
    NAME(fetch_ahead)(is_key, pass, job->shape, LANES, pass->at);
    pass->n_directions = m - r;
    NAME(hadamard_vector)(is_key, n_signs, is_wide, job, r, minus_eta, n, scratch, pass);
    pass->base += LANES;
    pass->features += LANES;
    if (is_key) {
      pass->top += LANES;
      pass->z += LANES;
    }
  }
}

/* Each a function of its own, see PANEL. */
#define GROUP(IS_KEY, N_SIGNS, IS_WIDE)                                                                                \
  static NOINLINE void NAME(group_##IS_KEY##N_SIGNS##IS_WIDE)(                                                         \
      const struct kernel_job *job, const struct NAME(scratch) * scratch, const struct NAME(pass) * pass) {            \
    struct NAME(pass) own = *pass; /* whose members may be kept in registers, and move on */                           \
    NAME(hadamard_group)(IS_KEY, N_SIGNS, IS_WIDE, job, scratch, &own);                                                \
  }
#define GROUPS(N_SIGNS) GROUP(0, N_SIGNS, 0) GROUP(0, N_SIGNS, 1) GROUP(1, N_SIGNS, 0) GROUP(1, N_SIGNS, 1)
GROUPS(1)
GROUPS(2)
#undef GROUPS
#undef GROUP

/* pass is at the first feature. */
static void NAME(hadamard_features)(bool is_key, const struct kernel_job *job, const struct NAME(scratch) * scratch,
                                    struct NAME(pass) * pass) {
  typedef void group(const struct kernel_job *, const struct NAME(scratch) *, const struct NAME(pass) *);
  static group *const groups[2][2][2] = {{{NAME(group_010), NAME(group_011)}, {NAME(group_020), NAME(group_021)}},
                                         {{NAME(group_110), NAME(group_111)}, {NAME(group_120), NAME(group_121)}}};
  bool is_wide = job->shape->hadamard_width >= LANES;
  pass->panel = 0;
  pass->n_panels = (job->shape->directions + LANES - 1) / LANES;
  for (pass->at = 0; pass->at < pass->tokens->n; pass->at += LANES) {
    groups[is_key][kernel_signs(job->shape) - 1][is_wide](job, scratch, pass);
  }
}

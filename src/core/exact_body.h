/* The body of exact.c, once for each precision. The including file defines REAL and what belongs to it
 * (kernel/real_f32.h), NAME(x), FMA and RINT of REAL, and
 *   LARGE_VALUE   values above it enter products apart from the others, times LARGE_SCALE, so that sums of them do not
 *                 overflow and no other value pays for it
 *   ACC_SCALE     what acc is scaled by, so that sums over any number of tiles do not either
 */

static void NAME(pack)(const struct exact *exact, const struct piece_keys *keys, struct packed *packed) {
  const int64_t d = exact->engine->shape.key_width, e = exact->engine->shape.value_width;
  REAL *k = (REAL *)packed_k(packed), *v = (REAL *)packed_v(exact, packed);
  packed->n = keys->n;
  measure(exact, keys->n, keys->k, keys->k_stride, packed->length);
  for (int64_t j = 0; j < keys->n; j++) {
    const REAL *k_row = (const REAL *)keys->k + j * keys->k_stride, *v_row = (const REAL *)keys->v + j * keys->v_stride;
    packed->longest = packed->length[j] > packed->longest ? packed->length[j] : packed->longest;
    for (int64_t i = 0; i < d; i++) k[i * TILE + j] = k_row[i];
    bool has_large = false;
    for (int64_t i = 0; i < e; i++) {
      v[j * e + i] = v_row[i];
      has_large |= v_row[i] > LARGE_VALUE || v_row[i] < -LARGE_VALUE;
    }
    packed->has_large |= has_large;
  }
}

struct NAME(scratch) {
  REAL *q;         /* [TILE][D]: rows that need padding or stand apart */
  REAL *weight;    /* [TILE][TILE]: products, then weights, of key j for query i */
  REAL *part, *av; /* [TILE][E]: some of the values; weights times values */
  double *product; /* [TILE][TILE]: of long rows */
  double *wide;    /* [2][TILE D] */
};

static size_t NAME(carve)(const struct exact *exact, void *memory, struct NAME(scratch) * scratch) {
  size_t d = (size_t)exact->engine->shape.key_width, e = (size_t)exact->engine->shape.value_width;
  size_t total = 0;
#define TAKE(field, count)                                                                                             \
  do {                                                                                                                 \
    if (scratch) scratch->field = (void *)((char *)memory + total);                                                    \
    total += round_up((count) * sizeof(*((struct NAME(scratch) *)0)->field));                                          \
  } while (0)
  TAKE(q, TILE * d);
  TAKE(weight, (size_t)TILE * TILE);
  TAKE(part, TILE * e);
  TAKE(av, TILE * e);
  TAKE(product, (size_t)TILE * TILE);
  TAKE(wide, 2 * TILE * d);
#undef TAKE
  return total;
}

/* The queries as a whole tile of rows one after the other. */
static const REAL *NAME(whole_tile)(const struct exact *exact, const struct exact_queries *queries, REAL *padded) {
  const size_t width = (size_t)exact->engine->shape.key_width;
  const REAL *q = queries->q;
  if (queries->n == TILE && queries->q_stride == (int64_t)width) return q;
  for (int64_t i = 0; i < queries->n; i++) {
    memcpy(padded + (size_t)i * width, q + i * queries->q_stride, width * sizeof(REAL));
  }
  memset(padded + (size_t)queries->n * width, 0, (size_t)(TILE - queries->n) * width * sizeof(REAL));
  return padded;
}

/* p = 2^f 2^n, n <= 0 an integer; 0 where that is below the normal range. The last bits of magic + n are those of the
 * exponent of 2^n. */
static inline REAL NAME(weight)(REAL f, REAL n) {
  static const REAL coefficients[] = {EXP2_COEFFICIENTS};
  enum { N = sizeof coefficients / sizeof coefficients[0] };
  const REAL magic = (REAL)((REAL_BITS)3 << (REAL_MANTISSA_BITS - 1)) + REAL_BIAS;
  union {
    REAL real;
    REAL_BITS bits;
  } power = {.real = magic + (n > -REAL_BIAS ? n : -REAL_BIAS)};
  power.bits <<= REAL_MANTISSA_BITS;
  REAL p = coefficients[0];
#pragma GCC unroll 16
  for (int i = 1; i < N; i++) p = FMA(p, f, coefficients[i]);
  return FMA(p, f, 1) * power.real;
}

/* LANES numbers, whatever the machine's vectors hold, so that the order of sums does not depend on it. */
typedef REAL NAME(lanes) __attribute__((vector_size(LANES * sizeof(REAL))));

/* most = max(most, x) */
static inline void NAME(raise_lanes)(const NAME(lanes) * x, NAME(lanes) * most) {
  typedef __typeof__(*x > *most) bits;
  const bits is_larger = *x > *most;
  *most = (NAME(lanes))(((bits)*x & is_larger) | ((bits)*most & ~is_larger));
}

static inline REAL NAME(row_max)(const REAL *row) {
  NAME(lanes) most, x;
  memcpy(&most, row, sizeof most);
  for (int j = LANES; j < TILE; j += LANES) {
    memcpy(&x, row + j, sizeof x);
    NAME(raise_lanes)(&x, &most);
  }
  x = ROTATED_BY_8(most);
  NAME(raise_lanes)(&x, &most);
  x = ROTATED_BY_4(most);
  NAME(raise_lanes)(&x, &most);
  x = ROTATED_BY_2(most);
  NAME(raise_lanes)(&x, &most);
  return most[0] > most[1] ? most[0] : most[1];
}

static inline REAL NAME(row_sum)(const REAL *row) {
  NAME(lanes) sum, x;
  memcpy(&sum, row, sizeof sum);
  for (int j = LANES; j < TILE; j += LANES) {
    memcpy(&x, row + j, sizeof x);
    sum += x;
  }
  sum += ROTATED_BY_8(sum);
  sum += ROTATED_BY_4(sum);
  sum += ROTATED_BY_2(sum);
  return sum[0] + sum[1];
}

/* Weights of a row from its products; log2(e) scale = hi + lo. */
static inline void NAME(weigh_short)(REAL hi, REAL lo, struct sums *sums, struct rows *rows, int64_t i, REAL *row) {
  const struct exact_range range = rows->range[i];
  /* What is not seen has no say in the maximum, and must be finite. */
  for (int32_t j = 0; j < range.begin; j++) row[j] = row[range.begin];
  for (int32_t j = range.end; j < TILE; j++) row[j] = row[range.begin];
  rows->factor[i] = raise_top(sums, i, (double)RINT(NAME(row_max)(row) * hi));
  /* Far above what short rows have, weights are zero anyway. */
  const REAL top = (REAL)(sums->top[i] < 0x1p28 ? sums->top[i] : 0x1p28);
  for (int j = 0; j < TILE; j++) {
    REAL n = RINT(row[j] * hi);
    row[j] = NAME(weight)(FMA(row[j], lo, FMA(row[j], hi, -n)), n - top);
  }
}

/* The same from products in double. */
static inline void NAME(weigh_long)(double scale, struct sums *sums, struct rows *rows, int64_t i, double *product,
                                    REAL *row) {
  const struct exact_range range = rows->range[i];
  for (int32_t j = 0; j < range.begin; j++) product[j] = product[range.begin];
  for (int32_t j = range.end; j < TILE; j++) product[j] = product[range.begin];
  rows->factor[i] = raise_top(sums, i, rint(row_max_f64(product) * scale));
  const double top = sums->top[i];
  for (int j = 0; j < TILE; j++) {
    double x = product[j] * scale, n = rint(x), down = n - top;
    row[j] = NAME(weight)((REAL)(x - n), (REAL)(down > -REAL_BIAS ? down : -REAL_BIAS));
  }
}

/* What is not seen within a row's range is as its first number, so that it has no say in the maximum. */
static inline void NAME(hide)(const struct rows *rows, int64_t i, REAL *row, double *product) {
  const struct exact_range range = rows->range[i];
  for (int32_t j = range.begin; j < range.end; j++) {
    if (is_seen(rows, i, j)) continue;
    if (rows->is_long[i]) {
      product[j] = product[range.begin];
    } else {
      row[j] = row[range.begin];
    }
  }
}

/* Products into weights, row by row, and their sums. */
VECTORS_FMA static void NAME(weigh)(double scale, int64_t n, struct sums *sums, struct rows *rows,
                                    const struct NAME(scratch) * scratch) {
  const REAL hi = (REAL)scale, lo = (REAL)(scale - (double)hi);
  for (int64_t i = 0; i < TILE; i++) {
    REAL *row = scratch->weight + i * TILE;
    const struct exact_range range = i < n ? rows->range[i] : (struct exact_range){0, 0};
    if (rows->seen && range.begin < range.end) NAME(hide)(rows, i, row, scratch->product + i * TILE);
    if (range.begin < range.end && rows->is_long[i]) {
      NAME(weigh_long)(scale, sums, rows, i, scratch->product + i * TILE, row);
    } else if (range.begin < range.end) {
      NAME(weigh_short)(hi, lo, sums, rows, i, row);
    }
    if (range.begin > 0) memset(row, 0, (size_t)range.begin * sizeof(REAL));
    if (range.end < TILE) memset(row + range.end, 0, (size_t)(TILE - range.end) * sizeof(REAL));
    for (int32_t j = range.begin; rows->seen && j < range.end; j++) row[j] = is_seen(rows, i, j) ? row[j] : 0;
    if (range.begin < range.end) sums->total[i] = sums->total[i] * rows->factor[i] + (double)NAME(row_sum)(row);
  }
}

/* acc = acc factor + av scale, where factors and scale are powers of two. */
VECTORS static void NAME(add)(int64_t n, int64_t width, const double *factor, const REAL *restrict av, double scale,
                              double *restrict acc) {
  for (int64_t i = 0; i < n; i++) {
    const double own = factor ? factor[i] : 1;
    for (int64_t e = i * width; e < (i + 1) * width; e++) acc[e] = acc[e] * own + (double)av[e] * scale;
  }
}

static void NAME(add_values)(const struct exact *exact, const struct packed *keys, int64_t n, const double *factor,
                             const struct NAME(scratch) * scratch, double *acc) {
  const int64_t width = exact->engine->shape.value_width;
  const REAL *v = packed_v(exact, keys);
  if (!keys->has_large) {
    NAME(product)(width, TILE, scratch->weight, v, scratch->av);
    NAME(add)(n, width, factor, scratch->av, ACC_SCALE, acc);
    return;
  }
  for (int is_large = 0; is_large < 2; is_large++) {
    for (int64_t i = 0; i < TILE * width; i++) {
      bool is_in = (v[i] > LARGE_VALUE || v[i] < -LARGE_VALUE) == is_large;
      scratch->part[i] = is_in ? v[i] * (is_large ? LARGE_SCALE : 1) : 0;
    }
    NAME(product)(width, TILE, scratch->weight, scratch->part, scratch->av);
    NAME(add)(n, width, is_large ? NULL : factor, scratch->av, is_large ? ACC_SCALE / LARGE_SCALE : ACC_SCALE, acc);
  }
}

static void NAME(fold)(const struct exact *exact, const struct packed *keys, const struct exact_queries *queries,
                       struct rows *rows, void *memory) {
  struct NAME(scratch) scratch;
  NAME(carve)(exact, memory, &scratch);
  const int64_t width = exact->engine->shape.key_width;
  const REAL *q = NAME(whole_tile)(exact, queries, scratch.q), *k = packed_k(keys);
  if (rows->has_short) NAME(product)(TILE, width, q, k, scratch.weight);
  if (rows->has_long) NAME(long_products)(rows, width, q, k, scratch.wide, scratch.product);
  NAME(weigh)(exact->scale * LOG2_E, queries->n, queries->sums, rows, &scratch);
  NAME(add_values)(exact, keys, queries->n, rows->factor, &scratch, sums_acc(queries->sums));
}

/* A weighted mean of finite values is finite: only rounding could pass the largest number. */
static void NAME(emit)(const struct exact *exact, const struct exact_queries *queries, void *out, int64_t out_stride) {
  const int64_t width = exact->engine->shape.value_width;
  const struct sums *sums = queries->sums;
  const double *acc = sums_acc(queries->sums), most = (double)REAL_MAX * ACC_SCALE;
  for (int64_t i = 0; i < queries->n; i++) {
    REAL *row = (REAL *)out + i * out_stride;
    for (int64_t e = 0; e < width; e++) {
      double x = sums->total[i] > 0 ? acc[i * width + e] / sums->total[i] : 0;
      row[e] = (REAL)((x > most ? most : x < -most ? -most : x) / ACC_SCALE);
    }
  }
}

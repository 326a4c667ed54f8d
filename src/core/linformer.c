#include "core/linformer.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/vectors.h"

enum { LANES = 32 };

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }
static int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

struct linformer linformer_make(const struct engine *engine, int64_t rows, const struct projection_name *name) {
  const uint64_t seed = projection_seed(name), head = (uint64_t)name->key_head;
  return (struct linformer){.engine = engine,
                            .rows = rows,
                            .keys = random_stream(seed, RANDOM_LENGTH_KEYS, head, 0),
                            .values = random_stream(seed, RANDOM_LENGTH_VALUES, head, 0)};
}

static int64_t row_width(const struct engine *engine) { return engine->shape.key_width + engine->shape.value_width; }

size_t linformer_row_bytes(const struct engine *engine) { return binned_row_bytes(row_width(engine), engine->n_bins); }

void linformer_clear(const struct linformer *linformer, void *rows) {
  binned_clear(rows, linformer->rows, row_width(linformer->engine), linformer->engine->n_bins);
}

#define REAL float
#define NAME(x) x##_f32
#include "core/linformer_body.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_f64
#include "core/linformer_body.h"

/* Of tokens [token, token + n), the signs of a block's rows, one a bit. */
static void draw_bits(const struct linformer *linformer, const struct random_stream *stream, int64_t token, int64_t n,
                      int64_t block, uint64_t *bits) {
  const uint64_t n_blocks = (uint64_t)linformer_blocks(linformer);
  for (int64_t j = 0; j < n; j++) bits[j] = random_bits(stream, (uint64_t)(token + j) * n_blocks + (uint64_t)block);
}

/* One tile's keys or values, and what they sum to. Room for doubles: where a float sum overflows, it is done again. */
struct scratch {
  double *sign; /* [LINFORMER_BLOCK_ROWS][LINFORMER_TILE] */
  double *x;    /* [LINFORMER_TILE][padded width] */
  double *sum;  /* [LINFORMER_BLOCK_ROWS][padded width] */
  double *row;  /* [padded width] */
};

static size_t carve(const struct engine *engine, char *memory, struct scratch *scratch) {
  const struct kernel_shape *shape = &engine->shape;
  const size_t width =
      (size_t)padded(shape->key_width > shape->value_width ? shape->key_width : shape->value_width) * sizeof(double);
  const size_t sign = round_up(sizeof(double) * LINFORMER_BLOCK_ROWS * LINFORMER_TILE), x = width * LINFORMER_TILE;
  if (memory) {
    scratch->sign = (double *)(void *)memory;
    scratch->x = (double *)(void *)(memory + sign);
    scratch->sum = (double *)(void *)(memory + sign + x);
    scratch->row = (double *)(void *)(memory + sign + x + width * LINFORMER_BLOCK_ROWS);
  }
  return sign + x + width * (LINFORMER_BLOCK_ROWS + 1);
}

size_t linformer_scratch_bytes(const struct engine *engine) { return carve(engine, NULL, NULL); }

/* Where no sum of a tile in double overflows; what that loses of the smallest is below any digit of the others. */
enum { SAFE_SHIFT = 64 };

/* A tile's rows of one tensor. */
struct tile {
  const struct random_stream *stream;
  const void *x;
  int64_t stride, width;
  int64_t first; /* element of the binned rows */
};

/* Sums in double at a scale where they are finite. */
static void sum_safely(const struct linformer *linformer, const struct tile *tile, int64_t n, const uint64_t *bits,
                       const struct scratch *scratch) {
  const int64_t width = padded(tile->width);
  memset(scratch->x, 0, (size_t)(n * width) * sizeof(double));
  for (int64_t j = 0; j < n; j++) {
    const void *row = row_in(linformer->engine, tile->x, tile->stride, j);
    for (int64_t e = 0; e < tile->width; e++) {
      scratch->x[j * width + e] = ldexp(real_at(linformer->engine, row, e), -SAFE_SHIFT);
    }
  }
  spread_signs_f64(n, bits, scratch->sign);
  sum_signed_f64(n, width, scratch->sign, scratch->x, scratch->sum);
}

/* Sums in real, in place of doubles. */
static void sum_plainly(const struct linformer *linformer, const struct tile *tile, int64_t n, const uint64_t *bits,
                        const struct scratch *scratch) {
  const int64_t width = padded(tile->width);
  const size_t real = linformer->engine->real_bytes;
  for (int64_t j = 0; j < n; j++) {
    char *row = (char *)scratch->x + real * (size_t)(j * width);
    memcpy(row, row_in(linformer->engine, tile->x, tile->stride, j), real * (size_t)tile->width);
    memset(row + real * (size_t)tile->width, 0, real * (size_t)(width - tile->width));
  }
  void *sign = scratch->sign, *x = scratch->x, *sum = scratch->sum;
  if (linformer->engine->precision == FAVOR_PRECISION_F64) {
    spread_signs_f64(n, bits, sign);
    sum_signed_f64(n, width, sign, x, sum);
  } else {
    spread_signs_f32(n, bits, sign);
    sum_signed_f32(n, width, sign, x, sum);
  }
}

static bool is_finite(const struct engine *engine, int64_t n, const void *x) {
  double zero = 0;
  for (int64_t i = 0; i < n; i++) zero += real_at(engine, x, i) * 0;
  return zero == 0;
}

static void deposit(const struct linformer *linformer, const struct tile *tile, int64_t block, bool is_safe,
                    const struct scratch *scratch, void *rows) {
  const int64_t width = padded(tile->width), first = block * LINFORMER_BLOCK_ROWS;
  const size_t row_bytes = linformer_row_bytes(linformer->engine);
  for (int64_t r = 0; r < LINFORMER_BLOCK_ROWS && first + r < linformer->rows; r++) {
    const double *sum = scratch->sum + r * width;
    if (!is_safe) {
      const void *real = (const char *)scratch->sum + linformer->engine->real_bytes * (size_t)(r * width);
      for (int64_t e = 0; e < tile->width; e++) scratch->row[e] = real_at(linformer->engine, real, e);
      sum = scratch->row;
    }
    binned_deposit(binned_row_at(rows, row_bytes, first + r), tile->first, tile->width, sum, is_safe ? SAFE_SHIFT : 0,
                   NULL);
  }
}

void linformer_absorb(const struct linformer *linformer, const struct piece_keys *keys, int64_t token, int64_t block,
                      void *rows, void *memory) {
  const struct engine *engine = linformer->engine;
  const int64_t d = engine->shape.key_width, e = engine->shape.value_width;
  struct scratch scratch = {0};
  carve(engine, memory, &scratch);
  for (int64_t begin = 0; begin < keys->n; begin += LINFORMER_TILE) {
    const int64_t n = keys->n - begin < LINFORMER_TILE ? keys->n - begin : LINFORMER_TILE;
    const struct tile tiles[] = {
        {&linformer->keys, row_in(engine, keys->k, keys->k_stride, begin), keys->k_stride, d, 0},
        {&linformer->values, row_in(engine, keys->v, keys->v_stride, begin), keys->v_stride, e, d}};
    for (int i = 0; i < 2; i++) {
      uint64_t bits[LINFORMER_TILE];
      draw_bits(linformer, tiles[i].stream, token + begin, n, block, bits);
      sum_plainly(linformer, &tiles[i], n, bits, &scratch);
      const bool is_safe = !is_finite(engine, LINFORMER_BLOCK_ROWS * padded(tiles[i].width), scratch.sum);
      if (is_safe) sum_safely(linformer, &tiles[i], n, bits, &scratch);
      deposit(linformer, &tiles[i], block, is_safe, &scratch, rows);
    }
  }
}

void linformer_read(const struct linformer *linformer, const void *rows, double *row, void *k, void *v) {
  const struct engine *engine = linformer->engine;
  const int64_t d = engine->shape.key_width, e = engine->shape.value_width;
  const size_t row_bytes = linformer_row_bytes(engine);
  const double most = engine->precision == FAVOR_PRECISION_F64 ? DBL_MAX : (double)FLT_MAX;
  const double length = sqrt((double)linformer->rows);
  for (int64_t r = 0; r < linformer->rows; r++) {
    binned_value(binned_row_at_const(rows, row_bytes, r), 0, d + e, 0, NULL, row);
    for (int64_t i = 0; i < d + e; i++) row[i] = fmax(-most, fmin(most, row[i] / length));
    for (int64_t i = 0; i < d; i++) set_real(engine, row_out(engine, k, d, r), i, row[i]);
    for (int64_t i = 0; i < e; i++) set_real(engine, row_out(engine, v, e, r), i, row[d + i]);
  }
}

#include "core/measure.h"

#include <math.h>
#include <string.h>

#include "base/vectors.h"

enum { AT_ONCE = 4 };

/* Of |x|^2: sums of squares stay finite. */
static const double longest_norm2 = 1e290;

struct measure measure_make(int64_t width, int64_t n_squares) {
  return (struct measure){.width = width, .n_squares = n_squares, .row_bytes = binned_row_bytes(width, MEASURE_N_BINS)};
}

size_t measure_sums_count(const struct measure *measure) {
  return (size_t)((measure_n_rows(measure) + AT_ONCE) * measure->width);
}

VECTORS static void add_first(int64_t n, const double *restrict x, double *restrict sum) {
  const double *b = x + n, *c = b + n, *d = c + n;
  for (int64_t j = 0; j < n; j++) sum[j] += (x[j] + b[j]) + (c[j] + d[j]);
}

VECTORS static void add_diagonal(int64_t n, const double *restrict x, double *restrict sum) {
  const double *b = x + n, *c = b + n, *d = c + n;
  for (int64_t j = 0; j < n; j++) sum[j] += (x[j] * x[j] + b[j] * b[j]) + (c[j] * c[j] + d[j] * d[j]);
}

/* sum[i][j] for j >= i. */
VECTORS static void add_products(int64_t n, const double *restrict x, double *restrict sum) {
  const double *b = x + n, *c = b + n, *d = c + n;
  for (int64_t i = 0; i < n; i++) {
    const double xi = x[i], bi = b[i], ci = c[i], di = d[i];
    double *restrict row = sum + i * n;
    for (int64_t j = i; j < n; j++) row[j] += (xi * x[j] + bi * b[j]) + (ci * c[j] + di * d[j]);
  }
}

/* At most AT_ONCE rows in double, zeros where fewer are left. */
static void load(const struct engine *engine, int64_t n, int64_t width, const void *x, int64_t stride, double *tokens) {
  for (int64_t i = 0; i < AT_ONCE; i++) {
    const void *row = i < n ? row_in(engine, x, stride, i) : NULL;
    for (int64_t d = 0; d < width; d++) tokens[i * width + d] = row ? real_at(engine, row, d) : 0;
  }
}

/* Checked tokens. */
static void add_tokens(const struct measure *measure, const struct engine *engine, enum measure_side side, int64_t n,
                       const void *x, int64_t stride, double *sums) {
  const int64_t width = measure->width;
  double *tokens = sums + measure_n_rows(measure) * width;
  double *first = sums + (int64_t)side * (1 + measure->n_squares) * width, *squares = first + width;
  for (int64_t t = 0; t < n; t += AT_ONCE) {
    load(engine, n - t < AT_ONCE ? n - t : AT_ONCE, width, row_in(engine, x, stride, t), stride, tokens);
    add_first(width, tokens, first);
    if (measure->n_squares == 1) {
      add_diagonal(width, tokens, squares);
    } else if (measure->n_squares > 1) {
      add_products(width, tokens, squares);
    }
  }
}

bool measure_add(const struct measure *measure, const struct engine *engine, struct worker *worker,
                 enum measure_side side, int64_t n, const void *x, int64_t stride, double *sums,
                 struct refusal *refusal) {
  const double longest = fmin(longest_norm2 * engine->half_norm_factor, longest_norm2);
  const int64_t tile = engine->kernel->tile_tokens;
  for (int64_t t = 0; t < n; t += tile) {
    const int64_t count = n - t < tile ? n - t : tile;
    const void *rows = row_in(engine, x, stride, t);
    if (!worker_measure_rows(engine, side == MEASURE_KEYS ? 'k' : 'q', count, rows, stride, longest, worker->half_norm,
                             refusal)) {
      refusal->token += t;
      return false;
    }
    add_tokens(measure, engine, side, count, rows, stride, sums);
  }
  return true;
}

void measure_deposit(const struct measure *measure, int64_t begin, int64_t end, const double *sums, void *rows) {
  const int64_t width = measure->width, side_rows = 1 + measure->n_squares;
  for (int64_t r = begin; r < end; r++) {
    const int64_t square = r % side_rows - 1, first = measure->n_squares > 1 && square > 0 ? square : 0;
    binned_deposit(binned_row_at(rows, measure->row_bytes, r), first, width - first, sums + r * width + first, 0, NULL);
  }
}

void measure_read(const struct measure *measure, const void *rows, enum measure_side side, double factor, double *sum,
                  double *square) {
  const int64_t width = measure->width, begin = (int64_t)side * (1 + measure->n_squares);
  binned_value(binned_row_at_const(rows, measure->row_bytes, begin), 0, width, 0, NULL, sum);
  for (int64_t d = 0; d < width; d++) sum[d] *= factor;
  for (int64_t r = 0; r < measure->n_squares; r++) {
    double *row = square + r * width;
    binned_value(binned_row_at_const(rows, measure->row_bytes, begin + 1 + r), 0, width, 0, NULL, row);
    for (int64_t d = 0; d < width; d++) row[d] *= factor;
    for (int64_t d = 0; d < r; d++) row[d] = square[d * width + r];
  }
}

#include "core/partial.h"

#include <math.h>

#define MOST_TOP 0x1p34

size_t partial_bytes(const struct engine *engine) {
  return binned_row_bytes(engine->shape.value_width + 1, engine->n_bins);
}

void partial_clear(const struct engine *engine, void *rows, int64_t n_rows) {
  binned_clear(rows, n_rows, engine->shape.value_width + 1, engine->n_bins);
}

void partial_merge(const void *from, void *into, int64_t n_rows) { binned_merge(from, into, n_rows); }

void partial_add(const struct exact *exact, const struct exact_queries *queries, void *rows) {
  size_t bytes = partial_bytes(exact->engine);
  for (int64_t i = 0; i < queries->n; i++) {
    struct exact_sum sum = exact_sum_at(exact, queries, i);
    if (*sum.total == 0) continue;
    int64_t shift = (int64_t)fmax(fmin(*sum.top, MOST_TOP), -MOST_TOP);
    struct binned_row *row = binned_row_at(rows, bytes, i);
    binned_deposit(row, 0, 1, sum.total, shift, NULL);
    binned_deposit(row, 1, exact->engine->shape.value_width, sum.acc, shift, NULL);
  }
}

void partial_take(const struct exact *exact, const void *rows, int64_t stride, const struct exact_queries *queries) {
  size_t bytes = partial_bytes(exact->engine);
  for (int64_t i = 0; i < queries->n; i++) {
    struct exact_sum sum = exact_sum_at(exact, queries, i);
    const struct binned_row *row = binned_row_at_const(rows, bytes, i * stride);
    int64_t magnitude = binned_magnitude(row, 0);
    if (magnitude == BINNED_NONE) continue;
    *sum.top = (double)magnitude;
    binned_value(row, 0, 1, magnitude, NULL, sum.total);
    binned_value(row, 1, exact->engine->shape.value_width, magnitude, NULL, sum.acc);
  }
}

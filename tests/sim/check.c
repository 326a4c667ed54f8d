#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/binned.h"

static struct {
  struct check_shape shape;
  size_t state_bytes;
  char *merged; /* [n_batches][size + 1] states */
} expected;

static uint64_t mix(uint64_t x) { /* splitmix64 */
  x += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
  return x ^ x >> 31;
}

void check_fill(const struct check_shape *shape, int rank, int batch, void *state) {
  const size_t row_bytes = binned_row_bytes(shape->width, 2);
  binned_clear(state, shape->n_rows, shape->width, 2);
  for (int64_t r = 0; r < shape->n_rows; r++) {
    const uint64_t name = mix(mix((uint64_t)batch << 32 | (uint64_t)rank) + (uint64_t)r);
    const int64_t shift = (int64_t)(name % 121) - 60;
    struct binned_row *row = binned_row_at(state, row_bytes, r);
    if (name % 5 == 0) continue;
    binned_raise(row, (int32_t)shift);
    for (int64_t e = 0; e < shape->width; e++) {
      const double x = (double)(int64_t)mix(name + (uint64_t)e) * 0x1p-63;
      binned_deposit(row, e, 1, &x, shift, NULL);
    }
  }
}

static char *merged_of(int n_ranks, int batch) {
  return expected.merged + expected.state_bytes * ((size_t)batch * ((size_t)expected.shape.size + 1) + (size_t)n_ranks);
}

void check_prepare(const struct check_shape *shape) {
  const size_t bytes = binned_row_bytes(shape->width, 2) * (size_t)shape->n_rows;
  char *state = malloc(bytes);
  expected.shape = *shape;
  expected.state_bytes = bytes;
  expected.merged = malloc(bytes * (size_t)shape->n_batches * ((size_t)shape->size + 1));
  if (!state || !expected.merged) {
    fprintf(stderr, "simulate: error: no memory for what is expected\n");
    abort();
  }
  for (int batch = 0; batch < shape->n_batches; batch++) {
    binned_clear(merged_of(0, batch), shape->n_rows, shape->width, 2);
    for (int rank = 0; rank < shape->size; rank++) {
      memcpy(merged_of(rank + 1, batch), merged_of(rank, batch), bytes);
      check_fill(shape, rank, batch, state);
      binned_merge(state, merged_of(rank + 1, batch), shape->n_rows);
    }
  }
  free(state);
}

void check_release(void) { free(expected.merged); }

const void *check_merged(int n_ranks, int batch) { return merged_of(n_ranks, batch); }

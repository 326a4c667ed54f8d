/* The state of one key head: for each feature a reproducible row (base/binned.h) of E + 1 elements, the last being the
 * normaliser; and the plain sums of a run that go into it and come out of it. */
#ifndef FAVOR_CORE_STATE_H
#define FAVOR_CORE_STATE_H

#include <favor/favor.h>

#include "base/binned.h"
#include "kernel/kernel.h"

/* What is the same for every head of a plan. */
struct engine {
  const struct kernel *kernel;
  const struct kernel_ops *ops;
  enum favor_precision precision;
  struct kernel_shape shape;
  double half_norm_factor; /* scale / (2 ln 2) */
  int64_t key_width;     /* D, of the caller's rows; shape.key_width has the columns of biases besides (transform.h) */
  bool has_transform;    /* rows may be transformed before a kernel sees them */
  int64_t heads_per_key; /* H / G */
  int n_bins;
  size_t real_bytes;
  size_t row_bytes;
};

struct engine engine_make(const struct kernel *kernel, enum favor_precision precision, int64_t key_width,
                          int64_t value_width, int64_t directions, int64_t signs, int64_t heads_per_key, double scale);
static inline int64_t engine_run_tokens(const struct engine *engine) {
  return engine->kernel->tile_tokens * engine->kernel->run_tiles;
}
static inline size_t engine_state_bytes(const struct engine *engine) {
  return engine->row_bytes * (size_t)engine->shape.features;
}

/* A kernel_sum and what its columns are scaled by. */
struct sum {
  struct kernel_sum kernel;
  int32_t *shift; /* [E + 1]: column e stands for s 2^shift[e], 0 for ordinary values; the last, for z, is 0 */
};
/* A column that holds nothing yet, and so takes any shift. */
#define SHIFT_NONE (INT32_MIN / 2)

size_t sum_bytes(const struct engine *engine);
/* Lays a sum out in memory of sum_bytes. */
void sum_place(const struct engine *engine, void *memory, struct sum *sum);
void sum_clear(const struct engine *engine, struct sum *sum);
/* Raises the columns' shifts to at least these. */
void sum_raise_shift(const struct engine *engine, struct sum *sum, const int32_t *shift);
void sum_copy(const struct engine *engine, const struct sum *from, struct sum *to);
/* Whether its columns are scaled as these shifts say. */
bool sum_is_at_shift(const struct engine *engine, const struct sum *sum, const int32_t *shift);
/* Everything of a state. `scratch` holds STATE_SCRATCH(E) doubles. */
#define STATE_SCRATCH(width) (2 * (width) + 1)
void state_clear(const struct engine *engine, void *rows);
void state_deposit(const struct engine *engine, const struct sum *sum, double *scratch, void *rows);
/* The state rounded for reading. */
void state_view(const struct engine *engine, const void *rows, double *scratch, struct sum *view);

/* The shift that a column of values (or sums) below 2^magnitude takes: 0 unless it is far from 1. */
int32_t shift_for(enum favor_precision precision, int64_t magnitude);
/* Whether values below 2^magnitude may enter a column at this shift. */
bool shift_holds(enum favor_precision precision, int32_t shift, int64_t magnitude);

#endif

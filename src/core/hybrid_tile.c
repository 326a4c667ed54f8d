#include "core/hybrid_tile.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/vectors.h"
#include "core/worker.h"
#include "kernel/gemm.h"

static inline float nearest_f32(float x) { return rintf(x); }
static inline double nearest_f64(double x) { return rint(x); }

#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#include "core/hybrid_body.h"
#undef NAME

#include "kernel/real_f64.h"
#define NAME(x) x##_f64
#include "core/hybrid_body.h"
#undef NAME

static bool is_double(const struct engine *engine) { return engine->precision == FAVOR_PRECISION_F64; }

static void *take(char *memory, size_t *total, size_t bytes) {
  void *at = memory ? memory + *total : NULL;
  *total += (bytes + 63) / 64 * 64;
  return at;
}

/* Fills tile's pointers where memory is not NULL; returns the bytes. */
static size_t carve(const struct engine *engine, int64_t tokens, char *memory, struct hybrid_tile *tile) {
  const struct kernel_shape *shape = &engine->shape;
  size_t n = (size_t)tokens, m = (size_t)shape->features, real = engine->real_bytes, total = 0;
  size_t d = (size_t)shape->key_width, e = (size_t)shape->value_width, word = sizeof(int32_t);
  *tile = (struct hybrid_tile){.engine = engine, .tokens = tokens};
  tile->q = take(memory, &total, n * d * real);
  tile->fraction = take(memory, &total, n * m * real);
  tile->exponent = take(memory, &total, n * m * word);
  tile->query = take(memory, &total, n * m * real);
  tile->query_top = take(memory, &total, n * word);
  tile->half_norm = take(memory, &total, n * sizeof(double));
  tile->exact_part = take(memory, &total, n * real);
  tile->exact_whole = take(memory, &total, n * word);
  tile->factor = take(memory, &total, n * m * real);
  tile->state_sum = take(memory, &total, n * e * real);
  tile->state_total = take(memory, &total, n * real);
  tile->state_top = take(memory, &total, n * word);
  for (int i = 0; i < HYBRID_SLOTS; i++) {
    tile->slot[i].factor = take(memory, &total, n * m * real);
    tile->slot[i].top = take(memory, &total, n * word);
  }
  tile->key_exponent = take(memory, &total, n * m * word);
  tile->k = take(memory, &total, n * d * real);
  tile->v = take(memory, &total, n * e * real);
  tile->logit = take(memory, &total, n * n * real);
  tile->pair = take(memory, &total, n * n * real);
  tile->weight = take(memory, &total, n * n * real);
  tile->row = take(memory, &total, n * real);
  tile->row_exponent = take(memory, &total, n * word);
  tile->near_sum = take(memory, &total, n * e * real);
  tile->near_part = take(memory, &total, n * real);
  tile->near_total = take(memory, &total, n * sizeof(double));
  tile->near_top = take(memory, &total, n * word);
  tile->far_reach = take(memory, &total, n * word);
  tile->ones = take(memory, &total, n * real);
  tile->near_shift = take(memory, &total, e * word);
  tile->v_scale = take(memory, &total, e * real);
  tile->near_scale = take(memory, &total, e * sizeof(double));
  tile->state_scale = take(memory, &total, e * sizeof(double));
  tile->scale = take(memory, &total, e * sizeof(double));
  return total;
}

size_t hybrid_tile_bytes(const struct engine *engine, int64_t tokens) {
  struct hybrid_tile tile;
  return carve(engine, tokens, NULL, &tile);
}

void hybrid_tile_place(const struct engine *engine, int64_t tokens, void *memory, struct hybrid_tile *tile) {
  carve(engine, tokens, memory, tile);
  for (int64_t i = 0; i < tokens; i++) set_real(engine, tile->ones, i, 1);
  for (int64_t e = 0; e < engine->shape.value_width; e++) tile->scale[e] = 1;
}

void hybrid_take_head(struct hybrid_tile *tile, const struct row_transform *transform, const void *projection) {
  const struct engine *engine = tile->engine;
  tile->projection = projection;
  tile->exact_log2 = log2((double)engine->shape.features);
  tile->half_norm_factor = engine->half_norm_factor;
  if (!transform) return;
  tile->exact_log2 -= transform->log2_common;
  tile->half_norm_factor /= transform->factor * transform->factor;
}

void hybrid_half_norms(const struct hybrid_tile *tile, int64_t n, const void *k, double *half_norm) {
  const struct engine *engine = tile->engine;
  engine->ops->norms(n, engine->key_width, k, engine->shape.key_width, half_norm);
  for (int64_t j = 0; j < n; j++) half_norm[j] *= tile->half_norm_factor;
}

void hybrid_take_queries(struct hybrid_tile *tile, int64_t n, const void *q, int64_t q_stride) {
  is_double(tile->engine) ? take_queries_f64(tile, n, q, q_stride) : take_queries_f32(tile, n, q, q_stride);
}

void hybrid_read_state(struct hybrid_tile *tile, const struct kernel_sum *state) {
  is_double(tile->engine) ? read_state_f64(tile, state) : read_state_f32(tile, state);
}

void hybrid_take_keys(struct hybrid_tile *tile, int64_t n, const void *k, struct hybrid_keys *keys) {
  is_double(tile->engine) ? take_keys_f64(tile, n, k, keys) : take_keys_f32(tile, n, k, keys);
}

void hybrid_meet(struct hybrid_tile *tile, const struct hybrid_meeting *meeting) {
  is_double(tile->engine) ? meet_f64(tile, meeting) : meet_f32(tile, meeting);
}

void hybrid_combine(const struct engine *engine, const struct hybrid_part parts[3], void *out) {
  is_double(engine) ? combine_f64(engine->shape.value_width, parts, out)
                    : combine_f32(engine->shape.value_width, parts, out);
}

void hybrid_add_sum(const struct engine *engine, const struct kernel_sum *from, struct kernel_sum *to) {
  is_double(engine) ? add_sum_f64(&engine->shape, from, to) : add_sum_f32(&engine->shape, from, to);
}

#include "core/attend.h"

/* Whether features of a token would mean nothing; never where none are computed. The bound is a little below that of
 * worker_measure_keys, for kernels sum in another order. */
static bool is_too_long(const struct engine *engine, const void *row) {
  double half_norm_factor = engine->half_norm_factor * 0.693147180559945309417232121458176568, norm2 = 0;
  for (int64_t d = 0; half_norm_factor > 0 && d < engine->shape.key_width; d++) {
    norm2 += real_at(engine, row, d) * real_at(engine, row, d);
  }
  return norm2 * half_norm_factor > LONGEST_HALF_NORM * (1 - 0x1p-40);
}

/* False at the first of n rows that is not finite, or is a token too long. */
static bool check_rows(const struct engine *engine, char tensor, int64_t n, const void *x, int64_t stride,
                       int64_t width, struct refusal *refusal) {
  for (int64_t i = 0; i < n; i++) {
    const void *row = row_in(engine, x, stride, i);
    enum refusal_kind kind = worker_blame(engine, row, width);
    if (kind == REFUSAL_NONE && tensor != 'v' && is_too_long(engine, row)) kind = REFUSAL_TOO_LONG;
    if (kind == REFUSAL_NONE) continue;
    *refusal = (struct refusal){kind, tensor, 0, i};
    return false;
  }
  return true;
}

bool attend_check(const struct engine *engine, const struct piece_keys *keys, const struct kernel_queries *queries,
                  struct refusal *refusal) {
  const struct kernel_shape *shape = &engine->shape;
  for (int64_t h = 0; h < queries->n_heads; h++) {
    const void *q = row_in(engine, queries->q, queries->q_head_stride, h);
    if (check_rows(engine, 'q', queries->n, q, queries->q_stride, shape->key_width, refusal)) continue;
    refusal->head = h;
    return false;
  }
  return check_rows(engine, 'k', keys->n, keys->k, keys->k_stride, shape->key_width, refusal) &&
         check_rows(engine, 'v', keys->n, keys->v, keys->v_stride, shape->value_width, refusal);
}

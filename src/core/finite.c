#include "core/attend.h"

/* False at the first of n rows that is not finite. */
static bool check_rows(const struct engine *engine, char tensor, int64_t n, const void *x, int64_t stride,
                       int64_t width, struct refusal *refusal) {
  for (int64_t i = 0; i < n; i++) {
    enum refusal_kind kind = worker_blame(engine, row_in(engine, x, stride, i), width);
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

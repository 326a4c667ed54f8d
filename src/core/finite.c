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

/* The same of what the transform makes of a token. */
static bool is_too_long_transformed(const struct engine *engine, struct worker *worker,
                                    const struct row_transform *transform, bool is_key, const void *row) {
  const double longest = LONGEST_HALF_NORM / 0.693147180559945309417232121458176568;
  double half_norm;
  return transform_rows(engine, transform, 1, row, 0, longest, worker->transform_work, worker->keys,
                        is_key ? &half_norm : NULL) < 1;
}

static enum refusal_kind blame_length(const struct engine *engine, struct worker *worker,
                                      const struct row_transform *transform, bool is_key, const void *row) {
  if (!transform || (is_key ? transform->key : transform->query).is_identity) {
    return is_too_long(engine, row) ? REFUSAL_TOO_LONG : REFUSAL_NONE;
  }
  bool is_too = is_too_long_transformed(engine, worker, transform, is_key, row);
  return is_too ? REFUSAL_TOO_LONG_TRANSFORMED : REFUSAL_NONE;
}

/* False at the first of n rows that is not finite, or is a token too long. */
static bool check_rows(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                       char tensor, int64_t n, const void *x, int64_t stride, int64_t width, struct refusal *refusal) {
  for (int64_t i = 0; i < n; i++) {
    const void *row = row_in(engine, x, stride, i);
    enum refusal_kind kind = worker_blame(engine, row, width);
    if (kind == REFUSAL_NONE && tensor != 'v') kind = blame_length(engine, worker, transform, tensor == 'k', row);
    if (kind == REFUSAL_NONE) continue;
    *refusal = (struct refusal){kind, tensor, 0, i};
    return false;
  }
  return true;
}

bool attend_check(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                  const struct piece_keys *keys, const struct kernel_queries *queries, struct refusal *refusal) {
  const int64_t width = engine->key_width, value_width = engine->shape.value_width;
  for (int64_t h = 0; h < queries->n_heads; h++) {
    const void *q = row_in(engine, queries->q, queries->q_head_stride, h);
    if (check_rows(engine, worker, transform, 'q', queries->n, q, queries->q_stride, width, refusal)) continue;
    refusal->head = h;
    return false;
  }
  return check_rows(engine, worker, transform, 'k', keys->n, keys->k, keys->k_stride, width, refusal) &&
         check_rows(engine, worker, transform, 'v', keys->n, keys->v, keys->v_stride, value_width, refusal);
}

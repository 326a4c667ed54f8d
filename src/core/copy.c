#include <string.h>

#include "core/attend.h"

bool attend_copy(const struct engine *engine, struct worker *worker, const struct piece_keys *keys,
                 const struct kernel_queries *queries, struct refusal *refusal) {
  if (!worker_measure_values(engine, worker, keys->n, keys->v, keys->v_stride, refusal)) return false;
  size_t row_bytes = (size_t)engine->shape.value_width * engine->real_bytes;
  for (int64_t h = 0; h < queries->n_heads; h++) {
    void *out = row_out(engine, queries->out, queries->out_head_stride, h);
    for (int64_t i = 0; i < keys->n; i++) {
      memcpy(row_out(engine, out, queries->out_stride, i), row_in(engine, keys->v, keys->v_stride, i), row_bytes);
    }
  }
  return true;
}

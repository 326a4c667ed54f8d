#include "core/attend.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* One run's keys into worker->run, from zero. */
static bool absorb_run(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                       const struct piece_keys *keys, int64_t begin, int64_t end, struct refusal *refusal) {
  struct kernel_job job = {.shape = &engine->shape,
                           .weights = weights->packed,
                           .scratch = worker->scratch,
                           .parameters = &weights->parameters};
  int64_t tile = engine->kernel->tile_tokens, part = engine->kernel->causal_tokens;
  sum_clear(engine, &worker->run);
  for (int64_t t = begin, n; t < end; t += n) {
    /* After a cut the tile goes on at the next boundary of a causal tile, so that both sum alike. */
    int64_t length = (t - begin) % part == 0 ? tile : part;
    int64_t tile_end = smaller(begin + ((t - begin) / length + 1) * length, end);
    struct kernel_keys tile_keys = {.n = tile_end - t,
                                    .k = row_in(engine, keys->k, keys->k_stride, t),
                                    .k_stride = keys->k_stride,
                                    .v = row_in(engine, keys->v, keys->v_stride, t),
                                    .v_stride = keys->v_stride,
                                    .half_norm = worker->half_norm,
                                    .features = kept_claim(&keys->kept, engine->kernel, t)};
    if (!worker_measure_keys(engine, worker, weights->transform, &tile_keys, refusal)) {
      refusal->token += t;
      return false;
    }
    n = worker_settle_shifts(engine, worker, tile_keys.n, tile_keys.v, tile_keys.v_stride, &worker->run);
    tile_keys.n = n;
    tile_keys.v_scale = worker_scale(engine, worker->run.shift, -1, worker->v_scale);
    engine->ops->absorb(&job, &tile_keys, &worker->run.kernel);
    worker_pause(worker);
  }
  return true;
}

bool attend_absorb(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                   const struct piece_keys *keys, void *rows, struct refusal *refusal) {
  int64_t run = engine_run_tokens(engine);
  for (int64_t begin = 0; begin < keys->n; begin += run) {
    if (!absorb_run(engine, worker, weights, keys, begin, smaller(begin + run, keys->n), refusal)) return false;
    worker_deposit(engine, worker, rows);
  }
  return true;
}

bool attend_emit(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                 const struct kernel_queries *queries, struct refusal *refusal) {
  struct kernel_job job = {.shape = &engine->shape,
                           .weights = weights->packed,
                           .scratch = worker->scratch,
                           .parameters = &weights->parameters};
  int64_t tile = engine->kernel->tile_tokens;
  const void *out_scale = worker_scale(engine, worker->view.shift, 1, worker->out_scale);
  for (int64_t t = 0; t < queries->n; t += tile) {
    struct kernel_queries cut = worker_cut_queries(engine, queries, t, smaller(tile, queries->n - t));
    cut.out_scale = out_scale;
    if (!worker_measure_queries(engine, worker, weights->transform, &cut, refusal)) {
      refusal->token += t;
      return false;
    }
    worker_norms(engine, worker, &cut);
    engine->ops->emit(&job, &cut, &worker->view.kernel);
    worker_pause(worker);
  }
  return true;
}

#include <math.h>

#include "core/attend.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* A weighted mean whose weights are x 2^n; in double, at the highest exponent so far. */
struct mean {
  int64_t top;
  double total, *sum; /* [width] */
  int64_t width;
};

/* What 2^n counts at the mean's exponent, which rises to it first. */
static double mean_factor(struct mean *mean, int64_t n) {
  if (n > mean->top) {
    double down = scaled_by(1, mean->top - n);
    for (int64_t e = 0; e < mean->width; e++) mean->sum[e] *= down;
    mean->total *= down;
    mean->top = n;
  }
  return scaled_by(1, n - mean->top);
}

static void add_state(const struct engine *engine, const struct sum *state, const double *query,
                      const int32_t *query_exponent, struct mean *mean) {
  if (state->kernel.is_empty) return;
  for (int64_t r = 0; r < engine->shape.features; r++) {
    double factor = query[r] * mean_factor(mean, (int64_t)query_exponent[r] + state->kernel.exponent[r]);
    const void *s = row_in(engine, state->kernel.s, engine->shape.s_stride, r);
    mean->total += factor * real_at(engine, state->kernel.z, r);
    for (int64_t e = 0; e < mean->width; e++) mean->sum[e] += factor * real_at(engine, s, e);
  }
}

/* sum_r a_r b_r 2^(exponents) as result 2^*highest. */
static double product_of(int64_t m, const double *a, const int32_t *a_exponent, const double *b,
                         const int32_t *b_exponent, int64_t *highest) {
  double sum = 0;
  *highest = INT64_MIN;
  for (int64_t r = 0; r < m; r++) {
    int64_t n = (int64_t)a_exponent[r] + b_exponent[r];
    *highest = n > *highest ? n : *highest;
  }
  for (int64_t r = 0; r < m; r++) sum += scaled_by(a[r] * b[r], (int64_t)a_exponent[r] + b_exponent[r] - *highest);
  return sum;
}

/* The output of row i of a tile, from the definition, in double and with exponents of unlimited range: for a row whose
 * own keys all weigh less than the working precision can hold. */
static void attend_row_exactly(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                               const struct kernel_keys *keys, const struct kernel_queries *queries, int64_t i,
                               const struct sum *state) {
  int64_t m = engine->shape.features;
  double *query = worker->exact, *key = query + m;
  int32_t *query_exponent = worker->exact_exponent, *key_exponent = query_exponent + m;
  struct mean mean = {.top = INT64_MIN / 2, .sum = key + m, .width = engine->shape.value_width};
  for (int64_t e = 0; e < mean.width; e++) mean.sum[e] = 0;
  worker_features(engine, weights, row_in(engine, queries->q, queries->q_stride, i), true,
                  engine->shape.map ? queries->half_norm[i] : 0, query, query_exponent);
  add_state(engine, state, query, query_exponent, &mean);
  for (int64_t j = 0; j <= i; j++) {
    int64_t highest;
    worker_features(engine, weights, row_in(engine, keys->k, keys->k_stride, j), false, keys->half_norm[j], key,
                    key_exponent);
    double weight = product_of(m, query, query_exponent, key, key_exponent, &highest);
    weight *= mean_factor(&mean, highest);
    const void *v = row_in(engine, keys->v, keys->v_stride, j);
    mean.total += weight;
    for (int64_t e = 0; e < mean.width; e++) {
      mean.sum[e] += weight * real_at(engine, v, e) * (keys->v_scale ? real_at(engine, keys->v_scale, e) : 1);
    }
  }
  void *out = row_out(engine, queries->out, queries->out_stride, i);
  mean.total = worker_guarded(engine, weights, query, query_exponent, mean.total, mean.top);
  for (int64_t e = 0; e < mean.width; e++) {
    double x = mean.total == 0 ? 0 : mean.sum[e] / mean.total;
    set_real(engine, out, e, x * (queries->out_scale ? real_at(engine, queries->out_scale, e) : 1));
  }
}

/* From here on the keys are taken as they are. Their half norms and transformed rows are made again, as nobody needed
 * them; they were found right when their features were kept. */
static void restore_keys(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                         struct kernel_keys *keys) {
  struct refusal refusal;
  if (kernel_has_features(engine->kernel->causal_tokens, keys)) {
    worker_measure_keys(engine, worker, weights->transform, keys, &refusal);
  }
  keys->features = NULL;
}

static bool has_lost(const struct kernel_queries *queries) {
  for (int64_t i = 0; i < queries->n_heads * queries->n; i++) {
    if (queries->is_lost[i]) return true;
  }
  return false;
}

/* The rows that the kernel gave up. */
static void repair_lost(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                        struct kernel_keys *keys, const struct kernel_queries *queries) {
  if (!has_lost(queries)) return;
  restore_keys(engine, worker, weights, keys);
  for (int64_t h = 0; h < queries->n_heads; h++) {
    struct kernel_queries head = *queries;
    head.q = row_in(engine, queries->q, queries->q_head_stride, h);
    head.out = row_out(engine, queries->out, queries->out_head_stride, h);
    head.half_norm = queries->half_norm + h * queries->half_norm_head_stride;
    for (int64_t i = 0; i < queries->n; i++) {
      if (!queries->is_lost[h * queries->n + i]) continue;
      attend_row_exactly(engine, worker, weights, keys, &head, i, &worker->before);
    }
  }
}

/* One tile: outputs from the state before it and its own keys, which then enter worker->run.
 *
 * The run is summed at its own columns' shifts, which know nothing of the state, so that its bits are those of
 * attend_absorb; outputs are read at the higher shift of both. The two differ only where values are far from 1. */
static void causal_tile(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                        struct kernel_keys *keys, struct kernel_queries *queries) {
  struct kernel_job job = {.shape = &engine->shape,
                           .weights = weights->packed,
                           .scratch = worker->scratch,
                           .parameters = &weights->parameters};
  sum_raise_shift(engine, &worker->view, worker->run.shift);
  queries->is_lost = worker->is_lost;
  queries->out_scale = worker_scale(engine, worker->view.shift, 1, worker->out_scale);
  keys->v_scale = worker_scale(engine, worker->view.shift, -1, worker->v_scale);
  if (sum_is_at_shift(engine, &worker->run, worker->view.shift)) {
    engine->ops->causal(&job, keys, queries, &worker->view.kernel, &worker->run.kernel, &worker->before.kernel);
    repair_lost(engine, worker, weights, keys, queries);
    return;
  }
  restore_keys(engine, worker, weights, keys);
  sum_copy(engine, &worker->run, &worker->raised);
  sum_raise_shift(engine, &worker->raised, worker->view.shift);
  engine->ops->causal(&job, keys, queries, &worker->view.kernel, &worker->raised.kernel, &worker->before.kernel);
  repair_lost(engine, worker, weights, keys, queries);
  keys->v_scale = worker_scale(engine, worker->run.shift, -1, worker->v_scale);
  engine->ops->absorb(&job, keys, &worker->run.kernel);
}

/* Of keys whose features are kept only the values are left to look at. */
static bool measure_keys(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                         struct kernel_keys *keys, struct refusal *refusal) {
  if (kernel_has_features(engine->kernel->causal_tokens, keys)) {
    return worker_measure_values(engine, worker, keys->n, keys->v, keys->v_stride, refusal);
  }
  return worker_measure_keys(engine, worker, weights->transform, keys, refusal);
}

bool attend_causal(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                   const struct piece_keys *keys, const struct kernel_queries *queries, void *rows,
                   struct refusal *refusal) {
  int64_t tile = engine->kernel->causal_tokens, run = engine_run_tokens(engine);
  for (int64_t t = 0, n; t < keys->n; t += n) {
    if (t % run == 0) {
      sum_clear(engine, &worker->run);
      worker_view(engine, worker, rows);
    }
    n = smaller(t / tile * tile + tile, keys->n) - t;
    struct kernel_keys tile_keys = {.n = n,
                                    .k = row_in(engine, keys->k, keys->k_stride, t),
                                    .k_stride = keys->k_stride,
                                    .v = row_in(engine, keys->v, keys->v_stride, t),
                                    .v_stride = keys->v_stride,
                                    .half_norm = worker->half_norm,
                                    .features = kept_find(&keys->kept, engine->kernel, t),
                                    .features_begin = t % engine->kernel->tile_tokens};
    struct kernel_queries tile_queries = worker_cut_queries(engine, queries, t, n);
    if (!measure_keys(engine, worker, weights, &tile_keys, refusal) ||
        !worker_measure_queries(engine, worker, weights->transform, &tile_queries, refusal)) {
      refusal->token += t;
      return false;
    }
    n = worker_settle_shifts(engine, worker, n, tile_keys.v, tile_keys.v_stride, &worker->run);
    if (n < tile_keys.n) restore_keys(engine, worker, weights, &tile_keys);
    tile_keys.n = tile_queries.n = n;
    worker_norms(engine, worker, &tile_queries);
    causal_tile(engine, worker, weights, &tile_keys, &tile_queries);
    bool is_run_end = (t + n) % run == 0 || t + n >= keys->n;
    if (is_run_end) worker_deposit(engine, worker, rows);
    worker_pause(worker);
  }
  return true;
}

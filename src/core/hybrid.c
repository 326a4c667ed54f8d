#include "core/hybrid.h"

#include <math.h>

#include "base/status.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct hybrid hybrid_make(const struct engine *engine, int64_t window, bool is_causal) {
  int64_t tile = engine->kernel->causal_tokens;
  return (struct hybrid){
      .engine = engine, .tile = tile, .window = window, .lag = (window + tile - 1) / tile, .is_causal = is_causal};
}

/* ---- states that follow the queries ----------------------------------------------------------------------------- */

static const void *key_at(const struct hybrid *hybrid, const struct hybrid_stretch *stretch, int64_t token) {
  return row_in(hybrid->engine, stretch->keys.k, stretch->keys.k_stride, token - stretch->key_begin);
}
static const void *value_at(const struct hybrid *hybrid, const struct hybrid_stretch *stretch, int64_t token) {
  return row_in(hybrid->engine, stretch->keys.v, stretch->keys.v_stride, token - stretch->key_begin);
}

/* Keys [begin, end) of one tile into worker->run. */
static void take_tile(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                      const struct hybrid_stretch *stretch, int64_t begin, int64_t end) {
  const struct engine *engine = hybrid->engine;
  struct worker *own = worker->worker;
  struct kernel_job job = {.shape = &engine->shape, .weights = worker->weights->packed, .scratch = own->scratch};
  for (int64_t t = begin; t < end;) {
    struct kernel_keys keys = {.n = end - t,
                               .k = key_at(hybrid, stretch, t),
                               .k_stride = stretch->keys.k_stride,
                               .v = value_at(hybrid, stretch, t),
                               .v_stride = stretch->keys.v_stride,
                               .half_norm = own->half_norm};
    struct refusal refusal;
    hybrid_half_norms(worker->tile, keys.n, keys.k, own->half_norm);
    FAVOR_ASSERT(worker_measure_values(engine, own, keys.n, keys.v, keys.v_stride, &refusal));
    keys.n = worker_settle_shifts(engine, own, keys.n, keys.v, keys.v_stride, &own->run);
    keys.v_scale = worker_scale(engine, own->run.shift, -1, own->v_scale);
    engine->ops->absorb(&job, &keys, &own->run.kernel);
    t += keys.n;
  }
}

/* The keys before (or from) a token on: the runs that are complete in `rows`, and rounded in worker->view, and the
 * tiles of the others in worker->run. */
struct follower {
  const struct hybrid *hybrid;
  const struct hybrid_worker *worker;
  const struct hybrid_stretch *stretch;
  int64_t at;
  void *rows;
};

static void begin_run(const struct follower *follower) {
  sum_clear(follower->hybrid->engine, &follower->worker->worker->run);
  worker_view(follower->hybrid->engine, follower->worker->worker, follower->rows);
}

static void take_next(struct follower *follower, int64_t begin, int64_t end) {
  const struct engine *engine = follower->hybrid->engine;
  take_tile(follower->hybrid, follower->worker, follower->stretch, begin, end);
  if (follower->at % engine_run_tokens(engine) != 0) return;
  worker_deposit(engine, follower->worker->worker, follower->rows);
  begin_run(follower);
}

static void move_forward(struct follower *follower, int64_t to) {
  while (follower->at < to) {
    int64_t begin = follower->at;
    follower->at = begin + follower->hybrid->tile;
    take_next(follower, begin, follower->at);
  }
}

static void move_backward(struct follower *follower, int64_t to) {
  while (follower->at > to) {
    int64_t end = follower->at;
    follower->at = (end - 1) / follower->hybrid->tile * follower->hybrid->tile;
    take_next(follower, follower->at, end);
  }
}

/* view + run, in worker->before. */
static const struct sum *join(const struct follower *follower) {
  const struct engine *engine = follower->hybrid->engine;
  struct worker *own = follower->worker->worker;
  const struct sum *run = &own->run;
  if (run->kernel.is_empty) return &own->view;
  if (own->view.kernel.is_empty) return run;
  sum_copy(engine, &own->view, &own->before);
  sum_raise_shift(engine, &own->before, run->shift);
  if (!sum_is_at_shift(engine, run, own->before.shift)) {
    sum_copy(engine, run, &own->raised);
    sum_raise_shift(engine, &own->raised, own->before.shift);
    run = &own->raised;
  }
  hybrid_add_sum(engine, &run->kernel, &own->before.kernel);
  return &own->before;
}

void hybrid_absorb(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                   const struct hybrid_stretch *stretch, int64_t begin, int64_t end, bool is_backward, void *rows) {
  int64_t run = engine_run_tokens(hybrid->engine), tile = hybrid->tile;
  hybrid_take_head(worker->tile, worker->weights->transform, worker->projection);
  for (int64_t first = begin; first < end; first += run) {
    int64_t last = smaller(first + run, end), n_tiles = (last - first + tile - 1) / tile;
    sum_clear(hybrid->engine, &worker->worker->run);
    for (int64_t i = 0; i < n_tiles; i++) {
      int64_t at = first + (is_backward ? n_tiles - 1 - i : i) * tile;
      take_tile(hybrid, worker, stretch, at, smaller(at + tile, last));
    }
    worker_deposit(hybrid->engine, worker->worker, rows);
  }
}

/* ---- a tile of queries ------------------------------------------------------------------------------------------ */

/* Queries [begin, begin + n) of one head, as a kernel sees them. */
struct target {
  int64_t begin, n;
  const void *q;
  int64_t q_stride;
  void *out;
  int64_t out_stride;
  struct hybrid_after *after;
};

/* Transformed rows stand in the worker until the next target is made. */
static struct target target_of(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                               const struct hybrid_stretch *stretch, int64_t head, int64_t begin) {
  const struct engine *engine = hybrid->engine;
  const struct kernel_queries *queries = &stretch->queries;
  int64_t at = begin - stretch->begin;
  struct target target = {
      .begin = begin, .n = smaller(hybrid->tile, queries->n - at), .out_stride = queries->out_stride};
  target.q = row_in(engine, row_in(engine, queries->q, queries->q_head_stride, head), queries->q_stride, at);
  target.q_stride = queries->q_stride;
  const struct row_transform *transform = worker->weights->transform;
  if (transform && !transform->query.is_identity) {
    struct worker *own = worker->worker;
    transform_rows(engine, transform, target.n, target.q, target.q_stride, INFINITY, own->transform_work, own->queries,
                   NULL);
    target.q = own->queries;
    target.q_stride = engine->shape.key_width;
  }
  target.out = row_out(engine, row_out(engine, queries->out, queries->out_head_stride, head), queries->out_stride, at);
  if (stretch->after) target.after = stretch->after + head * stretch->after_stride + at;
  return target;
}

/* What shifted columns of a sum have to be multiplied with. */
static void find_scale(const struct hybrid *hybrid, const int32_t *shift, double *scale) {
  for (int64_t e = 0; e < hybrid->engine->shape.value_width; e++) {
    scale[e] = shift[e] == SHIFT_NONE ? 1 : ldexp(1, shift[e]);
  }
}

/* Row i of one of the tile's sums; factor 0 where there is no such part, which then is row i of near_sum. */
static struct hybrid_part part_of(const struct hybrid *hybrid, const struct hybrid_tile *tile, const void *sum,
                                  const double *scale, int64_t i, double factor) {
  if (factor == 0) {
    sum = tile->near_sum;
    scale = tile->scale;
  }
  return (struct hybrid_part){row_in(hybrid->engine, sum, hybrid->engine->shape.value_width, i), scale, factor};
}

/* The means over a state as outputs, and their weights. */
static void write_after(const struct hybrid *hybrid, const struct hybrid_tile *tile, const struct target *target) {
  for (int64_t i = 0; i < target->n; i++) {
    double total = real_at(hybrid->engine, tile->state_total, i);
    const struct hybrid_part parts[] = {part_of(hybrid, tile, tile->state_sum, tile->state_scale, i, 1 / total),
                                        part_of(hybrid, tile, NULL, NULL, i, 0),
                                        part_of(hybrid, tile, NULL, NULL, i, 0)};
    hybrid_combine(hybrid->engine, parts, row_out(hybrid->engine, target->out, target->out_stride, i));
    target->after[i] = (struct hybrid_after){total, tile->state_top[i]};
  }
}

void hybrid_attend_after(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                         const struct hybrid_stretch *stretch, int64_t at, void *rows) {
  int64_t tokens = hybrid->tile;
  struct hybrid_tile *tile = worker->tile;
  struct follower follower = {hybrid, worker, stretch, at, rows};
  hybrid_take_head(tile, worker->weights->transform, worker->projection);
  begin_run(&follower);
  for (int64_t offset = (stretch->queries.n - 1) / tokens * tokens; offset >= 0; offset -= tokens) {
    int64_t begin = stretch->begin + offset;
    move_backward(&follower, smaller(stretch->n_tokens, begin + (hybrid->lag + 1) * tokens));
    const struct sum *state = join(&follower);
    if (!state->kernel.is_empty) find_scale(hybrid, state->shift, tile->state_scale);
    for (int64_t h = 0; h < stretch->queries.n_heads; h++) {
      struct target target = target_of(hybrid, worker, stretch, h, begin);
      if (state->kernel.is_empty) {
        for (int64_t i = 0; i < target.n; i++) target.after[i] = (struct hybrid_after){0};
        continue;
      }
      hybrid_take_queries(tile, target.n, target.q, target.q_stride);
      hybrid_read_state(tile, &state->kernel);
      write_after(hybrid, tile, &target);
    }
  }
}

/* ---- the tiles that meet one by one ----------------------------------------------------------------------------- */

/* Keys [begin, end), which meet a tile of queries. */
struct near {
  int64_t begin, end;
  const void *v_scale; /* of their values; NULL: ones */
};

static struct near near_of(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                           const struct hybrid_stretch *stretch, int64_t begin) {
  const struct engine *engine = hybrid->engine;
  int64_t ahead = hybrid->is_causal ? 0 : hybrid->lag;
  struct near near = {larger(0, begin - hybrid->lag * hybrid->tile),
                      smaller(stretch->n_tokens, begin + (ahead + 1) * hybrid->tile), NULL};
  struct refusal refusal;
  FAVOR_ASSERT(worker_measure_values(engine, worker->worker, near.end - near.begin,
                                     value_at(hybrid, stretch, near.begin), stretch->keys.v_stride, &refusal));
  struct hybrid_tile *tile = worker->tile;
  for (int64_t e = 0; e < engine->shape.value_width; e++) {
    tile->near_shift[e] = shift_for(engine->precision, worker_magnitude(real_at(engine, worker->worker->peak, e)));
  }
  near.v_scale = worker_scale(engine, tile->near_shift, -1, tile->v_scale);
  find_scale(hybrid, tile->near_shift, tile->near_scale);
  return near;
}

/* Features of the tile of keys that begins at `token`, ahead of the tile of queries or not. */
static struct hybrid_keys *features_of(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                                       const struct hybrid_stretch *stretch, int64_t token, int64_t n, bool is_ahead) {
  const int64_t number = token / hybrid->tile, n_met = 2 * hybrid->lag + 1;
  const int64_t slot = n_met <= HYBRID_SLOTS ? number % HYBRID_SLOTS : 2 * is_ahead + number % 2;
  struct hybrid_keys *keys = &worker->tile->slot[slot];
  if (keys->token == token) return keys;
  hybrid_take_keys(worker->tile, n, key_at(hybrid, stretch, token), keys);
  keys->token = token;
  return keys;
}

static void meet_near(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                      const struct hybrid_stretch *stretch, const struct target *target, const struct near *near) {
  for (int64_t token = near->begin; token < near->end; token += hybrid->tile) {
    int64_t ahead = token - target->begin, distance = (ahead < 0 ? -ahead : ahead) + hybrid->tile - 1;
    struct hybrid_meeting meeting = {.n_keys = smaller(hybrid->tile, near->end - token),
                                     .k = key_at(hybrid, stretch, token),
                                     .v = value_at(hybrid, stretch, token),
                                     .v_scale = near->v_scale,
                                     .ahead = ahead,
                                     .before = hybrid->window,
                                     .after = hybrid->is_causal ? 0 : hybrid->window,
                                     .is_causal = hybrid->is_causal};
    if (distance > hybrid->window) {
      meeting.far = features_of(hybrid, worker, stretch, token, meeting.n_keys, ahead > 0);
    }
    hybrid_meet(worker->tile, &meeting);
  }
}

/* ---- rows that features lost ------------------------------------------------------------------------------------ */

/* log2 of a token's features. */
static void take_logs(const struct engine *engine, const struct hybrid_worker *worker, const void *x, bool is_query,
                      double half_norm, double *logs) {
  int32_t *exponent = worker->worker->exact_exponent;
  worker_features(engine, worker->weights, x, is_query, half_norm, logs, exponent);
  for (int64_t r = 0; r < engine->shape.features; r++) logs[r] = log2(logs[r]) + exponent[r];
}

/* log2 of the weight of key `token` for query i of the target, whose features are given, in double. */
static double weight_of(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                        const struct hybrid_stretch *stretch, const struct target *target, int64_t i, int64_t token,
                        const double *query, double *key) {
  const struct engine *engine = hybrid->engine;
  const struct kernel_shape *shape = &engine->shape;
  const void *q = row_in(engine, target->q, target->q_stride, i), *k = key_at(hybrid, stretch, token);
  const double half_norm_factor = worker->tile->half_norm_factor;
  double product = 0, q_norm2 = 0, k_norm2 = 0;
  for (int64_t d = 0; d < engine->key_width; d++) {
    double a = real_at(engine, q, d), b = real_at(engine, k, d);
    product += a * b;
    q_norm2 += a * a;
    k_norm2 += b * b;
  }
  int64_t distance = target->begin + i - token;
  if (distance <= hybrid->window && -distance <= hybrid->window) {
    return half_norm_factor * (2 * product + q_norm2) + worker->tile->exact_log2;
  }
  double highest = -INFINITY, sum = 0;
  take_logs(engine, worker, k, false, k_norm2 * half_norm_factor, key);
  for (int64_t r = 0; r < shape->features; r++) highest = fmax(highest, query[r] + key[r]);
  for (int64_t r = 0; r < shape->features; r++) sum += exp2(query[r] + key[r] - highest);
  return highest + log2(sum);
}

/* Row i of near_sum and its total anew, in double: where features weigh less, one by one, than the working precision
 * can hold, and everything else that the row meets weighs even less. */
static void meet_exactly(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                         const struct hybrid_stretch *stretch, const struct target *target, const struct near *near,
                         int64_t i) {
  const struct engine *engine = hybrid->engine;
  struct hybrid_tile *tile = worker->tile;
  int64_t width = engine->shape.value_width, end = near->end;
  double *query = worker->worker->exact, *key = query + engine->shape.features, *sum = key + engine->shape.features;
  double top = -INFINITY, total = 0;
  if (hybrid->is_causal) end = target->begin + i + 1;
  take_logs(engine, worker, row_in(engine, target->q, target->q_stride, i), true, 0, query);
  for (int64_t e = 0; e < width; e++) sum[e] = 0;
  for (int64_t token = near->begin; token < end; token++) {
    double weight = weight_of(hybrid, worker, stretch, target, i, token, query, key);
    double higher = fmax(top, rint(weight)), down = exp2(top - higher), factor = exp2(weight - higher);
    const void *v = value_at(hybrid, stretch, token);
    total = total * down + factor;
    for (int64_t e = 0; e < width; e++) {
      double x = real_at(engine, v, e) * (near->v_scale ? real_at(engine, near->v_scale, e) : 1);
      sum[e] = sum[e] * down + factor * x;
    }
    top = higher;
  }
  for (int64_t e = 0; e < width; e++) set_real(engine, tile->near_sum, i * width + e, sum[e]);
  tile->near_total[i] = total;
  tile->near_top[i] = (int32_t)top;
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

static double scaled(double total, int32_t top, int32_t highest) {
  return total == 0 ? 0 : ldexp(total, larger(top - highest, -4000));
}

/* Row i: what was met, the state before it, and what the sweep backward left. */
static void write_row(const struct hybrid *hybrid, const struct hybrid_tile *tile, const struct target *target,
                      bool has_state, int64_t i) {
  const struct engine *engine = hybrid->engine;
  struct hybrid_after after = target->after ? target->after[i] : (struct hybrid_after){0};
  double state_total = has_state ? real_at(engine, tile->state_total, i) : 0;
  int64_t highest = tile->near_top[i];
  if (has_state) highest = larger(highest, tile->state_top[i]);
  if (after.total > 0) highest = larger(highest, after.top);
  double near_factor = scaled(1, tile->near_top[i], (int32_t)highest);
  double state_factor = has_state ? scaled(1, tile->state_top[i], (int32_t)highest) : 0;
  double after_total = scaled(after.total, after.top, (int32_t)highest);
  double total = tile->near_total[i] * near_factor + state_total * state_factor + after_total;
  void *out = row_out(engine, target->out, target->out_stride, i);
  const struct hybrid_part parts[] = {
      part_of(hybrid, tile, tile->near_sum, tile->near_scale, i, near_factor / total),
      part_of(hybrid, tile, tile->state_sum, tile->state_scale, i, state_factor / total),
      after_total > 0 ? (struct hybrid_part){out, tile->scale, after_total / total}
                      : part_of(hybrid, tile, NULL, NULL, i, 0)};
  hybrid_combine(engine, parts, out);
}

/* Whether products of features may have underflowed that count beside the rest of the row. */
static bool is_lost(const struct hybrid_tile *tile, const struct target *target, bool has_state, int64_t i) {
  int64_t highest = tile->near_top[i];
  if (has_state) highest = larger(highest, tile->state_top[i]);
  if (target->after && target->after[i].total > 0) highest = larger(highest, target->after[i].top);
  const int64_t least = (int64_t)tile->query_top[i] + tile->far_reach[i] - HYBRID_LOST_BELOW;
  return tile->far_reach[i] != HYBRID_NOTHING && highest < least;
}

void hybrid_attend(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                   const struct hybrid_stretch *stretch, int64_t at, void *rows) {
  struct hybrid_tile *tile = worker->tile;
  struct follower follower = {hybrid, worker, stretch, at, rows};
  hybrid_take_head(tile, worker->weights->transform, worker->projection);
  for (int i = 0; i < HYBRID_SLOTS; i++) tile->slot[i].token = -1;
  begin_run(&follower);
  for (int64_t offset = 0; offset < stretch->queries.n; offset += hybrid->tile) {
    int64_t begin = stretch->begin + offset;
    move_forward(&follower, begin - hybrid->lag * hybrid->tile);
    const struct sum *state = join(&follower);
    const bool has_state = !state->kernel.is_empty;
    if (has_state) find_scale(hybrid, state->shift, tile->state_scale);
    struct near near = near_of(hybrid, worker, stretch, begin);
    for (int64_t h = 0; h < stretch->queries.n_heads; h++) {
      struct target target = target_of(hybrid, worker, stretch, h, begin);
      hybrid_take_queries(tile, target.n, target.q, target.q_stride);
      if (has_state) hybrid_read_state(tile, &state->kernel);
      meet_near(hybrid, worker, stretch, &target, &near);
      for (int64_t i = 0; i < target.n; i++) {
        if (is_lost(tile, &target, has_state, i)) meet_exactly(hybrid, worker, stretch, &target, &near, i);
        write_row(hybrid, tile, &target, has_state, i);
      }
    }
  }
}

/* FAVOR+ with a window (core/hybrid.h) over a rank's threads and over ranks.
 *
 * A part (a rank's shard, or a thread's chunk of it) of tokens [b, e) holds the keys of its reach: its own, and those
 * that its windows extend to, in whole runs. A state follows at the reach's begin, and unless causal one at its end. So
 * these states stand at cuts that are those of the shards, moved: what a part adds between its own cut and the next
 * part's are keys that it holds, and an exclusive scan over the parts of a segment gives the state at each cut.
 * Both scans run over the ranks, then over the chunks of each. */
#include "core/hybrid.h"

#include <string.h>

#include "base/memory.h"
#include "plan/halo.h"
#include "plan/method.h"

enum { FORWARD, BACKWARD, N_DIRECTIONS };

struct hybrid_data {
  struct hybrid hybrid;
  struct range reach; /* of the shard */
  int64_t n_chunks;
  void *k, *v;                /* real [units][reach][D], [units][reach][E] */
  char *states[N_DIRECTIONS]; /* [n_chunks][units]: at each chunk's cut */
  char *window, *incoming;    /* [units], of the scans over ranks; NULL where there is one */
  struct hybrid_after *after; /* [units][heads a unit][shard] */
  void *projection;           /* real [n_projections][directions][D] */
  char *tiles;                /* [threads], each of tile_bytes */
  size_t tile_bytes;
  struct dist_piece *pieces; /* [2][n_pieces] */
  int64_t n_pieces;
};

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static struct hybrid hybrid_of(const struct favor_plan *plan) {
  int64_t window = smaller(plan->problem.window, plan->problem.tokens);
  return hybrid_make(&plan->engine, window, plan->problem.is_causal);
}

/* ---- which tokens a part holds ---------------------------------------------------------------------------------- */

/* Whether a segment goes on across a cut before token t; that segment. */
static bool is_open(const struct favor_plan *plan, int64_t t, struct range *segment) {
  if (t <= 0 || t >= plan->tokens.n_tokens) return false;
  *segment = tokens_segment(&plan->tokens, t);
  return segment->begin < t;
}

/* Where the keys begin that a part from token t on holds. */
static int64_t reach_begin(const struct favor_plan *plan, int64_t t) {
  struct hybrid hybrid = hybrid_of(plan);
  struct range segment;
  if (!is_open(plan, t, &segment)) return t;
  return tokens_run_floor(&plan->tokens, larger(segment.begin, t - hybrid.lag * hybrid.tile));
}

/* Where the keys end that a part up to token t holds. */
static int64_t reach_end(const struct favor_plan *plan, int64_t t) {
  struct hybrid hybrid = hybrid_of(plan);
  struct range segment;
  if (hybrid.is_causal || !is_open(plan, t, &segment)) return t;
  int64_t run = plan->tokens.run_tokens, tokens = t + hybrid.lag * hybrid.tile - segment.begin;
  return smaller(segment.end, segment.begin + (tokens + run - 1) / run * run);
}

static struct range reach_of(const struct favor_plan *plan, struct range part) {
  if (range_count(part) == 0) return part;
  return (struct range){reach_begin(plan, part.begin), reach_end(plan, part.end)};
}

/* Whether one segment goes on across both ends of a part. */
static bool is_through(const struct favor_plan *plan, struct range part) {
  struct range segment;
  return is_open(plan, part.end, &segment) && segment.begin < part.begin;
}

/* What a part adds to the states of the parts that follow in a direction: between its cut and the next part's. */
static struct range contribution(const struct favor_plan *plan, struct range part, int direction) {
  struct range segment, nothing = {part.begin, part.begin};
  if (!is_open(plan, direction == FORWARD ? part.end : part.begin, &segment)) return nothing;
  if (direction == FORWARD) {
    return (struct range){larger(segment.begin, reach_begin(plan, part.begin)), reach_begin(plan, part.end)};
  }
  return (struct range){reach_end(plan, part.begin), smaller(segment.end, reach_end(plan, part.end))};
}

/* More threads than heads share a head by chunks of tokens. */
static int64_t count_chunks(const struct favor_plan *plan) {
  return n_units(plan) == 0 ? 0 : (plan->threads + n_units(plan) - 1) / n_units(plan);
}

static struct range chunk_at(const struct favor_plan *plan, int64_t chunk) {
  const struct range shard = plan->schedule.shard;
  int64_t n = count_chunks(plan), count = range_count(shard), cuts[2];
  for (int i = 0; i < 2; i++) {
    int64_t at = shard.begin + count / n * (chunk + i) + count % n * (chunk + i) / n;
    cuts[i] = chunk + i == n ? shard.end : tokens_run_floor(&plan->tokens, at);
  }
  return (struct range){cuts[0], cuts[1]};
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void *take(char *memory, size_t *total, size_t bytes) {
  void *at = memory ? memory + *total : NULL;
  *total += (bytes + 63) / 64 * 64;
  return at;
}

static int64_t n_pieces(const struct favor_plan *plan);

/* Fills the pointers where memory is not NULL; returns the bytes. */
static size_t carve(const struct favor_plan *plan, char *memory, struct hybrid_data *data) {
  const struct kernel_shape *shape = &plan->engine.shape;
  const size_t units = (size_t)n_units(plan), real = plan->engine.real_bytes;
  size_t total = sizeof *data;
  struct hybrid_data made = {.hybrid = hybrid_of(plan), .n_chunks = count_chunks(plan)};
  made.reach = reach_of(plan, plan->schedule.shard);
  made.tile_bytes = hybrid_tile_bytes(&plan->engine, made.hybrid.tile);
  made.n_pieces = n_pieces(plan);
  const size_t held = units * (size_t)range_count(made.reach), states = (size_t)made.n_chunks * units;
  total = (total + 63) / 64 * 64;
  made.k = take(memory, &total, held * (size_t)shape->key_width * real);
  made.v = take(memory, &total, held * (size_t)shape->value_width * real);
  for (int direction = FORWARD; direction <= (plan->problem.is_causal ? FORWARD : BACKWARD); direction++) {
    made.states[direction] = take(memory, &total, states * plan->unit_bytes);
  }
  if (plan->grid.tokens > 1) {
    made.window = take(memory, &total, units * plan->unit_bytes);
    made.incoming = take(memory, &total, units * plan->unit_bytes);
  }
  size_t outputs = units * (size_t)plan->engine.heads_per_key * (size_t)range_count(plan->schedule.shard);
  if (!plan->problem.is_causal) made.after = take(memory, &total, outputs * sizeof *made.after);
  made.projection = take(memory, &total, (size_t)(plan->n_projections * shape->directions * shape->key_width) * real);
  made.tiles = take(memory, &total, (size_t)plan->threads * made.tile_bytes);
  made.pieces = take(memory, &total, 2 * (size_t)made.n_pieces * sizeof *made.pieces);
  *data = made;
  return total;
}

static size_t bytes(const struct favor_plan *plan) {
  struct hybrid_data data;
  return carve(plan, NULL, &data);
}

static void allocate(struct favor_plan *plan) {
  struct hybrid_data data;
  char *memory = memory_zeroed(1, bytes(plan));
  plan->method_data = memory;
  if (!memory) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for a shard's keys and values (%zu bytes)", bytes(plan));
    return;
  }
  carve(plan, memory, &data);
  memcpy(memory, &data, sizeof data);
}

static struct hybrid_data *data_of(const struct favor_plan *plan) { return plan->method_data; }

static void *state_at(const struct favor_plan *plan, int direction, int64_t chunk, int64_t unit) {
  const struct hybrid_data *data = data_of(plan);
  return data->states[direction] + plan->unit_bytes * (size_t)(chunk * n_units(plan) + unit);
}

/* ---- tokens of other ranks -------------------------------------------------------------------------------------- */

/* Rows of k (or v) of one unit from token t on, in the shard's reach. */
static char *row_held(const struct favor_plan *plan, bool is_value, int64_t unit, int64_t t) {
  const struct hybrid_data *data = data_of(plan);
  const struct kernel_shape *shape = &plan->engine.shape;
  int64_t width = is_value ? shape->value_width : shape->key_width;
  int64_t row = unit * range_count(data->reach) + t - data->reach.begin;
  return row_out(&plan->engine, is_value ? data->v : data->k, width, row);
}

/* Messages with `peer` of tokens [range) of every unit, from *n on; counted only where pieces is NULL. */
static void add_pieces(const struct favor_plan *plan, int peer, struct range range, struct dist_piece *pieces,
                       int64_t *n) {
  enum { MOST_BYTES = 1 << 30 };
  for (int is_value = 0; is_value < 2 && range_count(range) > 0; is_value++) {
    const struct kernel_shape *shape = &plan->engine.shape;
    int64_t width = is_value ? shape->value_width : shape->key_width;
    int64_t row_bytes = width * (int64_t)plan->engine.real_bytes, most = MOST_BYTES / row_bytes;
    for (int64_t unit = 0; unit < n_units(plan); unit++) {
      for (int64_t t = range.begin; t < range.end; t += most) {
        int64_t count = smaller(most, range.end - t);
        if (pieces) {
          pieces[*n] = (struct dist_piece){peer, row_held(plan, is_value, unit, t), (size_t)(count * row_bytes)};
        }
        ++*n;
      }
    }
  }
}

/* What this rank sends and receives. */
static void list_pieces(const struct favor_plan *plan, struct dist_piece *sends, int64_t *n_sends,
                        struct dist_piece *receives, int64_t *n_receives) {
  const struct range shard = plan->schedule.shard, reach = reach_of(plan, shard);
  *n_sends = *n_receives = 0;
  for (int64_t part = 0; part < plan->grid.tokens && n_units(plan) > 0; part++) {
    if (part == halo_own_part(plan)) continue;
    const struct range other = halo_shard(plan, part);
    add_pieces(plan, (int)part, range_meet(shard, reach_of(plan, other)), sends, n_sends);
    add_pieces(plan, (int)part, range_meet(other, reach), receives, n_receives);
  }
}

static int64_t n_pieces(const struct favor_plan *plan) {
  int64_t n_sends, n_receives;
  list_pieces(plan, NULL, &n_sends, NULL, &n_receives);
  return larger(1, larger(n_sends, n_receives)); /* a scan takes one */
}

/* One token's key (or value) as the kernels want it. */
static void copy_row(const struct favor_plan *plan, bool is_value, int64_t unit, const void *from, void *to) {
  const struct engine *engine = &plan->engine;
  const struct row_transform *transform = plan_weights(plan, unit)->transform;
  if (transform && !is_value) {
    double half_norm; /* not kept: ranks that get the key measure the row itself */
    double *work = plan->workers[omp_get_thread_num()]->transform_work;
    transform_rows(engine, transform, 1, from, 0, INFINITY, work, to, &half_norm);
    return;
  }
  memcpy(to, from, (size_t)(is_value ? engine->shape.value_width : engine->key_width) * engine->real_bytes);
}

/* The shard's own keys and values beside those that come. */
static void copy_own(const struct favor_plan *plan, const struct favor_input *x, bool is_value) {
  const struct range shard = plan->schedule.shard;
#pragma omp parallel for collapse(2) num_threads(plan->threads)
  for (int64_t unit = 0; unit < n_units(plan); unit++) {
    for (int64_t t = shard.begin; t < shard.end; t++) {
      const void *head = row_in(&plan->engine, x->data, x->head_stride, unit);
      copy_row(plan, is_value, unit, row_in(&plan->engine, head, x->token_stride, t - shard.begin),
               row_held(plan, is_value, unit, t));
    }
  }
}

static enum favor_status gather_reach(const struct favor_plan *plan, const struct block_arrays *arrays) {
  struct hybrid_data *data = data_of(plan);
  struct dist_piece *sends = data->pieces, *receives = sends + data->n_pieces;
  int64_t n_sends, n_receives;
  copy_own(plan, arrays->k, false);
  copy_own(plan, arrays->v, true);
  list_pieces(plan, sends, &n_sends, receives, &n_receives);
  return dist_axis_exchange(plan->axis, sends, n_sends, receives, n_receives);
}

/* ---- a thread's work -------------------------------------------------------------------------------------------- */

struct hybrid_thread {
  struct hybrid_tile tile;
  struct hybrid_worker worker;
};

static void begin_thread(const struct favor_plan *plan, int64_t unit, struct hybrid_thread *thread) {
  const struct hybrid_data *data = data_of(plan);
  const int number = omp_get_thread_num();
  hybrid_tile_place(&plan->engine, data->hybrid.tile, data->tiles + data->tile_bytes * (size_t)number, &thread->tile);
  const struct head_weights *weights = plan_weights(plan, unit);
  int64_t row = (weights->exact - plan->projection) / plan->engine.shape.key_width;
  thread->worker =
      (struct hybrid_worker){.worker = plan->workers[number],
                             .tile = &thread->tile,
                             .weights = weights,
                             .projection = row_in(&plan->engine, data->projection, plan->engine.shape.key_width, row)};
}

/* The keys that this rank holds of the segment of token t. */
static struct hybrid_stretch stretch_of(const struct favor_plan *plan, int64_t unit, struct range segment) {
  const struct hybrid_data *data = data_of(plan);
  const struct kernel_shape *shape = &plan->engine.shape;
  const struct range held = range_meet(segment, data->reach);
  return (struct hybrid_stretch){.n_tokens = range_count(segment),
                                 .key_begin = held.begin - segment.begin,
                                 .keys = {.n = range_count(held),
                                          .k = row_held(plan, false, unit, held.begin),
                                          .v = row_held(plan, true, unit, held.begin),
                                          .k_stride = shape->key_width,
                                          .v_stride = shape->value_width}};
}

/* ---- states at the cuts ----------------------------------------------------------------------------------------- */

/* Where a chunk's contribution is kept: as the next chunk's state, the last one's for other ranks. */
static void *contribution_rows(const struct favor_plan *plan, int direction, int64_t chunk, int64_t unit) {
  const struct hybrid_data *data = data_of(plan);
  int64_t next = chunk + (direction == FORWARD ? 1 : -1);
  if (next >= 0 && next < data->n_chunks) return state_at(plan, direction, next, unit);
  return data->window ? data->window + plan->unit_bytes * (size_t)unit : NULL;
}

static void contribute(const struct favor_plan *plan, int direction, int64_t chunk, int64_t unit) {
  const struct range keys = contribution(plan, chunk_at(plan, chunk), direction);
  void *rows = contribution_rows(plan, direction, chunk, unit);
  if (!rows) return;
  state_clear(&plan->engine, rows);
  if (range_count(keys) <= 0) return;
  const struct range segment = tokens_segment(&plan->tokens, keys.begin);
  struct hybrid_thread thread;
  begin_thread(plan, unit, &thread);
  struct hybrid_stretch stretch = stretch_of(plan, unit, segment);
  hybrid_absorb(&data_of(plan)->hybrid, &thread.worker, &stretch, keys.begin - segment.begin, keys.end - segment.begin,
                direction == BACKWARD, rows);
}

/* Merges into the last chunk's contribution those of the chunks before it of the same segment. */
static void gather_contributions(const struct favor_plan *plan, int direction, int64_t unit) {
  const int64_t n = data_of(plan)->n_chunks;
  void *window = contribution_rows(plan, direction, direction == FORWARD ? n - 1 : 0, unit);
  for (int64_t i = n - 1; i > 0; i--) { /* counted along the direction */
    const int64_t chunk = direction == FORWARD ? i : n - 1 - i, before = direction == FORWARD ? i - 1 : n - i;
    if (!is_through(plan, chunk_at(plan, chunk))) return;
    binned_merge(contribution_rows(plan, direction, before, unit), window, plan->engine.shape.features);
  }
}

/* From each chunk's contribution and the state at the first cut, the states at all cuts. */
static void sum_chunks(const struct favor_plan *plan, int direction, int64_t unit) {
  const int64_t n = data_of(plan)->n_chunks;
  for (int64_t i = 0; i + 1 < n; i++) {
    const int64_t chunk = direction == FORWARD ? i : n - 1 - i, next = direction == FORWARD ? i + 1 : n - 2 - i;
    if (!is_through(plan, chunk_at(plan, chunk))) continue;
    binned_merge(state_at(plan, direction, chunk, unit), state_at(plan, direction, next, unit),
                 plan->engine.shape.features);
  }
}

static struct dist_scan_place place_of(const struct favor_plan *plan, int direction) {
  const struct range shard = plan->schedule.shard;
  const int rank = dist_axis_rank(plan->axis), size = dist_axis_size(plan->axis);
  struct range segment;
  int before = 0, after = 0;
  if (is_open(plan, shard.begin, &segment)) {
    while (before < rank && tokens_shard(&plan->tokens, size, rank - before - 1).end > segment.begin) before++;
  }
  if (is_open(plan, shard.end, &segment)) {
    while (rank + after + 1 < size && tokens_shard(&plan->tokens, size, rank + after + 1).begin < segment.end) after++;
  }
  return (struct dist_scan_place){.is_backward = direction == BACKWARD,
                                  .n_from = direction == FORWARD ? before : after,
                                  .n_to = direction == FORWARD ? after : before,
                                  .is_through = is_through(plan, shard)};
}

/* States of all units at all cuts of this rank, in one direction. */
static enum favor_status find_states(struct favor_plan *plan, int direction) {
  struct hybrid_data *data = data_of(plan);
  const int64_t units = n_units(plan), n = data->n_chunks, first = direction == FORWARD ? 0 : n - 1;
  const int64_t n_rows = units * plan->engine.shape.features;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for
    for (int64_t unit = 0; unit < units; unit++) state_clear(&plan->engine, state_at(plan, direction, first, unit));
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n * units; i++) contribute(plan, direction, i / units, i % units);
#pragma omp for
    for (int64_t unit = 0; unit < units; unit++) {
      if (data->window) gather_contributions(plan, direction, unit);
    }
    binding_leave(plan->binding);
  }
  if (data->window) {
    const struct dist_scan_place place = place_of(plan, direction);
    enum favor_status status = dist_axis_scan(plan->axis, &place, n_rows, plan->engine.row_bytes, data->window,
                                              data->incoming, state_at(plan, direction, first, 0));
    if (status != FAVOR_OK) return status;
  }
#pragma omp parallel for num_threads(plan->threads)
  for (int64_t unit = 0; unit < units; unit++) sum_chunks(plan, direction, unit);
  return FAVOR_OK;
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

/* The part of a segment in a chunk; its states are those at the chunk's cuts where the segment goes on there. */
static void attend_piece(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit, int64_t chunk,
                         struct range piece) {
  const struct engine *engine = &plan->engine;
  const struct hybrid_data *data = data_of(plan);
  const struct range part = chunk_at(plan, chunk), segment = tokens_segment(&plan->tokens, piece.begin);
  const int64_t heads = engine->heads_per_key, head = unit * heads, count = range_count(plan->schedule.shard);
  const int64_t at = piece.begin - arrays->begin;
  struct hybrid_stretch stretch = stretch_of(plan, unit, segment);
  stretch.begin = piece.begin - segment.begin;
  stretch.queries = (struct kernel_queries){
      .n = range_count(piece),
      .n_heads = heads,
      .q = row_in(engine, row_in(engine, arrays->q->data, arrays->q->head_stride, head), arrays->q->token_stride, at),
      .q_head_stride = arrays->q->head_stride,
      .q_stride = arrays->q->token_stride,
      .out = row_out(engine, row_out(engine, arrays->out->data, arrays->out->head_stride, head),
                     arrays->out->token_stride, at),
      .out_head_stride = arrays->out->head_stride,
      .out_stride = arrays->out->token_stride};
  struct hybrid_thread thread;
  begin_thread(plan, unit, &thread);
  const bool is_first = piece.begin == part.begin, is_last = piece.end == part.end;
  void *own_rows = thread.worker.worker->rows;
  if (!plan->problem.is_causal) {
    void *rows = is_last ? state_at(plan, BACKWARD, chunk, unit) : own_rows;
    if (!is_last) state_clear(engine, rows);
    stretch.after = data->after + head * count + at;
    stretch.after_stride = count;
    int64_t from = is_last ? reach_end(plan, part.end) : segment.end;
    hybrid_attend_after(&data->hybrid, &thread.worker, &stretch, from - segment.begin, rows);
  }
  void *rows = is_first ? state_at(plan, FORWARD, chunk, unit) : own_rows;
  if (!is_first) state_clear(engine, rows);
  int64_t from = is_first ? reach_begin(plan, part.begin) : segment.begin;
  hybrid_attend(&data->hybrid, &thread.worker, &stretch, from - segment.begin, rows);
}

static void attend_chunk(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit,
                         int64_t chunk) {
  const struct range part = chunk_at(plan, chunk);
  for (int64_t begin = part.begin; begin < part.end;) {
    const struct range piece = {begin, smaller(tokens_segment(&plan->tokens, begin).end, part.end)};
    attend_piece(plan, arrays, unit, chunk, piece);
    begin = piece.end;
  }
}

/* W sqrt(scale) / ln 2 in real, for products of tiles. */
static void copy_projection(struct favor_plan *plan) {
  const struct engine *engine = &plan->engine;
  int64_t count = plan->n_projections * engine->shape.directions * engine->shape.key_width;
  for (int64_t i = 0; i < count; i++) set_real(engine, data_of(plan)->projection, i, plan->projection[i]);
}

static void attend(struct favor_plan *plan, const struct block_arrays *arrays) {
  if (!plan->axis || n_units(plan) == 0) return;
  copy_projection(plan);
  if (gather_reach(plan, arrays) != FAVOR_OK) return;
  if (find_states(plan, FORWARD) != FAVOR_OK) return;
  if (!plan->problem.is_causal && find_states(plan, BACKWARD) != FAVOR_OK) return;
  const int64_t units = n_units(plan), n_chunks = data_of(plan)->n_chunks;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_chunks * units; i++) attend_chunk(plan, arrays, i % units, i / units);
    binding_leave(plan->binding);
  }
}

/* What the definition asks for; tiles at the ends of windows are weighed both ways, which is not counted. */
static double flops(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  const struct kernel_shape *shape = &plan->engine.shape;
  double rows = (double)problem->tokens * (double)problem->batch * (double)problem->heads;
  double d = (double)shape->key_width, e = (double)shape->value_width;
  double window = (problem->is_causal ? 1 : 2) * (double)hybrid_of(plan).window + 1;
  return rows * (4 * ((double)shape->directions * d + (double)shape->features * e) + 2 * window * (d + e));
}

const struct method method_hybrid = {
    .n_pieces = n_pieces, .bytes = bytes, .allocate = allocate, .attend = attend, .flops = flops, .has_states = true};

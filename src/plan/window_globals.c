#include <string.h>

#include "core/partial.h"
#include "plan/method_window.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static struct range globals_of(const struct favor_plan *plan, struct range segment) {
  return window_globals(plan, segment, segment.end);
}

/* ---- queries of shared segments ---- */

static void wish_queries(const struct favor_plan *plan, int64_t part, struct range ranges[HALO_MAX_RANGES]) {
  struct range segments[2];
  halo_shared_segments(plan, part, segments);
  for (int s = 0; s < 2; s++) ranges[s] = globals_of(plan, segments[s]);
}

const struct halo_kind window_query_halo = {.own = halo_shard, .wish = wish_queries};

/* The rank's own queries of one key head, into the halo. */
static void pack_queries(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit) {
  const struct window *window = plan->method_data;
  const int64_t heads = plan->engine.heads_per_key;
  const size_t bytes = (size_t)plan->engine.shape.key_width * plan->engine.real_bytes;
  for (int s = 0; s < 2; s++) {
    const struct range own = range_meet(window->queries.ranges[s], plan->schedule.shard);
    for (int64_t t = own.begin; t < own.end; t++) {
      char *row = halo_row(&window->queries, s, t);
      for (int64_t h = 0; h < heads; h++) {
        memcpy(row + bytes * (size_t)h, method_rows(plan, arrays, arrays->q, unit * heads + h, t), bytes);
      }
    }
  }
}

/* ---- partials of shared segments: to and from the ranks that own the queries ---- */

/* Counts the pieces of one shared segment, or fills them in. Returns how many rows come in. */
static int64_t find_pieces(const struct favor_plan *plan, struct window *window, int s, struct range segment,
                           int64_t incoming) {
  const bool is_counting = !window->sends;
  const int64_t heads = plan->engine.heads_per_key, own_part = halo_own_part(plan);
  const size_t bytes = window->partial_bytes;
  const struct range globals = globals_of(plan, segment), own = range_meet(globals, plan->schedule.shard);
  int64_t n = 0;
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    const struct range other = range_meet(halo_shard(plan, part), segment), theirs = range_meet(other, globals);
    if (part == own_part || range_count(other) == 0) continue;
    char *to =
        is_counting ? NULL : window->shared_partials[s] + bytes * (size_t)((theirs.begin - globals.begin) * heads);
    char *from = is_counting ? NULL : window->incoming + bytes * (size_t)(incoming + n);
    window->n_sends +=
        halo_cut(part, to, bytes, range_count(theirs) * heads, is_counting ? NULL : window->sends + window->n_sends);
    window->n_receives += halo_cut(part, from, bytes, range_count(own) * heads,
                                   is_counting ? NULL : window->receives + window->n_receives);
    n += range_count(own) * heads;
  }
  return n;
}

struct window_globals_sizes window_globals_count(const struct favor_plan *plan, struct window *window) {
  struct window_globals_sizes sizes = {0};
  struct range segments[2];
  window->n_sends = window->n_receives = 0;
  if (range_count(plan->units) == 0) return sizes;
  const int64_t heads = plan->engine.heads_per_key;
  halo_shared_segments(plan, halo_own_part(plan), segments);
  for (int s = 0; s < 2; s++) {
    if (range_count(segments[s]) == 0) continue;
    sizes.shared_rows[s] = range_count(globals_of(plan, segments[s])) * heads;
    sizes.incoming_rows += find_pieces(plan, window, s, segments[s], sizes.incoming_rows);
  }
  sizes.own_rows = least(plan->problem.global_tokens, range_count(plan->schedule.shard)) * heads;
  return sizes;
}

/* Adds what came in to this rank's own partials. */
static void merge_incoming(const struct favor_plan *plan, int s, struct range segment, const char **incoming) {
  const struct window *window = plan->method_data;
  const int64_t heads = plan->engine.heads_per_key;
  const struct range globals = globals_of(plan, segment), own = range_meet(globals, plan->schedule.shard);
  char *into = window->shared_partials[s] + window->partial_bytes * (size_t)((own.begin - globals.begin) * heads);
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    if (part == halo_own_part(plan) || range_count(range_meet(halo_shard(plan, part), segment)) == 0) continue;
    partial_merge(*incoming, into, range_count(own) * heads);
    *incoming += window->partial_bytes * (size_t)(range_count(own) * heads);
  }
}

/* ---- folding and emitting ---- */

/* A tile of global queries of one head. */
struct block {
  const struct range *globals; /* of the segment */
  int shared;                  /* which of the shared segments it is; -1: none */
  int64_t unit, head;          /* head of the group */
  struct range tokens;
};

static struct block block_at(const struct favor_plan *plan, const struct range *globals, int shared, int64_t unit,
                             int64_t index) {
  const int64_t heads = plan->engine.heads_per_key, begin = globals->begin + index / heads * EXACT_TILE;
  return (struct block){globals, shared, unit, index % heads, {begin, least(begin + EXACT_TILE, globals->end)}};
}

static int64_t count_blocks(const struct favor_plan *plan, struct range globals) {
  return plan->engine.heads_per_key * ((range_count(globals) + EXACT_TILE - 1) / EXACT_TILE);
}

static struct exact_queries block_queries(const struct favor_plan *plan, const struct block_arrays *arrays,
                                          const struct block *block) {
  const struct window *window = plan->method_data;
  const struct engine *engine = &plan->engine;
  struct exact_queries queries = {.n = range_count(block->tokens),
                                  .sums = window->sums + window->sums_bytes * (size_t)omp_get_thread_num()};
  if (block->shared < 0) {
    const int64_t head = block->unit * engine->heads_per_key + block->head;
    queries.q = method_rows(plan, arrays, arrays->q, head, block->tokens.begin);
    queries.q_stride = arrays->q->token_stride;
  } else {
    const void *row = halo_row(&window->queries, block->shared, block->tokens.begin);
    queries.q = row_in(engine, row, engine->shape.key_width, block->head);
    queries.q_stride = engine->heads_per_key * engine->shape.key_width;
  }
  return queries;
}

/* The block's rows in the partials of its segment, heads_per_key apart. */
static char *block_rows(const struct favor_plan *plan, const struct block *block, char *rows) {
  const struct window *window = plan->method_data;
  int64_t row = (block->tokens.begin - block->globals->begin) * plan->engine.heads_per_key + block->head;
  return rows + window->partial_bytes * (size_t)row;
}

/* Tiles of keys into the partials of one block. */
static void fold_tiles(const struct favor_plan *plan, const struct block_arrays *arrays, const struct block *block,
                       struct range tiles, char *rows) {
  const struct window *window = plan->method_data;
  const size_t thread = (size_t)omp_get_thread_num(), bytes = window->partial_bytes;
  char *scratch = window->scratch + window->scratch_bytes * thread,
       *own = window->partial + bytes * EXACT_TILE * thread;
  struct exact_queries queries = block_queries(plan, arrays, block);
  partial_clear(&plan->engine, own, queries.n);
  for (int64_t t = tiles.begin; t < tiles.end; t++) {
    exact_begin(&window->exact, &queries);
    exact_fold(&window->exact, window_tile(plan, t), &queries, NULL, scratch);
    partial_add(&window->exact, &queries, own);
  }
  char *into = block_rows(plan, block, rows);
#pragma omp critical(favor_window_globals)
  for (int64_t i = 0; i < queries.n; i++) {
    partial_merge(own + bytes * (size_t)i, into + bytes * (size_t)(i * plan->engine.heads_per_key), 1);
  }
}

/* The rank's own keys of a segment into the partials of its global queries. */
static void fold_segment(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit, struct range segment,
                         int shared, char *rows) {
  enum { CHUNK_TILES = 16 };
  const struct range globals = globals_of(plan, segment);
  const struct range tiles = tiles_of(&plan->tiles, range_meet(segment, plan->schedule.shard));
  const int64_t n_blocks = count_blocks(plan, globals), n_chunks = (range_count(tiles) + CHUNK_TILES - 1) / CHUNK_TILES;
  partial_clear(&plan->engine, rows, range_count(globals) * plan->engine.heads_per_key);
#pragma omp parallel num_threads(plan->threads) if (n_blocks * n_chunks > 1)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < n_blocks * n_chunks; item++) {
      struct block block = block_at(plan, &globals, shared, unit, item % n_blocks);
      const int64_t begin = tiles.begin + item / n_blocks * CHUNK_TILES;
      fold_tiles(plan, arrays, &block, (struct range){begin, least(begin + CHUNK_TILES, tiles.end)}, rows);
    }
    binding_leave(plan->binding);
  }
}

/* The outputs of those global queries of a segment that this rank owns. */
static void emit_segment(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit, struct range segment,
                         int shared, char *rows) {
  const struct window *window = plan->method_data;
  const struct range globals = globals_of(plan, segment);
  const int64_t heads = plan->engine.heads_per_key;
  for (int64_t index = 0; index < count_blocks(plan, globals); index++) {
    struct block block = block_at(plan, &globals, shared, unit, index);
    block.tokens = range_meet(block.tokens, plan->schedule.shard);
    if (range_count(block.tokens) == 0) continue;
    struct exact_queries queries = block_queries(plan, arrays, &block);
    exact_begin(&window->exact, &queries);
    partial_take(&window->exact, block_rows(plan, &block, rows), heads, &queries);
    exact_emit(&window->exact, &queries, method_out(plan, arrays, unit * heads + block.head, block.tokens.begin),
               arrays->out->token_stride);
  }
}

void window_globals_attend(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit) {
  struct window *window = plan->method_data;
  const struct range shard = plan->schedule.shard;
  struct range shared[2];
  halo_shared_segments(plan, halo_own_part(plan), shared);
  pack_queries(plan, arrays, unit);
  halo_exchange(plan, &window->queries);
  for (int s = 0; s < 2; s++) {
    if (range_count(shared[s]) > 0) fold_segment(plan, arrays, unit, shared[s], s, window->shared_partials[s]);
  }
  dist_axis_exchange(plan->axis, window->sends, window->n_sends, window->receives, window->n_receives);
  const char *incoming = window->incoming;
  for (int s = 0; s < 2 && !dist_has_failed(plan->context); s++) {
    if (range_count(shared[s]) == 0) continue;
    merge_incoming(plan, s, shared[s], &incoming);
    emit_segment(plan, arrays, unit, shared[s], s, window->shared_partials[s]);
  }
  struct range segment;
  for (int64_t t = shard.begin; t < shard.end; t = segment.end) {
    segment = tokens_segment(&plan->tokens, t);
    if (segment.begin < shard.begin || segment.end > shard.end) continue;
    fold_segment(plan, arrays, unit, segment, -1, window->own_partials);
    emit_segment(plan, arrays, unit, segment, -1, window->own_partials);
  }
}

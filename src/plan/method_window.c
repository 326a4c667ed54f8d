#include "plan/method_window.h"

#include "base/memory.h"
#include "core/partial.h"

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

struct range window_globals(const struct favor_plan *plan, struct range segment, int64_t end) {
  struct range globals = {segment.begin, least(segment.end, segment.begin + plan->problem.global_tokens)};
  if (plan->problem.is_causal) globals.end = most(globals.begin, least(globals.end, end));
  return globals;
}

/* ---- whose keys a part needs ---- */

static struct range own_tiles(const struct favor_plan *plan, int64_t part) {
  return tiles_of(&plan->tiles, halo_shard(plan, part));
}

/* The tiles within the window of the shard, and the global ones of its first segment and its last that are not among
 * them. */
static void wish_tiles(const struct favor_plan *plan, int64_t part, struct range ranges[HALO_MAX_RANGES]) {
  const struct range shard = halo_shard(plan, part);
  const int64_t window = plan->problem.window;
  if (range_count(shard) == 0) return;
  const struct range first = tokens_segment(&plan->tokens, shard.begin);
  const struct range last = tokens_segment(&plan->tokens, shard.end - 1);
  struct range near = {most(first.begin, shard.begin - window), shard.end};
  if (!plan->problem.is_causal) near.end = least(last.end, shard.end + window);
  ranges[0] = tiles_of(&plan->tiles, near);
  const struct range segments[] = {first, last};
  for (int i = 0; i < 2; i++) {
    if (i == 1 && last.begin == first.begin) break;
    struct range globals = tiles_of(&plan->tiles, window_globals(plan, segments[i], shard.end));
    bool is_near = ranges[0].begin <= globals.begin && globals.end <= ranges[0].end;
    if (range_count(globals) > 0 && !is_near) ranges[1 + i] = globals;
  }
}

static const struct halo_kind key_halo = {.own = own_tiles, .wish = wish_tiles};

const void *window_tile(const struct favor_plan *plan, int64_t tile) {
  const struct window *window = plan->method_data;
  return halo_row(&window->keys, halo_find(&window->keys, (struct range){tile, tile + 1}), tile);
}

/* ---- memory ---- */

static size_t query_row_bytes(const struct favor_plan *plan) {
  return (size_t)(plan->engine.heads_per_key * plan->engine.shape.key_width) * plan->engine.real_bytes;
}

/* Sizes, and places in memory that begins with the window itself, where there is any. Returns how much it takes. */
static size_t lay_out(const struct favor_plan *plan, struct window *window, char *memory) {
  *window = (struct window){.exact = {.engine = &plan->engine, .scale = plan->problem.scale}};
  window->sums_bytes = round_up(exact_sums_bytes(&window->exact));
  window->scratch_bytes = round_up(exact_scratch_bytes(&window->exact));
  window->partial_bytes = partial_bytes(&plan->engine);
  window->keys = halo_count(plan, &key_halo, exact_keys_bytes(&window->exact));
  struct window_globals_sizes sizes = {0};
  if (window_has_global_queries(plan)) {
    window->queries = halo_count(plan, &window_query_halo, query_row_bytes(plan));
    sizes = window_globals_count(plan, window);
  }
  const size_t threads = (size_t)plan->threads, partial = window->partial_bytes;
  const size_t bytes[] = {round_up(sizeof *window),
                          halo_bytes(&window->keys),
                          halo_bytes(&window->queries),
                          window->sums_bytes * threads,
                          window->scratch_bytes * threads,
                          round_up(partial * EXACT_TILE * threads),
                          round_up(partial * (size_t)sizes.own_rows),
                          round_up(partial * (size_t)sizes.shared_rows[0]),
                          round_up(partial * (size_t)sizes.shared_rows[1]),
                          round_up(partial * (size_t)sizes.incoming_rows),
                          (size_t)(window->n_sends + window->n_receives) * sizeof *window->sends};
  enum { N = sizeof bytes / sizeof *bytes };
  size_t total = 0;
  char *at[N];
  for (int i = 0; i < N; i++) {
    at[i] = memory ? memory + total : NULL;
    total += bytes[i];
  }
  if (!memory) return total;
  halo_place(plan, at[1], &window->keys);
  if (window->queries.kind) halo_place(plan, at[2], &window->queries);
  window->sums = at[3];
  window->scratch = at[4];
  window->partial = at[5];
  window->own_partials = at[6];
  window->shared_partials[0] = at[7];
  window->shared_partials[1] = at[8];
  window->incoming = at[9];
  window->sends = (struct dist_piece *)(void *)at[10];
  window->receives = window->sends + window->n_sends;
  return total;
}

static size_t bytes(const struct favor_plan *plan) {
  struct window window;
  return lay_out(plan, &window, NULL);
}

static int64_t n_pieces(const struct favor_plan *plan) {
  struct window window;
  lay_out(plan, &window, NULL);
  const int64_t counts[] = {window.keys.n_sends,       window.keys.n_receives, window.queries.n_sends,
                            window.queries.n_receives, window.n_sends,         window.n_receives};
  int64_t n = 0;
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) n = most(n, counts[i]);
  return n;
}

static void allocate(struct favor_plan *plan) {
  const size_t n_bytes = bytes(plan);
  struct window *window = memory_zeroed(1, n_bytes);
  plan->method_data = window;
  if (!window) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for the tokens within a window of this rank's (%zu bytes)",
              n_bytes);
    return;
  }
  lay_out(plan, window, (char *)window);
  if (window_has_global_queries(plan)) window_globals_count(plan, window);
}

/* ---- one key head ---- */

/* The rank's own tiles, into every range of the halo that holds them. */
static void pack_tiles(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit) {
  const struct window *window = plan->method_data;
  const struct range own = own_tiles(plan, halo_own_part(plan));
  for (int r = 0; r < HALO_MAX_RANGES; r++) {
    const struct range tiles = range_meet(window->keys.ranges[r], own);
#pragma omp parallel for num_threads(plan->threads)
    for (int64_t t = tiles.begin; t < tiles.end; t++) {
      struct tile tile = tiles_tile(&plan->tiles, t);
      struct piece_keys keys = {.n = range_count(tile.tokens),
                                .k = method_rows(plan, arrays, arrays->k, unit, tile.tokens.begin),
                                .v = method_rows(plan, arrays, arrays->v, unit, tile.tokens.begin),
                                .k_stride = arrays->k->token_stride,
                                .v_stride = arrays->v->token_stride};
      exact_pack(&window->exact, &keys, halo_row(&window->keys, r, t));
    }
  }
}

/* Folds the tiles that hold tokens of `keys`; query i sees those in limits[i]. */
static void fold_keys(const struct favor_plan *plan, const struct exact_queries *queries, struct range keys,
                      const struct range *limits) {
  const struct window *window = plan->method_data;
  const struct range tiles = tiles_of(&plan->tiles, keys);
  char *scratch = window->scratch + window->scratch_bytes * (size_t)omp_get_thread_num();
  for (int64_t t = tiles.begin; t < tiles.end; t++) {
    const struct range tokens = tiles_tile(&plan->tiles, t).tokens;
    struct exact_range visible[EXACT_TILE];
    for (int64_t i = 0; i < queries->n; i++) {
      struct range seen = range_meet(limits[i], tokens);
      bool is_any = range_count(seen) > 0;
      visible[i].begin = is_any ? (int32_t)(seen.begin - tokens.begin) : 0;
      visible[i].end = is_any ? (int32_t)(seen.end - tokens.begin) : 0;
    }
    exact_fold(&window->exact, window_tile(plan, t), queries, visible, scratch);
  }
}

/* Outputs of one tile of queries of one head, but for global queries that see more. */
static void attend_tile(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t head,
                        const struct tile *tile) {
  const struct window *window = plan->method_data;
  const bool is_causal = plan->problem.is_causal;
  const int64_t first = tile->tokens.begin, width = plan->problem.window;
  struct exact_queries queries = {.n = range_count(tile->tokens),
                                  .q = method_rows(plan, arrays, arrays->q, head, first),
                                  .q_stride = arrays->q->token_stride,
                                  .sums = window->sums + window->sums_bytes * (size_t)omp_get_thread_num()};
  const struct range globals = window_globals(plan, tile->segment, tile->tokens.end);
  struct range global[EXACT_TILE] = {0}, near[EXACT_TILE] = {0};
  for (int64_t i = 0; i < queries.n; i++) {
    const int64_t token = first + i;
    const bool is_apart = !is_causal && token < globals.end;
    if (is_apart) continue;
    global[i] = (struct range){globals.begin, is_causal ? least(globals.end, token + 1) : globals.end};
    near[i] = (struct range){most(globals.end, token - width),
                             is_causal ? token + 1 : least(tile->segment.end, token + width + 1)};
  }
  exact_begin(&window->exact, &queries);
  fold_keys(plan, &queries, globals, global);
  const int64_t end = is_causal ? tile->tokens.end : least(tile->segment.end, tile->tokens.end + width);
  fold_keys(plan, &queries, (struct range){most(globals.end, first - width), end}, near);
  exact_emit(&window->exact, &queries, method_out(plan, arrays, head, first), arrays->out->token_stride);
}

static void attend_unit(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit) {
  const int64_t heads = plan->engine.heads_per_key;
  const struct range own = own_tiles(plan, halo_own_part(plan));
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < heads * range_count(own); item++) {
      struct tile tile = tiles_tile(&plan->tiles, own.begin + item / heads);
      attend_tile(plan, arrays, unit * heads + item % heads, &tile);
    }
    binding_leave(plan->binding);
  }
}

static void attend(struct favor_plan *plan, const struct block_arrays *arrays) {
  struct window *window = plan->method_data;
  for (int64_t unit = 0; unit < range_count(plan->units); unit++) {
    pack_tiles(plan, arrays, unit);
    halo_exchange(plan, &window->keys);
    if (dist_has_failed(plan->context)) return;
    attend_unit(plan, arrays, unit);
    if (window_has_global_queries(plan)) window_globals_attend(plan, arrays, unit);
  }
}

/* Pairs of tokens at most `window` apart, or of which the earlier is global. */
static double flops(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  double pairs = 0;
  for (int64_t s = 0; s < problem->n_segments; s++) {
    const int64_t n_tokens = plan->offsets[s + 1] - plan->offsets[s];
    if (n_tokens == 0) continue;
    const double n = (double)n_tokens, width = (double)least(problem->window, n_tokens - 1), far = n - 1 - width;
    const double global = (double)least(problem->global_tokens, (int64_t)far);
    const double before = (width + 1) * n - width * (width + 1) / 2 + global * far - global * (global - 1) / 2;
    pairs += problem->is_causal ? before : 2 * before - n;
  }
  return 2 * pairs * (double)(problem->batch * problem->heads) * (double)(problem->key_width + problem->value_width);
}

const struct method method_window = {.tile_tokens = EXACT_TILE,
                                     .kernel = "blas",
                                     .n_pieces = n_pieces,
                                     .bytes = bytes,
                                     .allocate = allocate,
                                     .attend = attend,
                                     .flops = flops};

#include "plan/method_linformer.h"

#include "base/memory.h"
#include "core/exact.h"
#include "core/linformer.h"
#include "plan/halo.h"

/* Everything in one piece of memory, which begins with this. */
struct run {
  struct exact exact;
  int64_t rows;      /* M */
  size_t unit_bytes; /* of the rows of one key head */
  size_t row_bytes, keys_bytes, tiles_bytes, sums_bytes, scratch_bytes;
  char *own;       /* [units][M]: of a segment that stays on the rank */
  char *shared[2]; /* [units][M]: of a segment that is shared */
  char *incoming;  /* rows of other ranks */
  char *packed;    /* [units][tiles of rows] keys of exact.h */
  char *projected; /* [threads]: real k' [M][D] and v' [M][E] */
  char *row;       /* [threads] doubles [D + E] */
  char *sums;      /* [threads] */
  char *scratch;   /* [threads] */
  struct dist_piece *sends, *receives;
  int64_t n_sends, n_receives;
};

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }
static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t n_row_tiles(const struct run *run) { return (run->rows + EXACT_TILE - 1) / EXACT_TILE; }

/* ---- rows that ranks share ---- */

/* The ranks that own some of a segment, in order of tokens. */
static bool is_member(const struct favor_plan *plan, int64_t part, struct range segment) {
  return range_count(range_meet(halo_shard(plan, part), segment)) > 0;
}

static int64_t count_members(const struct favor_plan *plan, struct range segment, int64_t before) {
  int64_t n = 0;
  for (int64_t part = 0; part < before; part++) n += is_member(plan, part, segment);
  return n;
}

/* The rows that a member adds up, of every key head. */
static struct range slice_of(const struct run *run, int64_t n_members, int64_t member) {
  return (struct range){run->rows * member / n_members, run->rows * (member + 1) / n_members};
}

enum direction { TO_OWNERS, FROM_OWNERS };

static char *shared_row(const struct run *run, int s, int64_t unit, int64_t row) {
  return run->shared[s] ? run->shared[s] + run->unit_bytes * (size_t)unit + run->row_bytes * (size_t)row : NULL;
}

/* Adds the pieces of one shared segment. Returns how many rows come in, where those are the owner's. */
static int64_t add_pieces(const struct favor_plan *plan, struct run *run, int s, struct range segment,
                          enum direction direction, int64_t incoming) {
  const int64_t own_part = halo_own_part(plan), n_members = count_members(plan, segment, plan->grid.tokens);
  const struct range own = slice_of(run, n_members, count_members(plan, segment, own_part));
  int64_t member = 0, n = 0;
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    if (!is_member(plan, part, segment)) continue;
    const struct range theirs = slice_of(run, n_members, member++);
    const struct range sent = direction == TO_OWNERS ? theirs : own, received = direction == TO_OWNERS ? own : theirs;
    for (int64_t unit = 0; part != own_part && unit < n_units(plan); unit++) {
      char *to = direction == FROM_OWNERS ? shared_row(run, s, unit, received.begin)
                 : run->incoming          ? run->incoming + run->row_bytes * (size_t)(incoming + n)
                                          : NULL;
      run->n_sends += halo_cut(part, shared_row(run, s, unit, sent.begin), run->row_bytes, range_count(sent),
                               run->sends ? run->sends + run->n_sends : NULL);
      run->n_receives += halo_cut(part, to, run->row_bytes, range_count(received),
                                  run->receives ? run->receives + run->n_receives : NULL);
      n += range_count(received);
    }
  }
  return n;
}

/* The pieces of both shared segments; how many rows come in. */
static int64_t find_pieces(const struct favor_plan *plan, struct run *run, enum direction direction) {
  struct range segments[2];
  int64_t n = 0;
  run->n_sends = run->n_receives = 0;
  if (n_units(plan) == 0) return 0;
  halo_shared_segments(plan, halo_own_part(plan), segments);
  for (int s = 0; s < 2; s++) {
    if (range_count(segments[s]) > 0) n += add_pieces(plan, run, s, segments[s], direction, n);
  }
  return n;
}

static void merge_incoming(const struct favor_plan *plan, const struct run *run, const struct range segments[2]) {
  const char *from = run->incoming;
  for (int s = 0; s < 2; s++) {
    if (range_count(segments[s]) == 0) continue;
    const int64_t n_members = count_members(plan, segments[s], plan->grid.tokens);
    const struct range own = slice_of(run, n_members, count_members(plan, segments[s], halo_own_part(plan)));
    for (int64_t i = 0; i < (n_members - 1) * n_units(plan); i++) {
      binned_merge(from, shared_row(run, s, i % n_units(plan), own.begin), range_count(own));
      from += run->row_bytes * (size_t)range_count(own);
    }
  }
}

/* ---- memory ---- */

/* Sizes, and places in memory that begins with the run itself, where there is any. Returns how much it takes. */
static size_t lay_out(const struct favor_plan *plan, struct run *run, char *memory) {
  const struct engine *engine = &plan->engine;
  *run = (struct run){.exact = {.engine = engine, .scale = plan->problem.scale}, .rows = plan->length_rows};
  run->row_bytes = linformer_row_bytes(engine);
  run->unit_bytes = run->row_bytes * (size_t)run->rows;
  run->keys_bytes = exact_keys_bytes(&run->exact);
  run->sums_bytes = round_up(exact_sums_bytes(&run->exact));
  const size_t scratch[] = {round_up(linformer_scratch_bytes(engine)), round_up(exact_scratch_bytes(&run->exact))};
  run->scratch_bytes = scratch[scratch[1] > scratch[0]];
  const size_t width = (size_t)(engine->shape.key_width + engine->shape.value_width);
  run->tiles_bytes = round_up((size_t)run->rows * width * engine->real_bytes);
  struct range segments[2] = {{0, 0}, {0, 0}};
  const int64_t n_incoming = find_pieces(plan, run, TO_OWNERS), n_to = run->n_sends + run->n_receives;
  find_pieces(plan, run, FROM_OWNERS);
  const int64_t n_from = run->n_sends + run->n_receives, n_pieces = n_to > n_from ? n_to : n_from;
  if (n_units(plan) > 0) halo_shared_segments(plan, halo_own_part(plan), segments);
  const size_t units = round_up(run->unit_bytes * (size_t)n_units(plan)), threads = (size_t)plan->threads;
  const size_t bytes[] = {round_up(sizeof *run),
                          units,
                          range_count(segments[0]) > 0 ? units : 0,
                          range_count(segments[1]) > 0 ? units : 0,
                          round_up(run->row_bytes * (size_t)n_incoming),
                          run->keys_bytes * (size_t)(n_units(plan) * n_row_tiles(run)),
                          run->tiles_bytes * threads,
                          round_up(width * sizeof(double)) * threads,
                          run->sums_bytes * threads,
                          run->scratch_bytes * threads,
                          2 * (size_t)n_pieces * sizeof *run->sends};
  enum { N = sizeof bytes / sizeof *bytes };
  size_t total = 0;
  char *at[N];
  for (int i = 0; i < N; i++) {
    at[i] = memory ? memory + total : NULL;
    total += bytes[i];
  }
  run->own = at[1];
  run->shared[0] = at[2];
  run->shared[1] = at[3];
  run->incoming = at[4];
  run->packed = at[5];
  run->projected = at[6];
  run->row = at[7];
  run->sums = at[8];
  run->scratch = at[9];
  run->sends = (struct dist_piece *)(void *)at[10];
  run->receives = memory ? run->sends + n_pieces : NULL;
  return total;
}

static size_t bytes(const struct favor_plan *plan) {
  struct run run;
  return lay_out(plan, &run, NULL);
}

static int64_t n_pieces(const struct favor_plan *plan) {
  struct run run;
  lay_out(plan, &run, NULL);
  find_pieces(plan, &run, TO_OWNERS);
  int64_t n = run.n_sends > run.n_receives ? run.n_sends : run.n_receives;
  find_pieces(plan, &run, FROM_OWNERS);
  n = run.n_sends > n ? run.n_sends : n;
  return run.n_receives > n ? run.n_receives : n;
}

static void allocate(struct favor_plan *plan) {
  const size_t n_bytes = bytes(plan);
  struct run *run = memory_zeroed(1, n_bytes);
  plan->method_data = run;
  if (run) {
    lay_out(plan, run, (char *)run);
  } else {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %lld rows of projected keys and values (%zu bytes)",
              (long long)plan->length_rows, n_bytes);
  }
}

/* ---- the work ---- */

static struct linformer linformer_of(const struct favor_plan *plan, int64_t unit) {
  const struct favor_problem *problem = &plan->problem;
  const struct projection_name name = {problem->seed, problem->layer, problem->redraw,
                                       (plan->units.begin + unit) % problem->kv_heads};
  return linformer_make(&plan->engine, plan->length_rows, &name);
}

/* The rank's own tokens of a segment into rows [units][M]. */
static void absorb(struct favor_plan *plan, const struct block_arrays *arrays, struct range segment, char *rows) {
  const struct run *run = plan->method_data;
  const struct range own = range_meet(segment, plan->schedule.shard);
  const int64_t n_blocks = (run->rows + LINFORMER_BLOCK_ROWS - 1) / LINFORMER_BLOCK_ROWS;
#pragma omp parallel num_threads(plan->threads) if (n_units(plan) * n_blocks > 1)
  {
    binding_enter(plan->binding);
#pragma omp for
    for (int64_t unit = 0; unit < n_units(plan); unit++) {
      struct linformer linformer = linformer_of(plan, unit);
      linformer_clear(&linformer, rows + run->unit_bytes * (size_t)unit);
    }
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < n_units(plan) * n_blocks; item++) {
      const int64_t unit = item / n_blocks;
      struct linformer linformer = linformer_of(plan, unit);
      struct piece_keys keys = {.n = range_count(own),
                                .k = method_rows(plan, arrays, arrays->k, unit, own.begin),
                                .v = method_rows(plan, arrays, arrays->v, unit, own.begin),
                                .k_stride = arrays->k->token_stride,
                                .v_stride = arrays->v->token_stride};
      linformer_absorb(&linformer, &keys, own.begin - segment.begin, item % n_blocks,
                       rows + run->unit_bytes * (size_t)unit,
                       run->scratch + run->scratch_bytes * (size_t)omp_get_thread_num());
    }
    binding_leave(plan->binding);
  }
}

static char *packed_tile(const struct run *run, int64_t unit, int64_t tile) {
  return run->packed + run->keys_bytes * (size_t)(unit * n_row_tiles(run) + tile);
}

/* Complete rows of a key head as tiles of keys. */
static void pack(const struct favor_plan *plan, int64_t unit, const char *rows) {
  const struct run *run = plan->method_data;
  const struct kernel_shape *shape = &plan->engine.shape;
  const size_t thread = (size_t)omp_get_thread_num(), real = plan->engine.real_bytes;
  const size_t row_bytes = round_up((size_t)(shape->key_width + shape->value_width) * sizeof(double));
  char *k = run->projected + run->tiles_bytes * thread, *v = k + real * (size_t)(run->rows * shape->key_width);
  struct linformer linformer = linformer_of(plan, unit);
  linformer_read(&linformer, rows, (double *)(void *)(run->row + row_bytes * thread), k, v);
  for (int64_t tile = 0; tile < n_row_tiles(run); tile++) {
    const int64_t first = tile * EXACT_TILE;
    struct piece_keys keys = {.n = least(EXACT_TILE, run->rows - first),
                              .k = row_in(&plan->engine, k, shape->key_width, first),
                              .v = row_in(&plan->engine, v, shape->value_width, first),
                              .k_stride = shape->key_width,
                              .v_stride = shape->value_width};
    exact_pack(&run->exact, &keys, packed_tile(run, unit, tile));
  }
}

static void attend_tile(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t head,
                        struct range tokens) {
  const struct run *run = plan->method_data;
  const size_t thread = (size_t)omp_get_thread_num();
  struct exact_queries queries = {.n = range_count(tokens),
                                  .q = method_rows(plan, arrays, arrays->q, head, tokens.begin),
                                  .q_stride = arrays->q->token_stride,
                                  .sums = run->sums + run->sums_bytes * thread};
  exact_begin(&run->exact, &queries);
  for (int64_t tile = 0; tile < n_row_tiles(run); tile++) {
    exact_fold(&run->exact, packed_tile(run, head / plan->engine.heads_per_key, tile), &queries, NULL,
               run->scratch + run->scratch_bytes * thread);
  }
  exact_emit(&run->exact, &queries, method_out(plan, arrays, head, tokens.begin), arrays->out->token_stride);
}

/* Outputs of the rank's own tokens of a segment, from complete rows [units][M]. */
static void emit(struct favor_plan *plan, const struct block_arrays *arrays, struct range segment, const char *rows) {
  const struct run *run = plan->method_data;
  const struct range own = range_meet(segment, plan->schedule.shard);
  const int64_t n_heads = n_units(plan) * plan->engine.heads_per_key;
  const int64_t n_tiles = (range_count(own) + EXACT_TILE - 1) / EXACT_TILE;
#pragma omp parallel num_threads(plan->threads) if (n_heads * n_tiles > 1)
  {
    binding_enter(plan->binding);
#pragma omp for
    for (int64_t unit = 0; unit < n_units(plan); unit++) pack(plan, unit, rows + run->unit_bytes * (size_t)unit);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < n_heads * n_tiles; item++) {
      const int64_t begin = own.begin + item % n_tiles * EXACT_TILE;
      attend_tile(plan, arrays, item / n_tiles, (struct range){begin, least(begin + EXACT_TILE, own.end)});
    }
    binding_leave(plan->binding);
  }
}

/* Collective over the axis: the shared segments' rows become complete. */
static void combine(struct favor_plan *plan, const struct range segments[2]) {
  struct run *run = plan->method_data;
  find_pieces(plan, run, TO_OWNERS);
  dist_axis_exchange(plan->axis, run->sends, run->n_sends, run->receives, run->n_receives);
  if (dist_has_failed(plan->context)) return;
  merge_incoming(plan, run, segments);
  find_pieces(plan, run, FROM_OWNERS);
  dist_axis_exchange(plan->axis, run->sends, run->n_sends, run->receives, run->n_receives);
}

static void attend(struct favor_plan *plan, const struct block_arrays *arrays) {
  struct run *run = plan->method_data;
  const struct range shard = plan->schedule.shard;
  struct range shared[2];
  if (n_units(plan) == 0) return; /* nor have the other ranks of these heads any */
  halo_shared_segments(plan, halo_own_part(plan), shared);
  for (int s = 0; s < 2; s++) {
    if (range_count(shared[s]) > 0) absorb(plan, arrays, shared[s], run->shared[s]);
  }
  combine(plan, shared);
  if (dist_has_failed(plan->context)) return;
  for (int s = 0; s < 2; s++) {
    if (range_count(shared[s]) > 0) emit(plan, arrays, shared[s], run->shared[s]);
  }
  struct range segment;
  for (int64_t t = shard.begin; t < shard.end; t = segment.end) {
    segment = tokens_segment(&plan->tokens, t);
    if (segment.begin < shard.begin || segment.end > shard.end) continue;
    absorb(plan, arrays, segment, run->own);
    emit(plan, arrays, segment, run->own);
  }
}

/* M (D + E) a key, with signs for one factor, and the same a query. */
static double flops(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  const double rows = (double)plan->length_rows * (double)problem->tokens;
  return 2 * rows * (double)(problem->batch * (problem->heads + problem->kv_heads)) *
         (double)(problem->key_width + problem->value_width);
}

const struct method method_linformer = {.tile_tokens = LINFORMER_TILE,
                                        .kernel = "blas",
                                        .n_pieces = n_pieces,
                                        .bytes = bytes,
                                        .allocate = allocate,
                                        .attend = attend,
                                        .flops = flops};

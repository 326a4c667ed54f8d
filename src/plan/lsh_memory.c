#include "plan/halo.h"
#include "plan/method_lsh.h"

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static void raise(int64_t *most, int64_t value) { *most = value > *most ? value : *most; }

/* What one of the rank's segments needs. */
static void add_segment(const struct favor_plan *plan, struct range segment, struct lsh_sizes *sizes) {
  const int64_t n = range_count(segment), chunk = least(plan->problem.lsh_chunk, n);
  const struct lsh_shape shape = lsh_shape(n, plan->problem.lsh_chunk);
  int64_t members = 0;
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    members += range_count(range_meet(halo_shard(plan, part), segment)) > 0;
  }
  if (shape.hashes > sizes->hashes) sizes->hashes = shape.hashes;
  raise(&sizes->members, members);
  raise(&sizes->tokens, n);
  raise(&sizes->own_tokens, range_count(range_meet(segment, plan->schedule.shard)));
  raise(&sizes->buckets, shape.n_buckets);
  /* Its share, up to the end of its last chunk, after the chunk before its first. */
  raise(&sizes->work_keys, least(n, n / members + 2 * chunk + 2));
  raise(&sizes->batch, least(n, n / members + EXACT_TILE));
}

static struct lsh_sizes find_sizes(const struct favor_plan *plan) {
  struct lsh_sizes sizes = {.hashes = 1};
  const struct range shard = plan->schedule.shard;
  struct range segment, shared[2] = {{0, 0}, {0, 0}};
  if (range_count(plan->units) == 0) return sizes;
  halo_shared_segments(plan, halo_own_part(plan), shared);
  for (int s = 0; s < 2; s++) {
    if (range_count(shared[s]) > 0) add_segment(plan, shared[s], &sizes);
  }
  for (int64_t t = shard.begin; t < shard.end; t = segment.end) {
    segment = tokens_segment(&plan->tokens, t);
    if (segment.begin >= shard.begin && segment.end <= shard.end) add_segment(plan, segment, &sizes);
  }
  return sizes;
}

/* Hands out pieces of one block of memory; without a block only adds up. */
struct block {
  char *memory;
  size_t total;
};
static void *take(struct block *block, int64_t count, size_t bytes) {
  void *piece = block->memory ? block->memory + block->total : NULL;
  block->total += round_up((size_t)count * bytes);
  return piece;
}

static void lay_out_threads(const struct favor_plan *plan, struct lsh_run *run, struct block *block) {
  run->threads = take(block, plan->threads, sizeof *run->threads);
  for (int i = 0; i < plan->threads; i++) {
    struct lsh_thread thread = {.keys = take(block, EXACT_TILE, run->key_row_bytes),
                                .queries = take(block, EXACT_TILE, run->query_row_bytes),
                                .packed = take(block, 1, run->keys_bytes),
                                .sums = take(block, 1, run->sums_bytes),
                                .scratch = take(block, 1, run->scratch_bytes),
                                .work = take(block, plan->engine.shape.key_width, sizeof(double)),
                                .key_tokens = take(block, EXACT_TILE, sizeof(struct lsh_token)),
                                .query_tokens = take(block, EXACT_TILE, sizeof(struct lsh_token))};
    if (block->memory) run->threads[i] = thread;
  }
}

static void lay_out_tokens(struct lsh_run *run, struct block *block) {
  const struct lsh_sizes *sizes = &run->sizes;
  const int64_t rounds = run->rounds, heads = run->heads, n = sizes->tokens, members = sizes->members;
  run->codes = take(block, n * (1 + heads) * rounds, sizeof *run->codes);
  run->key_chunks = take(block, n * rounds, sizeof *run->key_chunks);
  run->query_chunks = take(block, n * heads * rounds, sizeof *run->query_chunks);
  run->start = take(block, sizes->buckets + 1, sizeof *run->start);
  run->order = take(block, n, sizeof *run->order);
  run->query_start = take(block, sizes->buckets + 1, sizeof *run->query_start);
  run->query_order = take(block, n, sizeof *run->query_order);
  run->key_rows = take(block, sizes->work_keys, sizeof *run->key_rows);
  run->query_rows = take(block, sizes->batch, sizeof *run->query_rows);
  run->counts = take(block, 4 * (members + 1), sizeof *run->counts);
  run->firsts = take(block, members + 1, sizeof *run->firsts);
  run->key_work = take(block, members, sizeof *run->key_work);
  run->query_work = take(block, members, sizeof *run->query_work);
  run->batch_work = take(block, members, sizeof *run->batch_work);
  run->members.parts = take(block, members, sizeof *run->members.parts);
  run->members.begins = take(block, members + 1, sizeof *run->members.begins);
}

static void lay_out_rows(struct lsh_run *run, struct block *block) {
  const struct lsh_sizes *sizes = &run->sizes;
  const int64_t own = sizes->own_tokens, n_tiles = (own + EXACT_TILE - 1) / EXACT_TILE;
  /* A key goes to the rank of its chunk, and to that of the next. */
  run->keys_out = take(block, 2 * own, run->key_row_bytes);
  run->keys_in = take(block, sizes->work_keys, run->key_row_bytes);
  run->queries_out = take(block, own, run->query_row_bytes);
  run->queries_in = take(block, sizes->batch, run->query_row_bytes);
  run->found = take(block, sizes->batch, run->sum_row_bytes);
  run->found_in = take(block, own, run->sum_row_bytes);
  run->sums = take(block, run->heads * n_tiles, run->sums_bytes);
}

int64_t lsh_most_pieces(const struct favor_plan *plan) {
  const struct lsh_sizes sizes = find_sizes(plan);
  const struct kernel_shape *shape = &plan->engine.shape;
  const int64_t heads = plan->engine.heads_per_key, rows = 2 * sizes.own_tokens + sizes.work_keys + sizes.batch;
  const size_t codes = (size_t)((1 + heads) * plan->problem.lsh_rounds) * sizeof(int32_t);
  const size_t row = (size_t)(shape->key_width + shape->value_width + 2) * sizeof(double);
  const int64_t of_codes = sizes.members + route_most_pieces(sizes.members, sizes.members * sizes.tokens, codes);
  const int64_t of_rows = route_most_pieces(sizes.members, rows, row);
  return of_codes > of_rows ? of_codes : of_rows;
}

size_t lsh_lay_out(const struct favor_plan *plan, struct lsh_run *run, char *memory) {
  const struct kernel_shape *shape = &plan->engine.shape;
  const size_t real = plan->engine.real_bytes;
  *run = (struct lsh_run){.exact = {.engine = &plan->engine, .scale = plan->problem.scale},
                          .sizes = find_sizes(plan),
                          .rounds = plan->problem.lsh_rounds,
                          .chunk = plan->problem.lsh_chunk,
                          .heads = plan->engine.heads_per_key,
                          .key_row_bytes = (size_t)(shape->key_width + shape->value_width) * real,
                          .query_row_bytes = (size_t)shape->key_width * real};
  run->sums_bytes = round_up(exact_sums_bytes(&run->exact));
  run->keys_bytes = exact_keys_bytes(&run->exact);
  run->scratch_bytes = exact_scratch_bytes(&run->exact);
  run->sum_row_bytes = (size_t)lsh_sum_count(&run->exact) * sizeof(double);
  struct block block = {memory, round_up(sizeof *run)};
  run->matrix = take(&block, lsh_matrix_count(run->rounds, run->sizes.hashes, shape->key_width), sizeof(double));
  lay_out_tokens(run, &block);
  lay_out_rows(run, &block);
  lay_out_threads(plan, run, &block);
  const int64_t n_pieces = lsh_most_pieces(plan);
  run->sends = take(&block, n_pieces, sizeof *run->sends);
  run->receives = take(&block, n_pieces, sizeof *run->receives);
  return block.total;
}

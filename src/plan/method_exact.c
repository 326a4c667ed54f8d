/* Softmax attention. Blocks of keys and values go from their owner to all ranks of the same heads, in order of tokens,
 * and every rank folds each into those of its queries that see some of it; so every query meets its keys in the same
 * order on any number of ranks. Blocks that no other rank's queries see stay where they are. */
#include "plan/method_exact.h"

#include "base/memory.h"
#include "core/exact.h"

/* Tiles that are folded between two broadcasts. */
enum { BLOCK_TILES = 16 };

/* Everything in one piece of memory, which begins with this. */
struct run {
  struct exact exact;
  size_t keys_bytes, sums_bytes, scratch_bytes; /* of one tile */
  int64_t n_tiles;                              /* of the shard */
  int64_t *tiles;                               /* [n_tiles + 1]: their first tokens, then the shard's end */
  char *block;                                  /* [units][tiles of the block] packed keys */
  char *sums;                                   /* [query heads][n_tiles] */
  char *scratch;                                /* [threads] */
  struct exact_range triangle[EXACT_TILE];      /* what a causal query sees of its own tile */
};

/* Consecutive tiles of one owner. */
struct block {
  int64_t n_tiles;
  int64_t tiles[BLOCK_TILES + 1]; /* first tokens, then the end */
  struct range visible_to;        /* queries outside this range see none of it */
};

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }
static int64_t n_heads(const struct favor_plan *plan) { return n_units(plan) * plan->engine.heads_per_key; }
static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Where the tile that begins at `token` ends. */
static int64_t tile_end(const struct tokens *tokens, int64_t token, int64_t limit) {
  int64_t end = tokens_segment(tokens, token).end;
  if (end > token + EXACT_TILE) end = token + EXACT_TILE;
  return end < limit ? end : limit;
}

static int64_t count_tiles(const struct favor_plan *plan) {
  const struct range shard = plan->schedule.shard;
  int64_t n = 0;
  for (int64_t t = shard.begin; t < shard.end; t = tile_end(&plan->tokens, t, shard.end)) n++;
  return n;
}

/* Sizes, and places in memory that begins with the run itself, where there is any. Returns how much it takes. */
static size_t lay_out(const struct favor_plan *plan, struct run *run, char *memory) {
  run->exact = (struct exact){.engine = &plan->engine, .scale = plan->problem.scale};
  run->keys_bytes = exact_keys_bytes(&run->exact);
  run->sums_bytes = round_up(exact_sums_bytes(&run->exact));
  run->scratch_bytes = round_up(exact_scratch_bytes(&run->exact));
  run->n_tiles = count_tiles(plan);
  size_t total = round_up(sizeof *run), at[4];
  const size_t bytes[] = {round_up((size_t)(run->n_tiles + 1) * sizeof *run->tiles),
                          run->keys_bytes * (size_t)(n_units(plan) * BLOCK_TILES),
                          run->sums_bytes * (size_t)(n_heads(plan) * run->n_tiles),
                          run->scratch_bytes * (size_t)plan->threads};
  for (int i = 0; i < 4; i++) {
    at[i] = total;
    total += bytes[i];
  }
  if (!memory) return total;
  run->tiles = (int64_t *)(void *)(memory + at[0]);
  run->block = memory + at[1];
  run->sums = memory + at[2];
  run->scratch = memory + at[3];
  return total;
}

static size_t bytes(const struct favor_plan *plan) {
  struct run run;
  return lay_out(plan, &run, NULL);
}

static void allocate(struct favor_plan *plan) {
  struct run *run = memory_zeroed(1, bytes(plan));
  plan->method_data = run;
  if (!run) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for the sums of exact attention (%zu bytes)", bytes(plan));
    return;
  }
  lay_out(plan, run, (char *)run);
  for (int32_t i = 0; i < EXACT_TILE; i++) run->triangle[i] = (struct exact_range){0, i + 1};
  const struct range shard = plan->schedule.shard;
  run->tiles[0] = shard.begin;
  for (int64_t i = 0; i < run->n_tiles; i++) {
    run->tiles[i + 1] = tile_end(&plan->tokens, run->tiles[i], shard.end);
  }
}

/* The block of `shard` that begins at `begin`. */
static void find_block(const struct favor_plan *plan, struct range shard, int64_t begin, struct block *block) {
  block->n_tiles = 0;
  block->tiles[0] = begin;
  while (block->n_tiles < BLOCK_TILES && block->tiles[block->n_tiles] < shard.end) {
    int64_t end = tile_end(&plan->tokens, block->tiles[block->n_tiles], shard.end);
    block->tiles[++block->n_tiles] = end;
  }
  block->visible_to.begin = plan->problem.is_causal ? begin : tokens_segment(&plan->tokens, begin).begin;
  block->visible_to.end = tokens_segment(&plan->tokens, block->tiles[block->n_tiles] - 1).end;
}

static char *packed_at(const struct run *run, const struct block *block, int64_t unit, int64_t tile) {
  return run->block + run->keys_bytes * (size_t)(unit * block->n_tiles + tile);
}

/* The owner's own keys into the block. */
static void pack_block(struct favor_plan *plan, const struct block_arrays *arrays, const struct block *block) {
  struct run *run = plan->method_data;
  const struct engine *engine = &plan->engine;
  const struct favor_input *k = arrays->k, *v = arrays->v;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for
    for (int64_t item = 0; item < n_units(plan) * block->n_tiles; item++) {
      int64_t unit = item / block->n_tiles, tile = item % block->n_tiles, token = block->tiles[tile];
      struct piece_keys keys = {
          .n = block->tiles[tile + 1] - token,
          .k = row_in(engine, row_in(engine, k->data, k->head_stride, unit), k->token_stride, token - arrays->begin),
          .v = row_in(engine, row_in(engine, v->data, v->head_stride, unit), v->token_stride, token - arrays->begin),
          .k_stride = k->token_stride,
          .v_stride = v->token_stride};
      exact_pack(&run->exact, &keys, packed_at(run, block, unit, tile));
    }
    binding_leave(plan->binding);
  }
}

static struct exact_queries queries_at(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t head,
                                       int64_t tile) {
  const struct run *run = plan->method_data;
  const struct engine *engine = &plan->engine;
  const struct favor_input *q = arrays->q;
  int64_t token = run->tiles[tile];
  return (struct exact_queries){
      .n = run->tiles[tile + 1] - token,
      .q = row_in(engine, row_in(engine, q->data, q->head_stride, head), q->token_stride, token - arrays->begin),
      .q_stride = q->token_stride,
      .sums = run->sums + run->sums_bytes * (size_t)(head * run->n_tiles + tile)};
}

/* A block into one tile of queries. */
static void fold_block(const struct favor_plan *plan, const struct block_arrays *arrays, const struct block *block,
                       int64_t head, int64_t tile) {
  const struct run *run = plan->method_data;
  struct exact_queries queries = queries_at(plan, arrays, head, tile);
  const int64_t token = run->tiles[tile];
  const struct range segment = tokens_segment(&plan->tokens, token);
  char *scratch = run->scratch + run->scratch_bytes * (size_t)omp_get_thread_num();
  for (int64_t i = 0; i < block->n_tiles; i++) {
    const int64_t key = block->tiles[i];
    if (key < segment.begin || key >= segment.end || (plan->problem.is_causal && key > token)) continue;
    const struct exact_range *visible = plan->problem.is_causal && key == token ? run->triangle : NULL;
    exact_fold(&run->exact, packed_at(run, block, head / plan->engine.heads_per_key, i), &queries, visible, scratch);
  }
}

/* The first of the shard's tiles that begins at or after `token`. */
static int64_t find_tile(const struct run *run, int64_t token) {
  int64_t low = 0, high = run->n_tiles;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (run->tiles[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

enum phase { PHASE_BEGIN, PHASE_FOLD, PHASE_EMIT };

/* A phase of all tiles of queries, or of those that see the block. */
static void for_queries(struct favor_plan *plan, const struct block_arrays *arrays, enum phase phase,
                        const struct block *block) {
  const struct run *run = plan->method_data;
  const struct engine *engine = &plan->engine;
  const struct favor_output *out = arrays->out;
  const int64_t first = block ? find_tile(run, block->visible_to.begin) : 0;
  const int64_t n_tiles = (block ? find_tile(run, block->visible_to.end) : run->n_tiles) - first;
  if (n_tiles == 0) return;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < n_heads(plan) * n_tiles; item++) {
      int64_t head = item / n_tiles, tile = first + item % n_tiles;
      struct exact_queries queries = queries_at(plan, arrays, head, tile);
      if (phase == PHASE_BEGIN) {
        exact_begin(&run->exact, &queries);
      } else if (phase == PHASE_FOLD) {
        fold_block(plan, arrays, block, head, tile);
      } else {
        void *rows = row_out(engine, out->data, out->head_stride, head);
        exact_emit(&run->exact, &queries, row_out(engine, rows, out->token_stride, run->tiles[tile] - arrays->begin),
                   out->token_stride);
      }
    }
    binding_leave(plan->binding);
  }
}

static void attend(struct favor_plan *plan, const struct block_arrays *arrays) {
  struct run *run = plan->method_data;
  if (n_units(plan) == 0) return; /* nor have the other ranks of these heads any */
  for_queries(plan, arrays, PHASE_BEGIN, NULL);
  for (int part = 0; part < dist_axis_size(plan->axis); part++) {
    const struct range shard = tokens_shard(&plan->tokens, plan->grid.tokens, part);
    const bool is_own = part == dist_axis_rank(plan->axis);
    struct block block;
    for (int64_t begin = shard.begin; begin < shard.end; begin = block.tiles[block.n_tiles]) {
      find_block(plan, shard, begin, &block);
      bool is_shared = block.visible_to.begin < shard.begin || block.visible_to.end > shard.end;
      if (is_own) pack_block(plan, arrays, &block);
      if (is_shared && dist_axis_broadcast(plan->axis, part, run->block,
                                           run->keys_bytes * (size_t)(n_units(plan) * block.n_tiles)) != FAVOR_OK) {
        return;
      }
      if (is_own || is_shared) for_queries(plan, arrays, PHASE_FOLD, &block);
    }
  }
  for_queries(plan, arrays, PHASE_EMIT, NULL);
}

static int64_t no_pieces(const struct favor_plan *plan) {
  (void)plan;
  return 0;
}

static double flops(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  double pairs = 0;
  for (int64_t s = 0; s < problem->n_segments; s++) {
    double n = (double)(plan->offsets[s + 1] - plan->offsets[s]);
    pairs += problem->is_causal ? n * (n + 1) / 2 : n * n;
  }
  return 2.0 * pairs * (double)(problem->batch * problem->heads) * (double)(problem->key_width + problem->value_width);
}

const struct method method_exact = {.tile_tokens = EXACT_TILE,
                                    .kernel = "blas",
                                    .n_pieces = no_pieces,
                                    .bytes = bytes,
                                    .allocate = allocate,
                                    .attend = attend,
                                    .flops = flops};

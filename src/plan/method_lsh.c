#include "plan/method_lsh.h"

#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "plan/halo.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* One segment and key head at work; in it tokens are counted from its first. */
struct job {
  struct favor_plan *plan;
  const struct block_arrays *arrays;
  struct lsh_run *run;
  int64_t unit;
  struct range segment, own; /* global; own: the rank's */
  int64_t n, chunk;
  struct lsh_shape shape;
  /* At hand. */
  int64_t round, head; /* of the group */
  struct route keys, queries;
};

static int64_t code_stride(const struct lsh_run *run) { return (1 + run->heads) * run->rounds; }
static const int32_t *key_codes(const struct lsh_run *run, int64_t round) { return run->codes + round; }
static const int32_t *query_codes(const struct lsh_run *run, int64_t head, int64_t round) {
  return run->codes + (1 + head) * run->rounds + round;
}
static int32_t *key_chunks(const struct job *job, int64_t round) { return job->run->key_chunks + round * job->n; }
static int32_t *query_chunks(const struct job *job, int64_t head, int64_t round) {
  return job->run->query_chunks + (head * job->run->rounds + round) * job->n;
}
static int64_t flat_head(const struct job *job, int64_t head) { return job->unit * job->run->heads + head; }
static struct lsh_thread *own_thread(const struct job *job) { return &job->run->threads[omp_get_thread_num()]; }

/* ---- hashes ---- */

static void hash_own_tokens(const struct job *job) {
  const struct favor_plan *plan = job->plan;
  struct lsh_run *run = job->run;
#pragma omp parallel num_threads(plan->threads) if (range_count(job->own) > EXACT_TILE)
  {
    binding_enter(plan->binding);
#pragma omp for
    for (int64_t t = job->own.begin; t < job->own.end; t++) {
      int32_t *codes = run->codes + (t - job->segment.begin) * code_stride(run);
      double *work = own_thread(job)->work;
      lsh_hash(&plan->engine, &job->shape, run->rounds, run->sizes.hashes, run->matrix,
               method_rows(plan, job->arrays, job->arrays->k, job->unit, t), work, codes);
      for (int64_t h = 0; h < run->heads; h++) {
        lsh_hash(&plan->engine, &job->shape, run->rounds, run->sizes.hashes, run->matrix,
                 method_rows(plan, job->arrays, job->arrays->q, flat_head(job, h), t), work,
                 codes + (1 + h) * run->rounds);
      }
    }
    binding_leave(plan->binding);
  }
}

/* Every member's codes to all. */
static enum favor_status share_codes(const struct job *job) {
  struct lsh_run *run = job->run;
  const struct route_members *members = &run->members;
  const size_t bytes = (size_t)code_stride(run) * sizeof *run->codes;
  const int64_t own = members->begins[members->own], n_own = members->begins[members->own + 1] - own;
  int64_t n_sends = 0, n_receives = 0;
  for (int64_t m = 0; m < members->n; m++) {
    if (m == members->own) continue;
    const int64_t begin = members->begins[m];
    n_sends += halo_cut(members->parts[m], run->codes + own * code_stride(run), bytes, n_own, run->sends + n_sends);
    n_receives += halo_cut(members->parts[m], run->codes + begin * code_stride(run), bytes,
                           members->begins[m + 1] - begin, run->receives + n_receives);
  }
  return dist_axis_exchange(job->plan->axis, run->sends, n_sends, run->receives, n_receives);
}

static void sort_keys(const struct job *job, int64_t round) {
  lsh_sort(job->n, job->shape.n_buckets, key_codes(job->run, round), code_stride(job->run), job->run->start,
           job->run->order);
}

static void find_chunks(const struct job *job) {
  struct lsh_run *run = job->run;
  for (int64_t t = 0; t < run->rounds; t++) {
    sort_keys(job, t);
    lsh_key_chunks(job->n, job->chunk, key_codes(run, t), code_stride(run), run->start, run->order, key_chunks(job, t));
    for (int64_t h = 0; h < run->heads; h++) {
      lsh_query_chunks(job->n, job->shape.n_buckets, job->chunk, key_codes(run, t), query_codes(run, h, t),
                       code_stride(run), run->query_start, query_chunks(job, h, t));
    }
  }
}

/* ---- who works on what: whole chunks of keys, in sorted order ---- */

/* The first chunk that begins at or after a place of the sorted keys. */
static int64_t chunk_from(const struct job *job, int64_t place) {
  const struct lsh_run *run = job->run;
  if (place >= job->n) return job->n;
  const int32_t token = run->order[place], code = key_codes(run, job->round)[token * code_stride(run)];
  const int64_t within = place - run->start[code], end = run->start[code + 1];
  return least(end, run->start[code] + (within + job->chunk - 1) / job->chunk * job->chunk);
}

/* Each member's keys: from the chunk before its first one. firsts [members + 1]: where its own begin. */
static void divide_keys(const struct job *job, int64_t *firsts) {
  const struct lsh_run *run = job->run;
  const int64_t n = run->members.n;
  for (int64_t m = 0; m <= n; m++) firsts[m] = chunk_from(job, job->n * m / n);
  for (int64_t m = 0; m < n; m++) {
    int64_t begin = firsts[m];
    if (begin < firsts[m + 1] && key_chunks(job, job->round)[run->order[begin]] > 0) begin -= job->chunk;
    run->key_work[m] = (struct range){begin, firsts[m + 1]};
  }
}

/* The first of the sorted queries that meets a chunk of this bucket and number, or later ones. */
static int64_t first_query(const struct job *job, int32_t code, int32_t chunk) {
  const struct lsh_run *run = job->run;
  int64_t low = run->query_start[code], high = run->query_start[code + 1];
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (query_chunks(job, job->head, job->round)[run->query_order[middle]] < chunk) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static void divide_queries(const struct job *job, const int64_t *firsts) {
  const struct lsh_run *run = job->run;
  const int64_t n = run->members.n;
  for (int64_t m = 0; m < n; m++) {
    int64_t begin = job->n;
    if (m == 0) {
      begin = 0;
    } else if (firsts[m] < job->n) {
      const int32_t token = run->order[firsts[m]];
      begin =
          first_query(job, key_codes(run, job->round)[token * code_stride(run)], key_chunks(job, job->round)[token]);
    }
    run->query_work[m] = (struct range){begin, job->n};
    if (m > 0) run->query_work[m - 1].end = begin;
  }
}

/* ---- keys to those who work on them ---- */

static void pack_key(void *data, int64_t token, int64_t row) {
  const struct job *job = data;
  const struct engine *engine = &job->plan->engine;
  const int64_t t = job->segment.begin + token;
  char *to = job->run->keys_out + job->run->key_row_bytes * (size_t)row;
  const size_t k_bytes = (size_t)engine->shape.key_width * engine->real_bytes;
  memcpy(to, method_rows(job->plan, job->arrays, job->arrays->k, job->unit, t), k_bytes);
  memcpy(to + k_bytes, method_rows(job->plan, job->arrays, job->arrays->v, job->unit, t),
         job->run->key_row_bytes - k_bytes);
}

static enum favor_status send_keys(struct job *job) {
  struct lsh_run *run = job->run;
  job->keys = (struct route){.members = &run->members,
                             .order = run->order,
                             .work = run->key_work,
                             .sent = run->counts,
                             .received = run->counts + run->members.n + 1,
                             .row = run->key_rows};
  route_find(&job->keys);
  route_for_sent(&job->keys, pack_key, job);
  return route_exchange(job->plan, &job->keys, false, run->key_row_bytes, run->keys_out, run->keys_in, run->sends,
                        run->receives);
}

/* ---- a tile of queries ---- */

/* The end of the tile that begins at a place of the sorted queries: queries of one bucket that meet the same chunks. */
static int64_t tile_end(const struct job *job, int64_t begin, int64_t limit) {
  const struct lsh_run *run = job->run;
  const int32_t *codes = query_codes(run, job->head, job->round), *chunks = query_chunks(job, job->head, job->round);
  const int32_t first = run->query_order[begin];
  int64_t end = begin + 1;
  for (; end < least(limit, begin + EXACT_TILE); end++) {
    const int32_t token = run->query_order[end];
    if (codes[token * code_stride(run)] != codes[first * code_stride(run)] || chunks[token] != chunks[first]) break;
  }
  return end;
}

/* What decides whom a token meets, up to the round at hand. */
static void describe_token(const struct job *job, bool is_query, int32_t token, struct lsh_token *described) {
  const struct lsh_run *run = job->run;
  described->token = token;
  for (int64_t t = 0; t <= job->round; t++) {
    const int32_t *codes = is_query ? query_codes(run, job->head, t) : key_codes(run, t);
    described->codes[t] = codes[token * code_stride(run)];
    described->chunks[t] = (is_query ? query_chunks(job, job->head, t) : key_chunks(job, t))[token];
  }
}

/* Places [begin, end) of the sorted keys. */
static void fold_keys(const struct job *job, int64_t begin, int64_t end, const struct exact_queries *queries) {
  const struct lsh_run *run = job->run;
  const struct engine *engine = &job->plan->engine;
  const struct lsh_thread *thread = own_thread(job);
  const int64_t stride = engine->shape.key_width + engine->shape.value_width;
  for (int64_t s = begin; s < end; s++) {
    const int32_t row = run->key_rows[s - run->key_work[run->members.own].begin];
    memcpy(thread->keys + run->key_row_bytes * (size_t)(s - begin), run->keys_in + run->key_row_bytes * (size_t)row,
           run->key_row_bytes);
    describe_token(job, false, run->order[s], &thread->key_tokens[s - begin]);
  }
  struct piece_keys keys = {.n = end - begin,
                            .k = thread->keys,
                            .v = row_in(engine, thread->keys, engine->shape.key_width, 1),
                            .k_stride = stride,
                            .v_stride = stride};
  exact_pack(&run->exact, &keys, thread->packed);
  uint64_t seen[EXACT_TILE];
  for (int64_t i = 0; i < queries->n; i++) {
    seen[i] = lsh_meets(&thread->query_tokens[i], keys.n, thread->key_tokens, job->round, job->plan->problem.is_causal);
  }
  exact_fold_some(&run->exact, thread->packed, queries, seen, thread->scratch);
}

/* Places [begin, end) of the sorted queries, which are a tile. */
static void fold_tile(const struct job *job, int64_t begin, int64_t end) {
  const struct lsh_run *run = job->run;
  const struct lsh_thread *thread = own_thread(job);
  const int32_t *rows = run->query_rows + (begin - run->batch_work[run->members.own].begin);
  struct exact_queries queries = {
      .n = end - begin, .q = thread->queries, .q_stride = job->plan->engine.shape.key_width, .sums = thread->sums};
  for (int64_t i = 0; i < queries.n; i++) {
    memcpy(thread->queries + run->query_row_bytes * (size_t)i, run->queries_in + run->query_row_bytes * (size_t)rows[i],
           run->query_row_bytes);
    describe_token(job, true, run->query_order[begin + i], &thread->query_tokens[i]);
  }
  exact_begin(&run->exact, &queries);
  const struct lsh_token *first = &thread->query_tokens[0];
  const int64_t start = run->start[first->codes[job->round]], stop = run->start[first->codes[job->round] + 1];
  for (int64_t c = first->chunks[job->round] - 1; c <= first->chunks[job->round]; c++) {
    const int64_t chunk_end = c < 0 ? 0 : least(stop, start + (c + 1) * job->chunk);
    for (int64_t s = start + c * job->chunk; c >= 0 && s < chunk_end; s += EXACT_TILE) {
      fold_keys(job, s, least(s + EXACT_TILE, chunk_end), &queries);
    }
  }
  for (int64_t i = 0; i < queries.n; i++) {
    double *found = (double *)(void *)(run->found + run->sum_row_bytes * (size_t)rows[i]);
    lsh_sum_take(&run->exact, &queries, i, found);
  }
}

/* ---- queries to those who work on them, and back ---- */

static void pack_query(void *data, int64_t token, int64_t row) {
  const struct job *job = data;
  const int64_t t = job->segment.begin + token;
  memcpy(job->run->queries_out + job->run->query_row_bytes * (size_t)row,
         method_rows(job->plan, job->arrays, job->arrays->q, flat_head(job, job->head), t), job->run->query_row_bytes);
}

/* A tile of the rank's own queries, with the sums that stay. */
static struct exact_queries own_queries(const struct job *job, int64_t head, int64_t tile) {
  const struct lsh_run *run = job->run;
  const int64_t n_tiles = (range_count(job->own) + EXACT_TILE - 1) / EXACT_TILE;
  const int64_t begin = job->own.begin + tile * EXACT_TILE;
  return (struct exact_queries){.n = least(EXACT_TILE, job->own.end - begin),
                                .q = method_rows(job->plan, job->arrays, job->arrays->q, flat_head(job, head), begin),
                                .q_stride = job->arrays->q->token_stride,
                                .sums = run->sums + run->sums_bytes * (size_t)(head * n_tiles + tile)};
}

static void add_found(void *data, int64_t token, int64_t row) {
  const struct job *job = data;
  const struct lsh_run *run = job->run;
  const int64_t place = job->segment.begin + token - job->own.begin;
  struct exact_queries queries = own_queries(job, job->head, place / EXACT_TILE);
  const double *found = (const double *)(const void *)(run->found_in + run->sum_row_bytes * (size_t)row);
  lsh_sum_add(&run->exact, found, &queries, place % EXACT_TILE);
}

/* As many of each member's next tiles as one batch takes. False: nothing is left of anybody's. */
static bool next_batch(const struct job *job) {
  const struct lsh_run *run = job->run;
  bool is_any = false;
  for (int64_t m = 0; m < run->members.n; m++) {
    struct range *batch = &run->batch_work[m];
    batch->begin = batch->end;
    const int64_t limit = run->query_work[m].end;
    while (batch->end < limit) {
      const int64_t end = tile_end(job, batch->end, limit);
      if (end - batch->begin > job->n / run->members.n + EXACT_TILE) break;
      batch->end = end;
    }
    is_any = is_any || range_count(*batch) > 0;
  }
  return is_any;
}

/* The own part of a batch: all threads go by its tiles, and each folds the next that none has taken. */
static void fold_batch(const struct job *job) {
  const struct range work = job->run->batch_work[job->run->members.own];
  _Atomic int64_t n_taken = 0;
#pragma omp parallel num_threads(job->plan->threads) if (range_count(work) > EXACT_TILE)
  {
    binding_enter(job->plan->binding);
    int64_t tile = 0, mine = atomic_fetch_add(&n_taken, 1);
    for (int64_t begin = work.begin, end; begin < work.end; begin = end, tile++) {
      end = tile_end(job, begin, work.end);
      if (tile < mine) continue;
      fold_tile(job, begin, end);
      mine = atomic_fetch_add(&n_taken, 1);
    }
    binding_leave(job->plan->binding);
  }
}

static void attend_head(struct job *job, const int64_t *firsts) {
  struct lsh_run *run = job->run;
  lsh_sort(job->n, job->shape.n_buckets, query_codes(run, job->head, job->round), code_stride(run), run->query_start,
           run->query_order);
  divide_queries(job, firsts);
  for (int64_t m = 0; m < run->members.n; m++) {
    run->batch_work[m] = (struct range){run->query_work[m].begin, run->query_work[m].begin};
  }
  int64_t *counts = run->counts + 2 * (run->members.n + 1);
  job->queries = (struct route){.members = &run->members,
                                .order = run->query_order,
                                .work = run->batch_work,
                                .sent = counts,
                                .received = counts + run->members.n + 1,
                                .row = run->query_rows};
  while (!dist_has_failed(job->plan->context) && next_batch(job)) {
    route_find(&job->queries);
    route_for_sent(&job->queries, pack_query, job);
    route_exchange(job->plan, &job->queries, false, run->query_row_bytes, run->queries_out, run->queries_in, run->sends,
                   run->receives);
    fold_batch(job);
    route_exchange(job->plan, &job->queries, true, run->sum_row_bytes, run->found, run->found_in, run->sends,
                   run->receives);
    route_for_sent(&job->queries, add_found, job);
  }
}

/* ---- a segment ---- */

/* Every query meets itself. */
static void begin_tile(const struct job *job, int64_t head, int64_t tile) {
  const struct lsh_run *run = job->run;
  const struct lsh_thread *thread = own_thread(job);
  const int64_t begin = job->own.begin + tile * EXACT_TILE;
  struct exact_queries queries = own_queries(job, head, tile);
  struct piece_keys keys = {.n = queries.n,
                            .k = method_rows(job->plan, job->arrays, job->arrays->k, job->unit, begin),
                            .v = method_rows(job->plan, job->arrays, job->arrays->v, job->unit, begin),
                            .k_stride = job->arrays->k->token_stride,
                            .v_stride = job->arrays->v->token_stride};
  uint64_t seen[EXACT_TILE];
  for (int64_t i = 0; i < EXACT_TILE; i++) seen[i] = UINT64_C(1) << i;
  exact_pack(&run->exact, &keys, thread->packed);
  exact_begin(&run->exact, &queries);
  exact_fold_some(&run->exact, thread->packed, &queries, seen, thread->scratch);
}

static void emit_tile(const struct job *job, int64_t head, int64_t tile) {
  struct exact_queries queries = own_queries(job, head, tile);
  exact_emit(&job->run->exact, &queries,
             method_out(job->plan, job->arrays, flat_head(job, head), job->own.begin + tile * EXACT_TILE),
             job->arrays->out->token_stride);
}

typedef void tile_function(const struct job *job, int64_t head, int64_t tile);

static void for_own_tiles(const struct job *job, tile_function *function) {
  const int64_t n_tiles = (range_count(job->own) + EXACT_TILE - 1) / EXACT_TILE;
#pragma omp parallel num_threads(job->plan->threads) if (job->run->heads * n_tiles > 1)
  {
    binding_enter(job->plan->binding);
#pragma omp for
    for (int64_t item = 0; item < job->run->heads * n_tiles; item++) function(job, item / n_tiles, item % n_tiles);
    binding_leave(job->plan->binding);
  }
}

static void attend_segment(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit,
                           struct range segment) {
  struct lsh_run *run = plan->method_data;
  const int64_t n = range_count(segment);
  struct job job = {.plan = plan,
                    .arrays = arrays,
                    .run = run,
                    .unit = unit,
                    .segment = segment,
                    .own = range_meet(segment, plan->schedule.shard),
                    .n = n,
                    .chunk = least(run->chunk, n),
                    .shape = lsh_shape(n, run->chunk)};
  route_find_members(plan, segment, &run->members);
  hash_own_tokens(&job);
  if (share_codes(&job) != FAVOR_OK) return;
  find_chunks(&job);
  for_own_tiles(&job, begin_tile);
  for (job.round = 0; job.round < run->rounds && !dist_has_failed(plan->context); job.round++) {
    sort_keys(&job, job.round);
    divide_keys(&job, run->firsts);
    if (send_keys(&job) != FAVOR_OK) return;
    for (job.head = 0; job.head < run->heads; job.head++) attend_head(&job, run->firsts);
  }
  for_own_tiles(&job, emit_tile);
}

/* Segments that ranks share first, those of even number and then those of odd: so nobody waits for a chain of others.
 */
static void attend(struct favor_plan *plan, const struct block_arrays *arrays) {
  struct lsh_run *run = plan->method_data;
  const struct favor_problem *problem = &plan->problem;
  const struct range shard = plan->schedule.shard;
  struct span spans[2];
  tokens_spans(&plan->tokens, (struct range){0, plan->tokens.n_tokens}, plan->grid.tokens, halo_own_part(plan), spans);
  for (int64_t unit = 0; unit < range_count(plan->units); unit++) {
    const struct projection_name name = {problem->seed, problem->layer, problem->redraw,
                                         (plan->units.begin + unit) % problem->kv_heads};
    lsh_draw(&name, run->rounds, run->sizes.hashes, problem->key_width, run->matrix);
    for (int parity = 0; parity < 2; parity++) {
      if (!spans[parity].is_member || range_count(spans[parity].piece) == 0) continue;
      attend_segment(plan, arrays, unit, tokens_segment(&plan->tokens, spans[parity].piece.begin));
      if (dist_has_failed(plan->context)) return;
    }
    struct range segment;
    for (int64_t t = shard.begin; t < shard.end; t = segment.end) {
      segment = tokens_segment(&plan->tokens, t);
      if (segment.begin >= shard.begin && segment.end <= shard.end) attend_segment(plan, arrays, unit, segment);
    }
  }
}

/* ---- the method ---- */

static size_t bytes(const struct favor_plan *plan) {
  struct lsh_run run;
  return lsh_lay_out(plan, &run, NULL);
}

static void allocate(struct favor_plan *plan) {
  const size_t n_bytes = bytes(plan);
  struct lsh_run *run = memory_zeroed(1, n_bytes);
  plan->method_data = run;
  if (run) {
    lsh_lay_out(plan, run, (char *)run);
  } else {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for hashed keys and queries (%zu bytes)", n_bytes);
  }
}

/* Of the hashes, and of a query's two chunks of keys in each round at most. */
static double flops(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  const double rounds = (double)problem->lsh_rounds, width = (double)problem->key_width;
  const double of_hash =
      (double)((problem->heads + problem->kv_heads) * problem->batch) * rounds * 2 * width * LSH_LANES;
  double sum = 0;
  for (int64_t s = 0; s < problem->n_segments; s++) {
    const int64_t n = plan->offsets[s + 1] - plan->offsets[s], met = least(n, 2 * least(problem->lsh_chunk, n));
    if (n == 0) continue;
    sum += (double)n * (of_hash * lsh_shape(n, problem->lsh_chunk).hashes + (double)(problem->batch * problem->heads) *
                                                                                rounds * (double)met * 2 *
                                                                                (width + (double)problem->value_width));
  }
  return sum;
}

const struct method method_lsh = {.tile_tokens = EXACT_TILE,
                                  .kernel = "blas",
                                  .n_pieces = lsh_most_pieces,
                                  .bytes = bytes,
                                  .allocate = allocate,
                                  .attend = attend,
                                  .flops = flops};

/* How threads share the work on a block: by heads and runs of tokens, or by whole short segments.
 *
 * A piece of work is one parallel region. The functions below that speak of the team are called by all of its threads
 * alike, and return when all are done. */
#include "plan/execute.h"

#include <stdatomic.h>
#include <string.h>

/* One head's piece of a segment. */
struct work {
  struct favor_plan *plan;
  const struct block_arrays *arrays;
  int64_t unit;
  struct range range;
};

/* The rows of a head from a token on; NULL where the block has no such array. */
static const void *rows_at(const struct work *work, const struct favor_input *x, int64_t head, int64_t token) {
  const struct engine *engine = &work->plan->engine;
  return x ? row_in(engine, row_in(engine, x->data, x->head_stride, head), x->token_stride, token) : NULL;
}

static struct piece_keys keys_of(const struct work *work) {
  const struct favor_input *k = work->arrays->k, *v = work->arrays->v;
  int64_t token = work->range.begin - work->arrays->begin;
  return (struct piece_keys){.n = range_count(work->range),
                             .k = rows_at(work, k, work->unit, token),
                             .v = rows_at(work, v, work->unit, token),
                             .k_stride = k ? k->token_stride : 0,
                             .v_stride = v ? v->token_stride : 0,
                             .kept = kept_of(work->plan, work->unit, token, work->range.begin)};
}

static struct kernel_queries queries_of(const struct work *work) {
  const struct engine *engine = &work->plan->engine;
  const struct favor_input *q = work->arrays->q;
  const struct favor_output *out = work->arrays->out;
  int64_t token = work->range.begin - work->arrays->begin, head = work->unit * engine->heads_per_key;
  return (struct kernel_queries){
      .n = range_count(work->range),
      .n_heads = engine->heads_per_key,
      .q = rows_at(work, q, head, token),
      .out = row_out(engine, row_out(engine, out->data, out->head_stride, head), out->token_stride, token),
      .q_head_stride = q ? q->head_stride : 0,
      .q_stride = q ? q->token_stride : 0,
      .out_head_stride = out->head_stride,
      .out_stride = out->token_stride};
}

void execute_refuse(struct favor_plan *plan, int64_t unit, int64_t begin, struct refusal refusal) {
  refusal.token += begin;
  refusal.head += (plan->units.begin + unit) * (refusal.tensor == 'q' ? plan->engine.heads_per_key : 1);
#pragma omp critical(favor_plan_refuse)
  {
    struct refusal *first = &plan->refusal;
    bool is_earlier =
        first->kind == REFUSAL_NONE || refusal.token < first->token ||
        (refusal.token == first->token &&
         (refusal.tensor < first->tensor || (refusal.tensor == first->tensor && refusal.head < first->head)));
    if (is_earlier) *first = refusal;
  }
}

static void refuse(const struct work *work, struct refusal refusal) {
  execute_refuse(work->plan, work->unit, work->range.begin, refusal);
}

static struct worker *own_worker(struct favor_plan *plan) { return plan->workers[omp_get_thread_num()]; }

/* Into rows that no other thread uses meanwhile. */
static void absorb(const struct work *work, void *rows) {
  struct piece_keys keys = keys_of(work);
  struct refusal refusal;
  if (!attend_absorb(&work->plan->engine, own_worker(work->plan), plan_weights(work->plan, work->unit), &keys, rows,
                     &refusal)) {
    refuse(work, refusal);
  }
}

/* From worker->view. */
static void emit(const struct work *work) {
  struct kernel_queries queries = queries_of(work);
  struct refusal refusal;
  if (!attend_emit(&work->plan->engine, own_worker(work->plan), plan_weights(work->plan, work->unit), &queries,
                   &refusal)) {
    refuse(work, refusal);
  }
}

static void causal(const struct work *work, void *rows) {
  struct piece_keys keys = keys_of(work);
  struct kernel_queries queries = queries_of(work);
  struct refusal refusal;
  if (!attend_causal(&work->plan->engine, own_worker(work->plan), plan_weights(work->plan, work->unit), &keys, &queries,
                     rows, &refusal)) {
    refuse(work, refusal);
  }
}

static int64_t n_units(const struct block_arrays *arrays) { return range_count(arrays->units); }

static struct range piece_at(struct range range, int64_t piece, int64_t index) {
  struct range at = {range.begin + index * piece, range.begin + (index + 1) * piece};
  if (at.end > range.end) at.end = range.end;
  return at;
}

static int64_t count_pieces(struct range range, int64_t piece) { return (range_count(range) + piece - 1) / piece; }

/* ---- drawing: each thread takes items from its own part first, then from what others have left ---- */

/* By the team, before it draws: the items are cut into a part a thread. */
static void begin_drawing(struct favor_plan *plan, int64_t n_items) {
  int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
  struct part *part = &plan->parts[thread];
  part->next = n_items * thread / threads;
  part->end = n_items * (thread + 1) / threads;
#pragma omp barrier
}

/* Some of what is left of a part: less and less, down to one, so that threads that became slow do not keep others
 * waiting; all of it where nobody else draws. */
static bool draw_of(struct part *part, struct range *drawn) {
  int64_t begin = atomic_load(&part->next), count;
  do {
    int64_t left = part->end - begin;
    if (left <= 0) return false;
    count = omp_get_num_threads() == 1 ? left : (left + 3) / 4;
  } while (!atomic_compare_exchange_weak(&part->next, &begin, begin + count));
  *drawn = (struct range){begin, begin + count};
  return true;
}

static bool draw(struct favor_plan *plan, struct range *drawn) {
  int thread = omp_get_thread_num(), threads = omp_get_num_threads();
  for (int i = 0; i < threads; i++) {
    if (draw_of(&plan->parts[(thread + i) % threads], drawn)) return true;
  }
  return false;
}

/* ---- keys into states ---- */

/* into += from, of the rows of one slice. What goes into an empty row is copied, several times faster than added. */
static void merge_slice(const struct favor_plan *plan, const void *from, void *into, int64_t slice) {
  int64_t features = plan->engine.shape.features;
  int64_t begin = features * slice / PLAN_SLICES, end = features * (slice + 1) / PLAN_SLICES;
  for (int64_t r = begin; r < end; r++) {
    const struct binned_row *from_row = binned_row_at_const(from, plan->engine.row_bytes, r);
    struct binned_row *into_row = binned_row_at(into, plan->engine.row_bytes, r);
    if (into_row->exponent == BINNED_NONE) {
      memcpy(into_row, from_row, plan->engine.row_bytes);
    } else {
      binned_merge(from_row, into_row, 1);
    }
  }
}

/* What a range's keys go into: it is cut into pieces, and each piece of each unit has a state. Targets are counted from
 * the first unit at hand. */
struct targets {
  struct range range;
  int64_t piece, n_pieces; /* piece: tokens, whole runs */
  void *rows;              /* [n_pieces][units of the rank], or one less, and then */
  void *last_rows;         /* [units of the rank]: of the last piece; else NULL */
};

static int64_t target_unit(const struct block_arrays *arrays, const struct targets *targets, int64_t target) {
  return arrays->units.begin + target / targets->n_pieces;
}

static void *target_rows(const struct favor_plan *plan, const struct block_arrays *arrays,
                         const struct targets *targets, int64_t target) {
  const int64_t piece = target % targets->n_pieces, unit = target_unit(arrays, targets, target);
  if (targets->last_rows && piece == targets->n_pieces - 1) return plan_unit_rows(plan, targets->last_rows, unit);
  return plan_unit_rows(plan, targets->rows, piece * range_count(plan->units) + unit);
}

/* Brings what this thread absorbed apart to where it belongs. Each thread starts at another slice. */
static void settle(struct favor_plan *plan, const struct block_arrays *arrays, const struct targets *targets,
                   int64_t target) {
  omp_lock_t *locks = &plan->locks[target_unit(arrays, targets, target) * PLAN_SLICES];
  for (int i = 0; i < PLAN_SLICES; i++) {
    int slice = (omp_get_thread_num() + i) % PLAN_SLICES;
    omp_set_lock(&locks[slice]);
    merge_slice(plan, own_worker(plan)->rows, target_rows(plan, arrays, targets, target), slice);
    omp_unset_lock(&locks[slice]);
  }
}

/* Absorbs the drawn runs, counted through all units. A target's runs that others absorb too go into the worker's own
 * state, for a state that threads deposit into by turns would move from cache to cache with every run. *apart: the
 * target whose runs that state holds, -1 for none. */
static void absorb_drawn(struct favor_plan *plan, const struct block_arrays *arrays, const struct targets *targets,
                         struct range drawn, int64_t *apart) {
  int64_t run = plan->tokens.run_tokens, n_runs = count_pieces(targets->range, run), piece_runs = targets->piece / run;
  for (int64_t i = drawn.begin, end; i < drawn.end; i = end) {
    int64_t unit = i / n_runs, piece = i % n_runs / piece_runs, target = unit * targets->n_pieces + piece;
    int64_t first = unit * n_runs + piece * piece_runs, last = first + piece_runs;
    if (last > (unit + 1) * n_runs) last = (unit + 1) * n_runs;
    end = last < drawn.end ? last : drawn.end;
    struct work work = {plan, arrays, arrays->units.begin + unit, {targets->range.begin + i % n_runs * run, 0}};
    work.range.end = work.range.begin + (end - i) * run;
    if (work.range.end > targets->range.end) work.range.end = targets->range.end;
    if (i == first && end == last) {
      absorb(&work, target_rows(plan, arrays, targets, target));
      continue;
    }
    if (target != *apart) {
      if (*apart >= 0) settle(plan, arrays, targets, *apart);
      state_clear(&plan->engine, own_worker(plan)->rows);
      *apart = target;
    }
    absorb(&work, own_worker(plan)->rows);
  }
}

/* By the team. */
static void absorb_targets(struct favor_plan *plan, const struct block_arrays *arrays, const struct targets *targets) {
  int64_t n_runs = count_pieces(targets->range, plan->tokens.run_tokens), apart = -1;
  struct range drawn;
  begin_drawing(plan, n_runs * n_units(arrays));
  while (draw(plan, &drawn)) absorb_drawn(plan, arrays, targets, drawn, &apart);
  if (apart >= 0) settle(plan, arrays, targets, apart);
#pragma omp barrier
}

/* By the team. */
static void absorb_range(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, void *rows) {
  int64_t run = plan->tokens.run_tokens, n_runs = count_pieces(range, run);
  struct targets targets = {.range = range, .piece = n_runs * run, .n_pieces = 1, .rows = rows};
  if (n_runs > 0) absorb_targets(plan, arrays, &targets);
}

/* By the team: tiles of outputs. */
static void emit_range(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, void *rows) {
  int64_t tile = plan->engine.kernel->tile_tokens, n_tiles = count_pieces(range, tile), viewed = -1;
  struct worker *worker = own_worker(plan);
  struct range drawn;
  begin_drawing(plan, n_tiles * n_units(arrays));
  while (draw(plan, &drawn)) {
    for (int64_t i = drawn.begin, end; i < drawn.end; i = end) {
      int64_t unit = arrays->units.begin + i / n_tiles;
      end = (i / n_tiles + 1) * n_tiles < drawn.end ? (i / n_tiles + 1) * n_tiles : drawn.end;
      struct work work = {plan, arrays, unit, {range.begin + i % n_tiles * tile, 0}};
      work.range.end = work.range.begin + (end - i) * tile;
      if (work.range.end > range.end) work.range.end = range.end;
      if (unit != viewed) worker_view(&plan->engine, worker, plan_unit_rows(plan, rows, unit));
      viewed = unit;
      emit(&work);
    }
  }
#pragma omp barrier
}

/* ---- causal: when there are more threads than heads, a head is cut into chunks, as a shard is among ranks ---- */

static void *chunk_rows(const struct favor_plan *plan, int64_t chunk, int64_t unit) {
  return plan_unit_rows(plan, plan->chunk_rows, chunk * range_count(plan->units) + unit);
}

/* By the team. */
static void clear_chunks(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t n_chunks) {
#pragma omp for collapse(2)
  for (int64_t chunk = 0; chunk < n_chunks; chunk++) {
    for (int64_t unit = arrays->units.begin; unit < arrays->units.end; unit++) {
      state_clear(&plan->engine, chunk_rows(plan, chunk, unit));
    }
  }
}

static struct chunking chunking_of(const struct favor_plan *plan, struct range range) {
  const int64_t run = plan->tokens.run_tokens, n_runs = count_pieces(range, run),
                most = plan->n_chunks < n_runs ? plan->n_chunks : n_runs;
  if (most < 2) return (struct chunking){.range = range, .n = 1};
  const int64_t piece = (n_runs + most - 1) / most * run;
  return (struct chunking){.pass = plan->kept.pass, .range = range, .piece = piece, .n = count_pieces(range, piece)};
}

/* By the team: `rows` += the keys of a range; and what each chunk of it but the last has of them goes to the next one's
 * chunk_rows, for find_chunk_prefixes. */
static void absorb_chunks(struct favor_plan *plan, const struct block_arrays *arrays, const struct chunking *chunking,
                          void *rows) {
  const struct targets targets = {.range = chunking->range,
                                  .piece = chunking->piece,
                                  .n_pieces = chunking->n,
                                  .rows = chunk_rows(plan, 1, 0),
                                  .last_rows = rows};
  clear_chunks(plan, arrays, chunking->n);
  absorb_targets(plan, arrays, &targets);
#pragma omp for
  for (int64_t item = 0; item < n_units(arrays) * PLAN_SLICES; item++) {
    const int64_t unit = arrays->units.begin + item / PLAN_SLICES, slice = item % PLAN_SLICES;
    for (int64_t chunk = 1; chunk < chunking->n; chunk++) {
      merge_slice(plan, chunk_rows(plan, chunk, unit), plan_unit_rows(plan, rows, unit), slice);
    }
  }
}

static bool is_same_chunking(const struct chunking *a, const struct chunking *b) {
  return a->pass == b->pass && a->range.begin == b->range.begin && a->range.end == b->range.end && a->n == b->n;
}

/* By the team: every chunk's own keys, unless they were just absorbed, then, in order, what stands before each:
 * chunk_rows become prefixes. */
static void find_chunk_prefixes(struct favor_plan *plan, const struct block_arrays *arrays,
                                const struct chunking *chunking, void *rows) {
  const bool is_absorbed = is_same_chunking(&plan->absorbed_chunks, chunking);
#pragma omp barrier
#pragma omp single
  plan->absorbed_chunks = (struct chunking){0};
  if (!is_absorbed) {
    const struct targets targets = {
        .range = {chunking->range.begin, chunking->range.begin + (chunking->n - 1) * chunking->piece},
        .piece = chunking->piece,
        .n_pieces = chunking->n - 1,
        .rows = chunk_rows(plan, 1, 0)};
    clear_chunks(plan, arrays, chunking->n);
    absorb_targets(plan, arrays, &targets);
  }
#pragma omp for
  for (int64_t item = 0; item < n_units(arrays) * PLAN_SLICES; item++) {
    int64_t unit = arrays->units.begin + item / PLAN_SLICES, slice = item % PLAN_SLICES;
    merge_slice(plan, plan_unit_rows(plan, rows, unit), chunk_rows(plan, 0, unit), slice);
    for (int64_t chunk = 1; chunk < chunking->n; chunk++) {
      merge_slice(plan, chunk_rows(plan, chunk - 1, unit), chunk_rows(plan, chunk, unit), slice);
    }
  }
}

/* By the team. */
static void causal_range(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, void *rows) {
  const struct chunking chunking = chunking_of(plan, range);
  if (chunking.n < 2) {
#pragma omp for schedule(dynamic)
    for (int64_t unit = arrays->units.begin; unit < arrays->units.end; unit++) {
      struct work work = {plan, arrays, unit, range};
      causal(&work, plan_unit_rows(plan, rows, unit));
    }
    return;
  }
  find_chunk_prefixes(plan, arrays, &chunking, rows);
#pragma omp for schedule(dynamic)
  for (int64_t item = 0; item < chunking.n * n_units(arrays); item++) {
    const int64_t chunk = item % chunking.n;
    struct work work = {plan, arrays, arrays->units.begin + item / chunking.n, piece_at(range, chunking.piece, chunk)};
    causal(&work, chunk_rows(plan, chunk, work.unit));
  }
#pragma omp for
  for (int64_t unit = arrays->units.begin; unit < arrays->units.end; unit++) {
    state_clear(&plan->engine, plan_unit_rows(plan, rows, unit));
    binned_merge(chunk_rows(plan, chunking.n - 1, unit), plan_unit_rows(plan, rows, unit), plan->engine.shape.features);
  }
}

/* ---- segments ---- */

/* By the team. */
static void clear_rows(const struct favor_plan *plan, const struct block_arrays *arrays, void *rows) {
#pragma omp for
  for (int64_t unit = arrays->units.begin; unit < arrays->units.end; unit++) {
    state_clear(&plan->engine, plan_unit_rows(plan, rows, unit));
  }
}

static bool is_segment_start(const struct favor_plan *plan, int64_t token) {
  return tokens_segment(&plan->tokens, token).begin == token;
}

/* By the team: a segment, or a part of one. */
static void attend_range(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, void *rows) {
  if (is_segment_start(plan, range.begin)) clear_rows(plan, arrays, rows);
  if (plan->problem.is_causal) {
    causal_range(plan, arrays, range, rows);
    return;
  }
  absorb_range(plan, arrays, range, rows);
  emit_range(plan, arrays, range, rows);
}

/* One whole segment of one head, by one thread with a state of its own. */
static void attend_alone(const struct work *work) {
  struct favor_plan *plan = work->plan;
  struct worker *worker = own_worker(plan);
  state_clear(&plan->engine, worker->rows);
  if (plan->problem.is_causal) {
    causal(work, worker->rows);
    return;
  }
  absorb(work, worker->rows);
  worker_view(&plan->engine, worker, worker->rows);
  if (!worker->view.kernel.is_empty) emit(work);
}

/* By the team: many whole short segments, of which each thread draws one head of one at a time. */
static void attend_short_segments(struct favor_plan *plan, const struct block_arrays *arrays, struct range range) {
  if (range_count(range) == 0) return;
#pragma omp single
  plan->next_item = 0;
  int64_t item = 0; /* of the segment at hand, head 0 */
  int64_t mine = atomic_fetch_add(&plan->next_item, 1);
  for (int64_t begin = range.begin; begin < range.end; item += n_units(arrays)) {
    struct range segment = {begin, tokens_segment(&plan->tokens, begin).end};
    for (; mine < item + n_units(arrays); mine = atomic_fetch_add(&plan->next_item, 1)) {
      struct work work = {plan, arrays, arrays->units.begin + mine - item, segment};
      attend_alone(&work);
    }
    begin = segment.end;
  }
#pragma omp barrier
}

/* By the team. */
static void attend_segments(struct favor_plan *plan, const struct block_arrays *arrays, struct range range,
                            void *rows) {
  int64_t short_tokens = 4 * plan->tokens.run_tokens * plan->threads;
  int64_t begin = range.begin, short_begin = range.begin;
  while (begin < range.end) {
    struct range segment = tokens_segment(&plan->tokens, begin);
    struct range piece = {begin, segment.end < range.end ? segment.end : range.end};
    /* The last segment's state stays with the slot, as a later block or an export may ask for it. */
    bool is_short = segment.begin == begin && piece.end < range.end && range_count(piece) <= short_tokens;
    if (!is_short) {
      attend_short_segments(plan, arrays, (struct range){short_begin, begin});
      attend_range(plan, arrays, piece, rows);
      short_begin = piece.end;
    }
    begin = piece.end;
  }
}

void execute_absorb(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, enum slot slot) {
  const struct chunking chunking = chunking_of(plan, range);
  if (n_units(arrays) == 0) return;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
    if (chunking.n > 1) {
      absorb_chunks(plan, arrays, &chunking, plan->rows[slot]);
    } else {
      absorb_range(plan, arrays, range, plan->rows[slot]);
    }
    binding_leave(plan->binding);
  }
  if (chunking.n > 1) plan->absorbed_chunks = chunking;
}

void execute_emit(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, enum slot slot,
                  bool has_keys) {
  if (n_units(arrays) == 0) return;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
    if (has_keys) {
      attend_segments(plan, arrays, range, plan->rows[slot]);
    } else {
      emit_range(plan, arrays, range, plan->rows[slot]);
    }
    binding_leave(plan->binding);
  }
}

/* What the team does with one head's piece; false: refused. */
typedef bool piece_function(const struct work *work, struct refusal *refusal);

static bool check_piece(const struct work *work, struct refusal *refusal) {
  struct piece_keys keys = keys_of(work);
  struct kernel_queries queries = queries_of(work);
  return attend_check(&work->plan->engine, own_worker(work->plan), plan_weights(work->plan, work->unit)->transform,
                      &keys, &queries, refusal);
}

static bool copy_piece(const struct work *work, struct refusal *refusal) {
  struct piece_keys keys = keys_of(work);
  struct kernel_queries queries = queries_of(work);
  return attend_copy(&work->plan->engine, own_worker(work->plan), &keys, &queries, refusal);
}

/* Every piece by itself. */
static void for_pieces(struct favor_plan *plan, const struct block_arrays *arrays, struct range range,
                       piece_function *function) {
  enum { PIECE_TOKENS = 1024 };
  int64_t n_pieces = count_pieces(range, PIECE_TOKENS);
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for
    for (int64_t i = 0; i < n_units(arrays) * n_pieces; i++) {
      struct work work = {plan, arrays, arrays->units.begin + i / n_pieces,
                          piece_at(range, PIECE_TOKENS, i % n_pieces)};
      struct refusal refusal;
      if (!function(&work, &refusal)) refuse(&work, refusal);
    }
    binding_leave(plan->binding);
  }
}

void execute_copy(struct favor_plan *plan, const struct block_arrays *arrays, struct range range) {
  for_pieces(plan, arrays, range, copy_piece);
}

void execute_check(struct favor_plan *plan, const struct block_arrays *arrays, struct range range) {
  for_pieces(plan, arrays, range, check_piece);
}

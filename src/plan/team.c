/* How threads share a step: by heads and runs of tokens, or by whole short segments. */
#include "plan/execute.h"

/* One head's piece of a segment. */
struct work {
  struct favor_plan *plan;
  const struct step_arrays *arrays;
  int64_t unit;
  struct range range;
};

static struct piece_keys keys_of(const struct work *work) {
  const struct engine *engine = &work->plan->engine;
  const struct favor_input *k = work->arrays->k, *v = work->arrays->v;
  int64_t token = work->range.begin - work->arrays->begin;
  return (struct piece_keys){
      .n = range_count(work->range),
      .k = row_in(engine, row_in(engine, k->data, k->head_stride, work->unit), k->token_stride, token),
      .v = row_in(engine, row_in(engine, v->data, v->head_stride, work->unit), v->token_stride, token),
      .k_stride = k->token_stride,
      .v_stride = v->token_stride};
}

static struct kernel_queries queries_of(const struct work *work) {
  const struct engine *engine = &work->plan->engine;
  const struct favor_input *q = work->arrays->q;
  const struct favor_output *out = work->arrays->out;
  int64_t token = work->range.begin - work->arrays->begin, head = work->unit * engine->heads_per_key;
  return (struct kernel_queries){
      .n = range_count(work->range),
      .n_heads = engine->heads_per_key,
      .q = row_in(engine, row_in(engine, q->data, q->head_stride, head), q->token_stride, token),
      .out = row_out(engine, row_out(engine, out->data, out->head_stride, head), out->token_stride, token),
      .q_head_stride = q->head_stride,
      .q_stride = q->token_stride,
      .out_head_stride = out->head_stride,
      .out_stride = out->token_stride};
}

/* Of the refusals that the threads of a step meet, keeps that of the lowest token (then tensor, then head). */
static void refuse(const struct work *work, struct refusal refusal) {
  struct favor_plan *plan = work->plan;
  refusal.token += work->range.begin;
  refusal.head += (plan->units.begin + work->unit) * (refusal.tensor == 'q' ? plan->engine.heads_per_key : 1);
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

static struct worker *own_worker(struct favor_plan *plan) { return &plan->workers[omp_get_thread_num()]; }

static void absorb(const struct work *work, omp_lock_t *lock, void *rows) {
  struct piece_keys keys = keys_of(work);
  struct refusal refusal;
  if (!attend_absorb(&work->plan->engine, own_worker(work->plan), plan_weights(work->plan, work->unit), &keys, lock,
                     rows, &refusal)) {
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

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }

/* Pieces of whole runs, a few for each thread. */
static int64_t piece_tokens(const struct favor_plan *plan, struct range range) {
  int64_t run = plan->tokens.run_tokens, n_runs = (range_count(range) + run - 1) / run;
  int64_t wanted = 4 * (int64_t)plan->threads, pieces_a_head = (wanted + n_units(plan) - 1) / n_units(plan);
  int64_t runs = (n_runs + pieces_a_head - 1) / pieces_a_head;
  return (runs < 1 ? 1 : runs) * run;
}

static struct range piece_at(struct range range, int64_t piece, int64_t index) {
  struct range at = {range.begin + index * piece, range.begin + (index + 1) * piece};
  if (at.end > range.end) at.end = range.end;
  return at;
}

static int64_t count_pieces(struct range range, int64_t piece) { return (range_count(range) + piece - 1) / piece; }

static void absorb_range(struct favor_plan *plan, const struct step_arrays *arrays, struct range range, void *rows) {
  int64_t piece = piece_tokens(plan, range), n_pieces = count_pieces(range, piece);
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic)
  for (int64_t item = 0; item < n_pieces * n_units(plan); item++) {
    struct work work = {plan, arrays, item / n_pieces, piece_at(range, piece, item % n_pieces)};
    absorb(&work, &plan->locks[work.unit], plan_unit_rows(plan, rows, work.unit));
  }
}

static void emit_range(struct favor_plan *plan, const struct step_arrays *arrays, struct range range, void *rows) {
  int64_t piece = piece_tokens(plan, range), n_pieces = count_pieces(range, piece);
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic)
  for (int64_t item = 0; item < n_pieces * n_units(plan); item++) {
    struct work work = {plan, arrays, item / n_pieces, piece_at(range, piece, item % n_pieces)};
    struct worker *worker = own_worker(plan);
    state_view(&plan->engine, plan_unit_rows(plan, rows, work.unit), worker->row, &worker->view);
    emit(&work);
  }
}

/* ---- causal: when there are more threads than heads, a head is cut into chunks, as a shard is among ranks ---- */

static void *chunk_rows(const struct favor_plan *plan, int64_t chunk, int64_t unit) {
  return plan_unit_rows(plan, plan->chunk_rows, chunk * n_units(plan) + unit);
}

/* Every chunk's own keys, then, in order, what stands before each: chunk_rows become prefixes. */
static void find_chunk_prefixes(struct favor_plan *plan, const struct step_arrays *arrays, struct range range,
                                int64_t piece, int64_t n_chunks, void *rows) {
  int64_t run = plan->tokens.run_tokens, runs_a_chunk = piece / run;
  for (int64_t i = 0; i < n_chunks * n_units(plan); i++) state_clear(&plan->engine, chunk_rows(plan, 0, i));
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic)
  for (int64_t item = 0; item < (n_chunks - 1) * runs_a_chunk * n_units(plan); item++) {
    int64_t unit = item / ((n_chunks - 1) * runs_a_chunk), run_index = item % ((n_chunks - 1) * runs_a_chunk);
    struct work work = {plan, arrays, unit, piece_at(range, run, run_index)};
    absorb(&work, &plan->locks[unit], chunk_rows(plan, run_index / runs_a_chunk + 1, unit));
  }
  for (int64_t unit = 0; unit < n_units(plan); unit++) {
    binned_merge(plan_unit_rows(plan, rows, unit), chunk_rows(plan, 0, unit), plan->engine.shape.features);
    for (int64_t chunk = 1; chunk < n_chunks; chunk++) {
      binned_merge(chunk_rows(plan, chunk - 1, unit), chunk_rows(plan, chunk, unit), plan->engine.shape.features);
    }
  }
}

static void causal_range(struct favor_plan *plan, const struct step_arrays *arrays, struct range range, void *rows) {
  int64_t run = plan->tokens.run_tokens, n_runs = count_pieces(range, run);
  int64_t n_chunks = plan->n_chunks < n_runs ? plan->n_chunks : n_runs;
  if (n_chunks < 2) {
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic)
    for (int64_t unit = 0; unit < n_units(plan); unit++) {
      struct work work = {plan, arrays, unit, range};
      causal(&work, plan_unit_rows(plan, rows, unit));
    }
    return;
  }
  int64_t piece = (n_runs + n_chunks - 1) / n_chunks * run;
  n_chunks = count_pieces(range, piece);
  find_chunk_prefixes(plan, arrays, range, piece, n_chunks, rows);
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic)
  for (int64_t item = 0; item < n_chunks * n_units(plan); item++) {
    struct work work = {plan, arrays, item / n_chunks, piece_at(range, piece, item % n_chunks)};
    causal(&work, chunk_rows(plan, item % n_chunks, work.unit));
  }
  for (int64_t unit = 0; unit < n_units(plan); unit++) {
    state_clear(&plan->engine, plan_unit_rows(plan, rows, unit));
    binned_merge(chunk_rows(plan, n_chunks - 1, unit), plan_unit_rows(plan, rows, unit), plan->engine.shape.features);
  }
}

/* ---- segments ---- */

static void clear_rows(const struct favor_plan *plan, void *rows) {
  for (int64_t unit = 0; unit < n_units(plan); unit++) state_clear(&plan->engine, plan_unit_rows(plan, rows, unit));
}

/* A segment, or a part of one, by all threads. */
static void attend_range(struct favor_plan *plan, const struct step_arrays *arrays, struct range range, void *rows) {
  if (tokens_segment(&plan->tokens, range.begin).begin == range.begin) clear_rows(plan, rows);
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
  absorb(work, NULL, worker->rows);
  state_view(&plan->engine, worker->rows, worker->row, &worker->view);
  if (!worker->view.kernel.is_empty) emit(work);
}

/* Many whole short segments: threads draw (segment, head) from a common counter. */
static void attend_short_segments(struct favor_plan *plan, const struct step_arrays *arrays, struct range range) {
  int64_t next = 0;
#pragma omp parallel num_threads(plan->threads)
  {
    int64_t item = 0; /* of the segment at hand, head 0 */
    int64_t mine;
#pragma omp atomic capture
    mine = next++;
    for (int64_t begin = range.begin; begin < range.end; item += n_units(plan)) {
      struct range segment = {begin, tokens_segment(&plan->tokens, begin).end};
      while (mine < item + n_units(plan)) {
        struct work work = {plan, arrays, mine - item, segment};
        attend_alone(&work);
#pragma omp atomic capture
        mine = next++;
      }
      begin = segment.end;
    }
  }
}

void execute_absorb(struct favor_plan *plan, const struct step_arrays *arrays, struct range range, enum slot slot) {
  if (n_units(plan) == 0) return;
  bool is_start = tokens_segment(&plan->tokens, range.begin).begin == range.begin;
  if (slot == SLOT_OWN && is_start) clear_rows(plan, plan->rows[slot]);
  absorb_range(plan, arrays, range, plan->rows[slot]);
}

void execute_emit(struct favor_plan *plan, const struct step_arrays *arrays, struct range range, enum slot slot,
                  bool has_keys) {
  if (n_units(plan) == 0) return;
  void *rows = plan->rows[slot];
  if (!has_keys) {
    emit_range(plan, arrays, range, rows);
    return;
  }
  int64_t short_tokens = 4 * plan->tokens.run_tokens * plan->threads;
  int64_t begin = range.begin, short_begin = range.begin;
  while (begin < range.end) {
    struct range segment = tokens_segment(&plan->tokens, begin);
    struct range piece = {begin, segment.end < range.end ? segment.end : range.end};
    /* The last segment's state stays with the slot, as a later step or an export may ask for it. */
    bool is_short = segment.begin == begin && piece.end < range.end && range_count(piece) <= short_tokens;
    if (!is_short) {
      attend_short_segments(plan, arrays, (struct range){short_begin, begin});
      attend_range(plan, arrays, piece, rows);
      short_begin = piece.end;
    }
    begin = piece.end;
  }
}

#include "plan/blocks.h"

#include <string.h>

#include "base/clock.h"

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }
static size_t states_bytes(const struct favor_plan *plan) { return plan->unit_bytes * (size_t)n_units(plan); }
static bool has_failed(const struct favor_plan *plan) { return dist_has_failed(plan->context); }

static void clear(struct favor_plan *plan, void *rows) {
  binned_clear(rows, n_units(plan) * plan->engine.shape.features, plan->engine.shape.value_width + 1,
               plan->engine.n_bins);
}

static void absorb(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, enum slot slot) {
  if (range_count(range) == 0 || has_failed(plan)) return;
  const double begin = clock_now_s();
  execute_absorb(plan, arrays, range, slot);
  plan_refuse(plan->context, &plan->refusal);
  plan->times.features_state_s += clock_now_s() - begin;
}

static void emit(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, enum slot slot,
                 bool has_keys) {
  if (range_count(range) == 0 || has_failed(plan)) return;
  const double begin = clock_now_s();
  execute_emit(plan, arrays, range, slot, has_keys);
  plan_refuse(plan->context, &plan->refusal);
  plan->times.output_s += clock_now_s() - begin;
}

/* ---- states on their way ---- */

/* Lets them advance, between the tiles that the calling thread computes. */
static void progress(void *subject) {
  struct favor_plan *plan = subject;
  for (int parity = 0; parity < 2 && plan->traffic.n_in_flight > 0; parity++) {
    bool is_done;
    dist_group_progress(plan->groups[parity], &is_done);
  }
}

void blocks_watch(struct favor_plan *plan) {
  if (!plan->groups[0] || !plan->workers || !plan->workers[0]) return;
  plan->workers[0]->pause = progress;
  plan->workers[0]->pause_subject = plan;
}

static void end(struct favor_plan *plan, int parity, int lane) {
  const double begin = clock_now_s();
  dist_group_end(plan->groups[parity], lane);
  plan->times.reduce_s += clock_now_s() - begin;
}

/* A batch's rows in a block of states of all units. */
static void *batch_rows(const struct favor_plan *plan, void *rows, int batch) {
  return plan_unit_rows(plan, rows, plan_batch(plan, batch).begin);
}
static int64_t batch_n_rows(const struct favor_plan *plan, int batch) {
  return range_count(plan_batch(plan, batch)) * plan->engine.shape.features;
}
static size_t batch_bytes(const struct favor_plan *plan, int batch) {
  return plan->engine.row_bytes * (size_t)batch_n_rows(plan, batch);
}

/* The block's arrays, of one batch. */
static struct block_arrays batch_arrays(const struct favor_plan *plan, const struct block_arrays *arrays, int batch) {
  struct block_arrays of = *arrays;
  of.units = plan_batch(plan, batch);
  return of;
}

static void reduce_batch(struct favor_plan *plan, int parity, int batch, void *rows) {
  dist_reduce_begin(plan->groups[parity], batch, batch_n_rows(plan, batch), batch_rows(plan, rows, batch));
}

/* Who meets whom in a window. */
static void find_spans(struct favor_plan *plan, struct range window) {
  const struct schedule *schedule = &plan->schedule;
  tokens_spans(schedule->tokens, window, schedule->n_parts, schedule->part, plan->spans);
  for (int parity = 0; parity < 2; parity++) {
    const struct span *span = &plan->spans[parity];
    if (!plan->groups[parity]) continue;
    dist_group_set(plan->groups[parity], span->is_member ? (int)span->first_part : 0,
                   span->is_member ? (int)span->n_parts : 0);
  }
}

/* The part of a share before its first own segment, and from its last on, that belong to spans. */
static struct range own_segments(const struct favor_plan *plan, struct range share) {
  for (int i = 0; i < 2; i++) {
    const struct span *span = &plan->spans[i];
    if (!span->is_member) continue;
    if (!span->is_first) share.begin = span->piece.end;
    if (span->is_first) share.end = span->piece.begin;
  }
  if (share.end < share.begin) share.end = share.begin;
  return share;
}

/* ---- bidirectional ---- */

static void bidirectional_block(struct favor_plan *plan, const struct block_arrays *arrays, struct range share) {
  for (int parity = 0; parity < 2; parity++) {
    if (!plan->spans[parity].is_member) continue;
    void *rows = plan->rows[SLOT_SPAN_0 + parity];
    clear(plan, rows);
    for (int batch = 0; batch < plan->n_batches; batch++) {
      const struct block_arrays of = batch_arrays(plan, arrays, batch);
      absorb(plan, &of, plan->spans[parity].piece, SLOT_SPAN_0 + parity);
      reduce_batch(plan, parity, batch, rows);
    }
  }
  emit(plan, arrays, own_segments(plan, share), SLOT_OWN, true);
  for (int parity = 0; parity < 2; parity++) {
    if (!plan->spans[parity].is_member) continue;
    for (int batch = 0; batch < plan->n_batches; batch++) {
      const struct block_arrays of = batch_arrays(plan, arrays, batch);
      end(plan, parity, batch);
      emit(plan, &of, plan->spans[parity].piece, SLOT_SPAN_0 + parity, false);
    }
  }
}

/* Where the keys of a segment that is longer than a block are summed up. */
static enum slot long_slot(const struct favor_plan *plan) {
  return plan->schedule.n_parts > 1 ? SLOT_SPAN_0 : SLOT_OWN;
}

void blocks_absorb(struct favor_plan *plan, const struct block_arrays *arrays, const struct planned_block *block) {
  const struct schedule *schedule = &plan->schedule;
  if (schedule->part < 0) return;
  plan->is_met = false;
  if (tokens_segment(schedule->tokens, block->window.begin).begin == block->window.begin) {
    clear(plan, plan->rows[long_slot(plan)]);
  }
  absorb(plan, arrays, tokens_share(schedule->tokens, block->window, schedule->n_parts, schedule->part),
         long_slot(plan));
}

/* All parts' sums of `rows`, which are then everybody's. */
static void meet(struct favor_plan *plan, void *rows) {
  dist_group_set(plan->groups[0], 0, (int)plan->schedule.n_parts);
  for (int batch = 0; batch < plan->n_batches; batch++) reduce_batch(plan, 0, batch, rows);
  for (int batch = 0; batch < plan->n_batches; batch++) end(plan, 0, batch);
}

void blocks_emit(struct favor_plan *plan, const struct block_arrays *arrays, const struct planned_block *block) {
  const struct schedule *schedule = &plan->schedule;
  if (schedule->part < 0) return;
  if (!plan->is_met && schedule->n_parts > 1) meet(plan, plan->rows[SLOT_SPAN_0]);
  plan->is_met = true;
  emit(plan, arrays, tokens_share(schedule->tokens, block->window, schedule->n_parts, schedule->part), long_slot(plan),
       false);
}

/* ---- causal ----
 *
 * The state at the end of a block goes back to the first part, which starts the next one: it is on its way meanwhile.
 */

static bool is_inside_segment(const struct favor_plan *plan, int64_t token) {
  return token < plan->tokens.n_tokens && tokens_segment(&plan->tokens, token).begin < token;
}

/* Does the state at the end of a window matter? At the end of a streamed run it may be asked for. */
static bool is_wanted_at(const struct favor_plan *plan, int64_t token) {
  return is_inside_segment(plan, token) || (plan->problem.is_streamed && token == plan->tokens.n_tokens);
}

/* The last part that has some of the window. */
static int64_t last_part(const struct favor_plan *plan, struct range window) {
  int64_t part = plan->schedule.n_parts - 1;
  while (part > 0 && range_count(tokens_share(&plan->tokens, window, plan->schedule.n_parts, part)) == 0) part--;
  return part;
}

/* On the first part and the last: the last's state starts on its way. */
static void carry_begin(struct favor_plan *plan, int64_t last, const void *state) {
  bool is_party = plan->schedule.part == 0 || plan->schedule.part == last;
  if (last == 0 || !is_party) return;
  dist_pass_begin(plan->groups[0], DIST_LANE_PASS, (int)last, 0, n_units(plan) * plan->engine.shape.features, state,
                  plan->received[0]);
  plan->is_carried = true;
}

static void carry_end(struct favor_plan *plan) {
  if (!plan->is_carried) return;
  end(plan, 0, DIST_LANE_PASS);
  if (plan->schedule.part == 0) memcpy(plan->rows[SLOT_OWN], plan->received[0], states_bytes(plan));
  plan->is_carried = false;
}

/* What a span starts with on this part. */
static void start_span(struct favor_plan *plan, int parity, struct range window) {
  const struct span *span = &plan->spans[parity];
  void *partial = plan->rows[SLOT_SPAN_0 + parity];
  if (span->is_first && span->piece.begin == window.begin && is_inside_segment(plan, window.begin)) {
    memcpy(partial, plan->rows[SLOT_OWN], states_bytes(plan)); /* what came before the window */
  } else {
    clear(plan, partial);
  }
}

/* Does a part that absorbs what nobody asks for save time? It keeps the features, and would have to wait meanwhile for
 * what stands before it. */
static bool is_absorbed_for_itself(const struct favor_plan *plan, const struct span *span, struct range share) {
  return plan->kept.n_units > 0 && range_count(span->piece) == range_count(share);
}

/* What others need to know of this part's keys, batch by batch on its way to them. */
static void tell_span(struct favor_plan *plan, const struct block_arrays *arrays, int parity, struct range window,
                      struct range share, int n_absorbed) {
  const struct span *span = &plan->spans[parity];
  void *partial = plan->rows[SLOT_SPAN_0 + parity];
  /* The last of a span has nobody to tell but the next block, which relayed batches keep waiting anyway. */
  const bool goes_on = n_absorbed == plan->n_batches && span->piece.end == window.end && is_wanted_at(plan, window.end);
  const bool is_absorbed =
      !span->is_last || goes_on || (n_absorbed == plan->n_batches && is_absorbed_for_itself(plan, span, share));
  start_span(plan, parity, window);
  for (int batch = 0; batch < n_absorbed; batch++) {
    const struct block_arrays of = batch_arrays(plan, arrays, batch);
    if (is_absorbed) absorb(plan, &of, span->piece, SLOT_SPAN_0 + parity);
    dist_scan_begin(plan->groups[parity], batch, batch_n_rows(plan, batch), batch_rows(plan, partial, batch),
                    batch_rows(plan, plan->received[parity], batch));
  }
}

/* Outputs of a batch that waits for the parts before; SLOT_WAITING then has its state at the end of the piece. */
static void emit_waiting(struct favor_plan *plan, const struct block_arrays *arrays, int parity, int batch) {
  const struct block_arrays of = batch_arrays(plan, arrays, batch);
  end(plan, parity, batch);
  memcpy(batch_rows(plan, plan->rows[SLOT_WAITING], batch), batch_rows(plan, plan->received[parity], batch),
         batch_bytes(plan, batch));
  emit(plan, &of, plan->spans[parity].piece, SLOT_WAITING, true);
}

/* Ends what is still on its way to others. */
static void end_all(struct favor_plan *plan) {
  for (int parity = 0; parity < 2; parity++) {
    for (int batch = 0; batch < plan->n_batches && plan->spans[parity].is_member; batch++) end(plan, parity, batch);
  }
}

static void relay(struct favor_plan *plan, int batch, int64_t from, void *state, void *into) {
  dist_pass_begin(plan->groups[0], batch, (int)from, (int)from + 1, batch_n_rows(plan, batch),
                  state ? batch_rows(plan, state, batch) : NULL, into ? batch_rows(plan, into, batch) : NULL);
}

/* One span over all parts, of which this is the first. */
static void relay_first(struct favor_plan *plan, const struct block_arrays *arrays, struct range share,
                        int n_absorbed) {
  for (int batch = n_absorbed; batch < plan->n_batches; batch++) {
    const struct block_arrays of = batch_arrays(plan, arrays, batch);
    emit(plan, &of, share, SLOT_OWN, true);
    relay(plan, batch, 0, plan->rows[SLOT_OWN], NULL);
  }
  struct block_arrays absorbed = *arrays;
  absorbed.units.end = plan_batch(plan, n_absorbed).begin;
  emit(plan, &absorbed, share, SLOT_OWN, true);
}

/* The same of which this is a later part. */
static void relay_later(struct favor_plan *plan, const struct block_arrays *arrays, struct range share,
                        int n_absorbed) {
  const int64_t part = plan->schedule.part;
  for (int batch = 0; batch < part; batch++) emit_waiting(plan, arrays, 0, batch);
  for (int batch = n_absorbed; batch < plan->n_batches; batch++) {
    emit_waiting(plan, arrays, 0, batch);
    if (!plan->spans[0].is_last) relay(plan, batch, part, plan->rows[SLOT_WAITING], NULL);
  }
  for (int batch = (int)part; batch < n_absorbed; batch++) emit_waiting(plan, arrays, 0, batch);
  emit(plan, arrays, (struct range){plan->spans[0].piece.end, share.end}, SLOT_OWN, true);
}

static void relayed_block(struct favor_plan *plan, const struct block_arrays *arrays, struct range window,
                          struct range share, int n_absorbed) {
  const struct span *span = &plan->spans[0];
  for (int batch = n_absorbed; batch < plan->n_batches && !span->is_first; batch++) {
    relay(plan, batch, plan->schedule.part - 1, NULL, plan->received[0]);
  }
  tell_span(plan, arrays, 0, window, share, n_absorbed);
  if (span->is_first) {
    relay_first(plan, arrays, share, n_absorbed);
  } else {
    relay_later(plan, arrays, share, n_absorbed);
  }
  end_all(plan);
  const bool is_in_span = span->is_last && span->piece.end == window.end;
  if (is_wanted_at(plan, window.end)) {
    carry_begin(plan, last_part(plan, window), plan->rows[is_in_span ? SLOT_WAITING : SLOT_OWN]);
  }
}

/* All parts absorb everything first. */
static void absorbed_block(struct favor_plan *plan, const struct block_arrays *arrays, struct range window,
                           struct range share) {
  const int64_t last = last_part(plan, window);
  const bool goes_on = is_wanted_at(plan, window.end), is_last = plan->schedule.part == last;
  int waiting = -1;
  for (int parity = 0; parity < 2; parity++) {
    if (!plan->spans[parity].is_member) continue;
    tell_span(plan, arrays, parity, window, share, plan->n_batches);
    if (!plan->spans[parity].is_first) waiting = parity;
  }
  emit(plan, arrays, (struct range){waiting >= 0 ? plan->spans[waiting].piece.end : share.begin, share.end}, SLOT_OWN,
       true);
  const bool is_in_span = waiting >= 0 && plan->spans[waiting].piece.end == window.end;
  for (int batch = 0; batch < plan->n_batches && waiting >= 0; batch++) {
    void *total = plan->rows[SLOT_SPAN_0 + waiting];
    end(plan, waiting, batch);
    if (goes_on && is_last && is_in_span) {
      binned_merge(batch_rows(plan, plan->received[waiting], batch), batch_rows(plan, total, batch),
                   batch_n_rows(plan, batch));
      if (batch + 1 == plan->n_batches) carry_begin(plan, last, total);
    }
    emit_waiting(plan, arrays, waiting, batch);
  }
  end_all(plan);
  if (goes_on && !(is_last && is_in_span)) carry_begin(plan, last, plan->rows[SLOT_OWN]);
}

static void causal_block(struct favor_plan *plan, const struct block_arrays *arrays, struct range window,
                         struct range share) {
  const int n_absorbed = plan_count_absorbed(plan, &plan->spans[0], plan->n_batches);
  if (n_absorbed < plan->n_batches) {
    relayed_block(plan, arrays, window, share, n_absorbed);
  } else {
    absorbed_block(plan, arrays, window, share);
  }
}

void blocks_attend(struct favor_plan *plan, const struct block_arrays *arrays, const struct planned_block *block) {
  const struct schedule *schedule = &plan->schedule;
  if (schedule->part < 0) return;
  carry_end(plan);
  plan->kept.pass++;
  find_spans(plan, block->window);
  struct range share = tokens_share(schedule->tokens, block->window, schedule->n_parts, schedule->part);
  if (plan->problem.is_causal) {
    causal_block(plan, arrays, block->window, share);
  } else {
    bidirectional_block(plan, arrays, share);
  }
}

/* ---- what goes on ---- */

void *blocks_carried(struct favor_plan *plan) {
  return plan->rows[plan->problem.is_causal ? SLOT_OWN : long_slot(plan)];
}

void blocks_end(struct favor_plan *plan) { carry_end(plan); }

void *blocks_gather(struct favor_plan *plan) {
  if (plan->schedule.part < 0) return NULL;
  carry_end(plan);
  void *rows = blocks_carried(plan);
  if (plan->problem.is_causal || plan->is_met || plan->schedule.n_parts == 1) return rows;
  memcpy(plan->received[0], rows, states_bytes(plan));
  meet(plan, plan->received[0]);
  return plan->received[0];
}

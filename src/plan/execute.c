#include "plan/execute.h"

#include <string.h>

#include "base/clock.h"
#include "plan/blocks.h"
#include "plan/memory.h"
#include "plan/method.h"

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }

/* Since the plan was made. */
static int64_t bytes_sent(const struct favor_plan *plan) {
  const struct dist_group *const groups[] = {plan->groups[0], plan->groups[1], plan->estimate.group};
  int64_t bytes = plan->axis ? dist_axis_bytes_sent(plan->axis) : 0;
  for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
    if (groups[i]) bytes += dist_group_bytes_sent(groups[i]);
  }
  return bytes;
}

void favor_plan_begin(struct favor_plan *plan) {
  blocks_end(plan); /* of a run that was left */
  if (plan->is_partial) plan_list_blocks(plan, &(struct favor_position){0, 0});
  plan->is_partial = false;
  int64_t features = plan->engine.shape.features;
  for (int slot = 0; slot < N_SLOTS; slot++) {
    if (!plan->rows[slot]) continue;
    binned_clear(plan->rows[slot], n_units(plan) * features, plan->engine.shape.value_width + 1, plan->engine.n_bins);
  }
  for (int parity = 0; parity < 2; parity++) {
    if (!plan->received[parity]) continue;
    binned_clear(plan->received[parity], n_units(plan) * features, plan->engine.shape.value_width + 1,
                 plan->engine.n_bins);
  }
  plan->refusal = (struct refusal){0};
  plan->outcome = FAVOR_OK;
  plan->position = (struct favor_position){0, 0};
  plan->is_met = plan->is_resumed = false;
  plan->saved_rows = NULL;
  plan->times = (struct favor_plan_times){0};
  plan->traffic = (struct dist_traffic){0};
  for (int i = 0; i < plan->threads; i++) plan->workers[i]->accumulate_s = 0;
  estimate_begin(plan);
  key_max_begin(plan);
  plan->bytes_sent_before = bytes_sent(plan);
}

enum favor_status plan_refuse(struct favor_context *context, const struct refusal *refusal) {
  static const char *const kinds[] = {[REFUSAL_NAN] = "NaN", [REFUSAL_INF] = "Inf"};
  if (refusal->kind == REFUSAL_NONE) return FAVOR_OK;
  if (refusal->kind == REFUSAL_TOO_LONG) {
    return dist_fail(context, FAVOR_EDATA,
                     "%c of head %lld, token %lld is too long: scale |%c|^2 / 2 is above 2^22, where features mean "
                     "nothing; scale the input down",
                     refusal->tensor, (long long)refusal->head, (long long)refusal->token, refusal->tensor);
  }
  if (refusal->kind == REFUSAL_TOO_LONG_TRANSFORMED) {
    return dist_fail(context, FAVOR_EDATA,
                     "%c of head %lld, token %lld is too long once it is shifted, balanced and scaled for the feature "
                     "map: scale |x|^2 / 2 is then above 2^22, where features mean nothing; scale the input down",
                     refusal->tensor, (long long)refusal->head, (long long)refusal->token);
  }
  return dist_fail(context, FAVOR_EDATA,
                   "%s in %c, head %lld, token %lld: inputs must be finite in the precision of the run",
                   kinds[refusal->kind], refusal->tensor, (long long)refusal->head, (long long)refusal->token);
}

/* A rank that failed, or whose input cannot be computed with, tells the others before they need its tokens. */
static void attend_whole(struct favor_plan *plan, const struct block_arrays *arrays) {
  execute_check(plan, arrays, plan->schedule.shard);
  plan_refuse(plan->context, &plan->refusal);
  plan->outcome = dist_agree(plan->context, DIST_SITE_ATTEND, 0, "");
  if (plan->outcome == FAVOR_OK) plan->method->attend(plan, arrays);
}

static void measure(struct favor_plan *plan, const struct block_arrays *arrays, struct range range, bool is_last) {
  double begin = clock_now_s();
  if (range_count(range) > 0) (plan->key_max.is_measured ? execute_key_max : execute_measure)(plan, arrays, range);
  plan_refuse(plan->context, &plan->refusal);
  plan->times.features_state_s += clock_now_s() - begin;
  if (!is_last) return;
  begin = clock_now_s();
  (plan->key_max.is_measured ? key_max_meet : estimate_meet)(plan);
  plan->times.reduce_s += clock_now_s() - begin;
}

/* What has no states: all of its time is output. */
static void run_stateless(struct favor_plan *plan, const struct block_arrays *arrays, enum block_kind kind,
                          struct range range) {
  const double begin = clock_now_s();
  if (kind == BLOCK_WHOLE) attend_whole(plan, arrays);
  if (kind == BLOCK_COPY && range_count(range) > 0) execute_copy(plan, arrays, range);
  plan_refuse(plan->context, &plan->refusal);
  plan->times.output_s += clock_now_s() - begin;
}

enum favor_status favor_plan_run_block(struct favor_plan *plan, int64_t index, const struct favor_input *q,
                                       const struct favor_input *k, const struct favor_input *v,
                                       const struct favor_output *out) {
  if (plan->is_resumed) saved_check(plan);
  if (plan->outcome == FAVOR_OK) plan->outcome = dist_agree(plan->context, DIST_SITE_BLOCK, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  plan->saved_rows = NULL;
  const struct planned_block *block = &plan->schedule.blocks[index];
  struct favor_block own;
  schedule_own(&plan->schedule, block, &own);
  const struct range range = {own.token_begin, own.token_end};
  const struct block_arrays arrays = {
      .begin = own.token_begin, .units = {0, n_units(plan)}, .q = q, .k = k, .v = v, .out = out};
  switch (block->kind) {
  case BLOCK_MEASURE:
    measure(plan, &arrays, range, block->is_last_measure);
    break;
  case BLOCK_ATTEND:
    blocks_attend(plan, &arrays, block);
    break;
  case BLOCK_ABSORB:
    blocks_absorb(plan, &arrays, block);
    break;
  case BLOCK_EMIT:
    blocks_emit(plan, &arrays, block);
    break;
  case BLOCK_COPY:
  case BLOCK_WHOLE:
    run_stateless(plan, &arrays, block->kind, range);
    break;
  }
  plan->position = block->after;
  plan->times.bytes_sent = bytes_sent(plan) - plan->bytes_sent_before;
  plan->times.in_flight_s = plan->traffic.in_flight_s;
  plan->times.blocked_s = plan->traffic.blocked_s;
  return plan->outcome;
}

enum favor_status favor_plan_end(struct favor_plan *plan) {
  blocks_end(plan);
  if (plan->outcome == FAVOR_OK) return dist_agree(plan->context, DIST_SITE_RUN_END, 0, "");
  status_clear(&plan->context->pending); /* what failed since has no bearing: the run's outcome is agreed */
  return plan->outcome;
}

/* The part of a shard's array that starts at a token. */
static struct favor_input input_from(const struct favor_plan *plan, const struct favor_input *x, int64_t token) {
  struct favor_input from = *x;
  from.data = row_in(&plan->engine, x->data, x->token_stride, token);
  return from;
}

enum favor_status favor_plan_execute(struct favor_plan *plan, const struct favor_input *q, const struct favor_input *k,
                                     const struct favor_input *v, const struct favor_output *out) {
  favor_plan_begin(plan);
  for (int64_t i = 0; i < favor_plan_n_blocks(plan); i++) {
    struct favor_block block;
    favor_plan_block(plan, i, &block);
    int64_t token = block.token_begin - plan->schedule.shard.begin;
    struct favor_input q_block = input_from(plan, q, token), k_block = input_from(plan, k, token),
                       v_block = input_from(plan, v, token);
    struct favor_output out_block = *out;
    out_block.data = row_out(&plan->engine, out->data, out->token_stride, token);
    if (favor_plan_run_block(plan, i, &q_block, &k_block, &v_block, &out_block) != FAVOR_OK) break;
  }
  return favor_plan_end(plan);
}

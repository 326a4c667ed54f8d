#include "plan/execute.h"

#include <string.h>

#include "base/clock.h"
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
  plan->is_combining = false;
  plan->times = (struct favor_plan_times){0};
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

static enum favor_status combine_begin(struct favor_plan *plan) {
  if (plan->outcome != FAVOR_OK) return plan->outcome; /* agreed before */
  plan->outcome = dist_agree(plan->context, DIST_SITE_COMBINE, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  for (int parity = 0; parity < 2; parity++) {
    if (!plan->groups[parity]) continue;
    void *partial = plan->rows[SLOT_SPAN_0 + parity];
    if (plan->problem.is_causal) {
      dist_scan_begin(plan->groups[parity], partial, plan->received[parity]);
    } else {
      dist_reduce_begin(plan->groups[parity], partial);
    }
  }
  plan->is_combining = true;
  return dist_has_failed(plan->context) ? plan->context->pending.code : FAVOR_OK;
}

/* Lets the exchange advance behind the arithmetic. */
static void combine_progress(struct favor_plan *plan) {
  if (!plan->is_combining) return;
  for (int parity = 0; parity < 2; parity++) {
    bool is_done;
    if (plan->groups[parity]) dist_group_progress(plan->groups[parity], &is_done);
  }
}

static enum favor_status combine_end(struct favor_plan *plan) {
  if (!plan->is_combining) return plan->outcome;
  plan->is_combining = false;
  for (int parity = 0; parity < 2; parity++) {
    if (!plan->groups[parity]) continue;
    dist_group_end(plan->groups[parity]);
    const struct span *span = &plan->schedule.spans[parity];
    bool has_prefix = plan->problem.is_causal && span->is_member && !span->is_first;
    if (!has_prefix || !plan->rows[SLOT_WAITING]) continue;
    memcpy(plan->rows[SLOT_WAITING], plan->received[parity], plan->unit_bytes * (size_t)n_units(plan));
  }
  return dist_has_failed(plan->context) ? plan->context->pending.code : FAVOR_OK;
}

/* The verbs in which ranks meet. */
static enum favor_status meet(struct favor_plan *plan, enum favor_verb verb) {
  const double begin = clock_now_s();
  enum favor_status status = FAVOR_OK;
  if (verb == FAVOR_COMBINE_BEGIN) status = combine_begin(plan);
  if (verb == FAVOR_COMBINE_END) status = combine_end(plan);
  if (verb == FAVOR_ESTIMATE) status = plan->key_max.is_measured ? key_max_step(plan) : estimate_step(plan);
  plan->times.bytes_sent = bytes_sent(plan) - plan->bytes_sent_before;
  plan->times.reduce_s += clock_now_s() - begin;
  return status;
}

/* A rank that failed, or whose input cannot be computed with, tells the others before they need its tokens. */
static enum favor_status attend_whole(struct favor_plan *plan, const struct step_arrays *arrays) {
  if (plan->outcome != FAVOR_OK) return plan->outcome; /* agreed before */
  if (!dist_has_failed(plan->context)) {
    execute_check(plan, arrays, plan->schedule.shard);
    plan_refuse(plan->context, &plan->refusal);
  }
  plan->outcome = dist_agree(plan->context, DIST_SITE_COMBINE, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  plan->method->attend(plan, arrays);
  plan->times.bytes_sent = bytes_sent(plan) - plan->bytes_sent_before;
  return dist_has_failed(plan->context) ? plan->context->pending.code : FAVOR_OK;
}

enum favor_status favor_plan_run_step(struct favor_plan *plan, int64_t index, const struct favor_input *q,
                                      const struct favor_input *k, const struct favor_input *v,
                                      const struct favor_output *out) {
  const struct planned_step *planned = &plan->schedule.steps[index];
  enum favor_verb verb = planned->step.verb;
  if (verb == FAVOR_COMBINE_BEGIN || verb == FAVOR_COMBINE_END || verb == FAVOR_ESTIMATE) return meet(plan, verb);
  double begin = clock_now_s();
  struct step_arrays arrays = {.begin = planned->step.token_begin, .q = q, .k = k, .v = v, .out = out};
  struct range range = {planned->step.token_begin, planned->step.token_end};
  if (verb == FAVOR_ATTEND) {
    enum favor_status status = attend_whole(plan, &arrays);
    plan->times.output_s += clock_now_s() - begin;
    return status;
  }
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  if (dist_has_failed(plan->context)) return plan->context->pending.code;
  if (verb == FAVOR_MEASURE) {
    (plan->key_max.is_measured ? execute_key_max : execute_measure)(plan, &arrays, range);
    plan->times.features_state_s += clock_now_s() - begin;
  } else if (verb == FAVOR_ABSORB) {
    execute_absorb(plan, &arrays, range, planned->slot);
    plan->times.features_state_s += clock_now_s() - begin;
  } else if (plan->schedule.kind == SCHEDULE_COPY) {
    execute_copy(plan, &arrays, range);
    plan->times.output_s += clock_now_s() - begin;
  } else {
    execute_emit(plan, &arrays, range, planned->slot, (planned->step.needs & FAVOR_NEEDS_K) != 0);
    plan->times.output_s += clock_now_s() - begin;
  }
  combine_progress(plan);
  return plan_refuse(plan->context, &plan->refusal);
}

enum favor_status favor_plan_end(struct favor_plan *plan) {
  if (plan->outcome == FAVOR_OK) return dist_agree(plan->context, DIST_SITE_RUN_END, 0, "");
  status_clear(&plan->context->pending); /* what failed since has no bearing: the run's outcome is agreed */
  return plan->outcome;
}

/* The part of a shard's array that starts at the step's first token. */
static struct favor_input input_from(const struct favor_plan *plan, const struct favor_input *x, int64_t token) {
  struct favor_input from = *x;
  from.data = row_in(&plan->engine, x->data, x->token_stride, token);
  return from;
}

enum favor_status favor_plan_execute(struct favor_plan *plan, const struct favor_input *q, const struct favor_input *k,
                                     const struct favor_input *v, const struct favor_output *out) {
  favor_plan_begin(plan);
  for (int64_t i = 0; i < plan->schedule.n_steps; i++) {
    const struct favor_step *step = &plan->schedule.steps[i].step;
    int64_t token = step->needs ? step->token_begin - plan->schedule.shard.begin : 0;
    struct favor_input q_step = input_from(plan, q, token), k_step = input_from(plan, k, token),
                       v_step = input_from(plan, v, token);
    struct favor_output out_step = *out;
    out_step.data = row_out(&plan->engine, out->data, out->token_stride, token);
    favor_plan_run_step(plan, i, &q_step, &k_step, &v_step, &out_step);
  }
  return favor_plan_end(plan);
}

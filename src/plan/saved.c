/* Saving a run between two blocks, and going on from there. */
#include <string.h>

#include "plan/blocks.h"
#include "plan/memory.h"

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }

/* What this rank holds of the states in `rows`: the first rank of a row of the grid its heads', all others nothing. */
static struct favor_saved saved_at(const struct favor_plan *plan, void *rows) {
  struct favor_saved saved = {.position = plan->position};
  if (!schedule_has_states(&plan->schedule)) return saved;
  saved.state_bytes = plan->unit_bytes;
  saved.kv_head_begin = saved.kv_head_end = plan->units.begin;
  if (plan->schedule.part != 0 || !rows) return saved;
  saved.kv_head_end = plan->units.end;
  saved.states = rows;
  return saved;
}

static enum favor_status check_streamed(struct favor_plan *plan) {
  if (plan->problem.is_streamed && !plan->method) return FAVOR_OK;
  return dist_fail(plan->context, FAVOR_EUSAGE, "only a streamed run with states can be saved and resumed");
}

enum favor_status favor_plan_save(struct favor_plan *plan, struct favor_saved *saved) {
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  check_streamed(plan);
  plan->outcome = dist_agree(plan->context, DIST_SITE_BLOCK, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  *saved = saved_at(plan, schedule_has_states(&plan->schedule) ? blocks_gather(plan) : NULL);
  plan->saved_rows = saved->states;
  return FAVOR_OK;
}

/* A place at which a run of this plan could stand, with blocks of any size. */
static bool is_position(const struct favor_plan *plan, const struct favor_position *at) {
  const struct tokens *tokens = &plan->tokens;
  const int64_t emitted = at->tokens_emitted, absorbed = at->tokens_absorbed;
  if (emitted < 0 || absorbed < emitted || absorbed > tokens->n_tokens) return false;
  if (tokens_run_floor(tokens, emitted) != emitted || tokens_run_floor(tokens, absorbed) != absorbed) return false;
  if (absorbed == emitted) {
    return plan->schedule.kind != SCHEDULE_BIDIRECTIONAL || emitted == tokens->n_tokens ||
           tokens_segment(tokens, emitted).begin == emitted;
  }
  const struct range segment = tokens_segment(tokens, emitted);
  return plan->schedule.kind == SCHEDULE_BIDIRECTIONAL && absorbed <= segment.end &&
         (emitted == segment.begin || absorbed == segment.end);
}

enum favor_status favor_plan_resume(struct favor_plan *plan, const struct favor_position *position,
                                    struct favor_saved *saved) {
  favor_plan_begin(plan);
  if (check_streamed(plan) == FAVOR_OK && !is_position(plan, position)) {
    dist_fail(plan->context, FAVOR_EDATA, "a run of this problem cannot stand at tokens %lld and %lld",
              (long long)position->tokens_emitted, (long long)position->tokens_absorbed);
  }
  if (!dist_has_failed(plan->context) && (plan->key_max.is_measured || plan->schedule.measure_needs != 0)) {
    dist_fail(plan->context, FAVOR_EUSAGE, "a run goes on with the estimates that it had; give them with the problem");
  }
  if (!dist_has_failed(plan->context)) {
    plan_list_blocks(plan, position);
    plan->is_partial = true;
  }
  plan->outcome = dist_agree(plan->context, DIST_SITE_RESUME, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  plan->position = *position;
  plan->is_resumed = true;
  *saved = saved_at(plan, schedule_has_states(&plan->schedule) ? blocks_carried(plan) : NULL);
  return FAVOR_OK;
}

void saved_check(struct favor_plan *plan) {
  const struct favor_saved saved = saved_at(plan, schedule_has_states(&plan->schedule) ? blocks_carried(plan) : NULL);
  plan->is_resumed = false;
  for (int64_t r = 0; saved.states && r < n_units(plan) * plan->engine.shape.features; r++) {
    if (binned_is_valid(binned_row_at_const(saved.states, plan->engine.row_bytes, r),
                        plan->engine.shape.value_width + 1, plan->engine.n_bins))
      continue;
    dist_fail(plan->context, FAVOR_EDATA, "the state of key head %lld, row %lld, is not one of this problem",
              (long long)(plan->units.begin + r / plan->engine.shape.features),
              (long long)(r % plan->engine.shape.features));
    return;
  }
}

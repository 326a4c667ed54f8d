#include <stdio.h>

#include "plan/method.h"

void favor_plan_shard(const struct favor_plan *plan, struct favor_shard *shard) {
  int64_t heads = plan->engine.heads_per_key;
  *shard = (struct favor_shard){.head_begin = plan->units.begin * heads,
                                .head_end = plan->units.end * heads,
                                .kv_head_begin = plan->units.begin,
                                .kv_head_end = plan->units.end,
                                .token_begin = plan->schedule.shard.begin,
                                .token_end = plan->schedule.shard.end};
}

int64_t favor_plan_n_blocks(const struct favor_plan *plan) { return plan->schedule.n_blocks; }

void favor_plan_block(const struct favor_plan *plan, int64_t index, struct favor_block *block) {
  schedule_own(&plan->schedule, &plan->schedule.blocks[index], block);
}

const char *plan_scan_name(const struct favor_plan *plan, const char *group_scan) {
  if (plan->method && plan->method->has_states && plan->grid.tokens > 1) return "doubling"; /* dist_axis_scan */
  if (!plan->schedule.may_meet) return "none";
  return plan->problem.is_causal ? group_scan : "allreduce";
}

size_t plan_state_bytes(const struct favor_plan *plan) {
  const bool has_states = schedule_has_states(&plan->schedule) || (plan->method && plan->method->has_states);
  return has_states ? plan->unit_bytes * (size_t)(plan->problem.batch * plan->problem.kv_heads) : 0;
}

double plan_flops(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  const double rows = (double)problem->tokens * (double)problem->batch * (double)problem->heads;
  if (!schedule_has_states(&plan->schedule)) return plan->method ? plan->method->flops(plan) : 0;
  return 4.0 * rows *
         ((double)plan->engine.shape.directions * (double)problem->key_width +
          (double)plan->engine.shape.features * (double)problem->value_width);
}

void favor_plan_info(const struct favor_plan *plan, struct favor_plan_info *info) {
  const struct favor_problem *problem = &plan->problem;
  const char *group_scan = plan->groups[0] ? dist_group_scan_name(plan->groups[0]) : "none";
  *info = (struct favor_plan_info){
      .kernel = plan->method && plan->method->kernel ? plan->method->kernel : plan->engine.kernel->name,
      .scan = plan_scan_name(plan, group_scan),
      .grid_heads = plan->grid.heads,
      .grid_tokens = plan->grid.tokens,
      .threads = plan->threads,
      .cores = binding_cores(plan->binding),
      .is_bound = binding_is_partial(plan->binding),
      .binding = binding_name(plan->binding),
      .tile_tokens =
          plan->method && plan->method->tile_tokens > 0 ? plan->method->tile_tokens : plan->engine.kernel->tile_tokens,
      .run_tokens = plan->tokens.run_tokens,
      .is_streamed = problem->is_streamed && !plan->method,
      .block_tokens = plan->schedule.block_tokens,
      .state_bytes = plan_state_bytes(plan),
      .state_rows = plan->engine.shape.features,
      .is_strictly_causal =
          problem->is_causal && !estimate_is_any_measured(&plan->estimate) && !plan->key_max.is_measured,
      .memory_bytes = plan->memory_bytes,
      .kept_bytes = kept_bytes(plan),
      .flops = plan_flops(plan),
  };
}

void favor_plan_describe(const struct favor_plan *plan, char *text, size_t size) {
  struct favor_plan_info info;
  favor_plan_info(plan, &info);
  snprintf(text, size,
           "kernel %s, %d threads a rank (binding: %s), grid %lldx%lld heads by tokens (%s), scan %s, runs of %lld "
           "tokens, blocks of %lld, %zu bytes of state (%lld rows a head), %zu bytes of memory",
           info.kernel, info.threads, info.binding, (long long)info.grid_heads, (long long)info.grid_tokens,
           plan->grid.reason, info.scan, (long long)info.run_tokens, (long long)info.block_tokens, info.state_bytes,
           (long long)info.state_rows, info.memory_bytes);
}

const void *favor_plan_projection(const struct favor_plan *plan) {
  return plan->problem.method == FAVOR_METHOD_FAVOR ? plan->stored_projection : NULL;
}

void favor_plan_times(const struct favor_plan *plan, struct favor_plan_times *times) {
  *times = plan->times;
  for (int i = 0; i < plan->threads; i++) times->accumulate_s += plan->workers[i]->accumulate_s;
}

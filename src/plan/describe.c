#include <stdio.h>
#include <string.h>

#include "plan/plan.h"

void favor_plan_shard(const struct favor_plan *plan, struct favor_shard *shard) {
  int64_t heads = plan->engine.heads_per_key;
  *shard = (struct favor_shard){.head_begin = plan->units.begin * heads,
                                .head_end = plan->units.end * heads,
                                .kv_head_begin = plan->units.begin,
                                .kv_head_end = plan->units.end,
                                .token_begin = plan->schedule.shard.begin,
                                .token_end = plan->schedule.shard.end};
}

int64_t favor_plan_n_steps(const struct favor_plan *plan) { return plan->schedule.n_steps; }

void favor_plan_step(const struct favor_plan *plan, int64_t index, struct favor_step *step) {
  *step = plan->schedule.steps[index].step;
}

static const char *scan_name(const struct favor_plan *plan) {
  if (!plan->schedule.has_spans) return "none";
  if (!plan->problem.is_causal) return "allreduce";
  for (int parity = 0; parity < 2; parity++) {
    if (plan->groups[parity]) return dist_group_scan_name(plan->groups[parity]);
  }
  return "none";
}

void favor_plan_info(const struct favor_plan *plan, struct favor_plan_info *info) {
  const struct favor_problem *problem = &plan->problem;
  double rows = (double)problem->tokens * (double)problem->batch * (double)problem->heads;
  *info = (struct favor_plan_info){
      .kernel = plan->engine.kernel->name,
      .scan = scan_name(plan),
      .grid_heads = plan->grid.heads,
      .grid_tokens = plan->grid.tokens,
      .threads = plan->threads,
      .tile_tokens = plan->engine.kernel->tile_tokens,
      .run_tokens = plan->tokens.run_tokens,
      .block_tokens = plan->schedule.block_tokens,
      .state_bytes = plan->unit_bytes * (size_t)(problem->batch * problem->kv_heads),
      .memory_bytes = plan->memory_bytes,
      .flops = 4.0 * (double)problem->features * (double)(problem->key_width + problem->value_width) * rows,
  };
}

void favor_plan_describe(const struct favor_plan *plan, char *text, size_t size) {
  struct favor_plan_info info;
  favor_plan_info(plan, &info);
  snprintf(text, size,
           "kernel %s, %d threads a rank, grid %lldx%lld heads by tokens (%s), scan %s, runs of %lld tokens, blocks of "
           "%lld, %zu bytes of state, %zu bytes of memory",
           info.kernel, info.threads, (long long)info.grid_heads, (long long)info.grid_tokens, plan->grid.reason,
           info.scan, (long long)info.run_tokens, (long long)info.block_tokens, info.state_bytes, info.memory_bytes);
}

const void *favor_plan_projection(const struct favor_plan *plan) { return plan->stored_projection; }

/* ---- exported states: a head of 16 bytes, then the rows as they are ---- */

struct export_head {
  char magic[8];
  int64_t features;
};
static const char export_magic[8] = "favor01";

size_t favor_plan_export_bytes(const struct favor_plan *plan) { return sizeof(struct export_head) + plan->unit_bytes; }

/* Where the state of this kind stands after a run; NULL: it is the state of no key. */
static void *exported_rows(const struct favor_plan *plan, enum favor_state_kind kind) {
  const struct schedule *schedule = &plan->schedule;
  for (int parity = 0; parity < 2; parity++) {
    const struct span *span = &schedule->spans[parity];
    if (!span->is_member) continue;
    bool is_at_end = span->piece.end == schedule->shard.end, is_at_begin = span->piece.begin == schedule->shard.begin;
    if (plan->problem.is_causal) {
      if (kind == FAVOR_STATE_PREFIX && !span->is_first && is_at_begin) return plan->received[parity];
      if (kind == FAVOR_STATE_FINAL && !span->is_first && is_at_end) return plan->rows[SLOT_WAITING];
    } else if (kind == FAVOR_STATE_FINAL && is_at_end) {
      return plan->rows[SLOT_SPAN_0 + parity];
    }
  }
  if (kind == FAVOR_STATE_PREFIX || range_count(schedule->shard) == 0) return NULL;
  return plan->rows[SLOT_OWN];
}

enum favor_status favor_plan_export_state(const struct favor_plan *plan, enum favor_state_kind kind, int64_t kv_head,
                                          void *bytes) {
  if (kv_head < plan->units.begin || kv_head >= plan->units.end) {
    return dist_fail(plan->context, FAVOR_EUSAGE, "key head %lld is not on rank %d", (long long)kv_head,
                     plan->context->rank);
  }
  struct export_head head = {.features = plan->engine.shape.features};
  memcpy(head.magic, export_magic, sizeof head.magic);
  memcpy(bytes, &head, sizeof head);
  void *to = (char *)bytes + sizeof head, *rows = exported_rows(plan, kind);
  if (rows) {
    memcpy(to, plan_unit_rows(plan, rows, kv_head - plan->units.begin), plan->unit_bytes);
  } else {
    state_clear(&plan->engine, to);
  }
  return FAVOR_OK;
}

void favor_state_decode(const void *bytes, int32_t *exponent, double *s, double *z) {
  struct export_head head;
  memcpy(&head, bytes, sizeof head);
  const void *rows = (const char *)bytes + sizeof head;
  const struct binned_row *first = rows;
  int64_t width = first->width - 1;
  size_t row_bytes = binned_row_bytes(first->width, first->n_bins);
  for (int64_t r = 0; r < head.features; r++) {
    const struct binned_row *row = binned_row_at_const(rows, row_bytes, r);
    exponent[r] = row->exponent;
    int64_t shift = row->exponent == BINNED_NONE ? 0 : row->exponent;
    binned_value(row, 0, width, shift, NULL, s + r * width);
    binned_value(row, width, 1, shift, NULL, z + r);
  }
}

void favor_plan_times(const struct favor_plan *plan, struct favor_plan_times *times) { *times = plan->times; }

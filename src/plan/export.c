#include "plan/export.h"

#include <string.h>

struct export_head {
  char magic[8];
  int64_t features;
};
static const char export_magic[8] = "favor01";

void *export_begin(const struct favor_plan *plan, void *bytes) {
  struct export_head head = {.features = plan->engine.shape.features};
  memcpy(head.magic, export_magic, sizeof head.magic);
  memcpy(bytes, &head, sizeof head);
  return (char *)bytes + sizeof head;
}

bool export_is_valid(const struct favor_plan *plan, const void *bytes) {
  struct export_head head;
  memcpy(&head, bytes, sizeof head);
  const struct binned_row *first = (const void *)((const char *)bytes + sizeof head);
  return memcmp(head.magic, export_magic, sizeof head.magic) == 0 && head.features == plan->engine.shape.features &&
         first->width == plan->engine.shape.value_width + 1 && first->n_bins == plan->engine.n_bins;
}

size_t favor_plan_export_bytes(const struct favor_plan *plan) { return sizeof(struct export_head) + plan->unit_bytes; }

/* Where the state of this kind stands after a run; NULL: it is the state of no key. */
static void *exported_rows(const struct favor_plan *plan, enum favor_state_kind kind) {
  const struct schedule *schedule = &plan->schedule;
  if (kind == FAVOR_STATE_SAVED) return plan->saved_rows;
  for (int parity = 0; parity < 2; parity++) {
    const struct span *span = &plan->spans[parity];
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
  if (plan->problem.is_streamed != (kind == FAVOR_STATE_SAVED) || (plan->problem.is_streamed && !plan->saved_rows)) {
    return dist_fail(
        plan->context, FAVOR_EUSAGE,
        "rank %d has no such state: of a streamed plan there is what favor_plan_save gave, of any other the "
        "prefix and the final one",
        plan->context->rank);
  }
  void *to = export_begin(plan, bytes), *rows = exported_rows(plan, kind);
  if (rows) {
    memcpy(to, plan_unit_rows(plan, rows, kv_head - plan->units.begin), plan->unit_bytes);
  } else {
    state_clear(&plan->engine, to);
  }
  return FAVOR_OK;
}

void export_decode(const void *bytes, int64_t s_shift, int32_t *exponent, double *s, double *z) {
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
    binned_value(row, 0, width, shift + s_shift, NULL, s + r * width);
    binned_value(row, width, 1, shift, NULL, z + r);
  }
}

void favor_state_decode(const void *bytes, int32_t *exponent, double *s, double *z) {
  export_decode(bytes, 0, exponent, s, z);
}

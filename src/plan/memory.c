#include "plan/memory.h"

#include <stdlib.h>

#include "base/memory.h"
#include "plan/method.h"

/* Without a bound, a block takes at most this much. */
#define DEFAULT_BLOCK_BYTES (INT64_C(64) << 20)

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }

/* The slots that the schedule uses. */
static bool has_slot(const struct favor_plan *plan, int slot) {
  if (n_units(plan) == 0 || !schedule_has_states(&plan->schedule)) return false;
  const struct span *spans = plan->schedule.spans;
  if (slot == SLOT_OWN) return true;
  if (slot != SLOT_WAITING) return spans[slot - SLOT_SPAN_0].is_member;
  return plan->problem.is_causal &&
         ((spans[0].is_member && !spans[0].is_first) || (spans[1].is_member && !spans[1].is_first));
}

static bool has_received(const struct favor_plan *plan, int parity) {
  return plan->problem.is_causal && has_slot(plan, SLOT_SPAN_0 + parity);
}

/* Causal heads are sequential, so threads beyond the heads share one by chunks of tokens. */
static int64_t count_chunks(const struct favor_plan *plan) {
  if (plan->schedule.kind != SCHEDULE_CAUSAL || n_units(plan) == 0 || plan->threads <= n_units(plan)) return 0;
  return (plan->threads + n_units(plan) - 1) / n_units(plan);
}

/* A worker and the memory behind it. */
static size_t worker_head_bytes(void) { return (sizeof(struct worker) + 63) / 64 * 64; }
static size_t worker_whole_bytes(const struct favor_plan *plan) {
  return worker_head_bytes() + worker_bytes(&plan->engine);
}

size_t plan_token_bytes(const struct favor_plan *plan) {
  int64_t heads = n_units(plan) * (plan->engine.heads_per_key + 1);
  return (size_t)(heads * (plan->engine.key_width + plan->engine.shape.value_width)) * plan->engine.real_bytes;
}

size_t plan_fixed_bytes(const struct favor_plan *plan) {
  size_t n_states = (size_t)count_chunks(plan), m_d = (size_t)plan->engine.shape.directions;
  size_t weights_bytes = plan->engine.ops->weights_bytes(&plan->engine.shape);
  for (int slot = 0; slot < N_SLOTS; slot++) n_states += has_slot(plan, slot);
  for (int parity = 0; parity < 2; parity++) n_states += has_received(plan, parity);
  /* Each of the two groups keeps up to two more for what is on its way. */
  if (plan->schedule.has_spans) n_states += 4;
  m_d *= (size_t)plan->engine.shape.key_width;
  return estimate_bytes(plan) + key_max_bytes(plan) + n_states * plan->unit_bytes * (size_t)n_units(plan) +
         (plan->method ? plan->method->bytes(plan) : 0) + (size_t)plan->threads * worker_whole_bytes(plan) +
         (size_t)plan->n_projections * (m_d * (sizeof(double) + plan->engine.real_bytes) + weights_bytes +
                                        (size_t)plan->transform_count * sizeof(double));
}

/* A method without states takes its shard at once. */
static void choose_whole(struct favor_plan *plan) {
  int64_t tokens = range_count(plan->schedule.shard), bound = plan->problem.memory_bytes;
  int64_t fixed = (int64_t)plan_fixed_bytes(plan), bytes = tokens * (int64_t)plan_token_bytes(plan);
  plan->schedule.block_tokens = tokens;
  if (bound == 0 || fixed + bytes <= bound) return;
  dist_fail(
      plan->context, FAVOR_EUSAGE,
      "%lld bytes of memory a rank are too few: this method keeps a rank's tokens in memory and needs %lld; use more "
      "ranks",
      (long long)bound, (long long)(fixed + bytes));
}

void plan_choose_block(struct favor_plan *plan) {
  if (plan->method) {
    if (!dist_has_failed(plan->context)) choose_whole(plan);
    return;
  }
  struct schedule *schedule = &plan->schedule;
  int64_t run = plan->tokens.run_tokens, most = range_count(schedule->shard);
  int64_t token_bytes = (int64_t)plan_token_bytes(plan), fixed = (int64_t)plan_fixed_bytes(plan);
  int64_t asked = plan->problem.block_tokens, bound = plan->problem.memory_bytes;
  int64_t budget = bound > 0 ? bound - fixed : DEFAULT_BLOCK_BYTES;
  if (token_bytes == 0) token_bytes = 1;
  int64_t block = asked > 0 ? (asked + run - 1) / run * run : budget / token_bytes / run * run;
  if (bound == 0 && block < run) block = run;
  if (block > most) block = (most + run - 1) / run * run;
  if (block < run) block = run;
  if (bound > 0 && most > 0 && fixed + block * token_bytes > bound) {
    dist_fail(
        plan->context, FAVOR_EUSAGE,
        "%lld bytes of memory a rank are too few: %lld are needed (%lld for states and scratch, %lld for a block)",
        (long long)bound, (long long)(fixed + run * token_bytes), (long long)fixed, (long long)(run * token_bytes));
  }
  schedule->block_tokens = block;
}

static void *states(struct favor_plan *plan, int64_t count) {
  void *rows = memory_zeroed((size_t)(count * n_units(plan)), plan->unit_bytes);
  if (!rows) dist_fail(plan->context, FAVOR_ENOMEM, "no memory for states (%zu bytes a head)", plan->unit_bytes);
  return rows;
}

/* Where the team is whole each thread touches its own memory first, and so has it near; a smaller team makes them all
 * the same. */
static void allocate_workers(struct favor_plan *plan) {
  plan->workers = memory_zeroed((size_t)plan->threads, sizeof *plan->workers);
  plan->parts = memory_zeroed((size_t)plan->threads, sizeof *plan->parts);
  if (!plan->workers || !plan->parts) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %d threads", plan->threads);
    return;
  }
  size_t bytes = worker_whole_bytes(plan);
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(static, 1)
    for (int thread = 0; thread < plan->threads; thread++) {
      struct worker *worker = memory_zeroed(1, bytes);
      plan->workers[thread] = worker;
      if (worker) worker_place(&plan->engine, (char *)worker + worker_head_bytes(), worker);
    }
    binding_leave(plan->binding);
  }
  for (int thread = 0; thread < plan->threads; thread++) {
    if (plan->workers[thread]) continue;
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for a thread's scratch (%zu bytes)", bytes);
    return;
  }
}

void plan_allocate(struct favor_plan *plan) {
  for (int slot = 0; slot < N_SLOTS; slot++) {
    if (has_slot(plan, slot)) plan->rows[slot] = states(plan, 1);
  }
  for (int parity = 0; parity < 2; parity++) {
    if (has_received(plan, parity)) plan->received[parity] = states(plan, 1);
  }
  plan->n_chunks = count_chunks(plan);
  if (plan->n_chunks > 0) plan->chunk_rows = states(plan, plan->n_chunks);
  plan->locks = memory_zeroed((size_t)(n_units(plan) * PLAN_SLICES), sizeof *plan->locks);
  if (plan->locks) {
    for (int64_t i = 0; i < n_units(plan) * PLAN_SLICES; i++) omp_init_lock(&plan->locks[i]);
  } else {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for locks");
  }
  plan->weights = memory_zeroed((size_t)n_units(plan), sizeof *plan->weights);
  if (!plan->weights) dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %lld heads", (long long)n_units(plan));
  allocate_workers(plan);
  if (plan->method) plan->method->allocate(plan);
  schedule_build(&plan->schedule);
  plan->schedule.steps = memory_zeroed((size_t)plan->schedule.n_steps, sizeof *plan->schedule.steps);
  if (plan->schedule.steps) {
    schedule_build(&plan->schedule);
  } else {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %lld steps", (long long)plan->schedule.n_steps);
  }
  plan->memory_bytes = plan_fixed_bytes(plan);
}

void plan_free(struct favor_plan *plan) {
  for (int slot = 0; slot < N_SLOTS; slot++) free(plan->rows[slot]);
  for (int parity = 0; parity < 2; parity++) free(plan->received[parity]);
  free(plan->chunk_rows);
  if (plan->locks) {
    for (int64_t i = 0; i < n_units(plan) * PLAN_SLICES; i++) omp_destroy_lock(&plan->locks[i]);
  }
  free(plan->locks);
  for (int thread = 0; plan->workers && thread < plan->threads; thread++) free(plan->workers[thread]);
  free(plan->workers);
  free(plan->method_data);
  free(plan->parts);
  binding_destroy(plan->binding);
  free(plan->schedule.steps);
  free(plan->offsets);
  free(plan->tiles.before);
  free(plan->projection);
  free(plan->stored_projection);
  free(plan->transform);
  free(plan->weights);
  free(plan->packed);
}

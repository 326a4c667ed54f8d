#include "plan/memory.h"

#include <stdlib.h>

#include "base/memory.h"
#include "plan/method.h"

/* A streamed block, for each thread. What was read ahead should still be in a cache when it is computed: 2^21 tokens of
 * 4 heads on 2 ranks, bidirectional, took 5.4 s in blocks of 6 MiB, 6.7 s in 30 MiB and 7.2 s in 60 MiB. */
#define LEAST_BLOCK_BYTES (INT64_C(4) << 20)
#define MOST_BLOCK_BYTES (INT64_C(6) << 20)

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }

/* The slots that the schedule uses. */
static bool has_slot(const struct favor_plan *plan, int slot) {
  if (n_units(plan) == 0 || !schedule_has_states(&plan->schedule)) return false;
  const struct span *spans = plan->spans;
  if (slot == SLOT_OWN) return true;
  if (!plan->schedule.may_meet) return false;
  if (plan->problem.is_streamed) return slot != SLOT_WAITING || plan->problem.is_causal;
  if (slot != SLOT_WAITING) return spans[slot - SLOT_SPAN_0].is_member;
  return plan->problem.is_causal &&
         ((spans[0].is_member && !spans[0].is_first) || (spans[1].is_member && !spans[1].is_first));
}

/* What a scan gives; a streamed plan also gathers there what goes on. */
static bool has_received(const struct favor_plan *plan, int parity) {
  bool is_used = plan->problem.is_causal || (plan->problem.is_streamed && parity == 0);
  return is_used && has_slot(plan, SLOT_SPAN_0 + parity);
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
  /* What each of the two groups keeps for what is on its way. */
  if (plan->schedule.may_meet) n_states += 2 * (size_t)dist_group_n_states(plan->problem.scan);
  m_d *= (size_t)plan->engine.shape.key_width;
  return (size_t)(plan->problem.n_segments + 1) * sizeof *plan->offsets + estimate_bytes(plan) + key_max_bytes(plan) +
         n_states * plan->unit_bytes * (size_t)n_units(plan) + (plan->method ? plan->method->bytes(plan) : 0) +
         (size_t)plan->threads * worker_whole_bytes(plan) +
         (size_t)plan->n_projections * (m_d * (sizeof(double) + plan->engine.real_bytes) + weights_bytes +
                                        (size_t)plan->transform_count * sizeof(double));
}

/* What is not streamed has a rank's whole shard in memory. */
void plan_fit_whole(struct favor_plan *plan) {
  int64_t tokens = range_count(plan->schedule.shard), bound = plan->problem.memory_bytes;
  int64_t fixed = (int64_t)plan_fixed_bytes(plan) + plan->problem.caller_bytes;
  int64_t bytes = tokens * (int64_t)plan_token_bytes(plan);
  plan->schedule.block_tokens = tokens;
  if (bound == 0 || fixed + bytes <= bound) return;
  dist_fail(plan->context, FAVOR_EUSAGE,
            "%lld bytes of memory a rank are too few: %lld are needed as a grid of %lldx%lld, as %s keeps a rank's "
            "tokens in memory; use more ranks%s",
            (long long)bound, (long long)(fixed + bytes), (long long)plan->grid.heads, (long long)plan->grid.tokens,
            plan->method ? "this method" : "a run that is not streamed", plan->method ? "" : ", or stream");
}

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Bytes of a block where no bound says less: small ones, unless states meet after each, which should cost little beside
 * it. */
static int64_t wanted_block_bytes(const struct favor_plan *plan, int64_t token_bytes) {
  enum { N_BLOCKS = 16, STATES_OF_BLOCK = 64 };
  const struct schedule *schedule = &plan->schedule;
  int64_t least = plan->threads * LEAST_BLOCK_BYTES, most = plan->threads * MOST_BLOCK_BYTES;
  if (schedule->may_meet) least = larger(least, STATES_OF_BLOCK * (int64_t)plan->unit_bytes * n_units(plan));
  return smaller(larger(least, schedule->tokens->n_tokens / schedule->n_parts / N_BLOCKS * token_bytes),
                 larger(least, most));
}

struct plan_needs plan_needs(const struct favor_plan *plan) {
  struct plan_needs needs = {.token_bytes = (int64_t)plan_token_bytes(plan),
                             .fixed_bytes = (int64_t)plan_fixed_bytes(plan) + plan->problem.caller_bytes};
  if (needs.token_bytes > 0) needs.wanted_tokens = wanted_block_bytes(plan, needs.token_bytes) / needs.token_bytes;
  return needs;
}

/* The largest that any rank has to say: blocks are the same for all. */
static void choose_streamed(struct favor_plan *plan) {
  const struct plan_needs own = plan_needs(plan);
  int64_t needs[] = {own.token_bytes, own.fixed_bytes, own.wanted_tokens};
  if (dist_max_int64(plan->context, needs, 3) != FAVOR_OK) return;
  plan_fit_block(plan, &(struct plan_needs){needs[0], needs[1], needs[2]});
}

void plan_fit_block(struct favor_plan *plan, const struct plan_needs *needs) {
  struct schedule *schedule = &plan->schedule;
  const int64_t run = plan->tokens.run_tokens, token_bytes = needs->token_bytes, fixed = needs->fixed_bytes,
                wanted = needs->wanted_tokens;
  if (schedule->tokens->n_tokens == 0) return;
  int64_t n_held = larger(1, plan->problem.blocks_held), bound = plan->problem.memory_bytes;
  int64_t least = schedule->n_parts > 1 ? 2 * run : run; /* a share is cut at runs on both sides */
  int64_t most = (ceil_divide(ceil_divide(schedule->tokens->n_tokens, schedule->n_parts), run) + 1) * run;
  int64_t asked = plan->problem.block_tokens;
  int64_t block = asked > 0 ? larger(least, ceil_divide(asked, run) * run) : larger(least, wanted / run * run);
  int64_t fitting = bound > 0 ? (bound - fixed) / n_held / token_bytes / run * run : block;
  if (asked == 0 && fitting >= least) block = smaller(block, fitting);
  block = smaller(block, larger(least, most));
  if (fitting < block) {
    int64_t bytes = n_held * token_bytes * (asked > 0 ? block : least);
    dist_fail(
        plan->context, FAVOR_EUSAGE,
        "%lld bytes of memory a rank are too few: %lld are needed as a grid of %lldx%lld (%lld for states, scratch "
        "and buffers, %lld for %lld block%s)%s",
        (long long)bound, (long long)(fixed + bytes), (long long)plan->grid.heads, (long long)plan->grid.tokens,
        (long long)fixed, (long long)bytes, (long long)n_held, n_held == 1 ? "" : "s",
        favor_context_size(plan->context) == 1 ? "" : "; another --grid HxT may need less");
  }
  schedule->block_tokens = block;
  schedule->window_tokens = schedule_window_tokens(schedule->n_parts, block, run);
}

void plan_choose_block(struct favor_plan *plan) {
  if (plan->problem.is_streamed && !plan->method) {
    choose_streamed(plan);
  } else if (!dist_has_failed(plan->context)) {
    plan_fit_whole(plan);
  }
  if (!dist_has_failed(plan->context)) kept_choose(plan);
}

void plan_list_blocks(struct favor_plan *plan, const struct favor_position *from) {
  struct schedule *schedule = &plan->schedule;
  free(schedule->blocks);
  schedule->blocks = NULL;
  schedule_build(schedule, from);
  schedule->blocks = memory_zeroed((size_t)schedule->n_blocks, sizeof *schedule->blocks);
  if (schedule->blocks) {
    schedule_build(schedule, from);
  } else {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %lld blocks", (long long)schedule->n_blocks);
    schedule->n_blocks = 0;
  }
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
  kept_allocate(plan);
  plan_list_blocks(plan, &(struct favor_position){0, 0});
  plan->memory_bytes = plan_fixed_bytes(plan) + kept_bytes(plan);
}

void plan_free(struct favor_plan *plan) {
  for (int slot = 0; slot < N_SLOTS; slot++) free(plan->rows[slot]);
  for (int parity = 0; parity < 2; parity++) free(plan->received[parity]);
  free(plan->chunk_rows);
  kept_free(plan);
  if (plan->locks) {
    for (int64_t i = 0; i < n_units(plan) * PLAN_SLICES; i++) omp_destroy_lock(&plan->locks[i]);
  }
  free(plan->locks);
  for (int thread = 0; plan->workers && thread < plan->threads; thread++) free(plan->workers[thread]);
  free(plan->workers);
  free(plan->method_data);
  free(plan->parts);
  binding_destroy(plan->binding);
  free(plan->schedule.blocks);
  free(plan->offsets);
  free(plan->tiles.before);
  free(plan->projection);
  free(plan->stored_projection);
  free(plan->transform);
  free(plan->weights);
  free(plan->packed);
}

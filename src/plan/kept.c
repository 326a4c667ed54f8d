#include "plan/kept.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/memory.h"
#include "plan/plan.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Does a part that absorbs this span of its shard compute outputs from it afterwards? The last of a span has nobody to
 * tell, but may absorb for itself (plan/blocks.c). */
static bool is_absorbed_first(const struct favor_plan *plan, const struct span *span) {
  return span->is_member && (!span->is_last || range_count(span->piece) == range_count(plan->schedule.shard));
}

/* The tokens of a block, from its first, whose keys may be absorbed before their outputs are computed. */
static struct range absorbed_tokens(const struct favor_plan *plan) {
  const struct schedule *schedule = &plan->schedule;
  const struct range none = {0, 0}, all = {0, schedule->block_tokens}, shard = schedule->shard;
  if (schedule->kind != SCHEDULE_CAUSAL || schedule->part < 0 || range_count(plan->units) == 0) return none;
  if (plan->threads > range_count(plan->units)) return all; /* heads are cut into chunks */
  if (!schedule->may_meet) return none;
  if (plan->problem.is_streamed) return all;
  const struct span *first = &plan->spans[0], *second = &plan->spans[1];
  if (second->is_member && (!first->is_member || second->piece.begin < first->piece.begin)) {
    first = &plan->spans[1];
    second = &plan->spans[0];
  }
  if (!is_absorbed_first(plan, first)) first = second;
  if (!is_absorbed_first(plan, second)) second = first;
  if (!is_absorbed_first(plan, first)) return none;
  return (struct range){first->piece.begin - shard.begin, second->piece.end - shard.begin};
}

/* Where some batches of heads are relayed, all that the others would gain is lost in waiting for them. */
static bool is_relayed(const struct favor_plan *plan) {
  const int n_batches = plan_count_batches(plan);
  const struct span all = {.is_member = true, .n_parts = plan->schedule.n_parts};
  return plan->threads <= range_count(plan->units) && plan->problem.n_segments == 1 &&
         plan_count_absorbed(plan, &all, n_batches) < n_batches;
}

static int64_t count_tiles(const struct favor_plan *plan, struct range tokens) {
  return range_count(tokens) > 0 ? range_count(tokens) / plan->engine.kernel->tile_tokens + 1 : 0;
}

static size_t place_bytes(const struct kept *kept) { return kept->tile_bytes + sizeof *kept->tags; }

/* Bytes for features of the tokens that `plan` may absorb first: what problem.memory_bytes leaves; without a bound, no
 * more than a quarter above what q, k, v and out of a block take, which is all where M < 4.7 D, E = D and no heads are
 * shared. */
static int64_t affordable_bytes(const struct favor_plan *plan) {
  const int64_t bound = plan->problem.memory_bytes,
                block = plan->schedule.block_tokens * (int64_t)plan_token_bytes(plan);
  if (bound == 0) return block + block / 4;
  const int64_t n_held = plan->problem.is_streamed && plan->problem.blocks_held > 1 ? plan->problem.blocks_held : 1,
                others = (int64_t)plan_fixed_bytes(plan) + plan->problem.caller_bytes + n_held * block;
  return bound > others ? bound - others : 0;
}

/* Places for a range of tokens. */
static void choose(struct favor_plan *plan, struct range tokens) {
  plan->kept = (struct kept){0};
  if (!plan->engine.ops->features_bytes || range_count(tokens) == 0) return;
  plan->kept = (struct kept){.begin = tokens.begin,
                             .n_units = range_count(plan->units),
                             .unit_tiles = count_tiles(plan, tokens),
                             .tile_bytes = plan->engine.ops->features_bytes(&plan->engine.shape)};
}

void kept_choose(struct favor_plan *plan) {
  struct kept *kept = &plan->kept;
  const struct range none = {0, 0};
  choose(plan, is_relayed(plan) ? none : absorbed_tokens(plan));
  if (kept->n_units == 0) return;
  kept->unit_tiles = smaller(kept->unit_tiles, affordable_bytes(plan) / kept->n_units / (int64_t)place_bytes(kept));
}

size_t kept_bytes(const struct favor_plan *plan) {
  return (size_t)(plan->kept.n_units * plan->kept.unit_tiles) * place_bytes(&plan->kept);
}

double kept_share(const struct favor_plan *plan) {
  const int64_t most = count_tiles(plan, absorbed_tokens(plan));
  return most > 0 ? fmin(1, (double)(plan->kept.n_units > 0 ? plan->kept.unit_tiles : 0) / (double)most) : 0;
}

/* Each thread touches a part, and so has some of it near. */
static void touch(const struct favor_plan *plan, int64_t n_places) {
  const struct kept *kept = &plan->kept;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n_places; i++) {
      memset(kept->features + kept->tile_bytes * (size_t)i, 0, kept->tile_bytes);
    }
    binding_leave(plan->binding);
  }
}

void kept_allocate(struct favor_plan *plan) {
  struct kept *kept = &plan->kept;
  const int64_t n_places = kept->n_units * kept->unit_tiles;
  if (n_places > 0) {
    kept->tags = memory_zeroed((size_t)n_places, sizeof *kept->tags);
    kept->features = memory_untouched((size_t)n_places, kept->tile_bytes);
  }
  if (kept->tags && kept->features) {
    touch(plan, n_places);
  } else {
    kept_free(plan);
  }
}

void kept_take_all(struct favor_plan *plan) {
  const struct range all = {0, plan->schedule.block_tokens};
  if (plan->kept.begin == 0 && plan->kept.unit_tiles >= count_tiles(plan, all)) return;
  kept_free(plan);
  choose(plan, all);
  kept_allocate(plan);
}

void kept_free(struct favor_plan *plan) {
  free(plan->kept.tags);
  free(plan->kept.features);
  plan->kept = (struct kept){0};
}

struct kept_tiles kept_of(const struct favor_plan *plan, int64_t unit, int64_t offset, int64_t token) {
  const struct kept *kept = &plan->kept;
  const int64_t tile = (offset - kept->begin) / plan->engine.kernel->tile_tokens;
  if (unit >= kept->n_units || offset < kept->begin || tile >= kept->unit_tiles) return (struct kept_tiles){.n = 0};
  const int64_t place = unit * kept->unit_tiles + tile;
  return (struct kept_tiles){.tags = kept->tags + place,
                             .features = kept->features + kept->tile_bytes * (size_t)place,
                             .tile_bytes = kept->tile_bytes,
                             .n = kept->unit_tiles - tile,
                             .first = {kept->pass, token}};
}

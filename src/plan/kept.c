#include "plan/kept.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "plan/memory.h"
#include "plan/plan.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Does a block absorb keys of this rank and then compute their outputs? */
static bool absorbs_first(const struct favor_plan *plan) {
  const struct schedule *schedule = &plan->schedule;
  if (schedule->kind != SCHEDULE_CAUSAL || schedule->part < 0 || range_count(plan->units) == 0) return false;
  if (plan->threads > range_count(plan->units)) return true; /* heads are cut into chunks */
  if (!schedule->may_meet) return false;
  if (plan->problem.is_streamed) return true;
  for (int parity = 0; parity < 2; parity++) {
    const struct span *span = &plan->spans[parity];
    const bool is_alone = range_count(span->piece) == range_count(schedule->shard);
    if (span->is_member && (!span->is_last || is_alone)) return true;
  }
  return false;
}

/* Where some batches of heads are relayed, all that the others would gain is lost in waiting for them. */
static bool is_relayed(const struct favor_plan *plan) {
  const int n_batches = plan_count_batches(plan);
  const struct span all = {.is_member = true, .n_parts = plan->schedule.n_parts};
  return plan->threads <= range_count(plan->units) && plan->problem.n_segments == 1 &&
         plan_count_absorbed(plan, &all, n_batches) < n_batches;
}

static size_t place_bytes(const struct kept *kept) { return kept->tile_bytes + sizeof *kept->tags; }

/* Of a key head, and one more, as a piece need not start at a tile's place. */
static int64_t block_tiles(const struct favor_plan *plan) {
  return plan->schedule.block_tokens / plan->engine.kernel->tile_tokens + 2;
}

double kept_share(const struct favor_plan *plan) {
  return plan->kept.n_units > 0 ? fmin(1, (double)plan->kept.unit_tiles / (double)block_tiles(plan)) : 0;
}

void kept_choose_all(struct favor_plan *plan) {
  plan->kept = (struct kept){0};
  if (!plan->engine.ops->features_bytes) return;
  plan->kept.tile_bytes = plan->engine.ops->features_bytes(&plan->engine.shape);
  plan->kept.n_units = range_count(plan->units);
  plan->kept.unit_tiles = block_tiles(plan);
}

void kept_choose(struct favor_plan *plan) {
  const int64_t tokens = plan->schedule.block_tokens, bound = plan->problem.memory_bytes;
  struct kept *kept = &plan->kept;
  *kept = (struct kept){0};
  if (!absorbs_first(plan) || is_relayed(plan)) return;
  kept_choose_all(plan);
  if (bound == 0 || kept->n_units == 0) return;
  const int64_t n_held = plan->problem.is_streamed && plan->problem.blocks_held > 1 ? plan->problem.blocks_held : 1;
  const int64_t others =
      (int64_t)plan_fixed_bytes(plan) + plan->problem.caller_bytes + n_held * tokens * (int64_t)plan_token_bytes(plan);
  const int64_t left = bound > others ? bound - others : 0;
  kept->unit_tiles = smaller(kept->unit_tiles, left / kept->n_units / (int64_t)place_bytes(kept));
}

size_t kept_bytes(const struct favor_plan *plan) {
  return (size_t)(plan->kept.n_units * plan->kept.unit_tiles) * place_bytes(&plan->kept);
}

void kept_allocate(struct favor_plan *plan) {
  struct kept *kept = &plan->kept;
  const size_t n = (size_t)(kept->n_units * kept->unit_tiles);
  if (n > 0) {
    kept->tags = memory_zeroed(n, sizeof *kept->tags);
    kept->features = memory_zeroed(n, kept->tile_bytes);
  }
  if (kept->tags && kept->features) return;
  kept_free(plan);
}

void kept_free(struct favor_plan *plan) {
  free(plan->kept.tags);
  free(plan->kept.features);
  plan->kept = (struct kept){0};
}

struct kept_tiles kept_of(const struct favor_plan *plan, int64_t unit, int64_t offset, int64_t token) {
  const struct kept *kept = &plan->kept;
  const int64_t tile = offset / plan->engine.kernel->tile_tokens;
  if (unit >= kept->n_units || tile >= kept->unit_tiles) return (struct kept_tiles){.n = 0};
  const int64_t place = unit * kept->unit_tiles + tile;
  return (struct kept_tiles){.tags = kept->tags + place,
                             .features = kept->features + kept->tile_bytes * (size_t)place,
                             .tile_bytes = kept->tile_bytes,
                             .n = kept->unit_tiles - tile,
                             .first = {kept->pass, token}};
}

#include "plan/rehearse.h"

#include "base/clock.h"

bool rehearse_kept(struct favor_plan *plan, const struct block_arrays *arrays, double *keep_s, double *kept_s) {
  kept_take_all(plan);
  if (plan->kept.n_units == 0) return false;
  plan->kept.pass++;
  const double begin = clock_now_s();
  execute_absorb(plan, arrays, plan->schedule.shard, SLOT_OWN);
  const double absorbed = clock_now_s();
  execute_emit(plan, arrays, plan->schedule.shard, SLOT_OWN, true);
  *kept_s = clock_now_s() - absorbed;
  *keep_s = absorbed - begin;
  return true;
}

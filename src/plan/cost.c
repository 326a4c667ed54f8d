#include "plan/cost.h"

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct grid cost_grid(const struct favor_problem *problem, int64_t n_units, int64_t size) {
  struct grid best = {1, 1, "one rank"};
  double least = 0;
  for (int64_t heads = 1; heads <= size && heads <= n_units; heads++) {
    int64_t tokens = size / heads;
    double per_token = problem->is_causal && tokens > 1 ? 12 : 8;
    double cost = per_token * (double)ceil_divide(n_units, heads) * (double)ceil_divide(problem->tokens, tokens);
    if (heads > 1 && cost > least) continue;
    least = cost;
    best = (struct grid){heads, tokens, heads == 1 ? "tokens are shared, the heads are too few to share" : ""};
  }
  if (best.heads > 1) {
    best.reason = best.tokens == 1 ? "heads share nothing" : "heads first, which share nothing, then tokens";
  }
  if (best.heads * best.tokens == 1) best.reason = "one rank";
  return best;
}

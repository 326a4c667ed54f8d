#include "plan/cost.h"

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t cost_absorbed_batches(int64_t n_parts, int64_t n_batches) {
  return n_parts <= n_batches ? n_parts - 1 : n_batches;
}

/* Heads are relayed where the tokens are one segment and states are all that ranks need of each other. */
static double flops_per_token(const struct favor_problem *problem, int64_t n_parts, int64_t n_units) {
  if (!problem->is_causal || n_parts == 1) return 8;
  if (problem->n_segments > 1 || problem->window >= 0 || problem->method != FAVOR_METHOD_FAVOR) return 12;
  const int64_t n_batches = n_units < COST_MOST_BATCHES ? n_units : COST_MOST_BATCHES;
  return 8 + 4 * (double)cost_absorbed_batches(n_parts, n_batches) / (double)n_batches;
}

struct grid cost_grid(const struct favor_problem *problem, int64_t n_units, int64_t size) {
  struct grid best = {1, 1, "one rank"};
  double least = 0;
  for (int64_t heads = 1; heads <= size && heads <= n_units; heads++) {
    const int64_t tokens = size / heads, units = ceil_divide(n_units, heads);
    const double cost = flops_per_token(problem, tokens, units) * (double)units *
                        (double)ceil_divide(problem->tokens, tokens);
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

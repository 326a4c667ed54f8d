#include "plan/cost.h"

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int cost_batches(const struct favor_problem *problem, const struct cost_job *job, int64_t n_units,
                 int64_t part_tokens) {
  enum { RUNS_OF_THREAD = 8 };
  const int64_t by_work = n_units * (part_tokens / job->run_tokens) / (RUNS_OF_THREAD * job->threads);
  int64_t n = problem->is_causal ? n_units / job->threads : n_units;
  if (n > by_work) n = by_work;
  return n < 1 ? 1 : n > COST_MOST_BATCHES ? COST_MOST_BATCHES : (int)n;
}

/* In units of M D flops a token, as in cost_grid. */
static int64_t absorbing_first(const struct cost_job *job) { return job->keeps_features ? 3 : 4; }

/* Features are kept where all batches are absorbed (plan/kept.c). */
int64_t cost_absorbed_batches(const struct cost_job *job, int64_t n_parts, int64_t n_batches) {
  const bool is_relayed = n_parts <= n_batches && 4 * (n_parts - 1) < absorbing_first(job) * n_batches;
  return is_relayed ? n_parts - 1 : n_batches;
}

/* The tokens of the busiest of n_parts. */
static int64_t share_tokens(const struct favor_problem *problem, const struct cost_job *job, int64_t n_parts) {
  const int64_t n_runs = ceil_divide(ceil_divide(problem->tokens, n_parts), job->run_tokens);
  return n_runs * job->run_tokens < problem->tokens ? n_runs * job->run_tokens : problem->tokens;
}

/* Heads are relayed where the tokens are one segment and states are all that ranks need of each other. Of a streamed
 * run, whose blocks are not known yet, it is taken for granted where a rank has one thread. */
static double flops_per_token(const struct favor_problem *problem, const struct cost_job *job, int64_t n_parts,
                              int64_t n_units) {
  if (!problem->is_causal || n_parts == 1) return 8;
  if (problem->window >= 0 || problem->method != FAVOR_METHOD_FAVOR) return 12;
  const double all_absorbed = 8 + (double)absorbing_first(job);
  if (problem->n_segments > 1 || (problem->is_streamed && job->threads > 1)) return all_absorbed;
  const int64_t n_batches = cost_batches(problem, job, n_units, problem->tokens / n_parts),
                n_absorbed = cost_absorbed_batches(job, n_parts, n_batches);
  return n_absorbed == n_batches ? all_absorbed : 8 + 4 * (double)n_absorbed / (double)n_batches;
}

struct grid cost_grid(const struct favor_problem *problem, const struct cost_job *job, int64_t n_units) {
  struct grid best = {1, 1, "one rank"};
  double least = 0;
  for (int64_t heads = 1; heads <= job->size && heads <= n_units; heads++) {
    const int64_t n_parts = job->size / heads, units = ceil_divide(n_units, heads);
    const double cost =
        flops_per_token(problem, job, n_parts, units) * (double)units * (double)share_tokens(problem, job, n_parts);
    if (heads > 1 && cost > least) continue;
    least = cost;
    best = (struct grid){heads, n_parts, heads == 1 ? "tokens are shared, which is the least work a rank" : ""};
  }
  if (best.heads > 1) {
    best.reason = best.tokens == 1 ? "heads share nothing" : "heads first, which share nothing, then tokens";
  }
  if (best.heads * best.tokens == 1) best.reason = "one rank";
  return best;
}

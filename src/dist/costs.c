#include "dist/costs.h"

#include <math.h>

#include "dist/agree.h"

struct favor_costs favor_costs_default(void) {
  /* A 100 Gb/s network, and binned_merge as measured on one core (0.8 to 1.0e-10 s per byte, states of 0.3 to 4 MB). */
  const struct favor_link_costs link = {.latency_s = 2e-6, .s_per_byte = 1e-10};
  return (struct favor_costs){.within_node = link, .between_nodes = link, .merge_s_per_byte = 1e-10};
}

static bool is_cost(double x) { return isfinite(x) && x > 0; }

static bool is_link(struct favor_link_costs link) { return is_cost(link.latency_s) && is_cost(link.s_per_byte); }

enum favor_status favor_context_set_costs(struct favor_context *context, const struct favor_costs *costs) {
  const double numbers[] = {costs->within_node.latency_s, costs->within_node.s_per_byte, costs->between_nodes.latency_s,
                            costs->between_nodes.s_per_byte, costs->merge_s_per_byte};
  if (!is_link(costs->within_node) || !is_link(costs->between_nodes) || !is_cost(costs->merge_s_per_byte)) {
    dist_fail(context, FAVOR_EUSAGE, "costs of moving and merging states must be finite and above 0");
  }
  const uint64_t digest = dist_digest(DIST_DIGEST_START, numbers, sizeof numbers);
  const enum favor_status status = dist_agree(context, DIST_SITE_PLAN_CHECK, digest, "costs of moving states");
  if (status == FAVOR_OK) context->costs = *costs;
  return status;
}

/* What ranks that are not all on one node wait for is the network. */
static struct favor_link_costs link_of(const struct favor_costs *costs, struct dist_layout layout) {
  return layout.per_node < layout.size ? costs->between_nodes : costs->within_node;
}

/* A message, and the merge of what it brings. */
static double step_s(const struct favor_costs *costs, struct favor_link_costs link, double bytes) {
  return bytes * (link.s_per_byte + costs->merge_s_per_byte);
}

/* ---- scans ------------------------------------------------------------------------------------------------------- */

int dist_costs_n_rounds(int size) {
  int rounds = 0;
  while (INT64_C(1) << rounds < size) rounds++;
  return rounds;
}

/* With K blocks the last one leaves rank 0 after K steps and takes P - 2 more to the last rank: P - 2 + K steps of
 * latency + bytes / K each. This is least at K = sqrt((P - 2) bytes / latency), all in seconds. */
int dist_costs_chain_n_blocks(const struct favor_costs *costs, struct dist_layout layout, double state_bytes) {
  enum { MAX_BLOCKS = 256 }; /* beyond, a block's latency is what counts */
  const struct favor_link_costs link = link_of(costs, layout);
  if (layout.size <= 2) return 1;
  double best = round(sqrt((layout.size - 2) * step_s(costs, link, state_bytes) / link.latency_s));
  return best < 1 ? 1 : best > MAX_BLOCKS ? MAX_BLOCKS : (int)best;
}

static double chain_s(const struct favor_costs *costs, struct dist_layout layout, double state_bytes) {
  const struct favor_link_costs link = link_of(costs, layout);
  const int n_blocks = dist_costs_chain_n_blocks(costs, layout, state_bytes);
  return (layout.size - 2 + n_blocks) * (link.latency_s + step_s(costs, link, state_bytes) / n_blocks);
}

/* Every round moves a state, and where it leaves the machine the ranks of one share its network card. Between the first
 * round and the last all merge it twice, in those two once, and the first needs no merge if it is the last. */
static double doubling_s(const struct favor_costs *costs, struct dist_layout layout, double state_bytes) {
  const int n_rounds = dist_costs_n_rounds(layout.size), n_within = dist_costs_n_rounds(layout.per_node);
  const struct favor_link_costs within = costs->within_node, between = costs->between_nodes;
  if (n_rounds == 0) return 0;
  return n_within * (within.latency_s + state_bytes * within.s_per_byte) +
         (n_rounds - n_within) * (between.latency_s + layout.per_node * state_bytes * between.s_per_byte) +
         2 * (n_rounds - 1) * state_bytes * costs->merge_s_per_byte;
}

/* Two scans one after another, a merge of the node's total, and the way back within a node. */
static double nodes_s(const struct favor_costs *costs, struct dist_layout layout, double state_bytes) {
  const int n_nodes = (layout.size + layout.per_node - 1) / layout.per_node;
  const struct favor_link_costs within = costs->within_node;
  return doubling_s(costs, (struct dist_layout){layout.per_node, layout.per_node}, state_bytes) +
         doubling_s(costs, (struct dist_layout){n_nodes, 1}, state_bytes) +
         dist_costs_n_rounds(layout.per_node) * (within.latency_s + state_bytes * within.s_per_byte) +
         2 * state_bytes * costs->merge_s_per_byte;
}

double dist_costs_scan_s(const struct favor_costs *costs, enum favor_scan scan, struct dist_layout layout,
                         double state_bytes) {
  if (layout.size < 2) return 0;
  switch (scan) {
  case FAVOR_SCAN_EXSCAN: {
    const struct favor_link_costs link = link_of(costs, layout);
    return (layout.size - 1) * (link.latency_s + step_s(costs, link, state_bytes));
  }
  case FAVOR_SCAN_DOUBLING:
    return doubling_s(costs, layout, state_bytes);
  case FAVOR_SCAN_CHAIN:
    return chain_s(costs, layout, state_bytes);
  case FAVOR_SCAN_NODES:
    return nodes_s(costs, layout, state_bytes);
  case FAVOR_SCAN_AUTO:
    break;
  }
  return dist_costs_scan_s(costs, dist_costs_choose_scan(costs, scan, layout, state_bytes), layout, state_bytes);
}

enum favor_scan dist_costs_choose_scan(const struct favor_costs *costs, enum favor_scan asked,
                                       struct dist_layout layout, double state_bytes) {
  if (asked != FAVOR_SCAN_AUTO) return asked;
  const double chain = dist_costs_scan_s(costs, FAVOR_SCAN_CHAIN, layout, state_bytes),
               doubling = dist_costs_scan_s(costs, FAVOR_SCAN_DOUBLING, layout, state_bytes),
               nodes = dist_costs_scan_s(costs, FAVOR_SCAN_NODES, layout, state_bytes);
  const bool has_nodes = layout.per_node > 1 && layout.per_node < layout.size;
  if (has_nodes && nodes < doubling && nodes < chain) return FAVOR_SCAN_NODES;
  return chain < doubling ? FAVOR_SCAN_CHAIN : FAVOR_SCAN_DOUBLING;
}

/* By doubling within a line, a rank sends to all that are 1, 2, 4, ... places on. Of a node the last rank then does so
 * among the nodes, and what stands before the node goes back by a binomial tree: at most as many as there are rounds.
 */
double dist_costs_scan_sent(enum favor_scan scan, int rank, struct dist_layout layout) {
  if (scan == FAVOR_SCAN_DOUBLING) return dist_costs_n_rounds(layout.size - rank);
  if (scan != FAVOR_SCAN_NODES) return rank < layout.size - 1;
  const int node = rank / layout.per_node, n_nodes = (layout.size + layout.per_node - 1) / layout.per_node;
  const int begin = node * layout.per_node,
            n = layout.size - begin < layout.per_node ? layout.size - begin : layout.per_node;
  const int from_leader = n - 1 - (rank - begin);
  int sent = dist_costs_n_rounds(from_leader + 1) + (from_leader == 0 ? dist_costs_n_rounds(n_nodes - node) : 0);
  for (int distance = 1; node > 0 && distance < n; distance *= 2) {
    sent += from_leader < distance && from_leader + distance < n;
  }
  return sent;
}

const char *dist_costs_scan_name(enum favor_scan scan) {
  static const char *const names[] = {[FAVOR_SCAN_AUTO] = "auto",
                                      [FAVOR_SCAN_EXSCAN] = "exscan",
                                      [FAVOR_SCAN_DOUBLING] = "doubling",
                                      [FAVOR_SCAN_CHAIN] = "chain",
                                      [FAVOR_SCAN_NODES] = "nodes"};
  return names[scan];
}

/* ---- reductions -------------------------------------------------------------------------------------------------- */

/* The first round and the last, from the even ranks of pairs and back. */
static double fold_s(const struct favor_costs *costs, struct favor_link_costs link, struct fold fold,
                     double state_bytes) {
  if (fold.n_pairs == 0) return 0;
  return 2 * link.latency_s + state_bytes * (2 * link.s_per_byte + costs->merge_s_per_byte);
}

/* All but a share of the state there and back. */
static double shares_s(const struct favor_costs *costs, struct favor_link_costs link, int n_shares,
                       double state_bytes) {
  return state_bytes * (1 - 1.0 / n_shares) * (2 * link.s_per_byte + costs->merge_s_per_byte);
}

double dist_costs_reduction_s(const struct favor_costs *costs, enum dist_reduction reduction, struct dist_layout layout,
                              double state_bytes) {
  const struct fold fold = fold_of(layout.size);
  const struct favor_link_costs link = link_of(costs, layout);
  if (layout.size < 2) return 0;
  switch (reduction) {
  case DIST_REDUCTION_DOUBLING:
    return fold_s(costs, link, fold, state_bytes) + fold.n_levels * (link.latency_s + step_s(costs, link, state_bytes));
  case DIST_REDUCTION_HALVING:
    return fold_s(costs, link, fold, state_bytes) + 2 * fold.n_levels * link.latency_s +
           shares_s(costs, link, fold.power, state_bytes);
  default:
    return 2 * (layout.size - 1) * link.latency_s + shares_s(costs, link, layout.size, state_bytes);
  }
}

enum dist_reduction dist_costs_choose_reduction(const struct favor_costs *costs, struct dist_layout layout,
                                                double state_bytes) {
  enum dist_reduction best = DIST_REDUCTION_DOUBLING;
  for (int other = best + 1; other < DIST_N_REDUCTIONS; other++) {
    const bool is_better = dist_costs_reduction_s(costs, (enum dist_reduction)other, layout, state_bytes) <
                           dist_costs_reduction_s(costs, best, layout, state_bytes);
    if (is_better) best = (enum dist_reduction)other;
  }
  return best;
}

/* In a pair the odd rank takes part in all, and gives the sum back in the end. */
double dist_costs_reduction_sent(enum dist_reduction reduction, int size) {
  const struct fold fold = fold_of(size);
  if (size < 2) return 0;
  if (reduction == DIST_REDUCTION_RING) return 2 * (1 - 1.0 / size);
  const double sent = reduction == DIST_REDUCTION_DOUBLING ? fold.n_levels : 2 * (1 - 1.0 / fold.power);
  return sent + (fold.n_pairs > 0);
}

/* What it costs to move and to merge states: the formulas by which algorithms are chosen and runs predicted. They know
 * the costs, how many ranks there are and how large a state is; no communicator. */
#ifndef FAVOR_DIST_COSTS_H
#define FAVOR_DIST_COSTS_H

#include <favor/favor_machine.h>

/* Ranks in order, of which up to per_node neighbours share a machine and its network card. */
struct dist_layout {
  int size, per_node;
};

/* The number of rounds r with 2^r < size. */
int dist_costs_n_rounds(int size);

/* Blocks into which the chain cuts a state. */
int dist_costs_chain_n_blocks(const struct favor_costs *costs, struct dist_layout layout, double state_bytes);

/* From all partial states being there until the last rank has its prefix. */
double dist_costs_scan_s(const struct favor_costs *costs, enum favor_scan scan, struct dist_layout layout,
                         double state_bytes);
/* The cheapest; what is asked for where that is not FAVOR_SCAN_AUTO. The linear scan is never chosen by cost: it is the
 * baseline to hold the others against. */
enum favor_scan dist_costs_choose_scan(const struct favor_costs *costs, enum favor_scan asked,
                                       struct dist_layout layout, double state_bytes);
/* States that a rank sends, a scan by nodes as if all had as many. */
double dist_costs_scan_sent(enum favor_scan scan, int rank, struct dist_layout layout);
/* "exscan", "doubling", "chain", "nodes" */
const char *dist_costs_scan_name(enum favor_scan scan);

/* Sizes that are no power of two: the first 2 n_pairs ranks are pairs, and one of each and the others are `power`. */
struct fold {
  int n_levels, power, n_pairs;
};
static inline struct fold fold_of(int size) {
  struct fold fold = {.power = 1};
  for (; fold.power <= size / 2; fold.power *= 2) fold.n_levels++;
  fold.n_pairs = size - fold.power;
  return fold;
}

/* The all-reduce; see reduce.c. */
enum dist_reduction { DIST_REDUCTION_DOUBLING, DIST_REDUCTION_HALVING, DIST_REDUCTION_RING, DIST_N_REDUCTIONS };
double dist_costs_reduction_s(const struct favor_costs *costs, enum dist_reduction reduction, struct dist_layout layout,
                              double state_bytes);
enum dist_reduction dist_costs_choose_reduction(const struct favor_costs *costs, struct dist_layout layout,
                                                double state_bytes);
/* States that the busiest rank sends. */
double dist_costs_reduction_sent(enum dist_reduction reduction, int size);

#endif

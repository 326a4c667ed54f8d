/* What stands in for the machine in a simulation: time for what is computed, and memory that is not there. */
#ifndef FAVOR_SIM_HOOKS_H
#define FAVOR_SIM_HOOKS_H

#include <stdbool.h>

/* The ranks are threads of one process and give all the same, so that these are globals. */
extern struct sim_hooks {
  double merge_s_per_row;
  double poll_s; /* what it takes to look at an operation in flight */
  bool is_timed; /* states have no content: ranks share their memory, and merging takes its time only */
} sim_hooks;

/* That much time goes by for this rank. */
void sim_pass(double seconds);

#endif

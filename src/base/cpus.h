/* Which CPUs the ranks of a node, and a rank's threads, run on: arithmetic on affinity masks. A CPU is what Linux
 * numbers as one, a hardware thread; a core has one or several. Define _GNU_SOURCE before any header. */
#ifndef FAVOR_BASE_CPUS_H
#define FAVOR_BASE_CPUS_H

#include <sched.h>
#include <stdbool.h>

/* Where a CPU sits. */
struct cpus_site {
  int cpu, package;
  int first_sibling; /* the lowest CPU of its core */
};

/* Sorted, so that neighbours share most: packages, in them cores, in these CPUs. */
struct cpus_topology {
  int n;
  int cpu[CPU_SETSIZE];
  int core[CPU_SETSIZE]; /* of cpu[i], counted from 0 in this order */
};

/* From n <= CPU_SETSIZE sites, which it sorts. */
void cpus_sort(struct cpus_site *sites, int n, struct cpus_topology *topology);
/* Of these CPUs of this machine, as Linux describes them; one of which nothing is said is a core of its own. */
void cpus_read_topology(const cpu_set_t *cpus, struct cpus_topology *topology);

/* Cores that have a CPU in the set. */
int cpus_count_cores(const struct cpus_topology *topology, const cpu_set_t *set);

/* A rank of the node. */
struct cpus_rank {
  cpu_set_t mask;    /* where it may run */
  cpu_set_t share;   /* what it has of that for itself; the mask itself where is_alone is false */
  bool is_alone;     /* on the CPUs of its share; false where there are not cores enough for it */
  double fair_share; /* its mask's cores, each divided by the ranks that may run on it */
  int fair_cores;    /* whole ones of that */
  int first, last;   /* of its mask's cores */
  int quota;         /* cores that it still takes */
};

/* Shares the cores of a node out, given the masks: no core to two ranks, neighbouring ones to each. Ranks with the same
 * mask cut it into equal parts, in order of rank. */
void cpus_share(const struct cpus_topology *topology, struct cpus_rank *ranks, int n_ranks);

/* What a thread has for itself. */
enum cpus_fit {
  CPUS_FIT_CORES,  /* one or more cores, all CPUs of them that are in the share */
  CPUS_FIT_CPUS,   /* one or more CPUs, of cores that other threads use too */
  CPUS_FIT_NOTHING /* there are more threads than CPUs, and each may use them all */
};
/* The CPUs of one of n_threads threads: the share is cut into n_threads parts as equal as can be. */
enum cpus_fit cpus_of_thread(const struct cpus_topology *topology, const cpu_set_t *share, int n_threads, int thread,
                             cpu_set_t *cpus);

#endif

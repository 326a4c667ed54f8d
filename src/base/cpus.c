#define _GNU_SOURCE /* CPU sets */
#include "base/cpus.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- topology ---------------------------------------------------------------------------------------------------- */

static int compare_sites(const void *a, const void *b) {
  const struct cpus_site *x = a, *y = b;
  if (x->package != y->package) return x->package < y->package ? -1 : 1;
  if (x->first_sibling != y->first_sibling) return x->first_sibling < y->first_sibling ? -1 : 1;
  return (x->cpu > y->cpu) - (x->cpu < y->cpu);
}

void cpus_sort(struct cpus_site *sites, int n, struct cpus_topology *topology) {
  qsort(sites, (size_t)n, sizeof *sites, compare_sites);
  topology->n = n;
  for (int i = 0, core = -1; i < n; i++) {
    bool is_sibling =
        i > 0 && sites[i].package == sites[i - 1].package && sites[i].first_sibling == sites[i - 1].first_sibling;
    core += !is_sibling;
    topology->cpu[i] = sites[i].cpu;
    topology->core[i] = core;
  }
}

/* The first number in a file about the CPU; `otherwise` where there is none. */
static int read_number(int cpu, const char *name, int otherwise) {
  char path[128];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, name);
  FILE *file = fopen(path, "re");
  int number;
  if (!file) return otherwise;
  if (fscanf(file, "%d", &number) != 1) number = otherwise;
  fclose(file);
  return number;
}

void cpus_read_topology(const cpu_set_t *cpus, struct cpus_topology *topology) {
  struct cpus_site sites[CPU_SETSIZE];
  int n = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, cpus)) continue;
    sites[n++] = (struct cpus_site){.cpu = cpu,
                                    .package = read_number(cpu, "physical_package_id", 0),
                                    .first_sibling = read_number(cpu, "thread_siblings_list", cpu)};
  }
  cpus_sort(sites, n, topology);
}

/* The positions after i that hold the rest of its core. */
static int core_end(const struct cpus_topology *topology, int i) {
  int end = i + 1;
  while (end < topology->n && topology->core[end] == topology->core[i]) end++;
  return end;
}

static bool has_any(const struct cpus_topology *topology, const cpu_set_t *set, int begin, int end) {
  for (int i = begin; i < end; i++) {
    if (CPU_ISSET(topology->cpu[i], set)) return true;
  }
  return false;
}

int cpus_count_cores(const struct cpus_topology *topology, const cpu_set_t *set) {
  int count = 0;
  for (int i = 0, end; i < topology->n; i = end) {
    end = core_end(topology, i);
    count += has_any(topology, set, i, end);
  }
  return count;
}

/* ---- ranks ------------------------------------------------------------------------------------------------------- */

/* Of two ranks that may have a core, the one that can wait less takes it. */
static bool goes_before(const struct cpus_rank *a, const struct cpus_rank *b) {
  if (a->last != b->last) return a->last < b->last;
  if (a->first != b->first) return a->first < b->first;
  return a < b;
}

/* The whole part of a sum of up to some thousand fractions, which may fall short of it by rounding. */
static int whole(double x) { return (int)floor(x + 1e-6); }

static void measure_ranks(const struct cpus_topology *topology, struct cpus_rank *ranks, int n_ranks) {
  for (int r = 0; r < n_ranks; r++) {
    ranks[r].fair_share = 0;
    ranks[r].first = ranks[r].last = -1;
  }
  for (int i = 0, end; i < topology->n; i = end) {
    int n_users = 0;
    end = core_end(topology, i);
    for (int r = 0; r < n_ranks; r++) n_users += has_any(topology, &ranks[r].mask, i, end);
    for (int r = 0; r < n_ranks; r++) {
      if (!has_any(topology, &ranks[r].mask, i, end)) continue;
      ranks[r].fair_share += 1.0 / n_users;
      if (ranks[r].first < 0) ranks[r].first = topology->core[i];
      ranks[r].last = topology->core[i];
    }
  }
  for (int r = 0; r < n_ranks; r++) ranks[r].fair_cores = whole(ranks[r].fair_share);
}

/* Whole cores for fractions: what the sum over the ranks that go before leaves between two whole numbers. */
static int quota_of(const struct cpus_rank *ranks, int n_ranks, int rank) {
  double before = 0;
  for (int r = 0; r < n_ranks; r++) before += goes_before(&ranks[r], &ranks[rank]) ? ranks[r].fair_share : 0;
  return whole(before + ranks[rank].fair_share) - whole(before);
}

/* The rank that takes the core at these positions; NULL for none. Where some have less than a core each, the scheduler
 * does better than a rule: they stay on their masks, whose cores are nobody else's. */
static struct cpus_rank *taker_of(const struct cpus_topology *topology, struct cpus_rank *ranks, int n_ranks, int begin,
                                  int end) {
  struct cpus_rank *taker = NULL;
  for (int r = 0; r < n_ranks; r++) {
    if (!has_any(topology, &ranks[r].mask, begin, end)) continue;
    if (ranks[r].fair_cores < 1) return NULL;
    if (ranks[r].quota > 0 && (!taker || goes_before(&ranks[r], taker))) taker = &ranks[r];
  }
  return taker;
}

void cpus_share(const struct cpus_topology *topology, struct cpus_rank *ranks, int n_ranks) {
  measure_ranks(topology, ranks, n_ranks);
  for (int r = 0; r < n_ranks; r++) {
    ranks[r].quota = quota_of(ranks, n_ranks, r);
    CPU_ZERO(&ranks[r].share);
  }
  for (int i = 0, end; i < topology->n; i = end) {
    end = core_end(topology, i);
    struct cpus_rank *taker = taker_of(topology, ranks, n_ranks, i, end);
    if (!taker) continue;
    taker->quota--;
    for (int j = i; j < end; j++) {
      if (CPU_ISSET(topology->cpu[j], &taker->mask)) CPU_SET(topology->cpu[j], &taker->share);
    }
  }
  for (int r = 0; r < n_ranks; r++) {
    ranks[r].is_alone = CPU_COUNT(&ranks[r].share) > 0;
    if (!ranks[r].is_alone) ranks[r].share = ranks[r].mask;
  }
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

enum cpus_fit cpus_of_thread(const struct cpus_topology *topology, const cpu_set_t *share, int n_threads, int thread,
                             cpu_set_t *cpus) {
  int n_cores = cpus_count_cores(topology, share), n_cpus = CPU_COUNT(share);
  if (n_threads > n_cpus) {
    *cpus = *share;
    return CPUS_FIT_NOTHING;
  }
  bool is_by_core = n_threads <= n_cores;
  int n_units = is_by_core ? n_cores : n_cpus, last_core = -1, unit = -1;
  int begin = (int)((long)n_units * thread / n_threads), end = (int)((long)n_units * (thread + 1) / n_threads);
  CPU_ZERO(cpus);
  for (int i = 0; i < topology->n; i++) {
    if (!CPU_ISSET(topology->cpu[i], share)) continue;
    unit += !is_by_core || topology->core[i] != last_core;
    last_core = topology->core[i];
    if (unit >= begin && unit < end) CPU_SET(topology->cpu[i], cpus);
  }
  return is_by_core ? CPUS_FIT_CORES : CPUS_FIT_CPUS;
}

/* Which CPUs each rank of a node and each of its threads gets: on a node of two packages of four cores of two hardware
 * threads, numbered as Linux often does: packages take turns, second siblings come last. */
#define _GNU_SOURCE /* CPU sets */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpus.h"

enum { N_CORES = 8, N_CPUS = 16, MOST_RANKS = 12 };

static struct cpus_topology node(void) {
  struct cpus_site sites[N_CPUS];
  struct cpus_topology topology;
  for (int i = 0; i < N_CPUS; i++) {
    int cpu = i * 5 % N_CPUS; /* in no order */
    sites[i] = (struct cpus_site){.cpu = cpu, .package = cpu % 2, .first_sibling = cpu % N_CORES};
  }
  cpus_sort(sites, N_CPUS, &topology);
  return topology;
}

/* "0,8 1" -> two sets, separated by blanks; returns how many. */
static int parse(const char *text, cpu_set_t *sets) {
  int n = 0;
  CPU_ZERO(&sets[0]);
  for (char *end; *text; text = end) {
    CPU_SET((int)strtol(text, &end, 10), &sets[n]);
    if (*end == ' ') CPU_ZERO(&sets[++n]);
    if (*end) end++;
  }
  return n + 1;
}

static void assert_sets(const cpu_set_t *got, const char *expected, int n) {
  cpu_set_t sets[N_CPUS];
  assert_int_equal(parse(expected, sets), n);
  for (int i = 0; i < n; i++) {
    if (!CPU_EQUAL(&got[i], &sets[i])) fail_msg("number %d is not as in '%s'", i, expected);
  }
}

static cpu_set_t set_of(const char *text) {
  cpu_set_t set;
  parse(text, &set);
  return set;
}

static const char all[] = "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15";

static void neighbours_share_most(void **state) {
  (void)state;
  struct cpus_topology topology = node();
  static const int cpus[N_CPUS] = {0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15};
  assert_int_equal(topology.n, N_CPUS);
  for (int i = 0; i < N_CPUS; i++) {
    assert_int_equal(topology.cpu[i], cpus[i]);
    assert_int_equal(topology.core[i], i / 2);
  }
  cpu_set_t set = set_of("0,8,3");
  assert_int_equal(cpus_count_cores(&topology, &set), 2);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static void assert_threads(const char *share, int n_threads, enum cpus_fit fit, const char *expected) {
  struct cpus_topology topology = node();
  cpu_set_t set = set_of(share), got[N_CPUS];
  for (int t = 0; t < n_threads; t++) {
    assert_int_equal(cpus_of_thread(&topology, &set, n_threads, t, &got[t]), fit);
  }
  assert_sets(got, expected, n_threads);
}

static void threads_get_cores_of_their_own(void **state) {
  (void)state;
  assert_threads(all, 1, CPUS_FIT_CORES, all);
  assert_threads(all, 2, CPUS_FIT_CORES, "0,8,2,10,4,12,6,14 1,9,3,11,5,13,7,15");
  assert_threads(all, 3, CPUS_FIT_CORES, "0,8,2,10 4,12,6,14,1,9 3,11,5,13,7,15");
  assert_threads(all, 8, CPUS_FIT_CORES, "0,8 2,10 4,12 6,14 1,9 3,11 5,13 7,15");
  /* One sibling of a core, both of another. */
  assert_threads("8,2,10", 2, CPUS_FIT_CORES, "8 2,10");
}

static void threads_beyond_the_cores_share_them(void **state) {
  (void)state;
  assert_threads("0,8,2,10", 3, CPUS_FIT_CPUS, "0 8 2,10");
  assert_threads("0,8,2,10", 4, CPUS_FIT_CPUS, "0 8 2 10");
  assert_threads("0,8", 3, CPUS_FIT_NOTHING, "0,8 0,8 0,8");
  assert_threads("5", 2, CPUS_FIT_NOTHING, "5 5");
}

/* ---- ranks ------------------------------------------------------------------------------------------------------- */

/* masks and expected: a set a rank. n_alone: how many have theirs for themselves. */
static void assert_ranks(const char *masks, const char *expected, int n_alone) {
  struct cpus_topology topology = node();
  struct cpus_rank ranks[MOST_RANKS];
  cpu_set_t sets[MOST_RANKS];
  int n = parse(masks, sets);
  for (int r = 0; r < n; r++) ranks[r].mask = sets[r];
  cpus_share(&topology, ranks, n);
  for (int r = 0; r < n; r++) {
    n_alone -= ranks[r].is_alone;
    sets[r] = ranks[r].share;
  }
  assert_sets(sets, expected, n);
  assert_int_equal(n_alone, 0);
}

static void ranks_with_one_mask_cut_it(void **state) {
  (void)state;
  char masks[MOST_RANKS * sizeof all];
  const char *const expected[] = {[1] = all,
                                  [2] = "0,8,2,10,4,12,6,14 1,9,3,11,5,13,7,15",
                                  [5] = "0,8 2,10,4,12 6,14 1,9,3,11 5,13,7,15",
                                  [8] = "0,8 2,10 4,12 6,14 1,9 3,11 5,13 7,15"};
  for (int n = 1; n <= 8; n++) {
    if (!expected[n]) continue;
    masks[0] = '\0';
    for (int r = 0; r < n; r++) strcat(strcat(masks, r > 0 ? " " : ""), all);
    assert_ranks(masks, expected[n], n);
  }
}

static void ranks_on_sockets_stay_there(void **state) {
  (void)state;
  /* As by mpirun --bind-to socket, ranks taking turns. */
  assert_ranks("0,2,4,6,8,10,12,14 1,3,5,7,9,11,13,15 0,2,4,6,8,10,12,14 1,3,5,7,9,11,13,15",
               "0,8,2,10 1,9,3,11 4,12,6,14 5,13,7,15", 4);
  /* Each has its own already. */
  assert_ranks("0,8,2 1,9 3,5,7", "0,8,2 1,9 3,5,7", 3);
}

static void overlapping_masks_do_not_collide(void **state) {
  (void)state;
  assert_ranks("0,2,4,6 4,6,1,3", "0,2,4 6,1,3", 2);
  assert_ranks("4,6,1,3 0,2,4,6", "6,1,3 0,2,4", 2);
  assert_ranks("0,2,4,6,1 2,4", "0,4,6,1 2", 2); /* the one with less choice goes first */
  /* Where one has less than a core of its own on average it keeps its mask, and the other keeps off. */
  assert_ranks("0,2,4,6,1,3,5,7 7", "0,2,4,6,1,3,5 7", 1);
}

static void ranks_beyond_the_cores_stay_as_they_are(void **state) {
  (void)state;
  assert_ranks("0,8 0,8", "0,8 0,8", 0);
  assert_ranks("0,8,2,10 0,8,2,10 0,8,2,10", "0,8,2,10 0,8,2,10 0,8,2,10", 0);
  /* The first two have less than a core on average, and so keep theirs; the third keeps off. */
  assert_ranks("0 0,2 0,2,4", "0 0,2 4", 1);
  /* Hardware threads of one core, as by mpirun --bind-to hwthread. */
  assert_ranks("0 8", "0 8", 0);
}

/* Whatever runs of cores the masks are. */
static void shares_are_disjoint_parts_of_masks(void **state) {
  (void)state;
  struct cpus_topology topology = node();
  srand(1);
  for (int round = 0; round < 20000; round++) {
    struct cpus_rank ranks[MOST_RANKS];
    int n = 1 + rand() % MOST_RANKS;
    cpu_set_t taken;
    CPU_ZERO(&taken);
    for (int r = 0; r < n; r++) {
      int a = rand() % N_CORES, b = rand() % N_CORES;
      CPU_ZERO(&ranks[r].mask);
      for (int i = 2 * (a < b ? a : b); i < 2 * (a < b ? b : a) + 2; i++) CPU_SET(topology.cpu[i], &ranks[r].mask);
    }
    cpus_share(&topology, ranks, n);
    for (int r = 0; r < n; r++) {
      cpu_set_t common;
      CPU_AND(&common, &ranks[r].share, &ranks[r].mask);
      assert_true(CPU_EQUAL(&common, &ranks[r].share) && CPU_COUNT(&common) > 0);
      if (!ranks[r].is_alone) assert_true(CPU_EQUAL(&ranks[r].share, &ranks[r].mask));
    }
    for (int alone = 1; alone >= 0; alone--) {
      for (int r = 0; r < n; r++) {
        cpu_set_t common;
        if (ranks[r].is_alone != alone) continue;
        CPU_AND(&common, &ranks[r].share, &taken);
        if (alone || ranks[r].fair_cores < 1) assert_int_equal(CPU_COUNT(&common), 0);
        if (alone) CPU_OR(&taken, &taken, &ranks[r].share);
      }
    }
  }
}

/* ---- this machine ------------------------------------------------------------------------------------------------ */

static void this_machine_is_described(void **state) {
  (void)state;
  cpu_set_t mask;
  struct cpus_topology topology;
  assert_int_equal(sched_getaffinity(0, sizeof mask, &mask), 0);
  cpus_read_topology(&mask, &topology);
  assert_int_equal(topology.n, CPU_COUNT(&mask));
  for (int i = 0; i < topology.n; i++) assert_true(CPU_ISSET(topology.cpu[i], &mask));
  int n_cores = cpus_count_cores(&topology, &mask);
  assert_true(n_cores >= 1 && n_cores <= topology.n);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(neighbours_share_most),
      cmocka_unit_test(threads_get_cores_of_their_own),
      cmocka_unit_test(threads_beyond_the_cores_share_them),
      cmocka_unit_test(ranks_with_one_mask_cut_it),
      cmocka_unit_test(ranks_on_sockets_stay_there),
      cmocka_unit_test(overlapping_masks_do_not_collide),
      cmocka_unit_test(ranks_beyond_the_cores_stay_as_they_are),
      cmocka_unit_test(shares_are_disjoint_parts_of_masks),
      cmocka_unit_test(this_machine_is_described),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

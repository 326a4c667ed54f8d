/* Threads run on CPUs of their own while the library computes, and nowhere else than before when it is done. */
#define _GNU_SOURCE /* CPU sets */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>
#include <omp.h>

#include <favor/favor.h>

#include "plan/binding.h"

enum { MOST_THREADS = 64, TOKENS = 4000, WIDTH = 64 };

static struct favor_context *context; /* of one rank */

static cpu_set_t own_mask(void) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  assert_int_equal(sched_getaffinity(0, sizeof mask, &mask), 0);
  return mask;
}

/* The masks of a team's threads, before, within and after what the library does with them. */
static void look(struct binding *binding, cpu_set_t *before, cpu_set_t *within, cpu_set_t *after) {
#pragma omp parallel num_threads(binding_threads(binding))
  {
    int t = omp_get_thread_num();
    sched_getaffinity(0, sizeof *before, &before[t]);
    binding_enter(binding);
    sched_getaffinity(0, sizeof *within, &within[t]);
    binding_leave(binding);
    sched_getaffinity(0, sizeof *after, &after[t]);
  }
}

static void a_thread_a_core_by_default(void **state) {
  (void)state;
  cpu_set_t before[MOST_THREADS], within[MOST_THREADS], after[MOST_THREADS], taken, mask = own_mask();
  struct binding *binding = binding_create(context, 0);
  int n = binding_threads(binding);
  assert_true(n >= 1 && n <= CPU_COUNT(&mask) && n == binding_cores(binding));
  assert_string_equal(binding_name(binding), "cores");
  if (n > MOST_THREADS) skip();
  look(binding, before, within, after);
  CPU_ZERO(&taken);
  for (int t = 0; t < n; t++) {
    cpu_set_t common;
    CPU_AND(&common, &taken, &within[t]);
    assert_int_equal(CPU_COUNT(&common), 0);
    CPU_OR(&taken, &taken, &within[t]);
    assert_true(CPU_COUNT(&within[t]) >= 1 && CPU_EQUAL(&before[t], &mask) && CPU_EQUAL(&after[t], &mask));
  }
  assert_true(CPU_EQUAL(&taken, &mask));
  binding_destroy(binding);
}

/* A rank that may run on one CPU only; threads that came to have other masks than when the plan was made. */
static void masks_of_others_are_left_alone(void **state) {
  (void)state;
  cpu_set_t before[2], within[2], after[2], mask = own_mask(), one;
  if (CPU_COUNT(&mask) < 2) skip();
  struct binding *wide = binding_create(context, 2);
  int cpu = CPU_SETSIZE - 1;
  while (!CPU_ISSET(cpu, &mask)) cpu--;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  struct binding *narrow = binding_create(context, 2);
  assert_int_equal(binding_cores(narrow), 1);
  assert_true(binding_is_partial(narrow));
  assert_string_equal(binding_name(narrow), "none");
  look(narrow, before, within, after);
  for (int t = 0; t < 2; t++) assert_true(CPU_EQUAL(&before[t], &within[t]) && CPU_EQUAL(&before[t], &after[t]));
  look(wide, before, within, after);
  assert_true(CPU_EQUAL(&within[0], &one)); /* thread 0 is this one: its part of the node is elsewhere, or larger */
  for (int t = 0; t < 2; t++) assert_true(CPU_EQUAL(&before[t], &after[t]));
  sched_setaffinity(0, sizeof mask, &mask);
  binding_destroy(narrow);
  binding_destroy(wide);
}

static void the_user_s_own_binding_wins(void **state) {
  (void)state;
  cpu_set_t before[2], within[2], after[2];
  static const char *const names[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    setenv(names[i], "false", 1);
    struct binding *binding = binding_create(context, 2);
    unsetenv(names[i]);
    assert_string_equal(binding_name(binding), "environment");
    look(binding, before, within, after);
    for (int t = 0; t < 2; t++) assert_true(CPU_EQUAL(&before[t], &within[t]) && CPU_EQUAL(&before[t], &after[t]));
    binding_destroy(binding);
  }
}

static void execute_leaves_masks_as_they_were(void **state) {
  (void)state;
  float *data = calloc(4 * TOKENS * WIDTH, sizeof *data);
  struct favor_input q = {data, TOKENS * WIDTH, WIDTH}, k = {data + TOKENS * WIDTH, TOKENS * WIDTH, WIDTH},
                     v = {data + 2 * TOKENS * WIDTH, TOKENS * WIDTH, WIDTH};
  struct favor_output out = {data + 3 * TOKENS * WIDTH, TOKENS * WIDTH, WIDTH};
  struct favor_problem problem = favor_problem_default();
  cpu_set_t mask = own_mask(), after[2];
  problem.tokens = TOKENS;
  problem.threads = 2;
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct favor_plan *plan;
    problem.is_causal = is_causal;
    assert_int_equal(favor_plan_create(context, &problem, &plan), FAVOR_OK);
    assert_int_equal(favor_plan_execute(plan, &q, &k, &v, &out), FAVOR_OK);
    favor_plan_destroy(&plan);
#pragma omp parallel num_threads(2)
    sched_getaffinity(0, sizeof *after, &after[omp_get_thread_num()]);
    assert_true(CPU_EQUAL(&after[0], &mask) && CPU_EQUAL(&after[1], &mask));
  }
  free(data);
}

int main(int argc, char **argv) {
  /* Whoever runs this test may have said where threads run. */
  static const char *const names[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "OMP_NUM_THREADS"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unsetenv(names[i]);
  MPI_Init(&argc, &argv);
  if (favor_context_create(MPI_COMM_WORLD, &context) != FAVOR_OK) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_thread_a_core_by_default),
      cmocka_unit_test(masks_of_others_are_left_alone),
      cmocka_unit_test(the_user_s_own_binding_wins),
      cmocka_unit_test(execute_leaves_masks_as_they_were),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  favor_context_destroy(&context);
  MPI_Finalize();
  return failed;
}

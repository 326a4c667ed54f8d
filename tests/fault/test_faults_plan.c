/* Each agreement that a plan comes to, made to fail on the first, a middle and the last rank: all ranks leave with the
 * same status and the same text, and what they have still works. */
#include "mpi_cmocka.h"

#include <stdlib.h>
#include <string.h>

#include "dist/comm.h"
#include "run.h"

enum { MOST_AGREEMENTS = 64 }; /* of one site in one scenario */

struct scenario {
  struct run_contexts contexts;
  struct favor_problem problem;
  struct case_tensors tensors;
  char *expected, *out;
};

static bool is_the_same_everywhere(const void *data, size_t bytes) {
  char *first = malloc(bytes);
  memcpy(first, data, bytes);
  MPI_Bcast(first, (int)bytes, MPI_CHAR, 0, MPI_COMM_WORLD);
  bool same = memcmp(first, data, bytes) == 0;
  free(first);
  return same;
}

static void assert_failed_together(const struct scenario *s, enum favor_status status) {
  char text[STATUS_TEXT_BYTES] = "";
  strncpy(text, favor_context_message(s->contexts.world), sizeof text - 1);
  assert_all(status == FAVOR_EINTERNAL);
  assert_all(text[0] != '\0' && strchr(text, '\n') == NULL);
  assert_all(is_the_same_everywhere(text, sizeof text));
}

/* A run of the plan gives what one gave before any fault. */
static void assert_still_works(const struct scenario *s, struct favor_plan *plan, enum run_mode mode) {
  assert_all(run_plan(plan, &s->problem, &s->tensors, mode, s->out) == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, s->out, run_out_bytes(&s->problem));
  assert_all(memcmp(s->out, s->expected, run_out_bytes(&s->problem)) == 0);
}

/* Create and run with one injected fault. Returns whether the fault came to pass: the site was reached. */
static bool run_with_fault(const struct scenario *s, enum dist_site site, int rank, int skip, enum run_mode mode) {
  struct favor_context *world = s->contexts.world;
  struct favor_plan *plan = NULL;
  dist_inject(world, site, rank, skip);
  enum favor_status status = favor_plan_create(world, &s->problem, &plan);
  assert_all((plan == NULL) == (status != FAVOR_OK));
  bool has_failed = status != FAVOR_OK;
  if (!has_failed) {
    status = run_plan(plan, &s->problem, &s->tensors, mode, s->out);
    has_failed = status != FAVOR_OK;
  }
  assert_all(is_the_same_everywhere(&has_failed, sizeof has_failed));
  dist_inject(world, DIST_SITE_NONE, -1, 0);
  if (has_failed) assert_failed_together(s, status);
  if (plan == NULL) assert_all(favor_plan_create(world, &s->problem, &plan) == FAVOR_OK);
  assert_still_works(s, plan, mode);
  favor_plan_destroy(&plan);
  assert_all(plan == NULL);
  return has_failed;
}

/* How many agreements the site has, each failed in turn. */
static int fail_each_agreement(const struct scenario *s, enum dist_site site, int rank, enum run_mode mode) {
  int skip = 0;
  while (skip < MOST_AGREEMENTS && run_with_fault(s, site, rank, skip, mode)) skip++;
  assert_all(skip < MOST_AGREEMENTS);
  return skip;
}

static void fail_everywhere(const struct favor_problem *asked, enum run_mode mode) {
  static const enum dist_site always[] = {DIST_SITE_PLAN_CHECK, DIST_SITE_PLAN_DRAW, DIST_SITE_PLAN_MEMORY,
                                          DIST_SITE_PLAN_GROUPS, DIST_SITE_RUN_END};
  const int ranks[] = {0, mpi_size() / 2, mpi_size() - 1};
  struct scenario s = {.contexts = run_contexts_open(), .problem = *asked};
  run_set_mode(&s.problem, mode);
  s.problem.key_width = s.problem.value_width = 8;
  s.problem.features = 16;
  s.problem.tokens = 3 * run_tokens_of(s.contexts.self, &s.problem) + 5;
  s.problem.grid_heads = 1;
  s.problem.grid_tokens = mpi_size();
  case_tensors_create(&s.problem, 1, 1.0, &s.tensors);
  s.expected = malloc(run_out_bytes(&s.problem));
  s.out = malloc(run_out_bytes(&s.problem));
  assert_all(run_problem(s.contexts.world, &s.problem, &s.tensors, mode, s.expected) == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, s.expected, run_out_bytes(&s.problem));
  for (int i = 0; i < 3; i++) {
    for (size_t site = 0; site < sizeof always / sizeof always[0]; site++) {
      int n = fail_each_agreement(&s, always[site], ranks[i], mode);
      if (n == 0) run_print("no agreement at the site %s\n", dist_site_name(always[site]));
      assert_all(n > 0);
    }
    int n_blocks = fail_each_agreement(&s, DIST_SITE_BLOCK, ranks[i], mode);
    assert_all(mpi_size() == 1 || n_blocks > 0);
    const bool is_estimated = asked->key_shift != FAVOR_KEY_SHIFT_NONE || asked->key_max != FAVOR_KEY_MAX_NONE;
    assert_all((fail_each_agreement(&s, DIST_SITE_ESTIMATE, ranks[i], mode) > 0) == is_estimated);
  }
  free(s.expected);
  free(s.out);
  case_tensors_destroy(&s.tensors);
  run_contexts_close(&s.contexts);
}

static struct favor_problem problem_of(bool is_causal) {
  struct favor_problem problem = favor_problem_default();
  problem.is_causal = is_causal;
  return problem;
}

static void causal(void **state) {
  (void)state;
  struct favor_problem problem = problem_of(true);
  fail_everywhere(&problem, RUN_EXECUTE);
  fail_everywhere(&problem, RUN_BLOCKS);
}

static void bidirectional(void **state) {
  (void)state;
  struct favor_problem problem = problem_of(false);
  fail_everywhere(&problem, RUN_EXECUTE);
  fail_everywhere(&problem, RUN_BLOCKS);
}

static void estimates(void **state) {
  (void)state;
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct favor_problem problem = problem_of(is_causal);
    problem.key_shift = FAVOR_KEY_SHIFT_MEAN;
    problem.balance = FAVOR_BALANCE_FULL;
    fail_everywhere(&problem, is_causal ? RUN_EXECUTE : RUN_BLOCKS);
  }
}

static void key_maxima(void **state) {
  (void)state;
  struct favor_problem problem = problem_of(true);
  problem.eps = 1e-4;
  problem.key_max = FAVOR_KEY_MAX_TENSOR;
  fail_everywhere(&problem, RUN_BLOCKS);
}

/* Methods whose ranks need each other's tokens. */
static void exact(void **state) {
  (void)state;
  struct favor_problem problem = problem_of(false);
  problem.method = FAVOR_METHOD_EXACT;
  fail_everywhere(&problem, RUN_EXECUTE);
}

/* Windows with global tokens, sums over the length, and exchanges by hashes. */
static void baselines(void **state) {
  (void)state;
  static const enum favor_method methods[] = {FAVOR_METHOD_WINDOW, FAVOR_METHOD_LINFORMER, FAVOR_METHOD_LSH};
  for (int i = 0; i < 3; i++) {
    struct favor_problem problem = problem_of(false);
    problem.method = methods[i];
    problem.window = i == 0 ? 3 : -1;
    problem.global_tokens = i == 0 ? 2 : 0;
    fail_everywhere(&problem, RUN_EXECUTE);
  }
}

static void window(void **state) {
  (void)state;
  struct favor_problem problem = problem_of(false);
  problem.window = 3;
  fail_everywhere(&problem, RUN_BLOCKS);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(causal), mpi_unit_test(bidirectional), mpi_unit_test(estimates), mpi_unit_test(key_maxima),
      mpi_unit_test(exact),  mpi_unit_test(baselines),     mpi_unit_test(window),
  };
  return mpi_cmocka_main(&argc, &argv, "faults_plan", tests, sizeof tests / sizeof tests[0]);
}

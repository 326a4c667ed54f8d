/* dist/subset.h: contexts of the first few ranks, and waiting for them. */
#include "dist/subset.h"
#include "dist/agree.h"
#include "support/mpi_cmocka.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

static struct favor_context *make_context(void) {
  struct favor_context *context = NULL;
  enum favor_status status = favor_context_create(MPI_COMM_WORLD, &context);
  assert_all(status == FAVOR_OK && context != NULL);
  return context;
}

static void subsets_have_the_first_ranks(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  for (int n = 1; n <= mpi_size(); n++) {
    struct favor_context *subset = NULL;
    assert_all(dist_subset_create(context, n, &subset) == FAVOR_OK);
    assert_all((subset != NULL) == (mpi_rank() < n));
    int64_t most = mpi_rank();
    bool is_right = !subset || (favor_context_size(subset) == n && favor_context_rank(subset) == mpi_rank() &&
                                dist_max_int64(subset, &most, 1) == FAVOR_OK && most == n - 1);
    assert_all(is_right);
    favor_context_destroy(&subset);
  }
  favor_context_destroy(&context);
}

/* One rank of the subset fails: all of it, and then those that were not in it, have the same status and text. */
static void errors_are_passed_on(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  for (int n = 1; n <= mpi_size(); n++) {
    struct favor_context *subset = NULL;
    assert_all(dist_subset_create(context, n, &subset) == FAVOR_OK);
    if (subset) {
      if (mpi_rank() == n - 1) dist_fail(subset, FAVOR_EDATA, "rank %d of the subset", n - 1);
      dist_subset_pass_on(context, subset, dist_agree(subset, DIST_SITE_NONE, 0, ""));
    }
    assert_all(dist_agree(context, DIST_SITE_NONE, 0, "") == FAVOR_EDATA);
    char expected[64];
    snprintf(expected, sizeof expected, "rank %d of the subset", n - 1);
    assert_all(strcmp(favor_context_message(context), expected) == 0);
    assert_all(dist_agree(context, DIST_SITE_NONE, 0, "") == FAVOR_OK);
    favor_context_destroy(&subset);
  }
  favor_context_destroy(&context);
}

/* A subset that can communicate no more takes the context with it. */
static void a_dead_subset_is_the_end(void **state) {
  (void)state;
  struct favor_context *whole = make_context(), *subset = NULL;
  assert_all(dist_subset_create(whole, mpi_size(), &subset) == FAVOR_OK);
  dist_check(subset, MPI_ERR_OTHER, "a test");
  assert_all(dist_subset_pass_on(whole, subset, FAVOR_EMPI) == FAVOR_EMPI && whole->is_dead);
  assert_all(dist_rest(whole) == FAVOR_EMPI);
  whole->is_dead = subset->is_dead = false; /* so that they free what they have */
  favor_context_destroy(&subset);
  favor_context_destroy(&whole);
}

static double cpu_now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The last rank comes late: nobody leaves before, and nobody computes meanwhile. */
static void resting_waits_and_leaves_the_core(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  const double late_s = 0.3;
  assert_all(dist_agree(context, DIST_SITE_NONE, 0, "") == FAVOR_OK);
  const double begin = clock_now_s(), cpu_begin = cpu_now_s();
  if (mpi_rank() == mpi_size() - 1) nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
  const enum favor_status status = dist_rest(context);
  assert_all(status == FAVOR_OK);
  assert_all(clock_now_s() - begin > 0.9 * late_s);
  assert_all(cpu_now_s() - cpu_begin < 0.5 * late_s);
  favor_context_destroy(&context);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(subsets_have_the_first_ranks),
      mpi_unit_test(errors_are_passed_on),
      mpi_unit_test(a_dead_subset_is_the_end),
      mpi_unit_test(resting_waits_and_leaves_the_core),
  };
  return mpi_cmocka_main(&argc, &argv, "subset", tests, sizeof tests / sizeof tests[0]);
}

/* Faults of src/dist on one rank: all ranks get the same status, nobody hangs, and the context works afterwards. */
#include "base/memory.h"
#include "dist/agree.h"
#include "dist/group.h"
#include "dist/watch.h"
#include "support/mpi_cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The linker gives calls of memory_zeroed to the wrapper: the allocation number `fail_at` from now fails. */
void *__real_memory_zeroed(size_t count, size_t bytes);
void *__wrap_memory_zeroed(size_t count, size_t bytes);
static int fail_at = -1;
void *__wrap_memory_zeroed(size_t count, size_t bytes) {
  if (fail_at >= 0 && fail_at-- == 0) return NULL;
  return __real_memory_zeroed(count, bytes);
}

enum { N_FAILING = 3 };
static int failing_rank(int i) { return i == 0 ? 0 : i == 1 ? mpi_size() / 2 : mpi_size() - 1; }

static struct favor_context *make_context(void) {
  struct favor_context *context = NULL;
  enum favor_status status = favor_context_create(MPI_COMM_WORLD, &context);
  assert_all(status == FAVOR_OK);
  return context;
}

/* dist_inject at every site: as many agreements pass as asked, then all ranks fail with the text of the one. */
static void every_site_fails_on_demand(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  for (int site = DIST_SITE_NONE + 1; site < DIST_N_SITES; site++) {
    for (int i = 0; i < N_FAILING * 2; i++) {
      int rank = failing_rank(i / 2), n_passes = i % 2 * 2;
      char expected[128];
      snprintf(expected, sizeof expected, "injected failure at %s on rank %d", dist_site_name((enum dist_site)site),
               rank);
      dist_inject(context, (enum dist_site)site, rank, n_passes);
      for (int other = 0; other < DIST_N_SITES; other++) {
        if (other != site) assert_all(dist_agree(context, (enum dist_site)other, 0, NULL) == FAVOR_OK);
      }
      for (int pass = 0; pass < n_passes; pass++) {
        assert_all(dist_agree(context, (enum dist_site)site, 0, NULL) == FAVOR_OK);
      }
      assert_all(dist_agree(context, (enum dist_site)site, 0, NULL) == FAVOR_EINTERNAL);
      assert_all(strcmp(favor_context_message(context), expected) == 0);
    }
  }
  dist_inject(context, DIST_SITE_NONE, 0, 0);
  assert_all(dist_agree(context, DIST_SITE_COMMAND, 0, NULL) == FAVOR_OK);
  favor_context_destroy(&context);
}

static void no_memory_for_a_context(void **state) {
  (void)state;
  for (int i = 0; i < N_FAILING; i++) {
    struct favor_context *context = NULL;
    fail_at = mpi_rank() == failing_rank(i) ? 0 : -1;
    assert_all(favor_context_create(MPI_COMM_WORLD, &context) == FAVOR_ENOMEM);
    assert_all(context == NULL);
    fail_at = -1;
  }
}

/* Every allocation of a group fails once on each of the ranks; afterwards the same group can be made. */
static void no_memory_for_a_group(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  const enum favor_scan scans[] = {FAVOR_SCAN_EXSCAN, FAVOR_SCAN_DOUBLING, FAVOR_SCAN_CHAIN};
  const struct dist_group_shape shape = {1, 1, 8, 1000};
  int64_t n_failures = 0;
  for (int s = 0; s < 3; s++) {
    for (int i = 0; i < N_FAILING * 4; i++) {
      struct dist_group *group = NULL;
      bool is_failing = mpi_rank() == failing_rank(i / 4);
      fail_at = is_failing ? i % 4 : -1;
      enum favor_status own = dist_group_create(context, 0, &shape, scans[s], NULL, &group);
      bool has_failed = is_failing && fail_at == -1; /* this rank makes that many allocations */
      fail_at = -1;
      int64_t any_failed = has_failed;
      assert_all(dist_max_int64(context, &any_failed, 1) == FAVOR_OK);
      assert_all(own == (has_failed ? FAVOR_ENOMEM : FAVOR_OK));
      assert_all(dist_agree(context, DIST_SITE_PLAN_GROUPS, 0, NULL) == (any_failed ? FAVOR_ENOMEM : FAVOR_OK));
      assert_all(!any_failed || strstr(favor_context_message(context), "no memory") != NULL);
      dist_group_destroy(&group);
      n_failures += any_failed;
    }
  }
  /* The struct, the requests and two states, whatever the scan. */
  if (mpi_size() == 3) assert_all(n_failures == 3 * N_FAILING * 4);
  favor_context_destroy(&context);
}

static void no_memory_for_a_watch(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  for (int i = 0; i < N_FAILING; i++) {
    struct dist_watch *watch = NULL;
    bool is_failing = mpi_rank() == failing_rank(i) && mpi_size() > 1;
    fail_at = is_failing ? 0 : -1;
    enum favor_status own = dist_watch_start(context, 100, &watch);
    fail_at = -1;
    assert_all(own == (is_failing ? FAVOR_ENOMEM : FAVOR_OK));
    assert_all(dist_agree(context, DIST_SITE_COMMAND, 0, NULL) == (mpi_size() > 1 ? FAVOR_ENOMEM : FAVOR_OK));
    dist_watch_stop(&watch);
    context->watch = NULL;
  }
  favor_context_destroy(&context);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(every_site_fails_on_demand),
      mpi_unit_test(no_memory_for_a_context),
      mpi_unit_test(no_memory_for_a_group),
      mpi_unit_test(no_memory_for_a_watch),
  };
  return mpi_cmocka_main(&argc, &argv, "faults_dist", tests, sizeof tests / sizeof tests[0]);
}

/* The watch over waiting: what it must let pass. That it ends a job is tested with the program, in cli/stall. */
#include "dist/agree.h"
#include "dist/watch.h"
#include "support/mpi_cmocka.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

static const double TIMEOUT_S = 1;

static void sleep_for(double seconds) {
  struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&time, NULL);
}

static struct favor_context *make_context(void) {
  struct favor_context *context = NULL;
  enum favor_status status = favor_context_create(MPI_COMM_WORLD, &context);
  assert_all(status == FAVOR_OK);
  return context;
}

static void nothing_to_watch(void **state) {
  (void)state;
  struct favor_context *context = make_context(), *alone = NULL;
  struct dist_watch *watch = NULL;
  assert_all(dist_watch_start(context, 0, &watch) == FAVOR_OK && watch == NULL);
  assert_all(favor_context_create(MPI_COMM_SELF, &alone) == FAVOR_OK);
  assert_all(dist_watch_start(alone, TIMEOUT_S, &watch) == FAVOR_OK && watch == NULL);
  dist_watch_enter(watch, "nothing");
  dist_watch_leave(watch);
  dist_watch_stop(&watch);
  favor_context_destroy(&alone);
  favor_context_destroy(&context);
}

/* Rank 1 is late each time, though never by the timeout, so that the others wait nearly always. */
static void many_waits_are_not_a_long_one(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  struct dist_watch *watch = NULL;
  assert_all(dist_watch_start(context, TIMEOUT_S, &watch) == FAVOR_OK);
  for (int i = 0; i < 8; i++) {
    if (mpi_rank() == 1) sleep_for(0.3 * TIMEOUT_S);
    assert_all(dist_agree(context, DIST_SITE_NONE, 0, NULL) == FAVOR_OK);
  }
  favor_context_destroy(&context); /* before the watch, as the program does */
  dist_watch_stop(&watch);
  assert_all(watch == NULL);
}

/* All compute for longer than the timeout, also after waits within waits. */
static void work_is_not_waiting(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  struct dist_watch *watch = NULL;
  assert_all(dist_watch_start(context, TIMEOUT_S / 2, &watch) == FAVOR_OK);
  dist_watch_enter(watch, "one");
  dist_watch_enter(watch, "another");
  dist_watch_leave(watch);
  dist_watch_leave(watch);
  sleep_for(TIMEOUT_S);
  assert_all(dist_agree(context, DIST_SITE_NONE, 0, NULL) == FAVOR_OK);
  dist_watch_stop(&watch);
  favor_context_destroy(&context);
}

static void watches_come_and_go(void **state) {
  (void)state;
  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  for (int i = 0; i < 100; i++) {
    struct favor_context *context = make_context();
    struct dist_watch *watch = NULL;
    assert_all(dist_watch_start(context, 100, &watch) == FAVOR_OK);
    dist_watch_stop(&watch);
    favor_context_destroy(&context);
  }
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  for (int signal = 1; signal < 32; signal++) {
    assert_all(sigismember(&before, signal) == sigismember(&after, signal));
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(nothing_to_watch),
      mpi_unit_test(many_waits_are_not_a_long_one),
      mpi_unit_test(work_is_not_waiting),
      mpi_unit_test(watches_come_and_go),
  };
  return mpi_cmocka_main(&argc, &argv, "watch", tests, sizeof tests / sizeof tests[0]);
}

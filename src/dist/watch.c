#include "dist/watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

/* Waits are sampled: often enough for a short timeout, rarely enough to cost nothing. */
enum { TICKS_A_TIMEOUT = 16 };
static const double LONGEST_TICK_S = 1;

/* Rank 0 speaks first, and its end is the end of the job. The next ranks follow later one by one, for where it is one
 * of the dead; all others last. */
enum { LAST_SPEAKER = 4 };
static const double SPEAKER_DELAY_S = 2;

enum { EXIT_STALL = 70, LINE_BYTES = 256 };

struct dist_watch {
  int rank;
  double timeout_s, tick_s;
  int depth;                  /* of waits within waits; the thread that calls MPI only */
  _Atomic(const char *) step; /* waited in now; NULL: none */
  _Atomic uint64_t n_waits;   /* so far: the name of the wait at hand */
  pthread_t thread;
  pthread_mutex_t mutex; /* of is_over */
  pthread_cond_t over;
  bool is_over;
};

void dist_watch_enter(struct dist_watch *watch, const char *step) {
  if (!watch || watch->depth++ > 0) return;
  atomic_fetch_add(&watch->n_waits, 1);
  atomic_store(&watch->step, step);
}

void dist_watch_leave(struct dist_watch *watch) {
  if (!watch || --watch->depth > 0) return;
  atomic_store(&watch->step, NULL);
}

/* The lock of stderr may be held by a thread that will never return, and what stands in buffers is not to be told
 * twice: hence write() and _exit(). */
static _Noreturn void give_up(const struct dist_watch *watch, const char *step, double waited_s) {
  char line[LINE_BYTES];
  int length = snprintf(line, sizeof line,
                        "favor: error: rank %d has waited %.3g s for other ranks in %s; a rank is dead, or slower than "
                        "--stall-timeout\n",
                        watch->rank, waited_s, step);
  ssize_t n_written = write(STDERR_FILENO, line, (size_t)length);
  (void)n_written; /* there is nobody else to tell */
  _exit(EXIT_STALL);
}

static struct timespec later(double seconds) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  const double nanoseconds = (double)time.tv_nsec + seconds * 1e9;
  time.tv_sec += (time_t)(nanoseconds / 1e9);
  time.tv_nsec = (long)(nanoseconds - 1e9 * (double)(time_t)(nanoseconds / 1e9));
  return time;
}

/* Sleeps for a tick; false once the watch is over. */
static bool sleep_a_tick(struct dist_watch *watch) {
  const struct timespec until = later(watch->tick_s);
  pthread_mutex_lock(&watch->mutex);
  while (!watch->is_over && pthread_cond_timedwait(&watch->over, &watch->mutex, &until) != ETIMEDOUT) continue;
  const bool goes_on = !watch->is_over;
  pthread_mutex_unlock(&watch->mutex);
  return goes_on;
}

static void *watch_waits(void *data) {
  struct dist_watch *watch = data;
  const int delay = watch->rank < LAST_SPEAKER ? watch->rank : LAST_SPEAKER;
  const double limit_s = watch->timeout_s + delay * SPEAKER_DELAY_S;
  uint64_t known = 0; /* the wait seen last */
  double waited_s = 0, now = clock_now_s();
  while (sleep_a_tick(watch)) {
    const double before = now;
    now = clock_now_s();
    const char *step = atomic_load(&watch->step);
    const uint64_t wait = atomic_load(&watch->n_waits);
    /* A longer sleep than asked for is a process that was suspended. */
    const double elapsed_s = now - before < 2 * watch->tick_s ? now - before : 2 * watch->tick_s;
    waited_s = step && wait == known ? waited_s + elapsed_s : 0;
    known = wait;
    if (waited_s >= limit_s) give_up(watch, step, waited_s);
  }
  return NULL;
}

/* Signals are for the thread that computes. */
static int start_thread(struct dist_watch *watch) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&watch->thread, NULL, watch_waits, watch);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return error;
}

enum favor_status dist_watch_start(struct favor_context *context, double timeout_s, struct dist_watch **watch) {
  *watch = NULL;
  if (timeout_s <= 0 || context->size == 1) return FAVOR_OK;
  struct dist_watch *made = memory_zeroed(1, sizeof *made);
  if (!made) return dist_fail(context, FAVOR_ENOMEM, "no memory to watch for ranks that stall");
  made->rank = context->rank;
  made->timeout_s = timeout_s;
  made->tick_s = timeout_s / TICKS_A_TIMEOUT < LONGEST_TICK_S ? timeout_s / TICKS_A_TIMEOUT : LONGEST_TICK_S;
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&made->over, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&made->mutex, NULL);
  if (start_thread(made) != 0) {
    pthread_cond_destroy(&made->over);
    pthread_mutex_destroy(&made->mutex);
    free(made);
    return dist_fail(context, FAVOR_ENOMEM, "rank %d: no thread to watch for ranks that stall", context->rank);
  }
  context->watch = *watch = made;
  return FAVOR_OK;
}

void dist_watch_stop(struct dist_watch **watch) {
  struct dist_watch *stopped = *watch;
  if (!stopped) return;
  pthread_mutex_lock(&stopped->mutex);
  stopped->is_over = true;
  pthread_cond_signal(&stopped->over);
  pthread_mutex_unlock(&stopped->mutex);
  pthread_join(stopped->thread, NULL);
  pthread_cond_destroy(&stopped->over);
  pthread_mutex_destroy(&stopped->mutex);
  free(stopped);
  *watch = NULL;
}

/* A rank's I/O thread: a ring of jobs, and the thread that does them one after another. It makes no MPI call, sleeps
 * when it has nothing to do or waits for the disk, and blocks all signals: those are for the thread that the program
 * started with. What it finds wrong stays in the lane until the caller's thread fetches it. */
#define _GNU_SOURCE /* pthread_setname_np */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "dist/comm.h"
#include "io/output_file.h"
#include "io/tensor_file.h"
#include "io/type.h"

enum { MAX_WAITING_JOBS = 64 };

struct job {
  struct favor_tensor *tensor;      /* to read from, or */
  struct favor_output_file *output; /* to write to */
  int index;
  struct slab slab;
  enum favor_precision precision;
  void *to;
  const void *from;
};

/* Tickets count jobs from 0; job t stands at t % MAX_WAITING_JOBS. All after `thread` is guarded by the mutex. */
struct favor_lane {
  struct favor_context *context;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t has_job, is_done; /* a job was added or the end came; a job was done */
  bool is_ending;
  struct job jobs[MAX_WAITING_JOBS];
  int64_t n_added, n_done;
  struct status status; /* the first error of a job */
  bool is_reported;
  struct favor_lane_times times;
};

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static double thread_cpu_s(void) {
  struct timespec time;
  return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0 ? (double)time.tv_sec + 1e-9 * (double)time.tv_nsec : 0;
}

/* Of a job that went well, in the file. */
static int64_t bytes_of(const struct job *job) {
  struct favor_tensor_shape shape;
  if (job->tensor)
    favor_tensor_shape(job->tensor, &shape);
  else
    output_shape(job->output, job->index, &shape);
  return slab_heads(&job->slab) * slab_tokens(&job->slab) * slab_row_bytes(&shape);
}

/* Does a job without the mutex, and enters what it took. */
static void do_job(struct favor_lane *lane, const struct job *job) {
  struct status status = {0};
  const double start = clock_now_s();
  if (job->tensor)
    tensor_read(job->tensor, &job->slab, job->precision, job->to, &status);
  else
    output_write(job->output, job->index, &job->slab, job->precision, job->from, &status);
  const double seconds = clock_now_s() - start, cpu_s = thread_cpu_s();
  const int64_t bytes = status.code == FAVOR_OK ? bytes_of(job) : 0;
  pthread_mutex_lock(&lane->mutex);
  *(job->tensor ? &lane->times.read_s : &lane->times.write_s) += seconds;
  *(job->tensor ? &lane->times.bytes_read : &lane->times.bytes_written) += bytes;
  lane->times.cpu_s = cpu_s;
  if (status.code != FAVOR_OK) lane->status = status;
  pthread_mutex_unlock(&lane->mutex);
}

static void *run(void *argument) {
  struct favor_lane *lane = argument;
  pthread_mutex_lock(&lane->mutex);
  for (;;) {
    while (lane->n_done == lane->n_added && !lane->is_ending) pthread_cond_wait(&lane->has_job, &lane->mutex);
    if (lane->n_done == lane->n_added) break;
    const struct job job = lane->jobs[lane->n_done % MAX_WAITING_JOBS];
    const bool has_failed = lane->status.code != FAVOR_OK;
    pthread_mutex_unlock(&lane->mutex);
    if (!has_failed) do_job(lane, &job);
    pthread_mutex_lock(&lane->mutex);
    lane->n_done++;
    pthread_cond_signal(&lane->is_done); /* one thread at most waits: the caller's */
  }
  pthread_mutex_unlock(&lane->mutex);
  return NULL;
}

/* ---- the caller's side ------------------------------------------------------------------------------------------- */

/* 0 or an errno. The thread inherits the mask of signals, and the cores. */
static int start_thread(struct favor_lane *lane) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&lane->thread, NULL, run, lane);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error == 0) pthread_setname_np(lane->thread, "favor-io");
  return error;
}

static void release(struct favor_lane *lane) {
  pthread_cond_destroy(&lane->is_done);
  pthread_cond_destroy(&lane->has_job);
  pthread_mutex_destroy(&lane->mutex);
  free(lane);
}

enum favor_status favor_lane_create(struct favor_context *context, struct favor_lane **lane) {
  struct favor_lane *created = calloc(1, sizeof *created);
  *lane = NULL;
  if (!created) return dist_fail(context, FAVOR_ENOMEM, "no memory for the I/O thread of rank %d", context->rank);
  created->context = context;
  pthread_mutex_init(&created->mutex, NULL);
  pthread_cond_init(&created->has_job, NULL);
  pthread_cond_init(&created->is_done, NULL);
  const int error = start_thread(created);
  if (error != 0) {
    release(created);
    return dist_fail(context, FAVOR_ENOMEM, "rank %d cannot start its I/O thread: %s; allow more processes (ulimit -u)",
                     context->rank, strerror(error));
  }
  *lane = created;
  return FAVOR_OK;
}

/* With the mutex: waits until this many jobs are done. */
static void wait_until_done(struct favor_lane *lane, int64_t n_done) {
  if (lane->n_done >= n_done) return;
  const double start = clock_now_s();
  while (lane->n_done < n_done) pthread_cond_wait(&lane->is_done, &lane->mutex);
  lane->times.wait_s += clock_now_s() - start;
}

static int64_t add(struct favor_lane *lane, const struct job *job) {
  pthread_mutex_lock(&lane->mutex);
  wait_until_done(lane, lane->n_added + 1 - MAX_WAITING_JOBS);
  const int64_t ticket = lane->n_added++;
  lane->jobs[ticket % MAX_WAITING_JOBS] = *job;
  pthread_cond_signal(&lane->has_job);
  pthread_mutex_unlock(&lane->mutex);
  return ticket;
}

int64_t favor_lane_read(struct favor_lane *lane, struct favor_tensor *tensor, int64_t head_begin, int64_t head_end,
                        int64_t token_begin, int64_t token_end, enum favor_precision precision, void *data) {
  return add(lane, &(struct job){.tensor = tensor,
                                 .slab = {head_begin, head_end, token_begin, token_end},
                                 .precision = precision,
                                 .to = data});
}

int64_t favor_lane_write(struct favor_lane *lane, struct favor_output_file *file, int index, int64_t head_begin,
                         int64_t head_end, int64_t token_begin, int64_t token_end, enum favor_precision precision,
                         const void *data) {
  return add(lane, &(struct job){.output = file,
                                 .index = index,
                                 .slab = {head_begin, head_end, token_begin, token_end},
                                 .precision = precision,
                                 .from = data});
}

enum favor_status favor_lane_wait(struct favor_lane *lane, int64_t ticket) {
  pthread_mutex_lock(&lane->mutex);
  wait_until_done(lane, ticket < 0 || ticket >= lane->n_added ? lane->n_added : ticket + 1);
  const struct status status = lane->status;
  const bool is_new = status.code != FAVOR_OK && !lane->is_reported;
  lane->is_reported |= is_new;
  pthread_mutex_unlock(&lane->mutex);
  if (is_new) dist_fail_status(lane->context, &status);
  return status.code;
}

void favor_lane_times(const struct favor_lane *lane, struct favor_lane_times *times) {
  pthread_mutex_t *mutex = (pthread_mutex_t *)&lane->mutex; /* no caller sees a change */
  pthread_mutex_lock(mutex);
  *times = lane->times;
  pthread_mutex_unlock(mutex);
}

void favor_lane_destroy(struct favor_lane **lane) {
  struct favor_lane *destroyed = *lane;
  *lane = NULL;
  if (!destroyed) return;
  pthread_mutex_lock(&destroyed->mutex);
  destroyed->is_ending = true;
  pthread_cond_signal(&destroyed->has_job);
  pthread_mutex_unlock(&destroyed->mutex);
  pthread_join(destroyed->thread, NULL);
  release(destroyed);
}

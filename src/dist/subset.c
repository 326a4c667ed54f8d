#include "dist/subset.h"

#include <time.h>

#include "dist/watch.h"

static const struct timespec NAP = {.tv_nsec = 1000000};

enum favor_status dist_subset_create(struct favor_context *context, int n_ranks, struct favor_context **subset) {
  *subset = NULL;
  if (context->is_dead) return FAVOR_EMPI;
  MPI_Comm comm = MPI_COMM_NULL;
  const int color = context->rank < n_ranks ? 0 : MPI_UNDEFINED;
  dist_watch_enter(context->watch, "making a subset of the ranks");
  enum favor_status status =
      dist_check(context, MPI_Comm_split(context->comm, color, context->rank, &comm), "making a subset of the ranks");
  if (status == FAVOR_OK && comm != MPI_COMM_NULL) {
    status = favor_context_create(comm, subset);
    if (status != FAVOR_OK) dist_fail(context, status, "cannot make a context of the first %d ranks", n_ranks);
    MPI_Comm_free(&comm);
  }
  dist_watch_leave(context->watch);
  if (*subset) (*subset)->watch = context->watch;
  return status;
}

enum favor_status dist_subset_pass_on(struct favor_context *context, const struct favor_context *subset,
                                      enum favor_status status) {
  if (status == FAVOR_OK) return FAVOR_OK;
  dist_fail(context, status, "%s", subset->message);
  if (subset->is_dead) context->is_dead = true;
  return status;
}

static enum favor_status rest(struct favor_context *context) {
  static const char what[] = "waiting for ranks that work";
  MPI_Request request = MPI_REQUEST_NULL;
  int is_done = 0;
  enum favor_status status = dist_check(context, MPI_Ibarrier(context->comm, &request), what);
  while (status == FAVOR_OK) {
    status = dist_check(context, MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), what);
    if (is_done) break;
    nanosleep(&NAP, NULL);
  }
  return status;
}

enum favor_status dist_rest(struct favor_context *context) {
  if (context->is_dead) return FAVOR_EMPI;
  dist_watch_enter(context->watch, "waiting for ranks that work");
  enum favor_status status = rest(context);
  dist_watch_leave(context->watch);
  return status;
}

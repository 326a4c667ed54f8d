#include "dist/comm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Whether every rank of comm could allocate. Before there is a context, memory is all that ranks can differ in. */
static int agree_on_memory(MPI_Comm comm, bool has_memory, bool *all_have) {
  int own = has_memory, all = 0;
  int mpi_code = MPI_Allreduce(&own, &all, 1, MPI_INT, MPI_MIN, comm);
  *all_have = all != 0;
  return mpi_code;
}

/* The machines that the ranks of comm run on: each has one lowest rank. */
static int find_nodes(MPI_Comm comm, struct favor_context *context) {
  MPI_Comm here = MPI_COMM_NULL;
  int mpi_code = MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
  if (mpi_code != MPI_SUCCESS) return mpi_code;
  mpi_code = MPI_Allreduce(&context->rank, &context->node, 1, MPI_INT, MPI_MIN, here);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_free(&here);
  context->n_nodes = context->node == context->rank;
  return mpi_code == MPI_SUCCESS ? MPI_Allreduce(MPI_IN_PLACE, &context->n_nodes, 1, MPI_INT, MPI_SUM, comm) : mpi_code;
}

enum favor_status favor_context_create(MPI_Comm comm, struct favor_context **context) {
  *context = NULL;
  struct favor_context *made = memory_zeroed(1, sizeof *made);
  MPI_Comm duplicate = MPI_COMM_NULL;
  bool all_have = false;
  int mpi_code = MPI_Comm_dup(comm, &duplicate);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN);
  if (mpi_code == MPI_SUCCESS) mpi_code = agree_on_memory(duplicate, made != NULL, &all_have);
  if (mpi_code == MPI_SUCCESS && all_have) {
    MPI_Comm_rank(duplicate, &made->rank);
    MPI_Comm_size(duplicate, &made->size);
    mpi_code = find_nodes(duplicate, made);
  }
  if (mpi_code != MPI_SUCCESS || !all_have) {
    free(made);
    /* To free is collective, and where MPI failed the others may never come to it (as in favor_context_destroy). */
    if (mpi_code == MPI_SUCCESS) MPI_Comm_free(&duplicate);
    return mpi_code != MPI_SUCCESS ? FAVOR_EMPI : FAVOR_ENOMEM;
  }
  made->comm = duplicate;
  made->costs = favor_costs_default();
  *context = made;
  return FAVOR_OK;
}

void favor_context_destroy(struct favor_context **context) {
  if (!*context) return;
  if (!(*context)->is_dead) MPI_Comm_free(&(*context)->comm);
  free(*context);
  *context = NULL;
}

const char *favor_context_message(const struct favor_context *context) { return context->message; }
void favor_context_forget(struct favor_context *context) { status_clear(&context->pending); }

int favor_context_rank(const struct favor_context *context) { return context->rank; }
int favor_context_size(const struct favor_context *context) { return context->size; }

enum favor_status dist_fail(struct favor_context *context, enum favor_status code, const char *format, ...) {
  char text[STATUS_TEXT_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
#pragma omp critical(dist_fail)
  status_set(&context->pending, code, "%s", text);
  return code;
}

enum favor_status dist_fail_status(struct favor_context *context, const struct status *status) {
  return status->code == FAVOR_OK ? FAVOR_OK : dist_fail(context, status->code, "%s", status->text);
}

enum favor_status dist_check(struct favor_context *context, int mpi_code, const char *what) {
  if (mpi_code == MPI_SUCCESS) return FAVOR_OK;
  char reason[MPI_MAX_ERROR_STRING] = "";
  int length;
  MPI_Error_string(mpi_code, reason, &length);
  dist_fail(context, FAVOR_EMPI, "rank %d: MPI failed in %s: %s", context->rank, what, reason);
  /* Nothing can be agreed any more, so what this rank knows is what it reports. */
  if (!context->is_dead) {
    snprintf(context->message, sizeof context->message, "rank %d: MPI failed in %s: %s", context->rank, what, reason);
  }
  context->is_dead = true;
  return FAVOR_EMPI;
}

void dist_inject(struct favor_context *context, enum dist_site site, int rank, int skip) {
  context->fault_site = site;
  context->fault_rank = rank;
  context->fault_skip = skip;
  context->fault_stall_s = 0;
}

const char *dist_site_name(enum dist_site site) {
  static const char *const names[DIST_N_SITES] = {
      [DIST_SITE_NONE] = "none",
      [DIST_SITE_PLAN_CHECK] = "plan-check",
      [DIST_SITE_PLAN_DRAW] = "plan-draw",
      [DIST_SITE_PLAN_MEMORY] = "plan-memory",
      [DIST_SITE_PLAN_GROUPS] = "plan-groups",
      [DIST_SITE_BLOCK] = "block",
      [DIST_SITE_ATTEND] = "attend",
      [DIST_SITE_RESUME] = "resume",
      [DIST_SITE_ESTIMATE] = "estimate",
      [DIST_SITE_RUN_END] = "run-end",
      [DIST_SITE_TENSOR_OPEN] = "tensor-open",
      [DIST_SITE_TENSOR_READ] = "tensor-read",
      [DIST_SITE_DATA_READ] = "data-read",
      [DIST_SITE_OUTPUT_CREATE] = "output-create",
      [DIST_SITE_OUTPUT_FINISH] = "output-finish",
      [DIST_SITE_CHECKPOINT] = "checkpoint",
      [DIST_SITE_COMMAND] = "command",
  };
  return (unsigned)site < DIST_N_SITES ? names[site] : NULL;
}

bool dist_inject_text(struct favor_context *context, const char *text) {
  char name[32];
  int rank, skip, end = -1;
  double stall_s = 0;
  sscanf(text, "%31s %d %d stall %lf%n", name, &rank, &skip, &stall_s, &end);
  if (end < 0) sscanf(text, "%31s %d %d%n", name, &rank, &skip, &end);
  if (end < 0 || text[end] != '\0') return false;
  for (int site = DIST_SITE_NONE; site < DIST_N_SITES; site++) {
    if (strcmp(name, dist_site_name((enum dist_site)site)) != 0) continue;
    dist_inject(context, (enum dist_site)site, rank, skip);
    context->fault_stall_s = stall_s;
    return true;
  }
  return false;
}

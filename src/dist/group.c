#include "dist/group.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dist/group_internal.h"
#include "dist/watch.h"

static void merge_rows(void *from, void *into, int *n_rows, MPI_Datatype *type) {
  (void)type;
  binned_merge(from, into, *n_rows);
}

/* The linear scan is never chosen by cost: it is the baseline to check the others against, and MPI's own where all that
 * have to call that do. */
static const struct group_scan *choose_scan(const struct dist_group *group) {
  const double state_bytes = (double)group_state_bytes(group);
  switch (group->asked) {
  case FAVOR_SCAN_EXSCAN:
    return group->size == group->axis_size ? &group_scan_exscan : &group_scan_linear;
  case FAVOR_SCAN_DOUBLING:
    return &group_scan_doubling;
  case FAVOR_SCAN_CHAIN:
    return &group_scan_chain;
  case FAVOR_SCAN_AUTO:
    break;
  }
  bool is_chain_faster =
      group_chain_seconds(group->size, state_bytes) < group_doubling_seconds(group->size, state_bytes);
  return is_chain_faster ? &group_scan_chain : &group_scan_doubling;
}

void dist_group_set(struct dist_group *group, int first, int size) {
  FAVOR_ASSERT(!group->progress);
  FAVOR_ASSERT(size >= 0 && first >= 0 && first <= group->axis_size - size);
  FAVOR_ASSERT(size == 0 || (group->axis_rank >= first && group->axis_rank < first + size));
  group->first = first;
  group->size = size;
  group->rank = size > 0 ? group->axis_rank - first : -1;
  group->scan = choose_scan(group);
}

static enum favor_status create_mpi_objects(struct dist_group *group) {
  struct favor_context *context = group->context;
  int mpi_code = MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_rank(group->comm, &group->axis_rank);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_size(group->comm, &group->axis_size);
  if (mpi_code == MPI_SUCCESS) {
    mpi_code = MPI_Type_contiguous(dist_count((int64_t)group->row_bytes), MPI_BYTE, &group->row_type);
  }
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Type_commit(&group->row_type);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Op_create(merge_rows, true, &group->merge);
  return dist_check(context, mpi_code, "making a group of ranks");
}

/* Two ranks scan without scratch, and merge what arrives in a reduction. The number of a chain's blocks grows with its
 * ranks. */
static enum favor_status allocate(struct dist_group *group) {
  const int blocks = group_chain_n_blocks(group->axis_size, (double)group_state_bytes(group));
  const size_t n_rows = (size_t)group->n_rows;
  group->max_blocks = blocks;
  group->requests = memory_zeroed(2 * (size_t)blocks, sizeof *group->requests);
  if (group->axis_size > 1) group->incoming = memory_zeroed(n_rows, group->row_bytes);
  if (group->axis_size > 2) group->window = memory_zeroed(n_rows, group->row_bytes);
  bool has_all =
      group->requests && (group->axis_size < 2 || group->incoming) && (group->axis_size < 3 || group->window);
  if (has_all) return FAVOR_OK;
  return dist_fail(group->context, FAVOR_ENOMEM,
                   "rank %d: no memory for %lld rows of %zu bytes that the ranks exchange; use more ranks or a smaller "
                   "problem",
                   group->context->rank, (long long)group->n_rows, group->row_bytes);
}

enum favor_status dist_group_create(struct favor_context *context, int color, int64_t n_rows, size_t row_bytes,
                                    enum favor_scan scan, struct dist_group **group) {
  *group = NULL;
  if (context->is_dead) return FAVOR_EMPI;
  struct dist_group *made = color < 0 ? NULL : memory_zeroed(1, sizeof *made);
  bool lacks_memory = color >= 0 && !made;
  if (lacks_memory) dist_fail(context, FAVOR_ENOMEM, "no memory for a group of ranks");
  /* A rank that failed takes part in the split all the same. */
  MPI_Comm comm;
  dist_watch_enter(context->watch, "splitting the ranks into groups");
  int mpi_code = MPI_Comm_split(context->comm, made ? color : MPI_UNDEFINED, context->rank, &comm);
  dist_watch_leave(context->watch);
  enum favor_status status = dist_check(context, mpi_code, "splitting the ranks into groups");
  if (!made || status != FAVOR_OK) {
    free(made);
    return lacks_memory ? FAVOR_ENOMEM : status;
  }
  *made =
      (struct dist_group){.context = context, .comm = comm, .n_rows = n_rows, .row_bytes = row_bytes, .asked = scan};
  made->row_type = MPI_DATATYPE_NULL;
  made->merge = MPI_OP_NULL;
  /* From here on a failure leaves the group to be destroyed: freeing its communicator is collective. */
  *group = made;
  status = create_mpi_objects(made);
  if (status == FAVOR_OK) status = allocate(made);
  if (status == FAVOR_OK) dist_group_set(made, 0, made->axis_size);
  return status;
}

void dist_group_destroy(struct dist_group **group) {
  struct dist_group *g = *group;
  if (!g) return;
  FAVOR_ASSERT(!g->progress || g->context->is_dead);
  if (g->merge != MPI_OP_NULL) MPI_Op_free(&g->merge);
  if (g->row_type != MPI_DATATYPE_NULL) MPI_Type_free(&g->row_type);
  if (!g->context->is_dead) MPI_Comm_free(&g->comm);
  free(g->window);
  free(g->incoming);
  free(g->requests);
  free(g);
  *group = NULL;
}

int dist_group_rank(const struct dist_group *group) { return group->rank; }
int dist_group_size(const struct dist_group *group) { return group->size; }
const char *dist_group_scan_name(const struct dist_group *group) { return group->scan->name; }
int64_t dist_group_bytes_sent(const struct dist_group *group) { return group->n_rows_sent * (int64_t)group->row_bytes; }

enum favor_status dist_group_progress(struct dist_group *group, bool *is_done) {
  *is_done = true;
  if (!group->progress) return FAVOR_OK;
  enum favor_status status = group->progress(group, is_done);
  if (status != FAVOR_OK) *is_done = true;
  if (*is_done) group->progress = NULL;
  return status;
}

enum favor_status dist_group_end(struct dist_group *group) {
  bool is_done = false;
  dist_watch_enter(group->context->watch, "merging states");
  enum favor_status status = dist_group_progress(group, &is_done);
  while (!is_done) {
    sched_yield(); /* the rank that this one waits for may need its core */
    status = dist_group_progress(group, &is_done);
  }
  dist_watch_leave(group->context->watch);
  return status;
}

/* ---- one state from rank to rank -------------------------------------------------------------------------------- */

static enum favor_status pass_progress(struct dist_group *group, bool *is_done) {
  int flag = 0;
  int mpi_code = MPI_Test(&group->requests[0], &flag, MPI_STATUS_IGNORE);
  *is_done = flag;
  return dist_check(group->context, mpi_code, "passing a state");
}

enum favor_status dist_pass_begin(struct dist_group *group, int from, int to, const void *state, void *into) {
  FAVOR_ASSERT(!group->progress);
  FAVOR_ASSERT(from >= 0 && from < group->axis_size && to >= 0 && to < group->axis_size);
  if (group->context->is_dead) return FAVOR_EMPI;
  enum favor_status status = FAVOR_OK;
  if (from == to) {
    if (group->axis_rank == to) memmove(into, state, group_state_bytes(group));
    return FAVOR_OK;
  }
  if (group->axis_rank == from) {
    status = group_send(group, state, group->n_rows, to - group->first, GROUP_TAG_PASS, &group->requests[0]);
  } else if (group->axis_rank == to) {
    status = group_receive(group, into, group->n_rows, from - group->first, GROUP_TAG_PASS, &group->requests[0]);
  } else {
    return FAVOR_OK;
  }
  if (status == FAVOR_OK) group->progress = pass_progress;
  return status;
}

/* ---- for the algorithms ----------------------------------------------------------------------------------------- */

enum favor_status group_send(struct dist_group *group, const void *rows, int64_t n_rows, int to, int tag,
                             MPI_Request *request) {
  group->n_rows_sent += n_rows;
  int mpi_code = MPI_Isend(rows, dist_count(n_rows), group->row_type, group->first + to, tag, group->comm, request);
  return dist_check(group->context, mpi_code, "sending a state");
}

enum favor_status group_receive(struct dist_group *group, void *rows, int64_t n_rows, int from, int tag,
                                MPI_Request *request) {
  int mpi_code = MPI_Irecv(rows, dist_count(n_rows), group->row_type, group->first + from, tag, group->comm, request);
  return dist_check(group->context, mpi_code, "receiving a state");
}

enum favor_status group_progress_builtin(struct dist_group *group, bool *is_done) {
  int flag = 0;
  int mpi_code = MPI_Test(&group->builtin, &flag, MPI_STATUS_IGNORE);
  *is_done = flag;
  return dist_check(group->context, mpi_code, "merging states");
}

int group_n_rounds(int size) {
  int rounds = 0;
  while (INT64_C(1) << rounds < size) rounds++;
  return rounds;
}

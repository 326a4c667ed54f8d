#include "dist/group.h"

#include <stdlib.h>

#include "base/memory.h"
#include "dist/group_internal.h"

static void merge_rows(void *from, void *into, int *n_rows, MPI_Datatype *type) {
  (void)type;
  binned_merge(from, into, *n_rows);
}

/* The built-in exclusive scan is never chosen by cost: it is the baseline to check the others against. */
static const struct group_scan *choose_scan(enum favor_scan scan, int size, double state_bytes) {
  switch (scan) {
  case FAVOR_SCAN_EXSCAN:
    return &group_scan_exscan;
  case FAVOR_SCAN_DOUBLING:
    return &group_scan_doubling;
  case FAVOR_SCAN_CHAIN:
    return &group_scan_chain;
  case FAVOR_SCAN_AUTO:
    break;
  }
  bool is_chain_faster = group_chain_seconds(size, state_bytes) < group_doubling_seconds(size, state_bytes);
  return is_chain_faster ? &group_scan_chain : &group_scan_doubling;
}

static enum favor_status create_mpi_objects(struct dist_group *group) {
  struct favor_context *context = group->context;
  int mpi_code = MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_rank(group->comm, &group->rank);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_size(group->comm, &group->size);
  if (mpi_code == MPI_SUCCESS) {
    mpi_code = MPI_Type_contiguous(dist_count((int64_t)group->row_bytes), MPI_BYTE, &group->row_type);
  }
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Type_commit(&group->row_type);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Op_create(merge_rows, true, &group->merge);
  return dist_check(context, mpi_code, "making a group of ranks");
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
  int mpi_code = MPI_Comm_split(context->comm, made ? color : MPI_UNDEFINED, context->rank, &comm);
  enum favor_status status = dist_check(context, mpi_code, "splitting the ranks into groups");
  if (!made || status != FAVOR_OK) {
    free(made);
    return lacks_memory ? FAVOR_ENOMEM : status;
  }
  *made = (struct dist_group){.context = context, .comm = comm, .n_rows = n_rows, .row_bytes = row_bytes};
  made->row_type = MPI_DATATYPE_NULL;
  made->merge = MPI_OP_NULL;
  /* From here on a failure leaves the group to be destroyed: freeing its communicator is collective. */
  *group = made;
  status = create_mpi_objects(made);
  if (status != FAVOR_OK) return status;
  made->scan = choose_scan(scan, made->size, (double)group_state_bytes(made));
  return made->scan->prepare ? made->scan->prepare(made) : FAVOR_OK;
}

void dist_group_destroy(struct dist_group **group) {
  struct dist_group *g = *group;
  if (!g) return;
  FAVOR_ASSERT(!g->progress || g->context->is_dead);
  if (g->merge != MPI_OP_NULL) MPI_Op_free(&g->merge);
  if (g->row_type != MPI_DATATYPE_NULL) MPI_Type_free(&g->row_type);
  if (!g->context->is_dead) MPI_Comm_free(&g->comm);
  free(g->doubling.window);
  free(g->doubling.incoming);
  free(g->chain.outgoing);
  free(g->chain.receives);
  free(g->chain.sends);
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
  enum favor_status status = FAVOR_OK;
  for (bool is_done = false; !is_done;) status = dist_group_progress(group, &is_done);
  return status;
}

enum favor_status group_send(struct dist_group *group, const void *rows, int64_t n_rows, int to, int tag,
                             MPI_Request *request) {
  group->n_rows_sent += n_rows;
  int mpi_code = MPI_Isend(rows, dist_count(n_rows), group->row_type, to, tag, group->comm, request);
  return dist_check(group->context, mpi_code, "sending a state");
}

enum favor_status group_receive(struct dist_group *group, void *rows, int64_t n_rows, int from, int tag,
                                MPI_Request *request) {
  int mpi_code = MPI_Irecv(rows, dist_count(n_rows), group->row_type, from, tag, group->comm, request);
  return dist_check(group->context, mpi_code, "receiving a state");
}

enum favor_status group_allocate(struct dist_group *group, int64_t n_rows, void **rows) {
  *rows = memory_zeroed((size_t)n_rows, group->row_bytes);
  if (*rows) return FAVOR_OK;
  return dist_fail(group->context, FAVOR_ENOMEM,
                   "rank %d: no memory for %lld rows of %zu bytes that the ranks exchange; use more ranks or a smaller "
                   "problem",
                   group->context->rank, (long long)n_rows, group->row_bytes);
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

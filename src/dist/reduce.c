/* The all-reduce of states, MPI's own. */
#include "dist/group_internal.h"

/* States that this rank sends in Open MPI's algorithm for reductions in place (coll/libnbc, allred_sched_diss): up a
 * binomial tree to rank 0, then down one in which rank r, once it has the sum, sends to r + 2^i > 2 r. */
static int64_t n_states_sent(int rank, int size) {
  int64_t n = rank > 0;
  for (int64_t step = 1; rank + step < size; step *= 2) n += rank < step;
  return n;
}

enum favor_status dist_reduce_begin(struct dist_group *group, void *state) {
  FAVOR_ASSERT(!group->progress);
  if (group->context->is_dead) return FAVOR_EMPI;
  group->n_rows_sent += n_states_sent(group->rank, group->size) * group->n_rows;
  int mpi_code = MPI_Iallreduce(MPI_IN_PLACE, state, dist_count(group->n_rows), group->row_type, group->merge,
                                group->comm, &group->builtin);
  enum favor_status status = dist_check(group->context, mpi_code, "starting to merge states");
  if (status == FAVOR_OK) group->progress = group_progress_builtin;
  return status;
}

/* The exclusive scan of states: the common entry, MPI's own algorithm, and recursive doubling. */
#include <string.h>

#include "dist/group_internal.h"

enum favor_status dist_scan_begin(struct dist_group *group, const void *partial, void *result) {
  FAVOR_ASSERT(!group->progress);
  if (group->context->is_dead) return FAVOR_EMPI;
  if (group->size < 2) return FAVOR_OK;
  FAVOR_ASSERT(partial != result);
  group->partial = partial;
  group->result = result;
  enum favor_status status = group->scan->begin(group);
  if (status == FAVOR_OK) group->progress = group->scan->progress;
  return status;
}

/* ---- MPI's own -------------------------------------------------------------------------------------------------- */

/* Open MPI passes whole states from rank to rank: P - 1 times the latency, the transfer and the merge of one. */
static enum favor_status exscan_begin(struct dist_group *group) {
  if (group->rank < group->size - 1) group->n_rows_sent += group->n_rows;
  int mpi_code = MPI_Iexscan(group->partial, group->result, dist_count(group->n_rows), group->row_type, group->merge,
                             group->comm, &group->builtin);
  return dist_check(group->context, mpi_code, "starting a scan of states");
}

const struct group_scan group_scan_exscan = {"exscan", exscan_begin, group_progress_builtin};

/* ---- recursive doubling ------------------------------------------------------------------------------------------
 *
 * Before the round of distance d, `window` is the merge of ranks (rank - d, rank] and `result` that of
 * (rank - d, rank). The round sends the window to rank + d and takes that of rank - d into both. Hillis and Steele,
 * "Data parallel algorithms", CACM 1986, with the exclusive result beside the inclusive window. */

static bool sends(const struct dist_group *group, int64_t distance) { return group->rank + distance < group->size; }
static bool receives(const struct dist_group *group, int64_t distance) { return group->rank >= distance; }

/* The first round goes straight from the partial state to the result. */
static enum favor_status start_round(struct dist_group *group) {
  int distance = (int)group->distance;
  MPI_Request *requests = group->requests;
  requests[0] = requests[1] = MPI_REQUEST_NULL;
  enum favor_status status = FAVOR_OK;
  if (receives(group, distance)) {
    void *into = distance == 1 ? group->result : group->incoming;
    status = group_receive(group, into, group->n_rows, group->rank - distance, GROUP_TAG_DOUBLING, &requests[0]);
  }
  if (status == FAVOR_OK && sends(group, distance)) {
    const void *from = distance == 1 ? group->partial : group->window;
    status = group_send(group, from, group->n_rows, group->rank + distance, GROUP_TAG_DOUBLING, &requests[1]);
  }
  return status;
}

static void finish_round(struct dist_group *group) {
  int64_t distance = group->distance;
  bool sends_again = sends(group, 2 * distance);
  const void *arrived = distance == 1 ? group->result : group->incoming;
  if (distance == 1 && sends_again) memcpy(group->window, group->partial, group_state_bytes(group));
  if (!receives(group, distance)) return;
  if (sends_again) binned_merge(arrived, group->window, group->n_rows);
  if (distance > 1) binned_merge(arrived, group->result, group->n_rows);
}

static enum favor_status doubling_begin(struct dist_group *group) {
  group->distance = 1;
  return start_round(group);
}

static enum favor_status doubling_progress(struct dist_group *group, bool *is_done) {
  *is_done = false;
  while (group->distance < group->size) {
    int flag = 0;
    int mpi_code = MPI_Testall(2, group->requests, &flag, MPI_STATUSES_IGNORE);
    enum favor_status status = dist_check(group->context, mpi_code, "a scan of states by doubling");
    if (status != FAVOR_OK || !flag) return status;
    finish_round(group);
    group->distance *= 2;
    status = start_round(group);
    if (status != FAVOR_OK) return status;
  }
  *is_done = true;
  return FAVOR_OK;
}

const struct group_scan group_scan_doubling = {"doubling", doubling_begin, doubling_progress};

/* Every round moves a state. Between the first round and the last all merge it twice, in those two once, and the first
 * needs no merge if it is the last. */
double group_doubling_seconds(int size, double state_bytes) {
  int n_rounds = group_n_rounds(size);
  if (n_rounds == 0) return 0;
  return n_rounds * (GROUP_LATENCY_S + state_bytes * GROUP_SEND_S_PER_BYTE) +
         2 * (n_rounds - 1) * state_bytes * GROUP_MERGE_S_PER_BYTE;
}

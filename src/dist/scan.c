/* The exclusive scan of states: the common entry, MPI's own algorithm, and recursive doubling. */
#include <string.h>

#include "dist/group_internal.h"

enum favor_status dist_scan_begin(struct dist_group *group, int lane_index, int64_t n_rows, const void *partial,
                                  void *result) {
  struct group_lane *lane = group_lane_at(group, lane_index);
  FAVOR_ASSERT(lane_index != DIST_LANE_PASS && n_rows <= group_lane_rows(group, lane_index));
  if (group->context->is_dead) return FAVOR_EMPI;
  FAVOR_ASSERT(!lane->progress);
  if (group->size < 2) return FAVOR_OK;
  FAVOR_ASSERT(partial != result);
  lane->n_rows = n_rows;
  lane->partial = partial;
  lane->result = result;
  enum favor_status status = group->scan->begin(lane);
  if (status == FAVOR_OK) group_has_begun(lane, group->scan->progress);
  return status;
}

/* ---- MPI's own -------------------------------------------------------------------------------------------------- */

/* Open MPI passes whole states from rank to rank: P - 1 times the latency, the transfer and the merge of one. */
static enum favor_status exscan_begin(struct group_lane *lane) {
  struct dist_group *group = lane->group;
  if (group->rank < group->size - 1) group->n_rows_sent += lane->n_rows;
  int mpi_code = MPI_Iexscan(lane->partial, lane->result, dist_count(lane->n_rows), group->row_type, group->merge,
                             group->comm, &lane->builtin);
  return dist_check(group->context, mpi_code, "starting a scan of states");
}

const struct group_scan group_scan_exscan = {"exscan", exscan_begin, group_progress_builtin};

/* ---- recursive doubling ------------------------------------------------------------------------------------------
 *
 * Before the round of distance d, `window` is the merge of ranks (rank - d, rank] and `result` that of
 * (rank - d, rank). The round sends the window to rank + d and takes that of rank - d into both. Hillis and Steele,
 * "Data parallel algorithms", CACM 1986, with the exclusive result beside the inclusive window. */

static bool sends(const struct group_doubling *doubling, int64_t distance) {
  return doubling->own + distance < doubling->line.size;
}
static bool receives(const struct group_doubling *doubling, int64_t distance) { return doubling->own >= distance; }

/* The first round goes straight from the partial state to the result. */
static enum favor_status start_round(struct group_lane *lane) {
  const struct group_doubling *doubling = &lane->doubling;
  const int distance = (int)doubling->distance;
  MPI_Request *requests = lane->requests;
  requests[0] = requests[1] = MPI_REQUEST_NULL;
  enum favor_status status = FAVOR_OK;
  if (receives(doubling, distance)) {
    void *into = distance == 1 ? doubling->result : lane->incoming;
    status = group_receive(lane, into, lane->n_rows, group_line_place(&doubling->line, doubling->own - distance),
                           GROUP_TAG_DOUBLING, &requests[0]);
  }
  if (status == FAVOR_OK && sends(doubling, distance)) {
    const void *from = distance == 1 ? doubling->partial : lane->window;
    status = group_send(lane, from, lane->n_rows, group_line_place(&doubling->line, doubling->own + distance),
                        GROUP_TAG_DOUBLING, &requests[1]);
  }
  return status;
}

static void finish_round(struct group_lane *lane) {
  const struct group_doubling *doubling = &lane->doubling;
  const int64_t distance = doubling->distance;
  const bool sends_again = sends(doubling, 2 * distance);
  const void *arrived = distance == 1 ? doubling->result : lane->incoming;
  if (distance == 1 && sends_again) memcpy(lane->window, doubling->partial, group_bytes(lane));
  if (!receives(doubling, distance)) return;
  if (sends_again) binned_merge(arrived, lane->window, lane->n_rows);
  if (distance > 1) binned_merge(arrived, doubling->result, lane->n_rows);
}

enum favor_status group_doubling_begin(struct group_lane *lane) {
  lane->doubling.distance = 1;
  return lane->doubling.line.size > 1 ? start_round(lane) : FAVOR_OK;
}

enum favor_status group_doubling_progress(struct group_lane *lane, bool *is_done) {
  struct group_doubling *doubling = &lane->doubling;
  *is_done = false;
  while (doubling->distance < doubling->line.size) {
    bool is_over;
    enum favor_status status = group_test_pair(lane, "a scan of states by doubling", &is_over);
    if (status != FAVOR_OK || !is_over) return status;
    finish_round(lane);
    doubling->distance *= 2;
    if (doubling->distance < doubling->line.size) status = start_round(lane);
    if (status != FAVOR_OK) return status;
  }
  *is_done = true;
  return FAVOR_OK;
}

static enum favor_status doubling_begin(struct group_lane *lane) {
  lane->doubling = (struct group_doubling){
      .line = {0, lane->group->size, NULL}, .own = lane->group->rank, .partial = lane->partial, .result = lane->result};
  return group_doubling_begin(lane);
}

const struct group_scan group_scan_doubling = {"doubling", doubling_begin, group_doubling_progress};

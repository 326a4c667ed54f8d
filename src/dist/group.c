#include "dist/group.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "dist/group_internal.h"
#include "dist/watch.h"

static void merge_rows(void *from, void *into, int *n_rows, MPI_Datatype *type) {
  (void)type;
  binned_merge(from, into, *n_rows);
}

/* The linear scan is MPI's own where all that have to call that do. */
static const struct group_scan *choose_scan(const struct dist_group *group) {
  switch (dist_costs_choose_scan(&group->costs, group->asked, group_layout_of(group), group_state_bytes(group))) {
  case FAVOR_SCAN_EXSCAN:
    return group->size == group->axis_size ? &group_scan_exscan : &group_scan_linear;
  case FAVOR_SCAN_CHAIN:
    return &group_scan_chain;
  case FAVOR_SCAN_NODES:
    return &group_scan_nodes;
  default:
    return &group_scan_doubling;
  }
}

/* Those that may go by nodes. */
static bool knows_nodes(enum favor_scan scan) { return scan == FAVOR_SCAN_AUTO || scan == FAVOR_SCAN_NODES; }

int dist_group_n_states(enum favor_scan scan) { return knows_nodes(scan) ? 4 : 2; }

void dist_group_set(struct dist_group *group, int first, int size) {
  for (int i = 0; i < group_n_lanes(group); i++) FAVOR_ASSERT(!group->lanes[i].progress || group->context->is_dead);
  FAVOR_ASSERT(size >= 0 && first >= 0 && first <= group->axis_size - size);
  FAVOR_ASSERT(size == 0 || (group->axis_rank >= first && group->axis_rank < first + size));
  group->first = first;
  group->size = size;
  group->rank = size > 0 ? group->axis_rank - first : -1;
  group_find_nodes(group);
  group->scan = choose_scan(group);
}

static enum favor_status create_mpi_objects(struct dist_group *group) {
  struct favor_context *context = group->context;
  int mpi_code = MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_rank(group->comm, &group->axis_rank);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_size(group->comm, &group->axis_size);
  if (mpi_code == MPI_SUCCESS) {
    mpi_code = MPI_Type_contiguous(dist_count((int64_t)group->shape.row_bytes), MPI_BYTE, &group->row_type);
  }
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Type_commit(&group->row_type);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Op_create(merge_rows, true, &group->merge);
  return dist_check(context, mpi_code, "making a group of ranks");
}

/* Collective over the axis. */
static enum favor_status share_nodes(struct dist_group *group) {
  dist_watch_enter(group->context->watch, "finding the ranks of each node");
  int mpi_code = MPI_Allgather(&group->context->node, 1, MPI_INT, group->node_of, 1, MPI_INT, group->comm);
  dist_watch_leave(group->context->watch);
  return dist_check(group->context, mpi_code, "finding the ranks of each node");
}

/* Two ranks scan without scratch, and merge what arrives in a reduction. */
static bool allocate_lane(struct dist_group *group, struct group_lane *lane) {
  const size_t n_rows = (size_t)group_lane_rows(group, lane->index), row_bytes = group->shape.row_bytes;
  const bool has_nodes = group->node_of != NULL;
  lane->requests = memory_zeroed(2 * (size_t)group->max_blocks, sizeof *lane->requests);
  if (group->axis_size > 1) lane->incoming = memory_zeroed(n_rows, row_bytes);
  if (group->axis_size > 2) lane->window = memory_zeroed(n_rows, row_bytes);
  if (group->axis_size > 1 && has_nodes) {
    lane->total = memory_zeroed(n_rows, row_bytes);
    lane->before = memory_zeroed(n_rows, row_bytes);
  }
  return lane->requests && (group->axis_size < 2 || lane->incoming) && (group->axis_size < 3 || lane->window) &&
         (group->axis_size < 2 || !has_nodes || (lane->total && lane->before));
}

static void free_lane(struct group_lane *lane) {
  free(lane->window);
  free(lane->incoming);
  free(lane->total);
  free(lane->before);
  free(lane->requests);
}

/* Of a chain in any set: their number grows with its ranks, and a node alone has another network than several. */
static int most_chain_blocks(const struct dist_group *group) {
  const struct favor_costs *costs = &group->costs;
  const int size = group->axis_size;
  const int alone = dist_costs_chain_n_blocks(costs, (struct dist_layout){size, size}, group_state_bytes(group)),
            spread = dist_costs_chain_n_blocks(costs, (struct dist_layout){size, 1}, group_state_bytes(group));
  return alone > spread ? alone : spread;
}

static enum favor_status allocate_lanes(struct dist_group *group) {
  bool has_all = true;
  group->max_blocks = most_chain_blocks(group);
  for (int i = 0; i < group->shape.n_lanes; i++) has_all = has_all && allocate_lane(group, &group->lanes[i]);
  struct group_lane *pass = group_lane_at(group, DIST_LANE_PASS);
  pass->requests = memory_zeroed(2, sizeof *pass->requests);
  if (has_all && pass->requests) return FAVOR_OK;
  return dist_fail(group->context, FAVOR_ENOMEM,
                   "rank %d: no memory for %lld rows of %zu bytes that the ranks exchange; use more ranks or a smaller "
                   "problem",
                   group->context->rank, (long long)(group->shape.n_units * group->shape.unit_rows),
                   group->shape.row_bytes);
}

static void free_group(struct dist_group *group) {
  for (int i = 0; group->lanes && i < group_n_lanes(group); i++) free_lane(&group->lanes[i]);
  free(group->lanes);
  free(group->node_of);
  free(group->leaders);
  free(group);
}

/* What a rank needs before it may join others. The axis has no more ranks than the context. */
static struct dist_group *allocate_group(struct favor_context *context, const struct dist_group_shape *shape,
                                         enum favor_scan scan) {
  const size_t size = (size_t)context->size;
  struct dist_group *group = memory_zeroed(1, sizeof *group);
  if (!group) return NULL;
  group->context = context;
  group->costs = context->costs;
  group->shape = *shape;
  group->asked = scan;
  group->row_type = MPI_DATATYPE_NULL;
  group->merge = MPI_OP_NULL;
  group->lanes = memory_zeroed((size_t)group_n_lanes(group), sizeof *group->lanes);
  for (int i = 0; group->lanes && i < group_n_lanes(group); i++) {
    group->lanes[i].group = group;
    group->lanes[i].index = i;
  }
  if (knows_nodes(scan)) {
    group->node_of = memory_zeroed(size, sizeof *group->node_of);
    group->leaders = memory_zeroed(size, sizeof *group->leaders);
  }
  if (group->lanes && (!knows_nodes(scan) || (group->node_of && group->leaders))) return group;
  free_group(group);
  return NULL;
}

/* Collective over the context: the ranks of one color. One without memory takes part in the split all the same. */
static enum favor_status split(struct favor_context *context, int color, struct dist_group *group, MPI_Comm *comm) {
  dist_watch_enter(context->watch, "splitting the ranks into groups");
  int mpi_code = MPI_Comm_split(context->comm, group ? color : MPI_UNDEFINED, context->rank, comm);
  dist_watch_leave(context->watch);
  return dist_check(context, mpi_code, "splitting the ranks into groups");
}

enum favor_status dist_group_create(struct favor_context *context, int color, const struct dist_group_shape *shape,
                                    enum favor_scan scan, struct dist_traffic *traffic, struct dist_group **group) {
  *group = NULL;
  if (context->is_dead) return FAVOR_EMPI;
  struct dist_group *made = color < 0 ? NULL : allocate_group(context, shape, scan);
  const bool lacks_memory = color >= 0 && !made;
  if (lacks_memory) dist_fail(context, FAVOR_ENOMEM, "no memory for a group of ranks");
  MPI_Comm comm = MPI_COMM_NULL;
  enum favor_status status = split(context, color, made, &comm);
  if (!made || status != FAVOR_OK) {
    if (made) free_group(made);
    return lacks_memory ? FAVOR_ENOMEM : status;
  }
  made->comm = comm;
  made->traffic = traffic ? traffic : &made->own_traffic;
  /* From here on a failure leaves the group to be destroyed: freeing its communicator is collective. */
  *group = made;
  status = create_mpi_objects(made);
  if (status == FAVOR_OK && made->node_of) status = share_nodes(made);
  if (status == FAVOR_OK) status = allocate_lanes(made);
  if (status == FAVOR_OK) dist_group_set(made, 0, made->axis_size);
  return status;
}

void dist_group_destroy(struct dist_group **group) {
  struct dist_group *g = *group;
  if (!g) return;
  for (int i = 0; i < group_n_lanes(g); i++) FAVOR_ASSERT(!g->lanes[i].progress || g->context->is_dead);
  if (g->merge != MPI_OP_NULL) MPI_Op_free(&g->merge);
  if (g->row_type != MPI_DATATYPE_NULL) MPI_Type_free(&g->row_type);
  if (!g->context->is_dead) MPI_Comm_free(&g->comm);
  free_group(g);
  *group = NULL;
}

int dist_group_rank(const struct dist_group *group) { return group->rank; }
int dist_group_size(const struct dist_group *group) { return group->size; }
const char *dist_group_scan_name(const struct dist_group *group) { return group->scan->name; }
int64_t dist_group_bytes_sent(const struct dist_group *group) {
  return group->n_rows_sent * (int64_t)group->shape.row_bytes;
}

void group_has_begun(struct group_lane *lane, group_progress_function *progress) {
  struct dist_traffic *traffic = lane->group->traffic;
  lane->progress = progress;
  if (traffic->n_in_flight++ == 0) traffic->since_s = clock_now_s();
}

static void has_ended(struct group_lane *lane) {
  struct dist_traffic *traffic = lane->group->traffic;
  lane->progress = NULL;
  if (--traffic->n_in_flight == 0) traffic->in_flight_s += clock_now_s() - traffic->since_s;
}

enum favor_status dist_group_progress(struct dist_group *group, bool *is_done) {
  enum favor_status worst = FAVOR_OK;
  *is_done = true;
  for (int i = 0; i < group_n_lanes(group) && group->traffic->n_in_flight > 0; i++) {
    struct group_lane *lane = &group->lanes[i];
    bool is_over = true;
    if (!lane->progress) continue;
    enum favor_status status = lane->progress(lane, &is_over);
    if (status != FAVOR_OK) worst = status;
    if (status != FAVOR_OK || is_over) {
      has_ended(lane);
    } else {
      *is_done = false;
    }
  }
  return worst;
}

enum favor_status dist_group_end(struct dist_group *group, int lane_index) {
  const struct group_lane *lane = group_lane_at(group, lane_index);
  bool is_done;
  enum favor_status status = dist_group_progress(group, &is_done);
  if (!lane->progress) return status;
  const double begin = clock_now_s();
  dist_watch_enter(group->context->watch, "merging states");
  while (lane->progress && !group->context->is_dead) { /* a dead context communicates no more, in any lane */
    sched_yield();                                     /* the rank that this one waits for may need its core */
    enum favor_status now = dist_group_progress(group, &is_done);
    if (now != FAVOR_OK) status = now;
  }
  dist_watch_leave(group->context->watch);
  group->traffic->blocked_s += clock_now_s() - begin;
  return status;
}

/* ---- one state from rank to rank -------------------------------------------------------------------------------- */

static enum favor_status pass_progress(struct group_lane *lane, bool *is_done) {
  int flag = 0;
  int mpi_code = MPI_Test(&lane->requests[0], &flag, MPI_STATUS_IGNORE);
  *is_done = flag;
  return dist_check(lane->group->context, mpi_code, "passing a state");
}

enum favor_status dist_pass_begin(struct dist_group *group, int lane_index, int from, int to, int64_t n_rows,
                                  const void *state, void *into) {
  struct group_lane *lane = group_lane_at(group, lane_index);
  FAVOR_ASSERT(!lane->progress || group->context->is_dead);
  FAVOR_ASSERT(from >= 0 && from < group->axis_size && to >= 0 && to < group->axis_size);
  if (group->context->is_dead) return FAVOR_EMPI;
  enum favor_status status = FAVOR_OK;
  if (from == to) {
    if (group->axis_rank == to) memmove(into, state, (size_t)n_rows * group->shape.row_bytes);
    return FAVOR_OK;
  }
  if (group->axis_rank == from) {
    status = group_send(lane, state, n_rows, to - group->first, GROUP_TAG_PASS, &lane->requests[0]);
  } else if (group->axis_rank == to) {
    status = group_receive(lane, into, n_rows, from - group->first, GROUP_TAG_PASS, &lane->requests[0]);
  } else {
    return FAVOR_OK;
  }
  if (status == FAVOR_OK) group_has_begun(lane, pass_progress);
  return status;
}

/* ---- for the algorithms ----------------------------------------------------------------------------------------- */

static int tag_of(const struct group_lane *lane, int kind) { return lane->index * GROUP_N_TAGS + kind; }

enum favor_status group_send(struct group_lane *lane, const void *rows, int64_t n_rows, int to, int tag,
                             MPI_Request *request) {
  struct dist_group *group = lane->group;
  group->n_rows_sent += n_rows;
  int mpi_code =
      MPI_Isend(rows, dist_count(n_rows), group->row_type, group->first + to, tag_of(lane, tag), group->comm, request);
  return dist_check(group->context, mpi_code, "sending a state");
}

enum favor_status group_receive(struct group_lane *lane, void *rows, int64_t n_rows, int from, int tag,
                                MPI_Request *request) {
  struct dist_group *group = lane->group;
  int mpi_code = MPI_Irecv(rows, dist_count(n_rows), group->row_type, group->first + from, tag_of(lane, tag),
                           group->comm, request);
  return dist_check(group->context, mpi_code, "receiving a state");
}

enum favor_status group_test_pair(struct group_lane *lane, const char *what, bool *is_done) {
  int flag = 0;
  int mpi_code = MPI_Testall(2, lane->requests, &flag, MPI_STATUSES_IGNORE);
  *is_done = flag;
  return dist_check(lane->group->context, mpi_code, what);
}

enum favor_status group_progress_builtin(struct group_lane *lane, bool *is_done) {
  int flag = 0;
  int mpi_code = MPI_Test(&lane->builtin, &flag, MPI_STATUS_IGNORE);
  *is_done = flag;
  return dist_check(lane->group->context, mpi_code, "merging states");
}

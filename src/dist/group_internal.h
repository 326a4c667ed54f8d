/* The inside of a group, for the files that implement its operations. */
#ifndef FAVOR_DIST_GROUP_INTERNAL_H
#define FAVOR_DIST_GROUP_INTERNAL_H

#include "base/binned.h"
#include "dist/costs.h"
#include "dist/count.h"
#include "dist/group.h"

/* Messages of one kind and lane between two ranks arrive in the order in which they were sent, and a lane has one
 * operation in flight at a time, whatever its set: a tag a kind and lane is enough. */
enum { GROUP_TAG_DOUBLING = 1, GROUP_TAG_CHAIN, GROUP_TAG_REDUCE, GROUP_TAG_PASS, GROUP_TAG_FAN, GROUP_N_TAGS };

struct group_lane;

/* Lets the operation in flight advance; *is_done when nothing is left. */
typedef enum favor_status group_progress_function(struct group_lane *lane, bool *is_done);

/* One algorithm for the exclusive scan. `begin` starts the scan from lane->partial to lane->result. */
struct group_scan {
  const char *name;
  enum favor_status (*begin)(struct group_lane *lane);
  group_progress_function *progress;
};
extern const struct group_scan group_scan_exscan, group_scan_linear, group_scan_doubling, group_scan_chain,
    group_scan_nodes;

/* Ranks of the set, in order: places[i], or first + i where places is NULL. */
struct group_line {
  int first, size;
  const int *places;
};
static inline int group_line_place(const struct group_line *line, int index) {
  return line->places ? line->places[index] : line->first + index;
}

/* An exclusive scan along a line by recursive doubling; `own` is this rank's index on it. */
struct group_doubling {
  struct group_line line;
  int own;
  const void *partial;
  void *result;
  int64_t distance; /* of the round in flight, 1, 2, 4, ... */
};

enum group_nodes_phase { NODES_WITHIN, NODES_BETWEEN, NODES_FAN, NODES_DONE };

struct group_lane {
  struct dist_group *group;
  int index;
  void *window, *incoming; /* a state each; NULL where no set needs it */
  void *total, *before;    /* the same, for scans by nodes */
  MPI_Request *requests;   /* [2 max_blocks], at least 2 */

  group_progress_function *progress; /* of the operation in flight; NULL: none */
  int64_t n_rows;                    /* of its states */
  const void *partial;               /* of a scan */
  void *result;                      /* of a scan; of a reduction, its state */

  MPI_Request builtin; /* a collective of MPI's own */

  struct group_doubling doubling;

  struct {
    int64_t block_rows;
    int n_blocks, n_arrived;
    MPI_Request *receives, *sends; /* [n_blocks], of requests */
  } chain;

  struct {
    enum group_nodes_phase phase;
    int fan_distance; /* of the round in flight, 1, 2, 4, ... */
  } nodes;

  struct {
    const struct group_reduction *algorithm;
    int n_rounds, round; /* the one in flight */
  } reduction;
};

struct dist_group {
  struct favor_context *context;
  MPI_Comm comm; /* of the axis */
  int axis_rank, axis_size;
  struct dist_group_shape shape;
  MPI_Datatype row_type;
  MPI_Op merge;
  enum favor_scan asked;
  struct favor_costs costs;     /* the context's when the group was made, which scratch is for */
  struct dist_traffic *traffic; /* the caller's, or own_traffic */
  struct dist_traffic own_traffic;
  int max_blocks; /* of a chain in any set */
  int64_t n_rows_sent;
  struct group_lane *lanes; /* [shape.n_lanes + 1], the last being that of passes, without scratch */

  int first, rank, size; /* the set: its first rank on the axis, this rank's place in it */
  const struct group_scan *scan;

  /* Neighbours in the set that share a machine; the last of each such node stands for it. NULL and 0 where the scan is
   * none by nodes. */
  int *node_of;            /* [axis_size] the lowest rank of the context on the same machine */
  struct group_line node;  /* this rank's, in the set */
  int *leaders;            /* [axis_size] the last place of each node */
  int n_nodes, node_index; /* of the set; this rank's */
};

static inline int group_n_lanes(const struct dist_group *group) { return group->shape.n_lanes + 1; }
static inline struct group_lane *group_lane_at(struct dist_group *group, int lane) {
  FAVOR_ASSERT(lane >= DIST_LANE_PASS && lane < group->shape.n_lanes);
  return &group->lanes[lane == DIST_LANE_PASS ? group->shape.n_lanes : lane];
}
static inline size_t group_bytes(const struct group_lane *lane) {
  return lane->group->shape.row_bytes * (size_t)lane->n_rows;
}
/* Rows of an operation in a numbered lane, at most; and in the first such lane that has most. */
static inline int64_t group_lane_rows(const struct dist_group *group, int lane) {
  const struct dist_group_shape *shape = &group->shape;
  return shape->unit_rows * (shape->n_units * (lane + 1) / shape->n_lanes - shape->n_units * lane / shape->n_lanes);
}
static inline int64_t group_most_rows(const struct dist_group *group) {
  const struct dist_group_shape *shape = &group->shape;
  return shape->unit_rows * ((shape->n_units + shape->n_lanes - 1) / shape->n_lanes);
}
/* Of an operation of the most rows: what algorithms are chosen by. */
static inline double group_state_bytes(const struct dist_group *group) {
  return (double)group->shape.row_bytes * (double)group_most_rows(group);
}

/* The lane's operation has begun, and advances by `progress`. */
void group_has_begun(struct group_lane *lane, group_progress_function *progress);

/* Starts to send or receive n_rows rows, to or from a place in the set; counts what is sent. */
enum favor_status group_send(struct group_lane *lane, const void *rows, int64_t n_rows, int to, int tag,
                             MPI_Request *request);
enum favor_status group_receive(struct group_lane *lane, void *rows, int64_t n_rows, int from, int tag,
                                MPI_Request *request);

/* Are the lane's first two requests complete? */
enum favor_status group_test_pair(struct group_lane *lane, const char *what, bool *is_done);

/* Progress of MPI's own collective (lane->builtin). */
group_progress_function group_progress_builtin;

/* lane->doubling, whose line, own index, partial and result are set. */
enum favor_status group_doubling_begin(struct group_lane *lane);
enum favor_status group_doubling_progress(struct group_lane *lane, bool *is_done);

/* Local: finds the set's nodes. */
void group_find_nodes(struct dist_group *group);

/* The set, as costs know it. */
struct dist_layout group_layout_of(const struct dist_group *group);

#endif

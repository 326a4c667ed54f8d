/* The inside of a group, for the files that implement its operations. */
#ifndef FAVOR_DIST_GROUP_INTERNAL_H
#define FAVOR_DIST_GROUP_INTERNAL_H

#include "base/binned.h"
#include "dist/count.h"
#include "dist/group.h"

/* Messages of one kind between two ranks arrive in the order in which they were sent, and a group has one operation in
 * flight at a time, whatever its set: a tag a kind is enough. */
enum { GROUP_TAG_DOUBLING = 1, GROUP_TAG_CHAIN, GROUP_TAG_REDUCE, GROUP_TAG_PASS };

/* Lets the operation in flight advance; *is_done when nothing is left. */
typedef enum favor_status group_progress_function(struct dist_group *group, bool *is_done);

/* One algorithm for the exclusive scan. `begin` starts the scan from group->partial to group->result. */
struct group_scan {
  const char *name;
  enum favor_status (*begin)(struct dist_group *group);
  group_progress_function *progress;
};
extern const struct group_scan group_scan_exscan, group_scan_linear, group_scan_doubling, group_scan_chain;

struct dist_group {
  struct favor_context *context;
  MPI_Comm comm; /* of the axis */
  int axis_rank, axis_size;
  int64_t n_rows;
  size_t row_bytes;
  MPI_Datatype row_type;
  MPI_Op merge;
  enum favor_scan asked;
  void *window, *incoming; /* a state each; NULL where no set needs it */
  int max_blocks;          /* of a chain in any set */
  MPI_Request *requests;   /* [2 max_blocks], at least 2 */
  int64_t n_rows_sent;

  int first, rank, size; /* the set: its first rank on the axis, this rank's place in it */
  const struct group_scan *scan;

  group_progress_function *progress; /* of the operation in flight; NULL: none */
  const void *partial;               /* of a scan in flight */
  void *result;                      /* of a scan; of a reduction, its state */

  MPI_Request builtin; /* a collective of MPI's own */

  int64_t distance; /* doubling: of the round in flight, 1, 2, 4, ... */

  struct {
    int64_t block_rows;
    int n_blocks, n_arrived;
    MPI_Request *receives, *sends; /* [n_blocks], of requests */
  } chain;

  struct {
    const struct group_reduction *algorithm;
    int n_rounds, round; /* the one in flight */
  } reduction;
};

static inline size_t group_state_bytes(const struct dist_group *group) {
  return group->row_bytes * (size_t)group->n_rows;
}

/* Starts to send or receive n_rows rows, to or from a place in the set; counts what is sent. */
enum favor_status group_send(struct dist_group *group, const void *rows, int64_t n_rows, int to, int tag,
                             MPI_Request *request);
enum favor_status group_receive(struct dist_group *group, void *rows, int64_t n_rows, int from, int tag,
                                MPI_Request *request);

/* Progress of MPI's own collective (group->builtin). */
group_progress_function group_progress_builtin;

/* The number of rounds r with 2^r < size. */
int group_n_rounds(int size);

/* Blocks into which the chain cuts a state, and what each scan is expected to take. */
int group_chain_n_blocks(int size, double state_bytes);
double group_chain_seconds(int size, double state_bytes);
double group_doubling_seconds(int size, double state_bytes);

/* What moving and merging states costs, for choices only: a 100 Gb/s network, and binned_merge as measured on one core
 * (0.8 to 1.0e-10 s per byte, states of 0.3 to 4 MB). */
#define GROUP_LATENCY_S 2e-6
#define GROUP_SEND_S_PER_BYTE 1e-10
#define GROUP_MERGE_S_PER_BYTE 1e-10

#endif

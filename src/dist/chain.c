/* The exclusive scan of states as a pipelined chain: each rank takes blocks of rows from the one before it, merges its
 * own in and passes them on while the next arrive. Every rank sends exactly one state. As "All-Scan" of ZeCO (Chou et
 * al., "ZeCO: zero communication overhead sequence parallelism for linear attention", 2025). */
#include <string.h>

#include "dist/group_internal.h"

static int64_t rows_of(const struct group_lane *lane, int block) {
  int64_t left = lane->n_rows - block * lane->chain.block_rows;
  return left < lane->chain.block_rows ? left : lane->chain.block_rows;
}

static size_t offset_of(const struct group_lane *lane, int block) {
  return lane->group->shape.row_bytes * (size_t)(block * lane->chain.block_rows);
}

static enum favor_status send_block(struct group_lane *lane, const void *state, int block) {
  return group_send(lane, (const char *)state + offset_of(lane, block), rows_of(lane, block), lane->group->rank + 1,
                    GROUP_TAG_CHAIN, &lane->chain.sends[block]);
}

static enum favor_status begin_with(struct group_lane *lane, int n_blocks) {
  bool is_first = lane->group->rank == 0, is_last = lane->group->rank == lane->group->size - 1;
  int64_t block_rows = (lane->n_rows + n_blocks - 1) / n_blocks;
  lane->chain.block_rows = block_rows;
  lane->chain.n_blocks = lane->n_rows > 0 ? (int)((lane->n_rows + block_rows - 1) / block_rows) : 0;
  FAVOR_ASSERT(lane->chain.n_blocks <= lane->group->max_blocks);
  lane->chain.receives = lane->requests;
  lane->chain.sends = lane->requests + lane->group->max_blocks;
  lane->chain.n_arrived = is_first ? lane->chain.n_blocks : 0;
  for (int b = 0; b < lane->chain.n_blocks; b++) {
    enum favor_status status = FAVOR_OK;
    lane->chain.receives[b] = lane->chain.sends[b] = MPI_REQUEST_NULL;
    if (!is_first) {
      void *into = (char *)lane->result + offset_of(lane, b);
      status =
          group_receive(lane, into, rows_of(lane, b), lane->group->rank - 1, GROUP_TAG_CHAIN, &lane->chain.receives[b]);
    } else if (!is_last) {
      status = send_block(lane, lane->partial, b);
    }
    if (status != FAVOR_OK) return status;
  }
  return FAVOR_OK;
}

static int n_blocks(const struct group_lane *lane) {
  const struct dist_group *group = lane->group;
  return dist_costs_chain_n_blocks(&group->costs, group_layout_of(group), (double)group_bytes(lane));
}

static enum favor_status chain_begin(struct group_lane *lane) { return begin_with(lane, n_blocks(lane)); }

static enum favor_status linear_begin(struct group_lane *lane) { return begin_with(lane, 1); }

/* A block of the prefix is here: this rank's own is merged in, and it goes on. */
static enum favor_status pass_on(struct group_lane *lane, int block) {
  size_t offset = offset_of(lane, block);
  int64_t n_rows = rows_of(lane, block);
  char *outgoing = (char *)lane->window + offset;
  memcpy(outgoing, (const char *)lane->partial + offset, lane->group->shape.row_bytes * (size_t)n_rows);
  binned_merge((const char *)lane->result + offset, outgoing, n_rows);
  return send_block(lane, lane->window, block);
}

static enum favor_status chain_progress(struct group_lane *lane, bool *is_done) {
  *is_done = false;
  int flag = 0;
  for (; lane->chain.n_arrived < lane->chain.n_blocks; lane->chain.n_arrived++) {
    int block = lane->chain.n_arrived;
    int mpi_code = MPI_Test(&lane->chain.receives[block], &flag, MPI_STATUS_IGNORE);
    enum favor_status status = dist_check(lane->group->context, mpi_code, "a scan of states by a chain");
    if (status == FAVOR_OK && flag && lane->group->rank < lane->group->size - 1) status = pass_on(lane, block);
    if (status != FAVOR_OK || !flag) return status;
  }
  int mpi_code = MPI_Testall(lane->chain.n_blocks, lane->chain.sends, &flag, MPI_STATUSES_IGNORE);
  *is_done = flag;
  return dist_check(lane->group->context, mpi_code, "a scan of states by a chain");
}

const struct group_scan group_scan_chain = {"chain", chain_begin, chain_progress};

/* Whole states from rank to rank, as Open MPI's own scan: where that cannot be called, because the ranks of the axis
 * that are in other sets would have to call it too. */
const struct group_scan group_scan_linear = {"exscan", linear_begin, chain_progress};

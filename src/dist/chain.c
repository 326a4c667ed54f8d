/* The exclusive scan of states as a pipelined chain: each rank takes blocks of rows from the one before it, merges its
 * own in and passes them on while the next arrive. Every rank sends exactly one state. As "All-Scan" of ZeCO (Chou et
 * al., "ZeCO: zero communication overhead sequence parallelism for linear attention", 2025). */
#include <math.h>
#include <string.h>

#include "dist/group_internal.h"

enum { MAX_BLOCKS = 256 }; /* beyond, a block's latency is what counts */

/* With K blocks the last one leaves rank 0 after K steps and takes P - 2 more to the last rank: P - 2 + K steps of
 * latency + bytes / K each. This is least at K = sqrt((P - 2) bytes / latency), all in seconds. */
static double step_bytes_s(double bytes) { return bytes * (GROUP_SEND_S_PER_BYTE + GROUP_MERGE_S_PER_BYTE); }

int group_chain_n_blocks(int size, double state_bytes) {
  if (size <= 2) return 1;
  double best = round(sqrt((size - 2) * step_bytes_s(state_bytes) / GROUP_LATENCY_S));
  return best < 1 ? 1 : best > MAX_BLOCKS ? MAX_BLOCKS : (int)best;
}

double group_chain_seconds(int size, double state_bytes) {
  if (size < 2) return 0;
  int n_blocks = group_chain_n_blocks(size, state_bytes);
  return (size - 2 + n_blocks) * (GROUP_LATENCY_S + step_bytes_s(state_bytes) / n_blocks);
}

static int64_t rows_of(const struct dist_group *group, int block) {
  int64_t left = group->n_rows - block * group->chain.block_rows;
  return left < group->chain.block_rows ? left : group->chain.block_rows;
}

static size_t offset_of(const struct dist_group *group, int block) {
  return group->row_bytes * (size_t)(block * group->chain.block_rows);
}

static enum favor_status send_block(struct dist_group *group, const void *state, int block) {
  return group_send(group, (const char *)state + offset_of(group, block), rows_of(group, block), group->rank + 1,
                    GROUP_TAG_CHAIN, &group->chain.sends[block]);
}

static enum favor_status begin_with(struct dist_group *group, int n_blocks) {
  bool is_first = group->rank == 0, is_last = group->rank == group->size - 1;
  int64_t block_rows = (group->n_rows + n_blocks - 1) / n_blocks;
  group->chain.block_rows = block_rows;
  group->chain.n_blocks = group->n_rows > 0 ? (int)((group->n_rows + block_rows - 1) / block_rows) : 0;
  FAVOR_ASSERT(group->chain.n_blocks <= group->max_blocks);
  group->chain.receives = group->requests;
  group->chain.sends = group->requests + group->max_blocks;
  group->chain.n_arrived = is_first ? group->chain.n_blocks : 0;
  for (int b = 0; b < group->chain.n_blocks; b++) {
    enum favor_status status = FAVOR_OK;
    group->chain.receives[b] = group->chain.sends[b] = MPI_REQUEST_NULL;
    if (!is_first) {
      void *into = (char *)group->result + offset_of(group, b);
      status =
          group_receive(group, into, rows_of(group, b), group->rank - 1, GROUP_TAG_CHAIN, &group->chain.receives[b]);
    } else if (!is_last) {
      status = send_block(group, group->partial, b);
    }
    if (status != FAVOR_OK) return status;
  }
  return FAVOR_OK;
}

static enum favor_status chain_begin(struct dist_group *group) {
  return begin_with(group, group_chain_n_blocks(group->size, (double)group_state_bytes(group)));
}

static enum favor_status linear_begin(struct dist_group *group) { return begin_with(group, 1); }

/* A block of the prefix is here: this rank's own is merged in, and it goes on. */
static enum favor_status pass_on(struct dist_group *group, int block) {
  size_t offset = offset_of(group, block);
  int64_t n_rows = rows_of(group, block);
  char *outgoing = (char *)group->window + offset;
  memcpy(outgoing, (const char *)group->partial + offset, group->row_bytes * (size_t)n_rows);
  binned_merge((const char *)group->result + offset, outgoing, n_rows);
  return send_block(group, group->window, block);
}

static enum favor_status chain_progress(struct dist_group *group, bool *is_done) {
  *is_done = false;
  int flag = 0;
  for (; group->chain.n_arrived < group->chain.n_blocks; group->chain.n_arrived++) {
    int block = group->chain.n_arrived;
    int mpi_code = MPI_Test(&group->chain.receives[block], &flag, MPI_STATUS_IGNORE);
    enum favor_status status = dist_check(group->context, mpi_code, "a scan of states by a chain");
    if (status == FAVOR_OK && flag && group->rank < group->size - 1) status = pass_on(group, block);
    if (status != FAVOR_OK || !flag) return status;
  }
  int mpi_code = MPI_Testall(group->chain.n_blocks, group->chain.sends, &flag, MPI_STATUSES_IGNORE);
  *is_done = flag;
  return dist_check(group->context, mpi_code, "a scan of states by a chain");
}

const struct group_scan group_scan_chain = {"chain", chain_begin, chain_progress};

/* Whole states from rank to rank, as Open MPI's own scan: where that cannot be called, because the ranks of the axis
 * that are in other sets would have to call it too. */
const struct group_scan group_scan_linear = {"exscan", linear_begin, chain_progress};

#include "dist/probe.h"

#include <stdlib.h>

#include "base/binned.h"
#include "base/clock.h"
#include "base/memory.h"
#include "dist/agree.h"
#include "dist/watch.h"

enum { TAG_PROBE = 1, SMALL_BYTES = 8, LARGE_BYTES = 4 << 20, N_SMALL = 200, N_LARGE = 8, N_ROUNDS = 5 };

/* Two ranks; none where there are no two such. */
struct pair {
  int first, second;
};

/* Half a round trip of n messages; on a rank of the pair. */
static int ping_pong(MPI_Comm comm, int rank, struct pair pair, void *buffer, int bytes, int n, double *seconds) {
  const bool is_first = rank == pair.first;
  const int peer = is_first ? pair.second : pair.first;
  int mpi_code = MPI_SUCCESS;
  const double start = clock_now_s();
  for (int i = 0; i < 2 * n && mpi_code == MPI_SUCCESS; i++) {
    const bool is_sending = is_first == (i % 2 == 0);
    mpi_code = is_sending ? MPI_Send(buffer, bytes, MPI_BYTE, peer, TAG_PROBE, comm)
                          : MPI_Recv(buffer, bytes, MPI_BYTE, peer, TAG_PROBE, comm, MPI_STATUS_IGNORE);
  }
  *seconds = (clock_now_s() - start) / (2 * n);
  return mpi_code;
}

/* The best of some rounds: what else the machine does only ever adds. On a rank of the pair. */
static int measure_pair(MPI_Comm comm, int rank, struct pair pair, void *buffer, struct favor_link_costs *link) {
  double small_s, large_s, least[2] = {0, 0};
  for (int round = 0; round < N_ROUNDS; round++) {
    int mpi_code = ping_pong(comm, rank, pair, buffer, SMALL_BYTES, N_SMALL, &small_s);
    if (mpi_code == MPI_SUCCESS) mpi_code = ping_pong(comm, rank, pair, buffer, LARGE_BYTES, N_LARGE, &large_s);
    if (mpi_code != MPI_SUCCESS) return mpi_code;
    if (round == 0 || small_s < least[0]) least[0] = small_s;
    if (round == 0 || large_s < least[1]) least[1] = large_s;
  }
  link->latency_s = least[0];
  if (least[1] > least[0]) link->s_per_byte = (least[1] - least[0]) / LARGE_BYTES;
  return MPI_SUCCESS;
}

/* Collective: the numbers of the pair's first rank to all; nothing where there is no pair. */
static void probe_link(struct favor_context *context, struct pair pair, void *buffer, struct favor_link_costs *link) {
  const bool is_member = context->rank == pair.first || context->rank == pair.second;
  if (pair.second < 0 || context->is_dead) return;
  dist_watch_enter(context->watch, "measuring the network");
  int mpi_code = is_member ? measure_pair(context->comm, context->rank, pair, buffer, link) : MPI_SUCCESS;
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Bcast(link, (int)sizeof *link, MPI_BYTE, pair.first, context->comm);
  dist_watch_leave(context->watch);
  dist_check(context, mpi_code, "measuring the network");
}

/* Collective: of the nodes, named by their lowest rank, one that has two ranks; and two nodes. */
static enum favor_status find_pairs(struct favor_context *context, struct pair *within, struct pair *between) {
  /* The lowest rank that is not the first of its node, and the lowest that is on another node than rank 0. */
  const int none = context->size, leader = context->node;
  int second[2] = {leader != context->rank ? context->rank : none, leader != 0 ? context->rank : none};
  int mpi_code = MPI_Allreduce(MPI_IN_PLACE, second, 2, MPI_INT, MPI_MIN, context->comm);
  int first = context->rank == second[0] ? leader : none;
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, context->comm);
  *within = second[0] < none ? (struct pair){first, second[0]} : (struct pair){-1, -1};
  *between = second[1] < none ? (struct pair){0, second[1]} : (struct pair){-1, -1};
  return dist_check(context, mpi_code, "finding the ranks of this node");
}

enum { N_ROWS = 2048, WIDTH = 65, N_BINS = 2 }; /* 8 heads of 256 features and width 64 */

static void fill(void *rows) {
  double values[WIDTH];
  for (int e = 0; e < WIDTH; e++) values[e] = e + 1;
  binned_clear(rows, N_ROWS, WIDTH, N_BINS);
  for (int64_t r = 0; r < N_ROWS; r++) {
    struct binned_row *row = binned_row_at(rows, binned_row_bytes(WIDTH, N_BINS), r);
    binned_raise(row, 0);
    binned_deposit(row, 0, WIDTH, values, 0, NULL);
  }
}

/* Of one state into another; both have something in every row. */
static double merge_s_per_byte(struct favor_context *context) {
  const size_t bytes = N_ROWS * binned_row_bytes(WIDTH, N_BINS);
  void *from = memory_zeroed(1, bytes), *into = memory_zeroed(1, bytes);
  double least = 0;
  if (!from || !into) dist_fail(context, FAVOR_ENOMEM, "no memory to measure how states merge");
  for (int round = 0; from && into && round < N_ROUNDS; round++) {
    fill(from);
    fill(into);
    const double start = clock_now_s();
    binned_merge(from, into, N_ROWS);
    const double seconds = clock_now_s() - start;
    if (round == 0 || seconds < least) least = seconds;
  }
  free(from);
  free(into);
  return least / (double)bytes;
}

enum favor_status dist_probe(struct favor_context *context, struct dist_probe *probe) {
  struct pair within, between;
  *probe = (struct dist_probe){.costs = context->costs};
  void *buffer = memory_zeroed(1, LARGE_BYTES);
  if (!buffer) dist_fail(context, FAVOR_ENOMEM, "no memory to measure the network (%d bytes)", LARGE_BYTES);
  double merge = context->rank == 0 ? merge_s_per_byte(context) : 0;
  enum favor_status status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = find_pairs(context, &within, &between);
  if (status == FAVOR_OK) {
    probe->has_within_node = within.second >= 0;
    probe->has_between_nodes = between.second >= 0;
    probe_link(context, within, buffer, &probe->costs.within_node);
    probe_link(context, between, buffer, &probe->costs.between_nodes);
    status = dist_max_double(context, &merge, 1);
    if (merge > 0) probe->costs.merge_s_per_byte = merge;
  }
  free(buffer);
  return status == FAVOR_OK ? dist_agree(context, DIST_SITE_COMMAND, 0, "") : status;
}

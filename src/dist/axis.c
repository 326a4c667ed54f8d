#include "dist/axis.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dist/count.h"
#include "dist/watch.h"

enum { TAG_EXCHANGE = 1 };

/* MPI counts are int. */
static const size_t PIECE_BYTES = (size_t)1 << 30;

struct dist_axis {
  struct favor_context *context;
  MPI_Comm comm;
  int rank, size;
  int64_t max_pieces;
  MPI_Request *requests; /* [2 max_pieces] */
  int64_t bytes_sent;
};

enum favor_status dist_axis_create(struct favor_context *context, int color, int64_t max_pieces,
                                   struct dist_axis **axis) {
  *axis = NULL;
  if (context->is_dead) return FAVOR_EMPI;
  struct dist_axis *made = color < 0 ? NULL : memory_zeroed(1, sizeof *made);
  MPI_Request *requests = color < 0 ? NULL : memory_zeroed(2 * (size_t)max_pieces, sizeof *requests);
  bool lacks_memory = color >= 0 && (!made || !requests);
  if (lacks_memory) dist_fail(context, FAVOR_ENOMEM, "no memory for an exchange of %lld pieces", (long long)max_pieces);
  /* A rank that failed takes part in the split all the same. */
  MPI_Comm comm = MPI_COMM_NULL;
  bool is_member = color >= 0 && !lacks_memory;
  dist_watch_enter(context->watch, "splitting the ranks by their heads");
  int mpi_code = MPI_Comm_split(context->comm, is_member ? color : MPI_UNDEFINED, context->rank, &comm);
  dist_watch_leave(context->watch);
  enum favor_status status = dist_check(context, mpi_code, "splitting the ranks by their heads");
  if (!is_member || status != FAVOR_OK) {
    free(made);
    free(requests);
    return lacks_memory ? FAVOR_ENOMEM : status;
  }
  *made = (struct dist_axis){.context = context, .comm = comm, .max_pieces = max_pieces, .requests = requests};
  *axis = made;
  mpi_code = MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_rank(comm, &made->rank);
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Comm_size(comm, &made->size);
  return dist_check(context, mpi_code, "splitting the ranks by their heads");
}

void dist_axis_destroy(struct dist_axis **axis) {
  if (!*axis) return;
  if (!(*axis)->context->is_dead) MPI_Comm_free(&(*axis)->comm);
  free((*axis)->requests);
  free(*axis);
  *axis = NULL;
}

int dist_axis_rank(const struct dist_axis *axis) { return axis->rank; }
int dist_axis_size(const struct dist_axis *axis) { return axis->size; }
int64_t dist_axis_bytes_sent(const struct dist_axis *axis) { return axis->bytes_sent; }

enum favor_status dist_axis_broadcast(struct dist_axis *axis, int root, void *data, size_t bytes) {
  if (axis->context->is_dead) return FAVOR_EMPI;
  if (axis->rank == root && axis->size > 1) axis->bytes_sent += (int64_t)bytes;
  for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
    size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
    dist_watch_enter(axis->context->watch, "sharing tokens");
    int mpi_code = MPI_Bcast((char *)data + done, dist_count((int64_t)piece), MPI_BYTE, root, axis->comm);
    dist_watch_leave(axis->context->watch);
    if (dist_check(axis->context, mpi_code, "sharing tokens") != FAVOR_OK) return FAVOR_EMPI;
  }
  return FAVOR_OK;
}

/* The pieces of this rank for itself: the n-th sent is the n-th received. */
static void copy_own(const struct dist_axis *axis, const struct dist_piece *sends, int64_t n_sends,
                     const struct dist_piece *receives, int64_t n_receives) {
  int64_t to = 0;
  for (int64_t from = 0; from < n_sends; from++) {
    if (sends[from].peer != axis->rank) continue;
    while (to < n_receives && receives[to].peer != axis->rank) to++;
    FAVOR_ASSERT(to < n_receives && receives[to].bytes == sends[from].bytes);
    if (sends[from].bytes > 0) memmove(receives[to].data, sends[from].data, sends[from].bytes);
    to++;
  }
}

enum favor_status dist_axis_exchange(struct dist_axis *axis, const struct dist_piece *sends, int64_t n_sends,
                                     const struct dist_piece *receives, int64_t n_receives) {
  if (axis->context->is_dead) return FAVOR_EMPI;
  FAVOR_ASSERT(n_sends <= axis->max_pieces && n_receives <= axis->max_pieces);
  int n = 0, mpi_code = MPI_SUCCESS;
  for (int64_t i = 0; i < n_receives && mpi_code == MPI_SUCCESS; i++) {
    if (receives[i].peer == axis->rank) continue;
    mpi_code = MPI_Irecv(receives[i].data, dist_count((int64_t)receives[i].bytes), MPI_BYTE, receives[i].peer,
                         TAG_EXCHANGE, axis->comm, &axis->requests[n]);
    n += mpi_code == MPI_SUCCESS;
  }
  for (int64_t i = 0; i < n_sends && mpi_code == MPI_SUCCESS; i++) {
    if (sends[i].peer == axis->rank) continue;
    axis->bytes_sent += (int64_t)sends[i].bytes;
    mpi_code = MPI_Isend(sends[i].data, dist_count((int64_t)sends[i].bytes), MPI_BYTE, sends[i].peer, TAG_EXCHANGE,
                         axis->comm, &axis->requests[n]);
    n += mpi_code == MPI_SUCCESS;
  }
  copy_own(axis, sends, n_sends, receives, n_receives);
  dist_watch_enter(axis->context->watch, "exchanging tokens");
  if (mpi_code == MPI_SUCCESS) mpi_code = MPI_Waitall(n, axis->requests, MPI_STATUSES_IGNORE);
  dist_watch_leave(axis->context->watch);
  return dist_check(axis->context, mpi_code, "exchanging tokens");
}

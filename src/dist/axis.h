/* The ranks that own the same heads, in order of their tokens: what methods need whose tokens meet as they are, not as
 * states. */
#ifndef FAVOR_DIST_AXIS_H
#define FAVOR_DIST_AXIS_H

#include "dist/comm.h"

struct dist_axis;

/* Collective over the context. Ranks that give the same color >= 0 form an axis, in order of rank; a color < 0 is in
 * none, and gets *axis = NULL with FAVOR_OK. An exchange may have up to max_pieces sends and as many receives. On a
 * local failure (FAVOR_ENOMEM, FAVOR_EMPI) records it with dist_fail and returns it; the caller agrees afterwards. */
enum favor_status dist_axis_create(struct favor_context *context, int color, int64_t max_pieces,
                                   struct dist_axis **axis);
void dist_axis_destroy(struct dist_axis **axis);
int dist_axis_rank(const struct dist_axis *axis);
int dist_axis_size(const struct dist_axis *axis);

/* Bytes that one rank of the axis has, to all of it; any 64-bit count. */
enum favor_status dist_axis_broadcast(struct dist_axis *axis, int root, void *data, size_t bytes);

/* What goes to a rank of the axis, or comes from it; at most 1 GiB. Pieces between two ranks match in order; a piece
 * for the rank itself is copied. */
struct dist_piece {
  int peer;
  void *data; /* of a send: only read */
  size_t bytes;
};
enum favor_status dist_axis_exchange(struct dist_axis *axis, const struct dist_piece *sends, int64_t n_sends,
                                     const struct dist_piece *receives, int64_t n_receives);

/* Where a rank stands in a scan. Ranks form chains of neighbours, each of which sums its ranks' states in order; one
 * chain may end and another begin with the same rank. */
struct dist_scan_place {
  bool is_backward; /* from higher ranks to lower ones */
  int n_from;       /* ranks before this one in the chain that reaches it */
  int n_to;         /* ranks after this one in the chain that it reaches */
  bool is_through;  /* the two are one */
};
/* The exclusive scan of states, arrays of n_rows binned rows (base/binned.h): merges into `result` those of the n_from
 * ranks before. window: this rank's own for the ranks after it, which is lost; incoming: scratch. Needs one piece each
 * way. By recursive doubling, as dist/scan.c. */
enum favor_status dist_axis_scan(struct dist_axis *axis, const struct dist_scan_place *place, int64_t n_rows,
                                 size_t row_bytes, void *window, void *incoming, void *result);

/* Bytes that this rank sent since creation (a broadcast: by its root, once). */
int64_t dist_axis_bytes_sent(const struct dist_axis *axis);

#endif

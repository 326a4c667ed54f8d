#include <string.h>

#include "base/binned.h"
#include "dist/axis.h"

static const size_t PIECE_BYTES = (size_t)1 << 30;

/* To the rank `to`, from the rank `from`; -1: nobody. */
static enum favor_status pass(struct dist_axis *axis, int to, char *data, int from, char *arriving, size_t bytes) {
  enum favor_status status = FAVOR_OK;
  for (size_t done = 0; done < bytes && status == FAVOR_OK; done += PIECE_BYTES) {
    size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
    struct dist_piece send = {to, data + done, piece}, receive = {from, arriving + done, piece};
    status = dist_axis_exchange(axis, &send, to >= 0, &receive, from >= 0);
  }
  return status;
}

enum favor_status dist_axis_scan(struct dist_axis *axis, const struct dist_scan_place *place, int64_t n_rows,
                                 size_t row_bytes, void *window, void *incoming, void *result) {
  const int rank = dist_axis_rank(axis), step = place->is_backward ? -1 : 1;
  const size_t bytes = row_bytes * (size_t)n_rows;
  for (int64_t distance = 1; distance <= place->n_from || distance <= place->n_to; distance *= 2) {
    const bool receives = distance <= place->n_from;
    const int there = (int)distance * step;
    enum favor_status status =
        pass(axis, distance <= place->n_to ? rank + there : -1, window, receives ? rank - there : -1, incoming, bytes);
    if (status != FAVOR_OK) return status;
    if (!receives) continue;
    binned_merge(incoming, result, n_rows);
    if (place->is_through) binned_merge(incoming, window, n_rows);
  }
  return FAVOR_OK;
}

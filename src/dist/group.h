/* Groups of ranks whose states meet: neighbours along the token axis that share one segment.
 *
 * A group has a communicator for a whole axis, and works on one set of neighbours of it at a time: dist_group_set names
 * another without allocating and without sending anything.
 *
 * Several operations may be in flight, each in a lane of its own: one a batch of heads, say, so that the states of some
 * heads travel while those of others are computed. Nothing travels by itself: call dist_group_progress between pieces
 * of that work.
 *
 * A state is an array of binned rows (base/binned.h), contiguous, the same number on every rank of the axis. Merging
 * is exact, so every algorithm gives the same bytes.
 */
#ifndef FAVOR_DIST_GROUP_H
#define FAVOR_DIST_GROUP_H

#include "dist/comm.h"

struct dist_group; /* a communicator, a row type, the merge as an MPI operation, lanes with their scratch */

/* Beside the numbered lanes, for dist_pass_begin alone. */
enum { DIST_LANE_PASS = -1 };

/* What the operations of some groups took on this rank. */
struct dist_traffic {
  double in_flight_s; /* in which at least one was in flight, as far as this rank has looked */
  double blocked_s;   /* in which this rank had nothing else to do: in dist_group_end */
  int n_in_flight;
  double since_s; /* when the first of those in flight began */
};

/* What there is to exchange: n_units times unit_rows rows, of which lane i has those of the units
 * [n_units i / n_lanes, n_units (i + 1) / n_lanes). */
struct dist_group_shape {
  int n_lanes; /* at least 1 */
  int64_t n_units, unit_rows;
  size_t row_bytes;
};

/* Collective over the context. Ranks that give the same color >= 0 form an axis, in order of rank; a color < 0 is in
 * none, and gets *group = NULL with FAVOR_OK. Allocates what the algorithms need in every lane, in any set. traffic,
 * where not NULL, is the caller's, outlives the group, and may be that of several groups. On a local failure
 * (FAVOR_ENOMEM, FAVOR_EMPI) records it with dist_fail and returns it; the caller agrees afterwards. */
enum favor_status dist_group_create(struct favor_context *context, int color, const struct dist_group_shape *shape,
                                    enum favor_scan scan, struct dist_traffic *traffic, struct dist_group **group);
/* How often the lanes of a group keep all rows of its shape, beside the caller's. */
int dist_group_n_states(enum favor_scan scan);
void dist_group_destroy(struct dist_group **group);

/* Local: from now on the group is the ranks [first, first + size) of its axis, this one among them; size 0: none. Every
 * rank of the axis names its own set, ranks of one set the same; sets of different ranks are disjoint. Nothing may be
 * in flight on this rank; others may still be at what came before. Initially: all of the axis. */
void dist_group_set(struct dist_group *group, int first, int size);
/* This rank's place in the set, -1 where there is none, and the number of its ranks. */
int dist_group_rank(const struct dist_group *group);
int dist_group_size(const struct dist_group *group);
/* The algorithm of scans of the set: "exscan", "doubling", "chain", "nodes" (chosen by cost for FAVOR_SCAN_AUTO). */
const char *dist_group_scan_name(const struct dist_group *group);

/* One operation is in flight in a lane at a time. Those of two lanes, or of two groups, do not meet, whatever their
 * ranks; FAVOR_SCAN_EXSCAN alone wants the operations of a group begun in the same order on all its ranks. Begun with
 * fewer rows than the lane's, they are the same number everywhere. In a set of one rank, or none, nothing happens. */

/* Starts the exclusive scan: result = merge of the partial states of all lower ranks of the set; on the set's first
 * rank result stays as it is (the caller clears it). partial and result are distinct and stay untouched by the caller
 * until the end. */
enum favor_status dist_scan_begin(struct dist_group *group, int lane, int64_t n_rows, const void *partial,
                                  void *result);
/* Starts the all-reduce in place: state = merge of all ranks' states. */
enum favor_status dist_reduce_begin(struct dist_group *group, int lane, int64_t n_rows, void *state);
/* Starts passing rows from one rank of the axis to another (places on the axis, whatever the sets): `state` of `from`
 * arrives in `into` on `to`; each is looked at on that rank only. The other ranks do nothing, and need not call this.
 * from == to copies. The receiver may begin before the sender does. DIST_LANE_PASS takes any number of rows. */
enum favor_status dist_pass_begin(struct dist_group *group, int lane, int from, int to, int64_t n_rows,
                                  const void *state, void *into);
/* Lets all lanes advance; *is_done when nothing is left. Cheap. */
enum favor_status dist_group_progress(struct dist_group *group, bool *is_done);
/* Blocks until the operation in flight in a lane, if any, is complete; the others advance meanwhile. */
enum favor_status dist_group_end(struct dist_group *group, int lane);
/* State bytes sent by this rank since creation (for the built-in collectives: as their known algorithm sends). */
int64_t dist_group_bytes_sent(const struct dist_group *group);

#endif

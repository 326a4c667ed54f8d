/* Groups of ranks whose states meet: neighbours along the token axis that share one segment.
 *
 * A group has a communicator for a whole axis, and works on one set of neighbours of it at a time: dist_group_set names
 * another without allocating and without sending anything.
 *
 * A state is an array of binned rows (base/binned.h), contiguous, the same number on every rank of the axis. Merging
 * is exact, so every algorithm gives the same bytes.
 */
#ifndef FAVOR_DIST_GROUP_H
#define FAVOR_DIST_GROUP_H

#include "dist/comm.h"

struct dist_group; /* a communicator, a row type, the merge as an MPI operation, scratch for the algorithms */

/* Collective over the context. Ranks that give the same color >= 0 form an axis, in order of rank; a color < 0 is in
 * none, and gets *group = NULL with FAVOR_OK. Allocates what the algorithms need for n_rows rows in any set. On a local
 * failure (FAVOR_ENOMEM, FAVOR_EMPI) records it with dist_fail and returns it; the caller agrees afterwards. */
enum favor_status dist_group_create(struct favor_context *context, int color, int64_t n_rows, size_t row_bytes,
                                    enum favor_scan scan, struct dist_group **group);
void dist_group_destroy(struct dist_group **group);

/* Local: from now on the group is the ranks [first, first + size) of its axis, this one among them; size 0: none. Every
 * rank of the axis names its own set, ranks of one set the same; sets of different ranks are disjoint. Nothing may be
 * in flight on this rank; others may still be at what came before. Initially: all of the axis. */
void dist_group_set(struct dist_group *group, int first, int size);
/* This rank's place in the set, -1 where there is none, and the number of its ranks. */
int dist_group_rank(const struct dist_group *group);
int dist_group_size(const struct dist_group *group);
/* The algorithm of scans of the set: "exscan", "doubling", "chain" (chosen by cost for FAVOR_SCAN_AUTO). */
const char *dist_group_scan_name(const struct dist_group *group);

/* One operation of a group is in flight at a time on a rank. Those of two groups do not meet, whatever their ranks; two
 * in flight at once are to be ended in the same order everywhere. In a set of one rank, or none, nothing happens. */

/* Starts the exclusive scan: result = merge of the partial states of all lower ranks of the set; on the set's first
 * rank result stays as it is (the caller clears it). partial and result are distinct and stay untouched by the caller
 * until the end. */
enum favor_status dist_scan_begin(struct dist_group *group, const void *partial, void *result);
/* Starts the all-reduce in place: state = merge of all ranks' states. */
enum favor_status dist_reduce_begin(struct dist_group *group, void *state);
/* Starts passing a state from one rank of the axis to another (places on the axis, whatever the sets): `state` of
 * `from` arrives in `into` on `to`; each is looked at on that rank only. The other ranks do nothing, and need not call
 * this. from == to copies. The receiver may begin before the sender does. */
enum favor_status dist_pass_begin(struct dist_group *group, int from, int to, const void *state, void *into);
/* Lets communication advance; *is_done when nothing is left. Cheap. */
enum favor_status dist_group_progress(struct dist_group *group, bool *is_done);
/* Blocks until the operation in flight is complete. */
enum favor_status dist_group_end(struct dist_group *group);
/* State bytes sent by this rank since creation (for the built-in collectives: as their known algorithm sends). */
int64_t dist_group_bytes_sent(const struct dist_group *group);

#endif

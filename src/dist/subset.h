/* A context of the first few ranks, while the others rest. */
#ifndef FAVOR_DIST_SUBSET_H
#define FAVOR_DIST_SUBSET_H

#include "dist/comm.h"

/* Collective over the context. Makes a context of its ranks [0, n_ranks), 1 <= n_ranks <= size, watched as the context
 * is; *subset is NULL on all other ranks. Freed with favor_context_destroy before the context is. Records FAVOR_ENOMEM
 * or FAVOR_EMPI on the ranks of the subset on failure and returns it; the caller agrees afterwards. */
enum favor_status dist_subset_create(struct favor_context *context, int n_ranks, struct favor_context **subset);

/* Local: records with the context what a collective call on the subset returned; its message is the subset's. Where
 * MPI failed in the subset the context is dead too, as ranks of the subset may never return. Returns status. */
enum favor_status dist_subset_pass_on(struct favor_context *context, const struct favor_context *subset,
                                      enum favor_status status);

/* Collective: waits until all ranks are here, asleep most of the time, so that ranks which still work have the cores
 * that they share with those that wait. Late by up to a millisecond. Records FAVOR_EMPI on failure and returns it. */
enum favor_status dist_rest(struct favor_context *context);

#endif

/* The ranks that share this machine. Define _GNU_SOURCE before any header. */
#ifndef FAVOR_DIST_NODE_H
#define FAVOR_DIST_NODE_H

#include "base/cpus.h"
#include "dist/comm.h"

/* Collective. Shares the node's cores among its ranks, each of which may run on its `own` CPUs: fills this rank's entry
 * and the topology of all their CPUs. Records FAVOR_ENOMEM or FAVOR_EMPI on failure and returns it; the share is then
 * all of `own`. */
enum favor_status dist_node_share(struct favor_context *context, const cpu_set_t *own, struct cpus_rank *rank,
                                  struct cpus_topology *topology);

#endif

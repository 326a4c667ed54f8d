/* The ranks that share this machine. */
#ifndef FAVOR_DIST_NODE_H
#define FAVOR_DIST_NODE_H

#include "dist/comm.h"

/* Collective. *cores: how many cores this rank may run on over the ranks of its node that may run on the same ones, at
 * least 1. Records FAVOR_EMPI on failure and returns it. */
enum favor_status dist_node_cores(struct favor_context *context, int *cores);

#endif

/* What this network and this memory do: the costs of favor_machine.h, measured. */
#ifndef FAVOR_DIST_PROBE_H
#define FAVOR_DIST_PROBE_H

#include "dist/comm.h"

struct dist_probe {
  bool has_within_node, has_between_nodes; /* were there two such ranks? */
  struct favor_costs costs;                /* what could not be measured stays as the context has it */
};

/* Collective: messages of 8 bytes and of 4 MiB to and fro between two ranks of one node, and between two nodes, while
 * the other ranks wait; and binned_merge on rank 0. Takes well below a second. Errors: FAVOR_ENOMEM, FAVOR_EMPI. */
enum favor_status dist_probe(struct favor_context *context, struct dist_probe *probe);

#endif

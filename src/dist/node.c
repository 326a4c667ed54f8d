#define _GNU_SOURCE /* CPU sets */
#include "dist/node.h"

#include <stdlib.h>

#include "base/memory.h"
#include "dist/watch.h"

/* Every rank's mask to every rank, one at a time, so that one that has no memory for them can take part. */
static enum favor_status share_masks(struct favor_context *context, MPI_Comm node, const cpu_set_t *own,
                                     struct cpus_rank *ranks, cpu_set_t *all) {
  int size = 0;
  MPI_Comm_size(node, &size);
  CPU_ZERO(all);
  for (int other = 0; other < size; other++) {
    cpu_set_t mask = *own;
    enum favor_status status =
        dist_check(context, MPI_Bcast(&mask, (int)sizeof mask, MPI_BYTE, other, node), "sharing CPU sets");
    if (status != FAVOR_OK) return status;
    CPU_OR(all, all, &mask);
    if (ranks) ranks[other].mask = mask;
  }
  return FAVOR_OK;
}

static enum favor_status share_node(struct favor_context *context, MPI_Comm node, const cpu_set_t *own,
                                    struct cpus_rank *rank, struct cpus_topology *topology) {
  int size = 0, node_rank = 0;
  MPI_Comm_size(node, &size);
  MPI_Comm_rank(node, &node_rank);
  struct cpus_rank *ranks = memory_zeroed((size_t)size, sizeof *ranks);
  if (!ranks) dist_fail(context, FAVOR_ENOMEM, "no memory for the CPU sets of %d ranks", size);
  cpu_set_t all;
  enum favor_status status = share_masks(context, node, own, ranks, &all);
  if (status == FAVOR_OK) {
    /* One rank reads, as /sys is slow where all do at once. */
    if (node_rank == 0) cpus_read_topology(&all, topology);
    status = dist_check(context, MPI_Bcast(topology, (int)sizeof *topology, MPI_BYTE, 0, node), "sharing the topology");
  }
  if (status == FAVOR_OK && ranks) {
    cpus_share(topology, ranks, size);
    *rank = ranks[node_rank];
  }
  free(ranks);
  return ranks ? status : FAVOR_ENOMEM;
}

static enum favor_status share_on_node(struct favor_context *context, const cpu_set_t *own, struct cpus_rank *rank,
                                       struct cpus_topology *topology) {
  MPI_Comm node = MPI_COMM_NULL;
  enum favor_status status =
      dist_check(context, MPI_Comm_split_type(context->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
                 "finding the ranks of this node");
  if (status != FAVOR_OK) return status;
  status = share_node(context, node, own, rank, topology);
  MPI_Comm_free(&node);
  return status;
}

enum favor_status dist_node_share(struct favor_context *context, const cpu_set_t *own, struct cpus_rank *rank,
                                  struct cpus_topology *topology) {
  *rank = (struct cpus_rank){.mask = *own, .share = *own, .fair_cores = 1, .is_alone = false};
  topology->n = 0;
  if (context->is_dead) return FAVOR_EMPI;
  dist_watch_enter(context->watch, "sharing the cores of a node");
  enum favor_status status = share_on_node(context, own, rank, topology);
  dist_watch_leave(context->watch);
  return status;
}

#define _GNU_SOURCE /* CPU sets */
#include "dist/node.h"

#include <sched.h>
#include <string.h>

/* Counts this rank's cores and the ranks of its node with the same set of them. */
static enum favor_status count_sharing(struct favor_context *context, MPI_Comm node, const cpu_set_t *own,
                                       int *n_sharing) {
  int size = 0, rank = 0;
  MPI_Comm_size(node, &size);
  MPI_Comm_rank(node, &rank);
  *n_sharing = 0;
  /* One set at a time, so that nothing need be allocated. */
  for (int other = 0; other < size; other++) {
    cpu_set_t set = *own;
    enum favor_status status =
        dist_check(context, MPI_Bcast(&set, (int)sizeof set, MPI_BYTE, other, node), "sharing CPU sets");
    if (status != FAVOR_OK) return status;
    *n_sharing += CPU_EQUAL(&set, own);
  }
  return FAVOR_OK;
}

enum favor_status dist_node_cores(struct favor_context *context, int *cores) {
  *cores = 1;
  if (context->is_dead) return FAVOR_EMPI;
  MPI_Comm node = MPI_COMM_NULL;
  enum favor_status status =
      dist_check(context, MPI_Comm_split_type(context->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
                 "finding the ranks of this node");
  if (status != FAVOR_OK) return status;
  cpu_set_t own;
  CPU_ZERO(&own);
  if (sched_getaffinity(0, sizeof own, &own) != 0) CPU_SET(0, &own);
  int n_sharing = 1;
  status = count_sharing(context, node, &own, &n_sharing);
  MPI_Comm_free(&node);
  if (status != FAVOR_OK) return status;
  *cores = CPU_COUNT(&own) / n_sharing;
  if (*cores < 1) *cores = 1;
  return FAVOR_OK;
}

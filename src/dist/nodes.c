/* The exclusive scan of states by nodes: first among the neighbours that share a machine, then among the last of each
 * node, which have its total, then what stands before a node is handed to its ranks. One rank a node uses the network
 * at a time. A node is as many neighbours in the set as share a machine; where ranks are dealt out in turns, each is a
 * node of its own, and this is recursive doubling. */
#include <string.h>

#include "dist/group_internal.h"

void group_find_nodes(struct dist_group *group) {
  group->n_nodes = 0;
  group->node = (struct group_line){0};
  if (!group->node_of) return;
  const int *node_of = group->node_of + group->first;
  int first = 0;
  for (int place = 0; place < group->size; place++) {
    if (place + 1 < group->size && node_of[place + 1] == node_of[place]) continue;
    if (group->rank >= first && group->rank <= place) {
      group->node_index = group->n_nodes;
      group->node = (struct group_line){.first = first, .size = place + 1 - first};
    }
    group->leaders[group->n_nodes++] = place;
    first = place + 1;
  }
}

struct dist_layout group_layout_of(const struct dist_group *group) {
  struct dist_layout layout = {.size = group->size, .per_node = group->size > 0 ? group->size : 1};
  for (int node = 0, before = -1; node < group->n_nodes; before = group->leaders[node++]) {
    const int size = group->leaders[node] - before;
    layout.per_node = node == 0 || size > layout.per_node ? size : layout.per_node;
  }
  return layout;
}

static int own_in_node(const struct dist_group *group) { return group->rank - group->node.first; }
static bool is_leader(const struct dist_group *group) { return own_in_node(group) == group->node.size - 1; }

/* ---- what stands before the node, from its leader to its other ranks, by a binomial tree ------------------------- */

/* Before the round of distance d the d ranks next to the leader have it, itself among them. */
static enum favor_status start_fan_round(struct group_lane *lane) {
  const struct dist_group *group = lane->group;
  const int from_leader = group->node.size - 1 - own_in_node(group), distance = lane->nodes.fan_distance;
  MPI_Request *requests = lane->requests;
  requests[0] = requests[1] = MPI_REQUEST_NULL;
  if (from_leader < distance && from_leader + distance < group->node.size) {
    return group_send(lane, lane->before, lane->n_rows, group->rank - distance, GROUP_TAG_FAN, &requests[1]);
  }
  if (from_leader >= distance && from_leader < 2 * distance) {
    return group_receive(lane, lane->before, lane->n_rows, group->rank + distance, GROUP_TAG_FAN, &requests[0]);
  }
  return FAVOR_OK;
}

/* ---- the three phases -------------------------------------------------------------------------------------------- */

static enum favor_status begin_between(struct group_lane *lane) {
  struct dist_group *group = lane->group;
  lane->nodes.phase = NODES_BETWEEN;
  if (!is_leader(group)) return FAVOR_OK;
  memcpy(lane->total, lane->partial, group_bytes(lane));
  if (own_in_node(group) > 0) binned_merge(lane->result, lane->total, lane->n_rows);
  lane->doubling = (struct group_doubling){.line = {.size = group->n_nodes, .places = group->leaders},
                                           .own = group->node_index,
                                           .partial = lane->total,
                                           .result = lane->before};
  return group_doubling_begin(lane);
}

/* Nothing stands before the first node. */
static enum favor_status begin_fan(struct group_lane *lane) {
  lane->nodes.phase = lane->group->node_index > 0 ? NODES_FAN : NODES_DONE;
  lane->nodes.fan_distance = 1;
  const bool has_round = lane->nodes.phase == NODES_FAN && lane->group->node.size > 1;
  return has_round ? start_fan_round(lane) : FAVOR_OK;
}

static enum favor_status progress_fan(struct group_lane *lane) {
  while (lane->nodes.fan_distance < lane->group->node.size) {
    bool is_over;
    enum favor_status status = group_test_pair(lane, "a scan of states by nodes", &is_over);
    if (status != FAVOR_OK || !is_over) return status;
    lane->nodes.fan_distance *= 2;
    if (lane->nodes.fan_distance < lane->group->node.size) status = start_fan_round(lane);
    if (status != FAVOR_OK) return status;
  }
  if (own_in_node(lane->group) > 0) {
    binned_merge(lane->before, lane->result, lane->n_rows);
  } else {
    memcpy(lane->result, lane->before, group_bytes(lane));
  }
  lane->nodes.phase = NODES_DONE;
  return FAVOR_OK;
}

static enum favor_status nodes_begin(struct group_lane *lane) {
  lane->nodes.phase = NODES_WITHIN;
  lane->doubling = (struct group_doubling){
      .line = lane->group->node, .own = own_in_node(lane->group), .partial = lane->partial, .result = lane->result};
  return group_doubling_begin(lane);
}

static enum favor_status nodes_progress(struct group_lane *lane, bool *is_done) {
  enum favor_status status = FAVOR_OK;
  bool is_over = true;
  *is_done = false;
  if (lane->nodes.phase == NODES_WITHIN) {
    status = group_doubling_progress(lane, &is_over);
    if (status == FAVOR_OK && is_over) status = begin_between(lane);
    if (status != FAVOR_OK || !is_over) return status;
  }
  if (lane->nodes.phase == NODES_BETWEEN) {
    if (is_leader(lane->group)) status = group_doubling_progress(lane, &is_over);
    if (status == FAVOR_OK && is_over) status = begin_fan(lane);
    if (status != FAVOR_OK || !is_over) return status;
  }
  if (lane->nodes.phase == NODES_FAN) status = progress_fan(lane);
  *is_done = lane->nodes.phase == NODES_DONE;
  return status;
}

const struct group_scan group_scan_nodes = {"nodes", nodes_begin, nodes_progress};

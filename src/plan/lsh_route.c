#include "plan/lsh_route.h"

#include <string.h>

#include "plan/halo.h"

void route_find_members(const struct favor_plan *plan, struct range segment, struct route_members *members) {
  const int64_t own_part = halo_own_part(plan);
  members->n = 0;
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    const struct range tokens = range_meet(halo_shard(plan, part), segment);
    if (range_count(tokens) == 0) continue;
    if (part == own_part) members->own = members->n;
    members->parts[members->n] = (int32_t)part;
    members->begins[members->n++] = tokens.begin - segment.begin;
  }
  members->begins[members->n] = range_count(segment);
}

int64_t route_owner(const struct route_members *members, int64_t token) {
  int64_t low = 0, high = members->n - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (members->begins[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

static bool is_own(const struct route_members *members, int64_t token) {
  return token >= members->begins[members->own] && token < members->begins[members->own + 1];
}

void route_find(struct route *route) {
  const struct route_members *members = route->members;
  const struct range work = route->work[members->own];
  memset(route->received, 0, (size_t)(members->n + 1) * sizeof *route->received);
  route->sent[0] = 0;
  for (int64_t m = 0; m < members->n; m++) {
    route->sent[m + 1] = route->sent[m];
    for (int64_t s = route->work[m].begin; s < route->work[m].end; s++) {
      route->sent[m + 1] += is_own(members, route->order[s]);
    }
  }
  for (int64_t s = work.begin; s < work.end; s++) route->received[route_owner(members, route->order[s]) + 1]++;
  for (int64_t m = 0; m < members->n; m++) route->received[m + 1] += route->received[m];
  /* Each member's rows come in the order of the work; its count goes up to its end, and back afterwards. */
  for (int64_t s = work.begin; s < work.end; s++) {
    route->row[s - work.begin] = (int32_t)route->received[route_owner(members, route->order[s])]++;
  }
  for (int64_t m = members->n; m > 0; m--) route->received[m] = route->received[m - 1];
  route->received[0] = 0;
}

void route_for_sent(const struct route *route, route_pack_function *pack, void *data) {
  int64_t row = 0;
  for (int64_t m = 0; m < route->members->n; m++) {
    for (int64_t s = route->work[m].begin; s < route->work[m].end; s++) {
      if (is_own(route->members, route->order[s])) pack(data, route->order[s], row++);
    }
  }
}

static int64_t cut_rows(const struct route_members *members, const int64_t *before, size_t row_bytes, void *rows,
                        struct dist_piece *pieces) {
  int64_t n = 0;
  for (int64_t m = 0; m < members->n; m++) {
    n += halo_cut(members->parts[m], (char *)rows + row_bytes * (size_t)before[m], row_bytes, before[m + 1] - before[m],
                  pieces + n);
  }
  return n;
}

enum favor_status route_exchange(const struct favor_plan *plan, const struct route *route, bool is_back,
                                 size_t row_bytes, void *from, void *to, struct dist_piece *sends,
                                 struct dist_piece *receives) {
  const int64_t *out = is_back ? route->received : route->sent, *in = is_back ? route->sent : route->received;
  const int64_t n_sends = cut_rows(route->members, out, row_bytes, from, sends);
  const int64_t n_receives = cut_rows(route->members, in, row_bytes, to, receives);
  return dist_axis_exchange(plan->axis, sends, n_sends, receives, n_receives);
}

int64_t route_most_pieces(int64_t n_members, int64_t n_rows, size_t row_bytes) {
  return n_members + (int64_t)(row_bytes * (size_t)n_rows >> 29);
}

/* Rows of a segment's tokens on their way from the ranks that own the tokens to the ranks that work on them, and back.
 *
 * Everybody knows an order of the segment's tokens and which part of it each member works on: so every member knows
 * what it sends to whom, and where what it gets belongs. */
#ifndef FAVOR_PLAN_LSH_ROUTE_H
#define FAVOR_PLAN_LSH_ROUTE_H

#include "plan/plan.h"

/* The ranks that own some of a segment. */
struct route_members {
  int64_t n, own;
  int32_t *parts;  /* [n] places on the axis */
  int64_t *begins; /* [n + 1] first tokens, counted from the segment's, then its length */
};

/* Fills members from the plan; parts and begins have room for all parts of the axis and one more. */
void route_find_members(const struct favor_plan *plan, struct range segment, struct route_members *members);

/* The member that owns a token of the segment. */
int64_t route_owner(const struct route_members *members, int64_t token);

struct route {
  const struct route_members *members;
  const int32_t *order;     /* tokens */
  const struct range *work; /* [n members] of `order` */
  int64_t *sent, *received; /* [n members + 1] rows before those of each member, then all */
  int32_t *row;             /* of each place of the own work, the row that came in */
};

/* Counts what goes where, and finds the rows of the own work. */
void route_find(struct route *route);

/* Calls pack(data, token, row) for every own token that goes out, in order of rows. */
typedef void route_pack_function(void *data, int64_t token, int64_t row);
void route_for_sent(const struct route *route, route_pack_function *pack, void *data);

/* Collective over the members: the rows that go out into those that come in, or results the other way. */
enum favor_status route_exchange(const struct favor_plan *plan, const struct route *route, bool is_back,
                                 size_t row_bytes, void *from, void *to, struct dist_piece *sends,
                                 struct dist_piece *receives);

/* Pieces that one direction takes at most, for this many members and rows. */
int64_t route_most_pieces(int64_t n_members, int64_t n_rows, size_t row_bytes);

#endif

/* Rows that a part of the token axis needs beside its own, fetched from the parts that own them.
 *
 * What a row belongs to (a token, a tile) is counted along the whole axis, and each part owns a range of it. By a
 * function of the plan and the part alone every part wishes for ranges: so each rank knows what to send without being
 * asked. A range may hold rows of the part's own, of any number of others (empty parts among them), or nothing. The
 * ranges stand one after another in one buffer; the caller fills in the rows of its own, in every range, and the
 * exchange brings the others. */
#ifndef FAVOR_PLAN_HALO_H
#define FAVOR_PLAN_HALO_H

#include "plan/plan.h"

enum { HALO_MAX_RANGES = 3 };

struct halo_kind {
  struct range (*own)(const struct favor_plan *plan, int64_t part);
  /* Ranges not set are empty. What one part wishes for stands in a range of the part that owns it. */
  void (*wish)(const struct favor_plan *plan, int64_t part, struct range ranges[HALO_MAX_RANGES]);
};

struct halo {
  const struct halo_kind *kind;
  struct range ranges[HALO_MAX_RANGES];
  int64_t first_row[HALO_MAX_RANGES]; /* of each range, in the buffer */
  int64_t n_rows;
  size_t row_bytes;
  char *rows; /* the buffer */
  struct dist_piece *sends, *receives;
  int64_t n_sends, n_receives;
};

/* What this rank wishes for and how many pieces that takes, without a buffer. */
struct halo halo_count(const struct favor_plan *plan, const struct halo_kind *kind, size_t row_bytes);

/* Bytes of buffer and pieces of a counted halo, a multiple of 64. */
size_t halo_bytes(const struct halo *halo);

/* Lays a counted halo out in memory of halo_bytes, aligned to 64. */
void halo_place(const struct favor_plan *plan, void *memory, struct halo *halo);

/* Collective over the axis. */
void halo_exchange(const struct favor_plan *plan, const struct halo *halo);

/* The first range that holds all of these rows. There must be one. */
int halo_find(const struct halo *halo, struct range rows);

/* A row in a range that holds it. */
static inline void *halo_row(const struct halo *halo, int range, int64_t row) {
  return halo->rows + halo->row_bytes * (size_t)(halo->first_row[range] + row - halo->ranges[range].begin);
}

/* Rows that go to a part or come from it, as pieces that an exchange takes; both sides cut alike. With pieces == NULL
 * only counts them. */
int64_t halo_cut(int64_t part, void *rows, size_t row_bytes, int64_t n_rows, struct dist_piece *pieces);

/* This rank's place on the axis of tokens, and the tokens of any. */
static inline int64_t halo_own_part(const struct favor_plan *plan) { return plan->context->rank % plan->grid.tokens; }
static inline struct range halo_shard(const struct favor_plan *plan, int64_t part) {
  return tokens_shard(&plan->tokens, plan->grid.tokens, part);
}

/* The segments that a part shares with others: of its first token, and of its last; empty ranges where it shares none.
 * Two parts never share two segments. */
void halo_shared_segments(const struct favor_plan *plan, int64_t part, struct range segments[2]);

static inline struct range range_meet(struct range a, struct range b) {
  struct range both = {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
  if (both.end < both.begin) both.end = both.begin;
  return both;
}

#endif

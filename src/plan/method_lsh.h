/* FAVOR_METHOD_LSH. Segment by segment, one key head at a time: every rank that owns some of a segment hashes its
 * tokens and tells the others their buckets, so all know the whole sorted order. It is cut among them at chunks of
 * keys; in each round the keys and queries of a chunk go to its rank, tiles of queries fold the chunks that they meet,
 * and what they sum goes back to the ranks of the queries, which add up the rounds in order. */
#ifndef FAVOR_PLAN_METHOD_LSH_H
#define FAVOR_PLAN_METHOD_LSH_H

#include "core/lsh.h"
#include "plan/lsh_route.h"
#include "plan/method.h"

extern const struct method method_lsh;

/* Most that one of the rank's segments needs. */
struct lsh_sizes {
  int hashes;
  int64_t members, tokens, own_tokens, buckets;
  int64_t work_keys; /* that one member works with in a round */
  int64_t batch;     /* queries that one member works on at once */
};

struct lsh_run {
  struct exact exact;
  struct lsh_sizes sizes;
  int64_t rounds, chunk, heads; /* heads of a group */
  size_t sums_bytes, keys_bytes, scratch_bytes, key_row_bytes, query_row_bytes, sum_row_bytes;
  double *matrix;        /* of the key head */
  int32_t *codes;        /* [tokens][1 + heads][rounds]: of keys, then of queries */
  int32_t *key_chunks;   /* [rounds][tokens] */
  int32_t *query_chunks; /* [heads][rounds][tokens] */
  int32_t *start;        /* [buckets + 1] */
  int32_t *order;        /* [tokens]: keys by bucket in the round at hand */
  int32_t *query_start, *query_order;
  int32_t *key_rows, *query_rows; /* of routes */
  int64_t *counts;                /* [4][members + 1]: of routes */
  int64_t *firsts;                /* [members + 1]: the first of each member's own keys, in the sorted order */
  struct range *key_work, *query_work, *batch_work; /* [members] */
  struct route_members members;
  char *keys_out, *keys_in;       /* k and v of a token */
  char *queries_out, *queries_in; /* q of a token */
  char *found, *found_in;         /* doubles lsh_sum_count */
  char *sums;                     /* [heads][tiles of own tokens] */
  struct lsh_thread *threads;
  struct dist_piece *sends, *receives;
};

/* What a thread gathers a tile in. */
struct lsh_thread {
  char *keys, *queries;                        /* rows of a tile */
  char *packed, *sums, *scratch;               /* of exact.h */
  double *work;                                /* [D] */
  struct lsh_token *key_tokens, *query_tokens; /* [EXACT_TILE] */
};

/* Sizes, and places in memory that begins with the run itself, where there is any. Returns how much it takes. */
int64_t lsh_most_pieces(const struct favor_plan *plan);
size_t lsh_lay_out(const struct favor_plan *plan, struct lsh_run *run, char *memory);

#endif

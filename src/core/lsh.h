/* Hashing of queries and keys, and which of them meet (Kitaev et al. 2020, "Reformer"; favor.h says what is computed).
 * All of one segment, whose tokens are counted from its first; at most 2^30 of them, so that places and buckets are
 * int32_t. */
#ifndef FAVOR_CORE_LSH_H
#define FAVOR_CORE_LSH_H

#include "core/exact.h"
#include "feature/projection.h"

enum {
  LSH_MOST_ROUNDS = 64,
  LSH_LANES = 32 /* most rows of a matrix */
};

/* base^hashes buckets. */
struct lsh_shape {
  int hashes;
  int64_t base, n_buckets;
};
struct lsh_shape lsh_shape(int64_t n_tokens, int64_t chunk);

/* The matrices of all rounds, [rounds][hashes][width][LSH_LANES]: row r of hash h is that of deviates number
 * (32 h + r) width and on of the round's stream. A segment with fewer hashes or a smaller base uses the first. */
int64_t lsh_matrix_count(int64_t rounds, int hashes, int64_t width);
void lsh_draw(const struct projection_name *name, int64_t rounds, int hashes, int64_t width, double *matrix);

/* The buckets of a row in every round: codes [rounds]. The matrix was drawn with `hashes`. work: doubles [width]. */
void lsh_hash(const struct engine *engine, const struct lsh_shape *shape, int64_t rounds, int hashes,
              const double *matrix, const void *row, double *work, int32_t *codes);

/* One round's codes stand `stride` apart.
 * Tokens by bucket, then by place: order [n]; start [n_buckets + 1] where buckets begin in it. */
void lsh_sort(int64_t n, int64_t n_buckets, const int32_t *codes, int64_t stride, int32_t *start, int32_t *order);
/* Of each key, the chunk of its bucket that it is in: chunks [n]. */
void lsh_key_chunks(int64_t n, int64_t chunk, const int32_t *codes, int64_t stride, const int32_t *start,
                    const int32_t *order, int32_t *chunks);
/* Of each query, the later of the two chunks that it meets: that of the last key of its bucket at or before it, or 0.
 * count: scratch [n_buckets]. */
void lsh_query_chunks(int64_t n, int64_t n_buckets, int64_t chunk, const int32_t *key_codes, const int32_t *query_codes,
                      int64_t stride, int32_t *count, int32_t *chunks);

/* Codes and chunks of a token in rounds up to `round`, for one head. */
struct lsh_token {
  int32_t token;
  int32_t codes[LSH_MOST_ROUNDS], chunks[LSH_MOST_ROUNDS];
};

/* Of a tile of n_keys keys, those that the query meets in this round and in none before, but for itself. */
uint64_t lsh_meets(const struct lsh_token *query, int64_t n_keys, const struct lsh_token *keys, int64_t round,
                   bool is_causal);

/* A query's sums over some keys on their way to the rank that owns it: top, total, acc [E]; and their addition. */
static inline int64_t lsh_sum_count(const struct exact *exact) { return 2 + exact->engine->shape.value_width; }
void lsh_sum_take(const struct exact *exact, const struct exact_queries *queries, int64_t i, double *sum);
void lsh_sum_add(const struct exact *exact, const double *sum, const struct exact_queries *queries, int64_t i);

#endif

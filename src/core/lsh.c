#include "core/lsh.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "base/vectors.h"

enum { MOST_BASE = 2 * LSH_LANES };

struct lsh_shape lsh_shape(int64_t n_tokens, int64_t chunk) {
  struct lsh_shape shape = {1, 1, 1};
  const int64_t wanted = n_tokens / chunk + (n_tokens % chunk != 0);
  if (wanted <= 1) return shape;
  for (shape.hashes = 1;; shape.hashes++) {
    for (shape.base = 2; shape.base <= MOST_BASE; shape.base += 2) {
      shape.n_buckets = 1;
      for (int h = 0; h < shape.hashes; h++) shape.n_buckets *= shape.base;
      if (shape.n_buckets >= wanted) return shape;
    }
  }
}

int64_t lsh_matrix_count(int64_t rounds, int hashes, int64_t width) { return rounds * hashes * width * LSH_LANES; }

void lsh_draw(const struct projection_name *name, int64_t rounds, int hashes, int64_t width, double *matrix) {
  const uint64_t seed = projection_seed(name);
  for (int64_t round = 0; round < rounds; round++) {
    struct random_stream stream = random_stream(seed, RANDOM_HASH, (uint64_t)name->key_head, (uint32_t)round);
    for (int64_t row = 0; row < hashes * LSH_LANES; row++) {
      double *of_hash = matrix + (round * hashes + row / LSH_LANES) * width * LSH_LANES;
      for (int64_t d = 0; d < width; d++) {
        random_normal(&stream, (uint64_t)(row * width + d), 1, &of_hash[d * LSH_LANES + row % LSH_LANES]);
      }
    }
  }
}

/* product[r] = sum_d x[d] matrix[d][r]: in order of d, so that bits do not depend on how wide vectors are. */
VECTORS static void multiply(int64_t width, const double *restrict x, const double *restrict matrix,
                             double *restrict product) {
  double sums[LSH_LANES] = {0};
  for (int64_t d = 0; d < width; d++) {
    for (int r = 0; r < LSH_LANES; r++) sums[r] += x[d] * matrix[d * LSH_LANES + r];
  }
  memcpy(product, sums, sizeof sums);
}

/* The first of the largest of n products and their negatives, which are counted from n. */
static int32_t largest(int64_t n, const double *product) {
  int32_t best = 0;
  double most = -INFINITY;
  for (int64_t i = 0; i < 2 * n; i++) {
    double x = i < n ? product[i] : -product[i - n];
    if (x <= most) continue;
    most = x;
    best = (int32_t)i;
  }
  return best;
}

void lsh_hash(const struct engine *engine, const struct lsh_shape *shape, int64_t rounds, int hashes,
              const double *matrix, const void *row, double *work, int32_t *codes) {
  const int64_t width = engine->shape.key_width;
  double most = 0, product[LSH_LANES];
  int exponent;
  for (int64_t d = 0; d < width; d++) most = fmax(most, fabs(real_at(engine, row, d)));
  /* By a power of two, so that nothing overflows: lengths have no say. */
  frexp(most, &exponent);
  for (int64_t d = 0; d < width; d++) work[d] = ldexp(real_at(engine, row, d), -exponent);
  for (int64_t round = 0; round < rounds; round++) {
    codes[round] = 0;
    for (int h = 0; h < shape->hashes && shape->base > 1; h++) {
      multiply(width, work, matrix + (round * hashes + h) * width * LSH_LANES, product);
      codes[round] = codes[round] * (int32_t)shape->base + largest(shape->base / 2, product);
    }
  }
}

void lsh_sort(int64_t n, int64_t n_buckets, const int32_t *codes, int64_t stride, int32_t *start, int32_t *order) {
  memset(start, 0, (size_t)(n_buckets + 1) * sizeof *start);
  for (int64_t i = 0; i < n; i++) start[codes[i * stride] + 1]++;
  for (int64_t b = 0; b < n_buckets; b++) start[b + 1] += start[b];
  for (int64_t i = 0; i < n; i++) order[start[codes[i * stride]]++] = (int32_t)i;
  memmove(start + 1, start, (size_t)n_buckets * sizeof *start); /* ends, which are the next ones' starts */
  start[0] = 0;
}

void lsh_key_chunks(int64_t n, int64_t chunk, const int32_t *codes, int64_t stride, const int32_t *start,
                    const int32_t *order, int32_t *chunks) {
  for (int64_t s = 0; s < n; s++) {
    const int64_t i = order[s];
    chunks[i] = (int32_t)((s - start[codes[i * stride]]) / chunk);
  }
}

void lsh_query_chunks(int64_t n, int64_t n_buckets, int64_t chunk, const int32_t *key_codes, const int32_t *query_codes,
                      int64_t stride, int32_t *count, int32_t *chunks) {
  memset(count, 0, (size_t)n_buckets * sizeof *count);
  for (int64_t i = 0; i < n; i++) {
    count[key_codes[i * stride]]++;
    const int64_t before = count[query_codes[i * stride]];
    chunks[i] = before > 0 ? (int32_t)((before - 1) / chunk) : 0;
  }
}

static bool is_met(const struct lsh_token *query, const struct lsh_token *key, int64_t round) {
  const int32_t back = query->chunks[round] - key->chunks[round];
  return query->codes[round] == key->codes[round] && (back == 0 || back == 1);
}

uint64_t lsh_meets(const struct lsh_token *query, int64_t n_keys, const struct lsh_token *keys, int64_t round,
                   bool is_causal) {
  uint64_t meets = 0;
  for (int64_t j = 0; j < n_keys; j++) {
    bool is_hidden = keys[j].token == query->token || (is_causal && keys[j].token > query->token);
    if (is_hidden || !is_met(query, &keys[j], round)) continue;
    bool is_first = true;
    for (int64_t t = 0; t < round && is_first; t++) is_first = !is_met(query, &keys[j], t);
    meets |= (uint64_t)is_first << j;
  }
  return meets;
}

void lsh_sum_take(const struct exact *exact, const struct exact_queries *queries, int64_t i, double *sum) {
  struct exact_sum from = exact_sum_at(exact, queries, i);
  sum[0] = *from.top;
  sum[1] = *from.total;
  memcpy(sum + 2, from.acc, (size_t)exact->engine->shape.value_width * sizeof *sum);
}

/* 2^n, n <= 0. */
static double shrink(double n) { return n < -2000 ? 0 : ldexp(1, (int)n); }

void lsh_sum_add(const struct exact *exact, const double *sum, const struct exact_queries *queries, int64_t i) {
  if (sum[1] == 0) return;
  struct exact_sum into = exact_sum_at(exact, queries, i);
  const double top = fmax(sum[0], *into.top), from_factor = shrink(sum[0] - top), into_factor = shrink(*into.top - top);
  *into.top = top;
  *into.total = *into.total * into_factor + sum[1] * from_factor;
  for (int64_t e = 0; e < exact->engine->shape.value_width; e++) {
    into.acc[e] = into.acc[e] * into_factor + sum[2 + e] * from_factor;
  }
}

#include "oracle_moved.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void *allocate(int64_t count, size_t bytes) {
  void *memory = calloc(count > 0 ? (size_t)count : 1, bytes);
  if (memory == NULL) {
    fprintf(stderr, "oracle: no memory\n");
    abort();
  }
  return memory;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

/* a^-1 in long double, by Gauss and Jordan with row pivots; a is destroyed. */
static long double *invert(int64_t n, long double *a) {
  long double *inverse = allocate(n * n, sizeof *inverse);
  for (int64_t i = 0; i < n; i++) inverse[i * n + i] = 1;
  for (int64_t p = 0; p < n; p++) {
    int64_t best = p;
    for (int64_t i = p; i < n; i++)
      if (fabsl(a[i * n + p]) > fabsl(a[best * n + p])) best = i;
    for (int64_t j = 0; j < n; j++) {
      long double x = a[p * n + j], y = inverse[p * n + j];
      a[p * n + j] = a[best * n + j];
      inverse[p * n + j] = inverse[best * n + j];
      a[best * n + j] = x;
      inverse[best * n + j] = y;
    }
    for (int64_t i = 0; i < n; i++) {
      if (i == p) continue;
      const long double times = a[i * n + p] / a[p * n + p];
      for (int64_t j = 0; j < n; j++) {
        a[i * n + j] -= times * a[p * n + j];
        inverse[i * n + j] -= times * inverse[p * n + j];
      }
    }
  }
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) inverse[i * n + j] /= a[i * n + i];
  return inverse;
}

/* L, whole. */
static long double *matrix_of(int64_t n, const struct oracle_move *move) {
  long double *l = allocate(n * n, sizeof *l);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) l[i * n + j] = move->l ? move->l[i * n + j] : 0;
    if (!move->l) l[i * n + i] = move->diagonal ? move->diagonal[i] : 1;
  }
  return l;
}

void oracle_moved_tokens(const struct oracle_head *head, const struct oracle_move *move, const double *q,
                         const double *k, double *moved_q, double *moved_k) {
  const int64_t n = head->key_width;
  long double *l = matrix_of(n, move), *copy = matrix_of(n, move), *inverse = invert(n, copy);
  for (int64_t t = 0; t < head->tokens; t++) {
    for (int64_t i = 0; i < n; i++) {
      long double query = 0, key = 0;
      for (int64_t j = 0; j < n; j++) {
        query += l[i * n + j] * (long double)q[t * n + j];
        key += inverse[j * n + i] * ((long double)k[t * n + j] - (move->shift ? (long double)move->shift[j] : 0));
      }
      moved_q[t * n + i] = (double)query;
      moved_k[t * n + i] = (double)key;
    }
  }
  free(l);
  free(copy);
  free(inverse);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* l_r of every token, [N][R]. */
static double *log_features(const struct oracle_head *head, double a, const double *x) {
  const int64_t d = head->key_width, m = head->features, n = head->is_hyperbolic ? 2 * m : m;
  const double scale = head->scale > 0 ? head->scale : 1 / sqrt((double)d), b = sqrt(1 - 4 * a);
  double *l = allocate(head->tokens * n, sizeof *l);
  for (int64_t t = 0; t < head->tokens; t++) {
    double norm2 = 0;
    for (int64_t j = 0; j < d; j++) norm2 += scale * x[t * d + j] * x[t * d + j];
    for (int64_t r = 0; r < m; r++) {
      const double *w = head->projection + r * d;
      double dot = 0, row2 = 0;
      for (int64_t j = 0; j < d; j++) {
        dot += w[j] * sqrt(scale) * x[t * d + j];
        row2 += w[j] * w[j];
      }
      l[t * n + r] = a * row2 + b * dot - norm2 / 2;
      if (head->is_hyperbolic) l[t * n + m + r] = a * row2 - b * dot - norm2 / 2;
    }
  }
  return l;
}

/* Sums over keys, a maximum a feature. */
struct sums {
  int64_t n, width;
  double *top, *z, *s; /* [R], [R], [R][E] */
};

static void take(struct sums *sums, const double *key, const double *value) {
  for (int64_t r = 0; r < sums->n; r++) {
    const double top = fmax(sums->top[r], key[r]), keep = exp(sums->top[r] - top), gain = exp(key[r] - top);
    sums->top[r] = top;
    sums->z[r] = sums->z[r] * keep + gain;
    for (int64_t e = 0; e < sums->width; e++) {
      sums->s[r * sums->width + e] = sums->s[r * sums->width + e] * keep + gain * value[e];
    }
  }
}

static void give(const struct sums *sums, const double *query, double *out) {
  double top = -INFINITY, total = 0;
  for (int64_t r = 0; r < sums->n; r++) top = fmax(top, query[r] + sums->top[r]);
  for (int64_t e = 0; e < sums->width; e++) out[e] = 0;
  for (int64_t r = 0; r < sums->n; r++) {
    const double weight = exp(query[r] + sums->top[r] - top);
    total += weight * sums->z[r];
    for (int64_t e = 0; e < sums->width; e++) out[e] += weight * sums->s[r * sums->width + e];
  }
  for (int64_t e = 0; e < sums->width; e++) out[e] /= total;
}

static void attend_segment(const struct oracle_head *head, int64_t begin, int64_t end, const double *query,
                           const double *key, const double *v, struct sums *sums, double *out) {
  const int64_t n = sums->n, width = sums->width;
  for (int64_t r = 0; r < n; r++) {
    sums->top[r] = -INFINITY;
    sums->z[r] = 0;
    for (int64_t e = 0; e < width; e++) sums->s[r * width + e] = 0;
  }
  for (int64_t t = begin; t < end && !head->is_causal; t++) take(sums, key + t * n, v + t * width);
  for (int64_t t = begin; t < end; t++) {
    if (head->is_causal) take(sums, key + t * n, v + t * width);
    give(sums, query + t * n, out + t * width);
  }
}

void oracle_moved_attend(const struct oracle_head *head, const struct oracle_move *move, const double *q,
                         const double *k, const double *v, double *out) {
  const int64_t count = head->tokens * head->key_width, width = head->value_width;
  double *moved_q = allocate(count, sizeof *moved_q), *moved_k = allocate(count, sizeof *moved_k);
  oracle_moved_tokens(head, move, q, k, moved_q, moved_k);
  double *query = log_features(head, move->oprf_a, moved_q), *key = log_features(head, move->oprf_a, moved_k);
  struct sums sums = {.n = head->features * (head->is_hyperbolic ? 2 : 1), .width = width};
  sums.top = allocate(sums.n, sizeof(double));
  sums.z = allocate(sums.n, sizeof(double));
  sums.s = allocate(sums.n * width, sizeof(double));
  const int64_t whole[] = {0, head->tokens}, *segments = head->segments ? head->segments : whole;
  for (int64_t i = 0; i < (head->segments ? head->n_segments : 1); i++) {
    attend_segment(head, segments[i], segments[i + 1], query, key, v, &sums, out);
  }
  free(sums.top);
  free(sums.z);
  free(sums.s);
  free(query);
  free(key);
  free(moved_q);
  free(moved_k);
}

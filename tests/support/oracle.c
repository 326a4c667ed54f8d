#include "oracle.h"

#include <float.h>
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

static double scale_of(const struct oracle_head *head) {
  return head->scale > 0 ? head->scale : 1.0 / sqrt((double)head->key_width);
}

static int64_t n_features_of(const struct oracle_head *head) { return (head->is_hyperbolic ? 2 : 1) * head->features; }

/* Column d of the direction of feature r. */
static double direction(const struct oracle_head *head, int64_t r, int64_t d) {
  bool is_minus = r >= head->features;
  double w = head->projection[(is_minus ? r - head->features : r) * head->key_width + d];
  return is_minus ? -w : w;
}

static int64_t n_segments_of(const struct oracle_head *head) { return head->segments ? head->n_segments : 1; }
static int64_t segment_begin(const struct oracle_head *head, int64_t s) {
  return head->segments ? head->segments[s] : 0;
}
static int64_t segment_end(const struct oracle_head *head, int64_t s) {
  return head->segments ? head->segments[s + 1] : head->tokens;
}

/* ---- running sums ------------------------------------------------------------------------------------------------ */

struct running {
  int64_t features, width, key_width;
  double root_scale;
  double *transposed;  /* [D][M] */
  double *log_feature; /* [M], of one token */
  double *top;         /* [M]: the maximum of l_r over the keys so far */
  double *z;           /* [M]: sum of exp(l_r - top_r) */
  double *s;           /* [M][E]: sum of exp(l_r - top_r) v */
};

static struct running running_create(const struct oracle_head *head) {
  int64_t features = n_features_of(head), width = head->value_width, key_width = head->key_width;
  struct running sums = {.features = features,
                         .width = width,
                         .key_width = key_width,
                         .root_scale = sqrt(scale_of(head)),
                         .transposed = allocate(features * key_width, sizeof(double)),
                         .log_feature = allocate(features, sizeof(double)),
                         .top = allocate(features, sizeof(double)),
                         .z = allocate(features, sizeof(double)),
                         .s = allocate(features * width, sizeof(double))};
  for (int64_t r = 0; r < features; r++)
    for (int64_t d = 0; d < key_width; d++) sums.transposed[d * features + r] = direction(head, r, d);
  return sums;
}

static void running_destroy(struct running *sums) {
  free(sums->transposed);
  free(sums->log_feature);
  free(sums->top);
  free(sums->z);
  free(sums->s);
}

static void running_clear(struct running *sums) {
  for (int64_t r = 0; r < sums->features; r++) {
    sums->top[r] = -INFINITY;
    sums->z[r] = 0;
  }
  for (int64_t i = 0; i < sums->features * sums->width; i++) sums->s[i] = 0;
}

static void log_features(struct running *sums, const double *x) {
  int64_t features = sums->features;
  double *restrict l = sums->log_feature;
  double half_norm = 0;
  for (int64_t r = 0; r < features; r++) l[r] = 0;
  for (int64_t d = 0; d < sums->key_width; d++) {
    double scaled = sums->root_scale * x[d];
    const double *restrict column = sums->transposed + d * features;
    half_norm += 0.5 * scaled * scaled;
    for (int64_t r = 0; r < features; r++) l[r] += column[r] * scaled;
  }
  for (int64_t r = 0; r < features; r++) l[r] -= half_norm;
}

static void running_absorb(struct running *sums, const double *key, const double *value) {
  log_features(sums, key);
  for (int64_t r = 0; r < sums->features; r++) {
    double l = sums->log_feature[r], *restrict s = sums->s + r * sums->width;
    if (l > sums->top[r]) {
      double shrink = exp(sums->top[r] - l);
      sums->z[r] *= shrink;
      for (int64_t e = 0; e < sums->width; e++) s[e] *= shrink;
      sums->top[r] = l;
    }
    double weight = exp(l - sums->top[r]);
    sums->z[r] += weight;
    for (int64_t e = 0; e < sums->width; e++) s[e] += weight * value[e];
  }
}

static void running_emit(struct running *sums, const double *query, double *restrict out) {
  log_features(sums, query);
  double top = -INFINITY, normaliser = 0;
  for (int64_t r = 0; r < sums->features; r++) top = fmax(top, sums->log_feature[r] + sums->top[r]);
  for (int64_t e = 0; e < sums->width; e++) out[e] = 0;
  for (int64_t r = 0; r < sums->features; r++) {
    double weight = exp(sums->log_feature[r] + sums->top[r] - top);
    const double *restrict s = sums->s + r * sums->width;
    normaliser += weight * sums->z[r];
    for (int64_t e = 0; e < sums->width; e++) out[e] += weight * s[e];
  }
  for (int64_t e = 0; e < sums->width; e++) out[e] /= normaliser;
}

void oracle_attend(const struct oracle_head *head, const double *q, const double *k, const double *v, double *out) {
  int64_t width = head->value_width, key_width = head->key_width;
  struct running sums = running_create(head);
  for (int64_t segment = 0; segment < n_segments_of(head); segment++) {
    int64_t begin = segment_begin(head, segment), end = segment_end(head, segment);
    running_clear(&sums);
    if (!head->is_causal)
      for (int64_t j = begin; j < end; j++) running_absorb(&sums, k + j * key_width, v + j * width);
    for (int64_t i = begin; i < end; i++) {
      if (head->is_causal) running_absorb(&sums, k + i * key_width, v + i * width);
      running_emit(&sums, q + i * key_width, out + i * width);
    }
  }
  running_destroy(&sums);
}

/* ---- all pairs --------------------------------------------------------------------------------------------------- */

/* l_r of every token, [N][M]. */
static long double *all_log_features(const struct oracle_head *head, const double *x) {
  int64_t key_width = head->key_width, features = n_features_of(head);
  long double root_scale = sqrtl((long double)scale_of(head));
  long double *l = allocate(head->tokens * features, sizeof *l);
  for (int64_t i = 0; i < head->tokens; i++)
    for (int64_t r = 0; r < features; r++) {
      long double dot = 0, norm2 = 0;
      for (int64_t d = 0; d < key_width; d++) {
        long double scaled = root_scale * (long double)x[i * key_width + d];
        dot += (long double)direction(head, r, d) * scaled;
        norm2 += scaled * scaled;
      }
      l[i * features + r] = dot - norm2 / 2;
    }
  return l;
}

/* log sum_r exp(a_r + b_r) */
static long double log_sum_exp(const long double *a, const long double *b, int64_t n) {
  long double top = -INFINITY, sum = 0;
  for (int64_t r = 0; r < n; r++) top = fmaxl(top, a[r] + b[r]);
  for (int64_t r = 0; r < n; r++) sum += expl(a[r] + b[r] - top);
  return top + logl(sum);
}

/* out = sum_j exp(log_weight_j) v_j / sum_j exp(log_weight_j) over j in [begin, end); weight holds the logarithms, from
 * begin on, and then the weights. */
static void weighted_mean(long double *weight, int64_t begin, int64_t end, const double *v, int64_t width,
                          double *out) {
  long double top = -INFINITY, normaliser = 0;
  for (int64_t j = begin; j < end; j++) top = fmaxl(top, weight[j - begin]);
  for (int64_t j = begin; j < end; j++) {
    weight[j - begin] = expl(weight[j - begin] - top);
    normaliser += weight[j - begin];
  }
  for (int64_t e = 0; e < width; e++) {
    long double sum = 0;
    for (int64_t j = begin; j < end; j++) sum += weight[j - begin] * (long double)v[j * width + e];
    out[e] = (double)(sum / normaliser);
  }
}

void oracle_attend_pairs(const struct oracle_head *head, const double *q, const double *k, const double *v,
                         double *out) {
  int64_t width = head->value_width, features = n_features_of(head);
  long double *log_q = all_log_features(head, q), *log_k = all_log_features(head, k);
  long double *log_weight = allocate(head->tokens, sizeof *log_weight);
  for (int64_t segment = 0; segment < n_segments_of(head); segment++) {
    int64_t begin = segment_begin(head, segment), end = segment_end(head, segment);
    for (int64_t i = begin; i < end; i++) {
      int64_t last = head->is_causal ? i + 1 : end;
      for (int64_t j = begin; j < last; j++)
        log_weight[j - begin] = log_sum_exp(log_q + i * features, log_k + j * features, features);
      weighted_mean(log_weight, begin, last, v, width, out + i * width);
    }
  }
  free(log_q);
  free(log_k);
  free(log_weight);
}

void oracle_softmax(const struct oracle_head *head, const double *q, const double *k, const double *v, double *out) {
  int64_t width = head->value_width, key_width = head->key_width;
  long double scale = (long double)scale_of(head);
  long double *log_weight = allocate(head->tokens, sizeof *log_weight);
  for (int64_t segment = 0; segment < n_segments_of(head); segment++) {
    int64_t begin = segment_begin(head, segment), end = segment_end(head, segment);
    for (int64_t i = begin; i < end; i++) {
      int64_t last = head->is_causal ? i + 1 : end;
      for (int64_t j = begin; j < last; j++) {
        long double dot = 0;
        for (int64_t d = 0; d < key_width; d++)
          dot += (long double)q[i * key_width + d] * (long double)k[j * key_width + d];
        log_weight[j - begin] = scale * dot;
      }
      weighted_mean(log_weight, begin, last, v, width, out + i * width);
    }
  }
  free(log_weight);
}

/* ---- comparison -------------------------------------------------------------------------------------------------- */

double oracle_relative_error(const double *x, const double *reference, int64_t n) {
  /* Scaled by the largest element: squares of FLT_MAX or of subnormal floats stay in range in float64, those of larger
   * doubles would not. */
  double top = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(x[i]) || !isfinite(reference[i])) return INFINITY;
    top = fmax(top, fmax(fabs(x[i]), fabs(reference[i])));
  }
  if (top == 0) return 0;
  double error2 = 0, norm2 = 0;
  for (int64_t i = 0; i < n; i++) {
    double difference = (x[i] - reference[i]) / top, expected = reference[i] / top;
    error2 += difference * difference;
    norm2 += expected * expected;
  }
  return norm2 > 0 ? sqrt(error2 / norm2) : INFINITY;
}

double oracle_worse(double a, double b) {
  if (isnan(a) || isnan(b)) return INFINITY;
  return a > b ? a : b;
}

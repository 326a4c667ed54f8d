/* Attention with positive or hyperbolic random features, in float64 and straight from the definition at the head of
 * favor.h: what the library has to agree with. Shares no line with it.
 *
 *   l_r(x) = w_r . x~ - |x~|^2 / 2,  x~ = sqrt(scale) x
 *   out_i  = sum_j K_ij v_j / sum_j K_ij,  K_ij = sum_r exp(l_r(q_i) + l_r(k_j))      (1/M cancels)
 *
 * with r over the rows w of the projection; hyperbolic: over w and -w.
 */
#ifndef FAVOR_TESTS_ORACLE_H
#define FAVOR_TESTS_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

/* One query head beside its key head. */
struct oracle_head {
  int64_t tokens, key_width, value_width, features; /* N, D, E, M */
  const int64_t *segments;                          /* [n_segments + 1]; NULL: one segment */
  int64_t n_segments;
  bool is_causal, is_hyperbolic;
  double scale;             /* of the logits; 0: D^-1/2 */
  const double *projection; /* [M][D] */
};

/* In O(N M (D + E)): one running sum a feature, each with its own maximum, in logarithms.
 * q, k [N][D], v, out [N][E]. */
void oracle_attend(const struct oracle_head *head, const double *q, const double *k, const double *v, double *out);

/* The same in O(N^2 M): log-sum-exp over the features of every pair, in long double. Holds oracle_attend. */
void oracle_attend_pairs(const struct oracle_head *head, const double *q, const double *k, const double *v,
                         double *out);

/* What the features approximate: K_ij = exp(scale q_i . k_j). Uses no projection. */
void oracle_softmax(const struct oracle_head *head, const double *q, const double *k, const double *v, double *out);

/* |x - reference| / |reference|, Euclidean norms; 0 where both are zero; Inf where x is not finite. */
double oracle_relative_error(const double *x, const double *reference, int64_t n);

/* The larger of two errors, where NaN is the largest: fmax() would forget it. */
double oracle_worse(double a, double b);

#endif

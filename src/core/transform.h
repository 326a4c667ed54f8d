/* The row transform: what queries and keys of a key head become before a kernel sees them.
 *
 *   q' = Bc L q,   k' = Bc L^-T (k - s), and for oprf columns more that carry the weight of a row's length
 *
 * The half norm of a key is that of L^-T (k - s). With oprf a feature has the factor exp(A |w_r|^2) in the query and in
 * the key. Both ride on the keys, as columns of W beside those of key width, made from (|w_r|^2 - D) / sqrt(2 D) (the
 * mean taken off, as what is common to all features cancels), times 2 A sqrt(2 D / scale) in the same columns of k';
 * they are 0 in q'. One column does where products are exact to `real`; in bf16, where factors have 8 bits, three make
 * the product of two numbers of 16: high times high, high times low, low times high.
 *
 * Rows are computed in double, one at a time in the same order of operations wherever they stand, and rounded once.
 */
#ifndef FAVOR_CORE_TRANSFORM_H
#define FAVOR_CORE_TRANSFORM_H

#include "core/state.h"

enum { TRANSFORM_MOST_BIASES = 3 };

/* What happens to the rows of one side. */
struct transform_side {
  const double *shift;    /* [D], taken off; NULL: zeros */
  const double *diagonal; /* [D], times it; NULL: ones, or: */
  const double *matrix;   /* [D][D]: y = sum_d x_d matrix[d], where row d is 0 outside [begin[d], end[d]) */
  const int64_t *begin, *end;
  bool is_identity;
};

struct row_transform {
  struct transform_side query, key;
  double factor;                      /* Bc */
  double bias[TRANSFORM_MOST_BIASES]; /* the columns of k' beyond D */
  double log2_common;                 /* log2 of Dc^2 exp(2 A D), which products of oprf features leave out */
};

/* Columns that a row's bias takes in this precision. */
static inline int transform_n_biases(enum favor_precision precision) {
  return precision == FAVOR_PRECISION_BF16 ? TRANSFORM_MOST_BIASES : 1;
}

/* Doubles of work. */
size_t transform_work_count(int64_t width);

/* rows [n][shape.key_width] = n rows of x; half_norm [n] (NULL: queries). Returns how many rows come before the first
 * that is not finite or whose |row|^2 scale / (2 ln 2) is above `longest`; n where all are right. */
int64_t transform_rows(const struct engine *engine, const struct row_transform *transform, int64_t n, const void *x,
                       int64_t stride, double longest, double *work, void *rows, double *half_norm);

#endif

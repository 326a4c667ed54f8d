/* The oracle for tokens that are shifted, balanced and weighed by oprf: in float64, straight from the definitions in
 * favor.h.
 *
 *   q' = L q,  k' = L^-T (k - s),  l_r(x) = A |w_r|^2 + sqrt(1 - 4 A) w_r . x~' - |x~'|^2 / 2
 */
#ifndef FAVOR_TESTS_ORACLE_MOVED_H
#define FAVOR_TESTS_ORACLE_MOVED_H

#include "oracle.h"

struct oracle_move {
  const double *shift;    /* [D]; NULL: zeros */
  const double *diagonal; /* [D], of L; NULL: ones, or: */
  const double *l;        /* [D][D] */
  double oprf_a;          /* 0: the positive map */
};

/* As oracle_attend, for one query head beside its key head. */
void oracle_moved_attend(const struct oracle_head *head, const struct oracle_move *move, const double *q,
                         const double *k, const double *v, double *out);

/* The tokens q' and k', [N][D], as features see them. */
void oracle_moved_tokens(const struct oracle_head *head, const struct oracle_move *move, const double *q,
                         const double *k, double *moved_q, double *moved_k);

#endif

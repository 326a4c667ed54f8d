/* Attention by the maps that features of other signs and kernels other than softmax's come from, straight from the
 * definition at the head of favor.h, in float64 and without a care for its range: for tokens that are not too long (the
 * library must do without the "not too"). Shares no line with it.
 *
 *   N_i = sum_j K_ij v_j,  D_i = sum_j K_ij,  K_ij = sum_r phi_r(q_i) phi_r(k_j),  out_i = N_i / D_i
 *
 * Where features are of both signs, sums may cancel, and what their terms come to without a sign says how far an error
 * of rounding may go:
 *   |N|_i = sum_j |K|_ij |v_j|,  |D|_i = sum_j |K|_ij,  |K|_ij = sum_r |phi_r(q_i) phi_r(k_j)|
 */
#ifndef FAVOR_TESTS_ORACLE_MAPS_H
#define FAVOR_TESTS_ORACLE_MAPS_H

#include <favor/favor.h>

#include "oracle.h"

/* How many features a direction has. */
int64_t oracle_map_features(enum favor_map map);

/* Of one head, whose own is_hyperbolic is not read. */
struct oracle_quotients {
  double *numerator, *numerator_size;   /* [N][E] */
  double *normaliser, *normaliser_size; /* [N] */
};
struct oracle_quotients oracle_map_attend(const struct oracle_head *head, enum favor_map map, double eps,
                                          const double *q, const double *k, const double *v);
void oracle_quotients_destroy(struct oracle_quotients *quotients);

/* The sums over keys [begin, end): s [R][E], z [R], and of the sizes of their terms. */
struct oracle_state {
  double *s, *s_size, *z, *z_size;
};
struct oracle_state oracle_map_state(const struct oracle_head *head, enum favor_map map, double eps, const double *k,
                                     const double *v, int64_t begin, int64_t end);
void oracle_state_destroy(struct oracle_state *state);

/* phi of one token: [R]. Of the exponential maps too, without the factors that cancel. */
void oracle_map_features_of(const struct oracle_head *head, enum favor_map map, double eps, const double *x,
                            double *phi);

#endif

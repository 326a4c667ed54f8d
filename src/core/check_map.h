/* The features of maps beside the exponential ones for core/check.h, from their definitions at the head of favor.h and
 * in double: the logarithm of a feature's size, so that nothing overflows, and its sign. */
#ifndef FAVOR_CORE_CHECK_MAP_H
#define FAVOR_CORE_CHECK_MAP_H

#include <stdint.h>

#include "core/check.h"

/* logs holds u_r = w_r . x~ of `directions` directions and takes the logarithms of all features (-infinity of 0); signs
 * takes 1 or -1. half_norm is |x~|^2 / 2; of positive and hyperbolic features, what is taken off
 * all exponents. */
void check_map_features(enum favor_map map, double eps, int64_t directions, double half_norm, double *logs,
                        double *signs);

/* The largest u of the features of a token with these w_r.x~, of the maps positive and hyperbolic. */
double check_map_maximum(enum favor_map map, int64_t directions, const double *products);

/* What a guard adds to the normaliser total exp(log_scale), over exp(log_scale), for features without R^-1/2; the sum
 * of the query's features is query_sum exp(log_query). */
double check_map_guard(const struct check_problem *problem, double total, double log_scale, double query_sum,
                       double log_query);

#endif

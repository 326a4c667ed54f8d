/* The features of maps beside the exponential ones for core/check.h, from their definitions at the head of favor.h and
 * in double: the logarithm of a feature's size, so that nothing overflows, and its sign. */
#ifndef FAVOR_CORE_CHECK_MAP_H
#define FAVOR_CORE_CHECK_MAP_H

#include <stdint.h>

#include <favor/favor.h>

/* logs holds u_r = w_r . x~ of `directions` directions and takes the logarithms of all features (-infinity of 0); signs
 * takes 1 or -1. half_norm is |x~|^2 / 2. */
void check_map_features(enum favor_map map, double eps, int64_t directions, double half_norm, double *logs,
                        double *signs);

#endif

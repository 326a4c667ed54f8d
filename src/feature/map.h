/* The feature maps, in what they make of u_r = w_r . x~ (Choromanski et al. 2021, lemma 1):
 *   positive    M^-1/2 exp(u_r - |x~|^2 / 2)
 *   hyperbolic  (2 M)^-1/2 [exp(u_r - |x~|^2 / 2), exp(-u_r - |x~|^2 / 2)], "hyp+"
 * The factors cancel in every output. */
#ifndef FAVOR_FEATURE_MAP_H
#define FAVOR_FEATURE_MAP_H

#include <favor/favor.h>

/* Features of a direction w_r: 1, or 2 where both its signs count. */
static inline int64_t map_signs(enum favor_map map) { return map == FAVOR_MAP_HYPERBOLIC ? 2 : 1; }

/* Whether phi(q).phi(k) estimates exp(q~.k~), as the two of lemma 1 do, and not some other kernel. */
static inline bool map_estimates_softmax(enum favor_map map) {
  return map == FAVOR_MAP_POSITIVE || map == FAVOR_MAP_HYPERBOLIC;
}

#endif

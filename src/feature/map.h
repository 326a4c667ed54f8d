/* The feature maps in one table: what plan, program and checks must know of them. kernel.h computes the exponential
 * ones, kernel/map.h all others; favor.h says what each of them is. */
#ifndef FAVOR_FEATURE_MAP_H
#define FAVOR_FEATURE_MAP_H

#include <favor/favor.h>

#include "kernel/map.h"

/* What becomes of a normaliser, a sum of products of features. */
enum map_sign {
  MAP_POSITIVE,     /* features are above 0 */
  MAP_NOT_NEGATIVE, /* they may be 0, all of a token too: eps keeps the normaliser above 0 */
  MAP_SIGNED        /* it may be negative, and vanish whatever eps is */
};

struct map {
  const char *name; /* NULL: no such map */
  enum map_sign sign;
  bool is_generalised;            /* f(u) + eps; or else an estimate of exp(x~.y~), which random rows alone make */
  int64_t features_per_direction; /* 2: of both signs, or cosine and sine */
  const struct kernel_map *rows;  /* NULL: exponential */
  /* Of an exponential map with an eps or a guard of the normaliser; NULL: it takes neither. */
  const struct kernel_map *plain_rows;
};

const struct map *map_at(enum favor_map map);
static inline int64_t map_signs(enum favor_map map) { return map_at(map)->features_per_direction; }

/* eps as it is used, from favor_problem.eps. */
double map_eps(enum favor_map map, double eps);

/* What computes the features of this problem: NULL, the exponentials of kernel.h. */
const struct kernel_map *map_rows(const struct favor_problem *problem);

/* What it takes; key_max is left to the caller. */
struct kernel_map_parameters map_parameters(const struct favor_problem *problem);

/* Whether outputs depend on the key maximum that the problem asks for. */
bool map_needs_key_max(const struct favor_problem *problem);

/* Whether a normaliser can vanish under this eps, from map_eps. */
bool map_can_vanish(enum favor_map map, double eps);

/* Whether phi(q).phi(k), all of it above 0, estimates exp(q~.k~), and not some other kernel. */
static inline bool map_estimates_softmax(enum favor_map map) {
  return map == FAVOR_MAP_POSITIVE || map == FAVOR_MAP_HYPERBOLIC || map == FAVOR_MAP_OPRF;
}

#endif

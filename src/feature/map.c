#include "feature/map.h"

#include <math.h>

#define EXPONENTIAL(map, features)                                                                                     \
  { .name = #map, .sign = MAP_POSITIVE, .features_per_direction = features, .plain_rows = &kernel_map_##map }
#define GENERALISED(map, sign_)                                                                                        \
  { .name = #map, .sign = sign_, .is_generalised = true, .features_per_direction = 1, .rows = &kernel_map_##map }

static const struct map maps[] = {
    [FAVOR_MAP_POSITIVE] = EXPONENTIAL(positive, 1),
    [FAVOR_MAP_HYPERBOLIC] = EXPONENTIAL(hyperbolic, 2),
    [FAVOR_MAP_TRIGONOMETRIC] = {.name = "trigonometric",
                                 .sign = MAP_SIGNED,
                                 .features_per_direction = 2,
                                 .rows = &kernel_map_trigonometric},
    [FAVOR_MAP_OPRF] = {.name = "oprf", .sign = MAP_POSITIVE, .features_per_direction = 1},
    [FAVOR_MAP_RELU] = GENERALISED(relu, MAP_NOT_NEGATIVE),
    [FAVOR_MAP_ELU] = GENERALISED(elu, MAP_POSITIVE),
    [FAVOR_MAP_EXP] = GENERALISED(exp, MAP_POSITIVE),
    [FAVOR_MAP_GELU] = GENERALISED(gelu, MAP_SIGNED),
    [FAVOR_MAP_SIGMOID] = GENERALISED(sigmoid, MAP_POSITIVE),
    [FAVOR_MAP_TANH] = GENERALISED(tanh, MAP_SIGNED),
    [FAVOR_MAP_ABS] = GENERALISED(abs, MAP_NOT_NEGATIVE),
    [FAVOR_MAP_SQUARE] = GENERALISED(square, MAP_NOT_NEGATIVE),
    [FAVOR_MAP_COS] = GENERALISED(cos, MAP_SIGNED),
    [FAVOR_MAP_IDENTITY] = GENERALISED(identity, MAP_SIGNED),
};

const struct map *map_at(enum favor_map map) {
  static const struct map none = {.name = NULL};
  bool is_listed = (int)map >= 0 && (size_t)map < sizeof maps / sizeof maps[0];
  return is_listed ? &maps[map] : &none;
}

/* Of the public code: fast_attention.py of google-research and performer-pytorch. */
static const double generalised_eps = 1e-3;

double map_eps(enum favor_map map, double eps) {
  const double own = map_at(map)->is_generalised ? generalised_eps : 0;
  return eps < 0 ? own : eps; /* NaN stays, for whoever checks it */
}

static bool is_plain(const struct favor_problem *problem) {
  bool is_asked = map_eps(problem->map, problem->eps) > 0 || problem->guard_rule != FAVOR_GUARD_NONE;
  return map_at(problem->map)->plain_rows && is_asked;
}

const struct kernel_map *map_rows(const struct favor_problem *problem) {
  const struct map *map = map_at(problem->map);
  return is_plain(problem) ? map->plain_rows : map->rows;
}

bool map_needs_key_max(const struct favor_problem *problem) {
  return is_plain(problem) && problem->key_max != FAVOR_KEY_MAX_NONE;
}

/* favor.h's guard is of features with R^-1/2, the kernels' of features without. */
static struct kernel_guard guard_of(const struct favor_problem *problem) {
  const double r = (double)(problem->features * map_signs(problem->map)), guard = problem->guard;
  switch (problem->guard_rule) {
  case FAVOR_GUARD_SUM:
    return (struct kernel_guard){KERNEL_GUARD_ADD, guard * r};
  case FAVOR_GUARD_PLAIN_SUM:
    return (struct kernel_guard){KERNEL_GUARD_ADD, guard};
  case FAVOR_GUARD_NORMALISER:
    if (problem->is_causal) return (struct kernel_guard){KERNEL_GUARD_ADD_FEATURES, guard * sqrt(r)};
    break;
  case FAVOR_GUARD_SMALL:
    return (struct kernel_guard){KERNEL_GUARD_ADD_TO_SMALL, guard * r};
  case FAVOR_GUARD_NONE:
    break;
  }
  return (struct kernel_guard){KERNEL_GUARD_NONE, 0};
}

struct kernel_map_parameters map_parameters(const struct favor_problem *problem) {
  return (struct kernel_map_parameters){.eps = map_eps(problem->map, problem->eps),
                                        .is_relative = map_needs_key_max(problem),
                                        .guard = guard_of(problem)};
}

bool map_can_vanish(enum favor_map map, double eps) {
  enum map_sign sign = map_at(map)->sign;
  return sign == MAP_SIGNED || (sign == MAP_NOT_NEGATIVE && eps == 0);
}

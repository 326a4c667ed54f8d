#include "feature/map.h"

#define EXPONENTIAL(name_, features)                                                                                   \
  { .name = name_, .sign = MAP_POSITIVE, .features_per_direction = features }
#define GENERALISED(map, sign_)                                                                                        \
  { .name = #map, .sign = sign_, .is_generalised = true, .features_per_direction = 1, .rows = &kernel_map_##map }

static const struct map maps[] = {
    [FAVOR_MAP_POSITIVE] = EXPONENTIAL("positive", 1),
    [FAVOR_MAP_HYPERBOLIC] = EXPONENTIAL("hyperbolic", 2),
    [FAVOR_MAP_TRIGONOMETRIC] = {.name = "trigonometric",
                                 .sign = MAP_SIGNED,
                                 .features_per_direction = 2,
                                 .rows = &kernel_map_trigonometric},
    [FAVOR_MAP_OPRF] = EXPONENTIAL("oprf", 1),
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

bool map_can_vanish(enum favor_map map, double eps) {
  enum map_sign sign = map_at(map)->sign;
  return sign == MAP_SIGNED || (sign == MAP_NOT_NEGATIVE && eps == 0);
}

#include "core/check_map.h"

#include <math.h>

#include "base/status.h"

/* log(exp(x) + eps) */
static double log_plus(double x, double eps) {
  if (eps == 0) return x;
  const double other = log(eps), top = fmax(x, other);
  return top + log1p(exp(fmin(x, other) - top));
}

/* f(u) of the maps whose values a double holds. */
static double value_of(enum favor_map map, double u) {
  switch (map) {
  case FAVOR_MAP_RELU:
    return fmax(u, 0);
  case FAVOR_MAP_GELU:
    return u * erfc(-u / sqrt(2)) / 2;
  case FAVOR_MAP_TANH:
    return tanh(u);
  case FAVOR_MAP_ABS:
    return fabs(u);
  case FAVOR_MAP_SQUARE:
    return u * u;
  case FAVOR_MAP_COS:
    return cos(u);
  case FAVOR_MAP_IDENTITY:
    return u;
  default:
    FAVOR_ASSERT(false);
    return 0;
  }
}

/* log f(u) of the others, which are above 0. */
static double log_of(enum favor_map map, double u) {
  if (map == FAVOR_MAP_ELU) return u > 0 ? log1p(u) : u;
  if (map == FAVOR_MAP_SIGMOID) return u > 0 ? -log1p(exp(-u)) : u - log1p(exp(u));
  return u; /* exp */
}

static void set(double value, double *log_size, double *sign) {
  *log_size = log(fabs(value));
  *sign = value < 0 ? -1 : 1;
}

void check_map_features(enum favor_map map, double eps, int64_t directions, double half_norm, double *logs,
                        double *signs) {
  const bool has_logs = map == FAVOR_MAP_ELU || map == FAVOR_MAP_SIGMOID || map == FAVOR_MAP_EXP;
  for (int64_t r = 0; r < directions; r++) {
    const double u = logs[r];
    if (has_logs) {
      logs[r] = log_plus(log_of(map, u), eps);
      signs[r] = 1;
    } else if (map == FAVOR_MAP_POSITIVE || map == FAVOR_MAP_HYPERBOLIC) {
      logs[r] = log_plus(u - half_norm, eps);
      signs[r] = 1;
      if (map == FAVOR_MAP_POSITIVE) continue;
      logs[directions + r] = log_plus(-u - half_norm, eps);
      signs[directions + r] = 1;
    } else if (map == FAVOR_MAP_TRIGONOMETRIC) {
      const int64_t second = directions + r;
      set(cos(u), &logs[r], &signs[r]);
      set(sin(u), &logs[second], &signs[second]);
      logs[r] += half_norm;
      logs[second] += half_norm;
    } else {
      set(value_of(map, u) + eps, &logs[r], &signs[r]);
    }
  }
}

double check_map_maximum(enum favor_map map, int64_t directions, const double *products) {
  double top = -INFINITY;
  for (int64_t r = 0; r < directions; r++) {
    top = fmax(top, map == FAVOR_MAP_HYPERBOLIC ? fabs(products[r]) : products[r]);
  }
  return top;
}

double check_map_guard(const struct check_problem *problem, double total, double log_scale, double query_sum,
                       double log_query) {
  const double guard = problem->guard;
  const double rows = (double)(problem->features * (problem->map == FAVOR_MAP_HYPERBOLIC ? 2 : 1));
  switch (problem->guard_rule) {
  case FAVOR_GUARD_SUM:
    return exp(log(guard * rows) - log_scale);
  case FAVOR_GUARD_PLAIN_SUM:
    return exp(log(guard) - log_scale);
  case FAVOR_GUARD_NORMALISER:
    return problem->is_causal ? exp(log(guard * sqrt(rows) * query_sum) + log_query - log_scale) : 0;
  case FAVOR_GUARD_SMALL:
    return log(total) + log_scale <= log(guard * rows) ? exp(log(2 * guard * rows) - log_scale) : 0;
  default:
    return 0;
  }
}

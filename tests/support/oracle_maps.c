#include "oracle_maps.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double *numbers(int64_t count) {
  double *memory = calloc(count > 0 ? (size_t)count : 1, sizeof *memory);
  if (memory == NULL) {
    fprintf(stderr, "oracle: no memory\n");
    abort();
  }
  return memory;
}

int64_t oracle_map_features(enum favor_map map) {
  return map == FAVOR_MAP_HYPERBOLIC || map == FAVOR_MAP_TRIGONOMETRIC ? 2 : 1;
}

/* f of the generalised maps. */
static double f(enum favor_map map, double u) {
  switch (map) {
  case FAVOR_MAP_RELU:
    return fmax(u, 0);
  case FAVOR_MAP_ELU:
    return u <= 0 ? exp(u) : u + 1;
  case FAVOR_MAP_EXP:
    return exp(u);
  case FAVOR_MAP_GELU: /* u times the normal distribution function */
    return u * erfc(-u / sqrt(2)) / 2;
  case FAVOR_MAP_SIGMOID:
    return 1 / (1 + exp(-u));
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
    abort();
  }
}

void oracle_map_features_of(const struct oracle_head *head, enum favor_map map, double eps, const double *x,
                            double *phi) {
  const int64_t m = head->features, width = head->key_width;
  const double root_scale = sqrt(head->scale > 0 ? head->scale : 1 / sqrt((double)width));
  double g = 0;
  for (int64_t d = 0; d < width; d++) g += pow(root_scale * x[d], 2) / 2;
  for (int64_t r = 0; r < m; r++) {
    double u = 0;
    for (int64_t d = 0; d < width; d++) u += head->projection[r * width + d] * root_scale * x[d];
    if (map == FAVOR_MAP_POSITIVE || map == FAVOR_MAP_HYPERBOLIC) {
      phi[r] = exp(u - g);
      if (map == FAVOR_MAP_HYPERBOLIC) phi[m + r] = exp(-u - g);
    } else if (map == FAVOR_MAP_TRIGONOMETRIC) {
      phi[r] = exp(g) * cos(u);
      phi[m + r] = exp(g) * sin(u);
    } else {
      phi[r] = f(map, u) + eps;
    }
  }
}

static struct oracle_state state_create(const struct oracle_head *head, enum favor_map map) {
  int64_t m = oracle_map_features(map) * head->features, width = head->value_width;
  return (struct oracle_state){numbers(m * width), numbers(m * width), numbers(m), numbers(m)};
}

void oracle_state_destroy(struct oracle_state *state) {
  free(state->s);
  free(state->s_size);
  free(state->z);
  free(state->z_size);
}

static void state_clear(const struct oracle_head *head, enum favor_map map, struct oracle_state *state) {
  oracle_state_destroy(state);
  *state = state_create(head, map);
}

static void state_take(const struct oracle_head *head, int64_t m, const double *phi, const double *v,
                       struct oracle_state *state) {
  int64_t width = head->value_width;
  for (int64_t r = 0; r < m; r++) {
    double *restrict s = state->s + r * width, *restrict s_size = state->s_size + r * width;
    state->z[r] += phi[r];
    state->z_size[r] += fabs(phi[r]);
    for (int64_t e = 0; e < width; e++) s[e] += phi[r] * v[e];
    for (int64_t e = 0; e < width; e++) s_size[e] += fabs(phi[r] * v[e]);
  }
}

struct oracle_state oracle_map_state(const struct oracle_head *head, enum favor_map map, double eps, const double *k,
                                     const double *v, int64_t begin, int64_t end) {
  int64_t m = oracle_map_features(map) * head->features;
  struct oracle_state state = state_create(head, map);
  double *phi = numbers(m);
  for (int64_t j = begin; j < end; j++) {
    oracle_map_features_of(head, map, eps, k + j * head->key_width, phi);
    state_take(head, m, phi, v + j * head->value_width, &state);
  }
  free(phi);
  return state;
}

static void read_state(const struct oracle_head *head, int64_t m, const double *phi, const struct oracle_state *state,
                       struct oracle_quotients *to, int64_t i) {
  int64_t width = head->value_width;
  for (int64_t r = 0; r < m; r++) {
    to->normaliser[i] += phi[r] * state->z[r];
    to->normaliser_size[i] += fabs(phi[r]) * state->z_size[r];
    double *restrict sum = to->numerator + i * width, *restrict size = to->numerator_size + i * width;
    for (int64_t e = 0; e < width; e++) sum[e] += phi[r] * state->s[r * width + e];
    for (int64_t e = 0; e < width; e++) size[e] += fabs(phi[r]) * state->s_size[r * width + e];
  }
}

struct oracle_quotients oracle_map_attend(const struct oracle_head *head, enum favor_map map, double eps,
                                          const double *q, const double *k, const double *v) {
  int64_t m = oracle_map_features(map) * head->features, width = head->value_width, key_width = head->key_width;
  struct oracle_quotients to = {numbers(head->tokens * width), numbers(head->tokens * width), numbers(head->tokens),
                                numbers(head->tokens)};
  struct oracle_state state = state_create(head, map);
  double *phi = numbers(m);
  for (int64_t segment = 0; segment < (head->segments ? head->n_segments : 1); segment++) {
    int64_t begin = head->segments ? head->segments[segment] : 0;
    int64_t end = head->segments ? head->segments[segment + 1] : head->tokens;
    state_clear(head, map, &state);
    for (int64_t j = begin; j < end && !head->is_causal; j++) {
      oracle_map_features_of(head, map, eps, k + j * key_width, phi);
      state_take(head, m, phi, v + j * width, &state);
    }
    for (int64_t i = begin; i < end; i++) {
      if (head->is_causal) {
        oracle_map_features_of(head, map, eps, k + i * key_width, phi);
        state_take(head, m, phi, v + i * width, &state);
      }
      oracle_map_features_of(head, map, eps, q + i * key_width, phi);
      read_state(head, m, phi, &state, &to, i);
    }
  }
  free(phi);
  oracle_state_destroy(&state);
  return to;
}

void oracle_quotients_destroy(struct oracle_quotients *quotients) {
  free(quotients->numerator);
  free(quotients->numerator_size);
  free(quotients->normaliser);
  free(quotients->normaliser_size);
}

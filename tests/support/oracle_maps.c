#include "oracle_maps.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static long double *numbers(int64_t count) {
  long double *memory = calloc(count > 0 ? (size_t)count : 1, sizeof *memory);
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
static long double f(enum favor_map map, long double u) {
  switch (map) {
  case FAVOR_MAP_RELU:
    return fmaxl(u, 0);
  case FAVOR_MAP_ELU:
    return u <= 0 ? expl(u) : u + 1;
  case FAVOR_MAP_EXP:
    return expl(u);
  case FAVOR_MAP_GELU: /* u times the normal distribution function */
    return u * (u < 0 ? erfcl(-u / sqrtl(2)) : 1 + erfl(u / sqrtl(2))) / 2;
  case FAVOR_MAP_SIGMOID:
    return 1 / (1 + expl(-u));
  case FAVOR_MAP_TANH:
    return tanhl(u);
  case FAVOR_MAP_ABS:
    return fabsl(u);
  case FAVOR_MAP_SQUARE:
    return u * u;
  case FAVOR_MAP_COS:
    return cosl(u);
  case FAVOR_MAP_IDENTITY:
    return u;
  default:
    abort();
  }
}

void oracle_map_features_of(const struct oracle_head *head, enum favor_map map, double eps, const double *x,
                            long double *phi) {
  long double root_scale = sqrtl(head->scale > 0 ? (long double)head->scale : 1 / sqrtl((long double)head->key_width));
  long double g = 0;
  for (int64_t d = 0; d < head->key_width; d++) g += powl(root_scale * (long double)x[d], 2) / 2;
  for (int64_t r = 0; r < head->features; r++) {
    long double u = 0;
    for (int64_t d = 0; d < head->key_width; d++) {
      u += (long double)head->projection[r * head->key_width + d] * root_scale * (long double)x[d];
    }
    switch (map) {
    case FAVOR_MAP_POSITIVE:
      phi[r] = expl(u - g);
      break;
    case FAVOR_MAP_HYPERBOLIC:
      phi[r] = expl(u - g);
      phi[head->features + r] = expl(-u - g);
      break;
    case FAVOR_MAP_TRIGONOMETRIC:
      phi[r] = expl(g) * cosl(u);
      phi[head->features + r] = expl(g) * sinl(u);
      break;
    default:
      phi[r] = f(map, u) + (long double)eps;
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

static void state_take(const struct oracle_head *head, int64_t m, const long double *phi, const double *v,
                       struct oracle_state *state) {
  int64_t width = head->value_width;
  for (int64_t r = 0; r < m; r++) {
    state->z[r] += phi[r];
    state->z_size[r] += fabsl(phi[r]);
    for (int64_t e = 0; e < width; e++) {
      state->s[r * width + e] += phi[r] * (long double)v[e];
      state->s_size[r * width + e] += fabsl(phi[r] * (long double)v[e]);
    }
  }
}

struct oracle_state oracle_map_state(const struct oracle_head *head, enum favor_map map, double eps, const double *k,
                                     const double *v, int64_t begin, int64_t end) {
  int64_t m = oracle_map_features(map) * head->features;
  struct oracle_state state = state_create(head, map);
  long double *phi = numbers(m);
  for (int64_t j = begin; j < end; j++) {
    oracle_map_features_of(head, map, eps, k + j * head->key_width, phi);
    state_take(head, m, phi, v + j * head->value_width, &state);
  }
  free(phi);
  return state;
}

static void read_state(const struct oracle_head *head, int64_t m, const long double *phi,
                       const struct oracle_state *state, struct oracle_quotients *to, int64_t i) {
  int64_t width = head->value_width;
  for (int64_t r = 0; r < m; r++) {
    to->normaliser[i] += phi[r] * state->z[r];
    to->normaliser_size[i] += fabsl(phi[r]) * state->z_size[r];
    for (int64_t e = 0; e < width; e++) {
      to->numerator[i * width + e] += phi[r] * state->s[r * width + e];
      to->numerator_size[i * width + e] += fabsl(phi[r]) * state->s_size[r * width + e];
    }
  }
}

struct oracle_quotients oracle_map_attend(const struct oracle_head *head, enum favor_map map, double eps,
                                          const double *q, const double *k, const double *v) {
  int64_t m = oracle_map_features(map) * head->features, width = head->value_width, key_width = head->key_width;
  struct oracle_quotients to = {numbers(head->tokens * width), numbers(head->tokens * width), numbers(head->tokens),
                                numbers(head->tokens)};
  struct oracle_state state = state_create(head, map);
  long double *phi = numbers(m);
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

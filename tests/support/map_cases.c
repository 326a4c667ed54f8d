#include "map_cases.h"

#include <math.h>
#include <stdlib.h>

const struct map_case map_cases[N_MAP_CASES] = {
    {FAVOR_MAP_TRIGONOMETRIC, "trigonometric", true},
    {FAVOR_MAP_RELU, "relu", false},
    {FAVOR_MAP_ELU, "elu", false},
    {FAVOR_MAP_EXP, "exp", false},
    {FAVOR_MAP_GELU, "gelu", true},
    {FAVOR_MAP_SIGMOID, "sigmoid", false},
    {FAVOR_MAP_TANH, "tanh", true},
    {FAVOR_MAP_ABS, "abs", false},
    {FAVOR_MAP_SQUARE, "square", false},
    {FAVOR_MAP_COS, "cos", true},
    {FAVOR_MAP_IDENTITY, "identity", true},
};

int map_case_at(enum favor_map map) {
  for (int i = 0; i < N_MAP_CASES; i++) {
    if (map_cases[i].map == map) return i;
  }
  abort();
}

const double map_case_bound[] = {[FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 1e-12};

const double map_case_relu_q[] = {1, 2, 3, 4, 1, -1, 1, 3}, map_case_relu_k[] = {-3, 1, 1, 5, -2, -3, 4, 1};
const double map_case_relu_v[] = {-1, 2, 3, 1}, map_case_relu_out[] = {26.0 / 19, 58.0 / 43, 6.0 / 5, 36.0 / 26};

double map_case_eps(const struct favor_problem *problem) {
  if (problem->eps >= 0) return problem->eps;
  return problem->map == FAVOR_MAP_TRIGONOMETRIC ? 0 : 1e-3;
}

struct oracle_head map_case_head(const struct favor_problem *problem, const double *projection) {
  return (struct oracle_head){.tokens = problem->tokens,
                              .key_width = problem->key_width,
                              .value_width = problem->value_width,
                              .features = problem->features,
                              .segments = problem->segments,
                              .n_segments = problem->n_segments,
                              .is_causal = problem->is_causal,
                              .scale = problem->scale,
                              .projection = projection};
}

double map_case_excess(const struct favor_problem *problem, bool is_signed, const struct oracle_quotients *right,
                       const double *got) {
  int64_t width = problem->value_width, count = problem->tokens * width;
  const double bound = map_case_bound[problem->precision];
  double worst = 0, error2 = 0, norm2 = 0;
  for (int64_t i = 0; i < count; i++) {
    double total = right->normaliser[i / width], expected = right->numerator[i] / total;
    if (!isfinite(got[i])) return INFINITY;
    error2 += pow((double)(got[i] - expected), 2);
    norm2 += pow((double)expected, 2);
    if (!is_signed) continue;
    double error = (double)fabs(got[i] * total - right->numerator[i]);
    double size = (double)(right->numerator_size[i] + fabs(got[i]) * right->normaliser_size[i / width]);
    if (error > 0) worst = oracle_worse(worst, error / size / bound);
  }
  return is_signed ? worst : error2 > 0 ? sqrt(error2 / norm2) / bound : 0;
}

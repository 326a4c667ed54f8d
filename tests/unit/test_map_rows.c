/* The row functions of kernel/map.h: every feature of the form that they promise, and of the value of the definition.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "guarded.h"
#include "kernel/map.h"

static long double relu(long double u) { return u > 0 ? u : 0; }
static long double elu(long double u) { return u > 0 ? u + 1 : expl(u); }
static long double gelu(long double u) { return u * erfcl(-u / sqrtl(2)) / 2; }
static long double sigmoid(long double u) { return 1 / (1 + expl(-u)); }
static long double square(long double u) { return u * u; }
static long double identity(long double u) { return u; }

static const struct {
  const char *name;
  const struct kernel_map *map;
  long double (*value)(long double u);
} maps[] = {{"relu", &kernel_map_relu, relu},
            {"elu", &kernel_map_elu, elu},
            {"exp", &kernel_map_exp, expl},
            {"gelu", &kernel_map_gelu, gelu},
            {"sigmoid", &kernel_map_sigmoid, sigmoid},
            {"tanh", &kernel_map_tanh, tanhl},
            {"abs", &kernel_map_abs, fabsl},
            {"square", &kernel_map_square, square},
            {"cos", &kernel_map_cos, cosl},
            {"identity", &kernel_map_identity, identity}};
enum { N_MAPS = sizeof maps / sizeof maps[0], M = 1003 };

/* From tiny to far beyond what exp() of a double holds, but within what that of a long double does. */
static double argument(int i) {
  static const double special[] = {0,  -0.0, 1,   -1,   0.5, -0.5, 1e-30, -1e-30, 1e-44,
                                   88, -88,  104, -104, 700, -746, 11000, -11000};
  enum { N_SPECIAL = sizeof special / sizeof special[0] };
  if (i < N_SPECIAL) return special[i];
  double size = exp2((i * 7 % 400 - 300) / 25.0);
  return i % 2 ? size : -size;
}

/* A row of M features, between pages that cannot be touched; u as the map was given it. */
static void map_row(const struct kernel_map *map, bool is_f64, const struct kernel_map_row *row, double *u,
                    double *fraction, int32_t *exponent) {
  int64_t n = row->directions * map->features_per_direction;
  size_t bytes = is_f64 ? sizeof(double) : sizeof(float);
  struct guarded feature = guarded_create((size_t)n * bytes, AT_END);
  struct guarded exponents = guarded_create((size_t)n * sizeof(int32_t), AT_END);
  double *f64 = (double *)(void *)feature.data;
  float *f32 = (float *)(void *)feature.data;
  for (int64_t r = 0; r < row->directions; r++) {
    if (!is_f64) u[r] = (double)(float)u[r];
    if (is_f64)
      f64[r] = u[r];
    else
      f32[r] = (float)u[r];
  }
  if (is_f64)
    map->f64(row, f64, (int32_t *)(void *)exponents.data);
  else
    map->f32(row, f32, (int32_t *)(void *)exponents.data);
  for (int64_t r = 0; r < n; r++) {
    fraction[r] = is_f64 ? f64[r] : (double)f32[r];
    exponent[r] = ((int32_t *)(void *)exponents.data)[r];
    bool is_zero = fraction[r] == 0 && exponent[r] == KERNEL_EXPONENT_OF_ZERO;
    bool is_normal = fabs(fraction[r]) >= 0.5 && fabs(fraction[r]) <= 1 && exponent[r] > KERNEL_EXPONENT_OF_ZERO / 2;
    assert_true(is_zero || is_normal);
  }
  guarded_destroy(&feature);
  guarded_destroy(&exponents);
}

static void features_are_those_of_the_definition(void **state) {
  (void)state;
  static const double epsilons[] = {0, 1e-3, 1e-30, 1e30};
  for (int i = 0; i < 2 * N_MAPS; i++) {
    double worst = 0;
    for (int j = 0; j < 4; j++) {
      bool is_f64 = i % 2;
      const double ulp = is_f64 ? DBL_EPSILON : (double)FLT_EPSILON, least = is_f64 ? DBL_MIN : (double)FLT_MIN;
      struct kernel_map_parameters parameters = {.eps = epsilons[j]};
      struct kernel_map_row row = {.directions = M, .parameters = &parameters};
      double u[M], fraction[M];
      int32_t exponent[M];
      for (int r = 0; r < M; r++) u[r] = argument(r);
      map_row(maps[i / 2].map, is_f64, &row, u, fraction, exponent);
      for (int r = 0; r < M; r++) {
        long double f = maps[i / 2].value((long double)u[r]), right = f + (long double)epsilons[j];
        long double error = fabsl(ldexpl((long double)fraction[r], exponent[r]) - right);
        if (error <= (long double)least) continue; /* what is below the least normal number is 0 */
        /* A relative error of u is one of exp(u), u times as large, and of gelu, u^2 times. */
        double growth = is_f64 ? 1 + 0.5 * fabs(u[r]) + (maps[i / 2].value == gelu ? u[r] * u[r] : 0) : 1;
        double share = (double)(error / (fabsl(f) + (long double)epsilons[j])) / ulp / growth;
        if (!(share <= 3))
          fail_msg("%s of %g with eps %g is off by %g ulp", maps[i / 2].name, u[r], epsilons[j], share);
        worst = share > worst ? share : worst;
      }
    }
    printf("%s in %s: within %.2f ulp\n", maps[i / 2].name, i % 2 ? "f64" : "f32", worst);
  }
}

/* exp(|x~|^2 / 2) [cos u, sin u], of half norms up to the longest that there are; a query's like a key's. */
static void trigonometric_features_are_too(void **state) {
  (void)state;
  static const double half_norms[] = {0, 0.3, 1000.5, 6051102.4};
  for (int i = 0; i < 16; i++) {
    bool is_f64 = i % 2;
    struct kernel_map_parameters parameters = {.eps = 0};
    struct kernel_map_row row = {
        .directions = M, .half_norm = half_norms[i / 4], .is_query = i / 2 % 2, .parameters = &parameters};
    double u[M], fraction[2 * M];
    int32_t exponent[2 * M];
    for (int r = 0; r < M; r++) u[r] = argument(r);
    map_row(&kernel_map_trigonometric, is_f64, &row, u, fraction, exponent);
    long double whole = rintl((long double)row.half_norm), part = exp2l((long double)row.half_norm - whole);
    for (int r = 0; r < 2 * M; r++) {
      long double right = part * (r < M ? cosl((long double)u[r]) : sinl((long double)u[r - M]));
      bool is_zero = exponent[r] == KERNEL_EXPONENT_OF_ZERO;
      long double got = is_zero ? 0 : ldexpl((long double)fraction[r], exponent[r] - (int)whole);
      assert_true(fabsl(got - right) <= 2 * (long double)(is_f64 ? DBL_EPSILON : (double)FLT_EPSILON) * fabsl(right));
    }
  }
}

/* The longest rows with the longest tokens: u = 2^27.5. */
static void exponents_stay_in_their_range(void **state) {
  (void)state;
  for (int i = 0; i < 4 * N_MAPS; i++) {
    struct kernel_map_parameters parameters = {.eps = i / 2 % 2 ? 1e-3 : 0};
    struct kernel_map_row row = {.directions = 2, .parameters = &parameters};
    double u[2] = {0x1.6p27, -0x1.6p27}, fraction[2];
    int32_t exponent[2];
    map_row(maps[i / 4].map, i % 2, &row, u, fraction, exponent);
    bool is_exponential = maps[i / 4].value == (long double (*)(long double))expl;
    if (is_exponential) assert_true(exponent[0] > (1 << 27) && exponent[0] < (1 << 29));
    if (is_exponential && parameters.eps == 0) assert_true(exponent[1] < -(1 << 27));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(features_are_those_of_the_definition),
      cmocka_unit_test(trigonometric_features_are_too),
      cmocka_unit_test(exponents_stay_in_their_range),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

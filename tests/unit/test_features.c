/* The features of every kernel against their definition: exponentials, and sums of them over keys. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel_work.h"

static const double ulp_of_one[] = {0x1p-23, 0x1p-52, 0x1p-7};

enum form { DENSE, HADAMARD, N_FORMS };

/* z 2^exponent of one key whose l_r is given, and of -l_r after all those where there are two signs. Dense, l_r is the
 * sum of three numbers that no precision rounds. */
static void exponentials(const struct kernel *kernel, int precision, enum form form, int64_t m, int64_t signs,
                         const double *l, double *fraction, int32_t *exponent) {
  if (precision == BF16) form = DENSE; /* always */
  const int n_parts = form == DENSE ? 3 : 1;
  struct problem p = problem_create(precision, AT_END, n_parts, 1, m, signs, 1, 1);
  if (form == HADAMARD) {
    problem_take_hadamard(&p);
    for (int64_t i = 0; i < 1 + 2 * m; i++) p.signs[i] = 1;
    memcpy(p.lengths, l, (size_t)m * sizeof *l);
  }
  for (int64_t i = 0; i < n_parts * m; i++) {
    int64_t r = i / n_parts, part = i % n_parts;
    double rest = l[r];
    for (int64_t before = 0; before < part; before++) rest -= p.w[r * n_parts + before];
    p.w[i] = real_rounded(part < n_parts - 1 ? BF16 : precision, rest);
  }
  p.factor = 1;
  for (int part = 0; part < n_parts; part++) real_set(precision, p.k.data, part, 1);
  p.half_norm[0] = 0;
  struct work w;
  work_create(kernel, &p, &w);
  work_absorb(&w, 0, 1);
  for (int64_t r = 0; r < signs * m; r++) {
    fraction[r] = real_get(precision, w.sum.z, r);
    exponent[r] = w.sum.exponent[r];
  }
  work_destroy(&w);
  problem_destroy(&p);
}

static void exponential_is_accurate_of(const struct kernel *kernel, int precision) {
  enum { M = 4096, N_RANGES = 6 };
  static const double ranges[N_RANGES] = {0.5, 1, 30, 900, 100000, 4000000};
  double *l = calloc(M, sizeof *l), *fraction = calloc(M, sizeof *fraction);
  int32_t *exponent = calloc(M, sizeof *exponent);
  double worst = 0;
  for (int i = 0; i < N_FORMS * N_RANGES; i++) {
    for (int r = 0; r < M; r++) {
      double x = ranges[i / N_FORMS] * (2 * problem_uniform() - 1);
      l[r] = r % 8 == 0 ? rint(x) : precision == F64 ? x : (double)(float)x; /* bf16: in parts */
    }
    exponentials(kernel, precision, (enum form)(i % N_FORMS), M, 1, l, fraction, exponent);
    for (int r = 0; r < M; r++) {
      long double exact = exp2l((long double)l[r] - exponent[r]);
      double ulp = ulp_of_one[precision] * (exact < 1 ? 0.5 : 1), error = (double)fabsl(fraction[r] - exact) / ulp;
      if (r % 8 == 0) assert_true(fraction[r] == 1 && exponent[r] == (int32_t)l[r]);
      assert_true(l[r] - exponent[r] >= -0.5 && l[r] - exponent[r] <= 1);
      worst = error <= worst ? worst : error;
    }
  }
  printf("%s %s: exponential within %.2f ulp\n", kernel->name, precision_names[precision], worst);
  assert_true(worst <= (precision == BF16 ? 0.52 : 2));
  free(l);
  free(fraction);
  free(exponent);
}

/* 2^(x + n) has the fraction of 2^x, for x with bits to spare. */
static void exponential_knows_no_shift_of(const struct kernel *kernel, int precision) {
  enum { M = 1024 };
  double l[M], fraction[2][M];
  int32_t exponent[2][M];
  for (int form = 0; form < N_FORMS; form++) {
    for (int shift = 0; shift <= 3000; shift += 1500) {
      for (int r = 0; r < M; r++) l[r] = (r + 0.5) / M - 0.5 + shift;
      exponentials(kernel, precision, (enum form)form, M, 1, l, fraction[shift > 0], exponent[shift > 0]);
      for (int r = 0; r < M; r++) {
        assert_true(fraction[shift > 0][r] == fraction[0][r] && exponent[shift > 0][r] == exponent[0][r] + shift);
      }
    }
  }
}

/* The longest rows of W that a plan accepts with the longest token. */
static void long_exponents_are_kept_of(const struct kernel *kernel, int precision) {
  enum { M = 33 };
  double l[M], fraction[2 * M];
  int32_t exponent[2 * M];
  for (int r = 0; r < M; r++) l[r] = (r - M / 2) * 0x1p24;
  for (int form = 0; form < N_FORMS; form++) {
    exponentials(kernel, precision, (enum form)form, M, 2, l, fraction, exponent);
    for (int r = 0; r < M; r++) {
      assert_true(fraction[r] == 1 && exponent[r] == (int32_t)l[r]);
      assert_true(fraction[M + r] == 1 && exponent[M + r] == -(int32_t)l[r]);
    }
  }
}

/* Every feature of every key, of both signs: sum_j 2^(w'_r . k_j - h_j) and sum_j 2^(-w'_r . k_j - h_j). */
static void compare_with_definition(const struct work *w, double bound) {
  const struct problem *p = w->problem;
  const int64_t width = p->shape.key_width, directions = p->shape.directions;
  for (int64_t r = 0; r < p->shape.features; r++) {
    const double *row = p->w + r % directions * width;
    long double sum = 0, top = -INFINITY;
    for (int64_t j = 0; j < p->n; j++) {
      long double u = 0;
      for (int64_t d = 0; d < width; d++) {
        u += (long double)row[d] * (long double)p->factor *
             (long double)real_get(p->precision, p->k.data, j * p->k_stride + d);
      }
      long double l = (r < directions ? u : -u) - (long double)p->half_norm[j];
      sum += exp2l(l);
      top = fmaxl(top, l);
    }
    double fraction = (double)(top - w->sum.exponent[r]);
    work_check(fraction >= -0.5 - bound && fraction <= 1 + bound, w, "exponent from the definition's", fraction);
    double error = (double)fabsl(ldexpl(real_get(p->precision, w->sum.z, r), w->sum.exponent[r]) / sum - 1);
    work_check(error <= bound, w, "feature from the definition", error);
  }
}

static void features_are_those_of_the_definition_of(const struct kernel *kernel, int precision) {
  static const int64_t directions[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 64, 70, 129};
  const double bound = tolerance[precision] + (precision == BF16 ? bf16_tolerance : 0);
  for (int i = 0; i < (int)(sizeof directions / sizeof directions[0]); i++) {
    for (int64_t signs = 1; signs <= 2; signs++) {
      int64_t n = 1 + 13 * i % kernel->tile_tokens;
      struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, 5 + i, 3, directions[i], signs, n, 1);
      struct work w;
      work_create(kernel, &p, &w);
      work_absorb(&w, 0, n);
      compare_with_definition(&w, bound);
      work_destroy(&w);
      problem_take_hadamard(&p);
      work_create(kernel, &p, &w);
      work_absorb(&w, 0, n);
      compare_with_definition(&w, bound);
      work_destroy(&w);
      problem_destroy(&p);
    }
  }
}

KERNEL_TEST(exponential_is_accurate)
KERNEL_TEST(exponential_knows_no_shift)
KERNEL_TEST(long_exponents_are_kept)
KERNEL_TEST(features_are_those_of_the_definition)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exponential_is_accurate),
      cmocka_unit_test(exponential_knows_no_shift),
      cmocka_unit_test(long_exponents_are_kept),
      cmocka_unit_test(features_are_those_of_the_definition),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Every kernel against `reference`, through its table; every array between pages that cannot be touched. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel_work.h"

/* ---- comparisons ------------------------------------------------------------------------------------------------- */

/* The rounding of l is an error of the feature, and l grows with the square of the spread. */
static double limit_of(const struct problem *p) {
  double limit = tolerance[p->precision] * fmax(1, p->spread * p->spread), largest = 0;
  if (p->precision != BF16) return limit;
  for (int64_t i = 0; i < p->n; i++) {
    for (int64_t e = 0; e < p->shape.value_width; e++) {
      largest = fmax(largest, fabs(real_get(p->precision, p->v.data, i * p->v_stride + e)));
    }
  }
  return limit + bf16_tolerance * largest;
}

static void compare_sums(const struct work *w, const struct work *reference) {
  const struct problem *p = w->problem;
  double worst = 0;
  for (int64_t r = 0; r < p->shape.features; r++) {
    int apart = w->sum.exponent[r] - reference->sum.exponent[r]; /* 1 where l rounds to the other side of a half */
    work_check(abs(apart) <= 1, w, "exponent", apart);
    double total = real_get(p->precision, reference->sum.z, r);
    double error = fabs(ldexp(real_get(p->precision, w->sum.z, r), apart) - total) / total;
    worst = error <= worst ? worst : error;
    for (int64_t e = 0; e < p->shape.value_width; e++) {
      int64_t i = r * p->shape.s_stride + e;
      double unit = p->is_scaled ? real_get(p->precision, p->v_scale.data, e) : 1;
      error = fabs(ldexp(real_get(p->precision, w->sum.s, i), apart) - real_get(p->precision, reference->sum.s, i)) /
              total / unit;
      worst = error <= worst ? worst : error;
    }
  }
  work_check(worst <= limit_of(p), w, "sum", worst);
}

static void compare_outputs(const struct work *w, const struct work *reference, bool is_causal) {
  const struct problem *p = w->problem;
  double worst = 0;
  for (int64_t i = 0; i < p->n_heads * p->n; i++) {
    if (is_causal && (((bool *)w->is_lost.data)[i] || ((bool *)reference->is_lost.data)[i])) continue;
    for (int64_t e = 0; e < p->shape.value_width; e++) {
      double error = fabs(real_get(p->precision, w->out.data, i * p->shape.value_width + e) -
                          real_get(p->precision, reference->out.data, i * p->shape.value_width + e));
      worst = error <= worst ? worst : error;
    }
  }
  work_check(worst <= limit_of(p), w, is_causal ? "causal output" : "output", worst);
}

static void check_same_sums(const struct work *a, const struct work *b) {
  const struct problem *p = a->problem;
  size_t bytes = real_bytes[p->precision];
  for (int64_t r = 0; r < p->shape.features; r++) {
    size_t s = (size_t)(r * p->shape.s_stride) * bytes, z = (size_t)r * bytes;
    bool is_same = a->sum.exponent[r] == b->sum.exponent[r] &&
                   memcmp((char *)a->sum.z + z, (char *)b->sum.z + z, bytes) == 0 &&
                   memcmp((char *)a->sum.s + s, (char *)b->sum.s + s, (size_t)p->shape.value_width * bytes) == 0;
    work_check(is_same, a, "bits of a sum, absorbed and causal; row", (double)r);
  }
}

/* Outputs with features kept from an absorbing pass have the bits of those without; returns whether any were kept. */
static bool compare_kept(const struct work *plain) {
  const struct problem *p = plain->problem;
  struct work kept;
  work_create(plain->kernel, p, &kept);
  bool has_features = work_keep(&kept);
  if (has_features) {
    work_absorb(&kept, 0, p->n);
    has_features = work_has_features(&kept);
    kept.sum.is_empty = true;
    work_causal(&kept, 0, p->n, &work_no_state);
    check_same_sums(&kept, plain);
    work_check(memcmp(kept.is_lost.data, plain->is_lost.data, (size_t)(p->n_heads * p->n) * sizeof(bool)) == 0, plain,
               "loss of rows, with kept features", NAN);
    for (int64_t i = 0; i < p->n_heads * p->n; i++) {
      const size_t bytes = (size_t)p->shape.value_width * real_bytes[p->precision], at = (size_t)i * bytes;
      const bool is_same = memcmp(kept.out.data + at, plain->out.data + at, bytes) == 0;
      work_check(is_same || ((bool *)plain->is_lost.data)[i], plain, "bits of an output, with kept features; row",
                 (double)i);
    }
  }
  work_destroy(&kept);
  return has_features;
}

/* Everything that a kernel does to a problem. */
static void compare_problem(const struct kernel *kernel, const struct problem *p) {
  struct work ours, reference, split;
  work_create(kernel, p, &ours);
  work_create(&kernel_reference, p, &reference);
  work_create(kernel, p, &split);
  work_absorb(&ours, 0, p->n);
  work_absorb(&reference, 0, p->n);
  compare_sums(&ours, &reference);
  work_emit(&ours);
  work_emit(&reference);
  compare_outputs(&ours, &reference, false);
  split.sum.is_empty = reference.sum.is_empty = true;
  work_causal(&split, 0, p->n, &work_no_state);
  work_causal(&reference, 0, p->n, &work_no_state);
  compare_outputs(&split, &reference, true);
  check_same_sums(&ours, &split);
  const bool has_features = compare_kept(&split);
  work_check(has_features || p->spread > 1 || !split.ops->features_bytes, &split, "features that are kept", NAN);
  split.sum.is_empty = true;
  work_causal_in_two(&split, kernel->causal_tokens < p->n ? kernel->causal_tokens : 0);
  compare_outputs(&split, &reference, true);
  work_destroy(&ours);
  work_destroy(&reference);
  work_destroy(&split);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static const int64_t widths[] = {1, 3, 7, 16, 17, 31, 32, 64, 65, 100, 128, 160, 192, 266};
enum { N_WIDTHS = sizeof widths / sizeof widths[0] };

static void agrees_at_every_width_of(const struct kernel *kernel, int precision) {
  for (int i = 0; i < 3 * N_WIDTHS; i++) {
    int64_t d = widths[i % N_WIDTHS], e = widths[(3 * i + 5) % N_WIDTHS], m = widths[(5 * i + i / N_WIDTHS) % N_WIDTHS];
    int64_t n = i % 4 == 0 ? kernel->tile_tokens : i % 4 == 1 ? 2 * kernel->causal_tokens + 1 : 1 + 7 * i % 60;
    for (int64_t signs = 1; signs <= 2; signs++) {
      struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, d, e, m, signs, n, 1);
      compare_problem(kernel, &p);
      problem_destroy(&p);
    }
  }
}

/* Widths of every number of stages, and blocks that M cuts, fills or does not fill. Wide tokens are kept as short as
 * those of 64: the rounding of the reference, which adds D products one by one, grows faster than that of the stages.
 */
static void agrees_at_every_hadamard_width_of(const struct kernel *kernel, int precision) {
  static const int64_t hadamard_widths[] = {1, 2, 3, 5, 8, 9, 16, 20, 32, 50, 64, 65, 128, 200, 256, 300, 600};
  enum { N = sizeof hadamard_widths / sizeof hadamard_widths[0] };
  for (int i = 0; i < 2 * N; i++) {
    int64_t d = hadamard_widths[i % N], e = widths[(3 * i + 5) % N_WIDTHS], m = widths[(5 * i + i / N) % N_WIDTHS];
    int64_t n = i % 4 == 0 ? kernel->tile_tokens : i % 4 == 1 ? 2 * kernel->causal_tokens + 1 : 1 + 7 * i % 60;
    double spread = d > 64 ? 8 / sqrt((double)d) : 1;
    struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, d, e, m, 1 + i / 2 % 2, n, spread);
    problem_take_hadamard(&p);
    compare_problem(kernel, &p);
    problem_destroy(&p);
  }
}

static void agrees_at_every_length_of(const struct kernel *kernel, int precision) {
  for (int64_t n = 1; n <= kernel->tile_tokens; n++) {
    for (int64_t signs = 1; signs <= 2; signs++) {
      struct problem p = problem_create(precision, n % 2 ? AT_START : AT_END, 5, 19, 35, signs, n, 1);
      compare_problem(kernel, &p);
      problem_take_hadamard(&p);
      compare_problem(kernel, &p);
      problem_destroy(&p);
    }
  }
}

/* Exponents that differ by hundreds: parts of tiles, states far away, guesses that are corrected. */
static void agrees_at_every_spread_of(const struct kernel *kernel, int precision) {
  static const double spreads[] = {0, 0.1, 2, 4, 8, 16, 64};
  for (int i = 0; i < (int)(sizeof spreads / sizeof spreads[0]); i++) {
    for (int64_t signs = 1; signs <= 2; signs++) {
      struct problem p = problem_create(precision, AT_END, 16, 33, 70, signs, 3 * kernel->tile_tokens - 5, spreads[i]);
      compare_problem(kernel, &p);
      problem_take_hadamard(&p);
      compare_problem(kernel, &p);
      problem_destroy(&p);
    }
  }
}

/* Bits of sums and outputs that must not depend on how the tokens come. The first `cut` tokens alone, and all. */
static void compare_bits(const struct kernel *kernel, const struct problem *p, int64_t cut) {
  int64_t n = p->n;
  struct work whole, absorbed, shorter;
  work_create(kernel, p, &whole);
  work_create(kernel, p, &absorbed);
  work_create(kernel, p, &shorter);
  work_causal(&whole, 0, n, &work_no_state);
  work_absorb(&absorbed, 0, n);
  check_same_sums(&absorbed, &whole);
  compare_kept(&whole);
  work_causal(&shorter, 0, cut, &work_no_state);
  for (int64_t h = 0; h < p->n_heads; h++) {
    for (int64_t t = 0; t < cut; t++) {
      size_t bytes = (size_t)p->shape.value_width * real_bytes[p->precision];
      size_t at = (size_t)(h * n + t) * bytes;
      bool is_lost = ((bool *)whole.is_lost.data)[h * n + t];
      work_check(is_lost == ((bool *)shorter.is_lost.data)[h * n + t], &whole,
                 "loss of a row, with later tokens and without;"
                 " token",
                 (double)t);
      work_check(is_lost || memcmp(whole.out.data + at, shorter.out.data + at, bytes) == 0, &whole,
                 "bits of an output, with later tokens and without; token", (double)t);
      for (int64_t e = 0; e < p->shape.value_width && !is_lost; e++) {
        work_check(isfinite(real_get(p->precision, whole.out.data, (h * n + t) * p->shape.value_width + e)), &whole,
                   "output", NAN);
      }
    }
  }
  work_destroy(&whole);
  work_destroy(&absorbed);
  work_destroy(&shorter);
}

/* Where the exponents are wild. */
static void keeps_its_bits_of(const struct kernel *kernel, int precision) {
  static const double spreads[] = {1, 4, 16, 64, 256};
  for (int i = 0; i < 2 * (int)(sizeof spreads / sizeof spreads[0]); i++) {
    int64_t n = kernel->tile_tokens + kernel->causal_tokens / 2 + 1;
    struct problem p = problem_create(precision, AT_END, 16, 33, 70, 1 + i % 2, n, spreads[i / 2]);
    compare_bits(kernel, &p, n - kernel->causal_tokens / 4);
    problem_take_hadamard(&p);
    compare_bits(kernel, &p, n - kernel->causal_tokens / 4);
    problem_destroy(&p);
  }
}

/* ---- maps -------------------------------------------------------------------------------------------------------- */

/* Those of features above 0 first, whose outputs two kernels can be compared by. */
static const struct kernel_map *const maps[] = {&kernel_map_relu,    &kernel_map_elu,           &kernel_map_exp,
                                                &kernel_map_sigmoid, &kernel_map_abs,           &kernel_map_square,
                                                &kernel_map_gelu,    &kernel_map_trigonometric, &kernel_map_tanh,
                                                &kernel_map_cos,     &kernel_map_identity};
enum { N_MAPS = sizeof maps / sizeof maps[0], N_POSITIVE_MAPS = 6 };

static void agrees_with_maps_of(const struct kernel *kernel, int precision) {
  if (!kernel->has_maps) return;
  for (int i = 0; i < 3 * N_WIDTHS; i++) {
    int64_t d = widths[i % N_WIDTHS], e = widths[(3 * i + 5) % N_WIDTHS], m = widths[(5 * i + i / N_WIDTHS) % N_WIDTHS];
    int64_t n = i % 4 == 0 ? kernel->tile_tokens : i % 4 == 1 ? 2 * kernel->causal_tokens + 1 : 1 + 7 * i % 60;
    struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, d, e, m, 1, n, 1);
    problem_take_map(&p, maps[i % N_POSITIVE_MAPS], 1e-3);
    compare_problem(kernel, &p);
    problem_destroy(&p);
  }
}

static void keeps_its_bits_with_maps_of(const struct kernel *kernel, int precision) {
  if (!kernel->has_maps) return;
  for (int i = 0; i < 3 * N_MAPS; i++) {
    int64_t n = kernel->tile_tokens + kernel->causal_tokens / 2 + 1;
    struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, 16, 33, 70, 1, n, i < N_MAPS ? 1 : 30);
    problem_take_map(&p, maps[i % N_MAPS], i < 2 * N_MAPS ? 0 : 1e-3);
    compare_bits(kernel, &p, n - kernel->causal_tokens / 4);
    problem_destroy(&p);
  }
}

static void measures_of(const struct kernel *kernel, int precision) {
  const struct kernel_ops *ops = &kernel->real[precision];
  for (int i = 0; i < N_WIDTHS; i++) {
    for (int64_t n = 1; n < 12; n++) {
      int64_t width = widths[i], stride = width + n % 2;
      struct guarded x = problem_rows(precision, n, width, stride, 10, n % 3 ? AT_END : AT_START);
      struct guarded norm2 = guarded_create((size_t)n * sizeof(double), AT_END);
      struct guarded peak = guarded_create((size_t)width * real_bytes[precision], AT_END);
      memset(peak.data, 0, (size_t)width * real_bytes[precision]);
      if (n == 7) real_set(precision, x.data, 3 * stride + width / 2, -INFINITY);
      if (n == 8) real_set(precision, x.data, 7 * stride + width - 1, NAN);
      ops->norms(n, width, x.data, stride, (double *)(void *)norm2.data);
      ops->peaks(n, width, x.data, stride, peak.data);
      for (int64_t t = 0; t < n; t++) {
        double sum = 0, got = ((double *)(void *)norm2.data)[t];
        for (int64_t d = 0; d < width; d++) sum += pow(real_get(precision, x.data, t * stride + d), 2);
        assert_true(isfinite(sum) ? fabs(got - sum) <= 1e-14 * sum : !isfinite(got));
      }
      for (int64_t d = 0; d < width; d++) {
        double highest = 0, got = real_get(precision, peak.data, d);
        for (int64_t t = 0; t < n; t++) {
          double magnitude = fabs(real_get(precision, x.data, t * stride + d));
          highest = isnan(magnitude) || magnitude > highest ? magnitude : highest;
        }
        assert_true(isnan(highest) ? isnan(got) : got == highest);
      }
      guarded_destroy(&x);
      guarded_destroy(&norm2);
      guarded_destroy(&peak);
    }
  }
}

KERNEL_TEST(agrees_at_every_width)
KERNEL_TEST(agrees_at_every_hadamard_width)
KERNEL_TEST(agrees_at_every_length)
KERNEL_TEST(agrees_at_every_spread)
KERNEL_TEST(keeps_its_bits)
KERNEL_TEST(agrees_with_maps)
KERNEL_TEST(keeps_its_bits_with_maps)
KERNEL_TEST(measures)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(measures),
      cmocka_unit_test(agrees_at_every_length),
      cmocka_unit_test(agrees_at_every_width),
      cmocka_unit_test(agrees_at_every_hadamard_width),
      cmocka_unit_test(agrees_at_every_spread),
      cmocka_unit_test(keeps_its_bits),
      cmocka_unit_test(agrees_with_maps),
      cmocka_unit_test(keeps_its_bits_with_maps),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

/* float16 and bfloat16 against their definition, every code, and every place where rounding turns. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "io/half.h"

enum { N_CODES = 1 << 16 };

struct format {
  const char *name;
  int mantissa_bits, bias;
  uint16_t infinity;
  void (*to_float)(int64_t, const uint16_t *, float *);
  void (*to_double)(int64_t, const uint16_t *, double *);
  bool (*from_float)(int64_t, const float *, uint16_t *);
  bool (*from_double)(int64_t, const double *, uint16_t *);
};
static const struct format formats[] = {
    {"float16", 10, 15, 0x7c00, half_to_float, half_to_double, half_from_float, half_from_double},
    {"bfloat16", 7, 127, 0x7f80, bfloat_to_float, bfloat_to_double, bfloat_from_float, bfloat_from_double},
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

static uint16_t all_codes[N_CODES];

static bool is_nan_code(const struct format *f, unsigned code) { return (code & 0x7fff) > f->infinity; }

/* The value of a finite code, from the definition of the format. */
static double value_of(const struct format *f, unsigned code) {
  unsigned mantissa = code & ((1u << f->mantissa_bits) - 1), exponent = (code & 0x7fff) >> f->mantissa_bits;
  double magnitude = exponent == 0
                         ? ldexp(mantissa, 1 - f->bias - f->mantissa_bits)
                         : ldexp(mantissa + (1u << f->mantissa_bits), (int)exponent - f->bias - f->mantissa_bits);
  return code & 0x8000 ? -magnitude : magnitude;
}

/* The code nearest to x, ties to even, from the definition: round x to a multiple of its quantum. */
static uint16_t nearest_code(const struct format *f, double x) {
  unsigned sign = signbit(x) ? 0x8000 : 0;
  int exponent, smallest = 1 - f->bias;
  if (x == 0) return (uint16_t)sign;
  frexp(x, &exponent); /* |x| in [1/2, 1) 2^exponent */
  exponent = exponent - 1 < smallest ? smallest : exponent - 1;
  double in_quanta = ldexp(fabs(x), f->mantissa_bits - exponent);
  if (!(in_quanta < ldexp(1, f->mantissa_bits + 2))) return (uint16_t)(sign | f->infinity);
  /* A subnormal has the exponent field of the smallest normal number less one; a carry goes where it belongs. */
  int64_t code = (int64_t)rint(in_quanta) + ((int64_t)(exponent - smallest) << f->mantissa_bits);
  return (uint16_t)(sign | (code < f->infinity ? (unsigned)code : f->infinity));
}

static uint16_t code_from_float(const struct format *f, float x, bool *is_finite) {
  uint16_t code;
  *is_finite = f->from_float(1, &x, &code);
  return code;
}

static uint16_t code_from_double(const struct format *f, double x, bool *is_finite) {
  uint16_t code;
  *is_finite = f->from_double(1, &x, &code);
  return code;
}

/* Both narrowings of a finite number that a float holds. */
static void check_float(const struct format *f, float x) {
  bool is_finite;
  uint16_t expected = nearest_code(f, x);
  bool is_expected_finite = (expected & 0x7fff) != f->infinity;
  uint16_t code = code_from_float(f, x, &is_finite);
  if (code != expected || is_finite != is_expected_finite)
    fail_msg("%s of the float %a is 0x%04x, not 0x%04x", f->name, (double)x, code, expected);
  code = code_from_double(f, x, &is_finite);
  if (code != expected || is_finite != is_expected_finite)
    fail_msg("%s of the double %a is 0x%04x, not 0x%04x", f->name, (double)x, code, expected);
}

static void check_double(const struct format *f, double x) {
  bool is_finite;
  uint16_t expected = nearest_code(f, x), code = code_from_double(f, x, &is_finite);
  if (code != expected || is_finite != ((expected & 0x7fff) != f->infinity))
    fail_msg("%s of the double %a is 0x%04x, not 0x%04x", f->name, x, code, expected);
}

static void test_every_code_is_widened(void **state) {
  (void)state;
  static float floats[N_CODES];
  static double doubles[N_CODES];
  for (int i = 0; i < N_FORMATS; i++) {
    const struct format *f = &formats[i];
    f->to_float(N_CODES, all_codes, floats);
    f->to_double(N_CODES, all_codes, doubles);
    for (unsigned code = 0; code < N_CODES; code++) {
      double expected = is_nan_code(f, code) ? NAN : (code & 0x7fff) == f->infinity ? INFINITY : value_of(f, code);
      if (isnan(expected))
        assert_true(isnan(floats[code]) && isnan(doubles[code]));
      else if (isinf(expected))
        assert_true(isinf(floats[code]) && isinf(doubles[code]));
      else if (floats[code] != (float)expected || doubles[code] != expected)
        fail_msg("%s 0x%04x is %a and %a, not %a", f->name, code, (double)floats[code], doubles[code], expected);
      assert_int_equal(signbit(floats[code]) != 0, code >> 15);
      assert_int_equal(signbit(doubles[code]) != 0, code >> 15);
    }
  }
}

/* There and back: the same code, but that a NaN becomes quiet. */
static void test_every_code_comes_back(void **state) {
  (void)state;
  static float floats[N_CODES];
  static double doubles[N_CODES];
  static uint16_t from_floats[N_CODES], from_doubles[N_CODES];
  for (int i = 0; i < N_FORMATS; i++) {
    const struct format *f = &formats[i];
    uint16_t quiet = (uint16_t)(1 << (f->mantissa_bits - 1));
    f->to_float(N_CODES, all_codes, floats);
    f->to_double(N_CODES, all_codes, doubles);
    assert_true(f->from_float(N_CODES, floats, from_floats));
    assert_true(f->from_double(N_CODES, doubles, from_doubles));
    for (unsigned code = 0; code < N_CODES; code++) {
      unsigned expected = is_nan_code(f, code) ? code | quiet : code;
      assert_int_equal(from_floats[code], expected);
      assert_int_equal(from_doubles[code], expected);
    }
  }
}

/* Between every two neighbouring codes rounding turns at the middle: there, and one step to each side. */
static void test_rounding_turns_at_the_middle(void **state) {
  (void)state;
  for (int i = 0; i < N_FORMATS; i++) {
    const struct format *f = &formats[i];
    for (unsigned code = 0; code < f->infinity; code++) {
      double middle = (value_of(f, code) + value_of(f, code + 1)) / 2; /* past the last: where infinity begins */
      for (int sign = -1; sign <= 1; sign += 2) {
        float x = (float)(sign * middle);
        assert_true(x == sign * middle); /* exact: a float has the bits */
        check_float(f, x);
        check_float(f, nextafterf(x, 0));
        check_float(f, nextafterf(x, sign * INFINITY));
        check_double(f, nextafter(sign * middle, 0));
        check_double(f, nextafter(sign * middle, sign * (double)INFINITY));
      }
    }
  }
}

static void test_floats_at_large(void **state) {
  (void)state;
  for (int i = 0; i < N_FORMATS; i++) {
    for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 12007) { /* a prime: every low pattern comes up */
      uint32_t word = (uint32_t)bits;
      float x;
      memcpy(&x, &word, sizeof x);
      if (isfinite(x)) check_float(&formats[i], x);
    }
  }
}

static void test_doubles_beyond_floats(void **state) {
  (void)state;
  const double magnitudes[] = {0,     0x1p-1074,       0x1p-150, 0x1.8p-150, 0x1p-134, 0x1.000001p-134,    1e-300,
                               1e-60, 0x1.fffffefp127, 0x1p128,  1e39,       1e300,    65519.999999999993, 65520};
  for (int i = 0; i < N_FORMATS; i++) {
    for (size_t j = 0; j < sizeof magnitudes / sizeof *magnitudes; j++) {
      check_double(&formats[i], magnitudes[j]);
      check_double(&formats[i], -magnitudes[j]);
    }
  }
}

/* Only what was finite counts as too large. */
static void test_infinity_and_nan_stay(void **state) {
  (void)state;
  for (int i = 0; i < N_FORMATS; i++) {
    const struct format *f = &formats[i];
    bool is_finite;
    assert_int_equal(code_from_float(f, INFINITY, &is_finite), f->infinity);
    assert_true(is_finite);
    assert_int_equal(code_from_double(f, -(double)INFINITY, &is_finite), f->infinity | 0x8000);
    assert_true(is_finite);
    assert_true(is_nan_code(f, code_from_float(f, NAN, &is_finite)) && is_finite);
    assert_true(is_nan_code(f, code_from_double(f, NAN, &is_finite)) && is_finite);
  }
}

/* Every length, so every remainder of a vector loop: all are converted, none beyond, and one overflow is noticed. */
static void test_every_length(void **state) {
  (void)state;
  enum { LONGEST = 67, GUARD = 0x1234 };
  for (int i = 0; i < N_FORMATS; i++) {
    const struct format *f = &formats[i];
    for (int n = 0; n <= LONGEST; n++) {
      uint16_t codes[LONGEST + 1];
      float floats[LONGEST + 1];
      double doubles[LONGEST + 1];
      for (int j = 0; j <= LONGEST; j++) floats[j] = (float)j, doubles[j] = j, codes[j] = GUARD;
      assert_true(f->from_float(n, floats, codes));
      for (int j = 0; j <= LONGEST; j++) assert_int_equal(codes[j], j < n ? nearest_code(f, j) : GUARD);
      if (n == 0) continue;
      floats[n - 1] = 3.4e38f;
      doubles[n / 2] = -1e39;
      assert_false(f->from_float(n, floats, codes));
      assert_false(f->from_double(n, doubles, codes));
      assert_int_equal(codes[n], GUARD);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_code_is_widened),
      cmocka_unit_test(test_every_code_comes_back),
      cmocka_unit_test(test_rounding_turns_at_the_middle),
      cmocka_unit_test(test_floats_at_large),
      cmocka_unit_test(test_doubles_beyond_floats),
      cmocka_unit_test(test_infinity_and_nan_stay),
      cmocka_unit_test(test_every_length),
  };
  for (int code = 0; code < N_CODES; code++) all_codes[code] = (uint16_t)code;
  return cmocka_run_group_tests_name("half", tests, NULL, NULL);
}

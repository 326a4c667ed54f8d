/* Part of map.c: the maps in one precision, of which real_f32.h or real_f64.h gives the format. Every operation is
 * rounded for itself, so that bits do not depend on the width of vectors. */

/* 2^n, 0 where that is below the normal range. n <= REAL_BIAS. */
static inline REAL NAME(power)(int32_t n) {
  int32_t biased = n + REAL_BIAS;
  biased = biased < 0 ? 0 : biased;
  REAL_BITS bits = (REAL_BITS)biased << REAL_MANTISSA_BITS;
  REAL x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* A feature of this value. */
static inline void NAME(split)(REAL x, REAL *fraction, int32_t *exponent) {
  const REAL_BITS field = 2 * REAL_BIAS + 1;
  REAL_BITS bits;
  memcpy(&bits, &x, sizeof bits);
  const REAL_BITS biased = bits >> REAL_MANTISSA_BITS & field;
  bits = (bits & ~(field << REAL_MANTISSA_BITS)) | (REAL_BITS)(REAL_BIAS - 1) << REAL_MANTISSA_BITS;
  bits = biased == 0 ? 0 : bits;
  *exponent = biased == 0 ? KERNEL_EXPONENT_OF_ZERO : (int32_t)biased - (REAL_BIAS - 1);
  memcpy(fraction, &bits, sizeof bits);
}

/* A feature of the value x 2^n + eps, x > 0 not below 1/2. */
static inline void NAME(split_sum)(REAL x, int32_t n, REAL eps_fraction, int32_t eps_exponent, REAL *fraction,
                                   int32_t *exponent) {
  const int32_t top = n > eps_exponent ? n : eps_exponent;
  int32_t above;
  NAME(split)(x * NAME(power)(n - top) + eps_fraction * NAME(power)(eps_exponent - top), fraction, &above);
  *exponent = top + above;
}

/* 2^l = result 2^*n, result from 0.7 to 1.5. */
static inline REAL NAME(exponential2)(double l, int32_t *n) {
  static const REAL coefficients[] = {EXP2_COEFFICIENTS, 1};
  enum { N = sizeof coefficients / sizeof coefficients[0] };
  const double nearest = rint(l);
  const REAL f = (REAL)(l - nearest);
  REAL power = coefficients[0];
  for (int i = 1; i < N; i++) power = power * f + coefficients[i];
  *n = (int32_t)nearest;
  return power;
}

/* exp(x) likewise. */
static inline REAL NAME(exponential)(REAL x, int32_t *n) { return NAME(exponential2)((double)x * LOG2_E, n); }

/* f(u) + eps of a value that a real holds. */
#define DEFINE_VALUES(NAME_, VALUE)                                                                                    \
  VECTORS static void NAME(NAME_)(const struct kernel_map_row *row, REAL *restrict feature,                            \
                                  int32_t *restrict exponent) {                                                        \
    const REAL eps = (REAL)row->parameters->eps;                                                                       \
    for (int64_t r = 0; r < row->directions; r++) {                                                                    \
      const REAL u = feature[r];                                                                                       \
      NAME(split)((VALUE) + eps, &feature[r], &exponent[r]);                                                           \
    }                                                                                                                  \
  }

/* f(u) + eps of values that no real holds: f(u) = VALUE 2^N, where POWER 2^n = exp(ARGUMENT). */
#define DEFINE_EXPONENTIALS(NAME_, ARGUMENT, VALUE, N)                                                                 \
  VECTORS static void NAME(NAME_)(const struct kernel_map_row *row, REAL *restrict feature,                            \
                                  int32_t *restrict exponent) {                                                        \
    REAL eps_fraction;                                                                                                 \
    int32_t eps_exponent;                                                                                              \
    NAME(split)((REAL)row->parameters->eps, &eps_fraction, &eps_exponent);                                             \
    for (int64_t r = 0; r < row->directions; r++) {                                                                    \
      const REAL u = feature[r];                                                                                       \
      int32_t n;                                                                                                       \
      const REAL power = NAME(exponential)(ARGUMENT, &n);                                                              \
      NAME(split_sum)(VALUE, N, eps_fraction, eps_exponent, &feature[r], &exponent[r]);                                \
    }                                                                                                                  \
  }

/* f(u) + eps by a function of the mathematical library, in double. */
#define DEFINE_CALLS(NAME_, VALUE)                                                                                     \
  static void NAME(NAME_)(const struct kernel_map_row *row, REAL *feature, int32_t *exponent) {                        \
    for (int64_t r = 0; r < row->directions; r++) {                                                                    \
      const double u = (double)feature[r];                                                                             \
      double fraction;                                                                                                 \
      split_f64((VALUE) + row->parameters->eps, &fraction, &exponent[r]);                                              \
      feature[r] = (REAL)fraction;                                                                                     \
    }                                                                                                                  \
  }

DEFINE_VALUES(relu, u > 0 ? u : 0)
DEFINE_VALUES(abs, u > 0 ? u : -u)
DEFINE_VALUES(square, u *u)
DEFINE_VALUES(identity, u)
DEFINE_EXPONENTIALS(exp, u, power, n)
/* Katharopoulos et al., "Transformers are RNNs", ICML 2020: elu(u) + 1. */
DEFINE_EXPONENTIALS(elu, u > 0 ? 0 : u, u > 0 ? u + 1 : power, n)
/* Of exp(-|u|) = e: 1 / (1 + e), and e / (1 + e) where u is negative, which keeps its digits however small. */
DEFINE_EXPONENTIALS(sigmoid, u > 0 ? -u : u, (u > 0 ? 1 : power) / (1 + power * NAME(power)(n)), u > 0 ? 0 : n)
DEFINE_CALLS(gelu, 0.5 * u * erfc(-u * 0.707106781186547524400844362104849039))
DEFINE_CALLS(tanh, tanh(u))
DEFINE_CALLS(cos, cos(u))

/* exp(|x~|^2 / 2) [cos u, sin u]. A query's factor cancels in its output, yet stays: this is the definition. */
static void NAME(trigonometric)(const struct kernel_map_row *row, REAL *feature, int32_t *exponent) {
  const int64_t m = row->directions;
  const double whole = rint(row->half_norm), part = exp2(row->half_norm - whole);
  for (int64_t r = 0; r < m; r++) {
    const double u = (double)feature[r], values[2] = {part * cos(u), part * sin(u)};
    for (int i = 0; i < 2; i++) {
      double fraction;
      int32_t n;
      split_f64(values[i], &fraction, &n);
      feature[i * m + r] = (REAL)fraction;
      exponent[i * m + r] = fraction == 0 ? n : n + (int32_t)whole;
    }
  }
}

/* log2 of what the features of a token are divided by. */
static double NAME(offset)(const struct kernel_map_row *row, const REAL *u, bool has_both_signs) {
  if (!row->parameters->is_relative) return row->half_norm;
  if (!row->is_query) return row->half_norm + row->parameters->key_max * LOG2_E;
  REAL highest = -INFINITY;
  for (int64_t r = 0; r < row->directions; r++) {
    const REAL x = has_both_signs && u[r] < 0 ? -u[r] : u[r];
    highest = x > highest ? x : highest;
  }
  return row->half_norm + (double)highest * LOG2_E;
}

/* exp(+-u - |x~|^2 / 2 - max) + eps of one sign. u may be the fractions' own place. */
VECTORS static void NAME(exponentials)(const struct kernel_map_row *row, REAL sign, double offset, const REAL *u,
                                       REAL *fraction, int32_t *exponent) {
  REAL eps_fraction;
  int32_t eps_exponent;
  NAME(split)((REAL)row->parameters->eps, &eps_fraction, &eps_exponent);
  for (int64_t r = 0; r < row->directions; r++) {
    const double l = (double)(sign * u[r]) * LOG2_E - offset;
    int32_t n;
    const REAL power = NAME(exponential2)(l > LEAST_LOG2 ? l : LEAST_LOG2, &n);
    NAME(split_sum)(power, n, eps_fraction, eps_exponent, &fraction[r], &exponent[r]);
  }
}

static void NAME(positive)(const struct kernel_map_row *row, REAL *feature, int32_t *exponent) {
  NAME(exponentials)(row, 1, NAME(offset)(row, feature, false), feature, feature, exponent);
}

static void NAME(hyperbolic)(const struct kernel_map_row *row, REAL *feature, int32_t *exponent) {
  const int64_t m = row->directions;
  const double offset = NAME(offset)(row, feature, true);
  NAME(exponentials)(row, -1, offset, feature, feature + m, exponent + m);
  NAME(exponentials)(row, 1, offset, feature, feature, exponent);
}

#undef DEFINE_VALUES
#undef DEFINE_EXPONENTIALS
#undef DEFINE_CALLS

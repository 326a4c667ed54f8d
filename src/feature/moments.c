#include "feature/moments.h"

#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

/* Variances below this share of the mean one count as if they had it, so that no column is stretched by more than 16
 * for the sake of another: few tokens say little of a direction in which they hardly vary. */
#define LEAST_VARIANCE 0x1p-16
/* A variance that is less than this share of the square it is left of is rounding: the tokens are all alike. */
#define LEAST_SHARE 0x1p-40

size_t moments_work_count(int64_t width) { return (size_t)(5 * width * width + 2 * width); }

static double square_at(const struct moments *moments, bool is_key, int64_t i, int64_t j) {
  const double *square = is_key ? moments->key_square : moments->query_square;
  return moments->is_full ? square[i * moments->width + j] : square[i];
}

/* E (x - c)_i (x - c)_j = E x_i x_j - m_i c_j - c_i m_j + c_i c_j; c NULL: zeros. */
static double square_about(const struct moments *moments, bool is_key, const double *c, int64_t i, int64_t j) {
  const double *m = is_key ? moments->key_mean : moments->query_mean;
  double square = square_at(moments, is_key, i, j);
  if (!c) return square;
  if (c == m) return square - m[i] * m[j];
  return square - m[i] * c[j] - c[i] * m[j] + c[i] * c[j];
}

/* The mean variance about c; 0 where it is nothing but rounding, or no number. */
static double mean_variance(const struct moments *moments, bool is_key, const double *c) {
  double sum = 0, raw = 0;
  for (int64_t d = 0; d < moments->width; d++) {
    sum += square_about(moments, is_key, c, d, d);
    raw += square_at(moments, is_key, d, d) + (c ? c[d] * c[d] : 0);
  }
  bool is_any = sum > LEAST_SHARE * raw && sum >= DBL_MIN && isfinite(raw);
  return is_any ? sum / (double)moments->width : 0;
}

static void find_diagonal(const struct moments *moments, const double *query_centre, const double *key_centre,
                          double query_variance, double key_variance, double *l) {
  for (int64_t d = 0; d < moments->width; d++) {
    double query = fmax(square_about(moments, false, query_centre, d, d), LEAST_VARIANCE * query_variance);
    double key = fmax(square_about(moments, true, key_centre, d, d), LEAST_VARIANCE * key_variance);
    l[d] = sqrt(sqrt(key) / sqrt(query));
  }
}

/* g = the lower triangular factor of a, a = g g^T; a is symmetric and positive definite. */
static void factorise(int64_t n, const double *a, double *g) {
  memset(g, 0, (size_t)(n * n) * sizeof *g);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j <= i; j++) {
      double sum = a[i * n + j];
      for (int64_t d = 0; d < j; d++) sum -= g[i * n + d] * g[j * n + d];
      /* Never below rounding, where the least variances keep it positive. */
      g[i * n + j] = i == j ? sqrt(fmax(sum, DBL_EPSILON * a[i * n + i])) : sum / g[j * n + j];
    }
  }
}

/* c = a b of n x n matrices; with is_left_transposed a^T b. */
static void multiply(int64_t n, bool is_left_transposed, const double *a, const double *b, double *c) {
  memset(c, 0, (size_t)(n * n) * sizeof *c);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t d = 0; d < n; d++) {
      const double factor = is_left_transposed ? a[d * n + i] : a[i * n + d];
      for (int64_t j = 0; j < n; j++) c[i * n + j] += factor * b[d * n + j];
    }
  }
}

/* Moments about c in units of `unit`, with their least variances. */
static void load_square(const struct moments *moments, bool is_key, const double *c, double unit, double *a) {
  const int64_t n = moments->width;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) a[i * n + j] = square_about(moments, is_key, c, i, j) / unit;
    a[i * n + i] = fmax(a[i * n + i], 0) + LEAST_VARIANCE;
  }
}

/* b = G^-T b for the lower triangular G. */
static void solve_transposed(int64_t n, const double *g, double *b) {
  for (int64_t i = n - 1; i >= 0; i--) {
    for (int64_t d = i + 1; d < n; d++) {
      for (int64_t j = 0; j < n; j++) b[i * n + j] -= g[d * n + i] * b[d * n + j];
    }
    for (int64_t j = 0; j < n; j++) b[i * n + j] /= g[i * n + i];
  }
}

/* With Mq = G G^T and G^T Mk G = V Lambda V^T the geometric mean Mq^-1 # Mk is P = Z Lambda^(1/2) Z^T, Z = G^-T V:
 * P Mq P = Mk. L is its triangular factor, of which rows cost half of what those of a whole matrix do. */
static enum favor_status find_full(const struct moments *moments, const double *query_centre, const double *key_centre,
                                   double query_variance, double key_variance, double *l, double *work) {
  const int64_t n = moments->width, count = n * n;
  double *a = work, *g = a + count, *b = g + count, *z = b + count, *value = z + count;
  load_square(moments, false, query_centre, query_variance, a);
  factorise(n, a, g);
  load_square(moments, true, key_centre, key_variance, a);
  multiply(n, false, a, g, b);
  multiply(n, true, g, b, z);
  if (LAPACKE_dsyev(LAPACK_COL_MAJOR, 'V', 'L', (lapack_int)n, z, (lapack_int)n, value) != 0) return FAVOR_EINTERNAL;
  const double unit = sqrt(key_variance / query_variance), least = DBL_EPSILON * value[n - 1];
  for (int64_t r = 0; r < n; r++) {
    const double root = sqrt(sqrt(fmax(value[r], least)) * unit);
    for (int64_t d = 0; d < n; d++) b[d * n + r] = z[r * n + d] * root; /* V Lambda^(1/4), by columns */
  }
  solve_transposed(n, g, b);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t r = 0; r < n; r++) sum += b[i * n + r] * b[j * n + r];
      a[i * n + j] = sum;
    }
  }
  factorise(n, a, g);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) l[i * n + j] = g[j * n + i];
  }
  return FAVOR_OK;
}

static void set_identity(int64_t n, bool is_full, double *l) {
  for (int64_t i = 0; i < n * (is_full ? n : 1); i++) l[i] = !is_full || i % (n + 1) == 0;
}

enum favor_status moments_find_balance(const struct moments *moments, enum favor_balance kind, bool is_centred,
                                       const double *shift, double *l, double *work) {
  const bool is_full = kind == FAVOR_BALANCE_FULL, is_about_means = is_centred && !shift;
  const double *query_centre = is_about_means ? moments->query_mean : NULL;
  const double *key_centre = is_about_means ? moments->key_mean : shift;
  const double query_variance = mean_variance(moments, false, query_centre);
  const double key_variance = mean_variance(moments, true, key_centre);
  if (query_variance == 0 || key_variance == 0) {
    set_identity(moments->width, is_full, l);
    return FAVOR_OK;
  }
  if (is_full) return find_full(moments, query_centre, key_centre, query_variance, key_variance, l, work);
  find_diagonal(moments, query_centre, key_centre, query_variance, key_variance, l);
  return FAVOR_OK;
}

void moments_find_shift(const struct moments *moments, const struct moments_balance *balance, double *shift,
                        double *work) {
  const int64_t n = moments->width;
  const double *mean = moments->query_mean, *l = balance->l;
  double *moved = work; /* L mean(q) */
  for (int64_t i = 0; i < n; i++) {
    moved[i] = balance->kind == FAVOR_BALANCE_DIAGONAL ? l[i] * mean[i] : mean[i];
    if (balance->kind != FAVOR_BALANCE_FULL) continue;
    moved[i] = 0;
    for (int64_t j = 0; j < n; j++) moved[i] += l[i * n + j] * mean[j];
  }
  for (int64_t j = 0; j < n; j++) {
    double sum = balance->kind == FAVOR_BALANCE_DIAGONAL ? l[j] * moved[j] : moved[j];
    if (balance->kind == FAVOR_BALANCE_FULL) {
      sum = 0;
      for (int64_t i = 0; i < n; i++) sum += l[i * n + j] * moved[i];
    }
    shift[j] = moments->key_mean[j] + sum;
  }
}

/* E |T (x - c)|^2 for a full T, or its transpose. */
static double mean_norm2(const struct moments *moments, bool is_key, const double *c, const double *t,
                         bool is_transposed) {
  const int64_t n = moments->width;
  double sum = 0;
  for (int64_t r = 0; r < n; r++) {
    for (int64_t i = 0; i < n; i++) {
      const double left = is_transposed ? t[i * n + r] : t[r * n + i];
      if (left == 0) continue;
      for (int64_t j = 0; j < n; j++) {
        const double right = is_transposed ? t[j * n + r] : t[r * n + j];
        sum += left * right * square_about(moments, is_key, c, i, j);
      }
    }
  }
  return sum;
}

double moments_find_oprf_a(const struct moments *moments, const struct moments_balance *balance, const double *shift,
                           double scale) {
  const int64_t n = moments->width;
  const double width = (double)n;
  double f = 0;
  for (int64_t d = 0; d < n; d++) {
    f += 2 * moments->query_mean[d] * (moments->key_mean[d] - (shift ? shift[d] : 0));
    if (balance->kind == FAVOR_BALANCE_FULL) continue;
    const double l = balance->kind == FAVOR_BALANCE_DIAGONAL ? balance->l[d] : 1;
    f += l * l * square_about(moments, false, NULL, d, d) + square_about(moments, true, shift, d, d) / (l * l);
  }
  if (balance->kind == FAVOR_BALANCE_FULL) {
    f += mean_norm2(moments, false, NULL, balance->l, false) + mean_norm2(moments, true, shift, balance->inverse, true);
  }
  f = f > 0 ? f * scale : 0;
  return (width - 2 * f - sqrt((2 * f + width) * (2 * f + width) + 8 * width * f)) / (16 * width);
}

/* row i -= factor row p, from column `first` on. */
static void subtract(int64_t n, double *m, int64_t i, int64_t p, double factor, int64_t first) {
  for (int64_t j = first; j < n; j++) m[i * n + j] -= factor * m[p * n + j];
}

static void swap_rows(int64_t n, double *m, int64_t i, int64_t p) {
  for (int64_t j = 0; j < n && i != p; j++) {
    const double x = m[i * n + j];
    m[i * n + j] = m[p * n + j];
    m[p * n + j] = x;
  }
}

bool moments_invert(int64_t n, const double *l, double *inverse, double *work) {
  double *m = work;
  memcpy(m, l, (size_t)(n * n) * sizeof *m);
  set_identity(n, true, inverse);
  for (int64_t p = 0; p < n; p++) {
    int64_t pivot = p;
    for (int64_t i = p + 1; i < n; i++) {
      if (fabs(m[i * n + p]) > fabs(m[pivot * n + p])) pivot = i;
    }
    if (m[pivot * n + p] == 0) return false;
    swap_rows(n, m, p, pivot);
    swap_rows(n, inverse, p, pivot);
    const double factor = 1 / m[p * n + p];
    for (int64_t j = 0; j < n; j++) {
      m[p * n + j] *= factor;
      inverse[p * n + j] *= factor;
    }
    for (int64_t i = 0; i < n; i++) {
      const double times = m[i * n + p];
      if (i == p || times == 0) continue;
      subtract(n, m, i, p, times, p);
      subtract(n, inverse, i, p, times, 0);
    }
  }
  for (int64_t i = 0; i < n * n; i++) {
    if (!isfinite(inverse[i])) return false;
  }
  return true;
}

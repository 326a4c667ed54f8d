/* Estimates from moments: the key shift, the balance and the A of oprf (favor.h says what they are) of one key head. */
#ifndef FAVOR_FEATURE_MOMENTS_H
#define FAVOR_FEATURE_MOMENTS_H

#include <favor/favor.h>

/* Means over queries and over keys of a key head. Squares: E x_d^2, [D], or E x_d x_e, [D][D]; NULL where only the
 * shift is asked for. */
struct moments {
  int64_t width;
  bool is_full;
  const double *query_mean, *key_mean;
  const double *query_square, *key_square;
};

/* A balance: the diagonal of L, or all of it with its inverse. */
struct moments_balance {
  enum favor_balance kind;
  const double *l;       /* [D] or [D][D] */
  const double *inverse; /* [D][D] of the full one */
};

/* Doubles that the functions below need as work. */
size_t moments_work_count(int64_t width);

/* The balance of these moments, about `shift` where one is given, else about their means if `is_centred`. l is [D], or
 * with FAVOR_BALANCE_FULL, which needs is_full, [D][D]. Errors: FAVOR_EINTERNAL (LAPACK). */
enum favor_status moments_find_balance(const struct moments *moments, enum favor_balance kind, bool is_centred,
                                       const double *shift, double *l, double *work);

/* shift [D] = mean(k) + L^T L mean(q). */
void moments_find_shift(const struct moments *moments, const struct moments_balance *balance, double *shift,
                        double *work);

/* The A of oprf for queries L q and keys L^-T (k - shift); shift NULL: zeros. */
double moments_find_oprf_a(const struct moments *moments, const struct moments_balance *balance, const double *shift,
                           double scale);

/* inverse [n][n] = l^-1, by elimination with pivots. False where l is singular. work: n^2 doubles. */
bool moments_invert(int64_t n, const double *l, double *inverse, double *work);

#endif

/* Reproducible sums: rows of binned accumulators whose addition is exact, so associative and commutative.
 *
 * The real line of exponents is cut into bins of BINNED_WIDTH bits at fixed places: bin t counts multiples of 2^(40 t).
 * A number x is a sum of digits, d_t(x) = rint(rest / 2^(40 t)) from high t to low, |d_t| <= 2^39: a function of x
 * alone. An element keeps an index t and the sums, as integers, of the digits of all its addends in bins t, t-1, ...
 * The index is the largest that any addend needs, so lower bins are dropped only because a larger addend came, and the
 * content is a function of the multiset of addends: any order and any grouping give the same bytes. After Demmel and
 * Nguyen, "Parallel reproducible summation", IEEE Trans. Comput. 2015; here the bins are integers and never carry.
 *
 * A row is one feature of a state: an exponent (the exact maximum of what was absorbed) and `width` elements.
 * Rows are plain bytes that describe themselves, so that they can be sent, merged and stored as they are.
 */
#ifndef FAVOR_BASE_BINNED_H
#define FAVOR_BASE_BINNED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  BINNED_WIDTH = 40,
  BINNED_MAX_BINS = 3,
  BINNED_MAX_ADDENDS = (1 << 24) - 1 /* of one element: int64 sums of digits up to 2^39 */
};
#define BINNED_NONE INT32_MIN /* exponent of a row, or index of an element, that absorbed nothing */

struct binned_row {
  int32_t exponent; /* BINNED_NONE where the row absorbed nothing */
  int32_t width;    /* elements */
  int32_t n_bins;   /* 2 or 3 */
  int32_t reserved; /* 0 */
  /* followed by int64_t bins[n_bins][width] and int32_t index[width], then padding to 8 bytes */
};

size_t binned_row_bytes(int64_t width, int n_bins);

/* The row number i of an array of rows of this size. */
static inline struct binned_row *binned_row_at(void *rows, size_t row_bytes, int64_t i) {
  return (struct binned_row *)((char *)rows + row_bytes * (size_t)i);
}
static inline const struct binned_row *binned_row_at_const(const void *rows, size_t row_bytes, int64_t i) {
  return (const struct binned_row *)((const char *)rows + row_bytes * (size_t)i);
}

/* Rows that absorbed nothing. */
void binned_clear(void *rows, int64_t n_rows, int64_t width, int n_bins);

/* Adds x[e] 2^(shift + column_shift[e]) to element e, for e in [0, n), counted from element `first`. column_shift may
 * be NULL (zeros). x is finite. */
void binned_deposit(struct binned_row *row, int64_t first, int64_t n, const double *x, int64_t shift,
                    const int32_t *column_shift);

/* Is this a row of this size, which nothing that follows can stumble over? For rows that come from outside. */
bool binned_is_valid(const struct binned_row *row, int64_t width, int n_bins);

/* Raises the row's exponent to at least this. */
void binned_raise(struct binned_row *row, int32_t exponent);

/* into += from, row by row: the associative merge. */
void binned_merge(const void *from, void *into, int64_t n_rows);

/* x[e] = the element's value times 2^-(shift + column_shift[e]), rounded to double; 0 where nothing was added. */
void binned_value(const struct binned_row *row, int64_t first, int64_t n, int64_t shift, const int32_t *column_shift,
                  double *x);

/* The largest binary exponent among elements (an upper bound within one bin), BINNED_NONE where all are zero:
 * |value| < 2^result. */
int64_t binned_magnitude(const struct binned_row *row, int64_t element);

#endif

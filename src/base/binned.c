#include "base/binned.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "base/vectors.h"

/* 1.5 * 2^52: adding it to |x| < 2^51 rounds x to an integer, which then stands in the low bits of the sum. */
#define ROUND_TO_INTEGER 0x1.8p52
/* Half a bin: the largest digit. */
#define HIGHEST_DIGIT 0x1p39

static int64_t *bins_of(struct binned_row *row) { return (int64_t *)(row + 1); }
static const int64_t *bins_of_const(const struct binned_row *row) { return (const int64_t *)(row + 1); }
static int32_t *index_of(struct binned_row *row) {
  return (int32_t *)(bins_of(row) + (int64_t)row->n_bins * row->width);
}
static const int32_t *index_of_const(const struct binned_row *row) {
  return (const int32_t *)(bins_of_const(row) + (int64_t)row->n_bins * row->width);
}

size_t binned_row_bytes(int64_t width, int n_bins) {
  size_t bytes = sizeof(struct binned_row) + (size_t)width * ((size_t)n_bins * sizeof(int64_t) + sizeof(int32_t));
  return (bytes + 7) / 8 * 8;
}

void binned_clear(void *rows, int64_t n_rows, int64_t width, int n_bins) {
  FAVOR_ASSERT(n_bins >= 2 && n_bins <= BINNED_MAX_BINS);
  size_t row_bytes = binned_row_bytes(width, n_bins);
  memset(rows, 0, (size_t)n_rows * row_bytes);
  for (int64_t r = 0; r < n_rows; r++) {
    struct binned_row *row = binned_row_at(rows, row_bytes, r);
    *row = (struct binned_row){.exponent = BINNED_NONE, .width = (int32_t)width, .n_bins = n_bins};
    int32_t *index = index_of(row);
    for (int64_t e = 0; e < width; e++) index[e] = BINNED_NONE;
  }
}

/* The index of a finite sum is far from this. */
enum { LARGEST_INDEX = 1 << 26 };

bool binned_is_valid(const struct binned_row *row, int64_t width, int n_bins) {
  if (row->width != width || row->n_bins != n_bins || row->reserved != 0) return false;
  const int32_t *index = index_of_const(row);
  for (int64_t e = 0; e < width; e++) {
    if (index[e] != BINNED_NONE && (index[e] < -LARGEST_INDEX || index[e] > LARGEST_INDEX)) return false;
  }
  return true;
}

void binned_raise(struct binned_row *row, int32_t exponent) {
  if (exponent > row->exponent) row->exponent = exponent;
}

/* 2^n for |n| <= 1022; 0 below, as what is that small beside a bin has no digit in it. */
static inline double power_of_two(int64_t n) {
  int64_t biased = n + 1023;
  biased = biased < 0 ? 0 : biased > 2046 ? 2046 : biased;
  uint64_t bits = (uint64_t)biased << 52;
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline int64_t integer_bits(double x) {
  int64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline double from_bits(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* (double)n, rounded once, by what vectors without a conversion have: the halves of n become low bits of 2^84 + 2^63
 * and of 2^52, from which they are taken off exactly. */
static inline double to_double(int64_t n) {
  double high = from_bits(0x4530000000000000u | ((uint64_t)n >> 32 ^ 0x80000000u)) - 0x1.000008p84;
  double low = from_bits(0x4330000000000000u | ((uint64_t)n & 0xffffffffu)) - 0x1p52;
  return high + low;
}

static int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

/* The smallest t with |x| 2^shift <= 2^(40 (t + 1) - 1). x is not 0. */
static int32_t index_for(double x, int64_t shift) {
  int exponent;
  double fraction = frexp(fabs(x), &exponent); /* |x| = fraction 2^exponent, fraction in [1/2, 1) */
  return (int32_t)floor_divide(exponent + shift - (fraction == 0.5), BINNED_WIDTH);
}

/* Makes `index` the index of element e: what falls below the lowest bin is dropped. */
static void raise_index(struct binned_row *row, int64_t e, int32_t index) {
  int64_t *bins = bins_of(row) + e, width = row->width;
  int32_t *old = index_of(row) + e;
  int64_t up = *old == BINNED_NONE ? row->n_bins : (int64_t)index - *old;
  for (int64_t b = row->n_bins - 1; b >= 0; b--) bins[b * width] = b >= up ? bins[(b - up) * width] : 0;
  *old = index;
}

static inline int64_t shift_at(int64_t shift, const int32_t *column_shift, int64_t e) {
  return column_shift ? shift + column_shift[e] : shift;
}

/* Beyond this one factor is not enough to scale an addend. */
enum { LARGEST_FACTOR = 1000, CHUNK = 128 };

/* y = the addends in units of their elements' top bins. Returns how many need a higher index, or two factors. */
VECTORS static int64_t scale_addends(int64_t n, const double *restrict x, int64_t shift,
                                     const int32_t *restrict column_shift, const int32_t *restrict index,
                                     double *restrict y) {
  int64_t n_uncovered = 0;
  for (int64_t e = 0; e < n; e++) {
    int64_t scale = shift_at(shift, column_shift, e) - (int64_t)BINNED_WIDTH * index[e];
    y[e] = x[e] * power_of_two(scale);
    n_uncovered += ((fabs(y[e]) > HIGHEST_DIGIT) | (scale > LARGEST_FACTOR)) & (x[e] != 0);
  }
  return n_uncovered;
}

/* The digit of y in units of 1, which leaves what is below it. With the rounding constant added, the integer stands in
 * the low bits of the sum: its difference is exact, and vectors without conversions can take it. */
static inline int64_t take_digit(double *y) {
  double sum = *y + ROUND_TO_INTEGER;
  *y = (*y - (sum - ROUND_TO_INTEGER)) * 0x1p40;
  return integer_bits(sum) - integer_bits(ROUND_TO_INTEGER);
}

VECTORS static void add_digits(int64_t n, const double *restrict y, int n_bins, int64_t width, int64_t *restrict bins) {
  int64_t *restrict second = bins + width, *restrict third = second + width;
  for (int64_t e = 0; e < n; e++) {
    double rest = y[e];
    bins[e] += take_digit(&rest);
    second[e] += take_digit(&rest);
    if (n_bins == 3) third[e] += take_digit(&rest);
  }
}

/* index_for of addends whose elements absorbed nothing, where sizes are ordinary. */
VECTORS static void begin_elements(int64_t n, const double *restrict x, int64_t shift,
                                   const int32_t *restrict column_shift, int32_t *restrict index) {
  enum { LARGEST = 1 << 30, OFFSET = 1 << 25 }; /* unsigned division: quotients are moved up by the offset */
  for (int64_t e = 0; e < n; e++) {
    uint64_t bits = (uint64_t)integer_bits(fabs(x[e]));
    int64_t exponent = (int64_t)(bits >> 52) - 1022, is_power = bits << 12 == 0;
    int64_t ceiling = exponent + shift_at(shift, column_shift, e) - is_power;
    int64_t is_ordinary = (bits >> 52 != 0) & (ceiling > -LARGEST) & (ceiling < LARGEST);
    uint32_t quotient = (uint32_t)(ceiling + (int64_t)OFFSET * BINNED_WIDTH) / BINNED_WIDTH;
    index[e] = (is_ordinary & (index[e] == BINNED_NONE)) ? (int32_t)quotient - OFFSET : index[e];
  }
}

/* The addends whose elements are too low, or so small that their scale is no number: one at a time. An element that
 * absorbed nothing has an index below all, so that no scale covers it. */
static void cover_addends(struct binned_row *row, int64_t first, int64_t n, const double *x, int64_t shift,
                          const int32_t *column_shift, double *y) {
  const int32_t *index = index_of(row) + first;
  for (int64_t e = 0; e < n; e++) {
    y[e] = 0;
    if (x[e] == 0) continue;
    int64_t s = shift_at(shift, column_shift, e);
    int32_t needed = index_for(x[e], s);
    if (index[e] == BINNED_NONE || needed > index[e]) raise_index(row, first + e, needed);
    int64_t scale = s - (int64_t)BINNED_WIDTH * index[e], half = scale / 2;
    y[e] = x[e] * power_of_two(half) * power_of_two(scale - half);
  }
}

void binned_deposit(struct binned_row *row, int64_t first, int64_t n, const double *x, int64_t shift,
                    const int32_t *column_shift) {
  double y[CHUNK];
  for (int64_t begin = 0; begin < n; begin += CHUNK) {
    int64_t count = n - begin < CHUNK ? n - begin : CHUNK, at = first + begin;
    const int32_t *chunk_shift = column_shift ? column_shift + begin : NULL;
    if (scale_addends(count, x + begin, shift, chunk_shift, index_of(row) + at, y) != 0) {
      begin_elements(count, x + begin, shift, chunk_shift, index_of(row) + at);
      if (scale_addends(count, x + begin, shift, chunk_shift, index_of(row) + at, y) != 0) {
        cover_addends(row, at, count, x + begin, shift, chunk_shift, y);
      }
    }
    add_digits(count, y, row->n_bins, row->width, bins_of(row) + at);
  }
}

/* The sums of elements that have the same indices. */
VECTORS static void add_bins(int64_t n, const int64_t *restrict from, int64_t *restrict into) {
  for (int64_t i = 0; i < n; i++) into[i] += from[i];
}

static void merge_row(const struct binned_row *from, struct binned_row *into) {
  FAVOR_ASSERT(from->width == into->width && from->n_bins == into->n_bins);
  binned_raise(into, from->exponent);
  const int32_t *from_index = index_of_const(from);
  const int64_t *from_bins = bins_of_const(from);
  int32_t *index = index_of(into);
  int64_t *bins = bins_of(into), width = into->width;
  if (memcmp(from_index, index, (size_t)width * sizeof *index) == 0) {
    add_bins(into->n_bins * width, from_bins, bins);
    return;
  }
  for (int64_t e = 0; e < width; e++) {
    if (from_index[e] == BINNED_NONE) continue;
    if (index[e] == BINNED_NONE || from_index[e] > index[e]) raise_index(into, e, from_index[e]);
    int64_t down = (int64_t)index[e] - from_index[e];
    for (int64_t b = down; b < into->n_bins; b++) bins[b * width + e] += from_bins[(b - down) * width + e];
  }
}

void binned_merge(const void *from, void *into, int64_t n_rows) {
  if (n_rows == 0) return;
  const struct binned_row *first = from;
  size_t row_bytes = binned_row_bytes(first->width, first->n_bins);
  for (int64_t r = 0; r < n_rows; r++) {
    merge_row(binned_row_at_const(from, row_bytes, r), binned_row_at(into, row_bytes, r));
  }
}

/* The element's value in units of its top bin. Bins may have grown past 2^53: two roundings, each below 2^-52. */
static inline double in_units(const int64_t *bins, int64_t width, int n_bins) {
  double value = 0;
  for (int b = n_bins - 1; b >= 0; b--) value = value * 0x1p-40 + (double)bins[b * width];
  return value;
}

/* Returns how many scales need two factors. */
VECTORS static int64_t read_values(int64_t n, const int64_t *restrict bins, int64_t width, int n_bins,
                                   const int32_t *restrict index, int64_t shift, const int32_t *restrict column_shift,
                                   double *restrict x) {
  int64_t n_extreme = 0;
  const int64_t *restrict second = bins + width, *restrict third = second + width;
  for (int64_t e = 0; e < n; e++) {
    double low = n_bins == 2 ? to_double(second[e]) : to_double(third[e]) * 0x1p-40 + to_double(second[e]);
    double units = low * 0x1p-40 + to_double(bins[e]);
    int64_t scale = (int64_t)BINNED_WIDTH * index[e] - shift_at(shift, column_shift, e);
    x[e] = units * power_of_two(scale);
    n_extreme += ((scale > LARGEST_FACTOR) | (scale < -LARGEST_FACTOR)) & (units != 0);
  }
  return n_extreme;
}

void binned_value(const struct binned_row *row, int64_t first, int64_t n, int64_t shift, const int32_t *column_shift,
                  double *x) {
  /* An element of nothing has bins of 0, whatever its index. */
  const int64_t *bins = bins_of_const(row) + first;
  const int32_t *index = index_of_const(row) + first;
  if (read_values(n, bins, row->width, row->n_bins, index, shift, column_shift, x) == 0) return;
  for (int64_t e = 0; e < n; e++) {
    int64_t scale = (int64_t)BINNED_WIDTH * index[e] - shift_at(shift, column_shift, e), half = scale / 2;
    x[e] = in_units(bins + e, row->width, row->n_bins) * power_of_two(half) * power_of_two(scale - half);
  }
}

int64_t binned_magnitude(const struct binned_row *row, int64_t element) {
  int32_t index = index_of_const(row)[element];
  if (index == BINNED_NONE) return BINNED_NONE;
  double units = in_units(bins_of_const(row) + element, row->width, row->n_bins);
  if (units == 0) return BINNED_NONE;
  int exponent;
  frexp(units, &exponent);
  return (int64_t)BINNED_WIDTH * index + exponent;
}

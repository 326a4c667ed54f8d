/* Sums over tokens of queries and keys and of their products, which estimates come from (feature/moments.h).
 *
 * A run's sums are taken in double from its first token on; runs are added up in reproducible rows (base/binned.h), so
 * that the totals do not depend on who measured which run. */
#ifndef FAVOR_CORE_MEASURE_H
#define FAVOR_CORE_MEASURE_H

#include "core/worker.h"

enum measure_side { MEASURE_QUERIES, MEASURE_KEYS, MEASURE_N_SIDES };
enum { MEASURE_N_BINS = 3 };

/* The rows of a key head, D elements each: for each side sum x, then n_squares rows of squares: none; one, sum x_d^2;
 * or D, of which row d holds sum x_d x_e for e >= d. */
struct measure {
  int64_t width, n_squares;
  size_t row_bytes;
};

struct measure measure_make(int64_t width, int64_t n_squares);
static inline int64_t measure_n_rows(const struct measure *measure) {
  return MEASURE_N_SIDES * (1 + measure->n_squares);
}
static inline size_t measure_unit_bytes(const struct measure *measure) {
  return measure->row_bytes * (size_t)measure_n_rows(measure);
}

/* Doubles of a run's sums, with room for the tokens at hand: zeroed before a run. */
size_t measure_sums_count(const struct measure *measure);

/* Adds n rows of one side, which start a run or follow on those before, to the run's sums. False: refusal filled. */
bool measure_add(const struct measure *measure, const struct engine *engine, struct worker *worker,
                 enum measure_side side, int64_t n, const void *x, int64_t stride, double *sums,
                 struct refusal *refusal);

/* Adds rows [begin, end) of a run's sums to those of a key head. */
void measure_deposit(const struct measure *measure, int64_t begin, int64_t end, const double *sums, void *rows);

/* The totals of one side times `factor`, in double: sum [D]; square [D], or [D][D] with both triangles. */
void measure_read(const struct measure *measure, const void *rows, enum measure_side side, double factor, double *sum,
                  double *square);

#endif

/* Kernels at work on random problems of one tile or several, through their tables; what a tile touches is guarded. */
#ifndef FAVOR_TESTS_KERNEL_WORK_H
#define FAVOR_TESTS_KERNEL_WORK_H

#include "guarded.h"
#include "kernel/kernel.h"

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

enum { F32, F64, BF16, N_PRECISIONS = KERNEL_N_PRECISIONS };
extern const char *const precision_names[N_PRECISIONS];
extern const size_t real_bytes[N_PRECISIONS];
/* Of sums against the sum of magnitudes, and of outputs against the largest value, at spread 1. */
extern const double tolerance[N_PRECISIONS];
/* In bf16 besides: W, queries, keys and values are given so that they need no rounding; features of queries and keys,
 * rows of the state and causal weights are off by at most 2^-8 of themselves, and then by 1e-4 for the exponential, and
 * that not all of them in one direction. */
extern const double bf16_tolerance;

/* Element i of an array. */
double real_get(int precision, const void *x, int64_t i);
void real_set(int precision, void *x, int64_t i, double value);
/* As a factor of a product is: in bf16 to 8 bits. */
double real_rounded(int precision, double x);

/* ---- a problem of one tile or several ---------------------------------------------------------------------------- */

struct problem {
  int precision;
  enum side side;
  struct kernel_shape shape;
  int64_t n, n_heads, k_stride, v_stride, q_head_stride;
  bool is_scaled;
  double spread;
  double *w, factor;
  double *signs, *lengths; /* NULL, or the projection is a Hadamard one */
  double *half_norm;
  double *query_half_norm;                 /* [n_heads][n]; NULL without a map */
  struct kernel_map_parameters parameters; /* of the map */
  struct guarded k, v, q, v_scale, out_scale;
};

/* m directions of one or both signs. The random numbers begin anew, from the precision, the widths, m and n. */
struct problem problem_create(int precision, enum side side, int64_t d, int64_t e, int64_t m, int64_t signs, int64_t n,
                              double spread);
/* Makes the projection a Hadamard one: signs and lengths, and from them W row by row as kernel.h defines it. */
void problem_take_hadamard(struct problem *p);
/* Makes the features those of a map, for kernels that have maps. */
void problem_take_map(struct problem *p, const struct kernel_map *map, double eps);
void problem_destroy(struct problem *p);

/* The next random number, in [0, 1). */
double problem_uniform(void);
/* Rows of normal deviates at a stride, the last ending where the array does. */
struct guarded problem_rows(int precision, int64_t n, int64_t width, int64_t stride, double spread, enum side side);

/* ---- a kernel at work on a problem ------------------------------------------------------------------------------- */

struct work {
  const struct kernel *kernel;
  const struct kernel_ops *ops;
  const struct problem *problem;
  struct guarded weights, scratch, exponent, s, z, out, is_lost, half_norm, query_half_norm;
  struct guarded features; /* of every tile, or data == NULL */
  size_t features_bytes;   /* of a tile */
  struct kernel_job job;
  struct kernel_sum sum;
};

/* `w` points to the problem, which must stay where it is. */
void work_create(const struct kernel *kernel, const struct problem *p, struct work *w);
void work_destroy(struct work *w);

/* From here on what absorbs from token 0 keeps features, and causal tiles find them; false: the kernel keeps none. */
bool work_keep(struct work *w);
/* Whether the features of some tile are kept. */
bool work_has_features(const struct work *w);

/* Keys [begin, end) into the sum. */
void work_absorb(struct work *w, int64_t begin, int64_t end);
/* All outputs, from the sum. */
void work_emit(struct work *w);
/* Causal over tokens [begin, end), after those in the state and in the sum; is_lost of rows of the whole output. */
void work_causal(struct work *w, int64_t begin, int64_t end, const struct kernel_sum *state);
extern const struct kernel_sum work_no_state;
/* Likewise over all tokens; from `turn` on those before it are in a state, and the sum begins anew. */
void work_causal_in_two(struct work *w, int64_t turn);

/* Fails the test, with kernel and shape and by how much `what` is off, unless it is right. */
void work_check(bool is_right, const struct work *w, const char *what, double error);

/* ---- tests of every kernel --------------------------------------------------------------------------------------- */

/* Calls `test` for every kernel of this machine but the reference, in all precisions. */
void for_each_kernel(void (*test)(const struct kernel *kernel, int precision));

/* The test `name` calls name_of(kernel, precision) for each. */
#define KERNEL_TEST(name)                                                                                              \
  static void name(void **state) {                                                                                     \
    (void)state;                                                                                                       \
    for_each_kernel(name##_of);                                                                                        \
  }

#endif

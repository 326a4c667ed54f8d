/* What one thread needs to work on a head: scratch, sums, the measure of a tile. */
#ifndef FAVOR_CORE_WORKER_H
#define FAVOR_CORE_WORKER_H

#include "core/state.h"

/* A projection as kernels and the exact path want it, for one key head. */
struct head_weights {
  const void *packed;  /* kernel_ops.pack_weights */
  const double *exact; /* [directions][D] W sqrt(scale) / ln 2 */
};

enum refusal_kind { REFUSAL_NONE = 0, REFUSAL_NAN, REFUSAL_INF, REFUSAL_TOO_LONG };
/* The first element that cannot be computed with, counted from the start of the call's arrays. */
struct refusal {
  enum refusal_kind kind;
  char tensor; /* 'q', 'k' or 'v' */
  int64_t head, token;
};

/* What is wrong with a row's numbers, if anything. */
enum refusal_kind worker_blame(const struct engine *engine, const void *row, int64_t width);

struct worker {
  void *scratch;
  struct sum run, raised, view, before;
  void *rows;                          /* a state of its own, for segments that stay with one worker */
  double *row;                         /* [STATE_SCRATCH(E)] */
  double *half_norm, *query_half_norm; /* [tile] */
  void *peak, *query_peak;             /* real bits [E], [D] */
  int32_t *shift;                      /* [E] of the tile */
  void *v_scale;                       /* real [E] */
  void *out_scale;                     /* real [E] */
  double *exact;                       /* 2 M + E, for rows that f32 lost */
  bool *is_lost;                       /* [heads_per_key][tile] */
  double accumulate_s;                 /* spent in worker_deposit and worker_view */
};

size_t worker_bytes(const struct engine *engine);
/* Lays a worker out in memory of worker_bytes (zeroed, aligned to 64). */
void worker_place(const struct engine *engine, void *memory, struct worker *worker);

/* |x~|^2 / 2 above this no longer leaves l a resolution of one half. */
#define LONGEST_HALF_NORM 0x1p22

/* Measures n <= tile tokens: half norms of the keys, peaks of the values. False: refusal filled, its token counted from
 * the tile. */
bool worker_measure_keys(const struct engine *engine, struct worker *worker, int64_t n, const void *k, int64_t k_stride,
                         const void *v, int64_t v_stride, struct refusal *refusal);

/* |x| < 2^result; BINNED_NONE for 0. */
int64_t worker_magnitude(double x);

/* The values' part of it: fills worker->peak; false at the first row that is not finite. n is of any size. */
bool worker_measure_values(const struct engine *engine, struct worker *worker, int64_t n, const void *v,
                           int64_t v_stride, struct refusal *refusal);

/* scale[e] = 2^(sign * shift[e]); NULL where all of them are 1. */
const void *worker_scale(const struct engine *engine, const int32_t *shift, int sign, void *scale);

/* How many of n measured tokens, at least one, enter the run at its columns' shifts, which rise first where the first
 * token needs it. The rest has to wait for its own call: a shift is never raised on account of a later token, so that
 * no value, however large, costs an earlier output a bit. */
int64_t worker_settle_shifts(const struct engine *engine, struct worker *worker, int64_t n, const void *v,
                             int64_t v_stride, struct sum *run);

/* The run into a state, and a state rounded to worker->view; timed. */
void worker_deposit(const struct engine *engine, struct worker *worker, void *rows);
void worker_view(const struct engine *engine, struct worker *worker, const void *rows);

/* Checks at most a tile of queries of every head. */
bool worker_measure_queries(const struct engine *engine, struct worker *worker, const struct kernel_queries *queries,
                            struct refusal *refusal);

/* l[r] of all features, in double: w'_r . x - half_norm, and where both signs count -w'_r . x - half_norm. */
void worker_project(const struct engine *engine, const struct head_weights *weights, const void *x, double half_norm,
                    double *l);

/* Tokens [begin, begin + n) of queries. */
struct kernel_queries worker_cut_queries(const struct engine *engine, const struct kernel_queries *queries,
                                         int64_t begin, int64_t n);

/* Element i of a row of reals, of either precision. */
static inline double real_at(const struct engine *engine, const void *row, int64_t i) {
  return engine->precision == FAVOR_PRECISION_F64 ? ((const double *)row)[i] : (double)((const float *)row)[i];
}
static inline void set_real(const struct engine *engine, void *row, int64_t i, double x) {
  if (engine->precision == FAVOR_PRECISION_F64) {
    ((double *)row)[i] = x;
  } else {
    ((float *)row)[i] = (float)x;
  }
}

/* The address of a row of reals. */
static inline const void *row_in(const struct engine *engine, const void *x, int64_t stride, int64_t token) {
  return (const char *)x + (int64_t)engine->real_bytes * stride * token;
}
static inline void *row_out(const struct engine *engine, void *x, int64_t stride, int64_t token) {
  return (char *)x + (int64_t)engine->real_bytes * stride * token;
}

#endif

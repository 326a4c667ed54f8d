/* What one thread needs to work on a head: scratch, sums, the measure of a tile. */
#ifndef FAVOR_CORE_WORKER_H
#define FAVOR_CORE_WORKER_H

#include <float.h>
#include <math.h>

#include "core/transform.h"

/* What a key head's tokens are multiplied with: a projection as kernels and the exact path want it. */
struct head_weights {
  const void *packed;  /* kernel_ops.pack_weights */
  const double *exact; /* [directions][shape.key_width] W times sqrt(scale) / ln 2, with a map times sqrt(scale) */
  const struct row_transform *transform;   /* of its rows before that; NULL: none */
  struct kernel_map_parameters parameters; /* of the map */
};

enum refusal_kind {
  REFUSAL_NONE = 0,
  REFUSAL_NAN,
  REFUSAL_INF,
  REFUSAL_TOO_LONG,
  REFUSAL_TOO_LONG_TRANSFORMED /* is what became of it */
};
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
  void *rows;              /* a state of its own, for segments that stay with one worker */
  double *row;             /* [STATE_SCRATCH(E)] */
  double *half_norm;       /* [tile] */
  double *query_half_norm; /* [heads_per_key][tile] */
  void *peak, *query_peak; /* real bits [E], [D] */
  double largest_value;    /* of peak */
  int32_t *shift;          /* [E] of the tile */
  void *v_scale;           /* real [E] */
  void *out_scale;         /* real [E] */
  double *exact;           /* 2 M + E, for rows that f32 lost */
  int32_t *exact_exponent; /* 2 M */
  bool *is_lost;           /* [heads_per_key][tile] */
  void *keys, *queries;    /* real [tile][D'], [heads_per_key][tile][D']: transformed; D': shape.key_width */
  double *transform_work;
  double accumulate_s; /* spent in worker_deposit and worker_view */
  /* Called between tiles where not NULL: what else this thread has to look after. */
  void (*pause)(void *subject);
  void *pause_subject;
};

static inline void worker_pause(const struct worker *worker) {
  if (worker->pause) worker->pause(worker->pause_subject);
}

size_t worker_bytes(const struct engine *engine);
/* Lays a worker out in memory of worker_bytes (zeroed, aligned to 64). */
void worker_place(const struct engine *engine, void *memory, struct worker *worker);

/* |x~|^2 / 2 above this no longer leaves l a resolution of one half. */
#define LONGEST_HALF_NORM 0x1p22

/* Measures at most a tile of keys, in place of which their transformed rows are left where there is a transform: half
 * norms of the keys, peaks of the values. False: refusal filled, its token counted from the tile. */
bool worker_measure_keys(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                         struct kernel_keys *keys, struct refusal *refusal);

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

/* Checks at most a tile of queries of every head, and leaves transformed rows in their place likewise. With a
 * map their half norms are then in query_half_norm, and worker_norms makes the queries point there. */
bool worker_measure_queries(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                            struct kernel_queries *queries, struct refusal *refusal);

/* half_norm of n raw rows of the caller's; false at the first that is not finite or above `longest`. */
bool worker_measure_rows(const struct engine *engine, char tensor, int64_t n, const void *x, int64_t stride,
                         double longest, double *half_norm, struct refusal *refusal);

void worker_norms(const struct engine *engine, const struct worker *worker, struct kernel_queries *queries);

/* All features of a token, in double: fraction[r] 2^exponent[r]. half_norm of a query: 0 without a map. */
void worker_features(const struct engine *engine, const struct head_weights *weights, const void *x, bool is_query,
                     double half_norm, double *fraction, int32_t *exponent);

/* The normaliser total 2^top, guarded as the map's parameters say, of a query with these features (worker_features). */
double worker_guarded(const struct engine *engine, const struct head_weights *weights, const double *fraction,
                      const int32_t *exponent, double total, int64_t top);

/* x 2^n, 0 where that is below the normal range; n <= 1023. */
static inline double scaled_by(double x, int64_t n) { return n < -1022 ? 0 : x * ldexp(1, (int)n); }

/* Tokens [begin, begin + n) of queries. */
struct kernel_queries worker_cut_queries(const struct engine *engine, const struct kernel_queries *queries,
                                         int64_t begin, int64_t n);

/* Element i of a row of reals, of either precision. */
static inline double real_at(const struct engine *engine, const void *row, int64_t i) {
  return engine->precision == FAVOR_PRECISION_F64 ? ((const double *)row)[i] : (double)((const float *)row)[i];
}
/* What is beyond the largest number becomes that number. */
static inline void set_real(const struct engine *engine, void *row, int64_t i, double x) {
  const bool is_f64 = engine->precision == FAVOR_PRECISION_F64;
  const double most = is_f64 ? DBL_MAX : (double)FLT_MAX, bounded = fmin(fmax(x, -most), most);
  if (is_f64) {
    ((double *)row)[i] = bounded;
  } else {
    ((float *)row)[i] = (float)bounded;
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

/* A plan, seen from inside. */
#ifndef FAVOR_PLAN_PLAN_H
#define FAVOR_PLAN_PLAN_H

#include <math.h>
#include <omp.h>

#include <favor/favor.h>

#include "core/attend.h"
#include "dist/agree.h"
#include "dist/axis.h"
#include "dist/group.h"
#include "plan/binding.h"
#include "plan/cost.h"
#include "plan/estimate.h"
#include "plan/kept.h"
#include "plan/key_max.h"
#include "plan/schedule.h"
#include "plan/tiles.h"
#include "plan/tokens.h"

enum { N_SLOTS = SLOT_WAITING + 1 };

/* Threads that merge states take turns at slices of the rows. */
enum { PLAN_SLICES = 16 };

/* What is left of a thread's part of a block; others may take from it. On a cache line of its own. */
struct part {
  _Alignas(64) _Atomic int64_t next;
  int64_t end;
};

struct method;

/* How a range of a causal head is cut, where threads share one. */
struct chunking {
  int64_t pass; /* of the block (struct kept); 0: none */
  struct range range;
  int64_t piece, n; /* tokens of a chunk, whole runs; chunks */
};

struct favor_plan {
  struct favor_context *context;
  struct favor_problem problem; /* segments, kernel, projection_data and estimates are the plan's own */
  struct engine engine;
  struct grid grid;
  int threads;
  int64_t most_threads;    /* of any rank */
  struct binding *binding; /* of the threads */

  int64_t *offsets; /* [n_segments + 1] */
  struct tokens tokens;
  struct tiles tiles; /* of methods that need other ranks' tokens; else without numbers */
  struct range units; /* flat key heads of this rank */
  struct schedule schedule;

  int64_t n_projections;        /* 1, or G */
  double *projection;           /* [n_projections][M][D], rounded to real; then as head_weights.exact, D' columns */
  void *stored_projection;      /* real [n_projections][M][D] */
  int64_t transform_count;      /* signs and lengths of a Hadamard projection; else 0 */
  double *transform;            /* [n_projections][transform_count]: lengths [M], then signs */
  struct head_weights *weights; /* [units] */
  void *packed;                 /* [n_projections] */
  struct estimate estimate;
  struct key_max key_max;

  /* States: rows[slot] holds those of all units of this rank, NULL where the slot is not used. */
  size_t unit_bytes;
  void *rows[N_SLOTS];
  void *received[2]; /* what the scan of span 0, 1 gives */
  void *chunk_rows;  /* [n_chunks][units]: causal, when threads share a head */
  int64_t n_chunks;
  struct chunking absorbed_chunks; /* whose keys stand in chunk_rows, each chunk's in those of the next */
  struct kept kept;
  omp_lock_t *locks; /* [units][PLAN_SLICES]: of a slice of a unit's rows */
  struct dist_group *groups[2];
  struct dist_traffic traffic; /* of these */
  int n_batches;               /* of units whose states travel together */
  const struct method *method; /* NULL: with states, or none */
  int64_t length_rows;         /* the features asked for: of a projected length */
  void *method_data;
  struct dist_axis *axis;
  struct worker **workers; /* [threads], each the head of memory that its thread touched first */
  struct part *parts;      /* [threads] */
  size_t memory_bytes;

  /* Of the run. */
  struct refusal refusal;         /* the first in order of tokens of the first batch that has any; global head, token */
  enum favor_status outcome;      /* agreed in the middle of the run */
  struct favor_position position; /* after the last block */
  struct span spans[2];           /* of the window at hand */
  bool is_met;                    /* a long segment's states have met: SLOT_SPAN_0 is everybody's sum */
  bool is_carried;                /* the state for the next block is on its way between this rank and another */
  void *saved_rows;               /* what was gathered since, on the first rank of a row of the grid; else NULL */
  bool is_partial;                /* the blocks are those after some position */
  bool is_resumed;                /* with states that nobody has looked at yet */
  _Atomic int64_t next_item;      /* of short segments */
  int64_t bytes_sent_before;
  struct favor_plan_times times;
};

/* Local: checks a problem, records what is wrong with the context. A digest of all that must agree between ranks. */
void problem_check(struct favor_context *context, const struct favor_problem *problem);
uint64_t problem_digest(const struct favor_problem *problem, const struct kernel *kernel);

/* Local: the steps of a plan's creation that only look at the problem and at the context's rank and size, so that they
 * also tell of ranks that are not there (plan/predict.c). In this order: the problem with its defaults, the engine,
 * what is estimated; the fast transform of a Hadamard projection of this padded width, if it is drawn as one; the grid,
 * and how tokens are shared; what of it the context's rank owns. Record FAVOR_EUSAGE, FAVOR_ENOMEM. */
void plan_take_problem(struct favor_plan *plan, const struct favor_problem *given);
void plan_take_transform(struct favor_plan *plan, int64_t width);
void plan_choose_grid(struct favor_plan *plan);
void plan_take_place(struct favor_plan *plan);

/* Into how many batches the units of a row of the grid are cut, so that states of some travel while others are
 * computed; but few where there is little to compute, as a batch has to keep all threads busy. The same on all ranks of
 * a row, whose blocks are chosen. most_threads: of any rank. */
int plan_count_batches(const struct favor_plan *plan);

/* Of the batches of a causal plan, those whose keys all parts absorb before any outputs are computed: all of them; or,
 * where one span is all there is (spans[0] of any part), only enough to keep every part busy while the others are
 * relayed, if that is cheaper: a part waits for what stands before it, computes the outputs, and so has what stands
 * before the next part. Absorbing first costs almost half as much again as outputs, or where features are kept a third.
 * Part p gets the first relayed batch when the parts before it have each computed one, and meanwhile computes p of
 * those that were absorbed.
 */
int plan_count_absorbed(const struct favor_plan *plan, const struct span *span, int n_batches);

/* favor_plan_info: state_bytes, flops, and the scan, where that of a group is `group_scan`. */
size_t plan_state_bytes(const struct favor_plan *plan);
double plan_flops(const struct favor_plan *plan);
const char *plan_scan_name(const struct favor_plan *plan, const char *group_scan);

/* Local: records a refusal, whose head and token are global, as this rank's error and returns its code. */
enum favor_status plan_refuse(struct favor_context *context, const struct refusal *refusal);

/* The units of a batch. */
static inline struct range plan_batch(const struct favor_plan *plan, int batch) {
  const int64_t n_units = range_count(plan->units);
  return (struct range){n_units * batch / plan->n_batches, n_units * (batch + 1) / plan->n_batches};
}

/* The rows of one unit (counted from the rank's first) in a block of states of all units. */
static inline void *plan_unit_rows(const struct favor_plan *plan, void *rows, int64_t unit) {
  return (char *)rows + plan->unit_bytes * (size_t)unit;
}
static inline const struct head_weights *plan_weights(const struct favor_plan *plan, int64_t unit) {
  return &plan->weights[unit];
}

/* To the precision that products have. */
double plan_round_weight(enum favor_precision precision, double w);
/* What the columns of W that carry biases are in units of, so that they are about as large as the others. */
static inline double plan_bias_unit(const struct favor_plan *plan) { return sqrt(2 * (double)plan->problem.key_width); }

#endif

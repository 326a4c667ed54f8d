/* What a plan shifts and balances by, and the A of oprf: given with the problem, or estimated in the run.
 *
 * Where something is estimated every rank first measures its tokens in blocks of their own; then the moments meet along
 * the token axis of the grid, and each rank derives the same numbers for its key heads. */
#ifndef FAVOR_PLAN_ESTIMATE_H
#define FAVOR_PLAN_ESTIMATE_H

#include <favor/favor.h>

#include "core/measure.h"
#include "dist/group.h"

enum estimate_kind { ESTIMATE_SHIFT, ESTIMATE_BALANCE, ESTIMATE_OPRF_A, ESTIMATE_N_KINDS };

struct estimate {
  bool is_used[ESTIMATE_N_KINDS], is_measured[ESTIMATE_N_KINDS];
  bool is_known; /* the transforms stand */
  int64_t n_units;
  int64_t count[ESTIMATE_N_KINDS];  /* numbers of a key head */
  double *values[ESTIMATE_N_KINDS]; /* [units][count]; NULL: not used */
  double *reciprocal;               /* [units][D], of a diagonal balance */
  double *inverse, *transposed;     /* [units][D][D], of a full one */
  int64_t *extents;                 /* [units][4][D]: begin and end of the rows of transposed, of inverse */
  struct row_transform *transforms; /* [units] */
  double *work;                     /* of one key head's derivation */
  struct measure measure;           /* from here on: where something is measured */
  void *rows;                       /* [units][rows of measure] */
  double *sums;                     /* [threads][sums_count], a run's */
  size_t sums_count;
  struct dist_group *group; /* of the ranks that share key heads */
};

struct favor_plan;

/* Local: records what is wrong with the estimates that a problem gives. */
void estimate_check(struct favor_context *context, const struct favor_problem *problem);
/* Continues a digest with them. */
uint64_t estimate_digest(const struct favor_problem *problem, uint64_t digest);

/* Local: what the plan uses, of which `given` has some (NULL: nothing); sets what the engine has to know. */
void estimate_choose(struct favor_plan *plan, const struct favor_estimates *given);
static inline bool estimate_is_any_measured(const struct estimate *estimate) {
  return estimate->is_measured[ESTIMATE_SHIFT] || estimate->is_measured[ESTIMATE_BALANCE] ||
         estimate->is_measured[ESTIMATE_OPRF_A];
}

/* Bytes that estimate_allocate will take on this rank. */
size_t estimate_bytes(const struct favor_plan *plan);
/* Local: allocates, takes what is given, and makes the transforms of it where nothing is missing. Records FAVOR_ENOMEM,
 * FAVOR_EDATA (a balance that is singular). */
void estimate_allocate(struct favor_plan *plan, const struct favor_estimates *given);
void estimate_free(struct estimate *estimate);

/* Collective over the context, like dist_group_create. */
void estimate_make_group(struct favor_plan *plan);

/* Forgets what was measured. */
void estimate_begin(struct favor_plan *plan);
/* Collective: the moments of all ranks of a row of the grid, and what follows from them. */
enum favor_status estimate_meet(struct favor_plan *plan);

#endif

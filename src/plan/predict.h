/* What predict.c, which finds out what a plan would be, and predict_time.c, which adds up what it would take, share. */
#ifndef FAVOR_PLAN_PREDICT_H
#define FAVOR_PLAN_PREDICT_H

#include <favor/favor_machine.h>

#include "dist/costs.h"
#include "plan/plan.h"

/* A plan that is only looked at: nothing in it is allocated but the list of segments and of blocks, and its context has
 * the size and costs of the job, no communicator, and the rank that is looked at. */
struct prospect {
  struct favor_context context;
  struct favor_plan plan;
  const struct favor_job *job;
  const struct favor_machine *machine;
};

/* Local: has `row` of the grid's rank at `column` become the one that the plan speaks of. */
void prospect_move(struct prospect *prospect, int64_t row, int64_t column);

/* So many neighbours along the token axis of the grid. */
struct dist_layout prospect_layout(const struct prospect *prospect, int64_t size);

/* Of the states that travel together. */
double prospect_batch_bytes(const struct favor_plan *plan, int n_batches);

/* Local: the seconds, the rate they follow from, and bytes_sent; grid, blocks and scan stand. The plan speaks of the
 * first rank of the row that has most heads. Records FAVOR_ENOMEM. */
void predict_time(struct prospect *prospect, struct favor_prediction *prediction);

#endif

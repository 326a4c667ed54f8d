/* The key maximum of a plan whose outputs depend on one: given with the problem, or found in the run, where every rank
 * goes through its keys before all ranks take the largest. */
#ifndef FAVOR_PLAN_KEY_MAX_H
#define FAVOR_PLAN_KEY_MAX_H

#include <favor/favor.h>

struct key_max {
  bool is_used, is_measured;
  bool is_known;  /* the plan's weights hold it */
  double *values; /* [units] */
  double *all;    /* [key heads of the problem]: what ranks tell each other; NULL where nothing is measured */
};

struct favor_plan;

/* Local: records what is wrong with those that a problem gives, and with what it asks for beside them. */
void key_max_check(struct favor_context *context, const struct favor_problem *problem);
/* Continues a digest with them. */
uint64_t key_max_digest(const struct favor_problem *problem, uint64_t digest);

/* Local: what the plan uses, of which `given` may have it (NULL: nothing). */
void key_max_choose(struct favor_plan *plan, const struct favor_estimates *given);
/* Bytes that key_max_allocate will take on this rank. */
size_t key_max_bytes(const struct favor_plan *plan);
/* Local: allocates, and takes what is given into the plan's weights. Records FAVOR_ENOMEM. */
void key_max_allocate(struct favor_plan *plan, const struct favor_estimates *given);
void key_max_free(struct key_max *key_max);

/* Forgets what was measured. */
void key_max_begin(struct favor_plan *plan);
/* Collective over the context: the largest of all ranks, into the plan's weights. */
enum favor_status key_max_meet(struct favor_plan *plan);

#endif

/* What tests of key shift, balance and oprf share: problems, tokens for them, and what a run estimated. */
#ifndef FAVOR_TESTS_ESTIMATES_H
#define FAVOR_TESTS_ESTIMATES_H

#include "oracle_moved.h"
#include "run.h"

/* A combination of what can be estimated. */
struct combination {
  const char *name;
  enum favor_map map;
  enum favor_key_shift key_shift;
  enum favor_balance balance;
};

/* The first is the plain one, the last has everything; the two before it want full and diagonal balances too. */
enum { ESTIMATES_N_COMBINATIONS = 9 };
extern const struct combination estimates_combinations[ESTIMATES_N_COMBINATIONS];
void estimates_combine(const struct combination *combination, struct favor_problem *problem);

/* Four heads of two key heads, 301 tokens, f64. */
struct favor_problem estimates_small_problem(void);

/* Columns of q grow from 1/4 to 4 times what they were, those of k shrink likewise, and both lie around a point that is
 * not the origin. */
void estimates_make_anisotropic(const struct favor_problem *problem, double offset, struct case_tensors *t);

/* The estimates of all key heads, from a run of one rank; owned by the caller. */
struct estimates_owned {
  struct favor_estimates estimates;
  double *key_shift, *balance, *oprf_a;
};
void estimates_release(struct estimates_owned *owned);

/* Collective over MPI_COMM_WORLD: what rank 0 finds alone, with the whole output. */
bool estimates_alone(const struct run_contexts *contexts, const struct favor_problem *problem,
                     const struct case_tensors *t, void *out, struct estimates_owned *owned);

/* Whether the estimates of this rank's key heads have the bytes of those that it found alone. */
bool estimates_are_same(const struct favor_problem *problem, const struct favor_plan *plan,
                        const struct estimates_owned *owned);

/* Numbers of a key head's balance. */
int64_t estimates_balance_count(const struct favor_problem *problem);

/* What the oracle has to know of a key head, and of a query head. */
struct oracle_move estimates_move(const struct favor_problem *problem, const struct favor_estimates *estimates,
                                  int64_t key_head);
struct oracle_head estimates_head(const struct favor_problem *problem, const struct case_tensors *t,
                                  const double *projection);

#endif

/* A pilot of `attend --target-error`: how many features it takes to come near exact attention, found on a sample of the
 * tokens. */
#ifndef FAVOR_CLI_PILOT_H
#define FAVOR_CLI_PILOT_H

#include "cli/recompute.h"

enum {
  PILOT_MOST_TRIALS = 32, /* more than there are doublings */
  PILOT_ROWS = 64         /* to judge by, unless --certify says */
};

struct pilot {
  /* given */
  const struct command *command;
  const struct inputs *inputs;
  const struct favor_problem *problem; /* of the run, with the least features */
  enum favor_type out_type;
  double target;
  int64_t most_features;
  int64_t rows; /* to judge by */
  uint64_t seed;
  /* found */
  int64_t tokens, heads;
  int n_trials;
  struct pilot_trial {
    int64_t features;
    double relative_error;
  } trials[PILOT_MOST_TRIALS]; /* the last one is the choice; none where the engine refuses a token */
  bool is_reached;
};

/* Collective. Tries features, twice the features, and so on up to the most, until the error of the sampled tokens is at
 * most the target: with the engine on a problem of their own, against exact attention. The same for any number of
 * ranks. Errors: those of favor_plan_create and favor_plan_execute, and of reading the inputs. */
enum favor_status pilot_run(struct pilot *pilot);

#endif

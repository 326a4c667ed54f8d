/* One run of `favor attend`: what its parts share. */
#ifndef FAVOR_CLI_ATTEND_H
#define FAVOR_CLI_ATTEND_H

#include "cli/command.h"
#include "cli/estimates.h"
#include "cli/inputs.h"

/* Wall time by phase; the library times its own share. */
enum attend_phase {
  ATTEND_READ,
  ATTEND_FEATURES_STATE,
  ATTEND_REDUCE,
  ATTEND_OUTPUT,
  ATTEND_WRITE,
  ATTEND_TOTAL,
  ATTEND_N_PHASES
};

struct attend {
  const struct command *command;
  struct favor_context *context;
  struct inputs inputs;
  struct favor_problem problem;
  double *projection_data; /* of --projection-file */
  struct estimates_file estimates_file;
  struct favor_estimates estimates; /* of --estimates-file */
  struct favor_plan *plan;
  struct favor_plan_info info;
  struct favor_shard shard;
  struct favor_output_file *output;
  enum favor_type out_type;
  void *q, *k, *v, *out;           /* blocks of info.block_tokens of the shard's heads */
  double seconds[ATTEND_N_PHASES]; /* of this rank */
};

/* Collective: streams every block through the plan. */
enum favor_status attend_stream(struct attend *attend);

/* Collective: the table, or the JSON object. */
enum favor_status attend_report(struct attend *attend);

#endif

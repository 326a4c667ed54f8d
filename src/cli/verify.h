/* One run of `favor verify`: what its parts share. */
#ifndef FAVOR_CLI_VERIFY_H
#define FAVOR_CLI_VERIFY_H

#include "cli/estimates.h"
#include "cli/recompute.h"

struct verify {
  const struct command *command;
  struct favor_context *context;
  const char *in_path, *out_path;
  /* what made OUT, from its attributes */
  int n_attributes;
  struct favor_attribute *attributes;
  const char *method;
  struct input_names names; /* point into the attributes, as does the method */
  enum favor_precision precision;
  struct check_problem definition; /* scale, definition and what goes with it */
  /* the data */
  struct inputs inputs;
  struct favor_problem problem; /* shapes, segments, is_causal, and what estimates there are */
  struct favor_tensor *out;
  struct favor_tensor_shape out_shape;
  double *projection; /* [projections][M][D] */
  struct estimates_file estimates;
  /* the sample */
  struct recompute_inputs source;
  struct recompute recompute;
  double *out_rows; /* [n_rows][heads][E], of rank 0 */
};

/* Local, rank 0: holds the output against what the check found, prints the table or the JSON object, and records
 * FAVOR_EVERIFY where the output is wrong. */
void verify_report(struct verify *verify);

/* Local: records FAVOR_ENOMEM. */
void verify_fail_memory(struct verify *verify);

#endif

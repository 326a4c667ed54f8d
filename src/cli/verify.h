/* One run of `favor verify`: what its parts share. */
#ifndef FAVOR_CLI_VERIFY_H
#define FAVOR_CLI_VERIFY_H

#include "cli/command.h"
#include "cli/inputs.h"
#include "core/check.h"

struct verify {
  const struct command *command;
  struct favor_context *context;
  const char *in_path, *out_path;
  /* what made OUT, from its attributes */
  int n_attributes;
  struct favor_attribute *attributes;
  struct input_names names; /* point into the attributes */
  bool is_causal;
  enum favor_map map;
  int64_t window; /* -1: none */
  double scale;
  enum favor_precision precision;
  /* the data */
  struct inputs inputs;
  struct favor_problem problem; /* shapes and segments only */
  struct favor_tensor *out;
  struct favor_tensor_shape out_shape;
  double *projection; /* [projections][features][D] */
  int64_t projections, features;
  /* the sample */
  int64_t heads, key_heads; /* flat */
  int64_t n_rows;
  struct check_row *rows;
  double *q;        /* [n_rows][heads][D] */
  double *out_rows; /* [n_rows][heads][E], of rank 0 */
  struct check *check;
  double *tops; /* [check_n_tops] */
  int64_t block_tokens;
  double *k, *v; /* [key_heads][block_tokens][D], [E] */
};

/* Local, rank 0: holds the output against what the check found, prints the table or the JSON object, and records
 * FAVOR_EVERIFY where the output is wrong. */
void verify_report(struct verify *verify);

/* Local: records FAVOR_ENOMEM. */
void verify_fail_memory(struct verify *verify);

#endif

/* One run of `favor attend`: what its parts share. */
#ifndef FAVOR_CLI_ATTEND_H
#define FAVOR_CLI_ATTEND_H

#include "cli/certificate.h"
#include "cli/estimates.h"
#include "cli/pilot.h"

/* Wall time by phase; the library times its own share. */
enum attend_phase {
  ATTEND_PILOT,
  ATTEND_READ,
  ATTEND_FEATURES_STATE,
  ATTEND_REDUCE,
  ATTEND_OUTPUT,
  ATTEND_WRITE,
  ATTEND_CERTIFY,
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
  void *q, *k, *v, *out; /* blocks of info.block_tokens of the shard's heads */
  bool has_pilot, has_certificate;
  struct pilot pilot;
  struct check_certificate certificate;
  double seconds[ATTEND_N_PHASES]; /* of this rank */
};

/* Collective: streams every block through the plan. */
enum favor_status attend_stream(struct attend *attend);

/* Local: the scale of the logits in use. */
double attend_scale(const struct attend *attend);
void attend_free_blocks(struct attend *attend);

/* Local: how many rows of the output are certified. */
int64_t attend_certified_rows(const struct options *options);
/* Local: appends the attributes of a certificate that is not known yet, if there will be one. */
void attend_reserve_certificate(const struct attend *attend, struct favor_attribute *attributes, int *n);
/* Collective, when all blocks are written: holds rows of the output against exact attention, and sets the attributes.
 * The blocks are freed first. */
enum favor_status attend_certify(struct attend *attend);

/* Collective: chooses the features where --target-error asks for it. */
enum favor_status attend_choose_features(struct attend *attend);
/* Local: appends what the pilot found, if there was one. */
enum {
  ATTEND_N_PILOT_ATTRIBUTES = 6,
  ATTEND_MAX_ATTRIBUTES = COMMAND_MAX_ATTRIBUTES + ATTEND_N_PILOT_ATTRIBUTES + CERTIFICATE_N_ATTRIBUTES
};
void attend_pilot_attributes(const struct attend *attend, struct favor_attribute *attributes, int *n);

/* Collective: the table, or the JSON object. */
enum favor_status attend_report(struct attend *attend);

#endif

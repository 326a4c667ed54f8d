/* One run of `favor attend`: what its parts share. */
#ifndef FAVOR_CLI_ATTEND_H
#define FAVOR_CLI_ATTEND_H

#include <limits.h>

#include "cli/certificate.h"
#include "cli/estimates.h"
#include "cli/machine.h"
#include "cli/pilot.h"

/* Wall time by phase; the library times its own share. Reading and writing go on beside the rest: theirs is what the
 * rest waited for them. */
enum attend_phase {
  ATTEND_PILOT,
  ATTEND_READ,
  ATTEND_FEATURES_STATE,
  ATTEND_REDUCE,
  ATTEND_OUTPUT,
  ATTEND_WRITE,
  ATTEND_CHECKPOINT,
  ATTEND_CERTIFY,
  ATTEND_TOTAL,
  ATTEND_N_PHASES
};

/* Blocks held: one is computed while the next is read and the last is written. */
enum { ATTEND_N_BLOCKS = 2 };
struct attend_block {
  void *q, *k, *v, *out; /* [heads][tokens of the block][width] */
};

/* What an earlier run left, in the words of its checkpoint. */
struct attend_resumed {
  struct checkpoint *checkpoint; /* NULL: nothing */
  json_t *text;
  struct favor_position position;
  uint64_t id, *sums; /* of the temporary output */
  int64_t n_sums, inode;
  int64_t bytes; /* of the output when it is complete */
};

/* For benchmarks: the same without reads and writes (blocks hold what the first block of each kind held), or without
 * arithmetic. */
enum attend_mode { ATTEND_ALL = 0, ATTEND_ARITHMETIC, ATTEND_IO };

struct attend {
  const struct command *command;
  enum attend_mode mode;
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
  struct attend_block blocks[ATTEND_N_BLOCKS]; /* of info.block_tokens of the shard's heads */
  struct favor_lane *lane;
  bool are_estimates_written;
  char checkpoint_path[PATH_MAX];
  struct attend_resumed resumed;
  bool is_finished;    /* an earlier run ended after its output had its name: there is nothing to do */
  bool has_checkpoint; /* the temporary output has one beside it, and stays with it after a failure */
  int64_t n_checkpoints;
  double checkpointed_s;       /* when the last one was made, or the run began */
  struct machine_file machine; /* of --machine */
  bool has_pilot, has_certificate;
  struct pilot pilot;
  struct check_certificate certificate;
  double seconds[ATTEND_N_PHASES]; /* of this rank */
};

/* Local: the options' part of a problem; and the features of one whose projection leaves no choice. */
void attend_take_options(const struct options *options, struct favor_problem *problem);
void attend_fix_features(const struct options *options, struct favor_problem *problem);

/* Collective: opens the inputs, and says what is computed on them; given command and context. */
enum favor_status attend_describe(struct attend *attend);
/* Collective: --estimates-file; or those of the run that goes on, which stand in its temporary output. */
enum favor_status attend_read_estimates(struct attend *attend);

/* Collective: --machine, by which plans choose from then on. */
enum favor_status attend_load_machine(struct attend *attend);
/* Local: seconds by phase as the machine file has them, for a run from its start; null without one. */
json_t *attend_pack_prediction(const struct attend *attend);
void attend_print_prediction(const struct attend *attend);
/* Local: the parts of that: sizes of elements in the files at hand, and seconds as an object or a line. */
void attend_set_file_bytes(const struct attend *attend, struct favor_job *job);
json_t *attend_pack_seconds(const struct favor_predicted_seconds *seconds);
void attend_print_seconds(const char *heading, const struct favor_predicted_seconds *seconds);
/* Do the seconds follow from the kernels' rates? And where those are from. */
bool attend_has_rates(const struct attend *attend);
const char *attend_describe_rates(const struct attend *attend, const struct favor_prediction *prediction, char *text,
                                  size_t size);

/* Local: a problem's sizes as an object. */
json_t *attend_pack_shape(const struct favor_problem *problem);

/* Collective: everything that must be right before the first block is read; given command, context, mode. */
enum favor_status attend_prepare(struct attend *attend);
/* Collective: the output gets its name. */
enum favor_status attend_finish(struct attend *attend);
/* Collective: releases everything; what is done of an output stays where a checkpoint says how far it is. */
void attend_release(struct attend *attend);

/* Collective: streams every block through the plan. FAVOR_ESTOPPED: a signal ended it, and what is done is saved. */
enum favor_status attend_stream(struct attend *attend);

/* Local: the scale of the logits in use. */
double attend_scale(const struct attend *attend);
void attend_free_blocks(struct attend *attend);
/* Local, once: the first rank of each row of the grid writes the estimates that its row has in use, if any. */
void attend_write_estimates(struct attend *attend);

/* The options that decide the output, "auto" replaced by what it stood for but for the kernel, as attributes; how many.
 * attributes has room for ATTEND_MAX_ATTRIBUTES. */
int attend_options(const struct attend *attend, struct favor_attribute *attributes);

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

/* Collective: that there was nothing left to do. */
enum favor_status attend_report_finished(struct attend *attend);
/* Collective: the table, or the JSON object. */
enum favor_status attend_report(struct attend *attend);

#endif

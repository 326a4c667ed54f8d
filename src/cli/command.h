/* The commands of the program. Every rank enters a command with the same options, and leaves with the same status. */
#ifndef FAVOR_CLI_COMMAND_H
#define FAVOR_CLI_COMMAND_H

#include <favor/favor.h>

#include "cli/options.h"

/* One invocation. */
struct command {
  struct favor_context *context;
  const struct options *options; /* the same on every rank */
  const char *line;              /* the command as typed; on rank 0, "" elsewhere */
  const char *mpi_version;
  double start_s; /* clock_now_s() when the program started */
};

/* All collective. A command prints its result on rank 0 and reports every failure as libraries do: dist_fail() where it
 * happens, dist_agree(..., DIST_SITE_COMMAND, ...) before leaving; main prints favor_context_message() once. */
enum favor_status cmd_attend(struct command *command);
enum favor_status cmd_make(struct command *command);
enum favor_status cmd_verify(struct command *command);
enum favor_status cmd_bench(struct command *command);
enum favor_status cmd_study(struct command *command);
enum favor_status cmd_plan(struct command *command);
enum favor_status cmd_inspect(struct command *command);
enum favor_status cmd_version(struct command *command);
enum favor_status cmd_help(struct command *command);

/* A command by its name and place; NULL past the last. */
struct command_entry {
  const char *name;
  unsigned mask; /* COMMAND_... of options.h */
  enum favor_status (*run)(struct command *command);
  int n_operands_min, n_operands_max;
  bool is_job;         /* ends with version, command, wall time and memory on stderr */
  const char *usage;   /* operands and the options that are needed */
  const char *summary; /* one line */
  const char *details; /* paragraphs of `favor help COMMAND`, "" if none */
};
const struct command_entry *command_at(int index);
const struct command_entry *command_find(const char *name);
const struct command_entry *command_of_mask(unsigned mask);

/* Appends what every output says besides its options: version, command, and the file it was made from ("" for none).
 * attributes has room for COMMAND_MAX_ATTRIBUTES. */
enum { COMMAND_MAX_ATTRIBUTES = OPTION_N_KEYS + 4 };
void command_attributes(const struct command *command, const char *input, struct favor_attribute *attributes, int *n);

/* May this process print (rank 0)? */
bool command_is_speaker(const struct command *command);

#endif

/* One line on how far a long loop is, from rank 0: in place when stderr is a terminal, else every ten seconds. */
#ifndef FAVOR_CLI_PROGRESS_H
#define FAVOR_CLI_PROGRESS_H

#include "cli/command.h"

struct progress {
  bool is_on, is_terminal;
  const char *what, *unit; /* e.g. "attend", "tokens" */
  double total, start_s, last_s;
};

/* Local. total counts this rank's work in `unit`; its share stands for all. Silent with --quiet and beside rank 0. */
void progress_start(struct progress *progress, const struct command *command, const char *what, const char *unit,
                    double total);
void progress_update(struct progress *progress, double done);
/* Clears the line of a terminal. */
void progress_end(struct progress *progress);

#endif

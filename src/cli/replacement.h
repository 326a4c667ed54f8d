/* A file that takes the place of another as a whole, or not at all: written under a name of its own beside it. */
#ifndef FAVOR_CLI_REPLACEMENT_H
#define FAVOR_CLI_REPLACEMENT_H

#include <stdbool.h>
#include <stdio.h>

#include "cli/options.h"

struct replacement {
  char name[OPTION_TEXT_BYTES + 8]; /* "": none */
  FILE *file;
};

/* Local: creates the file that is to become `path`. False: errno says why. */
bool replacement_open(struct replacement *replacement, const char *path);

/* Local: what was written becomes `path`, on the disk and not only in memory. False: errno says why, and the
 * replacement is still to be discarded. */
bool replacement_finish(struct replacement *replacement, const char *path);

/* Local: closes, and removes what has not become its path. */
void replacement_discard(struct replacement *replacement);

#endif

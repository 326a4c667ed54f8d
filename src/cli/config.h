/* Configuration files: lines `key = value`, where keys are the long options. */
#ifndef FAVOR_CLI_CONFIG_H
#define FAVOR_CLI_CONFIG_H

#include <stdio.h>

#include "cli/options.h"

/* Sets the options that the command line has not given. Keys under a heading [COMMAND] are for that command only.
 * Local. Errors: FAVOR_ECONFIG, with file and line. */
enum favor_status config_read(struct options *options, const char *path, struct status *status);

/* Writes the options as a configuration file that config_read() turns into the same options. */
void config_print(const struct options *options, FILE *file);

#endif

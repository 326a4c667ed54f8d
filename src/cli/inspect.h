/* inspect --check: what the checksums of a file say (io/check.h). Rank 0. */
#ifndef FAVOR_CLI_INSPECT_H
#define FAVOR_CLI_INSPECT_H

#include <jansson.h>

#include "cli/command.h"
#include "io/check.h"

/* One line a dataset, and one for each damaged range. */
void inspect_print_check(const struct check_report *check);
json_t *inspect_pack_check(const struct check_report *check);

/* Records FAVOR_EDATA where not all is well. */
void inspect_fail_check(const struct command *command, const char *path, const struct check_report *check);

#endif

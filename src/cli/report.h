/* What a command says at its end: one JSON object, or a table for people. */
#ifndef FAVOR_CLI_REPORT_H
#define FAVOR_CLI_REPORT_H

#include <jansson.h>

#include "cli/command.h"

/* Local, on every rank: rank 0 prints the object on stdout; every rank frees it. A NULL object (jansson is out of
 * memory) is FAVOR_ENOMEM. Failures are recorded with dist_fail. */
enum favor_status report_json(const struct command *command, json_t *object);

/* The object that every report starts with: version, command, ranks. NULL when out of memory. */
json_t *report_object(const struct command *command);

/* Collective: the largest resident memory among the ranks and the lowest rank that has it. */
enum favor_status report_peak_memory(struct favor_context *context, int64_t *bytes, int64_t *rank);

/* Collective over the context of the plan: one line of warning, unless --quiet, where a rank that may run only on a
 * part of its machine has more threads than cores there. */
enum favor_status report_binding(const struct command *command, struct favor_context *context,
                                 const struct favor_plan_info *info);

/* "1.5 GiB" */
const char *report_bytes(double bytes, char text[32]);

#endif

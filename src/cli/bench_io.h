/* `favor bench io`: what streaming costs beside the arithmetic and the disk. */
#ifndef FAVOR_CLI_BENCH_IO_H
#define FAVOR_CLI_BENCH_IO_H

#include "cli/command.h"

/* Collective. Prints on rank 0. Errors: those of make and attend; FAVOR_EVERIFY (a wrong output is not timed). */
enum favor_status bench_io(struct command *command);

#endif

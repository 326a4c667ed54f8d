/* The program's exit codes, chosen to survive mpirun and srun. */
#ifndef FAVOR_CLI_EXIT_CODE_H
#define FAVOR_CLI_EXIT_CODE_H

#include <favor/favor.h>

int exit_code(enum favor_status status);

#endif

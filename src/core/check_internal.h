/* What the parts of the check share. */
#ifndef FAVOR_CORE_CHECK_INTERNAL_H
#define FAVOR_CORE_CHECK_INTERNAL_H

#include "core/check.h"

const struct check_problem *check_problem_of(const struct check *check);

/* [CHECK_N_ANSWERS][E], for the answers to one row. */
double *check_scratch(const struct check *check);

#endif

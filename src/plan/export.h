/* Exported states: a head of 16 bytes, then the rows of one key head as they are. */
#ifndef FAVOR_PLAN_EXPORT_H
#define FAVOR_PLAN_EXPORT_H

#include "plan/plan.h"

/* Writes the head; returns where the rows go. */
void *export_begin(const struct favor_plan *plan, void *bytes);
/* favor_state_decode with S in units of 2^(exponent + shift). */
void export_decode(const void *bytes, int64_t shift, int32_t *exponent, double *s, double *z);
/* Whether these bytes are a state of the plan's shape and precision. */
bool export_is_valid(const struct favor_plan *plan, const void *bytes);

#endif

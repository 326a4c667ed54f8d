/* FAVOR_METHOD_EXACT. */
#ifndef FAVOR_PLAN_METHOD_EXACT_H
#define FAVOR_PLAN_METHOD_EXACT_H

#include "plan/method.h"

extern const struct method method_exact;

#endif

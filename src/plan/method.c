#include "plan/method.h"

const struct method *method_of(const struct favor_problem *problem) {
  return problem->method == FAVOR_METHOD_FAVOR && problem->window >= 0 ? &method_hybrid : NULL;
}

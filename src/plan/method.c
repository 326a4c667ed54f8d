#include "plan/method.h"

#include "plan/method_exact.h"

const struct method *method_of(const struct favor_problem *problem) {
  switch (problem->method) {
  case FAVOR_METHOD_EXACT:
    return &method_exact;
  default:
    return NULL;
  }
}

#include "plan/method.h"

#include "plan/method_exact.h"
#include "plan/method_linformer.h"
#include "plan/method_lsh.h"
#include "plan/method_window.h"

const struct method *method_of(const struct favor_problem *problem) {
  switch (problem->method) {
  case FAVOR_METHOD_FAVOR:
    return problem->window >= 0 ? &method_hybrid : NULL;
  case FAVOR_METHOD_EXACT:
    return &method_exact;
  case FAVOR_METHOD_WINDOW:
    return &method_window;
  case FAVOR_METHOD_LINFORMER:
    return &method_linformer;
  case FAVOR_METHOD_LSH:
    return &method_lsh;
  default:
    return NULL;
  }
}

/* FAVOR_METHOD_LINFORMER. Every rank sums its own tokens of a segment into M rows a key head. Ranks that share the
 * segment add theirs up, each a slice of the rows, and give each other the results; then every query meets M keys. */
#ifndef FAVOR_PLAN_METHOD_LINFORMER_H
#define FAVOR_PLAN_METHOD_LINFORMER_H

#include "plan/method.h"

extern const struct method method_linformer;

#endif

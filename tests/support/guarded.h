/* Arrays between pages that cannot be touched: a step past the end that lies at one ends the test. */
#ifndef FAVOR_TESTS_GUARDED_H
#define FAVOR_TESTS_GUARDED_H

#include <stddef.h>

enum side { AT_END, AT_START, N_SIDES }; /* which end of an array touches a page that cannot be touched */

struct guarded {
  char *pages, *data;
  size_t total;
};

/* Filled with NaN, which shows wherever something is read that nobody wrote. */
struct guarded guarded_create(size_t bytes, enum side side);
void guarded_destroy(struct guarded *g);

#endif

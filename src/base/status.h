/* An error on its way: a code and one line of text. The first error is kept. */
#ifndef FAVOR_BASE_STATUS_H
#define FAVOR_BASE_STATUS_H

#include <favor/favor.h>

enum { STATUS_TEXT_BYTES = 768 };

struct status {
  enum favor_status code;
  char text[STATUS_TEXT_BYTES];
};

/* Records code and text unless an error is recorded already. Returns code. */
enum favor_status status_set(struct status *status, enum favor_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

void status_clear(struct status *status);

/* Our own bug: prints where and aborts. Never for a user's error. */
#define FAVOR_ASSERT(condition) ((condition) ? (void)0 : status_assert_failed(#condition, __FILE__, __LINE__))
_Noreturn void status_assert_failed(const char *condition, const char *file, int line);

#endif

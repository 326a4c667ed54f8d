/* Monotonic wall time. */
#ifndef FAVOR_BASE_CLOCK_H
#define FAVOR_BASE_CLOCK_H

double clock_now_s(void);

#endif

/* How long a machine's kernels take, for shapes that were measured and for others. */
#ifndef FAVOR_PLAN_RATES_H
#define FAVOR_PLAN_RATES_H

#include <favor/favor_machine.h>

/* Which kernel works on what. */
struct rate_subject {
  const char *kernel;
  enum favor_precision precision;
  enum favor_map map;
  enum favor_projection projection;
  int64_t key_width, value_width, features; /* D, E, M */
  int threads;
};

/* The rate of the machine, else of the default figures, that is nearest to the subject. */
const struct favor_rate *rates_find(const struct favor_machine *machine, const struct rate_subject *subject,
                                    bool *is_measured);

/* What the subject takes by that rate: the same flops a second, whatever the shape. */
struct favor_rate rates_scaled(const struct favor_rate *rate, const struct rate_subject *subject);

#endif

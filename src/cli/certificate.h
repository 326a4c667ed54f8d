/* What is said of a certificate (core/check.h): to people, as JSON, as attributes of the output. */
#ifndef FAVOR_CLI_CERTIFICATE_H
#define FAVOR_CLI_CERTIFICATE_H

#include <jansson.h>

#include <favor/favor_io.h>

#include "core/check.h"

/* Does the output say less about exact attention than the mean of v does? Not where both are near it. */
bool certificate_is_blind(const struct check_certificate *certificate);

/* What made the output, as far as advice depends on it. */
struct certificate_subject {
  bool is_features;       /* method favor */
  bool estimates_softmax; /* by a map that does, without eps and guard */
};

/* What that means and what to try, in plain words; one line, no full stop at its end. Static. */
const char *certificate_advice(const struct certificate_subject *subject);

/* Two lines of a table, and a third in plain words where they are needed. */
void certificate_print(const struct check_certificate *certificate, const struct certificate_subject *subject);

/* {rows, relative_error, mean_error, skill, advice}: what is no finite number is null, and advice that is not needed.
 * NULL when out of memory. */
json_t *certificate_pack(const struct check_certificate *certificate, const struct certificate_subject *subject);

/* JSON has no infinity and no NaN. */
json_t *certificate_number(double x);

/* certificate_rows, certificate_relative_error, certificate_mean_error, certificate_skill. */
enum { CERTIFICATE_N_ATTRIBUTES = 4 };
void certificate_attributes(const struct check_certificate *certificate,
                            struct favor_attribute attributes[CERTIFICATE_N_ATTRIBUTES]);

#endif

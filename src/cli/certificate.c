#include "cli/certificate.h"

#include <math.h>
#include <stdio.h>

/* An output that shares less than this with exact attention, beyond the mean of v, is as good as that mean. */
static const double least_skill = 0.1;
/* Rounding to 16 bits leaves errors up to here; where the mean of v is nearer than that, skill means nothing. */
static const double rounding = 1e-2;

bool certificate_is_blind(const struct check_certificate *certificate) {
  return certificate->skill < least_skill && certificate->relative_error > rounding;
}

const char *certificate_advice(const struct certificate_subject *subject) {
  if (!subject->is_features) {
    return "this method carries no information on these inputs: the mean of v would do as well; try a larger --window, "
           "--features or --lsh-rounds, as the method has them, or --method favor or exact";
  }
  if (!subject->estimates_softmax) {
    return "this is another attention than softmax, and on these inputs no nearer to it than the mean of v; if it is "
           "softmax that you want, try --map hyperbolic or --method exact";
  }
  return "the approximation carries no information on these inputs: the mean of v would do as well; try q and k of "
         "smaller spread (or a smaller --scale), more --features, --map hyperbolic, --balance, --window, or "
         "--method exact";
}

void certificate_print(const struct check_certificate *certificate, const struct certificate_subject *subject) {
  printf("  against exact softmax       %.2e   over %lld rows: how good the approximation is\n",
         certificate->relative_error, (long long)certificate->rows);
  printf("  mean of v against the same  %.2e   what knowing nothing would give; skill %.3g\n", certificate->mean_error,
         certificate->skill);
  if (certificate_is_blind(certificate)) printf("  warning: %s\n", certificate_advice(subject));
}

json_t *certificate_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *certificate_pack(const struct check_certificate *certificate, const struct certificate_subject *subject) {
  return json_pack("{s:I, s:o, s:o, s:o, s:s?}", "rows", (json_int_t)certificate->rows, "relative_error",
                   certificate_number(certificate->relative_error), "mean_error",
                   certificate_number(certificate->mean_error), "skill", certificate_number(certificate->skill),
                   "advice", certificate_is_blind(certificate) ? certificate_advice(subject) : NULL);
}

static void set_number(const char *name, double number, struct favor_attribute *attribute) {
  *attribute = (struct favor_attribute){.kind = FAVOR_ATTRIBUTE_NUMBER, .number = number};
  snprintf(attribute->name, sizeof attribute->name, "certificate_%s", name);
}

void certificate_attributes(const struct check_certificate *certificate,
                            struct favor_attribute attributes[CERTIFICATE_N_ATTRIBUTES]) {
  attributes[0] = (struct favor_attribute){
      .name = "certificate_rows", .kind = FAVOR_ATTRIBUTE_INTEGER, .integer = certificate->rows};
  set_number("relative_error", certificate->relative_error, &attributes[1]);
  set_number("mean_error", certificate->mean_error, &attributes[2]);
  set_number("skill", certificate->skill, &attributes[3]);
}

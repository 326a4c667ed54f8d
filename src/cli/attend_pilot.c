/* --target-error: as many features as the pilot finds that it takes. */
#include <stdio.h>

#include "base/clock.h"
#include "cli/attend.h"
#include "cli/option_table.h"
#include "dist/agree.h"

/* Doublings that a pilot may go beyond --features unless --features-max says how far. */
enum { MOST_GROWTH = 16 };

static int64_t most_features(const struct options *options, int64_t features) {
  const int64_t given = options_integer(options, OPTION_FEATURES_MAX), most = (int64_t)option_at(OPTION_FEATURES)->most;
  if (given > 0) return given;
  return features < most / MOST_GROWTH ? features * MOST_GROWTH : most;
}

static void check_options(const struct attend *attend) {
  const struct options *options = attend->command->options;
  const int64_t given = options_integer(options, OPTION_FEATURES_MAX);
  const bool has_target = options_number(options, OPTION_TARGET_ERROR) > 0;
  if (has_target && attend->problem.projection == FAVOR_PROJECTION_NONE)
    dist_fail(attend->context, FAVOR_EUSAGE,
              "--target-error chooses the features, and --projection none has as many as k is wide; give one of them");
  else if (given > 0 && !has_target)
    dist_fail(attend->context, FAVOR_EUSAGE, "--features-max needs --target-error, which tells when to stop");
  else if (given > 0 && given < attend->problem.features)
    dist_fail(attend->context, FAVOR_EUSAGE, "--features-max %lld is below --features %lld", (long long)given,
              (long long)attend->problem.features);
}

enum favor_status attend_choose_features(struct attend *attend) {
  const struct options *options = attend->command->options;
  const double start = clock_now_s(), target = options_number(options, OPTION_TARGET_ERROR);
  struct pilot *pilot = &attend->pilot;
  check_options(attend);
  enum favor_status status = dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
  if (status != FAVOR_OK || target == 0) return status;
  const int64_t rows = attend_certified_rows(options);
  *pilot = (struct pilot){.command = attend->command,
                          .inputs = &attend->inputs,
                          .problem = &attend->problem,
                          .out_type = attend->out_type,
                          .target = target,
                          .most_features = most_features(options, attend->problem.features),
                          .rows = rows > 0 ? rows : PILOT_ROWS,
                          .seed = (uint64_t)options_integer(options, OPTION_SEED)};
  status = pilot_run(pilot);
  attend->has_pilot = status == FAVOR_OK && pilot->n_trials > 0;
  if (attend->has_pilot) attend->problem.features = pilot->trials[pilot->n_trials - 1].features;
  attend->seconds[ATTEND_PILOT] = clock_now_s() - start;
  return status;
}

static struct favor_attribute *append(const char *name, enum favor_attribute_kind kind,
                                      struct favor_attribute *attributes, int *n) {
  struct favor_attribute *attribute = &attributes[(*n)++];
  *attribute = (struct favor_attribute){.kind = kind};
  snprintf(attribute->name, sizeof attribute->name, "%s", name);
  return attribute;
}

void attend_pilot_attributes(const struct attend *attend, struct favor_attribute *attributes, int *n) {
  const struct pilot *pilot = &attend->pilot;
  if (!attend->has_pilot) return;
  append("target-error", FAVOR_ATTRIBUTE_NUMBER, attributes, n)->number = pilot->target;
  append("features-max", FAVOR_ATTRIBUTE_INTEGER, attributes, n)->integer = pilot->most_features;
  append("pilot_reached", FAVOR_ATTRIBUTE_INTEGER, attributes, n)->integer = pilot->is_reached;
  append("pilot_tokens", FAVOR_ATTRIBUTE_INTEGER, attributes, n)->integer = pilot->tokens;
  append("pilot_heads", FAVOR_ATTRIBUTE_INTEGER, attributes, n)->integer = pilot->heads;
  struct favor_attribute *errors = append("pilot_errors", FAVOR_ATTRIBUTE_TEXT, attributes, n);
  size_t length = 0;
  for (int i = 0; i < pilot->n_trials; i++)
    length += (size_t)snprintf(errors->text + length, sizeof errors->text - length, "%s%lld: %.6g", i > 0 ? ", " : "",
                               (long long)pilot->trials[i].features, pilot->trials[i].relative_error);
}

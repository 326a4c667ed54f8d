#include "cli/report.h"

#include <stdio.h>

#include "base/memory.h"
#include "dist/agree.h"

enum favor_status report_json(const struct command *command, json_t *object) {
  if (!object) return dist_fail(command->context, FAVOR_ENOMEM, "no memory to build the report");
  enum favor_status status = FAVOR_OK;
  if (command_is_speaker(command)) {
    if (json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0 || putchar('\n') == EOF) {
      status = dist_fail(command->context, FAVOR_EIO, "cannot write the report to stdout");
    }
  }
  json_decref(object);
  return status;
}

json_t *report_object(const struct command *command) {
  return json_pack("{s:s, s:s, s:i}", "version", FAVOR_VERSION, "command",
                   command_of_mask(command->options->command)->name, "ranks", favor_context_size(command->context));
}

enum favor_status report_peak_memory(struct favor_context *context, int64_t *bytes, int64_t *rank) {
  int64_t own = (int64_t)memory_peak_bytes(), most = own;
  enum favor_status status = dist_max_int64(context, &most, 1);
  if (status != FAVOR_OK) return status;
  int64_t negative_rank = own == most ? -context->rank : INT64_MIN;
  status = dist_max_int64(context, &negative_rank, 1);
  *bytes = most;
  *rank = -negative_rank;
  return status;
}

const char *report_bytes(double bytes, char text[32]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 5) {
    bytes /= 1024;
    unit++;
  }
  snprintf(text, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}

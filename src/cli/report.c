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

enum favor_status report_binding(const struct command *command, struct favor_context *context,
                                 const struct favor_plan_info *info) {
  bool is_short = info->is_bound && info->threads > info->cores;
  int64_t most[2] = {is_short ? info->threads : 0, is_short ? -info->cores : INT64_MIN};
  enum favor_status status = dist_max_int64(context, most, 2);
  if (status != FAVOR_OK || most[0] == 0) return status;
  if (!command_is_speaker(command) || options_flag(command->options, OPTION_QUIET)) return FAVOR_OK;
  fprintf(
      stderr,
      "favor: warning: %lld threads of a rank share %lld core%s, as whoever started it bound it there; start it with "
      "mpirun --map-by slot:PE=%lld, mpirun --bind-to none, or srun --cpus-per-task=%lld\n",
      (long long)most[0], (long long)-most[1], most[1] == -1 ? "" : "s", (long long)most[0], (long long)most[0]);
  return FAVOR_OK;
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

#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

#define ERASE_TO_END "\033[K" /* ECMA-48, EL */

static const double TERMINAL_INTERVAL_S = 0.2, LOG_INTERVAL_S = 10;

void progress_start(struct progress *progress, const struct command *command, const char *what, const char *unit,
                    double total) {
  double now = clock_now_s();
  *progress = (struct progress){
      .is_on = command_is_speaker(command) && !options_flag(command->options, OPTION_QUIET) && total > 0,
      .is_terminal = isatty(STDERR_FILENO) == 1,
      .what = what,
      .unit = unit,
      .total = total,
      .start_s = now,
      .last_s = now,
  };
}

void progress_update(struct progress *progress, double done) {
  if (!progress->is_on || done <= 0) return;
  double now = clock_now_s();
  if (now - progress->last_s < (progress->is_terminal ? TERMINAL_INTERVAL_S : LOG_INTERVAL_S)) return;
  progress->last_s = now;
  double rate = done / (now - progress->start_s), left_s = (progress->total - done) / rate;
  fprintf(stderr, "%sfavor: %s: %3.0f %%, %.3g %s/s a rank, %.0f s left%s", progress->is_terminal ? "\r" : "",
          progress->what, 100 * done / progress->total, rate, progress->unit, left_s,
          progress->is_terminal ? ERASE_TO_END : "\n");
  fflush(stderr);
}

void progress_end(struct progress *progress) {
  if (progress->is_on && progress->is_terminal) fputs("\r" ERASE_TO_END, stderr);
  progress->is_on = false;
}

#include "cli/stop.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "cli/exit_code.h"

static const struct {
  int number;
  const char *name;
} caught[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGUSR1, "SIGUSR1"}};
enum { N_CAUGHT = sizeof caught / sizeof *caught };

static volatile sig_atomic_t came; /* a signal has no other way to say so */

static void note(int number) {
  if (came) _exit(exit_code(FAVOR_ESTOPPED));
  came = number;
}

static void handle(void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i].number, &action, NULL);
}

void stop_catch(void) { handle(note); }
void stop_release(void) {
  handle(SIG_DFL);
  signal(SIGUSR1, SIG_IGN);
  if (came) raise(came);
}

static bool speaks;
static void end(int number) {
  static const char line[] = "favor: stopped by a signal; the same command with --resume goes on from there\n";
  (void)number;
  if (speaks && write(STDERR_FILENO, line, sizeof line - 1) < 0) _exit(exit_code(FAVOR_EIO));
  _exit(exit_code(FAVOR_ESTOPPED));
}

void stop_at_once(bool is_speaker) {
  speaks = is_speaker;
  handle(end);
  if (came) end(came);
}
int stop_signal(void) { return came; }

const char *stop_signal_name(int number) {
  for (int i = 0; i < N_CAUGHT; i++) {
    if (caught[i].number == number) return caught[i].name;
  }
  return "a signal";
}

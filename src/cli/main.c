/* The program: starts MPI, parses on rank 0, runs one command on every rank, and leaves with one exit code. */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/command.h"
#include "cli/config.h"
#include "cli/exit_code.h"
#include "cli/report.h"
#include "dist/agree.h"
#include "dist/watch.h"

enum { LINE_BYTES = 2048 };

/* What has to stand in the environment before the libraries start; what the user has set stays. */
static void set_environment(void) {
  /* Open MPI keeps a semaphore for every open file, by name, in /dev/shm; one that a killed run left behind makes the
   * next run hang. Nothing here needs shared file pointers. */
  setenv("OMPI_MCA_sharedfp", "^sm", 0);
  /* MPI-IO by ROMIO, which says where a read failed; OMPIO, which Open MPI prefers, may not. */
  setenv("OMPI_MCA_io", "^ompio", 0);
  /* Files are only read through HDF5 while others may read them, also on file systems without locks. */
  setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);
  signal(SIGPIPE, SIG_IGN); /* a closed stdout is a failed write, with a message and an exit code */
}

static void join_words(int n, char *const *words, char *line, size_t size) {
  size_t used = 0;
  line[0] = '\0';
  for (int i = 0; i < n && used < size; i++) {
    used += (size_t)snprintf(line + used, size - used, "%s%s", i ? " " : "", words[i]);
  }
}

/* Rank 0's part: the words after the program's name. */
static void parse(struct favor_context *context, int n_words, char **words, struct options *options) {
  static char help[] = "help", version[] = "version";
  struct status status = {0};
  if (n_words == 0) {
    dist_fail(context, FAVOR_EUSAGE,
              "no command; usage: favor attend | make | verify | inspect | plan | bench | study | version | help ...; "
              "see `favor help`");
    return;
  }
  if (strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0) words[0] = help;
  if (strcmp(words[0], "--version") == 0) words[0] = version;
  if (options_parse(options, n_words, words, &status) != FAVOR_OK) dist_fail(context, status.code, "%s", status.text);
}

static enum favor_status share_options(struct favor_context *context, int n_words, char **words,
                                       struct options *options) {
  if (context->rank == 0) parse(context, n_words, words, options);
  enum favor_status status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  return status == FAVOR_OK ? dist_broadcast(context, options, sizeof *options) : status;
}

static enum favor_status run(struct command *command) {
  const struct options *options = command->options;
  if (options->is_help_wanted) return cmd_help(command);
  if (options_flag(options, OPTION_PRINT_CONFIG)) {
    if (command_is_speaker(command)) config_print(options, stdout);
    return FAVOR_OK;
  }
  return command_of_mask(options->command)->run(command);
}

/* The last lines of a job: version, command, wall time, peak memory over the ranks and whose. Collective. */
static enum favor_status print_closing(const struct command *command) {
  const struct options *options = command->options;
  bool is_job = command_of_mask(options->command)->is_job && !options->is_help_wanted;
  if (!is_job || options_flag(options, OPTION_PRINT_CONFIG) || options_flag(options, OPTION_QUIET)) return FAVOR_OK;
  int64_t bytes, rank;
  char text[32];
  enum favor_status status = report_peak_memory(command->context, &bytes, &rank);
  if (status != FAVOR_OK || !command_is_speaker(command)) return status;
  fprintf(stderr, "favor: version %s\nfavor: command %s\n", FAVOR_VERSION, command->line);
  fprintf(stderr, "favor: wall time %.2f s, peak memory %s (rank %lld of %d)\n", clock_now_s() - command->start_s,
          report_bytes((double)bytes, text), (long long)rank, favor_context_size(command->context));
  return FAVOR_OK;
}

/* Collective: what was printed must have arrived. */
static enum favor_status flush_output(struct favor_context *context) {
  if (context->rank == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
    dist_fail(context, FAVOR_EIO, "cannot write to stdout; is its disk full, or its reader gone?");
  }
  return dist_agree(context, DIST_SITE_COMMAND, 0, "");
}

/* After an MPI failure, or one within a collective read, no rank can speak for all: each that notices says so and ends
 * everything. */
static _Noreturn void die(const struct favor_context *context) {
  const char *text = context ? context->pending.text : "";
  const bool has_reason = context && dist_has_failed(context);
  fprintf(stderr, "favor: error: %s\n", text[0] ? text : "cannot start: MPI failed, or there is no memory");
  fflush(NULL);
  MPI_Abort(MPI_COMM_WORLD, exit_code(has_reason ? context->pending.code : FAVOR_EMPI));
  abort();
}

/* FAVOR_FAULT="SITE RANK SKIP" makes an agreement fail, or come late (dist/comm.h): how tests break every step of a
 * command. */
static void inject_fault(struct favor_context *context) {
  const char *text = getenv("FAVOR_FAULT");
  if (text && !dist_inject_text(context, text)) {
    dist_fail(context, FAVOR_EUSAGE, "FAVOR_FAULT is '%s'; it must be SITE RANK SKIP [stall SECONDS]", text);
  }
}

/* Collective: a job ends where ranks wait too long for each other. */
static enum favor_status start_watch(const struct command *command, struct dist_watch **watch) {
  const struct options *options = command->options;
  if (!command_of_mask(options->command)->is_job || options->is_help_wanted) return FAVOR_OK;
  dist_watch_start(command->context, options_number(options, OPTION_STALL_TIMEOUT), watch);
  return dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
}

static enum favor_status run_all(struct command *command, struct options *options, int n_words, char **words,
                                 struct dist_watch **watch) {
  struct favor_context *context = command->context;
  enum favor_status status = share_options(context, n_words, words, options);
  if (status == FAVOR_OK) status = start_watch(command, watch);
  if (status == FAVOR_OK) status = run(command);
  if (status == FAVOR_OK) status = flush_output(context);
  bool has_result = (status == FAVOR_OK || status == FAVOR_EVERIFY) && !context->is_dead;
  if (has_result && print_closing(command) != FAVOR_OK) status = FAVOR_EMPI;
  return status;
}

int main(int argc, char **argv) {
  static struct options options; /* too large for a stack */
  char line[LINE_BYTES], mpi_version[MPI_MAX_LIBRARY_VERSION_STRING];
  struct command command = {.options = &options, .line = line, .mpi_version = mpi_version, .start_s = clock_now_s()};
  set_environment();
  int provided, length;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return exit_code(FAVOR_EMPI);
  MPI_Get_library_version(mpi_version, &length);
  mpi_version[strcspn(mpi_version, ",\n")] = '\0';
  join_words(argc, argv, line, sizeof line);

  if (favor_context_create(MPI_COMM_WORLD, &command.context) != FAVOR_OK) die(NULL);
  inject_fault(command.context);
  struct dist_watch *watch = NULL;
  enum favor_status status = run_all(&command, &options, argc - 1, argv + 1, &watch);
  if (command.context->is_dead) die(command.context);
  if (status != FAVOR_OK && command_is_speaker(&command)) {
    const char *kind = status == FAVOR_ESTOPPED ? "" : "error: ";
    fprintf(stderr, "favor: %s%s\n", kind, favor_context_message(command.context));
  }
  dist_watch_enter(watch, "leaving together");
  favor_context_destroy(&command.context);
  MPI_Finalize();
  dist_watch_stop(&watch);
  return exit_code(status);
}

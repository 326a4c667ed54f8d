/* Three runs by turns, all on the same file, blocks and buffers: attend; the same reads and writes without arithmetic;
 * the same arithmetic on blocks in memory without reads and writes. Where streaming hides what it can, attend takes
 * as long as the longer of the last two. To the arithmetic belongs the time that the I/O lane's thread needed a core
 * for: copies, conversions, checksums. */
#include "cli/bench_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/attend_checkpoint.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "cli/statistics.h"
#include "dist/agree.h"

enum { N_ROUNDS = 5, N_VERIFIED_ROWS = 16 };

/* What a pass took the slowest rank: all of it, and the lane's thread on a core, reading, writing; the end. */
struct pass {
  double seconds, lane_cpu_s, read_s, write_s, finish_s;
};
enum { N_OF_PASS = sizeof(struct pass) / sizeof(double) };

enum part { PART_COMPUTE, PART_IO, PART_RUN, PART_LANE_CPU, PART_READ, PART_WRITE, PART_FINISH, N_PARTS };

struct bench_io {
  struct command *command; /* the benchmark's own */
  struct options options;  /* of the commands that it runs */
  struct command other;
  char in[OPTION_TEXT_BYTES], out[OPTION_TEXT_BYTES];
  bool has_made_input;
  double seconds[N_PARTS][N_ROUNDS]; /* of the slowest rank */
  int64_t bytes[2];                  /* read and written by the rank that has most, in the last pass */
  struct favor_plan_info info;
};

static void set_text(struct options *options, enum option_key key, const char *text) {
  snprintf(options->values[key].text, OPTION_TEXT_BYTES, "%s", text);
  options->values[key].origin = OPTION_FROM_COMMAND_LINE;
}

static void set_flag(struct options *options, enum option_key key) {
  options->values[key].integers[0] = 1;
  set_text(options, key, "true");
}

/* The options that another command would have had, with two operands. */
static struct command *as_command(struct bench_io *bench, unsigned mask, const char *first, const char *second) {
  bench->options.command = mask;
  bench->options.n_operands = second ? 2 : 1;
  snprintf(bench->options.operands[0], OPTION_TEXT_BYTES, "%s", first);
  snprintf(bench->options.operands[1], OPTION_TEXT_BYTES, "%s", second ? second : "");
  return &bench->other;
}

static void prepare(struct bench_io *bench) {
  const struct options *given = bench->command->options;
  const char *directory = options_text(given, OPTION_OUTPUT);
  bench->options = *given;
  bench->other = *bench->command;
  bench->other.options = &bench->options;
  bench->has_made_input = given->n_operands < 2;
  if (directory[0] == '\0') directory = ".";
  snprintf(bench->out, sizeof bench->out, "%.900s/favor-bench-out.h5", directory);
  if (bench->has_made_input) {
    snprintf(bench->in, sizeof bench->in, "%.900s/favor-bench-in.h5", directory);
  } else {
    snprintf(bench->in, sizeof bench->in, "%s", given->operands[1]);
  }
  set_text(&bench->options, OPTION_OUTPUT, bench->out);
  bench->options.values[OPTION_MACHINE].text[0] = '\0'; /* it is written, not read */
  set_flag(&bench->options, OPTION_QUIET);
  set_flag(&bench->options, OPTION_OVERWRITE);
  bench->options.values[OPTION_JSON].integers[0] = 0;
  bench->options.values[OPTION_ROWS].integers[0] = N_VERIFIED_ROWS;
  if (!option_is_active(given, OPTION_SHAPE)) {
    static const int64_t shape[] = {1, 4, 262144, 64};
    memcpy(bench->options.values[OPTION_SHAPE].integers, shape, sizeof shape);
    set_text(&bench->options, OPTION_SHAPE, "1,4,262144,64");
  }
}

/* Collective: one pass over the file with what `mode` leaves of it. */
static enum favor_status time_pass(struct bench_io *bench, enum attend_mode mode, struct pass *pass) {
  static struct attend attend; /* too large for a stack */
  attend = (struct attend){
      .command = as_command(bench, COMMAND_ATTEND, bench->in, NULL), .context = bench->command->context, .mode = mode};
  if (command_is_speaker(bench->command)) unlink(bench->out); /* to free what is replaced takes time */
  enum favor_status status = attend_prepare(&attend);
  if (status == FAVOR_OK) status = dist_agree(attend.context, DIST_SITE_COMMAND, 0, ""); /* all start together */
  const double start = clock_now_s();
  if (status == FAVOR_OK) status = attend_stream(&attend);
  struct favor_lane_times lane = {0};
  if (attend.lane) favor_lane_times(attend.lane, &lane);
  const double end = clock_now_s();
  if (status == FAVOR_OK && mode != ATTEND_ARITHMETIC) status = attend_finish(&attend);
  *pass = (struct pass){clock_now_s() - start, lane.cpu_s, lane.read_s, lane.write_s, clock_now_s() - end};
  bench->info = attend.info;
  bench->bytes[0] = lane.bytes_read;
  bench->bytes[1] = lane.bytes_written;
  attend_release(&attend);
  if (status == FAVOR_OK) status = dist_max_double(bench->command->context, (double *)pass, N_OF_PASS);
  return status == FAVOR_OK ? dist_max_int64(bench->command->context, bench->bytes, 2) : status;
}

static enum favor_status run_round(struct bench_io *bench, int round) {
  static const struct {
    enum attend_mode mode;
    enum part part;
  } passes[] = {{ATTEND_IO, PART_IO}, {ATTEND_ARITHMETIC, PART_COMPUTE}, {ATTEND_ALL, PART_RUN}};
  for (int i = 0; i < 3; i++) {
    struct pass pass;
    enum favor_status status = time_pass(bench, passes[i].mode, &pass);
    if (status != FAVOR_OK) return status;
    bench->seconds[passes[i].part][round] = pass.seconds;
    if (passes[i].mode != ATTEND_IO) continue;
    bench->seconds[PART_LANE_CPU][round] = pass.lane_cpu_s;
    bench->seconds[PART_READ][round] = pass.read_s;
    bench->seconds[PART_WRITE][round] = pass.write_s;
    bench->seconds[PART_FINISH][round] = pass.finish_s;
  }
  return FAVOR_OK;
}

static enum favor_status measure(struct bench_io *bench) {
  enum favor_status status = FAVOR_OK;
  struct pass pass;
  if (bench->has_made_input) status = cmd_make(as_command(bench, COMMAND_MAKE, bench->in, NULL));
  if (status == FAVOR_OK) status = time_pass(bench, ATTEND_ALL, &pass);
  if (status == FAVOR_OK) status = cmd_verify(as_command(bench, COMMAND_VERIFY, bench->in, bench->out));
  for (int round = 0; round < N_ROUNDS && status == FAVOR_OK; round++) status = run_round(bench, round);
  return status;
}

static void clean_up(const struct bench_io *bench) {
  if (!command_is_speaker(bench->command)) return;
  unlink(bench->out);
  if (bench->has_made_input) unlink(bench->in);
}

/* The passes without arithmetic, into the machine file. Sorted by now. */
static void store(const struct bench_io *bench, const double medians[N_PARTS]) {
  const struct favor_context *context = bench->command->context;
  const double read_bytes = (double)bench->bytes[0], written_bytes = (double)bench->bytes[1];
  const char *path = options_text(bench->command->options, OPTION_MACHINE);
  if (!option_is_active(bench->command->options, OPTION_MACHINE)) return;
  const struct favor_io_costs io = {.read_s_per_byte = medians[PART_READ] / read_bytes,
                                    .write_s_per_byte = medians[PART_WRITE] / written_bytes,
                                    .cpu_s_per_byte = medians[PART_LANE_CPU] / (read_bytes + written_bytes),
                                    .finish_s = medians[PART_FINISH],
                                    .ranks = (context->size + context->n_nodes - 1) / context->n_nodes};
  machine_store_io(bench->command->context, path, &io);
}

static void report(struct bench_io *bench) {
  double medians[N_PARTS], spread[N_PARTS];
  for (int part = 0; part < N_PARTS; part++) {
    double *seconds = bench->seconds[part];
    medians[part] = statistics_median(seconds, N_ROUNDS); /* sorts them */
    spread[part] = (seconds[N_ROUNDS - 1] - seconds[0]) / medians[part];
  }
  store(bench, medians);
  const double compute = medians[PART_COMPUTE] + medians[PART_LANE_CPU], io = medians[PART_IO], run = medians[PART_RUN],
               overhead = run / (compute > io ? compute : io);
  if (options_flag(bench->command->options, OPTION_JSON)) {
    json_t *object = report_object(bench->command);
    json_t *more =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:f, s:s, s:I, s:I, s:I}", "seconds_compute", compute,
                  "seconds_io", io, "seconds_run", run, "overhead", overhead, "seconds_arithmetic",
                  medians[PART_COMPUTE], "seconds_lane_cpu", medians[PART_LANE_CPU], "rounds", N_ROUNDS, "spread",
                  spread[PART_RUN], "kernel", bench->info.kernel, "block_tokens", (json_int_t)bench->info.block_tokens,
                  "grid_heads", (json_int_t)bench->info.grid_heads, "grid_tokens", (json_int_t)bench->info.grid_tokens);
    if (object && more) json_object_update(object, more);
    json_decref(more);
    report_json(bench->command, object);
    return;
  }
  if (options_flag(bench->command->options, OPTION_QUIET)) return;
  printf("streaming %s: %d ranks as %lldx%lld, blocks of %lld tokens, kernel %s\n", bench->in,
         favor_context_size(bench->command->context), (long long)bench->info.grid_heads,
         (long long)bench->info.grid_tokens, (long long)bench->info.block_tokens, bench->info.kernel);
  printf("  compute  %.3f s: %.3f of arithmetic on blocks in memory (spread %.0f %%), and %.3f in which the I/O lane "
         "copied, converted and summed up\n",
         compute, medians[PART_COMPUTE], 100 * spread[PART_COMPUTE], medians[PART_LANE_CPU]);
  printf("  io       %.3f s: the same reads and writes, and no arithmetic (spread %.0f %%)\n", io,
         100 * spread[PART_IO]);
  printf("  run      %.3f s: attend (spread %.0f %%), %.3f times the larger of the two; medians of %d; the output was "
         "verified "
         "against the definition\n",
         run, 100 * spread[PART_RUN], overhead, N_ROUNDS);
}

enum favor_status bench_io(struct command *command) {
  static struct bench_io bench; /* too large for a stack */
  bench = (struct bench_io){.command = command};
  prepare(&bench);
  enum favor_status status = measure(&bench);
  clean_up(&bench);
  if (status == FAVOR_OK && command_is_speaker(command)) report(&bench);
  return status == FAVOR_OK ? dist_agree(command->context, DIST_SITE_COMMAND, 0, "") : status;
}

/* What a scaling benchmark found: a table, one JSON object, and the same rows as CSV. A run's JSON object is where its
 * figures are put together; the file has its keys as columns. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench_scaling.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "cli/statistics.h"
#include "dist/comm.h"

static const char *const mode_names[SCALING_N_MODES] = {"strong", "weak"};

/* The figures of a point, of all rounds. */
struct figures {
  double times[SCALING_N_TIMES], spread; /* medians; of SCALING_SUM: (largest - smallest) / median */
};

static void conclude(const struct scaling *scaling, struct figures *figures) {
  for (int i = 0; i < scaling->n_points; i++) {
    for (int j = 0; j < SCALING_N_TIMES; j++)
      figures[i].times[j] = statistics_median(scaling->points[i].times[j], scaling->n_rounds);
    const double *sums = scaling->points[i].times[SCALING_SUM]; /* sorted by now */
    figures[i].spread = (sums[scaling->n_rounds - 1] - sums[0]) / figures[i].times[SCALING_SUM];
  }
}

static bool has_own_grid(const struct scaling_point *point) { return point->problem.grid_heads > 0; }

/* What a point's efficiency is measured against: of the same work the run on the fewest ranks; of those, where there
 * are several, that with the point's kind of grid and scan. */
static int find_base(const struct scaling *scaling, int index, enum scaling_mode mode) {
  const struct scaling_point *point = &scaling->points[index];
  int base = index, best = -1;
  for (int i = 0; i < scaling->n_points; i++) {
    const struct scaling_point *other = &scaling->points[i];
    if (!(other->modes >> mode & 1) || other->asked_tokens != point->asked_tokens ||
        other->problem.is_causal != point->problem.is_causal || other->count > scaling->points[base].count)
      continue;
    const int likeness =
        2 * (has_own_grid(other) == has_own_grid(point)) + (other->problem.scan == point->problem.scan);
    if (other->count == scaling->points[base].count && likeness <= best) continue;
    base = i;
    best = likeness;
  }
  return base;
}

/* ---- a run as JSON ---------------------------------------------------------------------------------------------- */

/* Of the time in which states travelled, that in which ranks computed; NaN where none travelled. */
static double hidden_share(const struct scaling_point *point) {
  return point->in_flight_s > 0 ? 1 - point->blocked_s / point->in_flight_s : NAN;
}

static json_t *number_or_null(double x) { return isnan(x) ? json_null() : json_real(x); }

static const char *asked_grid(const struct scaling_point *point, char text[SCALING_NAME_BYTES]) {
  snprintf(text, SCALING_NAME_BYTES, has_own_grid(point) ? "%lldx%lld" : "auto", (long long)point->problem.grid_heads,
           (long long)point->problem.grid_tokens);
  return text;
}

static const char *grid_of(const struct scaling_point *point, char text[SCALING_NAME_BYTES]) {
  snprintf(text, SCALING_NAME_BYTES, "%lldx%lld", (long long)point->info.grid_heads,
           (long long)point->info.grid_tokens);
  return text;
}

static const char *asked_scan(const struct scaling_point *point) {
  return option_at(OPTION_SCAN)->choices[point->problem.scan];
}

static int64_t token_heads(const struct scaling_point *point) {
  return point->problem.batch * point->problem.heads * point->problem.tokens;
}

/* NULL where memory is short. */
static json_t *pack_run(const struct scaling *scaling, const struct figures *figures, int index,
                        enum scaling_mode mode) {
  const struct scaling_point *point = &scaling->points[index];
  const struct favor_problem *problem = &point->problem;
  const int base = find_base(scaling, index, mode);
  const int64_t ranks = scaling_ranks_of(scaling, point),
                base_ranks = scaling_ranks_of(scaling, &scaling->points[base]);
  const double *times = figures[index].times, seconds = times[SCALING_SUM];
  const double speedup = (double)token_heads(point) / (double)token_heads(&scaling->points[base]) *
                         figures[base].times[SCALING_SUM] / seconds * (double)base_ranks;
  char grid[SCALING_NAME_BYTES], asked[SCALING_NAME_BYTES];
  json_t *run = json_pack(
      "{s:s, s:b, s:I, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:I, s:o, s:I, s:o}", "mode", mode_names[mode], "causal",
      (int)problem->is_causal, "ranks", (json_int_t)ranks, "grid", grid_of(point, grid), "scan", point->info.scan, "N",
      (json_int_t)problem->tokens, "seconds", seconds, "spread", figures[index].spread, "efficiency",
      speedup / (double)ranks, "tokens_per_s", (double)problem->batch * (double)problem->tokens / seconds, "bytes_sent",
      (json_int_t)point->bytes_sent, "hidden_share", number_or_null(hidden_share(point)), "peak_memory_bytes",
      (json_int_t)point->memory_bytes, "predicted_seconds", number_or_null(point->predicted_seconds));
  json_t *more = json_pack(
      "{s:I, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:i, s:i}",
      "asked_tokens", (json_int_t)point->asked_tokens, "asked_grid", asked_grid(point, asked), "asked_scan",
      asked_scan(point), "base_ranks", (json_int_t)base_ranks, "speedup", speedup, "rank_ns_per_token_head",
      1e9 * seconds * (double)ranks / (double)token_heads(point), "seconds_features_state",
      times[SCALING_FEATURES_STATE], "seconds_reduce", times[SCALING_REDUCE], "seconds_output", times[SCALING_OUTPUT],
      "seconds_wall", times[SCALING_WALL], "cpu_share", 1 - times[SCALING_LOST_SHARE], "relative_error",
      point->relative_error, "state_bytes", (json_int_t)point->info.state_bytes, "batch", (json_int_t)problem->batch,
      "heads", (json_int_t)problem->heads, "D", (json_int_t)problem->key_width, "E", (json_int_t)problem->value_width,
      "M", (json_int_t)problem->features, "kernel", point->info.kernel, "precision",
      option_at(OPTION_PRECISION)->choices[problem->precision], "threads", point->info.threads, "rounds",
      scaling->n_rounds);
  const bool is_whole = run && more && json_object_update(run, more) == 0;
  json_decref(more);
  if (is_whole) return run;
  json_decref(run);
  return NULL;
}

/* NULL where memory is short. */
static json_t *pack_runs(const struct scaling *scaling, const struct figures *figures) {
  json_t *runs = json_array();
  for (int mode = 0; mode < SCALING_N_MODES; mode++) {
    for (int i = 0; i < scaling->n_points; i++) {
      if (!(scaling->points[i].modes >> mode & 1)) continue;
      if (json_array_append_new(runs, pack_run(scaling, figures, i, (enum scaling_mode)mode)) != 0) {
        json_decref(runs);
        return NULL;
      }
    }
  }
  return runs;
}

/* "AMD EPYC 9654, 2 cores": rank 0's. */
static void describe_machine(char *text, size_t size) {
  char line[256], model[256] = "unknown processor";
  FILE *file = fopen("/proc/cpuinfo", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (sscanf(line, "model name : %255[^\n]", model) == 1) break;
  }
  if (file) fclose(file);
  snprintf(text, size, "%s, %ld logical processors", model, sysconf(_SC_NPROCESSORS_ONLN));
}

/* ---- a file ----------------------------------------------------------------------------------------------------- */

static void write_value(FILE *file, const json_t *value) {
  if (json_is_string(value)) fputs(json_string_value(value), file);
  if (json_is_integer(value)) fprintf(file, "%lld", (long long)json_integer_value(value));
  if (json_is_real(value)) fprintf(file, "%.9g", json_real_value(value));
  if (json_is_boolean(value)) fputs(json_is_true(value) ? "true" : "false", file);
}

static void write_csv(FILE *file, const struct scaling *scaling, const json_t *runs, const char *machine) {
  const struct scaling_point *first = &scaling->points[0];
  char date[32];
  const time_t now = time(NULL);
  strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
  fprintf(file, "# favor %s bench scaling, %s, %s, %s\n", FAVOR_VERSION, date, machine, scaling->command->mpi_version);
  fprintf(file, "# kernel %s, %s, %d thread%s a rank; %lld heads, D=%lld, E=%lld, M=%lld; medians of %d\n",
          first->info.kernel, option_at(OPTION_PRECISION)->choices[scaling->precision], first->info.threads,
          first->info.threads == 1 ? "" : "s", (long long)(first->problem.batch * first->problem.heads),
          (long long)first->problem.key_width, (long long)first->problem.value_width,
          (long long)first->problem.features, scaling->n_rounds);
  fprintf(file, "# %s\n", scaling->command->line);
  size_t i;
  json_t *run, *value;
  const char *key;
  json_array_foreach(runs, i, run) {
    int column = 0;
    if (i == 0) json_object_foreach(run, key, value) fprintf(file, "%s%s", column++ > 0 ? "," : "", key);
    column = 0;
    fputs(i == 0 ? "\n" : "", file);
    json_object_foreach(run, key, value) {
      fputs(column++ > 0 ? "," : "", file);
      write_value(file, value);
    }
    fputc('\n', file);
  }
}

void scaling_file_open(const struct scaling *scaling, struct replacement *file) {
  const char *path = options_text(scaling->command->options, OPTION_CSV);
  if (path[0] == '\0') return;
  if (!options_flag(scaling->command->options, OPTION_OVERWRITE) && access(path, F_OK) == 0) {
    dist_fail(scaling->context, FAVOR_ECREATE, "%s exists; give --overwrite to replace it", path);
    return;
  }
  if (!replacement_open(file, path)) {
    dist_fail(scaling->context, FAVOR_ECREATE, "cannot create %s: %s", path, strerror(errno));
  }
}

static void finish_file(const struct scaling *scaling, struct replacement *file, const json_t *runs,
                        const char *machine) {
  const char *path = options_text(scaling->command->options, OPTION_CSV);
  write_csv(file->file, scaling, runs, machine);
  if (!replacement_finish(file, path)) {
    dist_fail(scaling->context, FAVOR_EIO, "writing %s: %s", path, strerror(errno));
  }
}

/* ---- a table ---------------------------------------------------------------------------------------------------- */

static double number_of(const json_t *run, const char *key) { return json_number_value(json_object_get(run, key)); }
static const char *text_of(const json_t *run, const char *key) { return json_string_value(json_object_get(run, key)); }

static const char *percent_or_dash(const json_t *run, const char *key, char text[SCALING_NAME_BYTES]) {
  snprintf(text, SCALING_NAME_BYTES, json_is_null(json_object_get(run, key)) ? "-" : "%.0f%%",
           100 * number_of(run, key));
  return text;
}

static void print_run(const json_t *run) {
  char sent[32], memory[32], hidden[SCALING_NAME_BYTES], cpu[SCALING_NAME_BYTES], predicted[SCALING_NAME_BYTES],
      scan[SCALING_NAME_BYTES];
  const bool is_chosen = strcmp(text_of(run, "asked_scan"), "auto") == 0 && strcmp(text_of(run, "scan"), "none") != 0 &&
                         json_is_true(json_object_get(run, "causal"));
  snprintf(scan, sizeof scan, "%s%s", text_of(run, "scan"), is_chosen ? " (auto)" : "");
  snprintf(predicted, sizeof predicted, json_is_null(json_object_get(run, "predicted_seconds")) ? "-" : "%.4f",
           number_of(run, "predicted_seconds"));
  printf("%-7s%-14s%6.0f%8s  %-16s%10.0f%10.4f%7.1f%%%5s%8.3f%10.3f%10.1f%11s%8s%11s%10s\n", text_of(run, "mode"),
         json_is_true(json_object_get(run, "causal")) ? "causal" : "bidirectional", number_of(run, "ranks"),
         text_of(run, "grid"), scan, number_of(run, "N"), number_of(run, "seconds"), 100 * number_of(run, "spread"),
         percent_or_dash(run, "cpu_share", cpu), number_of(run, "efficiency"), 1e-6 * number_of(run, "tokens_per_s"),
         number_of(run, "rank_ns_per_token_head"), report_bytes(number_of(run, "bytes_sent"), sent),
         percent_or_dash(run, "hidden_share", hidden), report_bytes(number_of(run, "peak_memory_bytes"), memory),
         predicted);
}

static void print_table(const struct scaling *scaling, const json_t *runs, const char *machine) {
  const struct scaling_point *first = &scaling->points[0];
  printf("%s; kernel %s, %s, %d thread%s a rank\n", machine, first->info.kernel,
         option_at(OPTION_PRECISION)->choices[scaling->precision], first->info.threads,
         first->info.threads == 1 ? "" : "s");
  printf("%lld heads, D=%lld, E=%lld, M=%lld; every answer has the same bits on any ranks, and was held against its "
         "definition\n\n",
         (long long)(first->problem.batch * first->problem.heads), (long long)first->problem.key_width,
         (long long)first->problem.value_width, (long long)first->problem.features);
  printf("%-7s%-14s%6s%8s  %-16s%10s%10s%8s%5s%8s%10s%10s%11s%8s%11s%10s\n", "mode", "", "ranks", "grid", "scan", "N",
         "seconds", "spread", "CPU", "effic.", "Mtokens/s", "rank ns", "sent", "hidden", "memory", "predicted");
  size_t i;
  json_t *run;
  bool is_busy = false;
  json_array_foreach(runs, i, run) {
    print_run(run);
    is_busy = is_busy || number_of(run, "cpu_share") < BENCH_IDLE_SHARE;
  }
  printf(
      "\nseconds: features_state + reduce + output of the slowest rank, medians of %d; efficiency against the fewest "
      "ranks;\nrank ns: time of all ranks a token and head; sent, memory: of the rank that has most, memory being the "
      "plan's and the arrays'\n",
      scaling->n_rounds);
  if (is_busy) puts("others used the cores meanwhile (CPU): times are longer than on an idle machine");
}

void scaling_report(const struct scaling *scaling, struct replacement *file) {
  const struct options *options = scaling->command->options;
  struct figures *figures = calloc((size_t)scaling->n_points, sizeof *figures);
  char machine[320];
  describe_machine(machine, sizeof machine);
  if (figures) conclude(scaling, figures);
  json_t *runs = figures ? pack_runs(scaling, figures) : NULL;
  free(figures);
  if (!runs) {
    dist_fail(scaling->context, FAVOR_ENOMEM, "no memory to build the report");
    return;
  }
  if (file->file) finish_file(scaling, file, runs, machine);
  if (options_flag(options, OPTION_JSON)) {
    json_t *object = report_object(scaling->command);
    if (object) {
      json_object_set_new(object, "machine", json_string(machine));
      json_object_set(object, "runs", runs);
    }
    report_json(scaling->command, object);
  } else if (!options_flag(options, OPTION_QUIET)) {
    print_table(scaling, runs, machine);
  }
  json_decref(runs);
}

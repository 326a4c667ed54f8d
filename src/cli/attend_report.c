#include <stdio.h>

#include "cli/attend.h"
#include "cli/report.h"
#include "dist/agree.h"
#include "feature/map.h"

static const char *const phase_names[ATTEND_N_PHASES] = {
    [ATTEND_PILOT] = "pilot",           [ATTEND_READ] = "read",       [ATTEND_FEATURES_STATE] = "features_state",
    [ATTEND_REDUCE] = "reduce",         [ATTEND_OUTPUT] = "output",   [ATTEND_WRITE] = "write",
    [ATTEND_CHECKPOINT] = "checkpoint", [ATTEND_CERTIFY] = "certify", [ATTEND_TOTAL] = "total",
};

/* What the ranks together have to say. */
struct summary {
  double seconds[ATTEND_N_PHASES]; /* of the slowest rank, phase by phase */
  int64_t peak_bytes, peak_rank, bytes_sent;
  double in_flight_s, blocked_s; /* means over the ranks: states on their way, and waited for */
  double tokens_per_s, gflops;
  char grid[48];
};

static enum favor_status gather(struct attend *attend, struct summary *summary) {
  struct favor_plan_times times;
  favor_plan_times(attend->plan, &times);
  for (int i = 0; i < ATTEND_N_PHASES; i++) summary->seconds[i] = attend->seconds[i];
  summary->bytes_sent = times.bytes_sent;
  double traffic[] = {times.in_flight_s, times.blocked_s};
  enum favor_status status = dist_max_double(attend->context, summary->seconds, ATTEND_N_PHASES);
  if (status == FAVOR_OK) status = dist_max_int64(attend->context, &summary->bytes_sent, 1);
  if (status == FAVOR_OK) status = dist_sum_double(attend->context, traffic, 2);
  summary->in_flight_s = traffic[0] / favor_context_size(attend->context);
  summary->blocked_s = traffic[1] / favor_context_size(attend->context);
  if (status == FAVOR_OK) status = report_peak_memory(attend->context, &summary->peak_bytes, &summary->peak_rank);
  double total = summary->seconds[ATTEND_TOTAL];
  summary->tokens_per_s = (double)attend->problem.batch * (double)attend->problem.tokens / total;
  summary->gflops = 1e-9 * attend->info.flops / total;
  snprintf(summary->grid, sizeof summary->grid, "%lldx%lld", (long long)attend->info.grid_heads,
           (long long)attend->info.grid_tokens);
  return status;
}

json_t *attend_pack_shape(const struct favor_problem *problem) {
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "batch", (json_int_t)problem->batch, "heads",
                   (json_int_t)problem->heads, "kv_heads", (json_int_t)problem->kv_heads, "tokens",
                   (json_int_t)problem->tokens, "key_width", (json_int_t)problem->key_width, "value_width",
                   (json_int_t)problem->value_width, "features", (json_int_t)problem->features);
}

static json_t *pack_seconds(const struct summary *summary) {
  json_t *seconds = json_object();
  for (int i = 0; i < ATTEND_N_PHASES; i++) {
    json_object_set_new(seconds, phase_names[i], json_real(summary->seconds[i]));
  }
  return seconds;
}

/* An eps or a guard makes another kernel of a map that estimates softmax. */
static struct certificate_subject subject_of(const struct attend *attend) {
  const struct favor_problem *problem = &attend->problem;
  bool is_plain = map_eps(problem->map, problem->eps) == 0 && problem->guard_rule == FAVOR_GUARD_NONE;
  return (struct certificate_subject){.is_features = problem->method == FAVOR_METHOD_FAVOR,
                                      .estimates_softmax = is_plain && !map_at(problem->map)->is_generalised};
}

/* null where there was none. */
static json_t *pack_certificate(const struct attend *attend) {
  const struct certificate_subject subject = subject_of(attend);
  return attend->has_certificate ? certificate_pack(&attend->certificate, &subject) : json_null();
}

static json_t *pack_pilot(const struct attend *attend) {
  const struct pilot *pilot = &attend->pilot;
  if (!attend->has_pilot) return json_null();
  json_t *trials = json_array();
  for (int i = 0; i < pilot->n_trials; i++) {
    json_array_append_new(trials, json_pack("{s:I, s:o}", "features", (json_int_t)pilot->trials[i].features,
                                            "relative_error", certificate_number(pilot->trials[i].relative_error)));
  }
  return json_pack("{s:I, s:I, s:f, s:b, s:o}", "tokens", (json_int_t)pilot->tokens, "heads", (json_int_t)pilot->heads,
                   "target_error", pilot->target, "reached", (int)pilot->is_reached, "trials", trials);
}

/* hidden_share: of the time in which states travelled, that in which ranks computed; null where none travelled. */
static json_t *pack_communication(const struct summary *summary) {
  const bool has_any = summary->in_flight_s > 0;
  return json_pack("{s:f, s:f, s:o}", "seconds", summary->in_flight_s, "blocked_seconds", summary->blocked_s,
                   "hidden_share", has_any ? json_real(1 - summary->blocked_s / summary->in_flight_s) : json_null());
}

static json_t *pack(const struct attend *attend, const struct summary *summary) {
  const struct favor_plan_info *info = &attend->info;
  json_t *object = report_object(attend->command);
  json_t *more = json_pack(
      "{s:i, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:f, s:f, s:I, s:I, s:o, s:I, s:b, s:I, s:I, s:o, s:o}", "threads",
      info->threads, "binding", info->binding, "kernel", info->kernel, "grid", summary->grid, "scan", info->scan, "io",
      options_text(attend->command->options, OPTION_IO), "shape", attend_pack_shape(&attend->problem), "seconds",
      pack_seconds(summary), "tokens_per_s", summary->tokens_per_s, "gflops", summary->gflops, "peak_memory_bytes",
      (json_int_t)summary->peak_bytes, "bytes_sent", (json_int_t)summary->bytes_sent, "communication",
      pack_communication(summary), "state_bytes", (json_int_t)info->state_bytes, "strictly_causal",
      (int)info->is_strictly_causal, "checkpoints", (json_int_t)attend->n_checkpoints, "resumed_at",
      (json_int_t)attend->resumed.position.tokens_emitted, "certificate", pack_certificate(attend), "pilot",
      pack_pilot(attend));
  bool is_complete = object && more && json_object_update(object, more) == 0 &&
                     json_object_set_new(object, "predicted_seconds", attend_pack_prediction(attend)) == 0;
  json_decref(more);
  if (is_complete) return object;
  json_decref(object);
  return NULL;
}

static void print_pilot(const struct pilot *pilot) {
  printf("  pilot    %lld tokens of %lld heads: error", (long long)pilot->tokens, (long long)pilot->heads);
  for (int i = 0; i < pilot->n_trials; i++)
    printf("%s %.3g with %lld", i > 0 ? "," : "", pilot->trials[i].relative_error,
           (long long)pilot->trials[i].features);
  printf(" features; the target of %.3g is %s\n", pilot->target,
         pilot->is_reached ? "reached"
                           : "not reached, so the most were taken; raise --features-max, or where the error hardly "
                             "falls try other inputs or maps");
}

/* On stderr, where there is no table to say it in. */
static void warn(const struct attend *attend) {
  const struct pilot *pilot = &attend->pilot;
  if (!command_is_speaker(attend->command) || options_flag(attend->command->options, OPTION_QUIET)) return;
  const struct certificate_subject subject = subject_of(attend);
  if (attend->has_certificate && certificate_is_blind(&attend->certificate))
    fprintf(stderr, "favor: warning: %s\n", certificate_advice(&subject));
  if (attend->has_pilot && !pilot->is_reached)
    fprintf(stderr,
            "favor: warning: the target error of %.3g was not reached: with %lld features the pilot's error is %.3g; "
            "raise --features-max; where the error hardly falls, features do not suit the inputs\n",
            pilot->target, (long long)pilot->trials[pilot->n_trials - 1].features,
            pilot->trials[pilot->n_trials - 1].relative_error);
}

static void print_table(const struct attend *attend, const struct summary *summary) {
  static const char *const key_maxima[] = {[FAVOR_KEY_MAX_HEAD] = "head", [FAVOR_KEY_MAX_TENSOR] = "tensor"};
  const struct favor_problem *problem = &attend->problem;
  const struct favor_plan_info *info = &attend->info;
  const struct options *options = attend->command->options;
  char sent[32], state[32];
  printf("%s: attention of %s\n", options_text(options, OPTION_OUTPUT), options->operands[0]);
  printf("  shape    batch %lld, heads %lld (key heads %lld), tokens %lld, widths %lld and %lld, segments %lld\n",
         (long long)problem->batch, (long long)problem->heads, (long long)problem->kv_heads, (long long)problem->tokens,
         (long long)problem->key_width, (long long)problem->value_width,
         (long long)(problem->segments ? problem->n_segments : 1));
  if (problem->method == FAVOR_METHOD_FAVOR) {
    printf("  method   %s, %s, %lld features, ", map_at(problem->map)->is_generalised ? "generalised" : "FAVOR+",
           map_at(problem->map)->name, (long long)problem->features);
    if (problem->window >= 0) printf("exact within %lld tokens, ", (long long)problem->window);
  } else {
    printf("  method   %s, ", options_text(options, OPTION_METHOD));
  }
  printf("%s, %s\n", problem->is_causal ? "causal" : "bidirectional", options_text(options, OPTION_PRECISION));
  if (options_integer(options, OPTION_PROFILE) != 0) printf("  profile  %s\n", options_text(options, OPTION_PROFILE));
  if (estimates_are_used(problem)) {
    printf("  with     key shift %s, balance %s, ", options_text(options, OPTION_KEY_SHIFT),
           options_text(options, OPTION_BALANCE));
    if (map_needs_key_max(problem)) printf("key maximum of the %s, ", key_maxima[problem->key_max]);
    printf("%s%s\n", problem->estimates ? "as given" : "estimated from the data",
           !problem->is_causal        ? ""
           : info->is_strictly_causal ? "; strictly causal"
                                      : "; not strictly causal");
  }
  printf("  run      %d rank%s as %s, %d thread%s, kernel %s, scan %s, io %s\n", favor_context_size(attend->context),
         favor_context_size(attend->context) == 1 ? "" : "s", summary->grid, info->threads,
         info->threads == 1 ? "" : "s", info->kernel, info->scan, options_text(options, OPTION_IO));
  printf("  seconds ");
  for (int i = 0; i < ATTEND_N_PHASES; i++) {
    printf(" %s %.3f%s", phase_names[i], summary->seconds[i], i + 1 < ATTEND_N_PHASES ? "," : "\n");
  }
  attend_print_prediction(attend);
  if (attend->n_checkpoints > 0 || attend->resumed.position.tokens_absorbed > 0)
    printf("  resume   went on at token %lld, made %lld checkpoints\n",
           (long long)attend->resumed.position.tokens_emitted, (long long)attend->n_checkpoints);
  printf("  speed    %.4g tokens/s, %.4g Gflop/s\n", summary->tokens_per_s, summary->gflops);
  printf("  states   %s for all heads, at most %s sent by a rank\n", report_bytes((double)info->state_bytes, state),
         report_bytes((double)summary->bytes_sent, sent));
  if (summary->in_flight_s > 0)
    printf("  on their way for %.3f s a rank, %.1f %% of it hidden behind arithmetic\n", summary->in_flight_s,
           100 * (1 - summary->blocked_s / summary->in_flight_s));
  if (attend->has_pilot) print_pilot(&attend->pilot);
  const struct certificate_subject subject = subject_of(attend);
  if (attend->has_certificate) certificate_print(&attend->certificate, &subject);
}

enum favor_status attend_report_finished(struct attend *attend) {
  const struct options *options = attend->command->options;
  if (options_flag(options, OPTION_JSON)) {
    json_t *object = report_object(attend->command);
    if (object) json_object_set_new(object, "was_complete", json_true());
    report_json(attend->command, object);
  } else if (command_is_speaker(attend->command) && !options_flag(options, OPTION_QUIET)) {
    printf("%s is complete: the run that made it was killed after its end\n", options_text(options, OPTION_OUTPUT));
  }
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

enum favor_status attend_report(struct attend *attend) {
  const struct options *options = attend->command->options;
  struct summary summary;
  enum favor_status status = gather(attend, &summary);
  if (status != FAVOR_OK) return status;
  if (options_flag(options, OPTION_JSON)) {
    report_json(attend->command, pack(attend, &summary));
    warn(attend);
  } else if (command_is_speaker(attend->command) && !options_flag(options, OPTION_QUIET)) {
    print_table(attend, &summary);
  }
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

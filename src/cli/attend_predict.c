/* --machine: what the run should have taken, beside what it took. */
#include <stdio.h>

#include "cli/attend.h"
#include "cli/option_table.h"
#include "dist/agree.h"

static bool has_machine(const struct attend *attend) {
  return option_is_active(attend->command->options, OPTION_MACHINE);
}

enum favor_status attend_load_machine(struct attend *attend) {
  if (!has_machine(attend)) return FAVOR_OK;
  const char *path = options_text(attend->command->options, OPTION_MACHINE);
  enum favor_status status = machine_load(attend->context, path, &attend->machine);
  return status == FAVOR_OK ? favor_context_set_costs(attend->context, &attend->machine.figures.costs) : status;
}

void attend_set_file_bytes(const struct attend *attend, struct favor_job *job) {
  const struct inputs *inputs = &attend->inputs;
  job->q_bytes = (int)favor_type_bytes(inputs->q_shape.type);
  job->k_bytes = (int)favor_type_bytes(inputs->k_shape.type);
  job->v_bytes = (int)favor_type_bytes(inputs->v_shape.type);
  job->out_bytes = (int)favor_type_bytes(attend->out_type);
}

/* False without a machine file, where the run is but the end of another, or where there is no prediction. */
static bool predict(const struct attend *attend, struct favor_prediction *prediction) {
  if (!has_machine(attend) || attend->resumed.position.tokens_absorbed > 0) return false;
  struct favor_job job = {
      .ranks = attend->context->size, .nodes = attend->context->n_nodes, .threads = attend->info.threads};
  attend_set_file_bytes(attend, &job);
  return machine_predict(attend->context, &attend->problem, &job, &attend->machine, prediction);
}

json_t *attend_pack_seconds(const struct favor_predicted_seconds *seconds) {
  return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "read", seconds->read, "features_state",
                   seconds->features_state, "reduce", seconds->reduce, "output", seconds->output, "write",
                   seconds->write, "run", seconds->run, "total", seconds->total);
}

void attend_print_seconds(const char *heading, const struct favor_predicted_seconds *seconds) {
  printf("  %-8s read %.3f, features_state %.3f, reduce %.3f, output %.3f, write %.3f, total %.3f\n", heading,
         seconds->read, seconds->features_state, seconds->reduce, seconds->output, seconds->write, seconds->total);
}

bool attend_has_rates(const struct attend *attend) {
  return attend->problem.method == FAVOR_METHOD_FAVOR && attend->problem.window < 0;
}

/* ", from that of ..." where the rate is not of this very work. */
static void describe_source(const struct favor_prediction *prediction, char *text, size_t size) {
  const struct favor_rate *from = &prediction->from;
  *text = '\0';
  if (machine_is_same_subject(&prediction->rate, from)) return;
  snprintf(text, size, ", from the rate of D=%lld E=%lld M=%lld, %s, %s, %d thread%s", (long long)from->key_width,
           (long long)from->value_width, (long long)from->features, option_at(OPTION_MAP)->choices[from->map],
           option_at(OPTION_PROJECTION)->choices[from->projection], from->threads, from->threads == 1 ? "" : "s");
}

const char *attend_describe_rates(const struct attend *attend, const struct favor_prediction *prediction, char *text,
                                  size_t size) {
  const char *path = options_text(attend->command->options, OPTION_MACHINE);
  if (prediction->is_rate_measured) {
    char source[160];
    describe_source(prediction, source, sizeof source);
    snprintf(text, size, "%s%s", path, source);
  } else if (has_machine(attend)) {
    snprintf(text, size, "%s has no rates of kernel %s %s: default figures", path, prediction->kernel,
             option_at(OPTION_PRECISION)->choices[attend->problem.precision]);
  } else {
    snprintf(text, size, "default figures; measure this machine with favor bench kernel --machine FILE");
  }
  return text;
}

json_t *attend_pack_prediction(const struct attend *attend) {
  struct favor_prediction prediction;
  return predict(attend, &prediction) ? attend_pack_seconds(&prediction.seconds) : json_null();
}

void attend_print_prediction(const struct attend *attend) {
  struct favor_prediction prediction;
  char rates[OPTION_TEXT_BYTES + 192];
  if (!predict(attend, &prediction)) return;
  attend_print_seconds("expected", &prediction.seconds);
  if (attend_has_rates(attend) &&
      (!prediction.is_rate_measured || !machine_is_same_subject(&prediction.rate, &prediction.from)))
    printf("           %s\n", attend_describe_rates(attend, &prediction, rates, sizeof rates));
}

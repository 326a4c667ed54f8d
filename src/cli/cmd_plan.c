/* `favor plan`: what `attend` would do with the same options, on ranks that need not be there. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/attend.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "dist/agree.h"

/* The problem of --shape: tensors as `make` would write them. */
static void take_shape(struct attend *attend, struct favor_job *job) {
  const struct options *options = attend->command->options;
  struct favor_problem *problem = &attend->problem;
  const int64_t *shape = options->values[OPTION_SHAPE].integers, kv_heads = options_integer(options, OPTION_KV_HEADS),
                value_width = options_integer(options, OPTION_VALUE_WIDTH),
                out_type = options_integer(options, OPTION_OUT_TYPE); /* 0 is auto */
  const enum favor_type type = (enum favor_type)options_integer(options, OPTION_TYPE);
  attend_take_options(options, problem);
  problem->batch = shape[0];
  problem->heads = shape[1];
  problem->kv_heads = kv_heads > 0 ? kv_heads : shape[1];
  problem->tokens = shape[2];
  problem->key_width = shape[3];
  problem->value_width = value_width > 0 ? value_width : shape[3];
  attend_fix_features(options, problem);
  problem->caller_bytes = favor_output_memory_bytes();
  job->q_bytes = job->k_bytes = job->v_bytes = (int)favor_type_bytes(type);
  job->out_bytes = out_type == 0 ? job->q_bytes : (int)favor_type_bytes((enum favor_type)(out_type - 1));
}

static void check_options(const struct attend *attend) {
  const struct options *options = attend->command->options;
  const bool has_shape = option_is_active(options, OPTION_SHAPE), has_file = options->n_operands > 0;
  if (has_shape == has_file) {
    dist_fail(attend->context, FAVOR_EUSAGE, "%s; it goes: favor plan IN, or favor plan --shape B,H,N,D",
              has_shape ? "a file and a --shape are one too many" : "nothing to plan for");
  } else if (options_number(options, OPTION_TARGET_ERROR) > 0) {
    dist_fail(
        attend->context, FAVOR_EUSAGE,
        "--target-error finds the features in a run, and plan runs nothing; give the --features that it may need");
  } else if (has_shape &&
             (option_is_active(options, OPTION_PROJECTION_FILE) || option_is_active(options, OPTION_ESTIMATES_FILE))) {
    dist_fail(attend->context, FAVOR_EUSAGE,
              "--projection-file and --estimates-file go with a file IN; leave them out");
  }
}

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* A core for each thread, on nodes of so many cores, unless told otherwise. */
static void choose_job(const struct attend *attend, int cores, struct favor_job *job) {
  const struct options *options = attend->command->options;
  const int64_t asked = options_integer(options, OPTION_THREADS), ranks = options_integer(options, OPTION_RANKS);
  int64_t threads = asked > 0                   ? asked
                    : getenv("OMP_NUM_THREADS") ? omp_get_max_threads()
                                                : 0,
          nodes = options_integer(options, OPTION_NODES);
  job->ranks = ranks > 0 ? ranks : attend->context->size;
  if (nodes == 0 && ranks == 0) nodes = attend->context->n_nodes;
  if (nodes == 0)
    nodes = ceil_divide(job->ranks, threads < cores && threads > 0 ? cores / threads : threads > 0 ? 1 : cores);
  if (threads == 0) threads = cores * nodes / job->ranks;
  job->nodes = nodes;
  job->threads = threads > 0 ? (int)threads : 1;
}

static json_t *pack_rate(const struct favor_prediction *prediction) {
  const struct favor_rate *rate = &prediction->rate;
  return json_pack("{s:f, s:f, s:f, s:f, s:f, s:b}", "absorb_ns", 1e9 * rate->absorb_s, "emit_ns", 1e9 * rate->emit_s,
                   "causal_ns", 1e9 * rate->causal_s, "keep_ns", 1e9 * rate->keep_s, "kept_ns", 1e9 * rate->kept_s,
                   "is_measured", (int)prediction->is_rate_measured);
}

static json_t *pack(const struct attend *attend, const struct favor_job *job,
                    const struct favor_prediction *prediction) {
  char grid[48];
  const char *machine = options_text(attend->command->options, OPTION_MACHINE);
  const int64_t held = (int64_t)(prediction->memory_bytes + prediction->held_bytes), sent = prediction->bytes_sent;
  snprintf(grid, sizeof grid, "%lldx%lld", (long long)prediction->grid_heads, (long long)prediction->grid_tokens);
  json_t *object = report_object(attend->command);
  json_t *more = json_pack(
      "{s:I, s:I, s:i, s:s, s:s, s:s, s:s, s:o, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:f, s:o, s:o, s:o}",
      "ranks", (json_int_t)job->ranks, "nodes", (json_int_t)job->nodes, "threads", job->threads, "kernel",
      prediction->kernel, "grid", grid, "grid_reason", prediction->grid_reason, "scan", prediction->scan, "shape",
      attend_pack_shape(&attend->problem), "is_streamed", (int)prediction->is_streamed, "run_tokens",
      (json_int_t)prediction->run_tokens, "block_tokens", (json_int_t)prediction->block_tokens, "blocks",
      (json_int_t)prediction->n_blocks, "state_bytes", (json_int_t)prediction->state_bytes, "memory_bytes",
      (json_int_t)held, "plan_bytes", (json_int_t)prediction->memory_bytes, "bytes_read",
      (json_int_t)prediction->bytes_read, "bytes_sent", sent < 0 ? json_null() : json_integer(sent), "bytes_written",
      (json_int_t)prediction->bytes_written, "flops", prediction->flops, "predicted_seconds",
      attend_pack_seconds(&prediction->seconds), "machine", machine[0] ? json_string(machine) : json_null(), "rate",
      pack_rate(prediction));
  bool is_complete = object && more && json_object_update(object, more) == 0;
  json_decref(more);
  if (is_complete) return object;
  json_decref(object);
  return NULL;
}

static void print_table(const struct attend *attend, const struct favor_job *job,
                        const struct favor_prediction *prediction) {
  const struct favor_problem *problem = &attend->problem;
  const struct options *options = attend->command->options;
  char state[32], plan[32], held[32], read[32], written[32], sent[32], rates[OPTION_TEXT_BYTES + 192];
  printf("plan for %s\n", options->n_operands > 0 ? options->operands[0] : options_text(options, OPTION_SHAPE));
  printf("  shape    batch %lld, heads %lld (key heads %lld), tokens %lld, widths %lld and %lld, segments %lld\n",
         (long long)problem->batch, (long long)problem->heads, (long long)problem->kv_heads, (long long)problem->tokens,
         (long long)problem->key_width, (long long)problem->value_width,
         (long long)(problem->segments ? problem->n_segments : 1));
  printf("  run      ranks %lld, nodes %lld, threads of a rank %d, kernel %s\n", (long long)job->ranks,
         (long long)job->nodes, job->threads, prediction->kernel);
  printf("  grid     %lldx%lld heads by tokens (%s), scan %s\n", (long long)prediction->grid_heads,
         (long long)prediction->grid_tokens, prediction->grid_reason, prediction->scan);
  printf("  schedule %lld block%s of at most %lld tokens a rank, in runs of %lld\n", (long long)prediction->n_blocks,
         prediction->n_blocks == 1 ? "" : "s", (long long)prediction->block_tokens, (long long)prediction->run_tokens);
  printf("  memory   %s a rank: plan %s, blocks and buffers %s\n",
         report_bytes((double)(prediction->memory_bytes + prediction->held_bytes), state),
         report_bytes((double)prediction->memory_bytes, plan), report_bytes((double)prediction->held_bytes, held));
  printf("  states   %s for all heads, at most %s sent by a rank\n",
         report_bytes((double)prediction->state_bytes, state),
         prediction->bytes_sent < 0 ? "an unknown part of the tokens"
                                    : report_bytes((double)prediction->bytes_sent, sent));
  printf("  files    %s read, %s written\n", report_bytes((double)prediction->bytes_read, read),
         report_bytes((double)prediction->bytes_written, written));
  attend_print_seconds("seconds", &prediction->seconds);
  if (!attend_has_rates(attend)) return;
  const struct favor_rate *rate = &prediction->rate;
  printf("  figures  a token and head: absorb %.0f ns, emit %.0f, causal pass %.0f", 1e9 * rate->absorb_s,
         1e9 * rate->emit_s, 1e9 * rate->causal_s);
  if (rate->kept_s > 0) printf(", keeping features %.0f and %.0f", 1e9 * rate->keep_s, 1e9 * rate->kept_s);
  printf(", %s\n", attend_describe_rates(attend, prediction, rates, sizeof rates));
}

/* Collective, before the prediction: the problem, and of which file it is. */
static enum favor_status describe(struct attend *attend, struct favor_job *job) {
  if (command_is_speaker(attend->command)) check_options(attend);
  enum favor_status status = dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = attend_load_machine(attend);
  if (status != FAVOR_OK) return status;
  if (attend->command->options->n_operands == 0) {
    take_shape(attend, job);
    return FAVOR_OK;
  }
  status = attend_describe(attend);
  if (status == FAVOR_OK) attend_set_file_bytes(attend, job);
  return status == FAVOR_OK ? attend_read_estimates(attend) : status;
}

enum favor_status cmd_plan(struct command *command) {
  static struct attend attend; /* too large for a stack */
  attend = (struct attend){.command = command, .context = command->context};
  struct favor_job job = {0};
  struct favor_prediction prediction;
  enum favor_status status = describe(&attend, &job);
  const bool has_machine = option_is_active(command->options, OPTION_MACHINE);
  const struct favor_machine *const given = &attend.machine.figures;
  struct favor_machine machine = has_machine ? *given : favor_machine_default();
  if (machine.cores == 0) machine.cores = machine_count_cores();
  if (status == FAVOR_OK && command_is_speaker(command)) {
    choose_job(&attend, machine.cores, &job);
    favor_predict(attend.context, &attend.problem, &job, &machine, &prediction);
  }
  if (status == FAVOR_OK) status = dist_agree(attend.context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK && options_flag(command->options, OPTION_JSON)) {
    report_json(command, command_is_speaker(command) ? pack(&attend, &job, &prediction) : json_null());
  } else if (status == FAVOR_OK && command_is_speaker(command) && !options_flag(command->options, OPTION_QUIET)) {
    print_table(&attend, &job, &prediction);
  }
  attend_release(&attend);
  return status == FAVOR_OK ? dist_agree(command->context, DIST_SITE_COMMAND, 0, "") : status;
}

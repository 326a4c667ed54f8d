#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/attend_checkpoint.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "cli/stop.h"
#include "dist/agree.h"
#include "feature/map.h"

static enum favor_status open_inputs(struct attend *attend) {
  const struct options *options = attend->command->options;
  struct input_names names = {
      .query = options_text(options, OPTION_QUERY),
      .key = options_text(options, OPTION_KEY),
      .value = options_text(options, OPTION_VALUE),
      .segments = options_text(options, OPTION_SEGMENTS),
      .is_segments_required = option_is_active(options, OPTION_SEGMENTS),
      .layout = (enum favor_layout)options_integer(options, OPTION_LAYOUT),
      .io = (enum favor_io_mode)options_integer(options, OPTION_IO),
  };
  return inputs_open(attend->context, options->operands[0], &names, &attend->inputs);
}

/* Local, rank 0: is OUT named, and not IN under another name? */
static void check_output_path(struct attend *attend) {
  const struct options *options = attend->command->options;
  const char *in = options->operands[0], *out = options_text(options, OPTION_OUTPUT);
  struct stat in_stat, out_stat;
  if (out[0] == '\0') {
    dist_fail(attend->context, FAVOR_EUSAGE, "no output file; add -o OUT");
  } else if (stat(in, &in_stat) == 0 && stat(out, &out_stat) == 0 && in_stat.st_dev == out_stat.st_dev &&
             in_stat.st_ino == out_stat.st_ino) {
    dist_fail(attend->context, FAVOR_EUSAGE, "the output %s is the input itself; choose another name", out);
  }
}

void attend_take_options(const struct options *options, struct favor_problem *problem) {
  *problem = favor_problem_default();
  problem->is_causal = options_flag(options, OPTION_CAUSAL);
  problem->method = (enum favor_method)options_integer(options, OPTION_METHOD);
  problem->map = (enum favor_map)options_integer(options, OPTION_MAP);
  problem->features = options_integer(options, OPTION_FEATURES);
  problem->projection = (enum favor_projection)options_integer(options, OPTION_PROJECTION);
  problem->row_norm = (enum favor_row_norm)options_integer(options, OPTION_ROW_NORM);
  problem->has_projection_per_head = options_flag(options, OPTION_PROJECTION_PER_HEAD);
  problem->seed = (uint64_t)options_integer(options, OPTION_SEED);
  problem->layer = (uint64_t)options_integer(options, OPTION_LAYER);
  problem->redraw = (uint64_t)options_integer(options, OPTION_REDRAW);
  problem->scale = options_number(options, OPTION_SCALE);
  bool is_eps_automatic = strcmp(options_text(options, OPTION_EPS), "auto") == 0;
  problem->eps = is_eps_automatic ? -1 : options_number(options, OPTION_EPS);
  problem->is_negative_allowed = options_flag(options, OPTION_ALLOW_NEGATIVE);
  problem->key_shift = (enum favor_key_shift)options_integer(options, OPTION_KEY_SHIFT);
  problem->balance = (enum favor_balance)options_integer(options, OPTION_BALANCE);
  if (problem->map == FAVOR_MAP_OPRF && !option_is_active(options, OPTION_ROW_NORM)) {
    problem->row_norm = FAVOR_ROW_NORM_CHI; /* it has no other */
  }
  problem->key_max = (enum favor_key_max)options_integer(options, OPTION_KEY_MAX);
  /* Options that say something else have been refused. */
  if (options_integer(options, OPTION_PROFILE) != 0) {
    favor_problem_set_profile(problem, options_text(options, OPTION_PROFILE));
  }
  problem->window = options_integer(options, OPTION_WINDOW);
  problem->global_tokens = options_integer(options, OPTION_GLOBAL_TOKENS);
  problem->lsh_rounds = options_integer(options, OPTION_LSH_ROUNDS);
  problem->lsh_chunk = options_integer(options, OPTION_LSH_CHUNK);
  problem->precision = (enum favor_precision)options_integer(options, OPTION_PRECISION);
  problem->kernel = options_text(options, OPTION_KERNEL);
  problem->threads = (int)options_integer(options, OPTION_THREADS);
  problem->grid_heads = options->values[OPTION_GRID].integers[0];
  problem->grid_tokens = options->values[OPTION_GRID].integers[1];
  problem->scan = (enum favor_scan)options_integer(options, OPTION_SCAN);
  problem->block_tokens = options_integer(options, OPTION_BLOCK_TOKENS);
  problem->memory_bytes = options_integer(options, OPTION_MEMORY);
  problem->is_streamed = true;
  problem->blocks_held = ATTEND_N_BLOCKS;
}

void attend_fix_features(const struct options *options, struct favor_problem *problem) {
  const bool are_fixed = problem->projection == FAVOR_PROJECTION_NONE;
  if (are_fixed && !option_is_active(options, OPTION_FEATURES)) problem->features = problem->key_width;
}

/* The same on every rank. */
static void take_projection(struct attend *attend, const char *path, int n_dims, const int64_t *dims) {
  const struct options *options = attend->command->options;
  struct favor_problem *problem = &attend->problem;
  if (n_dims != 2 && n_dims != 3) {
    dist_fail(attend->context, FAVOR_EDATA, "%s: the projection has %d dimensions; [M][D] or [G][M][D] is needed", path,
              n_dims);
    return;
  }
  int64_t features = dims[n_dims - 2], width = dims[n_dims - 1];
  if (width != problem->key_width || (n_dims == 3 && dims[0] != problem->kv_heads)) {
    dist_fail(attend->context, FAVOR_EDATA,
              "%s: the projection is for %lld key heads of width %lld, the input has %lld of width %lld", path,
              (long long)(n_dims == 3 ? dims[0] : problem->kv_heads), (long long)width, (long long)problem->kv_heads,
              (long long)problem->key_width);
  } else if (option_is_active(options, OPTION_FEATURES) && features != problem->features) {
    dist_fail(attend->context, FAVOR_EUSAGE, "--features %lld contradicts the projection in %s, which has %lld rows",
              (long long)problem->features, path, (long long)features);
  }
  problem->features = features;
  problem->has_projection_per_head = n_dims == 3;
  problem->projection_data = attend->projection_data;
}

/* Collective: reads the dataset that --projection-file names as FILE or FILE:DATASET. */
static enum favor_status read_projection(struct attend *attend) {
  char path[OPTION_TEXT_BYTES];
  snprintf(path, sizeof path, "%s", options_text(attend->command->options, OPTION_PROJECTION_FILE));
  if (path[0] == '\0') return FAVOR_OK;
  const char *dataset = "projection";
  char *colon = strrchr(path, ':');
  if (colon) {
    *colon = '\0';
    dataset = colon + 1;
  }
  int n_dims;
  int64_t dims[4];
  enum favor_status status = favor_double_read(attend->context, path, dataset, &n_dims, dims, &attend->projection_data);
  if (status != FAVOR_OK) return status;
  take_projection(attend, path, n_dims, dims);
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

enum favor_status attend_read_estimates(struct attend *attend) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s", options_text(attend->command->options, OPTION_ESTIMATES_FILE));
  if (attend->resumed.checkpoint) {
    if (!estimates_are_used(&attend->problem)) return FAVOR_OK;
    attend->are_estimates_written = true;
    snprintf(path, sizeof path, "%s" FAVOR_OUTPUT_PART_SUFFIX, options_text(attend->command->options, OPTION_OUTPUT));
  }
  if (path[0] == '\0') return FAVOR_OK;
  if (!estimates_are_used(&attend->problem)) {
    dist_fail(
        attend->context, FAVOR_EUSAGE,
        "--estimates-file has nothing to give; add --key-shift, --balance, --map oprf, or an --eps with --key-max");
    return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
  }
  enum favor_status status = estimates_read(attend->context, path, &attend->problem, &attend->estimates_file);
  if (status != FAVOR_OK) return status;
  attend->estimates = estimates_of(&attend->estimates_file);
  attend->problem.estimates = &attend->estimates;
  return FAVOR_OK;
}

void attend_write_estimates(struct attend *attend) {
  struct favor_estimates estimates;
  if (attend->are_estimates_written) return;
  attend->are_estimates_written = true;
  if (favor_context_rank(attend->context) % attend->info.grid_tokens != 0) return;
  if (favor_plan_estimates(attend->plan, &estimates) != FAVOR_OK) return;
  estimates_write(attend->output, 1, &attend->problem, &attend->shard, &estimates);
}

static void warn_of_causality(const struct attend *attend) {
  if (!attend->problem.is_causal || attend->info.is_strictly_causal) return;
  if (!command_is_speaker(attend->command) || options_flag(attend->command->options, OPTION_QUIET)) return;
  fputs("favor: warning: what is estimated from the data, a key maximum too, lets outputs depend on later tokens; for "
        "strict causality give that of other data with --estimates-file\n",
        stderr);
}

/* A resumed run is given what it once estimated, which does not make it strictly causal. */
static bool has_own_estimates(const struct attend *attend) {
  return attend->resumed.checkpoint && attend->problem.estimates &&
         options_text(attend->command->options, OPTION_ESTIMATES_FILE)[0] == '\0';
}

static enum favor_status make_plan(struct attend *attend) {
  enum favor_status status = favor_plan_create(attend->context, &attend->problem, &attend->plan);
  if (status != FAVOR_OK) return status;
  favor_plan_info(attend->plan, &attend->info);
  attend->info.is_strictly_causal = attend->info.is_strictly_causal && !has_own_estimates(attend);
  favor_plan_shard(attend->plan, &attend->shard);
  warn_of_causality(attend);
  if (options_flag(attend->command->options, OPTION_VERBOSE) && command_is_speaker(attend->command)) {
    char text[1024];
    favor_plan_describe(attend->plan, text, sizeof text);
    fprintf(stderr, "favor: plan: %s\n", text);
  }
  return report_binding(attend->command, attend->context, &attend->info);
}

static void *block(int64_t heads, int64_t tokens, int64_t width, enum favor_precision precision) {
  size_t element = precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float);
  return memory_zeroed((size_t)heads * (size_t)tokens, (size_t)width * element);
}

/* Two of each where there is more than one block. */
static enum favor_status make_blocks(struct attend *attend) {
  const struct favor_problem *problem = &attend->problem;
  const struct favor_shard *shard = &attend->shard;
  int64_t heads = shard->head_end - shard->head_begin, kv_heads = shard->kv_head_end - shard->kv_head_begin;
  int64_t tokens = attend->info.block_tokens;
  for (int i = 0; i < ATTEND_N_BLOCKS && (i == 0 || attend->info.is_streamed); i++) {
    struct attend_block *made = &attend->blocks[i];
    made->q = block(heads, tokens, problem->key_width, problem->precision);
    made->k = block(kv_heads, tokens, problem->key_width, problem->precision);
    made->v = block(kv_heads, tokens, problem->value_width, problem->precision);
    made->out = block(heads, tokens, problem->value_width, problem->precision);
    if (!made->q || !made->k || !made->v || !made->out) {
      dist_fail(attend->context, FAVOR_ENOMEM,
                "no memory for blocks of %lld tokens of %lld heads; give --memory or --block-tokens", (long long)tokens,
                (long long)heads);
    }
  }
  favor_lane_create(attend->context, &attend->lane);
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

void attend_free_blocks(struct attend *attend) {
  favor_lane_destroy(&attend->lane); /* which may still be at them */
  for (int i = 0; i < ATTEND_N_BLOCKS; i++) {
    struct attend_block *freed = &attend->blocks[i];
    free(freed->q);
    free(freed->k);
    free(freed->v);
    free(freed->out);
    *freed = (struct attend_block){0};
  }
}

double attend_scale(const struct attend *attend) {
  return attend->problem.scale > 0 ? attend->problem.scale : 1 / sqrt((double)attend->problem.key_width);
}

int attend_options(const struct attend *attend, struct favor_attribute *attributes) {
  static struct options options; /* too large for a stack */
  const struct options *given = attend->command->options;
  int n = 0;
  options = *given;
  options.values[OPTION_FEATURES].integers[0] = attend->problem.features;
  options.values[OPTION_PROJECTION_PER_HEAD].integers[0] = attend->problem.has_projection_per_head;
  options.values[OPTION_SCALE].number = attend_scale(attend);
  options.values[OPTION_EPS].number = map_eps(attend->problem.map, attend->problem.eps);
  snprintf(options.values[OPTION_MAP].text, OPTION_TEXT_BYTES, "%s", map_at(attend->problem.map)->name);
  snprintf(options.values[OPTION_KEY_MAX].text, OPTION_TEXT_BYTES, "%s",
           option_at(OPTION_KEY_MAX)->choices[attend->problem.key_max]);
  snprintf(options.values[OPTION_ROW_NORM].text, OPTION_TEXT_BYTES, "%s",
           option_at(OPTION_ROW_NORM)->choices[attend->problem.row_norm]);
  snprintf(options.values[OPTION_OUT_TYPE].text, OPTION_TEXT_BYTES, "%s", favor_type_name(attend->out_type));
  options_attributes(&options, attributes, &n);
  command_attributes(attend->command, given->operands[0], attributes, &n);
  return n;
}

static int make_attributes(const struct attend *attend, struct favor_attribute *attributes) {
  int n = attend_options(attend, attributes);
  for (int i = 0; i < n; i++) {
    if (strcmp(attributes[i].name, "kernel") != 0) continue;
    snprintf(attributes[i].text, sizeof attributes[i].text, "%s", attend->info.kernel);
  }
  attributes[n] = (struct favor_attribute){.kind = FAVOR_ATTRIBUTE_INTEGER, .integer = attend->info.is_strictly_causal};
  snprintf(attributes[n++].name, sizeof attributes->name, "strictly-causal");
  attend_pilot_attributes(attend, attributes, &n);
  attend_reserve_certificate(attend, attributes, &n);
  return n;
}

static enum favor_status create_output(struct attend *attend) {
  const struct options *options = attend->command->options;
  const struct favor_problem *problem = &attend->problem;
  struct favor_output_tensor tensors[1 + ESTIMATES_MOST] = {{.name = "out", .shape = attend->inputs.q_shape}};
  tensors[0].shape.width = problem->value_width;
  tensors[0].shape.type = attend->out_type;
  tensors[0].shape.is_contiguous = true;
  bool has_heads = problem->has_projection_per_head;
  struct favor_output_small projection = {
      .name = "projection",
      .element = problem->precision == FAVOR_PRECISION_F64 ? FAVOR_ELEMENT_DOUBLE : FAVOR_ELEMENT_FLOAT,
      .n_dims = has_heads ? 3 : 2,
      .dims = {has_heads ? problem->kv_heads : problem->features, has_heads ? problem->features : problem->key_width,
               has_heads ? problem->key_width : 0},
      .data = favor_plan_projection(attend->plan),
  };
  static struct favor_attribute attributes[ATTEND_MAX_ATTRIBUTES];
  struct favor_output_spec spec = {
      .path = options_text(options, OPTION_OUTPUT),
      .is_overwrite = options_flag(options, OPTION_OVERWRITE),
      .tensors = tensors,
      .n_tensors = 1 + estimates_tensors(problem, tensors + 1),
      .small = &projection,
      .n_small = projection.data != NULL,
      .attributes = attributes,
      .n_attributes = make_attributes(attend, attributes),
  };
  const struct attend_resumed *resumed = &attend->resumed;
  enum favor_status status;
  if (resumed->checkpoint) {
    if (resumed->n_sums != favor_output_spec_n_sums(&spec))
      dist_fail(attend->context, FAVOR_EDATA, "%s has %lld checksums of its output, which has %lld",
                attend->checkpoint_path, (long long)resumed->n_sums, (long long)favor_output_spec_n_sums(&spec));
    status = dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
    if (status != FAVOR_OK) return status;
    status = favor_output_resume(attend->context, &spec, resumed->id, resumed->sums, &attend->output);
    attend->has_checkpoint = status == FAVOR_OK;
    return status;
  }
  const bool is_dropping = attend->context->rank == 0 && access(attend->checkpoint_path, F_OK) == 0;
  spec.companion = attend->checkpoint_path;
  status = favor_output_create(attend->context, &spec, &attend->output);
  if (status == FAVOR_OK && is_dropping && !options_flag(options, OPTION_QUIET))
    fprintf(stderr, "favor: warning: %s of an earlier run is dropped; --resume would have gone on from there\n",
            attend->checkpoint_path);
  return status;
}

enum favor_status attend_describe(struct attend *attend) {
  const struct options *options = attend->command->options;
  const struct inputs *inputs = &attend->inputs;
  enum favor_status status = open_inputs(attend);
  if (status != FAVOR_OK) return status;
  attend_take_options(options, &attend->problem);
  inputs_describe(inputs, &attend->problem);
  attend_fix_features(options, &attend->problem);
  attend->problem.caller_bytes = favor_tensor_memory_bytes(inputs->q) + favor_tensor_memory_bytes(inputs->k) +
                                 favor_tensor_memory_bytes(inputs->v) + favor_output_memory_bytes() +
                                 (inputs->n_segments + 1) * (int64_t)sizeof *inputs->segments;
  int64_t out_type = options_integer(options, OPTION_OUT_TYPE); /* 0 is auto */
  attend->out_type = out_type == 0 ? inputs->q_shape.type : (enum favor_type)(out_type - 1);
  return read_projection(attend);
}

enum favor_status attend_prepare(struct attend *attend) {
  if (command_is_speaker(attend->command)) check_output_path(attend);
  enum favor_status status = dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = attend_load_machine(attend);
  if (status == FAVOR_OK) status = attend_describe(attend);
  if (status == FAVOR_OK) status = attend_choose_features(attend);
  if (status == FAVOR_OK) status = attend_find_checkpoint(attend);
  if (status != FAVOR_OK || attend->is_finished) return status;
  status = attend_read_estimates(attend);
  if (status == FAVOR_OK) status = make_plan(attend);
  if (status == FAVOR_OK) status = attend_check_engine(attend);
  if (status == FAVOR_OK) status = make_blocks(attend);
  if (status == FAVOR_OK) status = create_output(attend);
  return status;
}

void attend_release(struct attend *attend) {
  attend_free_blocks(attend);
  if (attend->has_checkpoint) {
    favor_output_keep(&attend->output);
  } else {
    favor_output_abandon(&attend->output);
  }
  favor_plan_destroy(&attend->plan);
  inputs_close(&attend->inputs);
  free(attend->projection_data);
  estimates_release(&attend->estimates_file);
  machine_release(&attend->machine);
  attend_release_resumed(attend);
}

enum favor_status attend_finish(struct attend *attend) {
  const double start = clock_now_s();
  attend_write_estimates(attend);
  enum favor_status status = favor_output_finish(&attend->output);
  if (status == FAVOR_OK) attend_forget_checkpoint(attend);
  attend->seconds[ATTEND_WRITE] += clock_now_s() - start;
  return status;
}

/* A certificate may take long: who asks for checkpoints has one before it. */
static enum favor_status save_before_certificate(struct attend *attend) {
  const struct options *options = attend->command->options;
  bool is_asked_for = options_number(options, OPTION_CHECKPOINT_EVERY) > 0 || options_flag(options, OPTION_RESUME);
  if (!attend->info.is_streamed || !is_asked_for || attend_certified_rows(options) == 0) return FAVOR_OK;
  enum favor_status status = attend->problem.tokens > 0 ? attend_save(attend) : FAVOR_OK;
  if (status == FAVOR_OK) stop_at_once(command_is_speaker(attend->command));
  return status;
}

static enum favor_status run(struct attend *attend, double start) {
  enum favor_status status = attend_stream(attend);
  if (status == FAVOR_OK) status = save_before_certificate(attend);
  if (status == FAVOR_OK) status = attend_certify(attend);
  stop_catch(); /* what is left is short */
  if (status == FAVOR_OK) status = attend_finish(attend);
  attend->seconds[ATTEND_TOTAL] = clock_now_s() - start;
  return status == FAVOR_OK ? attend_report(attend) : status;
}

enum favor_status cmd_attend(struct command *command) {
  static struct attend attend; /* too large for a stack */
  attend = (struct attend){.command = command, .context = command->context};
  double start = clock_now_s();
  stop_catch();
  enum favor_status status = attend_prepare(&attend);
  if (!attend.info.is_streamed) stop_release(); /* there is nothing to save */
  if (status == FAVOR_OK) status = attend.is_finished ? attend_report_finished(&attend) : run(&attend, start);
  attend_release(&attend);
  return status;
}

/* `favor verify IN OUT`: sampled rows of an output against core/check.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/option_table.h"
#include "cli/verify.h"
#include "dist/agree.h"

static enum favor_status agree(struct verify *verify) { return dist_agree(verify->context, DIST_SITE_COMMAND, 0, ""); }

/* ---- what made OUT ---------------------------------------------------------------------------------------------- */

/* Local, the same on every rank: the attribute of this kind; NULL where there is none. */
static const struct favor_attribute *find(const struct verify *verify, const char *name,
                                          enum favor_attribute_kind kind) {
  for (int i = 0; i < verify->n_attributes; i++) {
    const struct favor_attribute *found = &verify->attributes[i];
    if (strcmp(found->name, name) == 0 && found->kind == kind) return found;
  }
  return NULL;
}

/* The same where its absence is an error. */
static const struct favor_attribute *attribute(struct verify *verify, const char *name,
                                               enum favor_attribute_kind kind) {
  static const struct favor_attribute absent = {.name = ""};
  const struct favor_attribute *found = find(verify, name, kind);
  if (found) return found;
  dist_fail(verify->context, FAVOR_EDATA,
            "%s has no attribute `%s` of the kind that favor attend writes; is it an output of favor attend?",
            verify->out_path, name);
  return &absent;
}

static bool is_text(struct verify *verify, const char *name, const char *text) {
  return strcmp(attribute(verify, name, FAVOR_ATTRIBUTE_TEXT)->text, text) == 0;
}

/* What each method's output is defined to be. */
static const struct {
  const char *method;
  enum check_definition definition;
} methods[] = {
    {"favor", CHECK_FEATURES}, {"exact", CHECK_SOFTMAX},  {"window", CHECK_WINDOW}, {"mean", CHECK_EQUAL},
    {"copy", CHECK_ITSELF},    {"linformer", CHECK_NONE}, /* these two weigh a key by all tokens of its segment */
    {"lsh", CHECK_NONE}};

static void take_method(struct verify *verify) {
  const struct favor_attribute *found = find(verify, "method", FAVOR_ATTRIBUTE_TEXT);
  verify->method = found ? found->text : "favor";
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    if (strcmp(verify->method, methods[i].method) != 0) continue;
    verify->definition.definition = methods[i].definition;
    return;
  }
  dist_fail(verify->context, FAVOR_EDATA, "%s was made with method '%.64s', which this version cannot verify",
            verify->out_path, verify->method);
}

static void take_window(struct verify *verify) {
  const struct favor_attribute *global_tokens = find(verify, "global-tokens", FAVOR_ATTRIBUTE_INTEGER);
  verify->definition.window = attribute(verify, "window", FAVOR_ATTRIBUTE_INTEGER)->integer;
  verify->definition.global_tokens = global_tokens ? global_tokens->integer : 0;
  if (verify->definition.window >= 0 && verify->definition.global_tokens >= 0) return;
  dist_fail(verify->context, FAVOR_EDATA, "%s: the attributes `window` and `global-tokens` must not be negative",
            verify->out_path);
}

/* The place of the choice that an option had; 0, the first, where the output is of a version that had no such option.
 */
static int take_choice(struct verify *verify, enum option_key key) {
  const struct option *option = option_at(key);
  const struct favor_attribute *found = find(verify, option->name, FAVOR_ATTRIBUTE_TEXT);
  int choice = 0;
  if (!found) return 0;
  while (option->choices[choice] && strcmp(option->choices[choice], found->text) != 0) choice++;
  if (option->choices[choice] || dist_has_failed(verify->context)) return choice;
  dist_fail(verify->context, FAVOR_EDATA, "%s was made with %s '%.64s', which this version does not know",
            verify->out_path, option->name, found->text);
  return 0;
}

/* Outputs of version 0.1 lack it; their maps had none. */
static void take_eps(struct verify *verify) {
  const struct favor_attribute *eps = find(verify, "eps", FAVOR_ATTRIBUTE_NUMBER);
  verify->definition.eps = eps ? eps->number : 0;
  if (dist_has_failed(verify->context) || (verify->definition.eps >= 0 && isfinite(verify->definition.eps))) return;
  dist_fail(verify->context, FAVOR_EDATA, "%s: the attribute `eps` is %g; it must not be below 0", verify->out_path,
            verify->definition.eps);
}

/* The guard of the normaliser is the only thing that a profile does not leave in an attribute of its own. */
static void take_guard(struct verify *verify) {
  const int profile = take_choice(verify, OPTION_PROFILE);
  struct favor_problem problem = favor_problem_default();
  if (profile == 0 || favor_problem_set_profile(&problem, option_at(OPTION_PROFILE)->choices[profile]) != FAVOR_OK) {
    return;
  }
  verify->definition.guard_rule = problem.guard_rule;
  verify->definition.guard = problem.guard;
}

static void take_features(struct verify *verify) {
  struct check_problem *definition = &verify->definition;
  const struct favor_attribute *window = find(verify, "window", FAVOR_ATTRIBUTE_INTEGER);
  attribute(verify, "map", FAVOR_ATTRIBUTE_TEXT);
  definition->map = (enum favor_map)take_choice(verify, OPTION_MAP);
  take_eps(verify);
  definition->key_max = (enum favor_key_max)take_choice(verify, OPTION_KEY_MAX);
  take_guard(verify);
  definition->balance = (enum favor_balance)take_choice(verify, OPTION_BALANCE);
  definition->has_window = window && window->integer >= 0;
  definition->window = definition->has_window ? window->integer : 0;
  /* What estimates_read goes by. */
  verify->problem.map = definition->map;
  verify->problem.eps = definition->eps;
  verify->problem.key_max = definition->key_max;
  verify->problem.guard_rule = definition->guard_rule;
  verify->problem.balance = definition->balance;
  verify->problem.key_shift = (enum favor_key_shift)take_choice(verify, OPTION_KEY_SHIFT);
}

static void take_attributes(struct verify *verify) {
  take_method(verify);
  if (verify->definition.definition == CHECK_FEATURES) take_features(verify);
  if (verify->definition.definition == CHECK_WINDOW) take_window(verify);
  verify->problem.is_causal = attribute(verify, "causal", FAVOR_ATTRIBUTE_INTEGER)->integer != 0;
  verify->definition.is_causal = verify->problem.is_causal;
  verify->definition.scale = attribute(verify, "scale", FAVOR_ATTRIBUTE_NUMBER)->number;
  verify->precision = is_text(verify, "precision", "f64")    ? FAVOR_PRECISION_F64
                      : is_text(verify, "precision", "bf16") ? FAVOR_PRECISION_BF16
                                                             : FAVOR_PRECISION_F32;
  verify->names = (struct input_names){
      .query = attribute(verify, "query", FAVOR_ATTRIBUTE_TEXT)->text,
      .key = attribute(verify, "key", FAVOR_ATTRIBUTE_TEXT)->text,
      .value = attribute(verify, "value", FAVOR_ATTRIBUTE_TEXT)->text,
      .segments = attribute(verify, "segments", FAVOR_ATTRIBUTE_TEXT)->text,
      .layout = is_text(verify, "layout", "tokens-first") ? FAVOR_TOKENS_FIRST : FAVOR_HEADS_FIRST,
  };
  /* As attend: a name of the user's own has to be there. */
  verify->names.is_segments_required = strcmp(verify->names.segments, "segments") != 0;
  if (!dist_has_failed(verify->context) && !(verify->definition.scale > 0 && isfinite(verify->definition.scale))) {
    dist_fail(verify->context, FAVOR_EDATA, "%s: the attribute `scale` is %g; it must be above 0", verify->out_path,
              verify->definition.scale);
  }
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static void check_out_shape(struct verify *verify) {
  const struct favor_tensor_shape *q = &verify->inputs.q_shape, *v = &verify->inputs.v_shape, *out = &verify->out_shape;
  if (out->n_dims == q->n_dims && out->batch == q->batch && out->heads == q->heads && out->tokens == q->tokens &&
      out->width == v->width) {
    return;
  }
  dist_fail(
      verify->context, FAVOR_EDATA,
      "%s: out has batch %lld, heads %lld, tokens %lld, width %lld; from %s it would have %lld, %lld, %lld, %lld; "
      "give the IN that OUT was made from",
      verify->out_path, (long long)out->batch, (long long)out->heads, (long long)out->tokens, (long long)out->width,
      verify->in_path, (long long)q->batch, (long long)q->heads, (long long)q->tokens, (long long)v->width);
}

static void check_segments(struct verify *verify) {
  const struct inputs *inputs = &verify->inputs;
  const int64_t n = inputs->n_segments, *offsets = inputs->segments;
  if (!offsets) return;
  bool is_right = offsets[0] == 0 && offsets[n] == inputs->q_shape.tokens;
  for (int64_t i = 0; i < n && is_right; i++) is_right = offsets[i] <= offsets[i + 1];
  if (is_right) return;
  dist_fail(verify->context, FAVOR_EDATA, "%s: dataset %.64s must go from 0 to %lld (the tokens) without decreasing",
            verify->in_path, verify->names.segments, (long long)inputs->q_shape.tokens);
}

static void check_projection(struct verify *verify, int n_dims, const int64_t *dims) {
  const int64_t width = verify->problem.key_width, key_heads = verify->problem.kv_heads;
  struct check_problem *definition = &verify->definition;
  bool is_right =
      (n_dims == 2 || (n_dims == 3 && dims[0] == key_heads)) && dims[n_dims - 1] == width && dims[n_dims - 2] >= 1;
  if (!is_right) {
    dist_fail(verify->context, FAVOR_EDATA,
              "%s: dataset projection is not [M][%lld] or [%lld][M][%lld]; give the IN that OUT was made from",
              verify->out_path, (long long)width, (long long)key_heads, (long long)width);
    return;
  }
  definition->projections = n_dims == 3 ? key_heads : 1;
  definition->features = dims[n_dims - 2];
  definition->projection = verify->projection;
  const int64_t n = definition->projections * definition->features * width;
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(verify->projection[i])) continue;
    dist_fail(verify->context, FAVOR_EDATA, "%s: dataset projection holds NaN or Inf in row %lld", verify->out_path,
              (long long)(i / width));
    return;
  }
}

static enum favor_status open_all(struct verify *verify) {
  struct favor_context *context = verify->context;
  int n_dims = 0;
  int64_t dims[4];
  enum favor_status status =
      favor_attributes_read(context, verify->out_path, &verify->n_attributes, &verify->attributes);
  if (status != FAVOR_OK) return status;
  take_attributes(verify);
  status = agree(verify);
  if (status == FAVOR_OK) status = inputs_open(context, verify->in_path, &verify->names, &verify->inputs);
  if (status == FAVOR_OK)
    status = favor_tensor_open(context, verify->out_path, "out", verify->names.layout, &verify->out);
  const bool has_projection = verify->definition.definition == CHECK_FEATURES;
  if (status == FAVOR_OK && has_projection) {
    status = favor_double_read(context, verify->out_path, "projection", &n_dims, dims, &verify->projection);
  }
  if (status != FAVOR_OK) return status;
  inputs_describe(&verify->inputs, &verify->problem);
  if (has_projection) status = estimates_read(context, verify->out_path, &verify->problem, &verify->estimates);
  if (status != FAVOR_OK) return status;
  verify->definition.estimates = estimates_of(&verify->estimates);
  favor_tensor_shape(verify->out, &verify->out_shape);
  check_out_shape(verify);
  check_segments(verify);
  if (has_projection) check_projection(verify, n_dims, dims);
  return agree(verify);
}

/* ---- the answers ------------------------------------------------------------------------------------------------ */

/* Rank 0's part. */
static void read_out_rows(struct verify *verify) {
  const struct recompute *recompute = &verify->recompute;
  for (int64_t i = 0; i < recompute->n_rows && !dist_has_failed(verify->context); i++) {
    const int64_t token = recompute->rows[i].token;
    favor_tensor_read(verify->out, 0, recompute->heads, token, token + 1, FAVOR_PRECISION_F64,
                      verify->out_rows + recompute_out_row(recompute, i, 0));
  }
}

static enum favor_status recompute(struct verify *verify) {
  const struct options *options = verify->command->options;
  verify->source = recompute_inputs(verify->context, verify->in_path, &verify->inputs, verify->precision);
  verify->recompute = (struct recompute){.command = verify->command,
                                         .what = "verify",
                                         .option = "--rows",
                                         .problem = &verify->problem,
                                         .source = &verify->source.source};
  recompute_draw(&verify->recompute, options_integer(options, OPTION_ROWS),
                 (uint64_t)options_integer(options, OPTION_SEED));
  if (!dist_has_failed(verify->context)) {
    const size_t row_bytes = (size_t)recompute_out_row(&verify->recompute, 1, 0) * sizeof *verify->out_rows;
    verify->out_rows = memory_zeroed((size_t)verify->recompute.n_rows, row_bytes);
    if (!verify->out_rows)
      verify_fail_memory(verify);
    else if (command_is_speaker(verify->command))
      read_out_rows(verify);
  }
  return recompute_run(&verify->recompute, &verify->definition);
}

static void release(struct verify *verify) {
  recompute_release(&verify->recompute);
  inputs_close(&verify->inputs);
  favor_tensor_close(&verify->out);
  free(verify->attributes);
  free(verify->projection);
  estimates_release(&verify->estimates);
  free(verify->out_rows);
}

enum favor_status cmd_verify(struct command *command) {
  struct verify verify = {.command = command,
                          .context = command->context,
                          .in_path = command->options->operands[0],
                          .out_path = command->options->operands[1]};
  enum favor_status status = open_all(&verify);
  if (status == FAVOR_OK) status = recompute(&verify);
  if (status == FAVOR_OK) {
    if (command_is_speaker(command)) verify_report(&verify);
    status = agree(&verify);
  }
  release(&verify);
  return status;
}

/* `favor verify IN OUT`: sampled rows of an output against core/check.h. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/option_table.h"
#include "cli/progress.h"
#include "cli/verify.h"
#include "dist/agree.h"
#include "kernel/kernel.h"

enum { BLOCK_TOKENS_LEAST = 64, BLOCK_TOKENS_MOST = 16384, BLOCK_BYTES = 64 << 20 };

static enum favor_status agree(struct verify *verify) { return dist_agree(verify->context, DIST_SITE_COMMAND, 0, ""); }

/* ---- what made OUT ---------------------------------------------------------------------------------------------- */

/* Local, the same on every rank: the attribute, which has to be of this kind; its absence is an error. */
static const struct favor_attribute *attribute(struct verify *verify, const char *name,
                                               enum favor_attribute_kind kind) {
  static const struct favor_attribute absent = {.name = ""};
  for (int i = 0; i < verify->n_attributes; i++) {
    const struct favor_attribute *found = &verify->attributes[i];
    if (strcmp(found->name, name) == 0 && found->kind == kind) return found;
  }
  dist_fail(verify->context, FAVOR_EDATA,
            "%s has no attribute `%s` of the kind that favor attend writes; is it an output of favor attend?",
            verify->out_path, name);
  return &absent;
}

static bool is_text(struct verify *verify, const char *name, const char *text) {
  return strcmp(attribute(verify, name, FAVOR_ATTRIBUTE_TEXT)->text, text) == 0;
}

static void require_text(struct verify *verify, const char *name, const char *text) {
  if (is_text(verify, name, text) || dist_has_failed(verify->context)) return;
  dist_fail(verify->context, FAVOR_EDATA, "%s was made with %s '%.64s'; verify knows '%s' only", verify->out_path, name,
            attribute(verify, name, FAVOR_ATTRIBUTE_TEXT)->text, text);
}

static void take_map(struct verify *verify) {
  const char *name = attribute(verify, "map", FAVOR_ATTRIBUTE_TEXT)->text;
  const char *const *maps = option_at(OPTION_MAP)->choices;
  int map = 0;
  while (maps[map] && strcmp(maps[map], name) != 0) map++;
  verify->map = (enum favor_map)map;
  if (maps[map] || dist_has_failed(verify->context)) return;
  dist_fail(verify->context, FAVOR_EDATA, "%s was made with map '%.64s', which this version does not know",
            verify->out_path, name);
}

/* Outputs of versions that knew of no window have no such attribute. */
static void take_window(struct verify *verify) {
  verify->window = -1;
  for (int i = 0; i < verify->n_attributes; i++) {
    if (strcmp(verify->attributes[i].name, "window") == 0) verify->window = verify->attributes[i].integer;
  }
}

static void take_attributes(struct verify *verify) {
  require_text(verify, "method", "favor");
  take_map(verify);
  take_window(verify);
  verify->is_causal = attribute(verify, "causal", FAVOR_ATTRIBUTE_INTEGER)->integer != 0;
  verify->scale = attribute(verify, "scale", FAVOR_ATTRIBUTE_NUMBER)->number;
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
  if (!dist_has_failed(verify->context) && !(verify->scale > 0 && isfinite(verify->scale))) {
    dist_fail(verify->context, FAVOR_EDATA, "%s: the attribute `scale` is %g; it must be above 0", verify->out_path,
              verify->scale);
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
  bool is_right =
      (n_dims == 2 || (n_dims == 3 && dims[0] == key_heads)) && dims[n_dims - 1] == width && dims[n_dims - 2] >= 1;
  if (!is_right) {
    dist_fail(verify->context, FAVOR_EDATA,
              "%s: dataset projection is not [M][%lld] or [%lld][M][%lld]; give the IN that OUT was made from",
              verify->out_path, (long long)width, (long long)key_heads, (long long)width);
    return;
  }
  verify->projections = n_dims == 3 ? key_heads : 1;
  verify->features = dims[n_dims - 2];
  const int64_t n = verify->projections * verify->features * width;
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
  if (status == FAVOR_OK) {
    status = favor_double_read(context, verify->out_path, "projection", &n_dims, dims, &verify->projection);
  }
  if (status != FAVOR_OK) return status;
  inputs_describe(&verify->inputs, &verify->problem);
  favor_tensor_shape(verify->out, &verify->out_shape);
  check_out_shape(verify);
  check_segments(verify);
  check_projection(verify, n_dims, dims);
  return agree(verify);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Local: rows of a tensor as the run saw them, [heads][tokens][width]; names what is no number. */
static void read_input(struct verify *verify, struct favor_tensor *tensor, const char *role, int64_t heads,
                       int64_t token_begin, int64_t token_end, double *data) {
  struct favor_tensor_shape shape;
  favor_tensor_shape(tensor, &shape);
  if (favor_tensor_read(tensor, 0, heads, token_begin, token_end, FAVOR_PRECISION_F64, data) != FAVOR_OK) return;
  const int64_t tokens = token_end - token_begin, n = heads * tokens * shape.width;
  if (verify->precision != FAVOR_PRECISION_F64 && shape.type == FAVOR_FLOAT64) {
    for (int64_t i = 0; i < n; i++) data[i] = (float)data[i];
  }
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(data[i])) continue;
    const int64_t row = i / shape.width;
    dist_fail(verify->context, FAVOR_EDATA, "%s: %s holds NaN or Inf at head %lld, token %lld", verify->in_path, role,
              (long long)(row / tokens), (long long)(token_begin + row % tokens));
    return;
  }
}

/* ---- the sample ------------------------------------------------------------------------------------------------- */

static void draw_rows(struct verify *verify) {
  const struct favor_problem *problem = &verify->problem;
  const uint64_t seed = (uint64_t)options_integer(verify->command->options, OPTION_SEED);
  int64_t *tokens = memory_zeroed((size_t)verify->n_rows, sizeof *tokens);
  if (!tokens) {
    verify_fail_memory(verify);
    return;
  }
  check_sample(problem->tokens, verify->n_rows, seed, tokens);
  for (int64_t i = 0; i < verify->n_rows; i++) {
    verify->rows[i] =
        check_row_of(tokens[i], problem->tokens, problem->segments, problem->n_segments, verify->is_causal);
  }
  free(tokens);
}

/* Rank 0's part. */
static void read_rows(struct verify *verify) {
  const int64_t q_stride = verify->heads * verify->problem.key_width;
  const int64_t out_stride = verify->heads * verify->problem.value_width;
  for (int64_t i = 0; i < verify->n_rows && !dist_has_failed(verify->context); i++) {
    const int64_t token = verify->rows[i].token;
    read_input(verify, verify->inputs.q, "q", verify->heads, token, token + 1, verify->q + i * q_stride);
    favor_tensor_read(verify->out, 0, verify->heads, token, token + 1, FAVOR_PRECISION_F64,
                      verify->out_rows + i * out_stride);
  }
}

/* The most numbers of one key head that ranks add up, which MPI counts in an int. */
static bool is_sample_too_large(const struct verify *verify) {
  const int64_t heads_per_key = verify->heads / verify->key_heads;
  const int64_t numbers_of_row = CHECK_N_ANSWERS * heads_per_key * (1 + verify->problem.value_width);
  return verify->n_rows > INT_MAX / numbers_of_row;
}

static enum favor_status take_sample(struct verify *verify) {
  const struct favor_problem *problem = &verify->problem;
  const int64_t rows_wanted = options_integer(verify->command->options, OPTION_ROWS);
  verify->heads = problem->batch * problem->heads;
  verify->key_heads = problem->batch * problem->kv_heads;
  verify->n_rows = rows_wanted < problem->tokens ? rows_wanted : problem->tokens;
  if (is_sample_too_large(verify)) {
    dist_fail(verify->context, FAVOR_EUSAGE, "--rows %lld of %lld heads are too many to check at once; lower --rows",
              (long long)verify->n_rows, (long long)verify->heads);
    return agree(verify);
  }
  const size_t head_rows = (size_t)verify->n_rows * (size_t)verify->heads;
  verify->rows = memory_zeroed((size_t)verify->n_rows, sizeof *verify->rows);
  verify->q = memory_zeroed(head_rows, (size_t)problem->key_width * sizeof *verify->q);
  verify->out_rows = memory_zeroed(head_rows, (size_t)problem->value_width * sizeof *verify->out_rows);
  if (verify->rows && verify->q && verify->out_rows) {
    draw_rows(verify);
    if (command_is_speaker(verify->command)) read_rows(verify);
  } else {
    verify_fail_memory(verify);
  }
  enum favor_status status = agree(verify);
  if (status != FAVOR_OK) return status;
  return dist_broadcast(verify->context, verify->q, head_rows * (size_t)problem->key_width * sizeof *verify->q);
}

/* ---- the keys --------------------------------------------------------------------------------------------------- */

/* Few enough tokens for memory, enough blocks for every rank. */
static int64_t choose_block_tokens(const struct verify *verify) {
  const struct favor_problem *problem = &verify->problem;
  const int64_t token_bytes = verify->key_heads * (problem->key_width + problem->value_width) * (int64_t)sizeof(double);
  const int64_t share = problem->tokens / favor_context_size(verify->context) + 1;
  int64_t tokens = share < BLOCK_TOKENS_LEAST ? BLOCK_TOKENS_LEAST : share;
  if (tokens > BLOCK_TOKENS_MOST) tokens = BLOCK_TOKENS_MOST;
  if (tokens > BLOCK_BYTES / token_bytes) tokens = BLOCK_BYTES / token_bytes;
  return tokens < 1 ? 1 : tokens;
}

static enum favor_status prepare(struct verify *verify) {
  const struct favor_problem *problem = &verify->problem;
  const struct check_problem check = {.rows = verify->rows,
                                      .n_rows = verify->n_rows,
                                      .key_heads = verify->key_heads,
                                      .heads_per_key = verify->heads / verify->key_heads,
                                      .key_width = problem->key_width,
                                      .value_width = problem->value_width,
                                      .map = verify->map,
                                      .features = verify->features,
                                      .has_window = verify->window >= 0,
                                      .window = verify->window,
                                      .scale = verify->scale,
                                      .projection = verify->projection,
                                      .projections = verify->projections};
  kernel_blas_single_thread();
  verify->block_tokens = choose_block_tokens(verify);
  const size_t rows = (size_t)verify->key_heads * (size_t)verify->block_tokens;
  verify->check = check_create(&check, verify->q);
  verify->k = memory_zeroed(rows, (size_t)problem->key_width * sizeof *verify->k);
  verify->v = memory_zeroed(rows, (size_t)problem->value_width * sizeof *verify->v);
  if (verify->check) verify->tops = memory_zeroed((size_t)check_n_tops(verify->check), sizeof *verify->tops);
  if (!verify->tops || !verify->k || !verify->v) {
    verify_fail_memory(verify);
  }
  return agree(verify);
}

static void absorb_block(struct verify *verify, int64_t begin, int64_t end) {
  const struct favor_problem *problem = &verify->problem;
  if (!check_needs(verify->check, begin, end)) return;
  read_input(verify, verify->inputs.k, "k", verify->key_heads, begin, end, verify->k);
  read_input(verify, verify->inputs.v, "v", verify->key_heads, begin, end, verify->v);
  if (dist_has_failed(verify->context)) return;
  for (int64_t g = 0; g < verify->key_heads; g++) {
    check_absorb(verify->check, g, begin, end, verify->k + g * (end - begin) * problem->key_width,
                 verify->v + g * (end - begin) * problem->value_width);
  }
}

/* Blocks go round the ranks, which evens out that few rows of a causal run need late keys. */
static enum favor_status absorb_keys(struct verify *verify) {
  const int64_t n_tokens = verify->problem.tokens, length = verify->block_tokens;
  const int64_t rank = favor_context_rank(verify->context), size = favor_context_size(verify->context);
  int64_t done = 0;
  struct progress progress;
  progress_start(&progress, verify->command, "verify", "tokens", (double)n_tokens / (double)size);
  for (int64_t begin = rank * length; begin < n_tokens && !dist_has_failed(verify->context); begin += size * length) {
    const int64_t end = n_tokens - begin < length ? n_tokens : begin + length;
    absorb_block(verify, begin, end);
    done += end - begin;
    progress_update(&progress, (double)done);
  }
  progress_end(&progress);
  return agree(verify);
}

static enum favor_status merge(struct verify *verify) {
  struct check *check = verify->check;
  const int n_tops = (int)check_n_tops(check), n_sums = (int)check_n_sums(check);
  for (int64_t g = 0; g < verify->key_heads; g++) {
    memcpy(verify->tops, check_tops(check, g), (size_t)n_tops * sizeof *verify->tops);
    enum favor_status status = dist_max_double(verify->context, verify->tops, n_tops);
    if (status != FAVOR_OK) return status;
    check_rescale(check, g, verify->tops);
    status = dist_sum_double(verify->context, check_sums(check, g), n_sums);
    if (status != FAVOR_OK) return status;
  }
  return FAVOR_OK;
}

static void release(struct verify *verify) {
  check_destroy(&verify->check);
  inputs_close(&verify->inputs);
  favor_tensor_close(&verify->out);
  free(verify->attributes);
  free(verify->projection);
  free(verify->rows);
  free(verify->q);
  free(verify->out_rows);
  free(verify->tops);
  free(verify->k);
  free(verify->v);
}

enum favor_status cmd_verify(struct command *command) {
  struct verify verify = {.command = command,
                          .context = command->context,
                          .in_path = command->options->operands[0],
                          .out_path = command->options->operands[1]};
  enum favor_status status = open_all(&verify);
  if (status == FAVOR_OK) status = take_sample(&verify);
  if (status == FAVOR_OK) status = prepare(&verify);
  if (status == FAVOR_OK) status = absorb_keys(&verify);
  if (status == FAVOR_OK) status = merge(&verify);
  if (status == FAVOR_OK) {
    if (command_is_speaker(command)) verify_report(&verify);
    status = agree(&verify);
  }
  release(&verify);
  return status;
}

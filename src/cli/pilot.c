#include "cli/pilot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/option_table.h"
#include "dist/agree.h"
#include "io/type.h"

/* A pilot of this size takes a second or two, and its error is within some per cent of that of longer sequences. It
 * keeps to few segments, so that what is taken of each is a sequence still. */
enum { TOKENS = 4096, HEADS = 8, SEGMENTS = 8, PIECE = 1 << 20 };

struct field {
  struct recompute_source source; /* comes first */
  struct pilot *pilot;
  struct favor_context *context;
  int64_t *tokens; /* [n_tokens], of the input */
  int64_t segments[SEGMENTS + 3];
  int64_t heads_per_key;
  struct favor_problem problem; /* the pilot's own: batch 1 */
  double *tensors[3];           /* by enum recompute_tensor: [heads][n_tokens][width] */
  void *arrays[3], *out;        /* the same in the precision of the run; [heads][n_tokens][E] */
  double *out_rows;
  double *estimate_data; /* of its key heads, where the run's are given */
  struct favor_estimates estimates;
  struct recompute recompute;
};

static enum favor_status agree(struct field *field) { return dist_agree(field->context, DIST_SITE_COMMAND, 0, ""); }

static void fail_memory(struct field *field) {
  dist_fail(field->context, FAVOR_ENOMEM, "no memory for the pilot of --target-error; give --features instead");
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- which tokens ------------------------------------------------------------------------------------------------ */

/* A segment, and how many of the tokens that were drawn evenly from all lie in it. */
struct choice {
  int64_t begin, end, n_hits;
};

/* Segments by their lengths, or all where there are few tokens. */
static int64_t choose_segments(const struct field *field, struct choice choices[SEGMENTS + 2]) {
  const struct favor_problem *problem = field->pilot->problem;
  const int64_t n_drawn = smaller(SEGMENTS + 2, problem->tokens);
  const int64_t n_ends = n_drawn == SEGMENTS + 2 ? 1 : 0; /* which are in every sample, so say nothing of length */
  int64_t drawn[SEGMENTS + 2], n = 0;
  if (n_drawn > 0) check_sample(problem->tokens, n_drawn, field->pilot->seed, drawn, NULL);
  for (int64_t i = n_ends; i < n_drawn - n_ends; i++) {
    const struct check_row row = check_row_of(drawn[i], problem->tokens, problem->segments, problem->n_segments, false);
    if (n == 0 || choices[n - 1].begin != row.key_begin)
      choices[n++] = (struct choice){.begin = row.key_begin, .end = row.key_end};
    choices[n - 1].n_hits++;
  }
  return n;
}

/* Of each segment its share, evenly. */
static void choose_tokens(struct field *field) {
  struct choice choices[SEGMENTS + 2];
  int64_t *token = field->tokens, n_hits = 0;
  const int64_t n = choose_segments(field, choices);
  for (int64_t s = 0; s < n; s++) n_hits += choices[s].n_hits;
  for (int64_t s = 0; s < n; s++) {
    const int64_t length = choices[s].end - choices[s].begin;
    const int64_t n_tokens = smaller(length, TOKENS * choices[s].n_hits / n_hits);
    check_sample(length, n_tokens, field->pilot->seed, token, NULL);
    for (int64_t i = 0; i < n_tokens; i++) token[i] += choices[s].begin;
    token += n_tokens;
    field->segments[s + 1] = token - field->tokens;
  }
  field->problem.tokens = token - field->tokens;
  field->problem.segments = n > 0 ? field->segments : NULL;
  field->problem.n_segments = n;
  /* As much of the sample as the window is of the tokens. */
  const struct favor_problem *whole = field->pilot->problem;
  if (whole->window > 0 && whole->tokens > 0) {
    const double share = (double)field->problem.tokens / (double)whole->tokens;
    field->problem.window = (int64_t)((double)whole->window * share);
  }
}

/* Few heads stand for all: some of the key heads, evenly, each with its query heads. */
static void choose_heads(struct field *field) {
  const struct favor_problem *problem = field->pilot->problem;
  const int64_t key_heads = problem->batch * problem->kv_heads;
  field->heads_per_key = problem->heads / problem->kv_heads;
  const int64_t most = HEADS / field->heads_per_key;
  field->problem.batch = 1;
  field->problem.kv_heads = smaller(key_heads, most < 1 ? 1 : most);
  field->problem.heads = field->problem.kv_heads * field->heads_per_key;
}

/* Of the run's flat key heads, the one that stands as number `head` of the pilot's. */
static int64_t key_head_of(const struct field *field, int64_t head) {
  return head * (field->pilot->problem->batch * field->pilot->problem->kv_heads) / field->problem.kv_heads;
}

/* The chosen key heads' share of estimates that are given; false without memory. */
static bool choose_estimates(struct field *field) {
  const struct favor_estimates *given = field->pilot->problem->estimates;
  const int64_t heads = field->problem.kv_heads, width = field->problem.key_width;
  const int64_t balance = field->problem.balance == FAVOR_BALANCE_FULL ? width * width : width;
  if (!given) return true;
  const struct {
    const double *from;
    const double **to;
    int64_t count;
  } parts[] = {{given->key_shift, &field->estimates.key_shift, width},
               {given->balance, &field->estimates.balance, balance},
               {given->oprf_a, &field->estimates.oprf_a, 1},
               {given->key_max, &field->estimates.key_max, 1}};
  double *data = field->estimate_data = memory_zeroed((size_t)(heads * (width + balance + 2)), sizeof *data);
  for (int i = 0; i < 4 && data; i++) {
    if (!parts[i].from) continue;
    *parts[i].to = data;
    for (int64_t h = 0; h < heads; h++, data += parts[i].count)
      memcpy(data, parts[i].from + key_head_of(field, h) * parts[i].count, (size_t)parts[i].count * sizeof *data);
  }
  field->problem.estimates = &field->estimates;
  return data != NULL;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

struct geometry {
  struct favor_tensor *tensor;
  int64_t heads, heads_per_key, width;
};

static struct geometry geometry_of(const struct field *field, int which) {
  const struct favor_problem *problem = &field->problem;
  const struct inputs *inputs = field->pilot->inputs;
  return which == RECOMPUTE_Q   ? (struct geometry){inputs->q, problem->heads, field->heads_per_key, problem->key_width}
         : which == RECOMPUTE_K ? (struct geometry){inputs->k, problem->kv_heads, 1, problem->key_width}
                                : (struct geometry){inputs->v, problem->kv_heads, 1, problem->value_width};
}

static int64_t size_of(const struct field *field, const struct geometry *g) {
  return g->heads * field->problem.tokens * g->width;
}

/* Neighbouring tokens of a head, rounded as the run rounds them; names what is no number. */
static void read_tokens(struct field *field, int which, int64_t head, int64_t begin, int64_t end, double *data) {
  static const char names[] = {[RECOMPUTE_Q] = 'q', [RECOMPUTE_K] = 'k', [RECOMPUTE_V] = 'v'};
  const struct geometry g = geometry_of(field, which);
  if (favor_tensor_read(g.tensor, head, head + 1, begin, end, FAVOR_PRECISION_F64, data) != FAVOR_OK) return;
  for (int64_t i = 0; i < (end - begin) * g.width; i++) {
    if (field->problem.precision != FAVOR_PRECISION_F64) data[i] = (float)data[i];
    if (isfinite(data[i])) continue;
    dist_fail(field->context, FAVOR_EDATA,
              "%s in %c, head %lld, token %lld: inputs must be finite in the precision of the run",
              isnan(data[i]) ? "NaN" : "Inf", names[which], (long long)head, (long long)(begin + i / g.width));
    return;
  }
}

/* This rank's share of the tokens, in runs of neighbours. */
static void read_share(struct field *field, int which) {
  const struct geometry g = geometry_of(field, which);
  const int64_t n = field->problem.tokens, rank = field->context->rank, size = field->context->size;
  const int64_t begin = n * rank / size, end = n * (rank + 1) / size, *tokens = field->tokens;
  for (int64_t h = 0; h < g.heads; h++) {
    const int64_t head = key_head_of(field, h / g.heads_per_key) * g.heads_per_key + h % g.heads_per_key;
    for (int64_t i = begin, next; i < end && !dist_has_failed(field->context); i = next) {
      next = i + 1;
      while (next < end && tokens[next] == tokens[next - 1] + 1) next++;
      read_tokens(field, which, head, tokens[i], tokens[next - 1] + 1, field->tensors[which] + (h * n + i) * g.width);
    }
  }
}

/* Collective: every rank gets every token. */
static enum favor_status share(struct field *field, int which) {
  const struct geometry g = geometry_of(field, which);
  const int64_t n = size_of(field, &g);
  double *x = field->tensors[which];
  for (int64_t i = 0; i < n; i += PIECE) {
    const enum favor_status status = dist_sum_double(field->context, x + i, (int)smaller(PIECE, n - i));
    if (status != FAVOR_OK) return status;
  }
  for (int64_t i = 0; i < n; i++) {
    if (field->problem.precision == FAVOR_PRECISION_F64)
      ((double *)field->arrays[which])[i] = x[i];
    else
      ((float *)field->arrays[which])[i] = (float)x[i];
  }
  return FAVOR_OK;
}

static void read_field(const struct recompute_source *source, enum recompute_tensor which, int64_t begin, int64_t end,
                       double *data) {
  const struct field *field = (const struct field *)source;
  const struct geometry g = geometry_of(field, which);
  const int64_t row = (end - begin) * g.width;
  for (int64_t h = 0; h < g.heads; h++)
    memcpy(data + h * row, field->tensors[which] + (h * field->problem.tokens + begin) * g.width,
           (size_t)row * sizeof *data);
}

static bool allocate(struct field *field) {
  const struct favor_problem *problem = &field->problem;
  const size_t element = type_precision_bytes(problem->precision);
  bool has_all = true;
  for (int which = RECOMPUTE_Q; which <= RECOMPUTE_V; which++) {
    const struct geometry g = geometry_of(field, which);
    field->tensors[which] = memory_zeroed((size_t)size_of(field, &g), sizeof(double));
    field->arrays[which] = memory_zeroed((size_t)size_of(field, &g), element);
    has_all = has_all && field->tensors[which] && field->arrays[which];
  }
  field->out = memory_zeroed((size_t)(problem->heads * problem->tokens * problem->value_width), element);
  return has_all && field->out;
}

/* Collective. */
static enum favor_status prepare(struct field *field) {
  field->tokens = memory_zeroed(TOKENS, sizeof *field->tokens);
  if (field->tokens) {
    choose_tokens(field);
    choose_heads(field);
  }
  if (!field->tokens || !choose_estimates(field) || !allocate(field)) fail_memory(field);
  for (int which = RECOMPUTE_Q; which <= RECOMPUTE_V && !dist_has_failed(field->context); which++)
    read_share(field, which);
  enum favor_status status = agree(field);
  for (int which = RECOMPUTE_Q; which <= RECOMPUTE_V && status == FAVOR_OK; which++) status = share(field, which);
  return status;
}

/* Collective: exact attention, which all trials share. */
static enum favor_status answer(struct field *field) {
  const struct favor_problem *problem = &field->problem;
  const struct check_problem exact = {
      .definition = CHECK_NONE, .scale = problem->scale > 0 ? problem->scale : 1 / sqrt((double)problem->key_width)};
  field->recompute = (struct recompute){.command = field->pilot->command,
                                        .what = "pilot",
                                        .option = "--certify",
                                        .problem = problem,
                                        .source = &field->source};
  recompute_draw(&field->recompute, field->pilot->rows, field->pilot->seed);
  if (!dist_has_failed(field->context)) {
    const size_t row_bytes = (size_t)recompute_out_row(&field->recompute, 1, 0) * sizeof *field->out_rows;
    field->out_rows = memory_zeroed((size_t)field->recompute.n_rows, row_bytes);
    if (!field->out_rows) fail_memory(field);
  }
  return recompute_run(&field->recompute, &exact);
}

/* ---- trials ----------------------------------------------------------------------------------------------------- */

/* A row of out as the output file would hold it. */
static void store_row(const struct field *field, int64_t token, int64_t head, double *row) {
  const enum favor_precision precision = field->problem.precision;
  const int64_t width = field->problem.value_width;
  const char *out = (const char *)field->out +
                    (size_t)((head * field->problem.tokens + token) * width) * type_precision_bytes(precision);
  double element;
  for (int64_t e = 0; e < width; e++) {
    type_encode(field->pilot->out_type, precision, 1, out + (size_t)e * type_precision_bytes(precision), &element);
    type_decode(field->pilot->out_type, FAVOR_PRECISION_F64, 1, &element, &row[e]);
  }
}

static const void *element_at(const struct field *field, const void *array, int64_t index) {
  return (const char *)array + (size_t)index * type_precision_bytes(field->problem.precision);
}

/* Collective: the shard of this rank through the plan. */
static enum favor_status execute(struct field *field, struct favor_plan *plan, const struct favor_shard *shard) {
  const int64_t n = field->problem.tokens, key_width = field->problem.key_width,
                value_width = field->problem.value_width;
  const int64_t row = shard->head_begin * n + shard->token_begin,
                key_row = shard->kv_head_begin * n + shard->token_begin;
  const struct favor_input q = {element_at(field, field->arrays[RECOMPUTE_Q], row * key_width), n * key_width,
                                key_width};
  const struct favor_input k = {element_at(field, field->arrays[RECOMPUTE_K], key_row * key_width), n * key_width,
                                key_width};
  const struct favor_input v = {element_at(field, field->arrays[RECOMPUTE_V], key_row * value_width), n * value_width,
                                value_width};
  const struct favor_output out = {(void *)element_at(field, field->out, row * value_width), n * value_width,
                                   value_width};
  return favor_plan_execute(plan, &q, &k, &v, &out);
}

/* Collective: the error with so many features. */
static enum favor_status try_features(struct field *field, int64_t features, double *error) {
  const struct recompute *recompute = &field->recompute;
  struct favor_plan *plan;
  struct favor_shard shard;
  struct check_certificate certificate;
  field->problem.features = features;
  enum favor_status status = favor_plan_create(field->context, &field->problem, &plan);
  if (status != FAVOR_OK) return status;
  favor_plan_shard(plan, &shard);
  status = execute(field, plan, &shard);
  favor_plan_destroy(&plan);
  if (status != FAVOR_OK) return status;
  memset(field->out_rows, 0, (size_t)recompute_out_row(recompute, recompute->n_rows, 0) * sizeof *field->out_rows);
  for (int64_t i = 0; i < recompute->n_rows; i++) {
    const int64_t token = recompute->rows[i].token;
    if (token < shard.token_begin || token >= shard.token_end) continue;
    for (int64_t h = shard.head_begin; h < shard.head_end; h++)
      store_row(field, token, h, field->out_rows + recompute_out_row(recompute, i, h));
  }
  status = recompute_certify(recompute, field->out_rows, &certificate);
  *error = certificate.relative_error;
  return status;
}

static void warn_refused(const struct pilot *pilot) {
  if (!command_is_speaker(pilot->command) || options_flag(pilot->command->options, OPTION_QUIET)) return;
  fprintf(stderr, "favor: warning: the pilot of --target-error was refused (%s); --features %lld is taken as it is\n",
          favor_context_message(pilot->command->context), (long long)pilot->problem->features);
}

static enum favor_status try_all(struct field *field) {
  struct pilot *pilot = field->pilot;
  const struct options *options = pilot->command->options;
  for (int64_t features = pilot->problem->features;; features = smaller(2 * features, pilot->most_features)) {
    struct pilot_trial *trial = &pilot->trials[pilot->n_trials];
    const enum favor_status status = try_features(field, features, &trial->relative_error);
    if (status == FAVOR_EDATA) {
      /* A token that is too long; if it is so for the run too, that names it by its own number. */
      warn_refused(pilot);
      return FAVOR_OK;
    }
    if (status != FAVOR_OK) return status;
    trial->features = features;
    pilot->n_trials++;
    if (options_flag(options, OPTION_VERBOSE) && command_is_speaker(pilot->command))
      fprintf(stderr, "favor: pilot: error %.3g with %lld features\n", trial->relative_error, (long long)features);
    pilot->is_reached = trial->relative_error <= pilot->target;
    if (pilot->is_reached || features == pilot->most_features) return FAVOR_OK;
  }
}

static void release(struct field *field) {
  recompute_release(&field->recompute);
  for (int which = RECOMPUTE_Q; which <= RECOMPUTE_V; which++) {
    free(field->tensors[which]);
    free(field->arrays[which]);
  }
  free(field->tokens);
  free(field->out);
  free(field->out_rows);
  free(field->estimate_data);
}

enum favor_status pilot_run(struct pilot *pilot) {
  struct field field = {
      .source = {.read = read_field}, .pilot = pilot, .context = pilot->command->context, .problem = *pilot->problem};
  /* The pilot has a grid, a schedule and blocks of its own. */
  field.problem.grid_heads = field.problem.grid_tokens = 0;
  field.problem.is_streamed = false; /* rows are counted by shards */
  field.problem.block_tokens = field.problem.memory_bytes = 0;
  field.problem.blocks_held = field.problem.caller_bytes = 0;
  field.problem.scan = FAVOR_SCAN_AUTO;
  enum favor_status status = prepare(&field);
  if (status == FAVOR_OK) status = answer(&field);
  if (status == FAVOR_OK) status = try_all(&field);
  pilot->tokens = field.problem.tokens;
  pilot->heads = field.problem.heads;
  release(&field);
  return status;
}

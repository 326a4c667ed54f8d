/* The error of the output against the number of features, for maps and projections (Choromanski et al. 2021, figure 4).
 *
 * Every (map, projection, features, draw) is a run of one rank on all the data; ranks take turns. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "cli/inputs.h"
#include "cli/option_table.h"
#include "cli/progress.h"
#include "cli/statistics.h"
#include "cli/study.h"
#include "dist/agree.h"
#include "feature/map.h"

/* The tensors, the same on every rank: [heads][N][D], [kv_heads][N][D], [kv_heads][N][E]. */
struct data {
  struct favor_problem problem; /* shapes and segments */
  int64_t *segments;
  int64_t n_out;
  float *q, *k, *v, *exact, *out;
};

static void release(struct data *data) {
  free(data->segments);
  free(data->q);
  free(data->k);
  free(data->v);
  free(data->exact);
  free(data->out);
}

static bool allocate(struct data *data) {
  const struct favor_problem *problem = &data->problem;
  size_t q_rows = (size_t)(problem->batch * problem->heads * problem->tokens);
  size_t k_rows = (size_t)(problem->batch * problem->kv_heads * problem->tokens);
  size_t d = (size_t)problem->key_width * sizeof(float), e = (size_t)problem->value_width * sizeof(float);
  data->n_out = (int64_t)q_rows * problem->value_width;
  data->q = memory_zeroed(q_rows, d);
  data->k = memory_zeroed(k_rows, d);
  data->v = memory_zeroed(k_rows, e);
  data->exact = memory_zeroed(q_rows, e);
  data->out = memory_zeroed(q_rows, e);
  return data->q && data->k && data->v && data->exact && data->out;
}

static void draw(uint64_t seed, uint64_t tensor, int64_t n, double spread, float *x) {
  struct random_stream stream = random_stream(seed, RANDOM_MAKE, tensor, 0);
  for (int64_t i = 0; i < n; i += 2) {
    double pair[2];
    random_normal_pair(&stream, (uint64_t)i / 2, pair);
    for (int j = 0; j < 2 && i + j < n; j++) x[i + j] = (float)(spread * pair[j]);
  }
}

/* Local: normal deviates of the shape. */
static void make_random(const struct study *study, struct data *data) {
  enum { TOKENS = 4096, WIDTH = 16 }; /* the paper's */
  const struct options *options = study->command->options;
  struct favor_problem *problem = &data->problem;
  problem->tokens = TOKENS;
  problem->key_width = WIDTH;
  if (option_is_active(options, OPTION_SHAPE)) {
    const int64_t *shape = options->values[OPTION_SHAPE].integers;
    problem->batch = shape[0];
    problem->heads = problem->kv_heads = shape[1];
    problem->tokens = shape[2];
    problem->key_width = shape[3];
  }
  problem->value_width = problem->key_width;
  if (!allocate(data)) {
    study_fail_memory(study);
    return;
  }
  double spread = options_number(options, OPTION_SPREAD);
  draw(study->seed, 0, data->n_out, spread > 0 ? spread : 1, data->q);
  draw(study->seed, 1, data->n_out, spread > 0 ? spread : 1, data->k);
  draw(study->seed, 2, data->n_out, 1, data->v);
}

/* Collective. */
static enum favor_status read_file(const struct study *study, struct data *data) {
  struct input_names names = {.query = "q", .key = "k", .value = "v", .segments = "segments"};
  names.layout = (enum favor_layout)options_integer(study->command->options, OPTION_LAYOUT);
  struct inputs inputs;
  enum favor_status status = inputs_open(study->context, study->command->options->operands[1], &names, &inputs);
  if (status != FAVOR_OK) return status;
  struct favor_problem *problem = &data->problem;
  inputs_describe(&inputs, problem);
  int64_t tokens = problem->tokens, heads = problem->batch * problem->heads,
          kv_heads = problem->batch * problem->kv_heads;
  data->segments = inputs.segments; /* stays ours */
  inputs.segments = NULL;
  if (!allocate(data)) {
    study_fail_memory(study);
  } else {
    favor_tensor_read(inputs.q, 0, heads, 0, tokens, FAVOR_PRECISION_F32, data->q);
    favor_tensor_read(inputs.k, 0, kv_heads, 0, tokens, FAVOR_PRECISION_F32, data->k);
    favor_tensor_read(inputs.v, 0, kv_heads, 0, tokens, FAVOR_PRECISION_F32, data->v);
  }
  inputs_close(&inputs);
  return FAVOR_OK;
}

/* Local: one execution on this rank alone. */
static enum favor_status run(const struct study *study, const struct data *data, const struct favor_problem *problem,
                             float *out) {
  int64_t n = problem->tokens, d = problem->key_width, e = problem->value_width;
  struct favor_input q = {data->q, n * d, d}, k = {data->k, n * d, d}, v = {data->v, n * e, e};
  struct favor_output output = {out, n * e, e};
  struct favor_plan *plan = NULL;
  enum favor_status status = favor_plan_create(study->self, problem, &plan);
  if (status == FAVOR_OK) status = favor_plan_execute(plan, &q, &k, &v, &output);
  favor_plan_destroy(&plan);
  if (status == FAVOR_OK) return FAVOR_OK;
  return dist_fail(study->context, status, "%s", favor_context_message(study->self));
}

static double relative_error(const struct data *data) {
  double error = 0, reference = 0;
  for (int64_t i = 0; i < data->n_out; i++) {
    double difference = (double)data->out[i] - (double)data->exact[i];
    error += difference * difference;
    reference += (double)data->exact[i] * (double)data->exact[i];
  }
  return reference > 0 ? sqrt(error / reference) : 0;
}

/* The runs in a row: draws of each number of features of each projection of each map. */
struct runs {
  int64_t n;
  double *errors; /* [maps][projections][row_norms][counts][draws] */
};

static struct favor_problem problem_of_run(const struct study *study, const struct data *data, int64_t index) {
  struct favor_problem problem = data->problem;
  int64_t rest = index / study->draws;
  problem.redraw = (uint64_t)(index % study->draws);
  problem.features = study->counts[rest % study->n_counts];
  rest /= study->n_counts;
  problem.row_norm = (enum favor_row_norm)study->row_norms.places[rest % study->row_norms.n];
  rest /= study->row_norms.n;
  problem.projection = (enum favor_projection)study->projections.places[rest % study->projections.n];
  problem.map = (enum favor_map)study->maps.places[rest / study->projections.n];
  if (problem.map == FAVOR_MAP_OPRF) problem.row_norm = FAVOR_ROW_NORM_CHI; /* it has no other */
  problem.seed = study->seed;
  if (map_rows(&problem)) { /* these are no estimates of softmax, which alone lets tokens be moved */
    problem.key_shift = FAVOR_KEY_SHIFT_NONE;
    problem.balance = FAVOR_BALANCE_NONE;
  }
  return problem;
}

/* The oprf map has one norm, so the others would only repeat it. */
static bool is_repeated(const struct study *study, int64_t index) {
  int64_t norm = index / study->draws / study->n_counts % study->row_norms.n;
  int64_t map = index / study->draws / study->n_counts / study->row_norms.n / study->projections.n;
  return study->maps.places[map] == FAVOR_MAP_OPRF && norm > 0;
}

/* Local: this rank's share. */
static void run_share(const struct study *study, const struct data *data, struct runs *runs) {
  int64_t rank = favor_context_rank(study->context), size = favor_context_size(study->context);
  struct progress progress;
  progress_start(&progress, study->command, "study", "runs", (double)(runs->n / size));
  for (int64_t i = rank; i < runs->n && !dist_has_failed(study->context); i += size) {
    if (is_repeated(study, i)) continue;
    struct favor_problem problem = problem_of_run(study, data, i);
    if (run(study, data, &problem, data->out) == FAVOR_OK) runs->errors[i] = relative_error(data);
    progress_update(&progress, (double)(i / size));
  }
  progress_end(&progress);
}

/* The trivial answer stands beside the others, with no features. */
static void add_mean(const struct study *study, const struct data *data, struct study_table *table) {
  struct favor_problem problem = data->problem;
  problem.method = FAVOR_METHOD_MEAN;
  if (run(study, data, &problem, data->out) != FAVOR_OK) return;
  const struct study_cell row[] = {study_text("mean of v"), study_text("none"), study_text("none"),
                                   study_number(0),         study_number(0),    study_number(relative_error(data)),
                                   study_number(0)};
  study_add(study, table, row);
}

static void add_rows(const struct study *study, const struct runs *runs, struct study_table *table) {
  for (int64_t i = 0; i < runs->n; i += study->draws) {
    if (is_repeated(study, i)) continue;
    struct favor_problem problem = problem_of_run(study, &(struct data){0}, i);
    double mean, deviation;
    statistics_moments(runs->errors + i, (int)study->draws, &mean, &deviation);
    const struct study_cell row[] = {study_text(option_at(OPTION_MAP)->choices[problem.map]),
                                     study_text(option_at(OPTION_PROJECTION)->choices[problem.projection]),
                                     study_text(option_at(OPTION_ROW_NORM)->choices[problem.row_norm]),
                                     study_number((double)problem.features),
                                     study_number((double)study->draws),
                                     study_number(mean),
                                     study_number(deviation)};
    if (!study_add(study, table, row)) return;
  }
}

static enum favor_status prepare(struct study *study, struct data *data, struct runs *runs) {
  const struct options *options = study->command->options;
  data->problem = favor_problem_default();
  if (options->n_operands < 2) {
    make_random(study, data);
  } else {
    enum favor_status status = read_file(study, data);
    if (status != FAVOR_OK) return status;
  }
  data->problem.is_causal = options_flag(options, OPTION_CAUSAL);
  data->problem.key_shift = (enum favor_key_shift)options_integer(options, OPTION_KEY_SHIFT);
  data->problem.balance = (enum favor_balance)options_integer(options, OPTION_BALANCE);
  data->problem.segments = data->segments;
  data->problem.is_negative_allowed = true;
  data->problem.threads = (int)options_integer(options, OPTION_THREADS);
  /* Plans of one rank do not see the others, with which they share the machine. */
  if (data->problem.threads == 0 && favor_context_size(study->context) > 1) data->problem.threads = 1;
  runs->n = study->maps.n * study->projections.n * study->row_norms.n * study->n_counts * study->draws;
  runs->errors = memory_zeroed((size_t)runs->n, sizeof *runs->errors);
  if (!runs->errors) study_fail_memory(study);
  return dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
}

enum favor_status study_error(struct study *study, struct study_table *table) {
  *table = (struct study_table){
      .name = "error",
      .n_columns = 7,
      .columns = {"map", "projection", "row_norm", "features", "draws", "relative_error", "deviation"}};
  struct data data = {0};
  struct runs runs = {0};
  enum favor_status status = prepare(study, &data, &runs);
  const struct favor_problem *shape = &data.problem;
  snprintf(table->note, sizeof table->note, "%s: %lld heads, %lld tokens of width %lld, %lld draws",
           study->command->options->n_operands > 1 ? "tensors of a file" : "normal deviates",
           (long long)(shape->batch * shape->heads), (long long)shape->tokens, (long long)shape->key_width,
           (long long)study->draws);
  if (status == FAVOR_OK) {
    struct favor_problem exact = data.problem;
    exact.method = FAVOR_METHOD_EXACT;
    if (run(study, &data, &exact, data.exact) == FAVOR_OK) run_share(study, &data, &runs);
    status = dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
  }
  /* Each run is one rank's, and 0 on the others: the sums are exact. */
  for (int64_t i = 0; i < runs.n && status == FAVOR_OK; i += study->draws) {
    status = dist_sum_double(study->context, runs.errors + i, (int)study->draws);
  }
  if (status == FAVOR_OK) {
    add_rows(study, &runs, table);
    add_mean(study, &data, table);
    status = dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
  }
  free(runs.errors);
  release(&data);
  return status;
}

/* `favor verify` on files that this test makes without the engine: the right output passes with the right figures, a
 * wrong one fails and is named, a foreign one is refused. */
#include "support/mpi_cmocka.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/random.h"
#include "cli/command.h"
#include "dist/comm.h"
#include "support/oracle.h"

/* ---- a pair of files ------------------------------------------------------------------------------------------------
 */

struct pair {
  int64_t batch, heads, kv_heads, tokens, key_width, value_width, features;
  bool is_causal, has_segments, has_projection_per_head;
  enum favor_layout layout;
  enum favor_type in_type, out_type;
  bool is_run_in_f64, is_hyperbolic;
  /* what is wrong */
  double percent; /* one element of head `wrong_head`, token `wrong_token` is off by so much; NaN: is NaN */
  int64_t wrong_head, wrong_token;
  bool is_projection_wrong, is_projection_missing, is_causal_wrong, is_segment_wrong;
  int64_t out_tokens_missing;
  const char *attribute_missing;
  const char *map, *method; /* are named instead of the right ones */
  int64_t window;
};

static const struct pair plain = {.batch = 2,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .tokens = 150,
                                  .key_width = 6,
                                  .value_width = 5,
                                  .features = 8,
                                  .window = -1,
                                  .in_type = FAVOR_FLOAT32,
                                  .out_type = FAVOR_FLOAT32};

struct data {
  struct pair pair;
  double *q, *k, *v, *out, *exact; /* [flat heads][N][width] */
  double *projection;
  int64_t segments[4];
};

static struct favor_context *context;
static char folder[256], in_path[288], out_path[288], text_path[288];

/* As the file will hold it, so that the oracle sees what the check will read. */
static double as_stored(double x, enum favor_type type) {
  static const struct {
    int digits, min_exponent;
  } types[] = {[FAVOR_FLOAT16] = {11, -14}, [FAVOR_BFLOAT16] = {8, -126}, [FAVOR_FLOAT32] = {24, -126}};
  if (type == FAVOR_FLOAT64 || x == 0 || !isfinite(x)) return x;
  const int exponent = ilogb(x) > types[type].min_exponent ? ilogb(x) : types[type].min_exponent;
  const double unit = ldexp(1.0, exponent - types[type].digits + 1);
  return rint(x / unit) * unit;
}

static double *normal(uint32_t number, int64_t n, enum favor_type type) {
  struct random_stream stream = random_stream(1, RANDOM_MAKE, 0, number);
  double *x = malloc((size_t)n * sizeof *x);
  random_normal(&stream, 0, n, x);
  for (int64_t i = 0; i < n; i++) x[i] = as_stored(x[i], type);
  return x;
}

static void compute(struct data *data) {
  const struct pair *p = &data->pair;
  const int64_t n = p->tokens, out_size = n * p->value_width;
  double *pairs[3] = {data->q, data->k, data->v};
  const int64_t sizes[3] = {p->batch * p->heads * n * p->key_width, p->batch * p->kv_heads * n * p->key_width,
                            p->batch * p->kv_heads * out_size};
  double *seen[3]; /* by the run: a float32 run rounds */
  for (int t = 0; t < 3; t++) {
    seen[t] = malloc((size_t)sizes[t] * sizeof(double));
    for (int64_t i = 0; i < sizes[t]; i++) seen[t][i] = p->is_run_in_f64 ? pairs[t][i] : (float)pairs[t][i];
  }
  for (int64_t h = 0; h < p->batch * p->heads; h++) {
    const int64_t g = h * p->kv_heads / p->heads;
    const struct oracle_head oracle = {.tokens = n,
                                       .key_width = p->key_width,
                                       .value_width = p->value_width,
                                       .features = p->features,
                                       .segments = p->has_segments ? data->segments : NULL,
                                       .n_segments = 3,
                                       .is_causal = p->is_causal,
                                       .is_hyperbolic = p->is_hyperbolic,
                                       .projection =
                                           data->projection + (p->has_projection_per_head ? g % p->kv_heads : 0) *
                                                                  p->features * p->key_width};
    const double *q = seen[0] + h * n * p->key_width, *k = seen[1] + g * n * p->key_width, *v = seen[2] + g * out_size;
    oracle_attend_pairs(&oracle, q, k, v, data->out + h * out_size);
    oracle_softmax(&oracle, q, k, v, data->exact + h * out_size);
  }
  for (int t = 0; t < 3; t++) free(seen[t]);
}

static void data_create(const struct pair *pair, struct data *data) {
  const struct pair *p = pair;
  const int64_t out_size = p->batch * p->heads * p->tokens * p->value_width;
  const int64_t projections = p->has_projection_per_head ? p->kv_heads : 1;
  data->pair = *pair;
  memcpy(data->segments, (int64_t[]){0, p->tokens / 3, p->tokens / 3, p->tokens}, sizeof data->segments);
  data->q = normal(1, p->batch * p->heads * p->tokens * p->key_width, p->in_type);
  data->k = normal(2, p->batch * p->kv_heads * p->tokens * p->key_width, p->in_type);
  data->v = normal(3, p->batch * p->kv_heads * p->tokens * p->value_width, p->in_type);
  data->projection = normal(4, projections * p->features * p->key_width, FAVOR_FLOAT32);
  data->out = calloc((size_t)out_size + 1, sizeof *data->out);
  data->exact = calloc((size_t)out_size + 1, sizeof *data->exact);
  if (mpi_rank() == 0) compute(data); /* which alone writes files and judges */
  for (int64_t i = 0; i < out_size; i++) data->out[i] = as_stored(data->out[i], p->out_type);
}

static void data_destroy(struct data *data) {
  free(data->q);
  free(data->k);
  free(data->v);
  free(data->projection);
  free(data->out);
  free(data->exact);
}

static void spoil_row(struct data *data) {
  const struct pair *p = &data->pair;
  double *row = data->out + (p->wrong_head * p->tokens + p->wrong_token) * p->value_width, *largest = row;
  for (int64_t e = 0; e < p->value_width; e++) {
    if (fabs(row[e]) > fabs(*largest)) largest = &row[e];
  }
  *largest = as_stored(*largest * (1 + p->percent / 100), p->out_type);
}

static struct favor_tensor_shape shape_of(const struct pair *p, int64_t heads, int64_t tokens, int64_t width,
                                          enum favor_type type) {
  return (struct favor_tensor_shape){.n_dims = 4,
                                     .batch = p->batch,
                                     .heads = heads,
                                     .tokens = tokens,
                                     .width = width,
                                     .type = type,
                                     .layout = p->layout,
                                     .is_contiguous = true};
}

/* Collective; rank 0 writes all. */
static enum favor_status write_file(const struct favor_output_spec *spec, const double *const *tensors) {
  struct favor_output_file *file;
  enum favor_status status = favor_output_create(context, spec, &file);
  if (status != FAVOR_OK) return status;
  for (int t = 0; t < spec->n_tensors && mpi_rank() == 0; t++) {
    const struct favor_tensor_shape *shape = &spec->tensors[t].shape;
    favor_output_write(file, t, 0, shape->batch * shape->heads, 0, shape->tokens, FAVOR_PRECISION_F64, tensors[t]);
  }
  return favor_output_finish(&file);
}

static enum favor_status write_in(const struct data *data) {
  const struct pair *p = &data->pair;
  const struct favor_output_tensor tensors[] = {{"q", shape_of(p, p->heads, p->tokens, p->key_width, p->in_type)},
                                                {"k", shape_of(p, p->kv_heads, p->tokens, p->key_width, p->in_type)},
                                                {"v", shape_of(p, p->kv_heads, p->tokens, p->value_width, p->in_type)}};
  int64_t segments[4];
  memcpy(segments, data->segments, sizeof segments);
  if (p->is_segment_wrong) segments[1] = p->tokens - 1;
  const struct favor_output_small small = {"segments", FAVOR_ELEMENT_INT64, 1, {4}, segments};
  const struct favor_output_spec spec = {.path = in_path,
                                         .is_overwrite = true,
                                         .tensors = tensors,
                                         .n_tensors = 3,
                                         .small = &small,
                                         .n_small = p->has_segments || p->is_segment_wrong};
  return write_file(&spec, (const double *const[]){data->q, data->k, data->v});
}

static int attributes_of(const struct pair *p, struct favor_attribute *attributes) {
  const struct favor_attribute all[] = {
      {.name = "window", .kind = FAVOR_ATTRIBUTE_INTEGER, .integer = p->window},
      {.name = "global-tokens", .kind = FAVOR_ATTRIBUTE_INTEGER},
      {.name = "method", .text = "favor"},
      {.name = "map", .text = ""},
      {.name = "precision", .text = ""},
      {.name = "layout", .text = ""},
      {.name = "query", .text = "q"},
      {.name = "key", .text = "k"},
      {.name = "value", .text = "v"},
      {.name = "segments", .text = "segments"},
      {.name = "causal", .kind = FAVOR_ATTRIBUTE_INTEGER, .integer = p->is_causal != p->is_causal_wrong},
      {.name = "scale", .kind = FAVOR_ATTRIBUTE_NUMBER, .number = 1 / sqrt((double)p->key_width)},
  };
  int n = 0;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (p->attribute_missing && strcmp(all[i].name, p->attribute_missing) == 0) continue;
    attributes[n] = all[i];
    if (strcmp(all[i].name, "map") == 0)
      strcpy(attributes[n].text, p->map ? p->map : p->is_hyperbolic ? "hyperbolic" : "positive");
    if (strcmp(all[i].name, "method") == 0 && p->method) strcpy(attributes[n].text, p->method);
    if (strcmp(all[i].name, "precision") == 0) strcpy(attributes[n].text, p->is_run_in_f64 ? "f64" : "f32");
    if (strcmp(all[i].name, "layout") == 0)
      strcpy(attributes[n].text, p->layout == FAVOR_HEADS_FIRST ? "heads-first" : "tokens-first");
    n++;
  }
  return n;
}

static enum favor_status write_out(const struct data *data) {
  const struct pair *p = &data->pair;
  const struct favor_output_tensor out = {
      "out", shape_of(p, p->heads, p->tokens - p->out_tokens_missing, p->value_width, p->out_type)};
  struct favor_output_small projection = {
      "projection", FAVOR_ELEMENT_DOUBLE, 2, {p->features, p->key_width}, data->projection};
  if (p->has_projection_per_head) {
    projection.n_dims = 3;
    memcpy(projection.dims, (int64_t[]){p->kv_heads, p->features, p->key_width}, 3 * sizeof(int64_t));
  }
  static struct favor_attribute attributes[16];
  const struct favor_output_spec spec = {.path = out_path,
                                         .is_overwrite = true,
                                         .tensors = &out,
                                         .n_tensors = 1,
                                         .small = &projection,
                                         .n_small = p->is_projection_missing ? 0 : 1,
                                         .attributes = attributes,
                                         .n_attributes = attributes_of(p, attributes)};
  return write_file(&spec, (const double *const[]){data->out});
}

/* ---- a run ----------------------------------------------------------------------------------------------------------
 */

/* Collective: favor verify --json; *report is what rank 0 printed, NULL where that was nothing, and on other ranks. */
static enum favor_status run_verify(const char *rows, json_t **report) {
  static struct options options;
  char *words[] = {"verify", in_path, out_path, "--json", "--verbose", "--rows", (char *)rows};
  struct status parsed = {0};
  options_parse(&options, sizeof words / sizeof *words, words, &parsed);
  struct command command = {
      .context = context, .options = &options, .line = "", .mpi_version = "", .start_s = clock_now_s()};
  assert_all(parsed.code == FAVOR_OK);
  fflush(stdout);
  const int stdout_copy = dup(STDOUT_FILENO);
  if (mpi_rank() == 0 && !freopen(text_path, "w", stdout)) abort();
  const enum favor_status status = cmd_verify(&command);
  fflush(stdout);
  dup2(stdout_copy, STDOUT_FILENO);
  close(stdout_copy);
  *report = mpi_rank() == 0 ? json_load_file(text_path, 0, NULL) : NULL;
  return status;
}

/* Collective: files of this pair, and a run on them. */
static enum favor_status verify_pair(const struct pair *pair, const char *rows, struct data *data, json_t **report) {
  data_create(pair, data);
  if (pair->percent != 0) spoil_row(data);
  if (pair->is_projection_wrong) data->projection[7] += 0.5;
  enum favor_status status = write_in(data);
  assert_all(status == FAVOR_OK);
  status = write_out(data);
  assert_all(status == FAVOR_OK);
  return run_verify(rows, report);
}

static double real_at(const json_t *report, const char *key) {
  const json_t *value = json_object_get(report, key);
  return json_is_real(value) ? json_real_value(value) : -1; /* no error is negative */
}

static int64_t worst_at(const json_t *report, const char *key) {
  return json_integer_value(json_object_get(json_object_get(report, "worst"), key));
}

/* Relative difference of all rows, as the report counts it. */
static double exact_error(const struct data *data) {
  const struct pair *p = &data->pair;
  return oracle_relative_error(data->out, data->exact, p->batch * p->heads * p->tokens * p->value_width);
}

/* ---- right outputs --------------------------------------------------------------------------------------------------
 */

static void expect_passed(const struct pair *pair) {
  struct data data;
  json_t *report;
  const enum favor_status status = verify_pair(pair, "100000", &data, &report);
  assert_all(status == FAVOR_OK);
  const bool is_speaker = mpi_rank() == 0;
  assert_all(!is_speaker || json_is_true(json_object_get(report, "passed")));
  assert_all(!is_speaker || json_integer_value(json_object_get(report, "rows")) == pair->tokens);
  assert_all(!is_speaker || json_integer_value(json_object_get(report, "heads")) == pair->batch * pair->heads);
  const double error = real_at(report, "relative_error_definition");
  assert_all(!is_speaker || (error >= 0 && error <= 1e-12));
  assert_all(!is_speaker || fabs(real_at(report, "relative_error_exact") - exact_error(&data)) <= 1e-8);
  assert_all(!is_speaker || real_at(report, "mean_error_exact") >= 0);
  const json_t *certificate = json_object_get(report, "certificate");
  const double skill = 1 - real_at(report, "relative_error_exact") / real_at(report, "mean_error_exact");
  assert_all(!is_speaker || pair->tokens == 1 ||
             fabs(real_at(certificate, "skill") - skill) <= 1e-6 * fabs(skill) + 1e-6);
  assert_all(!is_speaker || pair->tokens == 1 ||
             json_is_string(json_object_get(certificate, "advice")) == (skill < 0.1));
  assert_all(!is_speaker ||
             json_array_size(json_object_get(report, "per_head")) == (size_t)(pair->batch * pair->heads));
  json_decref(report);
  data_destroy(&data);
}

static void test_right_outputs_pass(void **state) {
  (void)state;
  struct pair pairs[12];
  for (int i = 0; i < 12; i++) pairs[i] = plain;
  pairs[1].is_causal = true;
  pairs[2].has_segments = pairs[2].has_projection_per_head = true;
  pairs[3].layout = FAVOR_TOKENS_FIRST;
  pairs[3].is_causal = pairs[3].has_segments = true;
  pairs[4].in_type = pairs[4].out_type = FAVOR_FLOAT16;
  pairs[5].in_type = FAVOR_FLOAT64; /* rounded by a run in float32 */
  pairs[5].out_type = FAVOR_BFLOAT16;
  pairs[6].in_type = pairs[6].out_type = FAVOR_FLOAT64;
  pairs[6].is_run_in_f64 = true;
  pairs[7].tokens = 1;
  pairs[8].tokens = 3; /* fewer than some runs have ranks */
  pairs[8].has_segments = true;
  pairs[9].is_hyperbolic = pairs[9].is_causal = true;
  for (int i = 10; i < 12; i++) { /* three tiles of keys, which go to several ranks */
    pairs[i].tokens = 600;
    pairs[i].batch = pairs[i].heads = pairs[i].kv_heads = 1;
    pairs[i].features = 2;
    pairs[i].is_causal = i == 11;
  }
  for (int i = 0; i < 12; i++) expect_passed(&pairs[i]);
}

/* Outputs of other methods, which need no projection, and of features with a window. A window of 0 is the token itself,
 * one as wide as the sequence is all of it. */
static void test_other_methods_pass(void **state) {
  (void)state;
  static const struct {
    const char *method;
    int64_t window;
    bool is_exact; /* else v */
  } cases[] = {
      {"exact", -1, true}, {"copy", -1, false}, {"window", 0, false}, {"window", 150, true}, {"favor", 150, true}};
  for (int i = 0; i < 5; i++) {
    struct pair pair = plain;
    struct data data;
    json_t *report;
    pair.method = cases[i].method;
    pair.window = cases[i].window;
    pair.is_projection_missing = strcmp(pair.method, "favor") != 0;
    pair.is_causal = i % 2 == 0;
    pair.has_segments = i >= 2;
    data_create(&pair, &data);
    const int64_t row = pair.tokens * pair.value_width;
    for (int64_t h = 0; h < pair.batch * pair.heads; h++) {
      const double *from = cases[i].is_exact ? data.exact + h * row : data.v + h * pair.kv_heads / pair.heads * row;
      for (int64_t e = 0; e < row; e++) data.out[h * row + e] = (float)from[e];
    }
    enum favor_status status = write_in(&data);
    assert_all(status == FAVOR_OK);
    status = write_out(&data);
    assert_all(status == FAVOR_OK);
    status = run_verify("100000", &report);
    assert_all(status == FAVOR_OK);
    assert_all(mpi_rank() != 0 || real_at(report, "relative_error_definition") <= 1e-12);
    json_decref(report);
    data.out[3] *= 1.01;
    status = write_out(&data);
    assert_all(status == FAVOR_OK);
    status = run_verify("100000", &report);
    assert_all(status == FAVOR_EVERIFY);
    json_decref(report);
    data_destroy(&data);
  }
}

static void test_no_tokens_pass(void **state) {
  (void)state;
  struct pair pair = plain;
  struct data data;
  json_t *report;
  pair.tokens = 0;
  const enum favor_status status = verify_pair(&pair, "64", &data, &report);
  assert_all(status == FAVOR_OK);
  assert_all(mpi_rank() != 0 || json_integer_value(json_object_get(report, "rows")) == 0);
  json_decref(report);
  data_destroy(&data);
}

/* ---- wrong outputs --------------------------------------------------------------------------------------------------
 */

/* Runs on a wrong pair: it fails, and says so on every rank and in the report. */
static void expect_failed(const struct pair *pair, const char *rows, json_t **report) {
  struct data data;
  const enum favor_status status = verify_pair(pair, rows, &data, report);
  data_destroy(&data);
  assert_all(status == FAVOR_EVERIFY);
  assert_all(strstr(favor_context_message(context), "verification failed") != NULL);
  assert_all(mpi_rank() != 0 || json_is_false(json_object_get(*report, "passed")));
}

static void test_one_number_off_by_a_percent_fails(void **state) {
  (void)state;
  const enum favor_type types[] = {FAVOR_FLOAT32, FAVOR_FLOAT16, FAVOR_BFLOAT16};
  for (int t = 0; t < 3; t++) {
    struct pair pair = plain;
    json_t *report;
    pair.out_type = types[t];
    pair.percent = 1;
    pair.wrong_head = 5;
    pair.wrong_token = 149; /* the last token is in every sample */
    expect_failed(&pair, "9", &report);
    assert_all(mpi_rank() != 0 || worst_at(report, "head") == 5);
    assert_all(mpi_rank() != 0 || worst_at(report, "token") == 149);
    assert_all(strstr(favor_context_message(context), "head 5, token 149") != NULL);
    json_decref(report);
  }
}

/* Too little to show in the error of all rows together. */
static void test_one_wrong_row_among_many_fails(void **state) {
  (void)state;
  struct pair pair = plain;
  json_t *report;
  pair.percent = 0.2;
  pair.wrong_head = 2;
  pair.wrong_token = 70;
  expect_failed(&pair, "150", &report);
  assert_all(mpi_rank() != 0 || real_at(report, "relative_error_definition") < 1e-4);
  assert_all(mpi_rank() != 0 || (worst_at(report, "head") == 2 && worst_at(report, "token") == 70));
  json_decref(report);
}

static void test_nan_fails_and_is_named(void **state) {
  (void)state;
  struct pair pair = plain;
  json_t *report;
  pair.percent = NAN;
  pair.wrong_head = 3;
  expect_failed(&pair, "3", &report);
  assert_all(strstr(favor_context_message(context), "NaN or Inf at head 3, token 0") != NULL);
  assert_all(mpi_rank() != 0 || json_is_null(json_object_get(report, "relative_error_definition")));
  json_decref(report);
}

static void test_other_projection_fails(void **state) {
  (void)state;
  struct pair pair = plain;
  json_t *report;
  pair.is_projection_wrong = true;
  expect_failed(&pair, "64", &report);
  json_decref(report);
}

static void test_other_mask_fails(void **state) {
  (void)state;
  struct pair pair = plain;
  json_t *report;
  pair.is_causal_wrong = true;
  expect_failed(&pair, "64", &report);
  json_decref(report);
}

static void test_other_map_fails(void **state) {
  (void)state;
  struct pair pair = plain;
  json_t *report;
  pair.map = "hyperbolic";
  expect_failed(&pair, "64", &report);
  json_decref(report);
}

/* ---- files that do not belong together ------------------------------------------------------------------------------
 */

static void expect_refused(const struct pair *pair, const char *reason) {
  struct data data;
  json_t *report;
  const enum favor_status status = verify_pair(pair, "64", &data, &report);
  data_destroy(&data);
  assert_all(status == FAVOR_EDATA);
  assert_all(strstr(favor_context_message(context), reason) != NULL);
  assert_all(report == NULL);
}

static void test_foreign_files_are_refused(void **state) {
  (void)state;
  struct pair pair = plain;
  pair.is_projection_missing = true;
  expect_refused(&pair, "projection");
  pair = plain;
  pair.attribute_missing = "causal";
  expect_refused(&pair, "no attribute `causal`");
  pair = plain;
  pair.method = "unheard-of";
  expect_refused(&pair, "made with method 'unheard-of'");
  pair = plain;
  pair.map = "unheard-of";
  expect_refused(&pair, "made with map 'unheard-of'");
  pair = plain;
  pair.out_tokens_missing = 1;
  expect_refused(&pair, "tokens 149");
  pair = plain;
  pair.is_segment_wrong = true;
  expect_refused(&pair, "segments");
}

static void test_nan_in_the_input_is_named(void **state) {
  (void)state;
  struct data data;
  json_t *report;
  data_create(&plain, &data);
  data.v[(3 * plain.tokens + 111) * plain.value_width] = NAN;
  enum favor_status status = write_in(&data);
  assert_all(status == FAVOR_OK);
  status = write_out(&data);
  assert_all(status == FAVOR_OK);
  status = run_verify("64", &report);
  assert_all(status == FAVOR_EDATA);
  assert_all(strstr(favor_context_message(context), "v holds NaN or Inf at head 3, token 111") != NULL);
  data_destroy(&data);
}

/* Every agreement of the command, made to fail on the last rank. */
static void test_failures_are_agreed(void **state) {
  (void)state;
  struct data data;
  json_t *report;
  data_create(&plain, &data);
  enum favor_status status = write_in(&data);
  assert_all(status == FAVOR_OK);
  status = write_out(&data);
  assert_all(status == FAVOR_OK);
  int n_failures = 0;
  for (;; n_failures++) {
    dist_inject(context, DIST_SITE_COMMAND, mpi_size() - 1, n_failures);
    status = run_verify("64", &report);
    json_decref(report);
    if (status == FAVOR_OK) break;
    assert_all(status == FAVOR_EINTERNAL);
  }
  dist_inject(context, DIST_SITE_NONE, 0, 0);
  /* Attributes, shapes of IN, shapes of OUT, sample, memory, keys, verdict. */
  assert_all(n_failures == 7);
  data_destroy(&data);
}

/* ---- main -----------------------------------------------------------------------------------------------------------
 */

/* As a test, since MPI runs by now. */
static void test_make_a_folder(void **state) {
  (void)state;
  const char *parent = getenv("TMPDIR");
  assert_all(favor_context_create(MPI_COMM_WORLD, &context) == FAVOR_OK);
  snprintf(folder, sizeof folder, "%.200s/favor-verify-XXXXXX", parent ? parent : "/tmp");
  const bool is_made = mpi_rank() != 0 || mkdtemp(folder) != NULL;
  assert_all(is_made);
  MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, MPI_COMM_WORLD);
  snprintf(in_path, sizeof in_path, "%s/in.h5", folder);
  snprintf(out_path, sizeof out_path, "%s/out.h5", folder);
  snprintf(text_path, sizeof text_path, "%s/report.json", folder);
}

static void test_remove_the_folder(void **state) {
  (void)state;
  MPI_Barrier(MPI_COMM_WORLD);
  if (mpi_rank() == 0) {
    unlink(in_path);
    unlink(out_path);
    unlink(text_path);
  }
  const bool is_gone = mpi_rank() != 0 || rmdir(folder) == 0; /* so nothing else was left in it */
  assert_all(is_gone);
  favor_context_destroy(&context);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_make_a_folder),
      mpi_unit_test(test_right_outputs_pass),
      mpi_unit_test(test_other_methods_pass),
      mpi_unit_test(test_no_tokens_pass),
      mpi_unit_test(test_one_number_off_by_a_percent_fails),
      mpi_unit_test(test_one_wrong_row_among_many_fails),
      mpi_unit_test(test_nan_fails_and_is_named),
      mpi_unit_test(test_other_projection_fails),
      mpi_unit_test(test_other_mask_fails),
      mpi_unit_test(test_other_map_fails),
      mpi_unit_test(test_foreign_files_are_refused),
      mpi_unit_test(test_nan_in_the_input_is_named),
      mpi_unit_test(test_failures_are_agreed),
      mpi_unit_test(test_remove_the_folder),
  };
  return mpi_cmocka_main(&argc, &argv, "verify", tests, sizeof tests / sizeof tests[0]);
}

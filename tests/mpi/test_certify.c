/* `favor attend --certify` and `--target-error`: the certificate is the error of the stored output against exact
 * attention by an oracle of its own, the same for any number of ranks; features are doubled as far as they must be. */
#include "support/mpi_cmocka.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/random.h"
#include "cli/command.h"
#include "core/check.h"
#include "dist/comm.h"
#include "io/positioned.h"
#include "support/oracle.h"

static struct favor_context *world, *self;
static char folder[256], in_path[288], out_path[288], text_path[288];

/* ---- reads that fail ------------------------------------------------------------------------------------------------
 */

static int64_t n_reads, failing_read = -1;

int __real_positioned_read(int fd, void *data, size_t bytes, int64_t offset);
int __wrap_positioned_read(int fd, void *data, size_t bytes, int64_t offset);

int __wrap_positioned_read(int fd, void *data, size_t bytes, int64_t offset) {
  return n_reads++ == failing_read ? EIO : __real_positioned_read(fd, data, bytes, offset);
}

/* ---- an input -------------------------------------------------------------------------------------------------------
 */

struct input {
  int64_t batch, heads, kv_heads, tokens, key_width, value_width;
  double spread;
  bool has_segments;
  enum favor_layout layout;
  enum favor_type type;
};

static const struct input plain = {2, 4, 2, 300, 8, 5, 0.7, false, FAVOR_HEADS_FIRST, FAVOR_FLOAT32};

static struct favor_tensor_shape shape_of(const struct input *in, int64_t heads, int64_t width) {
  return (struct favor_tensor_shape){.n_dims = 4,
                                     .batch = in->batch,
                                     .heads = heads,
                                     .tokens = in->tokens,
                                     .width = width,
                                     .type = in->type,
                                     .layout = in->layout,
                                     .is_contiguous = true};
}

/* Empty segments, one of a single token, and two of many. */
static void segments_of(const struct input *in, int64_t segments[6]) {
  memcpy(segments, (int64_t[]){0, 0, in->tokens / 3, in->tokens / 3, in->tokens - 1, in->tokens}, 6 * sizeof *segments);
}

/* Collective; rank 0 writes all. */
static void write_input(const struct input *in) {
  const struct favor_output_tensor tensors[] = {{"q", shape_of(in, in->heads, in->key_width)},
                                                {"k", shape_of(in, in->kv_heads, in->key_width)},
                                                {"v", shape_of(in, in->kv_heads, in->value_width)}};
  int64_t segments[6];
  segments_of(in, segments);
  const struct favor_output_small small = {"segments", FAVOR_ELEMENT_INT64, 1, {6}, segments};
  const struct favor_output_spec spec = {.path = in_path,
                                         .is_overwrite = true,
                                         .tensors = tensors,
                                         .n_tensors = 3,
                                         .small = &small,
                                         .n_small = in->has_segments};
  struct favor_output_file *file;
  const enum favor_status created = favor_output_create(world, &spec, &file);
  assert_all(created == FAVOR_OK);
  for (int t = 0; t < 3 && mpi_rank() == 0; t++) {
    const struct favor_tensor_shape *shape = &tensors[t].shape;
    const int64_t n = shape->batch * shape->heads * shape->tokens * shape->width;
    struct random_stream stream = random_stream(1, RANDOM_MAKE, 0, (uint32_t)t);
    double *x = malloc((size_t)n * sizeof *x);
    random_normal(&stream, 0, n, x);
    for (int64_t i = 0; i < n && t < 2; i++) x[i] *= in->spread;
    favor_output_write(file, t, 0, shape->batch * shape->heads, 0, shape->tokens, FAVOR_PRECISION_F64, x);
    free(x);
  }
  const enum favor_status finished = favor_output_finish(&file);
  assert_all(finished == FAVOR_OK);
}

/* ---- a run ----------------------------------------------------------------------------------------------------------
 */

enum { MOST_WORDS = 24 };

/* Collective over the context: favor attend in -o out --overwrite and these words (NULL-terminated). What rank 0 of the
 * context prints is in text_path. */
static enum favor_status attend(struct favor_context *context, const char *const *more) {
  static struct options options;
  char *words[MOST_WORDS] = {"attend", in_path, "-o", out_path, "--overwrite"};
  int n = 5;
  for (; more[n - 5]; n++) words[n] = (char *)more[n - 5];
  struct status parsed = {0};
  options_parse(&options, n, words, &parsed);
  struct command command = {
      .context = context, .options = &options, .line = "", .mpi_version = "", .start_s = clock_now_s()};
  if (parsed.code != FAVOR_OK) return parsed.code;
  fflush(stdout);
  const int stdout_copy = dup(STDOUT_FILENO);
  if (mpi_rank() == 0 && !freopen(text_path, "w", stdout)) abort();
  const enum favor_status status = cmd_attend(&command);
  fflush(stdout);
  dup2(stdout_copy, STDOUT_FILENO);
  close(stdout_copy);
  return status;
}
#define attend_with(context, ...) attend(context, (const char *const[]){__VA_ARGS__, NULL})

/* Rank 0: the JSON object that was printed. */
static json_t *report(void) { return json_load_file(text_path, 0, NULL); }

static double real_at(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_real(value) ? json_real_value(value) : NAN;
}

/* Of the output; a NaN where there is none. */
static double attribute(const struct favor_attribute *attributes, int n, const char *name) {
  for (int i = 0; i < n; i++) {
    if (strcmp(attributes[i].name, name) == 0)
      return attributes[i].kind == FAVOR_ATTRIBUTE_INTEGER ? (double)attributes[i].integer : attributes[i].number;
  }
  return NAN;
}

/* Collective over the context. */
static struct check_certificate stored(struct favor_context *context) {
  struct favor_attribute *attributes = NULL;
  int n = 0;
  favor_attributes_read(context, out_path, &n, &attributes);
  const struct check_certificate certificate = {
      (int64_t)attribute(attributes, n, "certificate_rows"), attribute(attributes, n, "certificate_relative_error"),
      attribute(attributes, n, "certificate_mean_error"), attribute(attributes, n, "certificate_skill")};
  free(attributes);
  return certificate;
}

/* ---- the truth ------------------------------------------------------------------------------------------------------
 */

/* Squares of one token, over all heads. */
struct squares {
  double exact, error, mean_error;
};

/* As the run saw it: in float, whatever the file holds. */
static double *read_all(const char *path, const char *name, enum favor_layout layout, int64_t *heads) {
  struct favor_tensor *tensor;
  struct favor_tensor_shape shape;
  if (favor_tensor_open(self, path, name, layout, &tensor) != FAVOR_OK) return NULL;
  favor_tensor_shape(tensor, &shape);
  *heads = shape.batch * shape.heads;
  double *x = malloc((size_t)(*heads * shape.tokens * shape.width) * sizeof *x);
  favor_tensor_read(tensor, 0, *heads, 0, shape.tokens, FAVOR_PRECISION_F64, x);
  favor_tensor_close(&tensor);
  for (int64_t i = 0; i < *heads * shape.tokens * shape.width; i++) x[i] = (float)x[i];
  return x;
}

/* Rank 0: squares [tokens] of the output as it is stored, by the oracle. */
static void find_truth(const struct input *in, bool is_causal, struct squares *squares) {
  int64_t heads, key_heads, segments[6];
  double *q = read_all(in_path, "q", in->layout, &heads), *k = read_all(in_path, "k", in->layout, &key_heads);
  double *v = read_all(in_path, "v", in->layout, &key_heads), *out = read_all(out_path, "out", in->layout, &heads);
  const int64_t n = in->tokens, e_size = n * in->value_width;
  double *exact = malloc((size_t)e_size * sizeof *exact), *mean = malloc((size_t)e_size * sizeof *mean);
  double *zero = calloc((size_t)(n * in->key_width), sizeof *zero); /* keys that all weigh the same */
  segments_of(in, segments);
  const struct oracle_head oracle = {.tokens = n,
                                     .key_width = in->key_width,
                                     .value_width = in->value_width,
                                     .segments = in->has_segments ? segments : NULL,
                                     .n_segments = 5,
                                     .is_causal = is_causal};
  memset(squares, 0, (size_t)n * sizeof *squares);
  for (int64_t h = 0; h < heads; h++) {
    const int64_t g = h * key_heads / heads;
    oracle_softmax(&oracle, q + h * n * in->key_width, k + g * n * in->key_width, v + g * e_size, exact);
    oracle_softmax(&oracle, q + h * n * in->key_width, zero, v + g * e_size, mean);
    for (int64_t i = 0; i < e_size; i++) {
      struct squares *row = &squares[i / in->value_width];
      row->exact += exact[i] * exact[i];
      row->error += (out[h * e_size + i] - exact[i]) * (out[h * e_size + i] - exact[i]);
      row->mean_error += (mean[i] - exact[i]) * (mean[i] - exact[i]);
    }
  }
  free(q), free(k), free(v), free(out), free(exact), free(mean), free(zero);
}

static struct squares sum_of(const struct squares *squares, int64_t n) {
  struct squares sum = {0};
  for (int64_t i = 0; i < n; i++) {
    sum.exact += squares[i].exact;
    sum.error += squares[i].error;
    sum.mean_error += squares[i].mean_error;
  }
  return sum;
}

static bool is_near(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * fabs(b); }

/* ---- certificates ---------------------------------------------------------------------------------------------------
 */

static void expect_true_error(const struct input *in, bool is_causal, const char *out_type) {
  struct squares *squares = malloc((size_t)(in->tokens + 1) * sizeof *squares);
  write_input(in);
  const enum favor_status status = attend_with(
      world, "--json", "--features", "24", "--certify", "1000000", "--out-type", out_type, "--layout",
      in->layout == FAVOR_HEADS_FIRST ? "heads-first" : "tokens-first", is_causal ? "--causal" : "--causal=false");
  assert_all(status == FAVOR_OK);
  const struct check_certificate found = stored(world);
  bool is_right = true;
  if (mpi_rank() == 0) {
    find_truth(in, is_causal, squares);
    const struct squares sum = sum_of(squares, in->tokens);
    const double error = sqrt(sum.error / sum.exact), mean_error = sqrt(sum.mean_error / sum.exact);
    json_t *object = report(), *certificate = json_object_get(object, "certificate");
    is_right = found.rows == in->tokens && error > 0 && mean_error > 0 && is_near(found.relative_error, error, 1e-9) &&
               is_near(found.mean_error, mean_error, 1e-9) && fabs(found.skill - (1 - error / mean_error)) <= 1e-8 &&
               json_integer_value(json_object_get(certificate, "rows")) == in->tokens &&
               is_near(real_at(certificate, "relative_error"), error, 1e-8) &&
               is_near(real_at(certificate, "mean_error"), mean_error, 1e-8) &&
               fabs(real_at(certificate, "skill") - found.skill) <= 1e-8 &&
               real_at(json_object_get(object, "seconds"), "certify") > 0;
    if (!is_right)
      print_error("certified %.12g, mean %.12g, skill %.12g; the oracle has %.12g and %.12g\n", found.relative_error,
                  found.mean_error, found.skill, error, mean_error);
    json_decref(object);
  }
  free(squares);
  assert_all(is_right);
}

static void test_all_rows_give_the_true_error(void **state) {
  (void)state;
  struct input in = plain;
  expect_true_error(&in, false, "auto");
  expect_true_error(&in, true, "float16");
  in.has_segments = true;
  expect_true_error(&in, true, "auto");
  in.layout = FAVOR_TOKENS_FIRST;
  in.type = FAVOR_FLOAT64;
  expect_true_error(&in, false, "bfloat16");
  in = (struct input){1, 1, 1, 5, 4, 3, 0.7, true, FAVOR_HEADS_FIRST, FAVOR_FLOAT32};
  expect_true_error(&in, false, "auto");
}

/* How far a ratio of two weighted sums deviates from that of all tokens: token 0 and the last are always there, and one
 * of each of n_rows - 2 equal parts, with the variance (length of the part) sum over it of (r - mean r)^2, where
 * r = error_i - ratio exact_i. */
static double deviation_of(const struct squares *squares, int64_t n_tokens, int64_t n_rows) {
  const struct squares all = sum_of(squares, n_tokens);
  const int64_t n_parts = n_rows - 2, n_inner = n_tokens - 2;
  double variance = 0;
  for (int64_t p = 0, begin = 1; p < n_parts; p++) {
    const int64_t length = n_inner / n_parts + (p < n_inner % n_parts);
    double sum = 0, sum_of_squares = 0;
    for (int64_t i = begin; i < begin + length; i++) {
      const double rest = squares[i].error - all.error / all.exact * squares[i].exact;
      sum += rest;
      sum_of_squares += rest * rest;
    }
    variance += (double)length * sum_of_squares - sum * sum;
    begin += length;
  }
  return sqrt(variance) / all.exact;
}

static void test_sampled_rows_give_it_within_sampling_error(void **state) {
  (void)state;
  struct input in = plain;
  in.tokens = 700;
  in.batch = 1;
  struct squares *squares = malloc((size_t)in.tokens * sizeof *squares);
  write_input(&in);
  for (int i = 0; i < 6; i++) {
    static const char *const seeds[] = {"0", "1", "2"};
    const bool is_causal = i % 2;
    const enum favor_status status = attend_with(world, "--json", "--quiet", "--features", "24", "--certify", "64",
                                                 "--seed", seeds[i / 2], is_causal ? "--causal" : "--causal=false");
    assert_all(status == FAVOR_OK);
    const struct check_certificate found = stored(world);
    bool is_right = true;
    if (mpi_rank() == 0) {
      find_truth(&in, is_causal, squares);
      const struct squares all = sum_of(squares, in.tokens);
      const double ratio = all.error / all.exact, deviation = deviation_of(squares, in.tokens, 64);
      const double off = found.relative_error * found.relative_error - ratio;
      print_message("error^2 %.4g, certified %.4g: off by %.2f deviations\n", ratio, ratio + off, off / deviation);
      is_right = found.rows == 64 && off != 0 && fabs(off) <= 4 * deviation && deviation < 0.5 * ratio;
    }
    assert_all(is_right);
  }
  free(squares);
}

static bool is_same(const struct check_certificate *a, const struct check_certificate *b) {
  return a->rows == b->rows && memcmp(&a->relative_error, &b->relative_error, sizeof(double)) == 0 &&
         memcmp(&a->mean_error, &b->mean_error, sizeof(double)) == 0 &&
         memcmp(&a->skill, &b->skill, sizeof(double)) == 0;
}

static void test_bits_are_those_of_one_rank(void **state) {
  (void)state;
  struct input in = plain;
  in.tokens = 1500; /* six tiles of keys */
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    const char *const words[] = {"--json",    "--features", "8", "--certify",
                                 "40",        "--seed",     "3", is_causal ? "--causal" : "--causal=false",
                                 "--threads", "2",          NULL};
    in.has_segments = is_causal == 1;
    write_input(&in);
    const enum favor_status status = attend(world, words);
    assert_all(status == FAVOR_OK);
    const struct check_certificate many = stored(world);
    MPI_Barrier(MPI_COMM_WORLD);
    const bool is_speaker = mpi_rank() == 0;
    const enum favor_status alone = is_speaker ? attend(self, words) : FAVOR_OK;
    assert_all(alone == FAVOR_OK);
    const struct check_certificate one = stored(world);
    assert_all(one.rows == 40 && one.relative_error > 0 && is_same(&one, &many));
  }
}

/* Rank 0. */
static bool has_printed(const char *words) {
  char text[8192];
  FILE *file = fopen(text_path, "r");
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  return strstr(text, words) != NULL;
}

static void test_plain_words_where_there_is_no_information(void **state) {
  (void)state;
  const struct input inputs[] = {{1, 2, 2, 400, 64, 16, 1.0, false, FAVOR_HEADS_FIRST, FAVOR_FLOAT16},
                                 {1, 2, 2, 400, 64, 16, 0.3, false, FAVOR_HEADS_FIRST, FAVOR_FLOAT16}};
  for (int i = 0; i < 2; i++) {
    const bool is_blind = i == 0, is_speaker = mpi_rank() == 0;
    write_input(&inputs[i]);
    enum favor_status status = attend_with(world, "--certify", "64");
    assert_all(status == FAVOR_OK);
    assert_all(!is_speaker || has_printed("carries no information on these inputs") == is_blind);
    const struct check_certificate found = stored(world);
    assert_all((found.skill < 0.1) == is_blind && found.skill < 1);
    status = attend_with(world, "--certify", "64", "--json", "--quiet");
    assert_all(status == FAVOR_OK);
    json_t *object = is_speaker ? report() : NULL;
    const json_t *advice = json_object_get(json_object_get(object, "certificate"), "advice");
    assert_all(!is_speaker || (is_blind ? json_is_string(advice) : json_is_null(advice)));
    json_decref(object);
  }
}

static void test_nothing_is_certified_unless_asked(void **state) {
  (void)state;
  write_input(&plain);
  const enum favor_status status = attend_with(world, "--json", "--features", "8");
  assert_all(status == FAVOR_OK);
  const struct check_certificate none = stored(world);
  assert_all(isnan(none.relative_error) && isnan(none.skill));
  json_t *object = mpi_rank() == 0 ? report() : NULL;
  assert_all(mpi_rank() != 0 ||
             (json_is_null(json_object_get(object, "certificate")) && json_is_null(json_object_get(object, "pilot"))));
  json_decref(object);
}

/* Where exact attention is the mean of v, skill has no meaning and is no reason to warn. */
static void test_no_tokens_and_lone_tokens(void **state) {
  (void)state;
  for (int64_t tokens = 0; tokens < 2; tokens++) {
    struct input in = plain;
    in.tokens = tokens;
    write_input(&in);
    const enum favor_status status = attend_with(world, "--json", "--certify", "8");
    assert_all(status == FAVOR_OK);
    const struct check_certificate found = stored(world);
    assert_all(found.rows == tokens && found.relative_error < 1e-6 && found.mean_error < 1e-15 && isnan(found.skill));
    json_t *object = mpi_rank() == 0 ? report() : NULL;
    const json_t *certificate = json_object_get(object, "certificate");
    assert_all(mpi_rank() != 0 || (json_is_null(json_object_get(certificate, "skill")) &&
                                   json_is_null(json_object_get(certificate, "advice"))));
    json_decref(object);
  }
}

/* ---- features by a target -------------------------------------------------------------------------------------------
 */

/* Rank 0 of the last run: features, whether the target was reached, how many trials; and are errors on the right side
 * of the target? */
struct trials {
  int64_t features, n, last;
  bool is_reached, is_consistent;
  double error;
};

static struct trials trials_of_run(double target) {
  json_t *object = report(), *pilot = json_object_get(object, "pilot"), *list = json_object_get(pilot, "trials");
  struct trials trials = {.n = (int64_t)json_array_size(list), .is_consistent = true};
  trials.features = json_integer_value(json_object_get(json_object_get(object, "shape"), "features"));
  trials.is_reached = json_is_true(json_object_get(pilot, "reached"));
  for (int64_t i = 0; i < trials.n; i++) {
    const json_t *trial = json_array_get(list, (size_t)i);
    trials.last = json_integer_value(json_object_get(trial, "features"));
    trials.error = real_at(trial, "relative_error");
    const bool should_reach = trials.is_reached && i + 1 == trials.n;
    trials.is_consistent = trials.is_consistent && (trials.error <= target) == should_reach;
  }
  json_decref(object);
  return trials;
}

static void test_target_is_reached_by_doubling(void **state) {
  const double target = 0.1;
  (void)state;
  struct input in = {1, 4, 2, 6000, 16, 8, 0.5, true, FAVOR_HEADS_FIRST, FAVOR_FLOAT32}; /* more than a pilot takes */
  const char *const words[] = {"--json", "--features", "8", "--features-max", "4096", "--target-error", "0.1", NULL};
  write_input(&in);
  const enum favor_status status = attend(world, words);
  assert_all(status == FAVOR_OK);
  const bool is_speaker = mpi_rank() == 0;
  const struct check_certificate many = stored(world);
  assert_all(many.rows == 64 && many.relative_error < 0.2); /* near the pilot's, on other tokens */
  const struct trials trials = is_speaker ? trials_of_run(target) : (struct trials){0};
  if (is_speaker) print_message("%d trials, the last with error %.3g\n", (int)trials.n, trials.error);
  assert_all(!is_speaker || (trials.is_reached && trials.is_consistent && trials.n >= 3));
  assert_all(!is_speaker || (trials.features == trials.last && trials.features == INT64_C(8) << (trials.n - 1)));
  struct favor_attribute *attributes;
  int n;
  const enum favor_status read = favor_attributes_read(world, out_path, &n, &attributes);
  assert_all(read == FAVOR_OK);
  assert_all(!is_speaker ||
             (attribute(attributes, n, "features") == (double)trials.features &&
              attribute(attributes, n, "target-error") == target && attribute(attributes, n, "features-max") == 4096 &&
              attribute(attributes, n, "pilot_reached") == 1));
  free(attributes);
  MPI_Barrier(MPI_COMM_WORLD);
  const enum favor_status alone = is_speaker ? attend(self, words) : FAVOR_OK;
  assert_all(alone == FAVOR_OK);
  const struct check_certificate one = stored(world);
  assert_all(is_same(&one, &many));
  const struct trials again = is_speaker ? trials_of_run(target) : (struct trials){0};
  assert_all(again.n == trials.n && again.features == trials.features && again.error == trials.error);
}

static void test_target_out_of_reach_is_told(void **state) {
  (void)state;
  const struct input in = {1, 2, 2, 500, 64, 8, 1.0, false, FAVOR_HEADS_FIRST, FAVOR_FLOAT32};
  write_input(&in);
  enum favor_status status = attend_with(world, "--json", "--quiet", "--features", "16", "--features-max", "50",
                                         "--target-error", "0.01", "--certify", "0");
  assert_all(status == FAVOR_OK);
  const bool is_speaker = mpi_rank() == 0;
  const struct trials trials = is_speaker ? trials_of_run(0.01) : (struct trials){0};
  assert_all(!is_speaker || (!trials.is_reached && trials.is_consistent && trials.n == 3 && trials.features == 50));
  const struct check_certificate none = stored(world); /* --certify 0 has the last word */
  assert_all(isnan(none.relative_error));
  status = attend_with(world, "--features", "16", "--target-error", "0.01");
  assert_all(status == FAVOR_OK);
  assert_all(!is_speaker || has_printed("the target of 0.01 is not reached"));
  assert_all(!is_speaker || has_printed("256 features")); /* 16 times as many */
}

/* ---- failures -------------------------------------------------------------------------------------------------------
 */

/* Neither the output nor its temporary is there. */
static bool is_gone(void) {
  char part[320];
  snprintf(part, sizeof part, "%s.favor-part", out_path);
  return access(out_path, F_OK) != 0 && access(part, F_OK) != 0;
}

static const char *const short_words[] = {"--json", "--quiet",        "--features", "8", "--certify",
                                          "3",      "--target-error", "0.5",        NULL};

/* Every agreement at a site, made to fail on the last rank; how many there were. */
static int break_every_step(enum dist_site site) {
  for (int n_failures = 0;; n_failures++) {
    MPI_Barrier(MPI_COMM_WORLD);
    unlink(out_path);
    dist_inject(world, site, mpi_size() - 1, n_failures);
    const enum favor_status status = attend(world, short_words);
    dist_inject(world, DIST_SITE_NONE, 0, 0);
    assert_all(status == FAVOR_OK || status == FAVOR_EINTERNAL);
    MPI_Barrier(MPI_COMM_WORLD);
    if (status == FAVOR_OK) return n_failures;
    const bool is_reported_late = site == DIST_SITE_COMMAND && access(out_path, F_OK) == 0; /* after the rename */
    assert_all(is_reported_late || is_gone());
  }
}

static void test_failures_are_agreed(void **state) {
  (void)state;
  write_input(&plain);
  const int n_commands = break_every_step(DIST_SITE_COMMAND), n_opens = break_every_step(DIST_SITE_TENSOR_OPEN);
  assert_all(n_commands >= 13); /* of the pilot and its options five, of the certificate four */
  assert_all(n_opens == 8);     /* two a tensor: q, k, v, and out */
}

/* Every read of the certificate, on the first rank and on another. */
static void test_a_failed_read_leaves_no_output(void **state) {
  (void)state;
  struct input in = plain;
  in.tokens = 600;
  write_input(&in);
  const char *const without[] = {"--json", "--quiet", "--features", "8", NULL};
  const char *const with[] = {"--json", "--quiet", "--features", "8", "--certify", "3", NULL};
  n_reads = 0;
  enum favor_status status = attend(world, without);
  assert_all(status == FAVOR_OK);
  const int64_t first = n_reads;
  n_reads = 0;
  status = attend(world, with);
  assert_all(status == FAVOR_OK);
  const int64_t n_certify = n_reads - first;
  for (int rank = 0; rank < 2 && rank < mpi_size(); rank++) {
    int64_t n = n_certify;
    MPI_Bcast(&n, 1, MPI_INT64_T, rank, MPI_COMM_WORLD);
    assert_all(n > 0);
    for (int64_t i = 0; i < n; i += 1 + n / 7) {
      MPI_Barrier(MPI_COMM_WORLD);
      unlink(out_path);
      n_reads = 0;
      failing_read = mpi_rank() == rank ? first + i : -1;
      status = attend(world, with);
      failing_read = -1;
      assert_all(status == FAVOR_EIO && strstr(favor_context_message(world), "nput/output error") != NULL);
      assert_all(is_gone());
    }
  }
}

/* ---- main -----------------------------------------------------------------------------------------------------------
 */

/* As a test, since MPI runs by now. */
static void test_make_a_folder(void **state) {
  (void)state;
  const char *parent = getenv("TMPDIR");
  assert_all(favor_context_create(MPI_COMM_WORLD, &world) == FAVOR_OK);
  assert_all(favor_context_create(MPI_COMM_SELF, &self) == FAVOR_OK);
  snprintf(folder, sizeof folder, "%.200s/favor-certify-XXXXXX", parent ? parent : "/tmp");
  const bool is_made = mpi_rank() != 0 || mkdtemp(folder) != NULL;
  assert_all(is_made);
  MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, MPI_COMM_WORLD);
  snprintf(in_path, sizeof in_path, "%s/in.h5", folder);
  snprintf(out_path, sizeof out_path, "%s/out.h5", folder);
  snprintf(text_path, sizeof text_path, "%s/report", folder);
}

static void test_remove_the_folder(void **state) {
  (void)state;
  MPI_Barrier(MPI_COMM_WORLD);
  if (mpi_rank() == 0) {
    unlink(in_path);
    unlink(out_path);
    unlink(text_path);
  }
  const bool is_removed = mpi_rank() != 0 || rmdir(folder) == 0; /* so nothing else was left in it */
  assert_all(is_removed);
  favor_context_destroy(&self);
  favor_context_destroy(&world);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_make_a_folder),
      mpi_unit_test(test_all_rows_give_the_true_error),
      mpi_unit_test(test_sampled_rows_give_it_within_sampling_error),
      mpi_unit_test(test_bits_are_those_of_one_rank),
      mpi_unit_test(test_plain_words_where_there_is_no_information),
      mpi_unit_test(test_nothing_is_certified_unless_asked),
      mpi_unit_test(test_no_tokens_and_lone_tokens),
      mpi_unit_test(test_target_is_reached_by_doubling),
      mpi_unit_test(test_target_out_of_reach_is_told),
      mpi_unit_test(test_failures_are_agreed),
      mpi_unit_test(test_a_failed_read_leaves_no_output),
      mpi_unit_test(test_remove_the_folder),
  };
  return mpi_cmocka_main(&argc, &argv, "certify", tests, sizeof tests / sizeof tests[0]);
}

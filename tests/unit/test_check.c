/* The check of an output (core/check.h) against oracles in long double, and its verdicts on right and wrong outputs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/binned.h"
#include "base/random.h"
#include "core/check.h"
#include "support/map_cases.h"

static const struct check_type float16 = {11, -14}, bfloat16 = {8, -126}, float32 = {24, -126};

/* ---- a case: tensors, sampled rows, a check that has absorbed all keys ----------------------------------------------
 */

struct shape {
  const char *name;
  int64_t tokens, key_heads, heads_per_key, key_width, value_width, features, rows, projections;
  double spread;
  bool is_causal, has_segments;
  bool is_opposed; /* the features that are large for queries are tiny for keys, of width 1 */
};

enum { N_SEGMENTS = 5 };

struct fixture {
  struct shape shape;
  int64_t segments[N_SEGMENTS + 1];
  double *q, *k, *v; /* [heads][N][D], [key_heads][N][D], [key_heads][N][E] */
  double *projection;
  int64_t *tokens;
  struct check_row *rows;
  double *sampled; /* [n_rows][heads][D] */
  struct check_problem problem;
};

static double *normal(uint32_t number, int64_t n, double spread) {
  struct random_stream stream = random_stream(1, RANDOM_MAKE, 0, number);
  double *x = malloc((size_t)n * sizeof *x);
  assert_non_null(x);
  random_normal(&stream, 0, n, x);
  for (int64_t i = 0; i < n; i++) x[i] *= spread;
  return x;
}

static void oppose(struct fixture *f) {
  const struct shape *s = &f->shape;
  for (int64_t i = 0; i < s->key_heads * s->heads_per_key * s->tokens; i++) f->q[i] += 8.5;
  for (int64_t i = 0; i < s->key_heads * s->tokens; i++) f->k[i] -= 8.5;
  for (int64_t r = 0; r < s->projections * s->features; r++) f->projection[r] += r % 2 ? 30.0 : -30.0;
}

static int64_t n_heads(const struct shape *s) { return s->key_heads * s->heads_per_key; }

static void sample(struct fixture *f) {
  const struct shape *s = &f->shape;
  f->tokens = malloc((size_t)s->rows * sizeof *f->tokens);
  f->rows = malloc((size_t)s->rows * sizeof *f->rows);
  f->sampled = malloc((size_t)(s->rows * n_heads(s) * s->key_width) * sizeof *f->sampled);
  assert_true(f->tokens && f->rows && f->sampled);
  check_sample(s->tokens, s->rows, 7, f->tokens, NULL);
  for (int64_t i = 0; i < s->rows; i++) {
    f->rows[i] = check_row_of(f->tokens[i], s->tokens, s->has_segments ? f->segments : NULL, N_SEGMENTS, s->is_causal);
    for (int64_t h = 0; h < n_heads(s); h++)
      memcpy(f->sampled + (i * n_heads(s) + h) * s->key_width, f->q + (h * s->tokens + f->tokens[i]) * s->key_width,
             (size_t)s->key_width * sizeof(double));
  }
}

static void setup_case(struct fixture *f, const struct shape *shape) {
  const struct shape *s = &f->shape;
  f->shape = *shape;
  /* An empty first segment, an empty one within, one of a single token. */
  memcpy(f->segments, (int64_t[]){0, 0, s->tokens / 3, s->tokens / 3, s->tokens - 1, s->tokens}, sizeof f->segments);
  f->q = normal(1, n_heads(s) * s->tokens * s->key_width, s->spread);
  f->k = normal(2, s->key_heads * s->tokens * s->key_width, s->spread);
  f->v = normal(3, s->key_heads * s->tokens * s->value_width, 1.0);
  f->projection = normal(4, s->projections * s->features * s->key_width, 1.0);
  if (s->is_opposed) oppose(f);
  sample(f);
  f->problem = (struct check_problem){.rows = f->rows,
                                      .n_rows = s->rows,
                                      .key_heads = s->key_heads,
                                      .heads_per_key = s->heads_per_key,
                                      .key_width = s->key_width,
                                      .value_width = s->value_width,
                                      .definition = CHECK_FEATURES,
                                      .features = s->features,
                                      .scale = 1.0 / sqrt((double)s->key_width),
                                      .projection = f->projection,
                                      .projections = s->projections};
}

static void teardown_case(struct fixture *f) {
  free(f->q);
  free(f->k);
  free(f->v);
  free(f->projection);
  free(f->tokens);
  free(f->rows);
  free(f->sampled);
}

static void absorb(const struct fixture *f, struct check *check, int64_t begin, int64_t end) {
  const struct shape *s = &f->shape;
  for (int64_t g = 0; g < s->key_heads; g++)
    check_absorb(check, g, begin, end, f->k + (g * s->tokens + begin) * s->key_width,
                 f->v + (g * s->tokens + begin) * s->value_width);
}

/* As if `parts` ranks had each seen the blocks b, b + parts, ... of a tile of tokens, and one of them merged what they
 * found. */
static struct check *check_in_parts(const struct fixture *f, int parts) {
  enum { BLOCK = CHECK_TILE_TOKENS, MOST_PARTS = 4 };
  struct check *checks[MOST_PARTS];
  assert_true(parts <= MOST_PARTS);
  for (int p = 0; p < parts; p++) {
    checks[p] = check_create(&f->problem, f->sampled);
    assert_non_null(checks[p]);
    for (int64_t begin = p * BLOCK; begin < f->shape.tokens; begin += parts * BLOCK)
      absorb(f, checks[p], begin, begin + BLOCK < f->shape.tokens ? begin + BLOCK : f->shape.tokens);
  }
  for (int p = 1; p < parts; p++) {
    for (int64_t g = 0; g < f->shape.key_heads; g++)
      binned_merge(check_rows(checks[p], g), check_rows(checks[0], g), check_n_rows(checks[0]));
    check_destroy(&checks[p]);
  }
  return checks[0];
}

/* What the oracles say of all tokens of a head: [N][E]. */
static double *expected(const struct fixture *f, enum check_answer answer, int64_t head) {
  const struct shape *s = &f->shape;
  const int64_t g = head / s->heads_per_key;
  const double *q = f->q + head * s->tokens * s->key_width, *k = f->k + g * s->tokens * s->key_width;
  struct oracle_head oracle = {.tokens = s->tokens,
                               .key_width = s->key_width,
                               .value_width = s->value_width,
                               .features = s->features,
                               .segments = s->has_segments ? f->segments : NULL,
                               .n_segments = N_SEGMENTS,
                               .is_causal = s->is_causal,
                               .is_hyperbolic = f->problem.map == FAVOR_MAP_HYPERBOLIC,
                               .projection = f->projection + g % s->projections * s->features * s->key_width};
  double *out = malloc((size_t)(s->tokens * s->value_width) * sizeof *out);
  double *zero = calloc((size_t)(s->tokens * s->key_width), sizeof *zero); /* keys that all weigh the same */
  assert_true(out && zero);
  const double *v = f->v + g * s->tokens * s->value_width;
  if (answer == CHECK_DEFINITION)
    oracle_attend_pairs(&oracle, q, k, v, out);
  else
    oracle_softmax(&oracle, q, answer == CHECK_EXACT ? k : zero, v, out);
  free(zero);
  return out;
}

/* The largest relative error of a row, over all heads and answers. */
static double largest_error(const struct fixture *f, const struct check *check) {
  const struct shape *s = &f->shape;
  double *own = malloc((size_t)s->value_width * sizeof *own), worst = 0;
  assert_non_null(own);
  for (int answer = 0; answer < CHECK_N_ANSWERS; answer++) {
    for (int64_t h = 0; h < n_heads(s); h++) {
      double *out = expected(f, answer, h);
      for (int64_t i = 0; i < s->rows; i++) {
        check_value(check, answer, i, h, own);
        worst = fmax(worst, oracle_relative_error(own, out + f->tokens[i] * s->value_width, s->value_width));
      }
      free(out);
    }
  }
  free(own);
  return worst;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void test_answers_are_the_oracles(void **state) {
  (void)state;
  static const struct shape shapes[] = {
      {"one tile", 40, 1, 1, 4, 3, 8, 40, 1, 1.0, false, false, false},
      {"causal", 300, 1, 1, 5, 3, 9, 50, 1, 1.0, true, false, false},
      {"segments", 600, 2, 2, 5, 3, 5, 33, 1, 0.5, false, true, false},
      {"causal segments, a projection a head", 400, 4, 2, 8, 1, 7, 29, 2, 1.0, true, true, false},
      {"one row", 513, 1, 2, 3, 2, 4, 1, 1, 1.0, false, false, false},
      {"one token", 1, 1, 1, 1, 1, 1, 1, 1, 1.0, true, false, false},
      {"many rows of many heads", 300, 1, 5, 3, 2, 4, 300, 1, 1.0, true, false, false},
      {"weights over hundreds of orders of magnitude", 300, 1, 2, 64, 4, 16, 40, 1, 8.0, true, false, false},
      {"keys far apart", 300, 1, 1, 8, 4, 3, 60, 1, 40.0, false, true, false},
      {"every sum of features underflows", 300, 1, 2, 1, 4, 6, 60, 1, 0.5, true, true, true},
  };
  for (size_t i = 0; i < 2 * (sizeof shapes / sizeof *shapes); i++) {
    const struct shape *shape = &shapes[i / 2];
    struct fixture fixture;
    setup_case(&fixture, shape);
    fixture.problem.map = i % 2 ? FAVOR_MAP_HYPERBOLIC : FAVOR_MAP_POSITIVE;
    for (int parts = 1; parts <= 4; parts += 3) {
      struct check *check = check_in_parts(&fixture, parts);
      const double error = largest_error(&fixture, check);
      print_message("%s, map %d, %d parts: %.1e\n", shape->name, (int)fixture.problem.map, parts, error);
      /* A logarithm of size L brings its weight a relative error of L 2^-53, and L reaches thousands here. */
      assert_true(error <= 1e-12);
      check_destroy(&check);
      assert_null(check);
    }
    teardown_case(&fixture);
  }
}

/* ---- maps beside the exponential ones --------------------------------------------------------------------------- */

static struct oracle_quotients quotients_of(const struct fixture *f, int64_t head) {
  const struct shape *s = &f->shape;
  const int64_t g = head / s->heads_per_key;
  const struct oracle_head oracle = {.tokens = s->tokens,
                                     .key_width = s->key_width,
                                     .value_width = s->value_width,
                                     .features = s->features,
                                     .segments = s->has_segments ? f->segments : NULL,
                                     .n_segments = N_SEGMENTS,
                                     .is_causal = s->is_causal,
                                     .projection = f->projection + g % s->projections * s->features * s->key_width};
  return oracle_map_attend(&oracle, f->problem.map, f->problem.eps, f->q + head * s->tokens * s->key_width,
                           f->k + g * s->tokens * s->key_width, f->v + g * s->tokens * s->value_width);
}

/* The largest error of an element, in units of what an error of 1 in the terms of both sums may do to the quotient. */
static double largest_error_of_terms(const struct fixture *f, const struct check *check) {
  const struct shape *s = &f->shape;
  double own[8], worst = 0;
  for (int64_t h = 0; h < n_heads(s); h++) {
    struct oracle_quotients right = quotients_of(f, h);
    for (int64_t i = 0; i < s->rows; i++) {
      const int64_t token = f->tokens[i];
      check_value(check, CHECK_DEFINITION, i, h, own);
      for (int64_t e = 0; e < s->value_width; e++) {
        const int64_t at = token * s->value_width + e;
        double error = fabs(own[e] * right.normaliser[token] - right.numerator[at]);
        double size = right.numerator_size[at] + fabs(own[e]) * right.normaliser_size[token];
        if (!(error == 0)) worst = oracle_worse(worst, (double)(error / size));
      }
    }
    oracle_quotients_destroy(&right);
  }
  return worst;
}

/* Outputs as sums that are rounded in single precision would give them: [rows][heads][E]. */
static double *rounded_outputs(const struct fixture *f) {
  const struct shape *s = &f->shape;
  double *out = calloc((size_t)(s->rows * n_heads(s) * s->value_width), sizeof *out);
  assert_non_null(out);
  struct random_stream stream = random_stream(2, RANDOM_MAKE, 0, 0);
  for (int64_t h = 0; h < n_heads(s); h++) {
    struct oracle_quotients right = quotients_of(f, h);
    for (int64_t i = 0; i < s->rows; i++) {
      double deviates[10];
      random_normal(&stream, (uint64_t)(10 * (h * s->rows + i)), 10, deviates);
      const int64_t token = f->tokens[i];
      double total = right.normaliser[token] + 0x1p-24 * deviates[9] * right.normaliser_size[token];
      for (int64_t e = 0; e < s->value_width; e++) {
        const int64_t at = token * s->value_width + e;
        double sum = right.numerator[at] + 0x1p-24 * deviates[e] * right.numerator_size[at];
        out[(i * n_heads(s) + h) * s->value_width + e] = total == 0 ? 0 : (double)(sum / total);
      }
    }
    oracle_quotients_destroy(&right);
  }
  return out;
}

static const struct shape map_shapes[] = {
    {"causal segments, a projection a head", 400, 4, 2, 8, 3, 7, 60, 2, 1.0, true, true, false},
    {"bidirectional, long tokens", 300, 1, 2, 16, 4, 16, 60, 1, 8.0, false, false, false},
};

static void test_maps_are_the_oracles(void **state) {
  (void)state;
  for (int i = 0; i < 4 * N_MAP_CASES; i++) {
    struct fixture fixture;
    setup_case(&fixture, &map_shapes[i % 2]);
    fixture.problem.map = map_cases[i / 4].map;
    fixture.problem.eps = i / 2 % 2 && fixture.problem.map != FAVOR_MAP_TRIGONOMETRIC ? 1e-3 : 0;
    for (int parts = 1; parts <= 4; parts += 3) {
      struct check *check = check_in_parts(&fixture, parts);
      const double error = largest_error_of_terms(&fixture, check);
      if (!(error <= 1e-12))
        fail_msg("%s, %s, eps %g: %.1e", map_cases[i / 4].name, map_shapes[i % 2].name, fixture.problem.eps, error);
      check_destroy(&check);
    }
    teardown_case(&fixture);
  }
}

/* What rounding does to quotients of sums that cancel is no fault; a hundredth more in every number is one. */
static void test_cancelled_sums_are_forgiven(void **state) {
  (void)state;
  for (int i = 0; i < 2 * N_MAP_CASES; i++) {
    struct fixture fixture;
    setup_case(&fixture, &map_shapes[i % 2]);
    fixture.problem.map = map_cases[i / 2].map;
    const struct shape *s = &fixture.shape;
    struct check *check = check_in_parts(&fixture, 1);
    double *out = rounded_outputs(&fixture);
    double worst = 0, least = INFINITY;
    for (int pass = 0; pass < 2; pass++) {
      for (int64_t h = 0; h < n_heads(s); h++) {
        struct check_head judged;
        check_judge(check, h, out, float32, &judged);
        const double error = check_ratio(judged.definition_error, judged.definition);
        if (pass == 0) worst = fmax(worst, fmax(error, judged.worst_error));
        if (pass == 1) least = fmin(least, error);
      }
      for (int64_t j = 0; j < s->rows * n_heads(s) * s->value_width; j++) out[j] *= 1.01;
    }
    print_message("%s, %s: rounded %.1e, a hundredth off %.1e\n", map_cases[i / 2].name, s->name, worst, least);
    assert_true(worst <= 1e-4);
    assert_true(least >= 1e-3);
    free(out);
    check_destroy(&check);
    teardown_case(&fixture);
  }
}

/* ---- definitions without features ------------------------------------------------------------------------------- */

/* Any attention of one row that weighs exp(scale q.k) over some tokens: `attends` says which. */
static void masked_softmax(const struct fixture *f, int64_t row, int64_t head,
                           bool (*attends)(int64_t i, int64_t j, int64_t first), bool is_flat, double *out) {
  const struct shape *s = &f->shape;
  const int64_t i = f->tokens[row], g = head / s->heads_per_key;
  const double *q = f->q + (head * s->tokens + i) * s->key_width;
  long double sum = 0, *sums = calloc((size_t)s->value_width, sizeof *sums);
  assert_non_null(sums);
  for (int64_t j = f->rows[row].key_begin; j < f->rows[row].key_end; j++) {
    if (!attends(i, j, f->rows[row].key_begin)) continue;
    const double *k = f->k + (g * s->tokens + j) * s->key_width, *v = f->v + (g * s->tokens + j) * s->value_width;
    long double logit = 0;
    for (int64_t d = 0; d < s->key_width && !is_flat; d++) logit += f->problem.scale * q[d] * (long double)k[d];
    const long double weight = expl(logit);
    sum += weight;
    for (int64_t e = 0; e < s->value_width; e++) sums[e] += weight * v[e];
  }
  for (int64_t e = 0; e < s->value_width; e++) out[e] = (double)(sums[e] / sum);
  free(sums);
}

enum { WINDOW = 20, GLOBALS = 3 };
static bool attends_to_all(int64_t i, int64_t j, int64_t first) { return i >= first && j >= first; }
static bool attends_to_itself(int64_t i, int64_t j, int64_t first) { return i == j && i >= first; }
static bool attends_in_window(int64_t i, int64_t j, int64_t first) {
  return llabs(i - j) <= WINDOW || i - first < GLOBALS || j - first < GLOBALS;
}

static void test_definitions_are_what_they_say(void **state) {
  (void)state;
  static const struct {
    enum check_definition definition;
    bool (*attends)(int64_t i, int64_t j, int64_t first);
    bool is_flat;
  } cases[] = {{CHECK_SOFTMAX, attends_to_all, false},
               {CHECK_WINDOW, attends_in_window, false},
               {CHECK_EQUAL, attends_to_all, true},
               {CHECK_ITSELF, attends_to_itself, true}};
  for (int i = 0; i < 8; i++) {
    struct fixture fixture;
    setup_case(&fixture, &(struct shape){"", 700, 2, 2, 6, 3, 1, 60, 1, 1.0, i % 2, true, false});
    fixture.problem.definition = cases[i / 2].definition;
    fixture.problem.window = WINDOW;
    fixture.problem.global_tokens = GLOBALS;
    fixture.problem.projection = NULL;
    struct check *check = check_in_parts(&fixture, 2);
    for (int64_t row = 0; row < 60; row++) {
      for (int64_t h = 0; h < 4; h++) {
        double own[3], out[3];
        masked_softmax(&fixture, row, h, cases[i / 2].attends, cases[i / 2].is_flat, out);
        check_value(check, CHECK_DEFINITION, row, h, own);
        assert_true(oracle_relative_error(own, out, 3) <= 1e-13);
      }
    }
    check_destroy(&check);
    teardown_case(&fixture);
  }
}

/* The same bytes, however tiles are split and in whatever order they come. */
static void test_parts_make_no_difference(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &(struct shape){"", 1500, 1, 2, 16, 4, 8, 30, 1, 4.0, true, true, false});
  fixture.problem.definition = CHECK_NONE;
  fixture.v[7] = 1e300; /* weights and values of all sizes */
  struct check *one = check_in_parts(&fixture, 1);
  for (int parts = 2; parts <= 4; parts++) {
    struct check *many = check_in_parts(&fixture, parts);
    assert_memory_equal(check_rows(one, 0), check_rows(many, 0), (size_t)check_n_rows(one) * check_row_bytes(one));
    check_destroy(&many);
  }
  check_destroy(&one);
  teardown_case(&fixture);
}

static void test_largest_values_do_not_overflow(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &(struct shape){"", 300, 1, 1, 4, 2, 8, 5, 1, 0.5, false, false, false});
  for (int64_t i = 0; i < 600; i++) fixture.v[i] = 1.7e308;
  struct check *check = check_in_parts(&fixture, 1);
  for (int answer = 0; answer < CHECK_N_ANSWERS; answer++) {
    double out[2];
    check_value(check, answer, 3, 0, out);
    assert_true(fabs(out[0] / 1.7e308 - 1) < 1e-13);
  }
  check_destroy(&check);
  teardown_case(&fixture);
}

/* ---- sampling --------------------------------------------------------------------------------------------------- */

static void test_sample_is_distinct_and_has_the_ends(void **state) {
  (void)state;
  int64_t tokens[100], again[100];
  double weights[100], sum = 0;
  const int64_t n_tokens = INT64_C(1) << 40;
  check_sample(n_tokens, 100, 3, tokens, weights);
  check_sample(n_tokens, 100, 3, again, NULL);
  assert_memory_equal(tokens, again, sizeof tokens);
  assert_int_equal(tokens[0], 0);
  assert_int_equal(tokens[99], n_tokens - 1);
  assert_true(weights[0] == 1 && weights[99] == 1);
  for (int i = 1; i < 100; i++) assert_true(tokens[i] > tokens[i - 1]);
  for (int i = 0; i < 100; i++) sum += weights[i];
  assert_true(sum == (double)n_tokens);
  check_sample(n_tokens, 100, 4, again, NULL);
  assert_memory_not_equal(tokens, again, sizeof tokens);
  check_sample(100, 100, 3, tokens, weights);
  for (int i = 0; i < 100; i++) assert_true(tokens[i] == i && weights[i] == 1);
  check_sample(7, 2, 3, tokens, weights);
  assert_true(tokens[0] < 4 && tokens[1] >= 4 && weights[0] == 4 && weights[1] == 3);
}

/* The mean over samples of a weighted sum is the sum over all: here of a sequence that starts like a causal one. */
static void test_weighted_samples_have_no_bias(void **state) {
  (void)state;
  enum { N_TOKENS = 500, N_ROWS = 20, N_SEEDS = 4000 };
  double all = 0, mean = 0, square = 0, weights[N_ROWS];
  int64_t tokens[N_ROWS];
  for (int64_t i = 0; i < N_TOKENS; i++) all += 1.0 / (double)(i + 1);
  for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
    double sum = 0;
    check_sample(N_TOKENS, N_ROWS, seed, tokens, weights);
    for (int i = 0; i < N_ROWS; i++) sum += weights[i] / (double)(tokens[i] + 1);
    mean += sum / N_SEEDS;
    square += sum * sum / N_SEEDS;
  }
  const double deviation = sqrt((square - mean * mean) / N_SEEDS);
  print_message("mean of samples %.4f, sum over all %.4f: off by %.2f deviations\n", mean, all,
                (mean - all) / deviation);
  assert_true(fabs(mean - all) <= 3 * deviation && deviation < 0.05 * all);
}

static void test_row_ends_at_its_segment(void **state) {
  (void)state;
  const int64_t segments[] = {0, 0, 3, 3, 3, 10, 10};
  for (int64_t token = 0; token < 10; token++) {
    struct check_row row = check_row_of(token, 10, segments, 6, false);
    assert_int_equal(row.key_begin, token < 3 ? 0 : 3);
    assert_int_equal(row.key_end, token < 3 ? 3 : 10);
    row = check_row_of(token, 10, segments, 6, true);
    assert_int_equal(row.key_begin, token < 3 ? 0 : 3);
    assert_int_equal(row.key_end, token + 1);
  }
  struct check_row row = check_row_of(4, 10, NULL, 0, false);
  assert_int_equal(row.key_begin, 0);
  assert_int_equal(row.key_end, 10);
}

static void test_blocks_nobody_attends_to_are_not_needed(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &(struct shape){"", 300, 1, 1, 4, 3, 8, 1, 1, 1.0, true, true, false});
  struct check *check = check_create(&fixture.problem, fixture.sampled);
  assert_non_null(check);
  const struct check_row *row = fixture.rows;
  assert_true(check_needs(check, row->key_begin, row->key_begin + 1));
  assert_true(check_needs(check, row->key_end - 1, row->key_end));
  assert_false(check_needs(check, row->key_end, 1000));
  assert_false(check_needs(check, -1, row->key_begin));
  check_destroy(&check);
  teardown_case(&fixture);
}

/* ---- verdicts --------------------------------------------------------------------------------------------------- */

static const struct shape judged_shape = {"", 400, 2, 2, 16, 12, 32, 50, 1, 0.7, true, false, false};

/* One of the answers as an output: [n_rows][heads][E]. */
static double *output_of(const struct fixture *f, const struct check *check, enum check_answer answer) {
  const struct shape *s = &f->shape;
  double *out = malloc((size_t)(s->rows * n_heads(s) * s->value_width) * sizeof *out);
  assert_non_null(out);
  for (int64_t i = 0; i < s->rows; i++)
    for (int64_t h = 0; h < n_heads(s); h++)
      check_value(check, answer, i, h, out + (i * n_heads(s) + h) * s->value_width);
  return out;
}

static struct check_head judge(const struct check *check, int64_t head, const double *out, struct check_type type) {
  struct check_head judged;
  check_judge(check, head, out, type, &judged);
  return judged;
}

static double round_to(double x, struct check_type type) {
  const double unit = ldexp(1.0, (int)fmax(ilogb(x), type.min_exponent) - type.digits + 1);
  return rint(x / unit) * unit;
}

static void test_right_output_has_no_error(void **state) {
  (void)state;
  static const struct check_type *const types[] = {&float16, &bfloat16, &float32};
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_DEFINITION);
  const int64_t n = judged_shape.rows * n_heads(&judged_shape) * judged_shape.value_width;
  for (int t = 0; t < 3; t++) {
    double *rounded = malloc((size_t)n * sizeof *rounded);
    assert_non_null(rounded);
    for (int64_t i = 0; i < n; i++) rounded[i] = round_to(out[i], *types[t]);
    for (int64_t h = 0; h < n_heads(&judged_shape); h++) {
      struct check_head judged = judge(check, h, rounded, *types[t]);
      assert_true(judged.definition > 0 && judged.definition_error == 0 && judged.worst_error == 0);
    }
    free(rounded);
  }
  free(out);
  check_destroy(&check);
  teardown_case(&fixture);
}

static void test_trivial_and_exact_outputs_are_told_apart(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_EXACT);
  struct check_head judged = judge(check, 1, out, float32);
  assert_true(judged.exact > 0 && judged.exact_error == 0 && judged.mean_error > 0 && judged.worst_error > 1e-2);
  free(out);
  out = output_of(&fixture, check, CHECK_MEAN);
  judged = judge(check, 1, out, float32);
  assert_true(judged.exact_error == judged.mean_error && judged.worst_error > 1e-2);
  free(out);
  check_destroy(&check);
  teardown_case(&fixture);
}

/* Rows count as often as they stand for in what is said of all tokens, once in the verdict on the definition. */
static void test_weights_of_rows_count(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  for (int64_t i = 0; i < judged_shape.rows; i++) fixture.rows[i].weight = (double)(1 + i % 3);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_MEAN), *exact = output_of(&fixture, check, CHECK_EXACT);
  double *definition = output_of(&fixture, check, CHECK_DEFINITION), sums[3] = {0};
  for (int64_t i = 0; i < judged_shape.rows; i++) {
    for (int64_t e = 0; e < judged_shape.value_width; e++) {
      const int64_t at = i * n_heads(&judged_shape) * judged_shape.value_width + e; /* of head 0 */
      const double weight = (double)(1 + i % 3), error = out[at] - exact[at];
      sums[0] += weight * exact[at] * exact[at];
      sums[1] += weight * error * error;
      sums[2] += definition[at] * definition[at];
    }
  }
  struct check_head judged = judge(check, 0, out, float32);
  assert_true(fabs((double)judged.exact / sums[0] - 1) < 1e-12);
  assert_true(fabs((double)judged.exact_error / sums[1] - 1) < 1e-12);
  assert_true(fabs((double)judged.mean_error / sums[1] - 1) < 1e-12);
  assert_true(fabs((double)judged.definition / sums[2] - 1) < 1e-12);
  struct check_certificate certificate = check_certify(&judged, judged_shape.rows);
  assert_true(fabs(certificate.relative_error - sqrt(sums[1] / sums[0])) < 1e-12 && certificate.skill == 0);
  free(out);
  free(exact);
  free(definition);
  check_destroy(&check);
  teardown_case(&fixture);
}

static void test_one_number_off_by_a_percent_is_found(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_DEFINITION);
  const int64_t row = 17, head = 2, width = judged_shape.value_width;
  double *found = out + (row * n_heads(&judged_shape) + head) * width, *largest = found;
  for (int64_t e = 0; e < width; e++)
    if (fabs(found[e]) > fabs(*largest)) largest = &found[e];
  double norm = 0;
  for (int64_t e = 0; e < width; e++) norm = hypot(norm, found[e]);
  *largest *= 1.01;
  struct check_head judged = judge(check, head, out, float32);
  assert_true(judged.worst_error > 1e-4);
  assert_int_equal(judged.worst_row, row);
  assert_true(judged.worst_error <= 0.0101 * fabs(*largest) / norm);
  assert_true(judge(check, 1, out, float32).worst_error == 0);
  assert_true(judge(check, head, out, bfloat16).worst_error > 1e-4);
  free(out);
  check_destroy(&check);
  teardown_case(&fixture);
}

static void test_nan_is_an_infinite_error(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_DEFINITION);
  double *element = out + (31 * n_heads(&judged_shape) + 3) * judged_shape.value_width + 5;
  const double bad[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    *element = bad[i];
    struct check_head judged = judge(check, 3, out, float32);
    assert_true(isinf(check_ratio(judged.definition_error, judged.definition)));
    assert_true(isinf(judged.worst_error));
    assert_int_equal(judged.worst_row, 31);
    assert_true(isinf(check_ratio(judged.exact_error, judged.exact)));
    assert_true(judge(check, 2, out, float32).worst_error == 0);
  }
  free(out);
  check_destroy(&check);
  teardown_case(&fixture);
}

static void test_another_projection_is_found(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_DEFINITION);
  check_destroy(&check);
  free(fixture.projection);
  fixture.projection = normal(5, judged_shape.features * judged_shape.key_width, 1.0);
  fixture.problem.projection = fixture.projection;
  check = check_in_parts(&fixture, 1);
  struct check_head judged = judge(check, 0, out, float32);
  assert_true(check_ratio(judged.definition_error, judged.definition) > 1e-2);
  free(out);
  check_destroy(&check);
  teardown_case(&fixture);
}

static void test_zero_output_of_zero_values_is_right(void **state) {
  (void)state;
  struct fixture fixture;
  setup_case(&fixture, &judged_shape);
  const int64_t n = judged_shape.key_heads * judged_shape.tokens * judged_shape.value_width;
  memset(fixture.v, 0, (size_t)n * sizeof *fixture.v);
  struct check *check = check_in_parts(&fixture, 1);
  double *out = output_of(&fixture, check, CHECK_DEFINITION);
  struct check_head judged = judge(check, 0, out, float32);
  assert_true(check_ratio(judged.definition_error, judged.definition) == 0 && judged.worst_error == 0);
  out[3] = 1e-3;
  judged = judge(check, 0, out, float32);
  assert_true(isinf(check_ratio(judged.definition_error, judged.definition)) && isinf(judged.worst_error));
  free(out);
  check_destroy(&check);
  teardown_case(&fixture);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_answers_are_the_oracles),
      cmocka_unit_test(test_maps_are_the_oracles),
      cmocka_unit_test(test_cancelled_sums_are_forgiven),
      cmocka_unit_test(test_definitions_are_what_they_say),
      cmocka_unit_test(test_parts_make_no_difference),
      cmocka_unit_test(test_largest_values_do_not_overflow),
      cmocka_unit_test(test_sample_is_distinct_and_has_the_ends),
      cmocka_unit_test(test_weighted_samples_have_no_bias),
      cmocka_unit_test(test_row_ends_at_its_segment),
      cmocka_unit_test(test_blocks_nobody_attends_to_are_not_needed),
      cmocka_unit_test(test_right_output_has_no_error),
      cmocka_unit_test(test_trivial_and_exact_outputs_are_told_apart),
      cmocka_unit_test(test_weights_of_rows_count),
      cmocka_unit_test(test_one_number_off_by_a_percent_is_found),
      cmocka_unit_test(test_nan_is_an_infinite_error),
      cmocka_unit_test(test_another_projection_is_found),
      cmocka_unit_test(test_zero_output_of_zero_values_is_right),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

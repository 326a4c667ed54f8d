/* The baselines that need other ranks' tokens: window, linformer, lsh; each against its definition in favor.h. */
#include "mpi_cmocka.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "feature/projection.h"
#include "oracle.h"
#include "run.h"

/* Two batches, grouped heads, segments ragged, empty, shared by ranks and not. */
static struct favor_problem problem_of(enum favor_method method, bool is_causal) {
  static const int64_t segments[] = {0, 0, 1, 150, 213, 213, 500, 507, 640};
  struct favor_problem problem = favor_problem_default();
  problem.method = method;
  problem.is_causal = is_causal;
  problem.batch = 2;
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.tokens = 640;
  problem.key_width = 5;
  problem.value_width = 7;
  problem.segments = segments;
  problem.n_segments = 8;
  problem.threads = 1;
  return problem;
}

/* Fills which keys of the segment [begin, end) token i of a query head meets. */
typedef void meet_function(const struct favor_problem *problem, const struct case_tensors *t, int64_t head,
                           int64_t begin, int64_t end, int64_t i, bool *meets);

static void meet_window(const struct favor_problem *problem, const struct case_tensors *t, int64_t head, int64_t begin,
                        int64_t end, int64_t i, bool *meets) {
  (void)t, (void)head;
  for (int64_t j = begin; j < end; j++) {
    bool is_global = i - begin < problem->global_tokens || j - begin < problem->global_tokens;
    meets[j] = is_global || (llabs(i - j) <= problem->window);
  }
}

/* The buckets of x [n][D] in a round, in f digits to the base b: the place of the largest of w.x and -w.x, w the first
 * b / 2 rows of a hash's normal matrix, whose row r is deviates (32 hash + r) D and on. */
static void find_buckets(const struct favor_problem *problem, int64_t kv_head, int64_t round, int64_t n,
                         const double *x, int64_t *buckets) {
  int64_t hashes = 1, base = 2, width = problem->key_width;
  while (pow((double)base, (double)hashes) * (double)problem->lsh_chunk < (double)n) {
    base += 2;
    if (base > 64) {
      base = 2;
      hashes++;
    }
  }
  const struct projection_name name = {problem->seed, problem->layer, problem->redraw, kv_head % problem->kv_heads};
  const struct random_stream stream =
      random_stream(projection_seed(&name), RANDOM_HASH, (uint64_t)name.key_head, (uint32_t)round);
  double w[32 * 16];
  memset(buckets, 0, (size_t)n * sizeof *buckets);
  for (int64_t h = 0; n > problem->lsh_chunk && h < hashes; h++) {
    random_normal(&stream, (uint64_t)(32 * h * width), 32 * width, w);
    for (int64_t i = 0; i < n; i++) {
      int64_t best = 0;
      double most = -INFINITY;
      for (int64_t place = 0; place < base; place++) {
        double product = 0;
        for (int64_t d = 0; d < width; d++) product += w[place % (base / 2) * width + d] * x[i * width + d];
        if (place >= base / 2) product = -product;
        if (product > most) best = place;
        most = fmax(most, product);
      }
      buckets[i] = buckets[i] * base + best;
    }
  }
}

/* By the words of favor.h. The buckets of a segment are found at its first token and kept for the others. */
static void meet_lsh(const struct favor_problem *problem, const struct case_tensors *t, int64_t head, int64_t begin,
                     int64_t end, int64_t i, bool *meets) {
  enum { MOST_ROUNDS = 8, MOST_TOKENS = 1024 };
  static int64_t key_bucket[MOST_ROUNDS][MOST_TOKENS], query_bucket[MOST_ROUNDS][MOST_TOKENS];
  const int64_t g = case_kv_head(problem, head), n = end - begin, chunk = problem->lsh_chunk;
  for (int64_t round = 0; i == begin && round < problem->lsh_rounds; round++) {
    find_buckets(problem, g, round, n, case_key(t, g, begin), key_bucket[round]);
    find_buckets(problem, g, round, n, case_query(t, head, begin), query_bucket[round]);
  }
  for (int64_t j = begin; j < end; j++) meets[j] = j == i;
  for (int64_t round = 0; round < problem->lsh_rounds; round++) {
    const int64_t bucket = query_bucket[round][i - begin];
    int64_t before = 0, place = 0;
    for (int64_t j = 0; j <= i - begin; j++) before += key_bucket[round][j] == bucket;
    const int64_t last = before > 0 ? (before - 1) / chunk : 0;
    for (int64_t j = 0; j < n; j++) {
      if (key_bucket[round][j] != bucket) continue;
      const int64_t own = place++ / chunk;
      if (own == last || own == last - 1) meets[begin + j] = true;
    }
  }
}

/* Softmax of one query over some of n keys: k [n][D], v [n][E]; meets [n], or NULL for all. */
static void softmax(const struct case_tensors *t, double scale, const double *q, int64_t n, const double *k,
                    const double *v, const bool *meets, double *out) {
  double top = -INFINITY, total = 0, sums[64] = {0};
  double *logits = calloc((size_t)n, sizeof *logits);
  for (int64_t j = 0; j < n; j++) {
    for (int64_t d = 0; d < t->key_width; d++) logits[j] += q[d] * k[j * t->key_width + d] * scale;
    if (!meets || meets[j]) top = fmax(top, logits[j]);
  }
  for (int64_t j = 0; j < n; j++) {
    if (meets && !meets[j]) continue;
    double weight = exp(logits[j] - top);
    total += weight;
    for (int64_t e = 0; e < t->value_width; e++) sums[e] += weight * v[j * t->value_width + e];
  }
  for (int64_t e = 0; e < t->value_width; e++) out[e] = sums[e] / total;
  free(logits);
}

static double scale_of(const struct favor_problem *problem) {
  return problem->scale > 0 ? problem->scale : 1 / sqrt((double)problem->key_width);
}

/* Of every rank's own share of the heads: the others' stay zero. */
static bool is_own_head(int64_t head) { return head % mpi_size() == mpi_rank(); }

static void expect_sparse(const struct favor_problem *problem, const struct case_tensors *t, double *expected,
                          meet_function *meet) {
  bool *meets = calloc((size_t)t->tokens, sizeof *meets);
  for (int64_t h = 0; h < t->heads; h++) {
    for (int64_t s = 0; is_own_head(h) && s < problem->n_segments; s++) {
      int64_t begin = problem->segments[s], end = problem->segments[s + 1];
      for (int64_t i = begin; i < end; i++) {
        meet(problem, t, h, begin, end, i, meets);
        for (int64_t j = i + 1; problem->is_causal && j < end; j++) meets[j] = false;
        int64_t g = case_kv_head(problem, h);
        softmax(t, scale_of(problem), case_query(t, h, i), end - begin, case_key(t, g, begin), case_value(t, g, begin),
                meets + begin, expected + (h * t->tokens + i) * t->value_width);
      }
    }
  }
  free(meets);
}

/* The outputs of all ranks, which one rank alone with more threads, and another grid, have to give to the byte. */
static void *run_everywhere(struct run_contexts *contexts, const struct favor_problem *problem,
                            const struct case_tensors *t) {
  size_t bytes = run_out_bytes(problem);
  void *out = malloc(bytes), *other = malloc(bytes);
  enum favor_status status = run_problem(contexts->world, problem, t, RUN_EXECUTE, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(status == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, out, bytes);
  struct favor_problem changed = *problem;
  changed.threads = problem->is_causal ? 1 : 2;
  bool is_same = mpi_rank() > 0 || run_problem(contexts->self, &changed, t, RUN_BLOCKS, other) == FAVOR_OK;
  assert_all(is_same && (mpi_rank() > 0 || memcmp(out, other, bytes) == 0));
  changed.threads = 1;
  changed.grid_heads = 1;
  changed.grid_tokens = mpi_size();
  assert_all(run_problem(contexts->world, &changed, t, RUN_EXECUTE, other) == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, other, bytes);
  assert_all(memcmp(out, other, bytes) == 0);
  free(other);
  return out;
}

/* M rows, each a sum of the segment's rows x [n][width] with signs: bit r mod 64 of the stream's number
 * token * ceil(M / 64) + r / 64. */
static double *project(const struct favor_problem *problem, int64_t head, enum random_purpose purpose, int64_t n,
                       int64_t width, const double *x) {
  const int64_t rows = problem->features, blocks = (rows + 63) / 64;
  const struct projection_name name = {problem->seed, problem->layer, problem->redraw, head % problem->kv_heads};
  const struct random_stream stream = random_stream(projection_seed(&name), purpose, (uint64_t)name.key_head, 0);
  double *projected = calloc((size_t)(rows * width), sizeof *projected);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t r = 0; r < rows; r++) {
      bool is_minus = random_bits(&stream, (uint64_t)(i * blocks + r / 64)) >> (r % 64) & 1;
      for (int64_t e = 0; e < width; e++) {
        projected[r * width + e] += (is_minus ? -1 : 1) / sqrt((double)rows) * x[i * width + e];
      }
    }
  }
  return projected;
}

static void expect_linformer(const struct favor_problem *problem, const struct case_tensors *t, double *expected,
                             meet_function *meet) {
  (void)meet;
  for (int64_t h = 0; h < t->heads; h++) {
    for (int64_t s = 0; is_own_head(h) && s < problem->n_segments; s++) {
      const int64_t begin = problem->segments[s], n = problem->segments[s + 1] - begin, g = case_kv_head(problem, h);
      double *k = project(problem, g, RANDOM_LENGTH_KEYS, n, t->key_width, case_key(t, g, begin));
      double *v = project(problem, g, RANDOM_LENGTH_VALUES, n, t->value_width, case_value(t, g, begin));
      for (int64_t i = begin; i < begin + n; i++) {
        softmax(t, scale_of(problem), case_query(t, h, i), problem->features, k, v, NULL,
                expected + (h * t->tokens + i) * t->value_width);
      }
      free(k);
      free(v);
    }
  }
}

typedef void expect_function(const struct favor_problem *problem, const struct case_tensors *t, double *expected,
                             meet_function *meet);

/* Tensors of this spread, the values times a factor. */
static void check_scaled(const struct favor_problem *problem, double spread, double factor, expect_function *expect,
                         meet_function *meet) {
  struct run_contexts contexts = run_contexts_open();
  struct case_tensors t;
  case_tensors_create(problem, 3, spread, &t);
  for (int64_t i = 0; i < t.kv_heads * t.tokens * t.value_width; i++) t.v[i] *= factor;
  case_tensors_round(problem, &t);
  int64_t count = t.heads * t.tokens * t.value_width;
  double *expected = calloc((size_t)count, sizeof *expected), *got = calloc((size_t)count, sizeof *got);
  void *out = run_everywhere(&contexts, problem, &t);
  expect(problem, &t, expected, meet);
  for (int64_t i = 0; i < count; i++) {
    got[i] = is_own_head(i / (t.tokens * t.value_width)) ? run_element(problem, out, i) : 0;
  }
  double error = oracle_relative_error(got, expected, count);
  run_print("method %d, precision %d, causal %d: error %.3g\n", (int)problem->method, (int)problem->precision,
            problem->is_causal, error);
  assert_all(error <= (problem->precision == FAVOR_PRECISION_F64 ? 1e-13 : 2e-5));
  free(out);
  free(expected);
  free(got);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

static void check(const struct favor_problem *problem, double spread, expect_function *expect, meet_function *meet) {
  check_scaled(problem, spread, 1, expect, meet);
}

/* Windows of nothing, of less than a tile, of several ranks, of more than all; global tokens none, few, more than a
 * tile, all. */
static void window_is_its_definition(void **state) {
  (void)state;
  static const int64_t sizes[][2] = {{0, 0}, {3, 2}, {20, 70}, {65, 0}, {300, 1}, {5, 1000}, {INT64_C(1) << 40, 3}};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    for (int is_causal = 0; is_causal < 2; is_causal++) {
      struct favor_problem problem = problem_of(FAVOR_METHOD_WINDOW, is_causal);
      problem.window = sizes[s][0];
      problem.global_tokens = sizes[s][1];
      problem.precision = s % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
      check(&problem, 1, expect_sparse, meet_window);
    }
  }
}

/* Rows that are fewer than ranks, no multiple of anything, more than a segment's tokens; draws of their own. */
static void linformer_is_its_definition(void **state) {
  (void)state;
  static const int64_t rows[] = {3, 100, 129};
  for (int i = 0; i < 6; i++) {
    struct favor_problem problem = problem_of(FAVOR_METHOD_LINFORMER, false);
    problem.features = rows[i / 2];
    problem.precision = i % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    problem.seed = (uint64_t)i;
    problem.layer = (uint64_t)i % 3;
    problem.redraw = (uint64_t)i / 3;
    check(&problem, 1, expect_linformer, NULL);
  }
}

/* Some sums of a tile's values leave float, while those of the segment, divided by sqrt(M), do not. */
static void linformer_sums_may_leave_float(void **state) {
  (void)state;
  struct favor_problem problem = problem_of(FAVOR_METHOD_LINFORMER, false);
  problem.features = 100;
  check_scaled(&problem, 1, (double)FLT_MAX / 20, expect_linformer, NULL);
}

/* Chunks that hold whole segments and such that do not, one bucket to many, one hash and two, one round and more;
 * tokens alike, which all meet in one bucket. */
static void lsh_is_its_definition(void **state) {
  (void)state;
  static const int32_t sizes[][3] = {{4, 64, 1}, {1, 20, 2}, {3, 3, 1}, {2, 100, 1}, {4, 1000, 1}, {2, 40, 0}};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    for (int is_causal = 0; is_causal < 2; is_causal++) {
      struct favor_problem problem = problem_of(FAVOR_METHOD_LSH, is_causal);
      problem.lsh_rounds = sizes[s][0];
      problem.lsh_chunk = sizes[s][1];
      problem.precision = s % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
      problem.seed = s;
      problem.layer = s % 2;
      problem.redraw = s % 3;
      check(&problem, sizes[s][2], expect_sparse, meet_lsh);
    }
  }
}

/* A problem of each method, with options that are neither trivial nor all-embracing. */
static struct favor_problem ordinary_problem(enum favor_method method, bool is_causal) {
  struct favor_problem problem = problem_of(method, is_causal);
  problem.window = 40;
  problem.global_tokens = 3;
  problem.lsh_chunk = 20;
  problem.features = 70;
  return problem;
}

static const enum favor_method methods[] = {FAVOR_METHOD_WINDOW, FAVOR_METHOD_LSH, FAVOR_METHOD_LINFORMER};

/* Tokens [213, 500) are a segment: alone they have the same outputs. */
static void a_segment_is_the_same_alone(void **state) {
  (void)state;
  static const int64_t whole[] = {0, 287};
  struct run_contexts contexts = run_contexts_open();
  for (int m = 0; m < 3; m++) {
    struct favor_problem problem = ordinary_problem(methods[m], false), alone = problem;
    struct case_tensors t, slice;
    case_tensors_create(&problem, 5, 1, &t);
    case_tensors_slice(&t, 213, 500, &slice);
    alone.tokens = 287;
    alone.segments = whole;
    alone.n_segments = 1;
    const size_t bytes = run_out_bytes(&problem), row = (size_t)problem.value_width * sizeof(float);
    char *out = malloc(bytes), *of_slice = malloc(run_out_bytes(&alone));
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    run_gather(MPI_COMM_WORLD, out, bytes);
    assert_all(run_problem(contexts.world, &alone, &slice, RUN_EXECUTE, of_slice) == FAVOR_OK);
    run_gather(MPI_COMM_WORLD, of_slice, run_out_bytes(&alone));
    for (int64_t h = 0; h < t.heads; h++) {
      assert_all(memcmp(out + row * (size_t)(h * 640 + 213), of_slice + row * (size_t)(h * 287), row * 287) == 0);
    }
    free(out);
    free(of_slice);
    case_tensors_destroy(&slice);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Whatever the last tokens of a segment are, earlier causal outputs keep their bits. */
static void the_future_does_not_matter(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int m = 0; m < 2; m++) {
    struct favor_problem problem = ordinary_problem(methods[m], true);
    struct case_tensors t;
    case_tensors_create(&problem, 6, 1, &t);
    const size_t bytes = run_out_bytes(&problem), row = (size_t)problem.value_width * sizeof(float);
    char *before = malloc(bytes), *after = malloc(bytes);
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, before) == FAVOR_OK);
    run_gather(MPI_COMM_WORLD, before, bytes);
    for (int64_t token = 440; token < 500; token++) {
      for (int64_t h = 0; h < t.heads; h++) case_query(&t, h, token)[token % 5] += 3;
      for (int64_t g = 0; g < t.kv_heads; g++) {
        case_key(&t, g, token)[token % 5] *= token % 2 ? -1 : 1e15;
        case_value(&t, g, token)[token % 7] = 3e38;
      }
    }
    case_tensors_round(&problem, &t);
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, after) == FAVOR_OK);
    run_gather(MPI_COMM_WORLD, after, bytes);
    for (int64_t h = 0; h < t.heads; h++) {
      const size_t at = row * (size_t)(h * 640);
      assert_all(memcmp(before + at, after + at, row * 440) == 0);
      assert_all(memcmp(before + at + row * 500, after + at + row * 500, row * 140) == 0);
      assert_all(memcmp(before + at + row * 499, after + at + row * 499, row) != 0);
    }
    free(before);
    free(after);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Finite inputs have finite outputs. */
static void nothing_overflows(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int i = 0; i < 6; i++) {
    struct favor_problem problem = ordinary_problem(methods[i / 2], false);
    problem.precision = i % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    struct case_tensors t;
    case_tensors_create(&problem, 7, i % 2 ? 1e305 : 1e36, &t);
    const int64_t count = t.heads * t.tokens * t.value_width;
    for (int64_t j = 0; j < t.kv_heads * t.tokens * t.value_width; j++) {
      t.v[j] = (j % 3 ? 1 : -1) * (i % 2 ? DBL_MAX : (double)FLT_MAX);
    }
    void *out = malloc(run_out_bytes(&problem));
    assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    bool is_finite = true;
    for (int64_t j = 0; j < count; j++) is_finite = is_finite && isfinite(run_element(&problem, out, j));
    assert_all(is_finite);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* Options that contradict are refused, and NaN by name. */
static void misuse_is_refused(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(FAVOR_METHOD_WINDOW, false);
  struct case_tensors t;
  case_tensors_create(&problem, 4, 1, &t);
  void *out = malloc(run_out_bytes(&problem));
  assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EUSAGE);
  assert_all(strstr(favor_context_message(contexts.world), "window needs a window") != NULL);
  problem.method = FAVOR_METHOD_LINFORMER;
  problem.is_causal = true;
  assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EUSAGE);
  assert_all(strstr(favor_context_message(contexts.world), "linformer cannot be causal") != NULL);
  problem.method = FAVOR_METHOD_WINDOW;
  problem.window = 4;
  problem.global_tokens = 1;
  case_key(&t, 3, 450)[1] = NAN;
  assert_all(run_problem(contexts.world, &problem, &t, RUN_EXECUTE, out) == FAVOR_EDATA);
  assert_all(strstr(favor_context_message(contexts.world), "NaN in k, head 3, token 450") != NULL);
  free(out);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(window_is_its_definition),
      mpi_unit_test(linformer_is_its_definition),
      mpi_unit_test(linformer_sums_may_leave_float),
      mpi_unit_test(lsh_is_its_definition),
      mpi_unit_test(a_segment_is_the_same_alone),
      mpi_unit_test(the_future_does_not_matter),
      mpi_unit_test(nothing_overflows),
      mpi_unit_test(misuse_is_refused),
  };
  return mpi_cmocka_main(&argc, &argv, "local", tests, sizeof tests / sizeof tests[0]);
}

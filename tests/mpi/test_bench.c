/* `favor bench kernel`: a wrong answer is found out, named, and never timed. */
#include "support/mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/statistics.h"
#include "dist/comm.h"

enum { HEADS = 2, TOKENS = 50, D = 6, E = 5, M = 7 };

static const struct favor_estimates no_estimates = {0};
static const struct bench_work work = {
    .heads = HEADS, .tokens = TOKENS, .key_width = D, .value_width = E, .features = M, .is_causal = true};

static float projection[M][D];

/* The logarithm of a feature. */
static double log_feature(const float *x, int r) {
  const double scale = 1 / sqrt(D);
  double product = 0, norm2 = 0;
  for (int i = 0; i < D; i++) {
    product += projection[r][i] * (double)x[i];
    norm2 += (double)x[i] * (double)x[i];
  }
  return sqrt(scale) * product - scale * norm2 / 2;
}

/* One row of attention from its definition, over the first n_keys keys. */
static void attend_row(const struct bench_data *data, int head, int token, int n_keys) {
  const float *q = (const float *)data->q + (head * TOKENS + token) * D;
  float *out = (float *)data->out + (head * TOKENS + token) * E;
  double sum = 0, sums[E] = {0};
  for (int j = 0; j < n_keys; j++) {
    const float *k = (const float *)data->k + (head * TOKENS + j) * D;
    const float *v = (const float *)data->v + (head * TOKENS + j) * E;
    double weight = 0;
    for (int r = 0; r < M; r++) weight += exp(log_feature(q, r) + log_feature(k, r));
    sum += weight;
    for (int e = 0; e < E; e++) sums[e] += weight * v[e];
  }
  for (int e = 0; e < E; e++) out[e] = (float)(sums[e] / sum);
}

static void fill(struct bench_data *data) {
  assert_all(bench_data_create(&work, FAVOR_PRECISION_F32, 3, data));
  for (int r = 0; r < M; r++) {
    for (int i = 0; i < D; i++) projection[r][i] = (float)cos(1 + r * D + i);
  }
  for (int head = 0; head < HEADS; head++) {
    for (int token = 0; token < TOKENS; token++) attend_row(data, head, token, token + 1);
  }
}

static void test_right_answers_pass(void **state) {
  (void)state;
  struct bench_data data;
  fill(&data);
  assert_all(bench_check(&data, TOKENS, projection, &no_estimates) <= 1e-7);
  assert_all(bench_check(&data, TOKENS - 3, projection, &no_estimates) <= 1e-7); /* of the first tokens only */
  bench_data_release(&data);
}

static void test_wrong_answers_are_found(void **state) {
  (void)state;
  struct bench_data data;
  fill(&data);
  float *last = (float *)data.out + (HEADS * TOKENS - 1) * E, kept = *last;
  *last *= 1.01f;
  assert_all(bench_check(&data, TOKENS, projection, &no_estimates) > 2e-5);
  *last = NAN;
  assert_all(isinf(bench_check(&data, TOKENS, projection, &no_estimates)));
  *last = kept;
  attend_row(&data, 1, TOKENS - 1, TOKENS - 1); /* without its last key */
  assert_all(bench_check(&data, TOKENS, projection, &no_estimates) > 2e-5);
  attend_row(&data, 1, TOKENS - 1, TOKENS);
  projection[2][3] *= 1.01f;
  assert_all(bench_check(&data, TOKENS, projection, &no_estimates) > 2e-5);
  bench_data_release(&data);
}

/* A benchmark of the reference whose answers may have this error. */
static enum favor_status run(struct bench *bench, double most_error) {
  static struct options options;
  struct status parsed = {0};
  char *words[] = {"bench", "kernel"};
  options_parse(&options, 2, words, &parsed);
  struct command command = {.options = &options, .line = ""};
  assert_all(favor_context_create(MPI_COMM_WORLD, &command.context) == FAVOR_OK);
  *bench = (struct bench){.command = &command, .context = command.context, .threads = 1, .n_kernels = 1};
  bench->kernels[0] = (struct bench_kernel){.kernel = &kernel_reference,
                                            .precision = FAVOR_PRECISION_F32,
                                            .most_error = most_error,
                                            .most_tokens = TOKENS,
                                            .is_listed = true};
  bench_run(bench, &work);
  const enum favor_status status = command.context->pending.code;
  favor_context_destroy(&command.context);
  return status;
}

static void test_wrong_answers_are_not_timed(void **state) {
  (void)state;
  static struct bench bench;
  assert_all(run(&bench, 2e-5) == FAVOR_OK);
  assert_all(bench.n_runs == 1 && bench.runs[0].rounds >= BENCH_LEAST_ROUNDS && bench.runs[0].seconds > 0);
  assert_all(run(&bench, 0) == FAVOR_EVERIFY);
  assert_all(bench.n_runs == 0 && bench.peaks[0][PEAK_BASELINE].n_samples == 0);
}

static void test_medians(void **state) {
  (void)state;
  double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
  assert_all(statistics_median(odd, 3) == 2 && statistics_median(even, 4) == 2.5 && statistics_median(odd, 0) == 0);
  assert_all(even[0] == 1 && even[3] == 4);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {mpi_unit_test(test_right_answers_pass),
                                     mpi_unit_test(test_wrong_answers_are_found),
                                     mpi_unit_test(test_wrong_answers_are_not_timed), mpi_unit_test(test_medians)};
  return mpi_cmocka_main(&argc, &argv, "bench", tests, sizeof tests / sizeof tests[0]);
}

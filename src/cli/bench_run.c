/* One work on every kernel: first the answers, then the clock. Kernels take turns, and a sample of each one's peak goes
 * before each execution, so that what the machine does meanwhile meets all of them alike. */
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/bench.h"
#include "cli/report.h"
#include "cli/statistics.h"
#include "dist/agree.h"

/* Rounds go on until this time is used, within BENCH_LEAST_ROUNDS and BENCH_MOST_ROUNDS. */
static const double seconds_for_rounds = 1.5;
static const double seconds_of_a_sample = 1e-3;

/* A kernel with its plan, while it is on the bench. */
struct station {
  struct bench_run run;
  struct favor_plan *plan;
  struct favor_input q, k, v;
  struct favor_output out;
  double seconds[BENCH_MOST_ROUNDS], accumulate_shares[BENCH_MOST_ROUNDS];
  double cpu_seconds; /* of all rounds */
};

static enum favor_status fail_memory(const struct bench *bench) {
  return dist_fail(bench->command->context, FAVOR_ENOMEM, "no memory for the arrays; give a smaller --shape");
}

/* The library's error, which the context of this rank alone has, becomes the command's. */
static enum favor_status pass_on(const struct bench *bench, enum favor_status status) {
  if (status == FAVOR_OK) return status;
  return dist_fail(bench->command->context, status, "%s", favor_context_message(bench->context));
}

struct favor_problem bench_problem(const struct options *options, const struct bench_work *work) {
  struct favor_problem problem = favor_problem_default();
  problem.heads = problem.kv_heads = work->heads;
  problem.tokens = work->tokens;
  problem.key_width = work->key_width;
  problem.value_width = work->value_width;
  problem.features = work->features;
  problem.is_causal = work->is_causal;
  problem.map = work->map;
  problem.is_negative_allowed = true;
  if (work->map == FAVOR_MAP_OPRF) problem.row_norm = FAVOR_ROW_NORM_CHI; /* it has no other */
  problem.projection = work->projection;
  problem.seed = (uint64_t)options_integer(options, OPTION_SEED);
  return problem;
}

static enum favor_status make_plan(const struct bench *bench, struct station *station) {
  struct favor_problem problem = bench_problem(bench->command->options, &station->run.work);
  problem.precision = station->run.kernel->precision;
  problem.kernel = station->run.kernel->kernel->name;
  problem.threads = bench->threads;
  return pass_on(bench, favor_plan_create(bench->context, &problem, &station->plan));
}

static enum favor_status execute(const struct bench *bench, const struct station *station) {
  return pass_on(bench, favor_plan_execute(station->plan, &station->q, &station->k, &station->v, &station->out));
}

static double most_error(const struct bench_run *run) {
  return run->kernel->most_error * bench_error_allowance(&run->work, run->kernel->precision);
}

static enum favor_status check(const struct bench *bench, const struct bench_data *data, struct station *station) {
  struct bench_run *run = &station->run;
  struct favor_estimates estimates;
  enum favor_status status = favor_plan_estimates(station->plan, &estimates);
  if (status != FAVOR_OK) return pass_on(bench, status);
  run->relative_error = bench_check(data, run->work.tokens, favor_plan_projection(station->plan), &estimates);
  if (run->relative_error < 0) return fail_memory(bench);
  if (run->relative_error <= most_error(run)) return FAVOR_OK;
  return dist_fail(bench->command->context, FAVOR_EVERIFY,
                   "kernel %s on D=%lld, E=%lld, M=%lld%s: relative error %.3g against the definition, at most %.1g is "
                   "allowed; a wrong answer is not timed",
                   run->kernel->kernel->name, (long long)run->work.key_width, (long long)run->work.value_width,
                   (long long)run->work.features, run->work.is_causal ? ", causal" : "", run->relative_error,
                   most_error(run));
}

/* Plans, computes and checks. */
static enum favor_status prepare(const struct bench *bench, const struct bench_data *data, struct station *station) {
  const int64_t n = data->work.tokens, d = data->work.key_width, e = data->work.value_width;
  station->q = (struct favor_input){data->q, n * d, d};
  station->k = (struct favor_input){data->k, n * d, d};
  station->v = (struct favor_input){data->v, n * e, e};
  station->out = (struct favor_output){data->out, n * e, e};
  enum favor_status status = make_plan(bench, station);
  if (status == FAVOR_OK) status = execute(bench, station);
  return status == FAVOR_OK ? check(bench, data, station) : status;
}

/* Once: all plans have the same threads. */
static enum favor_status warn_of_binding(const struct bench *bench, const struct station *station) {
  struct favor_plan_info info;
  favor_plan_info(station->plan, &info);
  return pass_on(bench, report_binding(bench->command, bench->context, &info));
}

void bench_sample_peak(struct bench *bench, enum peak_isa isa, enum favor_precision precision) {
  struct bench_peak *peak = &bench->peaks[precision][isa];
  if (peak->n_samples == BENCH_MOST_SAMPLES || !peak_is_supported(isa, (int)precision)) return;
  peak->samples[peak->n_samples++] = peak_sample(isa, (int)precision, seconds_of_a_sample);
}

double bench_cpu_now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static enum favor_status time_round(struct bench *bench, struct station *stations, int n, int round) {
  for (int i = 0; i < n; i++) {
    bench_sample_peak(bench, stations[i].run.kernel->isa, stations[i].run.kernel->precision);
    const double cpu_begin = bench_cpu_now_s(), begin = clock_now_s();
    enum favor_status status = execute(bench, &stations[i]);
    stations[i].seconds[round] = clock_now_s() - begin;
    stations[i].cpu_seconds += bench_cpu_now_s() - cpu_begin;
    struct favor_plan_times times;
    favor_plan_times(stations[i].plan, &times);
    stations[i].accumulate_shares[round] = times.accumulate_s / (stations[i].seconds[round] * bench->threads);
    if (status != FAVOR_OK) return status;
  }
  return FAVOR_OK;
}

static double seconds_a_row(const struct station *station) {
  return station->run.seconds / (double)(station->run.work.heads * station->run.work.tokens);
}

/* What the rounds say, into bench->runs. */
static void conclude(struct bench *bench, struct station *stations, int n, int n_rounds) {
  double blas_seconds = 0;
  for (int i = 0; i < n; i++) {
    struct bench_run *run = &stations[i].run;
    double all = 0;
    for (int round = 0; round < n_rounds; round++) all += stations[i].seconds[round];
    run->rounds = n_rounds;
    run->cpu_share = stations[i].cpu_seconds / (all * bench->threads);
    run->seconds = statistics_median(stations[i].seconds, n_rounds);
    run->accumulate_share = statistics_median(stations[i].accumulate_shares, n_rounds);
    run->spread = (stations[i].seconds[n_rounds - 1] - stations[i].seconds[0]) / run->seconds;
    if (run->kernel->kernel == &kernel_blas) blas_seconds = seconds_a_row(&stations[i]);
  }
  for (int i = 0; i < n; i++) {
    stations[i].run.blas_seconds = blas_seconds;
    if (stations[i].run.kernel->is_listed) bench->runs[bench->n_runs++] = stations[i].run;
  }
}

static enum favor_status time_all(struct bench *bench, struct station *stations, int n) {
  const double begin = clock_now_s();
  int round = 0;
  while (round < BENCH_LEAST_ROUNDS || (round < BENCH_MOST_ROUNDS && clock_now_s() - begin < seconds_for_rounds)) {
    enum favor_status status = time_round(bench, stations, n, round++);
    if (status != FAVOR_OK) return status;
  }
  conclude(bench, stations, n, round);
  return FAVOR_OK;
}

enum favor_status bench_run(struct bench *bench, const struct bench_work *work) {
  struct station *stations = memory_zeroed(BENCH_MAX_KERNELS, sizeof *stations);
  struct bench_data data = {0};
  const uint64_t seed = (uint64_t)options_integer(bench->command->options, OPTION_SEED);
  enum favor_status status = FAVOR_OK;
  if (!stations || !bench_data_create(work, bench->precision, seed, &data)) status = fail_memory(bench);
  for (int i = 0; i < bench->n_kernels && status == FAVOR_OK; i++) {
    struct bench_run *run = &stations[i].run;
    run->kernel = &bench->kernels[i];
    run->work = *work;
    if (run->work.tokens > run->kernel->most_tokens) run->work.tokens = run->kernel->most_tokens;
    status = prepare(bench, &data, &stations[i]);
  }
  if (status == FAVOR_OK && bench->n_runs == 0) status = warn_of_binding(bench, &stations[0]);
  if (status == FAVOR_OK) status = time_all(bench, stations, bench->n_kernels);
  for (int i = 0; stations && i < bench->n_kernels; i++) favor_plan_destroy(&stations[i].plan);
  bench_data_release(&data);
  free(stations);
  return status;
}

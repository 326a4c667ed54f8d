/* What --machine has `bench` measure besides: how long a kernel takes to absorb, to emit and for a causal pass, as a
 * plan does them, on all ranks at once, since a core is slower while the others are busy; and the network. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/bench.h"
#include "cli/machine.h"
#include "cli/option_table.h"
#include "cli/statistics.h"
#include "dist/agree.h"
#include "plan/rehearse.h"

/* Tokens of a head, enough for several runs on every thread; rounds go on until their time is used. */
enum { TOKENS = 16384, LEAST_ROUNDS = 5, MOST_ROUNDS = 25 };
static const double seconds_for_rounds = 0.4;

/* Of one kernel on one shape. Absorbing and emitting are timed apart where a segment is longer than a block. */
struct subject {
  const struct bench_kernel *kernel;
  const struct bench_work *work;
  struct bench_data data;
  struct favor_plan *blocks, *causal;
  double absorb_s[MOST_ROUNDS], emit_s[MOST_ROUNDS], causal_s[MOST_ROUNDS];
  double keep_s[MOST_ROUNDS], kept_s[MOST_ROUNDS]; /* zeros where the kernel keeps nothing */
};

static enum favor_status pass_on(const struct bench *bench, enum favor_status status) {
  if (status == FAVOR_OK) return status;
  return dist_fail(bench->command->context, status, "%s", favor_context_message(bench->context));
}

static enum favor_status make_plans(const struct bench *bench, struct subject *subject) {
  struct favor_problem problem = bench_problem(bench->command->options, subject->work);
  problem.precision = subject->kernel->precision;
  problem.kernel = subject->kernel->kernel->name;
  problem.threads = bench->threads;
  problem.tokens = TOKENS;
  problem.is_causal = true;
  enum favor_status status = favor_plan_create(bench->context, &problem, &subject->causal);
  problem.is_causal = false;
  problem.is_streamed = true;
  problem.block_tokens = TOKENS / 2;
  if (status == FAVOR_OK) status = favor_plan_create(bench->context, &problem, &subject->blocks);
  return pass_on(bench, status);
}

static enum favor_status execute(const struct bench *bench, const struct subject *subject, struct favor_plan *plan,
                                 struct favor_plan_times *times) {
  const struct bench_data *data = &subject->data;
  const int64_t d = data->work.key_width, e = data->work.value_width;
  const struct favor_input q = {data->q, TOKENS * d, d}, k = {data->k, TOKENS * d, d}, v = {data->v, TOKENS * e, e};
  const struct favor_output out = {data->out, TOKENS * e, e};
  const enum favor_status status = favor_plan_execute(plan, &q, &k, &v, &out);
  favor_plan_times(plan, times);
  return pass_on(bench, status);
}

/* Absorbing and a causal pass after it, with the features kept in between. */
static void rehearse(struct subject *subject, double *keep_s, double *kept_s) {
  const struct bench_data *data = &subject->data;
  const int64_t d = data->work.key_width, e = data->work.value_width;
  const struct favor_input q = {data->q, TOKENS * d, d}, k = {data->k, TOKENS * d, d}, v = {data->v, TOKENS * e, e};
  const struct favor_output out = {data->out, TOKENS * e, e};
  const struct block_arrays arrays = {.units = subject->causal->units, .q = &q, .k = &k, .v = &v, .out = &out};
  *keep_s = *kept_s = 0;
  rehearse_kept(subject->causal, &arrays, keep_s, kept_s);
}

/* The first round brings memory and core up to speed, and is not counted. */
static enum favor_status time_rounds(const struct bench *bench, struct subject *subject, int *n_rounds) {
  const double begin = clock_now_s();
  enum favor_status status = FAVOR_OK;
  int n = -1;
  while (status == FAVOR_OK && (n < LEAST_ROUNDS || clock_now_s() - begin < seconds_for_rounds) && n < MOST_ROUNDS) {
    struct favor_plan_times blocks, causal;
    double keep_s, kept_s;
    status = execute(bench, subject, subject->blocks, &blocks);
    if (status == FAVOR_OK) status = execute(bench, subject, subject->causal, &causal);
    if (status == FAVOR_OK) rehearse(subject, &keep_s, &kept_s);
    if (status == FAVOR_OK && n >= 0) {
      subject->absorb_s[n] = blocks.features_state_s;
      subject->emit_s[n] = blocks.output_s;
      subject->causal_s[n] = causal.output_s;
      subject->keep_s[n] = keep_s;
      subject->kept_s[n] = kept_s;
    }
    n++;
  }
  *n_rounds = n;
  return status;
}

static enum favor_status measure(const struct bench *bench, struct subject *subject, struct favor_rate *rate) {
  const struct bench_work *work = subject->work;
  const uint64_t seed = (uint64_t)options_integer(bench->command->options, OPTION_SEED);
  struct bench_work sized = *work;
  int n = 0;
  sized.tokens = TOKENS;
  enum favor_status status = FAVOR_OK;
  if (!bench_data_create(&sized, bench->precision, seed, &subject->data)) {
    status = dist_fail(bench->command->context, FAVOR_ENOMEM, "no memory for the arrays; give a smaller --shape");
  }
  if (status == FAVOR_OK) status = make_plans(bench, subject);
  if (status == FAVOR_OK) status = time_rounds(bench, subject, &n);
  favor_plan_destroy(&subject->blocks);
  favor_plan_destroy(&subject->causal);
  bench_data_release(&subject->data);
  if (status != FAVOR_OK) return status;
  const double rows = (double)(work->heads * TOKENS);
  *rate = (struct favor_rate){.precision = subject->kernel->precision,
                              .map = work->map,
                              .projection = work->projection,
                              .key_width = work->key_width,
                              .value_width = work->value_width,
                              .features = work->features,
                              .threads = bench->threads,
                              .absorb_s = statistics_median(subject->absorb_s, n) / rows,
                              .emit_s = statistics_median(subject->emit_s, n) / rows,
                              .causal_s = statistics_median(subject->causal_s, n) / rows,
                              .keep_s = statistics_median(subject->keep_s, n) / rows,
                              .kept_s = statistics_median(subject->kept_s, n) / rows};
  strncpy(rate->kernel, subject->kernel->kernel->name, sizeof rate->kernel - 1);
  return FAVOR_OK;
}

/* Works that differ in whether they are causal, or in their tokens, alone have one rate: the tokens are TOKENS. */
static bool is_repeated(const struct bench *bench, int index) {
  const struct bench_work *work = &bench->works[index];
  for (int i = 0; i < index; i++) {
    const struct bench_work *other = &bench->works[i];
    if (other->heads == work->heads && other->key_width == work->key_width && other->value_width == work->value_width &&
        other->features == work->features && other->projection == work->projection && other->map == work->map)
      return true;
  }
  return false;
}

/* Those that a plan would choose by itself or that are asked for by name. */
static bool is_wanted(const struct bench *bench, const struct bench_kernel *kernel) {
  const bool is_slow = kernel->kernel == &kernel_reference || kernel->kernel == &kernel_blas;
  return kernel->is_listed && (!is_slow || strcmp(options_text(bench->command->options, OPTION_KERNEL), "auto") != 0);
}

/* Local: how many rates; what goes wrong is recorded. */
static int measure_all(const struct bench *bench, struct favor_rate *rates) {
  struct subject *subject = memory_zeroed(1, sizeof *subject);
  enum favor_status status = FAVOR_OK;
  int n = 0;
  if (!rates || !subject) status = dist_fail(bench->command->context, FAVOR_ENOMEM, "no memory for rates");
  for (int i = 0; i < bench->n_works && status == FAVOR_OK; i++) {
    if (is_repeated(bench, i)) continue;
    for (int kernel = 0; kernel < bench->n_kernels && status == FAVOR_OK; kernel++) {
      if (!is_wanted(bench, &bench->kernels[kernel])) continue;
      *subject = (struct subject){.kernel = &bench->kernels[kernel], .work = &bench->works[i]};
      status = measure(bench, subject, &rates[n++]);
    }
  }
  free(subject);
  return n;
}

/* Collective: the mean of all ranks. */
static enum favor_status average(struct favor_context *context, struct favor_rate *rates, int n) {
  enum favor_status status = FAVOR_OK;
  for (int i = 0; i < n && status == FAVOR_OK; i++) {
    double seconds[] = {rates[i].absorb_s, rates[i].emit_s, rates[i].causal_s, rates[i].keep_s, rates[i].kept_s};
    int64_t n_without = rates[i].kept_s > 0 ? 0 : 1; /* on some rank there was no memory, or the kernel keeps nothing */
    status = dist_sum_double(context, seconds, 5);
    if (status == FAVOR_OK) status = dist_max_int64(context, &n_without, 1);
    rates[i].absorb_s = seconds[0] / context->size;
    rates[i].emit_s = seconds[1] / context->size;
    rates[i].causal_s = seconds[2] / context->size;
    rates[i].keep_s = n_without > 0 ? 0 : seconds[3] / context->size;
    rates[i].kept_s = n_without > 0 ? 0 : seconds[4] / context->size;
  }
  return status;
}

enum favor_status bench_store_rates(const struct bench *bench, enum peak_isa best) {
  struct favor_context *context = bench->command->context;
  const char *path = options_text(bench->command->options, OPTION_MACHINE);
  struct favor_rate *rates = memory_zeroed(BENCH_MAX_RUNS, sizeof *rates);
  const int n = measure_all(bench, rates);
  enum favor_status status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = average(context, rates, n);
  if (status == FAVOR_OK && command_is_speaker(bench->command)) {
    machine_store_rates(context, path, bench->peaks[FAVOR_PRECISION_F32][best].gflops, peak_name(best), rates, n);
  }
  free(rates);
  return status == FAVOR_OK ? dist_agree(context, DIST_SITE_COMMAND, 0, "") : status;
}

enum favor_status bench_store_network(const struct command *command) {
  struct dist_probe probe;
  enum favor_status status = dist_probe(command->context, &probe);
  if (status == FAVOR_OK && command_is_speaker(command)) {
    machine_store_network(command->context, options_text(command->options, OPTION_MACHINE), &probe);
  }
  return status == FAVOR_OK ? dist_agree(command->context, DIST_SITE_COMMAND, 0, "") : status;
}

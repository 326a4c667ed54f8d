/* `favor bench kernel`: kernels against the limit of the core, and against BLAS. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/bench.h"
#include "cli/bench_io.h"
#include "cli/bench_scaling.h"
#include "cli/machine.h"
#include "cli/option_table.h"
#include "cli/statistics.h"
#include "dist/agree.h"
#include "feature/map.h"

/* A default run starts no further work after this time, so that it ends within 45 s on slow machines too. */
static const double seconds_to_start_in = 30;

/* Of each head: arrays that stay in a last-level cache, yet many runs of tokens for every thread. */
enum { TOKENS = 16384, SLOW_TOKENS = 1024, WIDTH = 64 };

/* Samples of the peak before anything else, which also bring the core up to its speed. */
enum { FIRST_SAMPLES = 25 };

static const struct bench_work default_works[] = {
    {.key_width = 64, .value_width = 64, .features = 256},
    {.key_width = 64, .value_width = 64, .features = 256, .projection = FAVOR_PROJECTION_HADAMARD},
    {.key_width = 64, .value_width = 64, .features = 256, .is_causal = true},
    {.key_width = 128, .value_width = 128, .features = 256},
    {.key_width = 128, .value_width = 128, .features = 512},
    {.key_width = 64, .value_width = 192, .features = 256},
    {.key_width = 32, .value_width = 32, .features = 128},
    {.key_width = 64, .value_width = 64, .features = 266},
};
enum { N_DEFAULT_WORKS = sizeof default_works / sizeof *default_works };

/* The fastest instructions that products in this precision can use here. */
static enum peak_isa best_isa(int precision) {
  for (int isa = PEAK_N_ISAS - 1; isa > PEAK_BASELINE; isa--) {
    if (peak_is_supported((enum peak_isa)isa, precision)) return (enum peak_isa)isa;
  }
  return PEAK_BASELINE;
}

/* A kernel is held against the peak of the instructions that it is written in, BLAS against the best there are, as it
 * chooses for itself. */
static struct bench_kernel describe(const struct kernel *kernel, enum favor_precision precision) {
  const bool is_reference = kernel == &kernel_reference;
  struct bench_kernel described = {.kernel = kernel,
                                   .isa = is_reference ? PEAK_BASELINE : best_isa((int)precision),
                                   .precision = precision,
                                   .most_error = bench_most_error(precision),
                                   .most_tokens = is_reference ? SLOW_TOKENS : INT64_MAX};
  for (int isa = 0; isa < PEAK_N_ISAS; isa++) {
    if (peak_name((enum peak_isa)isa) && strcmp(kernel->name, peak_name((enum peak_isa)isa)) == 0) {
      described.isa = (enum peak_isa)isa;
    }
  }
  return described;
}

/* Adds the kernel in this precision, if it is asked for or what others are held against: BLAS in the type of the
 * arrays. bf16 works on the arrays of f32 and so stands beside it. */
static bool choose_kernel(struct bench *bench, const struct kernel *kernel, enum favor_precision precision) {
  const char *asked = options_text(bench->command->options, OPTION_KERNEL);
  const bool is_f64 = bench->precision == FAVOR_PRECISION_F64;
  const bool is_base = kernel == &kernel_blas && precision == (is_f64 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32);
  const bool is_named = strcmp(asked, "auto") == 0 || strcmp(asked, kernel->name) == 0;
  const bool is_beside = bench->precision == FAVOR_PRECISION_F32 && precision == FAVOR_PRECISION_BF16;
  const bool is_listed = is_named && (precision == bench->precision || is_beside);
  const enum favor_map map = (enum favor_map)options_integer(bench->command->options, OPTION_MAP);
  if (map_at(map)->rows && !kernel->has_maps) return false;
  if (!kernel->is_supported() || !kernel->real[precision].absorb || !(is_listed || is_base)) return false;
  FAVOR_ASSERT(bench->n_kernels < BENCH_MAX_KERNELS);
  struct bench_kernel *chosen = &bench->kernels[bench->n_kernels++];
  *chosen = describe(kernel, precision);
  chosen->is_listed = is_listed;
  return is_listed;
}

/* Those that can run here, or the one asked for, and BLAS in any case. */
static void choose_kernels(struct bench *bench) {
  bool is_any_listed = false;
  for (int i = 0; kernel_at(i); i++) {
    for (int precision = 0; precision < KERNEL_N_PRECISIONS; precision++) {
      is_any_listed |= choose_kernel(bench, kernel_at(i), (enum favor_precision)precision);
    }
  }
  if (is_any_listed) return;
  dist_fail(bench->command->context, FAVOR_EUSAGE,
            "kernel %s cannot run here in %s with map %s; `favor version` lists what this machine can run",
            options_text(bench->command->options, OPTION_KERNEL),
            options_text(bench->command->options, OPTION_PRECISION), options_text(bench->command->options, OPTION_MAP));
}

/* The one that options describe, or the list. */
static void choose_works(struct bench *bench) {
  const struct options *options = bench->command->options;
  const enum favor_map map = (enum favor_map)options_integer(options, OPTION_MAP);
  const enum favor_projection projection = (enum favor_projection)options_integer(options, OPTION_PROJECTION);
  bool has_shape = option_is_active(options, OPTION_SHAPE);
  if (!has_shape && !option_is_active(options, OPTION_FEATURES) && !option_is_active(options, OPTION_VALUE_WIDTH) &&
      !option_is_active(options, OPTION_CAUSAL) && !option_is_active(options, OPTION_PROJECTION)) {
    for (int i = 0; i < N_DEFAULT_WORKS; i++) {
      bench->works[i] = default_works[i];
      bench->works[i].heads = bench->threads;
      bench->works[i].tokens = TOKENS;
      bench->works[i].map = map;
    }
    bench->n_works = N_DEFAULT_WORKS;
    return;
  }
  const int64_t *shape = options->values[OPTION_SHAPE].integers,
                value_width = options_integer(options, OPTION_VALUE_WIDTH);
  struct bench_work *work = &bench->works[0];
  bench->n_works = 1;
  *work = (struct bench_work){.heads = bench->threads,
                              .tokens = TOKENS,
                              .key_width = WIDTH,
                              .features = options_integer(options, OPTION_FEATURES),
                              .is_causal = options_flag(options, OPTION_CAUSAL),
                              .projection = projection,
                              .map = map};
  if (has_shape) {
    int64_t elements;
    bool is_too_large = __builtin_mul_overflow(shape[0], shape[1], &work->heads) ||
                        __builtin_mul_overflow(work->heads, shape[2], &elements) || elements > INT64_MAX >> 32;
    if (is_too_large) dist_fail(bench->command->context, FAVOR_EUSAGE, "--shape: too large to be held; give less");
    work->tokens = shape[2];
    work->key_width = shape[3];
    for (int i = 0; i < bench->n_kernels; i++) bench->kernels[i].most_tokens = work->tokens;
  }
  work->value_width = value_width ? value_width : work->key_width;
  if (projection == FAVOR_PROJECTION_NONE && !option_is_active(options, OPTION_FEATURES)) {
    work->features = work->key_width;
  }
}

static void conclude_peaks(struct bench *bench) {
  for (int precision = 0; precision < KERNEL_N_PRECISIONS; precision++) {
    for (int isa = 0; isa < PEAK_N_ISAS; isa++) {
      struct bench_peak *peak = &bench->peaks[precision][isa];
      const int n = peak->n_samples;
      if (n == 0) continue;
      peak->gflops = statistics_median(peak->samples, n);
      peak->spread = (peak->samples[n - 1 - n / 4] - peak->samples[n / 4]) / peak->gflops;
    }
  }
}

/* Rank 0. */
static void run_all(struct bench *bench) {
  const double begin = clock_now_s();
  for (int i = 0; i < FIRST_SAMPLES; i++) bench_sample_peak(bench, best_isa(FAVOR_PRECISION_F32), FAVOR_PRECISION_F32);
  for (int i = 0; i < bench->n_works; i++) {
    if (clock_now_s() - begin > seconds_to_start_in) {
      bench->n_works_left_out = bench->n_works - i;
      break;
    }
    if (bench_run(bench, &bench->works[i]) != FAVOR_OK) return;
  }
  conclude_peaks(bench);
}

/* Collective: every rank knows what is to be done, on a context of its own; NULL where that is recorded as wrong. */
static struct bench *make_bench(struct command *command) {
  const int64_t threads = options_integer(command->options, OPTION_THREADS);
  struct bench *bench = memory_zeroed(1, sizeof *bench);
  if (!bench) {
    dist_fail(command->context, FAVOR_ENOMEM, "no memory for a benchmark");
    return NULL;
  }
  bench->command = command;
  bench->precision = (enum favor_precision)options_integer(command->options, OPTION_PRECISION);
  bench->threads = threads ? (int)threads : 1;
  choose_kernels(bench);
  choose_works(bench);
  if (favor_context_create(MPI_COMM_SELF, &bench->context) != FAVOR_OK) {
    dist_fail(command->context, FAVOR_ENOMEM, "no memory for a context of one rank");
  }
  return bench;
}

/* Collective: rank 0 measures and checks alone; for the machine file all ranks measure together. */
static enum favor_status bench_kernel(struct command *command) {
  const bool is_stored = option_is_active(command->options, OPTION_MACHINE);
  const enum peak_isa best = best_isa(FAVOR_PRECISION_F32);
  struct bench *bench = make_bench(command);
  enum favor_status status = dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK && command_is_speaker(command)) run_all(bench);
  if (status == FAVOR_OK) status = dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK && is_stored) status = bench_store_rates(bench, best);
  if (status == FAVOR_OK && is_stored) status = bench_store_network(command);
  if (status == FAVOR_OK && command_is_speaker(command)) bench_report(bench, best);
  if (bench) favor_context_destroy(&bench->context);
  free(bench);
  return status == FAVOR_OK ? dist_agree(command->context, DIST_SITE_COMMAND, 0, "") : status;
}

/* What another kind of bench takes, and this one would leave unread. */
static void check_words(const struct command *command, const char *what) {
  static const struct {
    enum option_key key;
    const char *kind; /* that alone takes it */
  } parts[] = {{OPTION_MODES, "scaling"},      {OPTION_SCANS, "scaling"},
               {OPTION_RANKS_LIST, "scaling"}, {OPTION_TOKENS_LIST, "scaling"},
               {OPTION_ROUNDS, "scaling"},     {OPTION_CSV, "scaling"},
               {OPTION_OUTPUT, "io"}};
  const struct options *options = command->options;
  if (options->n_operands > 1 && strcmp(what, "io") != 0) {
    dist_fail(command->context, FAVOR_EUSAGE, "bench %s takes no file; leave %.64s out", what, options->operands[1]);
    return;
  }
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (strcmp(what, parts[i].kind) == 0 || !option_is_active(options, parts[i].key)) continue;
    dist_fail(command->context, FAVOR_EUSAGE, "--%s belongs to bench %s; bench %s has no use for it: leave it out",
              option_at(parts[i].key)->name, parts[i].kind, what);
    return;
  }
}

enum favor_status cmd_bench(struct command *command) {
  static const struct {
    const char *name;
    enum favor_status (*run)(struct command *command);
  } kinds[] = {{"kernel", bench_kernel}, {"scaling", bench_scaling}, {"io", bench_io}};
  enum { N_KINDS = sizeof kinds / sizeof *kinds };
  const char *what = command->options->operands[0];
  int kind = 0;
  while (kind < N_KINDS && strcmp(what, kinds[kind].name) != 0) kind++;
  if (kind == N_KINDS) {
    dist_fail(command->context, FAVOR_EUSAGE, "nothing to benchmark is called '%.64s'; there are: kernel, scaling, io",
              what);
  } else {
    check_words(command, what);
  }
  if (kind < N_KINDS && command_is_speaker(command) && option_is_active(command->options, OPTION_MACHINE)) {
    machine_check(command->context, options_text(command->options, OPTION_MACHINE));
  }
  const enum favor_status status = dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
  return status == FAVOR_OK ? kinds[kind].run(command) : status;
}

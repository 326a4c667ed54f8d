/* `favor bench kernel`: what its parts share. Local, on rank 0, unless they say that they are collective. */
#ifndef FAVOR_CLI_BENCH_H
#define FAVOR_CLI_BENCH_H

#include "cli/command.h"
#include "core/check.h"
#include "kernel/kernel.h"
#include "kernel/peak.h"

enum { BENCH_MAX_KERNELS = 8, BENCH_MAX_WORKS = 8, BENCH_MAX_RUNS = BENCH_MAX_KERNELS * BENCH_MAX_WORKS };
/* Repetitions of a run, and the samples of a peak that are kept. */
enum { BENCH_LEAST_ROUNDS = 7, BENCH_MOST_ROUNDS = 41, BENCH_MOST_SAMPLES = 4096 };

/* Of its threads' time; below, a process had to share its cores. */
#define BENCH_IDLE_SHARE 0.97

/* What is computed. */
struct bench_work {
  int64_t heads, tokens, key_width, value_width, features;
  bool is_causal;
  enum favor_projection projection;
  enum favor_map map;
};

/* What is known of a kernel by its name. */
struct bench_kernel {
  const struct kernel *kernel;
  enum peak_isa isa; /* whose peak it is held against */
  enum favor_precision precision;
  double most_error;   /* relative error above which an answer is wrong */
  int64_t most_tokens; /* of a work that it is given */
  bool is_listed;      /* or else it is the BLAS that others are held against, and not asked for */
};

/* A kernel on a work. */
struct bench_run {
  const struct bench_kernel *kernel;
  struct bench_work work; /* with the tokens that this kernel was given */
  double relative_error;
  int rounds;
  double seconds, spread;  /* an execution: median, and (largest - smallest) / median */
  double cpu_share;        /* of its threads' time in which this process ran; below 1: others had the core */
  double accumulate_share; /* of its threads' time that the reproducible state took: the price of the same bits */
  double blas_seconds;     /* of kernel blas on the same arrays, a token and head */
};

struct bench_peak {
  int n_samples;
  double samples[BENCH_MOST_SAMPLES];
  double gflops, spread; /* their median, and the range of the middle half of them over it */
};

struct bench {
  const struct command *command;
  struct favor_context *context; /* of this rank alone */
  enum favor_precision precision;
  int threads;
  int n_kernels;
  struct bench_kernel kernels[BENCH_MAX_KERNELS];
  int n_works, n_works_left_out;
  struct bench_work works[BENCH_MAX_WORKS];
  int n_runs;
  struct bench_run runs[BENCH_MAX_RUNS];
  struct bench_peak peaks[KERNEL_N_PRECISIONS][PEAK_N_ISAS]; /* those that are needed */
};

/* Arrays of a work, in real: q, k [heads][tokens][D], v, out [heads][tokens][E]. */
struct bench_data {
  struct bench_work work;
  enum favor_precision precision;
  void *q, *k, *v, *out;
};

/* Normal deviates; q and k of spread 1/2. False where memory is short. */
bool bench_data_create(const struct bench_work *work, enum favor_precision precision, uint64_t seed,
                       struct bench_data *data);
void bench_data_release(struct bench_data *data);

/* The relative error above which an answer in this precision is wrong, as in tests/mpi/test_oracle.c, and by which
 * factor a work may pass it. */
double bench_most_error(enum favor_precision precision);
double bench_error_allowance(const struct bench_work *work, enum favor_precision precision);

/* Elements [first, first + n) of an array of real, as doubles. */
void bench_widen(enum favor_precision precision, const void *x, int64_t first, int64_t n, double *wide);

/* How rows of a work's output are held against the definition: rows, projection ([M][D] in double) and estimates stay
 * the caller's. */
struct check_problem bench_check_problem(const struct bench_work *work, const struct check_row *rows, int64_t n_rows,
                                         const double *projection, const struct favor_estimates *estimates);
struct check_type bench_check_type(enum favor_precision precision);

/* The relative error of out against core/check.h, where the work's first `tokens` were computed and some are sampled.
 * projection: real [M][D]. Infinite where out is NaN; negative where memory is short. */
double bench_check(const struct bench_data *data, int64_t tokens, const void *projection,
                   const struct favor_estimates *estimates);

/* The work as a problem of the library, with the seed of the options; precision, kernel and threads are left. */
struct favor_problem bench_problem(const struct options *options, const struct bench_work *work);

/* Of all threads of this process. */
double bench_cpu_now_s(void);

/* Checks, then times every kernel on the work: appends to bench->runs. Errors are recorded with the command's context:
 * FAVOR_EVERIFY (a wrong answer is not timed), FAVOR_ENOMEM, and those of a plan. */
enum favor_status bench_run(struct bench *bench, const struct bench_work *work);

/* Collective, for --machine: the rates of all works and kernels into the machine file, each the mean of what all ranks
 * measure at once; and the costs of the network, between whatever ranks there are, and of merging states. best: the ISA
 * of the peak that goes with the rates. */
enum favor_status bench_store_rates(const struct bench *bench, enum peak_isa best);
enum favor_status bench_store_network(const struct command *command);

/* One sample of a peak into bench->peaks. */
void bench_sample_peak(struct bench *bench, enum peak_isa isa, enum favor_precision precision);

/* Prints all runs. best: the ISA whose f32 peak stands at the head. */
void bench_report(const struct bench *bench, enum peak_isa best);

#endif

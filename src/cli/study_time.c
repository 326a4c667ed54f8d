/* Time against the number of tokens, for favor, exact attention and a copy of v (Choromanski et al. 2021, figure 3, its
 * forward pass), on all ranks together, until memory or patience ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "cli/progress.h"
#include "cli/statistics.h"
#include "cli/study.h"
#include "dist/agree.h"

enum { LEAST_TOKENS = 1024, WIDTH = 64, BLOCK_TOKENS = 4096, MOST_ROUNDS = 5 };

/* What was slower than a round's patience is not tried with more tokens, and rounds stop after this many seconds. */
static const double round_patience_s = 10, rounds_s = 2;

static const struct {
  const char *name;
  enum favor_method method;
  double growth; /* of the time, where the tokens double */
} methods[] = {{"favor", FAVOR_METHOD_FAVOR, 2}, {"exact", FAVOR_METHOD_EXACT, 4}, {"copy", FAVOR_METHOD_COPY, 2}};
enum { N_METHODS = sizeof methods / sizeof *methods };

/* This rank's arrays of the problem. */
struct arrays {
  float *q, *k, *v, *out;
};

static struct favor_problem problem_of(const struct study *study, int method, int64_t tokens) {
  const struct options *options = study->command->options;
  struct favor_problem problem = favor_problem_default();
  problem.method = methods[method].method;
  problem.is_causal = options_flag(options, OPTION_CAUSAL);
  problem.tokens = tokens;
  problem.key_width = problem.value_width = WIDTH;
  problem.threads = (int)options_integer(options, OPTION_THREADS);
  problem.seed = study->seed;
  return problem;
}

/* Normal deviates of spread 1/2, the same few thousand rows again and again: drawing more would take longer than
 * attending to them. */
static float *fill(uint64_t seed, uint64_t tensor, int64_t tokens) {
  float *x = memory_zeroed((size_t)tokens + 1, WIDTH * sizeof *x);
  int64_t drawn = (tokens < BLOCK_TOKENS ? tokens : BLOCK_TOKENS) * WIDTH;
  struct random_stream stream = random_stream(seed, RANDOM_MAKE, tensor, 0);
  for (int64_t i = 0; x && i < drawn; i += 2) {
    double pair[2];
    random_normal_pair(&stream, (uint64_t)i / 2, pair);
    x[i] = (float)(0.5 * pair[0]);
    x[i + 1] = (float)(0.5 * pair[1]);
  }
  for (int64_t i = drawn; x && i < tokens * WIDTH; i += drawn) {
    int64_t n = tokens * WIDTH - i < drawn ? tokens * WIDTH - i : drawn;
    memcpy(x + i, x, (size_t)n * sizeof *x);
  }
  return x;
}

static void release(struct arrays *arrays) {
  free(arrays->q);
  free(arrays->k);
  free(arrays->v);
  free(arrays->out);
}

/* Collective: the median of a few executions, of the slowest rank. */
static enum favor_status time_plan(const struct study *study, struct favor_plan *plan, const struct arrays *arrays,
                                   double *seconds, int *n_rounds) {
  struct favor_shard shard;
  favor_plan_shard(plan, &shard);
  int64_t stride = (shard.token_end - shard.token_begin) * WIDTH;
  struct favor_input q = {arrays->q, stride, WIDTH}, k = {arrays->k, stride, WIDTH}, v = {arrays->v, stride, WIDTH};
  struct favor_output out = {arrays->out, stride, WIDTH};
  double samples[MOST_ROUNDS], all = 0;
  int n = 0;
  enum favor_status status = favor_plan_execute(plan, &q, &k, &v, &out); /* touches everything once */
  while (status == FAVOR_OK && n < MOST_ROUNDS && all < rounds_s) {
    double begin = clock_now_s();
    status = favor_plan_execute(plan, &q, &k, &v, &out);
    samples[n] = clock_now_s() - begin;
    if (status == FAVOR_OK) status = dist_max_double(study->context, &samples[n], 1);
    all += samples[n++];
  }
  *seconds = n > 0 ? statistics_median(samples, n) : 0;
  *n_rounds = n;
  return status;
}

/* Collective. */
static enum favor_status time_point(const struct study *study, int method, int64_t tokens, double *seconds,
                                    int *n_rounds) {
  struct favor_problem problem = problem_of(study, method, tokens);
  struct favor_plan *plan = NULL;
  enum favor_status status = favor_plan_create(study->context, &problem, &plan);
  if (status != FAVOR_OK) return status;
  struct favor_shard shard;
  favor_plan_shard(plan, &shard);
  int64_t local = shard.token_end - shard.token_begin;
  struct arrays arrays = {fill(study->seed, 0, local), fill(study->seed, 1, local), fill(study->seed, 2, local),
                          memory_zeroed((size_t)local + 1, WIDTH * sizeof(float))};
  if (!arrays.q || !arrays.k || !arrays.v || !arrays.out) study_fail_memory(study);
  status = dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = time_plan(study, plan, &arrays, seconds, n_rounds);
  release(&arrays);
  favor_plan_destroy(&plan);
  return status;
}

/* Collective: what the arrays of all ranks together may take: --memory of each rank, or half of the least machine, as
 * if all ranks shared it. */
static enum favor_status find_room(const struct study *study, int64_t *bytes) {
  int64_t asked = options_integer(study->command->options, OPTION_MEMORY), size = favor_context_size(study->context);
  int64_t least = -(asked > 0 ? asked : sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / 2 / size);
  enum favor_status status = dist_max_int64(study->context, &least, 1);
  *bytes = -least * size;
  return status;
}

/* The method's curve: tokens double from point to point. */
static enum favor_status time_method(const struct study *study, int method, int64_t bytes, struct study_table *table) {
  enum favor_status status = FAVOR_OK;
  double seconds = 0;
  for (int64_t tokens = LEAST_TOKENS; status == FAVOR_OK; tokens *= 2) {
    int64_t needed = tokens * 4 * WIDTH * (int64_t)sizeof(float);
    if (needed > bytes || seconds * methods[method].growth > round_patience_s) break;
    int n_rounds = 0;
    status = time_point(study, method, tokens, &seconds, &n_rounds);
    const struct study_cell row[] = {study_text(methods[method].name), study_number((double)tokens),
                                     study_number(seconds), study_number(1e9 * seconds / (double)tokens),
                                     study_number(n_rounds)};
    if (status == FAVOR_OK) study_add(study, table, row);
  }
  return status;
}

enum favor_status study_time(struct study *study, struct study_table *table) {
  *table = (struct study_table){
      .name = "time", .n_columns = 5, .columns = {"method", "tokens", "seconds", "ns_per_token", "rounds"}};
  snprintf(table->note, sizeof table->note, "one head of width %d, M = 256, %s, %d ranks", WIDTH,
           options_flag(study->command->options, OPTION_CAUSAL) ? "causal" : "bidirectional",
           favor_context_size(study->context));
  int64_t bytes;
  enum favor_status status = find_room(study, &bytes);
  struct progress progress;
  progress_start(&progress, study->command, "study", "methods", N_METHODS);
  for (int method = 0; method < N_METHODS && status == FAVOR_OK; method++) {
    status = time_method(study, method, bytes, table);
    progress_update(&progress, method + 1);
  }
  progress_end(&progress);
  return status == FAVOR_OK ? dist_agree(study->context, DIST_SITE_COMMAND, 0, "") : status;
}

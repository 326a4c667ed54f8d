/* `favor bench scaling`: every run on a context of its ranks alone, while the others rest. Each run is computed and
 * checked once; then all runs take turns, round by round, so that what the machine does meanwhile meets all of them
 * alike. */
#include "cli/bench_scaling.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/option_table.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "dist/agree.h"
#include "dist/subset.h"

static enum favor_status fail_memory(const struct scaling *scaling) {
  return dist_fail(scaling->context, FAVOR_ENOMEM, "no memory for the arrays; give a smaller --shape or --tokens-list");
}

static bool has_machine(const struct scaling *scaling) {
  return option_is_active(scaling->command->options, OPTION_MACHINE);
}

static struct favor_context *subset_of(const struct scaling *scaling, const struct scaling_point *point) {
  return scaling->subsets[point->count];
}

/* Collective over all ranks: what a step returned on the ranks of a point becomes everybody's. */
static enum favor_status join(const struct scaling *scaling, const struct scaling_point *point,
                              enum favor_status status) {
  const struct favor_context *subset = subset_of(scaling, point);
  if (subset) dist_subset_pass_on(scaling->context, subset, status);
  dist_rest(scaling->context);
  return dist_agree(scaling->context, DIST_SITE_COMMAND, 0, "");
}

/* ---- plans ------------------------------------------------------------------------------------------------------ */

/* Collective: the threads of this rank, which are to be the same however few ranks a run is on: what a rank takes by
 * itself depends on who shares its node. */
static enum favor_status find_threads(struct scaling *scaling, int *threads) {
  struct favor_problem problem = scaling->points[0].problem;
  problem.tokens = 1;
  problem.grid_heads = problem.grid_tokens = 0;
  problem.threads = (int)options_integer(scaling->command->options, OPTION_THREADS);
  struct favor_plan *plan = NULL;
  enum favor_status status = favor_plan_create(scaling->context, &problem, &plan);
  if (status != FAVOR_OK) return status;
  struct favor_plan_info info;
  favor_plan_info(plan, &info);
  *threads = info.threads;
  status = report_binding(scaling->command, scaling->context, &info);
  favor_plan_destroy(&plan);
  return status;
}

/* Collective over the point's ranks. */
static enum favor_status make_plan(const struct scaling *scaling, struct scaling_point *point) {
  struct favor_context *subset = subset_of(scaling, point);
  const struct favor_costs *costs = &scaling->machine.figures.costs;
  enum favor_status status = has_machine(scaling) ? favor_context_set_costs(subset, costs) : FAVOR_OK;
  if (status == FAVOR_OK) status = favor_plan_create(subset, &point->problem, &point->plan);
  if (status != FAVOR_OK) return status;
  favor_plan_info(point->plan, &point->info);
  favor_plan_shard(point->plan, &point->shard);
  if (has_machine(scaling)) {
    struct favor_prediction prediction;
    const struct favor_job job = {.ranks = subset->size, .nodes = subset->n_nodes, .threads = point->info.threads};
    if (machine_predict(subset, &point->problem, &job, &scaling->machine, &prediction))
      point->predicted_seconds = prediction.seconds.run;
  }
  point->memory_bytes = (int64_t)point->info.memory_bytes + scaling_shard_bytes(scaling, &point->shard);
  return dist_max_int64(subset, &point->memory_bytes, 1);
}

static bool allocate_samples(const struct scaling *scaling, struct scaling_point *point) {
  double *samples = memory_zeroed((size_t)scaling->n_rounds * SCALING_N_TIMES, sizeof *samples);
  for (int i = 0; samples && i < SCALING_N_TIMES; i++) point->times[i] = samples + i * scaling->n_rounds;
  return samples != NULL;
}

static void drop(struct scaling_point *point) {
  favor_plan_destroy(&point->plan);
  free(point->times[0]);
  point->times[0] = NULL;
}

/* Collective over all ranks: those that rest must know which points are left out, too. */
static enum favor_status share_grid(const struct scaling *scaling, struct scaling_point *point) {
  int64_t grid[] = {point->info.grid_heads, point->info.grid_tokens};
  enum favor_status status = dist_broadcast(scaling->context, grid, sizeof grid);
  point->info.grid_heads = grid[0];
  point->info.grid_tokens = grid[1];
  return status;
}

/* Collective: plans every point, and leaves out those that turn out to be the same as an earlier one, as where token
 * shards are the planner's own choice. */
static enum favor_status plan_points(struct scaling *scaling) {
  int threads = 0, n_kept = 0;
  enum favor_status status = find_threads(scaling, &threads);
  for (int i = 0; i < scaling->n_points && status == FAVOR_OK; i++) {
    struct scaling_point *point = &scaling->points[n_kept];
    *point = scaling->points[i];
    point->problem.threads = threads;
    point->predicted_seconds = NAN;
    if (!allocate_samples(scaling, point)) fail_memory(scaling);
    status = join(scaling, point, subset_of(scaling, point) ? make_plan(scaling, point) : FAVOR_OK);
    if (status == FAVOR_OK) status = share_grid(scaling, point);
    if (status != FAVOR_OK || scaling_is_repeated(scaling, n_kept))
      drop(point);
    else
      n_kept++;
  }
  scaling->n_points = n_kept;
  return status;
}

/* Local: what a rank may use; without --memory its part of what the machine has. */
static int64_t bound_memory(const struct scaling *scaling) {
  const struct favor_context *context = scaling->context;
  const int64_t asked = options_integer(scaling->command->options, OPTION_MEMORY),
                ranks_of_node = (context->size + context->n_nodes - 1) / context->n_nodes;
  return asked > 0 ? asked : (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / ranks_of_node;
}

/* Collective. What cannot fit into the machine is refused: the kernel would give it, and kill the process later. */
static enum favor_status make_arrays(struct scaling *scaling) {
  const bool is_asked = options_integer(scaling->command->options, OPTION_MEMORY) > 0;
  const int64_t bound = bound_memory(scaling), period = scaling_period_bytes(scaling);
  int64_t plans = 0, arrays = 0;
  for (int i = 0; i < scaling->n_points; i++) {
    const struct scaling_point *point = &scaling->points[i];
    const int64_t bytes = point->plan ? scaling_shard_bytes(scaling, &point->shard) : 0;
    if (point->plan) plans += (int64_t)point->info.memory_bytes;
    if (bytes > arrays) arrays = bytes;
  }
  if (plans + arrays + period > bound) {
    dist_fail(scaling->context, FAVOR_EUSAGE,
              "%s of %lld bytes a rank: rank %d has arrays of %lld, and %d plans of together %lld; give shorter lists, "
              "or a smaller --shape",
              is_asked ? "--memory" : "memory", (long long)bound, favor_context_rank(scaling->context),
              (long long)(arrays + period), scaling->n_points, (long long)plans);
  }
  const enum favor_status status = dist_agree(scaling->context, DIST_SITE_COMMAND, 0, "");
  if (status != FAVOR_OK) return status;
  if (!scaling_data_create(scaling)) fail_memory(scaling);
  return dist_agree(scaling->context, DIST_SITE_COMMAND, 0, "");
}

/* ---- runs ------------------------------------------------------------------------------------------------------- */

/* Collective over the point's ranks: one execution, on arrays that are ready on all of them. */
static enum favor_status execute(struct scaling *scaling, struct scaling_point *point, double times[SCALING_N_TIMES]) {
  struct favor_context *subset = subset_of(scaling, point);
  const struct scaling_data *data = &scaling->data;
  const int64_t n = point->shard.token_end - point->shard.token_begin, d = point->problem.key_width,
                e = point->problem.value_width;
  const struct favor_input q = {data->q, n * d, d}, k = {data->k, n * d, d}, v = {data->v, n * e, e};
  const struct favor_output out = {data->out, n * e, e};
  enum favor_status status = dist_agree(subset, DIST_SITE_COMMAND, 0, "");
  if (status != FAVOR_OK) return status;
  const double cpu_begin = bench_cpu_now_s(), begin = clock_now_s();
  status = favor_plan_execute(point->plan, &q, &k, &v, &out);
  times[SCALING_WALL] = clock_now_s() - begin;
  /* A rank without work only waits, and loses nothing. */
  const bool has_work = n > 0 && point->shard.head_end > point->shard.head_begin;
  const double cpu_share = (bench_cpu_now_s() - cpu_begin) / (times[SCALING_WALL] * point->info.threads);
  times[SCALING_LOST_SHARE] = has_work ? 1 - cpu_share : 0;
  if (status != FAVOR_OK) return status;
  struct favor_plan_times plan_times;
  favor_plan_times(point->plan, &plan_times);
  times[SCALING_FEATURES_STATE] = plan_times.features_state_s;
  times[SCALING_REDUCE] = plan_times.reduce_s;
  times[SCALING_OUTPUT] = plan_times.output_s;
  times[SCALING_SUM] = plan_times.features_state_s + plan_times.reduce_s + plan_times.output_s;
  point->bytes_sent = plan_times.bytes_sent;
  double traffic[] = {plan_times.in_flight_s, plan_times.blocked_s};
  status = dist_sum_double(subset, traffic, 2);
  if (status == FAVOR_OK) status = dist_max_int64(subset, &point->bytes_sent, 1);
  point->in_flight_s += traffic[0];
  point->blocked_s += traffic[1];
  return status == FAVOR_OK ? dist_max_double(subset, times, SCALING_N_TIMES) : status;
}

/* A point that computed the same before, and whose answer was held against the definition; NULL: none. */
static const struct scaling_point *find_twin(const struct scaling *scaling, const struct scaling_point *point) {
  for (const struct scaling_point *other = scaling->points; other < point; other++) {
    if (other->problem.tokens == point->problem.tokens && other->problem.is_causal == point->problem.is_causal)
      return other;
  }
  return NULL;
}

static enum favor_status refuse(struct favor_context *subset, const struct scaling_point *point, const char *what) {
  return dist_fail(subset, FAVOR_EVERIFY,
                   "%s, %lld tokens on %d ranks as %lldx%lld, scan %s: %s; a wrong answer is not timed",
                   point->problem.is_causal ? "causal" : "bidirectional", (long long)point->problem.tokens,
                   favor_context_size(subset), (long long)point->info.grid_heads, (long long)point->info.grid_tokens,
                   point->info.scan, what);
}

/* Collective over the point's ranks. */
static enum favor_status check_definition(struct scaling *scaling, struct scaling_point *point) {
  struct favor_context *subset = subset_of(scaling, point);
  const double most =
      bench_most_error(scaling->precision) * bench_error_allowance(&scaling->data.period.work, scaling->precision);
  struct favor_estimates estimates;
  enum favor_status status = favor_plan_estimates(point->plan, &estimates);
  if (status == FAVOR_OK) {
    point->relative_error = scaling_check(scaling, point, &estimates);
    if (point->relative_error < 0) dist_fail(subset, FAVOR_ENOMEM, "no memory to check an answer");
    if (point->relative_error > most) {
      char what[128];
      snprintf(what, sizeof what, "relative error %.3g against the definition, at most %.1g is allowed",
               point->relative_error, most);
      refuse(subset, point, what);
    }
  }
  status = dist_agree(subset, DIST_SITE_COMMAND, 0, "");
  return status == FAVOR_OK ? dist_max_double(subset, &point->relative_error, 1) : status;
}

/* Collective over the point's ranks: computes for the first time. The first answer of a problem is held against the
 * definition, all others against its bits. */
static enum favor_status check(struct scaling *scaling, struct scaling_point *point) {
  struct favor_context *subset = subset_of(scaling, point);
  double times[SCALING_N_TIMES];
  scaling_data_fill(&scaling->data, &point->shard);
  scaling_data_spoil(&scaling->data, &point->shard);
  enum favor_status status = execute(scaling, point, times);
  if (status != FAVOR_OK) return status;
  point->in_flight_s = point->blocked_s = 0; /* the first time does not count */
  point->digest = scaling_data_digest(&scaling->data, point);
  status = dist_sum_uint64(subset, &point->digest, 1);
  if (status != FAVOR_OK) return status;
  const struct scaling_point *twin = find_twin(scaling, point);
  if (!twin) return check_definition(scaling, point);
  point->relative_error = twin->relative_error;
  /* Ranks that rested while the twin ran know nothing of it; rank 0 never does. */
  if (favor_context_rank(subset) == 0 && point->digest != twin->digest)
    refuse(subset, point, "the output has other bits than on fewer ranks, or with another scan");
  return dist_agree(subset, DIST_SITE_COMMAND, 0, "");
}

static enum favor_status run_round(struct scaling *scaling, int round, struct progress *progress) {
  for (int i = 0; i < scaling->n_points; i++) {
    struct scaling_point *point = &scaling->points[i];
    double times[SCALING_N_TIMES];
    enum favor_status status = FAVOR_OK;
    if (point->plan) {
      scaling_data_fill(&scaling->data, &point->shard);
      status = execute(scaling, point, times);
    }
    status = join(scaling, point, status);
    if (status != FAVOR_OK) return status;
    for (int j = 0; point->plan && j < SCALING_N_TIMES; j++) point->times[j][round] = times[j];
    progress_update(progress, (round + 1) * scaling->n_points + i + 1);
  }
  return FAVOR_OK;
}

static enum favor_status run_all(struct scaling *scaling) {
  struct progress progress;
  progress_start(&progress, scaling->command, "bench scaling", "runs", scaling->n_points * (1.0 + scaling->n_rounds));
  enum favor_status status = FAVOR_OK;
  for (int i = 0; i < scaling->n_points && status == FAVOR_OK; i++) {
    struct scaling_point *point = &scaling->points[i];
    status = join(scaling, point, point->plan ? check(scaling, point) : FAVOR_OK);
    progress_update(&progress, i + 1);
  }
  for (int round = 0; round < scaling->n_rounds && status == FAVOR_OK; round++)
    status = run_round(scaling, round, &progress);
  progress_end(&progress);
  return status;
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

/* Collective. */
static enum favor_status prepare(struct scaling *scaling, struct replacement *file) {
  scaling->points = memory_zeroed(SCALING_MOST_POINTS, sizeof *scaling->points);
  if (!scaling->points) {
    fail_memory(scaling);
  } else {
    scaling_list(scaling);
    if (!dist_has_failed(scaling->context) && command_is_speaker(scaling->command)) scaling_file_open(scaling, file);
  }
  enum favor_status status = dist_agree(scaling->context, DIST_SITE_COMMAND, 0, "");
  if (status != FAVOR_OK) return status;
  const struct favor_problem *problem = &scaling->points[0].problem;
  const size_t real_bytes = scaling->precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float);
  scaling->data.q_row_bytes = real_bytes * (size_t)problem->key_width;
  scaling->data.v_row_bytes = real_bytes * (size_t)problem->value_width;
  for (int i = 0; i < scaling->ranks.n; i++)
    dist_subset_create(scaling->context, (int)scaling->ranks.values[i], &scaling->subsets[i]);
  return dist_agree(scaling->context, DIST_SITE_COMMAND, 0, "");
}

/* Collective: --machine gets the costs of the network, by which the runs are then planned and predicted. */
static enum favor_status load_machine(struct scaling *scaling) {
  if (!has_machine(scaling)) return FAVOR_OK;
  const char *path = options_text(scaling->command->options, OPTION_MACHINE);
  enum favor_status status = bench_store_network(scaling->command);
  return status == FAVOR_OK ? machine_load(scaling->context, path, &scaling->machine) : status;
}

static void release(struct scaling *scaling, struct replacement *file) {
  machine_release(&scaling->machine);
  for (int i = 0; i < scaling->n_points; i++) drop(&scaling->points[i]);
  scaling_data_release(&scaling->data);
  for (int i = 0; i < scaling->ranks.n; i++) favor_context_destroy(&scaling->subsets[i]);
  free(scaling->points);
  replacement_discard(file);
}

enum favor_status bench_scaling(struct command *command) {
  struct scaling scaling = {.command = command, .context = command->context};
  struct replacement file = {.name = ""};
  scaling.precision = (enum favor_precision)options_integer(command->options, OPTION_PRECISION);
  scaling.n_rounds = (int)options_integer(command->options, OPTION_ROUNDS);
  enum favor_status status = prepare(&scaling, &file);
  if (status == FAVOR_OK) status = load_machine(&scaling);
  if (status == FAVOR_OK) status = plan_points(&scaling);
  if (status == FAVOR_OK) status = make_arrays(&scaling);
  if (status == FAVOR_OK) status = run_all(&scaling);
  if (status == FAVOR_OK) {
    if (command_is_speaker(command)) scaling_report(&scaling, &file);
    status = dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
  }
  release(&scaling, &file);
  return status;
}

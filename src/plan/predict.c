#include "plan/predict.h"

#include <stdlib.h>

#include "base/memory.h"
#include "feature/projection.h"
#include "plan/memory.h"
#include "plan/method.h"

static bool is_whole(const struct favor_plan *plan) { return !plan->problem.is_streamed || plan->method; }

void prospect_move(struct prospect *prospect, int64_t row, int64_t column) {
  prospect->context.rank = (int)(row * prospect->plan.grid.tokens + column);
  plan_take_place(&prospect->plan);
}

struct dist_layout prospect_layout(const struct prospect *prospect, int64_t size) {
  const int64_t of_node = (prospect->job->ranks + prospect->job->nodes - 1) / prospect->job->nodes;
  return (struct dist_layout){(int)size, (int)(size < of_node ? size : of_node)};
}

double prospect_batch_bytes(const struct favor_plan *plan, int n_batches) {
  return (double)plan->unit_bytes * (double)((range_count(plan->units) + n_batches - 1) / n_batches);
}

static int64_t units_of_row(const struct favor_plan *plan, int64_t row) {
  const int64_t n_units = plan->problem.batch * plan->problem.kv_heads;
  return n_units * (row + 1) / plan->grid.heads - n_units * row / plan->grid.heads;
}

/* Rows of the grid have one of two numbers of heads: the first row of each. Row 0 has the smaller. */
static int64_t fullest_row(const struct favor_plan *plan) {
  for (int64_t row = 0; row < plan->grid.heads; row++) {
    if (units_of_row(plan, row) > units_of_row(plan, 0)) return row;
  }
  return 0;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* What ranks of a streamed plan keep besides, whose blocks are chosen; those of a row keep the same. */
static void add_kept(struct prospect *prospect, struct plan_needs *most) {
  struct favor_plan *plan = &prospect->plan;
  const int64_t rows[] = {0, fullest_row(plan)};
  for (int i = 0; i < 2; i++) {
    prospect_move(prospect, rows[i], 0);
    kept_choose(plan);
    most->fixed_bytes = larger(most->fixed_bytes, plan_needs(plan).fixed_bytes + (int64_t)kept_bytes(plan));
  }
}

/* Looks at every rank of the two kinds of rows: what the largest of them needs. Refuses as the first that cannot. */
static struct plan_needs look_at_ranks(struct prospect *prospect) {
  struct favor_plan *plan = &prospect->plan;
  const int64_t rows[] = {0, fullest_row(plan)};
  struct plan_needs most = {0};
  for (int i = 0; i < (rows[1] > 0 ? 2 : 1); i++) {
    for (int64_t column = 0; column < plan->grid.tokens; column++) {
      prospect_move(prospect, rows[i], column);
      const struct plan_needs needs = plan_needs(plan);
      most.token_bytes = larger(most.token_bytes, needs.token_bytes);
      most.fixed_bytes = larger(most.fixed_bytes, needs.fixed_bytes);
      most.wanted_tokens = larger(most.wanted_tokens, needs.wanted_tokens);
      if (is_whole(plan) && !dist_has_failed(&prospect->context)) {
        plan_fit_whole(plan);
        kept_choose(plan);
        most.fixed_bytes = larger(most.fixed_bytes, needs.fixed_bytes + (int64_t)kept_bytes(plan));
      }
    }
  }
  if (!is_whole(plan) && !dist_has_failed(&prospect->context)) {
    plan_fit_block(plan, &most);
    add_kept(prospect, &most);
  }
  return most;
}

/* The most tokens of a block that a rank holds at a time. */
static int64_t held_tokens(const struct favor_plan *plan) {
  if (!is_whole(plan)) return plan->schedule.block_tokens;
  int64_t most = 0;
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    most = larger(most, range_count(tokens_shard(&plan->tokens, plan->grid.tokens, part)));
  }
  return most;
}

/* Bytes of all ranks together: what blocks need of a row of the grid, that is of some heads, all rows need of theirs.
 */
static void count_file_bytes(const struct prospect *prospect, struct favor_prediction *prediction) {
  const struct favor_plan *plan = &prospect->plan;
  const struct favor_problem *problem = &plan->problem;
  const struct favor_job *job = prospect->job;
  const int64_t heads = problem->batch * problem->heads, kv_heads = problem->batch * problem->kv_heads;
  for (int64_t i = 0; i < plan->schedule.n_blocks; i++) {
    const struct planned_block *block = &plan->schedule.blocks[i];
    const unsigned needs = schedule_needs(&plan->schedule, block->kind);
    const int64_t tokens = range_count(block->window);
    if (needs & FAVOR_NEEDS_Q) prediction->bytes_read += tokens * heads * problem->key_width * job->q_bytes;
    if (needs & FAVOR_NEEDS_K) prediction->bytes_read += tokens * kv_heads * problem->key_width * job->k_bytes;
    if (needs & FAVOR_NEEDS_V) prediction->bytes_read += tokens * kv_heads * problem->value_width * job->v_bytes;
    if (needs & FAVOR_NEEDS_OUT) prediction->bytes_written += tokens * heads * problem->value_width * job->out_bytes;
  }
}

static void describe(struct prospect *prospect, const struct plan_needs *needs, struct favor_prediction *prediction) {
  struct favor_plan *plan = &prospect->plan;
  const struct favor_problem *problem = &plan->problem;
  const struct schedule *schedule = &plan->schedule;
  /* The scan is the one that rank 0 would report. */
  prospect_move(prospect, 0, 0);
  const double batch_bytes = prospect_batch_bytes(plan, plan_count_batches(plan));
  const struct dist_layout layout = prospect_layout(prospect, plan->grid.tokens);
  const enum favor_scan scan = dist_costs_choose_scan(&prospect->context.costs, problem->scan, layout, batch_bytes);
  *prediction = (struct favor_prediction){
      .kernel = plan->method && plan->method->kernel ? plan->method->kernel : plan->engine.kernel->name,
      .scan = plan_scan_name(plan, dist_costs_scan_name(scan)),
      .grid_heads = plan->grid.heads,
      .grid_tokens = plan->grid.tokens,
      .grid_reason = plan->grid.reason,
      .run_tokens = plan->tokens.run_tokens,
      .block_tokens = held_tokens(plan),
      .n_blocks = schedule->n_blocks,
      .is_streamed = !is_whole(plan),
      .state_rows = plan->engine.shape.features,
      .state_bytes = plan_state_bytes(plan),
      .memory_bytes = (size_t)(needs->fixed_bytes - problem->caller_bytes),
      .flops = plan_flops(plan),
  };
  const int64_t n_held = prediction->is_streamed ? larger(1, problem->blocks_held) : 1;
  prediction->held_bytes = (size_t)(problem->caller_bytes + n_held * prediction->block_tokens * needs->token_bytes);
  count_file_bytes(prospect, prediction);
}

static void check_job(struct favor_context *context, const struct favor_job *job) {
  const bool is_valid =
      job->ranks >= 1 && job->ranks <= INT32_MAX && job->nodes >= 1 && job->nodes <= job->ranks && job->threads >= 1;
  if (is_valid) return;
  dist_fail(
      context, FAVOR_EUSAGE,
      "%lld ranks of %d threads on %lld nodes are no job: there must be at least 1 of each, at most %d ranks, and "
      "no more nodes than ranks",
      (long long)job->ranks, job->threads, (long long)job->nodes, INT32_MAX);
}

/* What favor_plan_create does up to where it would draw, allocate or make communicators. */
static void predict(struct prospect *prospect, const struct favor_problem *problem,
                    struct favor_prediction *prediction) {
  struct favor_context *context = &prospect->context;
  struct favor_plan *plan = &prospect->plan;
  check_job(context, prospect->job);
  if (!dist_has_failed(context)) problem_check(context, problem);
  if (dist_has_failed(context)) return;
  plan->context = context;
  plan_take_problem(plan, problem);
  const int64_t padded = problem->projection_data ? 0 : projection_hadamard_width(problem->key_width);
  if (plan->problem.projection == FAVOR_PROJECTION_HADAMARD && padded > 0) plan_take_transform(plan, padded);
  plan->most_threads = plan->threads = prospect->job->threads;
  if (!dist_has_failed(context)) plan_choose_grid(plan);
  if (dist_has_failed(context)) return;
  const struct plan_needs needs = look_at_ranks(prospect);
  if (!dist_has_failed(context)) plan_list_blocks(plan, &(struct favor_position){0, 0});
  if (dist_has_failed(context)) return;
  describe(prospect, &needs, prediction);
  prospect_move(prospect, fullest_row(plan), 0);
  if (is_whole(plan)) plan_fit_whole(plan);
  kept_choose(plan);
  predict_time(prospect, prediction);
}

enum favor_status favor_predict(struct favor_context *context, const struct favor_problem *problem,
                                const struct favor_job *job, const struct favor_machine *machine,
                                struct favor_prediction *prediction) {
  *prediction = (struct favor_prediction){0};
  struct prospect *prospect = memory_zeroed(1, sizeof *prospect);
  if (!prospect) return dist_fail(context, FAVOR_ENOMEM, "no memory for a prediction");
  prospect->context = (struct favor_context){
      .comm = MPI_COMM_NULL, .size = (int)job->ranks, .n_nodes = (int)job->nodes, .costs = machine->costs};
  prospect->job = job;
  prospect->machine = machine;
  predict(prospect, problem, prediction);
  const enum favor_status status = dist_fail_status(context, &prospect->context.pending);
  free(prospect->plan.schedule.blocks);
  free(prospect->plan.offsets);
  free(prospect->plan.tiles.before);
  free(prospect);
  return status;
}

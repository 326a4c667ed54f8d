/* What favor_predict says of a plan is what the plan says of itself, on ranks that are there; on others it follows from
 * the machine's figures. */
#include "dist/comm.h"
#include "dist/costs.h"
#include "support/mpi_cmocka.h"
#include "support/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <favor/favor_machine.h>

static struct favor_context *world;

static const int64_t SEGMENTS[] = {0, 0, 700, 701, 2500, 4096};

static struct favor_problem base(void) {
  struct favor_problem problem = favor_problem_default();
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.tokens = 4096;
  problem.key_width = 16;
  problem.value_width = 12;
  problem.features = 24;
  problem.kernel = "reference";
  problem.threads = 1;
  return problem;
}

static struct favor_job job_of(const struct favor_problem *problem) {
  return (struct favor_job){.ranks = mpi_size(), .nodes = world->n_nodes, .threads = problem->threads};
}

static int64_t largest(int64_t x) {
  MPI_Allreduce(MPI_IN_PLACE, &x, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
  return x;
}

/* Zeros are as good as other tokens. */
static void execute(struct favor_plan *plan, const struct favor_problem *problem) {
  const int64_t n = problem->tokens, d = problem->key_width, e = problem->value_width;
  const size_t most = (size_t)(problem->batch * problem->heads * n * (d > e ? d : e));
  double *in = calloc(most, sizeof *in), *to = calloc(most, sizeof *to);
  assert_all(in && to);
  const struct favor_input q = {in, n * d, d}, v = {in, n * e, e};
  const struct favor_output out = {to, n * e, e};
  assert_all(favor_plan_execute(plan, &q, &q, &v, &out) == FAVOR_OK);
  free(in);
  free(to);
}

/* A reduction sends whole rows where the prediction has parts of one; moments travel besides. */
static bool are_near(int64_t sent, int64_t predicted, int64_t tolerance) {
  return predicted < 0 || (sent >= predicted - tolerance && sent <= predicted + tolerance);
}

static void hold(const struct favor_problem *problem) {
  struct favor_plan *plan = NULL;
  struct favor_prediction prediction;
  const struct favor_machine machine = favor_machine_default();
  const struct favor_job job = job_of(problem);
  const enum favor_status status = favor_plan_create(world, problem, &plan);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(world));
  assert_all(status == FAVOR_OK);
  assert_all(favor_predict(world, problem, &job, &machine, &prediction) == FAVOR_OK);
  struct favor_plan_info info;
  favor_plan_info(plan, &info);
  assert_all(strcmp(prediction.kernel, info.kernel) == 0);
  assert_all(mpi_rank() != 0 || strcmp(prediction.scan, info.scan) == 0);
  assert_all(prediction.grid_heads == info.grid_heads && prediction.grid_tokens == info.grid_tokens);
  assert_all(prediction.run_tokens == info.run_tokens && prediction.is_streamed == info.is_streamed);
  assert_all(prediction.block_tokens == largest(info.block_tokens));
  assert_all(prediction.n_blocks == favor_plan_n_blocks(plan));
  assert_all(prediction.state_rows == info.state_rows && prediction.state_bytes == info.state_bytes);
  assert_all((int64_t)prediction.memory_bytes == largest((int64_t)info.memory_bytes));
  assert_all(prediction.flops == info.flops);
  execute(plan, problem);
  struct favor_plan_times times;
  favor_plan_times(plan, &times);
  const int64_t rows = 64 * prediction.n_blocks * (int64_t)(info.state_bytes / (size_t)info.state_rows + 1);
  const bool is_exact = problem->is_causal && problem->key_shift == FAVOR_KEY_SHIFT_NONE;
  assert_all(are_near(largest(times.bytes_sent), prediction.bytes_sent, is_exact ? 0 : rows));
  assert_all(prediction.seconds.run > 0 && prediction.seconds.total >= prediction.seconds.run);
  favor_plan_destroy(&plan);
}

/* The same both ways, streamed and not, with one segment and with some. */
static void hold_variants(const struct favor_problem *given) {
  for (int i = 0; i < 8; i++) {
    struct favor_problem problem = *given;
    problem.is_causal = i % 2;
    problem.is_streamed = i / 2 % 2;
    if (i / 4) {
      problem.segments = SEGMENTS;
      problem.n_segments = 5;
    }
    hold(&problem);
  }
}

static void test_grids(void **state) {
  (void)state;
  struct favor_problem problem = base();
  hold_variants(&problem);
  problem.batch = 3;
  hold_variants(&problem);
  problem.batch = 1;
  problem.heads = problem.kv_heads = 5; /* two in a row, three in the other */
  problem.grid_heads = mpi_size() < 2 ? 1 : 2;
  problem.grid_tokens = mpi_size() / problem.grid_heads;
  hold_variants(&problem);
  problem = base();
  problem.grid_heads = 1;
  problem.grid_tokens = mpi_size();
  hold_variants(&problem);
  for (int scan = FAVOR_SCAN_EXSCAN; scan <= FAVOR_SCAN_NODES; scan++) {
    problem.scan = (enum favor_scan)scan;
    hold_variants(&problem);
  }
}

/* Enough heads and tokens that states travel in batches, and with few ranks some causal ones are relayed. */
static void test_batches(void **state) {
  (void)state;
  struct favor_problem problem = base();
  problem.heads = problem.kv_heads = 8;
  problem.tokens = 1 << 15;
  problem.key_width = problem.value_width = problem.features = 4;
  problem.grid_heads = 1;
  problem.grid_tokens = mpi_size();
  for (int i = 0; i < 4; i++) {
    problem.is_causal = i % 2;
    problem.is_streamed = i / 2;
    hold(&problem);
  }
}

static void test_blocks_and_threads(void **state) {
  (void)state;
  struct favor_problem problem = base();
  problem.kv_heads = 1;
  problem.is_streamed = true;
  problem.blocks_held = 2;
  problem.caller_bytes = 12345;
  problem.block_tokens = 100;
  hold(&problem);
  problem.is_causal = true;
  hold(&problem);
  problem.block_tokens = 0;
  problem.memory_bytes = 4 << 20;
  hold(&problem);
  problem.threads = 2; /* more than heads */
  problem.is_streamed = false;
  hold(&problem);
  problem.tokens = 5; /* fewer than ranks */
  hold(&problem);
}

/* A bound that leaves room for some of the features that are kept without one. */
static int64_t bound_for(const struct favor_problem *problem) {
  struct favor_plan *plan;
  struct favor_plan_info info;
  struct favor_prediction prediction;
  const struct favor_machine machine = favor_machine_default();
  const struct favor_job job = job_of(problem);
  assert_all(favor_plan_create(world, problem, &plan) == FAVOR_OK);
  assert_all(favor_predict(world, problem, &job, &machine, &prediction) == FAVOR_OK);
  favor_plan_info(plan, &info);
  favor_plan_destroy(&plan);
  return largest((int64_t)(info.memory_bytes - info.kept_bytes * 6 / 10)) + (int64_t)prediction.held_bytes;
}

/* By a kernel that can, in rows of the grid of which one may have more threads than heads, or relay some. */
static void test_kept_features(void **state) {
  (void)state;
  for (int i = 0; i < 16; i++) {
    struct favor_problem problem = base();
    problem.kernel = "auto";
    problem.is_causal = true;
    problem.is_streamed = i % 2;
    problem.threads = 1 + i / 2 % 2;
    problem.heads = problem.kv_heads = i / 4 % 2 ? 5 : 3;
    problem.tokens = i / 8 ? 4096 : 40000;
    if (i / 8) {
      problem.segments = SEGMENTS;
      problem.n_segments = 5;
    }
    problem.grid_heads = mpi_size() < 2 ? 1 : 2;
    problem.grid_tokens = mpi_size() / problem.grid_heads;
    hold(&problem);
    problem.memory_bytes = bound_for(&problem);
    hold(&problem);
  }
}

static void test_estimates_and_methods(void **state) {
  (void)state;
  struct favor_problem problem = base();
  problem.key_shift = FAVOR_KEY_SHIFT_MEAN;
  problem.balance = FAVOR_BALANCE_FULL;
  hold(&problem);
  problem.is_causal = true;
  problem.is_streamed = true;
  hold(&problem);
  problem = base();
  problem.projection = FAVOR_PROJECTION_HADAMARD;
  problem.map = FAVOR_MAP_HYPERBOLIC;
  problem.has_projection_per_head = true;
  problem.precision = FAVOR_PRECISION_F64;
  hold(&problem);
  problem = base();
  problem.map = FAVOR_MAP_POSITIVE;
  problem.eps = 1e-4;
  problem.key_max = FAVOR_KEY_MAX_HEAD;
  hold(&problem);
  problem = base();
  problem.kernel = "auto";
  problem.window = 3;
  for (int method = FAVOR_METHOD_FAVOR; method <= FAVOR_METHOD_LSH; method++) {
    problem.method = (enum favor_method)method;
    problem.is_causal = false;
    hold(&problem);
    problem.is_causal = method != FAVOR_METHOD_LINFORMER;
    hold(&problem);
  }
}

/* The same words from both, wherever they come from. */
static void refuse(const struct favor_problem *problem, const char *part) {
  char text[STATUS_TEXT_BYTES];
  struct favor_plan *plan = NULL;
  struct favor_prediction prediction;
  const struct favor_machine machine = favor_machine_default();
  const struct favor_job job = job_of(problem);
  const enum favor_status status = favor_plan_create(world, problem, &plan);
  snprintf(text, sizeof text, "%s", favor_context_message(world));
  assert_all(status != FAVOR_OK && strstr(text, part));
  assert_all(favor_predict(world, problem, &job, &machine, &prediction) == status);
  assert_all(strcmp(world->pending.text, text) == 0);
  favor_context_forget(world);
}

static void test_refusals(void **state) {
  (void)state;
  struct favor_problem problem = base();
  problem.memory_bytes = 1;
  refuse(&problem, "1 bytes of memory a rank are too few");
  problem.is_streamed = true;
  refuse(&problem, "1 bytes of memory a rank are too few");
  problem = base();
  problem.grid_heads = problem.grid_tokens = mpi_size() + 1;
  refuse(&problem, "does not fit");
  problem = base();
  problem.features = 0;
  refuse(&problem, "features is 0");
  problem = base();
  problem.segments = (int64_t[]){0, 5000};
  problem.n_segments = 1;
  refuse(&problem, "the last offset is 5000");
}

static double seconds_of(const struct favor_problem *problem, int64_t ranks, int64_t nodes, int threads) {
  struct favor_prediction prediction;
  const struct favor_machine machine = favor_machine_default();
  const struct favor_job job = {.ranks = ranks, .nodes = nodes, .threads = threads};
  assert_all(favor_predict(world, problem, &job, &machine, &prediction) == FAVOR_OK);
  return prediction.seconds.run;
}

/* On ranks that are not there. */
static void test_seconds(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    struct favor_problem problem = favor_problem_default();
    problem.is_causal = i % 2;
    problem.heads = problem.kv_heads = i / 2 ? 8 : 1;
    problem.tokens = 1 << 20;
    problem.kernel = "reference";
    double before = seconds_of(&problem, 1, 1, 1);
    const double one = before;
    for (int64_t ranks = 2; ranks <= 1024; ranks *= 2) {
      const double now = seconds_of(&problem, ranks, 1 + ranks / 64, 1);
      assert_all(now < 1.001 * before); /* two causal shards of one head take no longer than one */
      before = now;
    }
    assert_all(before < one / 100 && before > one / 1100);
    problem.tokens *= 2;
    assert_all(fabs(seconds_of(&problem, 1, 1, 1) / one - 2) < 0.01);
    problem.tokens /= 2;
    if (problem.heads == 8) assert_all(fabs(seconds_of(&problem, 1, 1, 4) / one - 0.25) < 0.01);
  }
}

/* A rate of the machine goes before a default one, and others of its kernel follow it by their flops; more threads than
 * cores take turns. */
static void test_rates(void **state) {
  (void)state;
  const struct favor_rate rate = {.kernel = "reference",
                                  .key_width = 16,
                                  .value_width = 16,
                                  .features = 32,
                                  .threads = 1,
                                  .absorb_s = 3e-6,
                                  .emit_s = 5e-6,
                                  .causal_s = 11e-6};
  struct favor_machine machine = favor_machine_default();
  struct favor_prediction prediction;
  struct favor_problem problem = base();
  struct favor_job job = {.ranks = 1, .nodes = 1, .threads = 1};
  machine.rates = &rate;
  machine.n_rates = 1;
  problem.kv_heads = 4;
  problem.value_width = 16;
  problem.features = 64; /* twice the work */
  assert_all(favor_predict(world, &problem, &job, &machine, &prediction) == FAVOR_OK);
  assert_all(prediction.is_rate_measured && fabs(prediction.rate.absorb_s - 6e-6) < 1e-12);
  assert_all(prediction.rate.features == 64 && prediction.from.features == 32 && prediction.from.absorb_s == 3e-6);
  assert_all(fabs(prediction.seconds.run / (4 * 4096 * 16e-6) - 1) < 1e-6);
  problem.is_causal = true;
  assert_all(favor_predict(world, &problem, &job, &machine, &prediction) == FAVOR_OK);
  assert_all(fabs(prediction.seconds.run / (4 * 4096 * 22e-6) - 1) < 1e-6);
  machine.cores = 2;
  job = (struct favor_job){.ranks = 4, .nodes = 1, .threads = 1};
  assert_all(favor_predict(world, &problem, &job, &machine, &prediction) == FAVOR_OK);
  assert_all(fabs(prediction.seconds.run / (2 * 4096 * 22e-6) - 1) < 1e-6);
  problem.kernel = "blas";
  assert_all(favor_predict(world, &problem, &job, &machine, &prediction) == FAVOR_OK);
  assert_all(!prediction.is_rate_measured);
}

/* Costs decide, and must be the same everywhere. */
static void test_costs(void **state) {
  (void)state;
  struct favor_costs costs = favor_costs_default();
  for (int size = 2; size <= 1024; size++) {
    const struct dist_layout layout = {size, size < 16 ? size : 16};
    for (double bytes = 1e3; bytes < 1e8; bytes *= 10) {
      const enum favor_scan scan = dist_costs_choose_scan(&costs, FAVOR_SCAN_AUTO, layout, bytes);
      const double seconds = dist_costs_scan_s(&costs, scan, layout, bytes);
      assert_true(seconds > 0 && seconds <= dist_costs_scan_s(&costs, FAVOR_SCAN_DOUBLING, layout, bytes));
      assert_true(seconds <= dist_costs_scan_s(&costs, FAVOR_SCAN_CHAIN, layout, bytes));
      assert_true(seconds <= dist_costs_scan_s(&costs, scan, layout, 2 * bytes));
      const enum dist_reduction reduction = dist_costs_choose_reduction(&costs, layout, bytes);
      assert_true(dist_costs_reduction_s(&costs, reduction, layout, bytes) > 0);
    }
  }
  const struct dist_layout node = {16, 16}, spread = {16, 1};
  assert_int_equal(dist_costs_choose_scan(&costs, FAVOR_SCAN_AUTO, node, 1e7), FAVOR_SCAN_CHAIN);
  costs.between_nodes.latency_s = 1;
  assert_int_equal(dist_costs_choose_scan(&costs, FAVOR_SCAN_AUTO, node, 1e7), FAVOR_SCAN_CHAIN);
  assert_int_equal(dist_costs_choose_scan(&costs, FAVOR_SCAN_AUTO, spread, 1e7), FAVOR_SCAN_DOUBLING);
  costs.within_node.latency_s = 1e-3;
  assert_all(favor_context_set_costs(world, &costs) == FAVOR_OK && world->costs.within_node.latency_s == 1e-3);
  costs.merge_s_per_byte = 0;
  assert_all(favor_context_set_costs(world, &costs) == FAVOR_EUSAGE && world->costs.merge_s_per_byte > 0);
  costs = favor_costs_default();
  if (mpi_size() > 1) {
    costs.merge_s_per_byte *= 1 + mpi_rank();
    assert_all(favor_context_set_costs(world, &costs) == FAVOR_EUSAGE);
  }
  costs = favor_costs_default();
  assert_all(favor_context_set_costs(world, &costs) == FAVOR_OK);
}

/* As tests, since MPI runs then. */
static void test_open(void **state) {
  (void)state;
  assert_all(favor_context_create(MPI_COMM_WORLD, &world) == FAVOR_OK);
}

static void test_close(void **state) {
  (void)state;
  favor_context_destroy(&world);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_open),          mpi_unit_test(test_grids),
      mpi_unit_test(test_batches),       mpi_unit_test(test_blocks_and_threads),
      mpi_unit_test(test_kept_features), mpi_unit_test(test_estimates_and_methods),
      mpi_unit_test(test_refusals),      mpi_unit_test(test_seconds),
      mpi_unit_test(test_rates),         mpi_unit_test(test_costs),
      mpi_unit_test(test_close),
  };
  return mpi_cmocka_main(&argc, &argv, "predict", tests, sizeof tests / sizeof tests[0]);
}

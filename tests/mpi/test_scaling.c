/* `favor bench scaling`: what it runs, and that wrong answers are found, on arrays whose tokens repeat themselves. */
#include "support/mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench_scaling.h"
#include "cli/option_table.h"
#include "dist/agree.h"

/* A benchmark as these words ask for it, NULL after the last. */
static void start(struct scaling *scaling, char *const *words) {
  static struct options options;
  static struct command command;
  struct status status = {0};
  int n = 0;
  while (words[n]) n++;
  assert_all(options_parse(&options, n, words, &status) == FAVOR_OK);
  command = (struct command){.options = &options, .line = ""};
  assert_all(favor_context_create(MPI_COMM_WORLD, &command.context) == FAVOR_OK);
  *scaling = (struct scaling){.command = &command, .context = command.context, .n_rounds = 5};
  scaling->points = calloc(SCALING_MOST_POINTS, sizeof *scaling->points);
  assert_all(scaling->points != NULL);
  scaling_list(scaling);
}

static void end(struct scaling *scaling) {
  free(scaling->points);
  favor_context_destroy(&scaling->context);
}

/* ---- what is run ------------------------------------------------------------------------------------------------ */

static int count(const struct scaling *scaling, int64_t ranks, enum scaling_mode mode, bool is_causal) {
  int n = 0;
  for (int i = 0; i < scaling->n_points; i++) {
    const struct scaling_point *point = &scaling->points[i];
    n += scaling_ranks_of(scaling, point) == ranks && (point->modes >> mode & 1) &&
         point->problem.is_causal == is_causal;
  }
  return n;
}

static void everything_is_listed(void **state) {
  (void)state;
  struct scaling scaling;
  start(&scaling, (char *[]){"bench", "scaling", "--shape", "1,2,100,8", NULL});
  int n_scans = 0;
  while (option_at(OPTION_SCAN)->choices[n_scans]) n_scans++;
  assert_all(!dist_has_failed(scaling.context));
  for (int mode = 0; mode < SCALING_N_MODES; mode++) {
    assert_all(count(&scaling, 1, mode, true) == 1 && count(&scaling, 1, mode, false) == 1);
    for (int64_t ranks = 2; ranks <= mpi_size(); ranks++) {
      const bool is_listed = ranks == 2 || ranks == 4 || ranks == mpi_size();
      assert_all(count(&scaling, ranks, mode, true) == (is_listed ? 1 + n_scans : 0));
      assert_all(count(&scaling, ranks, mode, false) == (is_listed ? 2 : 0));
    }
  }
  for (int i = 0; i < scaling.n_points; i++) {
    const struct scaling_point *point = &scaling.points[i];
    const int64_t ranks = scaling_ranks_of(&scaling, point), times = point->modes == 1U << SCALING_WEAK ? ranks : 1;
    assert_all(point->asked_tokens == 100 && point->problem.tokens == 100 * times && point->problem.heads == 2);
    assert_all(point->problem.grid_heads == 0 || point->problem.grid_tokens == ranks);
  }
  end(&scaling);
}

static void lists_and_grids_are_kept_to(void **state) {
  (void)state;
  struct scaling scaling;
  start(&scaling, (char *[]){"bench", "scaling", "--tokens-list", "64,16,64", "--ranks-list", "1", "--modes", "weak",
                             "--causal=off", NULL});
  assert_all(scaling.n_points == 2 && scaling.points[0].problem.tokens == 16 && scaling.points[1].problem.tokens == 64);
  assert_all(!scaling.points[0].problem.is_causal && scaling.points[0].modes == 1U << SCALING_WEAK);
  end(&scaling);
  char grid[16];
  snprintf(grid, sizeof grid, "%dx1", mpi_size());
  start(&scaling, (char *[]){"bench", "scaling", "--grid", grid, "--scans", "chain,doubling", "--causal", "--modes",
                             "strong", NULL});
  assert_all(count(&scaling, mpi_size(), SCALING_STRONG, true) == (mpi_size() == 1 ? 1 : 2));
  assert_all(scaling.n_points == count(&scaling, mpi_size(), SCALING_STRONG, true) + (mpi_size() > 1));
  end(&scaling);
  start(&scaling, (char *[]){"bench", "scaling", "--grid", "5x7", NULL});
  assert_all(dist_agree(scaling.context, DIST_SITE_NONE, 0, "") == FAVOR_EUSAGE);
  end(&scaling);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* One answer of all ranks, or of this rank alone. */
struct answer {
  struct scaling scaling;
  struct favor_context *context;
};

static void compute(struct answer *answer, MPI_Comm comm, int64_t tokens, bool is_causal) {
  struct scaling *scaling = &answer->scaling;
  start(scaling, (char *[]){"bench", "scaling", "--shape", "1,2,100,6", "--value-width", "5", "--features", "9",
                            "--kernel", "reference", NULL});
  assert_all(favor_context_create(comm, &answer->context) == FAVOR_OK);
  scaling->n_points = 1;
  struct scaling_point *point = &scaling->points[0];
  point->problem.tokens = tokens;
  point->problem.is_causal = is_causal;
  point->problem.threads = 1;
  assert_all(favor_plan_create(answer->context, &point->problem, &point->plan) == FAVOR_OK);
  favor_plan_shard(point->plan, &point->shard);
  scaling->data.q_row_bytes = 6 * sizeof(float);
  scaling->data.v_row_bytes = 5 * sizeof(float);
  assert_all(scaling_data_create(scaling));
  scaling_data_fill(&scaling->data, &point->shard);
  scaling_data_spoil(&scaling->data, &point->shard);
  const int64_t n = point->shard.token_end - point->shard.token_begin;
  const struct favor_input q = {scaling->data.q, n * 6, 6}, k = {scaling->data.k, n * 6, 6},
                           v = {scaling->data.v, n * 5, 5};
  const struct favor_output out = {scaling->data.out, n * 5, 5};
  assert_all(favor_plan_execute(point->plan, &q, &k, &v, &out) == FAVOR_OK);
}

static void release(struct answer *answer) {
  favor_plan_destroy(&answer->scaling.points[0].plan);
  scaling_data_release(&answer->scaling.data);
  favor_context_destroy(&answer->context);
  end(&answer->scaling);
}

static double error_of(const struct answer *answer) {
  struct favor_estimates estimates;
  const struct scaling_point *point = &answer->scaling.points[0];
  if (favor_plan_estimates(point->plan, &estimates) != FAVOR_OK) return -1;
  return scaling_check(&answer->scaling, point, &estimates);
}

/* Elements of out on this rank. */
static int64_t n_elements(const struct answer *answer) {
  const struct favor_shard *shard = &answer->scaling.points[0].shard;
  return (shard->head_end - shard->head_begin) * (shard->token_end - shard->token_begin) * 5;
}

/* Less than a period, whole ones, and whole ones with a rest. */
static const int64_t lengths[] = {1, 700, 3 * 1024, 9 * 1024 + 1};

static void right_answers_pass(void **state) {
  (void)state;
  for (int i = 0; i < 8; i++) {
    struct answer answer;
    compute(&answer, MPI_COMM_WORLD, lengths[i / 2], i % 2);
    const double error = error_of(&answer);
    assert_all(error >= 0 && error < 2e-5);
    release(&answer);
  }
}

/* A key more or less in thousands, and a wrong number anywhere in a row that is looked at: the last one is. */
static void wrong_answers_are_found(void **state) {
  (void)state;
  for (int is_causal = 0; is_causal < 2; is_causal++) {
    struct answer answer;
    compute(&answer, MPI_COMM_WORLD, 3 * 1024, is_causal);
    const int64_t n = n_elements(&answer);
    if (!is_causal) {
      answer.scaling.points[0].problem.tokens++;
      assert_all(n == 0 || error_of(&answer) > 2e-5);
      answer.scaling.points[0].problem.tokens -= 2;
      assert_all(n == 0 || error_of(&answer) > 2e-5);
      answer.scaling.points[0].problem.tokens++;
    }
    assert_all(error_of(&answer) < 2e-5);
    if (n > 0) ((float *)answer.scaling.data.out)[n - 1] += 0.01F;
    assert_all(n == 0 || error_of(&answer) > 2e-5);
    if (n > 0) scaling_data_spoil(&answer.scaling.data, &answer.scaling.points[0].shard);
    assert_all(n == 0 || isinf(error_of(&answer)));
    release(&answer);
  }
}

/* The digest of an output does not depend on who holds which part, and does on every digit of what it looks at. */
static void digests_are_of_the_whole(void **state) {
  (void)state;
  struct answer whole, parts;
  compute(&whole, MPI_COMM_SELF, 1500, true);
  compute(&parts, MPI_COMM_WORLD, 1500, true);
  const struct scaling_point *point = &parts.scaling.points[0];
  uint64_t digest = scaling_data_digest(&parts.scaling.data, point);
  assert_all(dist_sum_uint64(parts.context, &digest, 1) == FAVOR_OK);
  assert_all(digest == scaling_data_digest(&whole.scaling.data, &whole.scaling.points[0]));
  float *out = whole.scaling.data.out;
  out[0] = nextafterf(out[0], 1e9F);
  assert_all(digest != scaling_data_digest(&whole.scaling.data, &whole.scaling.points[0]));
  release(&parts);
  release(&whole);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(everything_is_listed),     mpi_unit_test(lists_and_grids_are_kept_to),
      mpi_unit_test(right_answers_pass),       mpi_unit_test(wrong_answers_are_found),
      mpi_unit_test(digests_are_of_the_whole),
  };
  return mpi_cmocka_main(&argc, &argv, "scaling", tests, sizeof tests / sizeof tests[0]);
}

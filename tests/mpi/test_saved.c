/* A streamed run that is left after any block goes on elsewhere: on other ranks, with other grids, blocks and threads,
 * to the same bytes; and what it is saved as is the same for every number of ranks. */
#include "mpi_cmocka.h"

#include <stdlib.h>
#include <string.h>

#include "run.h"

/* A saved run as a file would have it: the position and every key head's state, on every rank. */
struct kept {
  struct favor_position position;
  size_t state_bytes;
  char *states; /* [key heads][state_bytes] */
};

/* Collective over `comm`. */
static void keep(MPI_Comm comm, const struct favor_problem *problem, const struct favor_saved *saved,
                 struct kept *kept) {
  size_t bytes = (size_t)(problem->batch * problem->kv_heads) * saved->state_bytes;
  *kept = (struct kept){saved->position, saved->state_bytes, calloc(bytes + 1, 1)};
  if (saved->kv_head_end > saved->kv_head_begin) {
    memcpy(kept->states + (size_t)saved->kv_head_begin * saved->state_bytes, saved->states,
           (size_t)(saved->kv_head_end - saved->kv_head_begin) * saved->state_bytes);
  }
  run_gather(comm, kept->states, bytes);
}

static bool is_state_wanted(const struct favor_problem *problem, const struct favor_position *at) {
  if (problem->method == FAVOR_METHOD_COPY) return false;
  for (int64_t s = 0; s <= problem->n_segments; s++) {
    int64_t offset = problem->segments ? problem->segments[s] : s == 0 ? 0 : problem->tokens;
    if (offset == at->tokens_absorbed && at->tokens_absorbed == at->tokens_emitted) return false;
    if (!problem->segments && s == 1) break;
  }
  return true;
}

/* Runs blocks until `n` of them are done or all; from the start or from what was kept. Collective over the context. */
static enum favor_status run_some(struct favor_context *context, MPI_Comm comm, const struct favor_problem *problem,
                                  const struct case_tensors *t, const struct kept *from, int64_t n, struct kept *to,
                                  void *out, bool *is_done) {
  struct favor_plan *plan = NULL;
  struct favor_saved saved;
  enum favor_status status = favor_plan_create(context, problem, &plan);
  if (status != FAVOR_OK) return status;
  if (from) {
    status = favor_plan_resume(plan, &from->position, &saved);
    for (int64_t h = saved.kv_head_begin; status == FAVOR_OK && h < saved.kv_head_end; h++)
      memcpy((char *)saved.states + (size_t)(h - saved.kv_head_begin) * saved.state_bytes,
             from->states + (size_t)h * saved.state_bytes, saved.state_bytes);
  } else {
    favor_plan_begin(plan);
  }
  int64_t n_blocks = status == FAVOR_OK ? favor_plan_n_blocks(plan) : 0;
  for (int64_t i = 0; i < n_blocks && i < n && status == FAVOR_OK; i++) status = run_block(plan, problem, t, i, out);
  if (status == FAVOR_OK) status = favor_plan_save(plan, &saved);
  if (status == FAVOR_OK) keep(comm, problem, &saved, to);
  *is_done = n >= n_blocks;
  enum favor_status end = favor_plan_end(plan);
  favor_plan_destroy(&plan);
  return status == FAVOR_OK ? end : status;
}

/* Two runs of the same problem that stand at one place have saved the same. */
static bool is_same_kept(const struct favor_problem *problem, const struct kept *a, const struct kept *b) {
  if (memcmp(&a->position, &b->position, sizeof a->position) != 0) return false;
  if (!is_state_wanted(problem, &a->position)) return true;
  return a->state_bytes == b->state_bytes &&
         memcmp(a->states, b->states, (size_t)(problem->batch * problem->kv_heads) * a->state_bytes) == 0;
}

/* The problem in another way for each turn. */
static struct favor_problem way_of(const struct favor_problem *problem, int64_t run_tokens, int size, int64_t turn) {
  struct favor_problem way = *problem;
  way.is_streamed = true;
  way.block_tokens = (1 + turn % 3) * run_tokens;
  way.threads = 1 + (int)(turn % 2);
  way.scan = (enum favor_scan)(turn % 4);
  way.grid_heads = turn % 3 == 0 && size > 1 ? 2 : 1;
  if (way.grid_heads > problem->batch * problem->kv_heads) way.grid_heads = 1;
  way.grid_tokens = size / way.grid_heads;
  return way;
}

/* By turns a few blocks on all ranks and on one alone, each going on where the other stood. */
static void hand_over(const struct run_contexts *contexts, const struct favor_problem *problem,
                      const struct case_tensors *t, const void *right) {
  int64_t run_tokens = run_tokens_of(contexts->self, problem), turn = 0, n_handed = 0;
  size_t bytes = run_out_bytes(problem);
  void *out = calloc(bytes + 1, 1);
  struct kept kept = {0}, next;
  for (bool is_done = false; !is_done; turn++) {
    bool is_alone = turn % 2 == 1;
    struct favor_problem way = way_of(problem, run_tokens, is_alone ? 1 : mpi_size(), turn);
    /* Alone every rank does the same; only rank 0's outputs count. */
    void *own = calloc(bytes + 1, 1);
    enum favor_status status =
        run_some(is_alone ? contexts->self : contexts->world, is_alone ? MPI_COMM_SELF : MPI_COMM_WORLD, &way, t,
                 turn > 0 ? &kept : NULL, 1 + turn % 2, &next, own, &is_done);
    if (status != FAVOR_OK) run_print("turn %lld: %s\n", (long long)turn, favor_context_message(contexts->world));
    assert_all(status == FAVOR_OK);
    if (!is_alone || mpi_rank() == 0)
      for (size_t i = 0; i < bytes; i++) ((char *)out)[i] |= ((char *)own)[i];
    free(own);
    free(kept.states);
    kept = next;
    n_handed++;
  }
  run_gather(MPI_COMM_WORLD, out, bytes);
  if (memcmp(out, right, bytes) != 0) run_print("another output after %lld parts\n", (long long)n_handed);
  assert_all(n_handed > (mpi_size() > 4 ? 1 : 3)); /* seven ranks are soon done */
  assert_all(memcmp(out, right, bytes) == 0);
  free(kept.states);
  free(out);
}

/* Every place at which blocks of one run leave all ranks: one rank alone saves the same there. */
static void save_everywhere(const struct run_contexts *contexts, const struct favor_problem *problem,
                            const struct case_tensors *t) {
  int64_t run_tokens = run_tokens_of(contexts->self, problem);
  void *out = calloc(run_out_bytes(problem) + 1, 1);
  bool is_done = false;
  for (int64_t n = 1; !is_done; n++) {
    struct favor_problem way = way_of(problem, run_tokens, mpi_size(), n), alone = way_of(problem, run_tokens, 1, 0);
    struct kept kept, other = {0};
    bool is_over = false;
    way.block_tokens = 3 * run_tokens;
    assert_all(run_some(contexts->world, MPI_COMM_WORLD, &way, t, NULL, n, &kept, out, &is_done) == FAVOR_OK);
    /* Alone in blocks of a run, until it is as far. */
    for (int64_t m = 1; !is_over; m++) {
      free(other.states);
      assert_all(run_some(contexts->self, MPI_COMM_SELF, &alone, t, NULL, m, &other, out, &is_over) == FAVOR_OK);
      if (memcmp(&other.position, &kept.position, sizeof kept.position) == 0) break;
    }
    /* A segment that is too long for one run's blocks may fit into those of all: then alone it is never there. */
    bool is_there = memcmp(&other.position, &kept.position, sizeof kept.position) == 0;
    assert_all(!is_there || is_same_kept(problem, &kept, &other));
    assert_all(is_there || !problem->is_causal);
    free(kept.states);
    free(other.states);
  }
  free(out);
}

static void for_each_problem(void (*body)(const struct run_contexts *, const struct favor_problem *,
                                          const struct case_tensors *, const void *right)) {
  static const struct {
    bool is_causal;
    enum favor_precision precision;
    enum favor_method method;
    int segments; /* 0: one */
  } kinds[] = {{true, FAVOR_PRECISION_F64, FAVOR_METHOD_FAVOR, 0}, {false, FAVOR_PRECISION_F64, FAVOR_METHOD_FAVOR, 0},
               {true, FAVOR_PRECISION_F32, FAVOR_METHOD_FAVOR, 1}, {false, FAVOR_PRECISION_F32, FAVOR_METHOD_FAVOR, 1},
               {true, FAVOR_PRECISION_F32, FAVOR_METHOD_FAVOR, 2}, {false, FAVOR_PRECISION_F32, FAVOR_METHOD_FAVOR, 2},
               {false, FAVOR_PRECISION_F32, FAVOR_METHOD_MEAN, 1}, {true, FAVOR_PRECISION_F32, FAVOR_METHOD_COPY, 1}};
  struct run_contexts contexts = run_contexts_open();
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    struct favor_problem problem = favor_problem_default();
    problem.heads = 4;
    problem.kv_heads = 2;
    problem.key_width = 8;
    problem.value_width = 5;
    problem.features = 11;
    problem.is_causal = kinds[i].is_causal;
    problem.precision = kinds[i].precision;
    problem.method = kinds[i].method;
    int64_t run = run_tokens_of(contexts.self, &problem), n = 17 * run + run / 3;
    problem.tokens = n;
    /* Long ones that blocks cut; and short ones, empty ones, and one that ends where a run does. */
    const int64_t some[] = {0, 6 * run + 7, 6 * run + 9, n},
                  many[] = {0,        0, 3, run / 2, run, 3 * run, 3 * run, 3 * run + 1, 9 * run + 5, 9 * run + 90,
                            15 * run, n, n};
    problem.segments = kinds[i].segments == 1 ? some : kinds[i].segments == 2 ? many : NULL;
    problem.n_segments = kinds[i].segments == 1 ? 3 : 12;
    if (!problem.segments) problem.n_segments = 0;
    struct case_tensors t;
    case_tensors_create(&problem, 70 + i, 1.0, &t);
    void *right = calloc(run_out_bytes(&problem) + 1, 1);
    assert_all(run_problem(contexts.self, &problem, &t, RUN_EXECUTE, right) == FAVOR_OK);
    body(&contexts, &problem, &t, right);
    free(right);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

static void goes_on_elsewhere(void **state) {
  (void)state;
  for_each_problem(hand_over);
}

static void save_body(const struct run_contexts *contexts, const struct favor_problem *problem,
                      const struct case_tensors *t, const void *right) {
  (void)right;
  save_everywhere(contexts, problem, t);
}

static void saves_the_same_on_any_ranks(void **state) {
  (void)state;
  for_each_problem(save_body);
}

/* What no run could have left is refused, and said why. */
static void nonsense_is_refused(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = favor_problem_default();
  struct favor_saved saved;
  struct favor_plan *plan = NULL;
  problem.is_streamed = true;
  problem.key_width = problem.value_width = 4;
  problem.features = 8;
  int64_t run = run_tokens_of(contexts.self, &problem);
  problem.tokens = 10 * run;
  problem.is_causal = true;
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  const struct favor_position bad[] = {{-run, 0}, {1, 1}, {run, 2 * run}, {2 * run, run}, {11 * run, 11 * run}};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_all(favor_plan_resume(plan, &bad[i], &saved) == FAVOR_EDATA);
  const struct favor_position good = {4 * run, 4 * run};
  assert_all(favor_plan_resume(plan, &good, &saved) == FAVOR_OK);
  if (saved.kv_head_end > saved.kv_head_begin) memset(saved.states, 0x55, saved.state_bytes);
  assert_all(favor_plan_run_block(plan, 0, NULL, NULL, NULL, NULL) == FAVOR_EDATA);
  favor_plan_destroy(&plan);
  problem.is_streamed = false;
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  assert_all(favor_plan_resume(plan, &good, &saved) == FAVOR_EUSAGE);
  assert_all(favor_plan_save(plan, &saved) == FAVOR_EUSAGE);
  favor_plan_destroy(&plan);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {mpi_unit_test(goes_on_elsewhere), mpi_unit_test(saves_the_same_on_any_ranks),
                                     mpi_unit_test(nonsense_is_refused)};
  return mpi_cmocka_main(&argc, &argv, "saved", tests, sizeof tests / sizeof tests[0]);
}

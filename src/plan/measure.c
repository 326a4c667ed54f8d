/* Measuring what estimates come from on this rank's threads. */
#include <string.h>

#include "plan/execute.h"

/* Pieces of a key head's range that a thread draws, for each thread. */
enum { PIECES_A_THREAD = 4 };

/* A range of one key head's tokens, from the start of a run. */
struct work {
  struct favor_plan *plan;
  const struct block_arrays *arrays;
  int64_t unit;
  struct range range;
};

static double *own_sums(const struct favor_plan *plan) {
  return plan->estimate.sums + (size_t)omp_get_thread_num() * plan->estimate.sums_count;
}

/* A run's sums of keys and of all query heads. */
static bool measure_run(const struct work *work, int64_t begin, int64_t n, double *sums, struct refusal *refusal) {
  const struct favor_plan *plan = work->plan;
  const struct engine *engine = &plan->engine;
  const struct measure *measure = &plan->estimate.measure;
  const struct favor_input *q = work->arrays->q, *k = work->arrays->k;
  struct worker *worker = plan->workers[omp_get_thread_num()];
  const int64_t token = begin - work->arrays->begin, heads = engine->heads_per_key;
  const void *keys = row_in(engine, row_in(engine, k->data, k->head_stride, work->unit), k->token_stride, token);
  if (!measure_add(measure, engine, worker, MEASURE_KEYS, n, keys, k->token_stride, sums, refusal)) return false;
  for (int64_t h = 0; h < heads; h++) {
    const void *head = row_in(engine, q->data, q->head_stride, work->unit * heads + h);
    const void *queries = row_in(engine, head, q->token_stride, token);
    if (measure_add(measure, engine, worker, MEASURE_QUERIES, n, queries, q->token_stride, sums, refusal)) continue;
    refusal->head = h;
    return false;
  }
  return true;
}

/* Threads begin at other slices of the rows, so that they seldom wait for each other. */
static void deposit(const struct work *work, const double *sums) {
  const struct favor_plan *plan = work->plan;
  const struct measure *measure = &plan->estimate.measure;
  const int64_t n_rows = measure_n_rows(measure);
  void *rows = (char *)plan->estimate.rows + measure_unit_bytes(measure) * (size_t)work->unit;
  for (int i = 0; i < PLAN_SLICES; i++) {
    const int64_t slice = (omp_get_thread_num() + i) % PLAN_SLICES;
    const int64_t begin = n_rows * slice / PLAN_SLICES, end = n_rows * (slice + 1) / PLAN_SLICES;
    if (begin == end) continue;
    omp_lock_t *lock = &plan->locks[work->unit * PLAN_SLICES + slice];
    omp_set_lock(lock);
    measure_deposit(measure, begin, end, sums, rows);
    omp_unset_lock(lock);
  }
}

static void measure_range(const struct work *work) {
  struct favor_plan *plan = work->plan;
  double *sums = own_sums(plan);
  for (int64_t begin = work->range.begin, end; begin < work->range.end; begin = end) {
    end = begin + plan->tokens.run_tokens;
    const int64_t segment_end = tokens_segment(&plan->tokens, begin).end;
    if (end > segment_end) end = segment_end;
    struct refusal refusal;
    memset(sums, 0, plan->estimate.sums_count * sizeof *sums);
    if (!measure_run(work, begin, end - begin, sums, &refusal)) {
      execute_refuse(plan, work->unit, begin, refusal);
      return;
    }
    deposit(work, sums);
  }
}

void execute_measure(struct favor_plan *plan, const struct block_arrays *arrays, struct range range) {
  const int64_t units = range_count(plan->units), n_pieces = PIECES_A_THREAD * plan->threads;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < units * n_pieces; i++) {
      const int64_t piece = i % n_pieces, tokens = range_count(range);
      struct work work = {plan, arrays, i / n_pieces, range};
      work.range.begin = tokens_run_floor(&plan->tokens, range.begin + tokens * piece / n_pieces);
      if (piece + 1 < n_pieces) {
        work.range.end = tokens_run_floor(&plan->tokens, range.begin + tokens * (piece + 1) / n_pieces);
      }
      measure_range(&work);
    }
    binding_leave(plan->binding);
  }
}

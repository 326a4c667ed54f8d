#include "plan/key_max.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "core/key_max.h"
#include "feature/map.h"
#include "plan/execute.h"

/* Pieces of a key head's range that a thread draws, for each thread. */
enum { PIECES_A_THREAD = 4 };
/* Numbers in one message, which MPI counts in an int. */
enum { MESSAGE_NUMBERS = 1 << 28 };

static const double *given_values(const struct favor_estimates *given) { return given ? given->key_max : NULL; }

static bool is_used(const struct favor_problem *problem) {
  return problem->method == FAVOR_METHOD_FAVOR && map_needs_key_max(problem);
}

static int64_t n_key_heads(const struct favor_problem *problem) { return problem->batch * problem->kv_heads; }

void key_max_check(struct favor_context *context, const struct favor_problem *problem) {
  const double *values = is_used(problem) ? given_values(problem->estimates) : NULL;
  for (int64_t i = 0; values && i < n_key_heads(problem); i++) {
    if (isfinite(values[i])) continue;
    dist_fail(context, FAVOR_EDATA, "estimates: the key maximum of key head %lld is %g: it must be finite",
              (long long)i, values[i]);
    return;
  }
}

uint64_t key_max_digest(const struct favor_problem *problem, uint64_t digest) {
  const double *values = is_used(problem) ? given_values(problem->estimates) : NULL;
  const int64_t is_given = values != NULL;
  digest = dist_digest(digest, &is_given, sizeof is_given);
  return values ? dist_digest(digest, values, (size_t)n_key_heads(problem) * sizeof *values) : digest;
}

void key_max_choose(struct favor_plan *plan, const struct favor_estimates *given) {
  plan->key_max.is_used = is_used(&plan->problem);
  plan->key_max.is_measured = plan->key_max.is_used && !given_values(given);
}

size_t key_max_bytes(const struct favor_plan *plan) {
  const struct key_max *key_max = &plan->key_max;
  const int64_t n =
      (key_max->is_used ? range_count(plan->units) : 0) + (key_max->is_measured ? n_key_heads(&plan->problem) : 0);
  return (size_t)n * sizeof(double);
}

/* Tells the kernels. */
static void set(struct favor_plan *plan) {
  for (int64_t unit = 0; unit < range_count(plan->units); unit++) {
    plan->weights[unit].parameters.key_max = plan->key_max.values[unit];
  }
  plan->key_max.is_known = true;
}

void key_max_allocate(struct favor_plan *plan, const struct favor_estimates *given) {
  struct key_max *key_max = &plan->key_max;
  const size_t units = (size_t)range_count(plan->units);
  if (!key_max->is_used) return;
  key_max->values = memory_zeroed(units, sizeof *key_max->values);
  key_max->all = memory_zeroed(key_max->is_measured ? (size_t)n_key_heads(&plan->problem) : 0, sizeof *key_max->all);
  if (!key_max->values || !key_max->all) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for the key maximum of %zu key heads", units);
    return;
  }
  if (key_max->is_measured) return;
  memcpy(key_max->values, given->key_max + plan->units.begin, units * sizeof *key_max->values);
  set(plan);
}

void key_max_free(struct key_max *key_max) {
  free(key_max->values);
  free(key_max->all);
}

void key_max_begin(struct favor_plan *plan) {
  struct key_max *key_max = &plan->key_max;
  if (!key_max->is_measured) return;
  key_max->is_known = false;
  for (int64_t i = 0; i < n_key_heads(&plan->problem); i++) key_max->all[i] = -INFINITY;
}

/* A part of a block's keys of one key head. */
static void add_piece(struct favor_plan *plan, const struct block_arrays *arrays, int64_t unit, struct range piece) {
  const struct engine *engine = &plan->engine;
  const struct favor_input *k = arrays->k;
  const void *head = row_in(engine, k->data, k->head_stride, unit);
  struct refusal refusal;
  double highest = -INFINITY;
  if (!key_max_add(engine, plan->workers[omp_get_thread_num()], plan_weights(plan, unit), range_count(piece),
                   row_in(engine, head, k->token_stride, piece.begin - arrays->begin), k->token_stride, &highest,
                   &refusal)) {
    execute_refuse(plan, unit, piece.begin, refusal);
    return;
  }
#pragma omp critical(favor_key_max)
  {
    double *own = &plan->key_max.all[plan->units.begin + unit];
    *own = fmax(*own, highest);
  }
}

void execute_key_max(struct favor_plan *plan, const struct block_arrays *arrays, struct range range) {
  const int64_t tokens = range_count(range), n_pieces = PIECES_A_THREAD * plan->threads;
#pragma omp parallel num_threads(plan->threads)
  {
    binding_enter(plan->binding);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < range_count(plan->units) * n_pieces; i++) {
      const int64_t piece = i % n_pieces;
      add_piece(plan, arrays, i / n_pieces,
                (struct range){range.begin + tokens * piece / n_pieces, range.begin + tokens * (piece + 1) / n_pieces});
    }
    binding_leave(plan->binding);
  }
}

enum favor_status key_max_meet(struct favor_plan *plan) {
  struct key_max *key_max = &plan->key_max;
  const int64_t n_heads = n_key_heads(&plan->problem);
  plan->outcome = dist_agree(plan->context, DIST_SITE_ESTIMATE, 0, "");
  if (plan->outcome != FAVOR_OK) return plan->outcome;
  for (int64_t i = 0; i < n_heads; i += MESSAGE_NUMBERS) {
    const int64_t count = n_heads - i < MESSAGE_NUMBERS ? n_heads - i : MESSAGE_NUMBERS;
    enum favor_status status = dist_max_double(plan->context, key_max->all + i, (int)count);
    if (status != FAVOR_OK) return status;
  }
  double highest = -INFINITY;
  for (int64_t i = 0; i < n_heads; i++) highest = fmax(highest, key_max->all[i]);
  for (int64_t unit = 0; unit < range_count(plan->units); unit++) {
    const double own = key_max->all[plan->units.begin + unit];
    key_max->values[unit] = plan->problem.key_max == FAVOR_KEY_MAX_TENSOR ? highest : own;
    if (plan->problem.tokens == 0) key_max->values[unit] = 0;
  }
  set(plan);
  return FAVOR_OK;
}

#include "plan/plan.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "feature/map.h"
#include "feature/projection.h"
#include "plan/blocks.h"
#include "plan/memory.h"
#include "plan/method.h"

/* Rows longer than this, times the longest token allowed, would leave the range of exponents. */
#define LONGEST_PROJECTION_ROW 0x1p16

/* The mean is FAVOR+ with one feature that is 1 whatever the token: a projection of one row of zeros and no norms. What
 * needs no state has the same stand-in. */
static void reduce_to_one_feature(struct favor_problem *problem) {
  problem->map = FAVOR_MAP_POSITIVE;
  problem->eps = 0;
  problem->guard_rule = FAVOR_GUARD_NONE;
  problem->features = 1;
  problem->projection = FAVOR_PROJECTION_ORTHOGONAL;
  problem->has_projection_per_head = false;
  problem->key_shift = FAVOR_KEY_SHIFT_NONE;
  problem->balance = FAVOR_BALANCE_NONE;
}

/* Copies what the problem points to, and fills in its defaults. */
static void copy_problem(struct favor_plan *plan, const struct favor_problem *problem) {
  plan->problem = *problem;
  plan->problem.projection_data = NULL;
  plan->problem.estimates = NULL;
  plan->length_rows = problem->features;
  if (problem->method != FAVOR_METHOD_FAVOR) reduce_to_one_feature(&plan->problem);
  if (problem->scale == 0) plan->problem.scale = 1 / sqrt((double)problem->key_width);
  int64_t n_segments = problem->segments ? problem->n_segments : 1;
  plan->offsets = memory_zeroed((size_t)n_segments + 1, sizeof *plan->offsets);
  if (!plan->offsets) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %lld segments", (long long)n_segments);
    return;
  }
  plan->offsets[n_segments] = problem->tokens;
  if (problem->segments) memcpy(plan->offsets, problem->segments, (size_t)(n_segments + 1) * sizeof *plan->offsets);
  plan->problem.segments = plan->offsets;
  plan->problem.n_segments = n_segments;
  plan->n_projections = plan->problem.has_projection_per_head ? problem->kv_heads : 1;
}

/* How many tokens become one addend of a sum: a run, or what the method says. */
static int64_t addend_tokens(const struct favor_plan *plan) {
  bool has_own = plan->method && plan->method->tile_tokens > 0;
  return has_own ? plan->method->tile_tokens : engine_run_tokens(&plan->engine);
}

/* Reproducible sums count their addends: runs, or the tiles of a method without states. */
static void check_longest_segment(struct favor_plan *plan) {
  int64_t most = addend_tokens(plan) * (int64_t)BINNED_MAX_ADDENDS;
  for (int64_t s = 0; plan->offsets && s < plan->problem.n_segments; s++) {
    if (plan->offsets[s + 1] - plan->offsets[s] <= most) continue;
    dist_fail(plan->context, FAVOR_EUSAGE, "segment %lld has %lld tokens; at most %lld are possible with kernel %s",
              (long long)s, (long long)(plan->offsets[s + 1] - plan->offsets[s]), (long long)most,
              plan->engine.kernel->name);
    return;
  }
}

static void number_tiles(struct favor_plan *plan) {
  plan->tiles = (struct tiles){.tokens = &plan->tokens,
                               .before = memory_zeroed((size_t)plan->tokens.n_segments + 1, sizeof(int64_t))};
  if (plan->tiles.before) {
    tiles_number(&plan->tiles);
  } else {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for %lld segments", (long long)plan->tokens.n_segments);
  }
}

/* Do states of several ranks become one, anywhere? Of a streamed plan: in some block, for all that is known here. */
static bool may_meet(const struct favor_plan *plan) {
  const int64_t n_parts = plan->grid.tokens;
  if (!schedule_has_states(&plan->schedule) || n_parts == 1) return false;
  if (plan->problem.is_streamed) return true;
  struct span_walk walk = tokens_walk_spans(&plan->tokens, (struct range){0, plan->tokens.n_tokens}, n_parts);
  return tokens_next_span(&walk);
}

static struct cost_job job_of(const struct favor_plan *plan) {
  return (struct cost_job){.size = plan->context->size,
                           .threads = plan->most_threads,
                           .run_tokens = addend_tokens(plan),
                           .keeps_features = plan->engine.ops->features_bytes != NULL};
}

void plan_choose_grid(struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  int64_t n_units = problem->batch * problem->kv_heads;
  if (problem->grid_heads > 0) {
    plan->grid = (struct grid){problem->grid_heads, problem->grid_tokens, "as asked"};
  } else {
    const struct cost_job job = job_of(plan);
    plan->grid = cost_grid(problem, &job, n_units);
  }
  plan->tokens = (struct tokens){.n_tokens = problem->tokens,
                                 .n_segments = problem->n_segments,
                                 .offsets = plan->offsets,
                                 .run_tokens = addend_tokens(plan)};
  if (plan->method) number_tiles(plan);
  struct schedule *schedule = &plan->schedule;
  schedule->kind = plan->method                           ? SCHEDULE_WHOLE
                   : problem->method == FAVOR_METHOD_COPY ? SCHEDULE_COPY
                   : problem->is_causal                   ? SCHEDULE_CAUSAL
                                                          : SCHEDULE_BIDIRECTIONAL;
  if (estimate_is_any_measured(&plan->estimate)) schedule->measure_needs = FAVOR_NEEDS_Q | FAVOR_NEEDS_K;
  if (plan->key_max.is_measured) schedule->measure_needs = FAVOR_NEEDS_K;
  schedule->tokens = &plan->tokens;
  schedule->n_parts = plan->grid.tokens;
  schedule->may_meet = may_meet(plan);
}

void plan_take_place(struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  const int64_t n_units = problem->batch * problem->kv_heads;
  const int64_t row = plan->context->rank / plan->grid.tokens, column = plan->context->rank % plan->grid.tokens;
  struct schedule *schedule = &plan->schedule;
  plan->units = schedule->shard = (struct range){0, 0};
  plan->spans[0] = plan->spans[1] = (struct span){0};
  schedule->part = -1;
  if (row >= plan->grid.heads) return; /* a rank over: it owns nothing */
  plan->units.begin = n_units * row / plan->grid.heads;
  plan->units.end = n_units * (row + 1) / plan->grid.heads;
  if (range_count(plan->units) == 0) return;
  if (range_count(plan->units) > INT32_MAX / plan->engine.shape.features) {
    dist_fail(plan->context, FAVOR_EUSAGE, "%lld heads of %lld features are too much for one rank; use more ranks",
              (long long)range_count(plan->units), (long long)plan->engine.shape.features);
  }
  const struct range all = {0, plan->tokens.n_tokens};
  bool is_streamed = problem->is_streamed && schedule->kind != SCHEDULE_WHOLE;
  schedule->part = column;
  schedule->shard = is_streamed ? all : tokens_shard(&plan->tokens, plan->grid.tokens, column);
  if (!is_streamed && schedule->may_meet) tokens_spans(&plan->tokens, all, plan->grid.tokens, column, plan->spans);
}

/* Draws into plan->projection, and what the fast transform of a Hadamard projection needs. */
static void draw(struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  int64_t m = problem->features, d = problem->key_width;
  const int64_t padded = plan->transform_count > 0 ? projection_hadamard_width(d) : 0;
  double *work = memory_zeroed(padded > 0 ? (size_t)padded : projection_work_count(d), sizeof *work);
  if (!work) dist_fail(plan->context, FAVOR_ENOMEM, "no memory to draw a projection of width %lld", (long long)d);
  for (int64_t g = 0; work && g < plan->n_projections; g++) {
    struct projection_name name = {problem->seed, problem->layer, problem->redraw, g};
    double *w = plan->projection + g * m * d, *transform = plan->transform + g * plan->transform_count;
    if (padded > 0) {
      projection_draw_hadamard(problem->row_norm, &name, m, d, work, transform + m, transform, w);
    } else if (projection_draw(problem->projection, problem->row_norm, &name, m, d, work, w) != FAVOR_OK) {
      dist_fail(plan->context, FAVOR_EINTERNAL, "LAPACK could not orthogonalise the projection");
    }
  }
  free(work);
}

double plan_round_weight(enum favor_precision precision, double w) {
  if (precision == FAVOR_PRECISION_F64) return w;
  if (precision == FAVOR_PRECISION_F32 || !isfinite(w)) return (double)(float)w;
  enum { BFLOAT16_BITS = 8 };
  int exponent;
  double fraction = frexp(w, &exponent);
  bool is_normal = exponent >= FLT_MIN_EXP; /* products of pairs take others for 0 */
  return is_normal ? ldexp(rint(ldexp(fraction, BFLOAT16_BITS)), exponent - BFLOAT16_BITS) : 0;
}

/* Rank 0 draws or takes the projection; the others only have room for it. */
static void draw_projection(struct favor_plan *plan, const double *data) {
  const struct favor_problem *problem = &plan->problem;
  int64_t m = problem->features, d = problem->key_width, count = plan->n_projections * m * d;
  if (!plan->projection || !plan->transform || plan->context->rank != 0) return;
  if (problem->method != FAVOR_METHOD_FAVOR) return;
  if (data) {
    memcpy(plan->projection, data, (size_t)count * sizeof *data);
  } else {
    draw(plan);
  }
  for (int64_t i = 0; i < count; i++) plan->projection[i] = plan_round_weight(problem->precision, plan->projection[i]);
  const double longest = problem->map == FAVOR_MAP_OPRF ? sqrt(LONGEST_PROJECTION_ROW) : LONGEST_PROJECTION_ROW;
  for (int64_t row = 0; row < plan->n_projections * m; row++) {
    double norm2 = 0;
    for (int64_t i = row * d; i < (row + 1) * d; i++) norm2 += plan->projection[i] * plan->projection[i];
    if (norm2 <= longest * longest) continue;
    dist_fail(plan->context, FAVOR_EDATA, "row %lld of the projection is not finite or longer than %g", (long long)row,
              longest);
    return;
  }
}

static void allocate_projection(struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  size_t count = (size_t)(problem->features * problem->key_width);
  plan->projection = memory_zeroed((size_t)(plan->n_projections * problem->features),
                                   (size_t)plan->engine.shape.key_width * sizeof(double));
  plan->stored_projection = memory_zeroed((size_t)plan->n_projections * count, plan->engine.real_bytes);
  plan->packed = memory_zeroed((size_t)plan->n_projections, plan->engine.ops->weights_bytes(&plan->engine.shape));
  plan->transform = memory_zeroed((size_t)(plan->n_projections * plan->transform_count), sizeof *plan->transform);
  if (!plan->projection || !plan->stored_projection || !plan->transform || !plan->packed) {
    dist_fail(plan->context, FAVOR_ENOMEM, "no memory for the projection");
  }
}

/* Where the engine has columns of biases beside those of W: makes room for them from the last row back, and fills them
 * with (|w_r|^2 - D) / plan_bias_unit(), in bf16 its high part twice and the rest. */
static void add_biases(struct favor_plan *plan) {
  const enum favor_precision precision = plan->problem.precision;
  const int64_t width = plan->problem.key_width, row_width = plan->engine.shape.key_width;
  if (row_width == width) return;
  for (int64_t row = plan->n_projections * plan->problem.features - 1; row >= 0; row--) {
    double *w = plan->projection + row * row_width, norm2 = 0;
    memmove(w, plan->projection + row * width, (size_t)width * sizeof *w);
    for (int64_t d = 0; d < width; d++) norm2 += w[d] * w[d];
    const double bias = (norm2 - (double)width) / plan_bias_unit(plan);
    w[width] = plan_round_weight(precision, bias);
    if (row_width == width + 1) continue;
    w[width + 1] = w[width];
    w[width + 2] = plan_round_weight(precision, bias - w[width]);
  }
}

/* Stores W as it is and packs W sqrt(scale) / ln 2, or W sqrt(scale) for a map of kernel/map.h; a key head's parameters
 * go beside it. */
static void pack_projection(struct favor_plan *plan) {
  const struct engine *engine = &plan->engine;
  int64_t count = engine->shape.directions * engine->shape.key_width;
  double factor = sqrt(plan->problem.scale);
  if (!engine->shape.map) factor /= 0.693147180559945309417232121458176568;
  for (int64_t i = 0; i < plan->n_projections * engine->shape.directions * engine->key_width; i++) {
    if (engine->precision == FAVOR_PRECISION_F64) {
      ((double *)plan->stored_projection)[i] = plan->projection[i];
    } else {
      ((float *)plan->stored_projection)[i] = (float)plan->projection[i];
    }
  }
  add_biases(plan);
  for (int64_t g = 0; g < plan->n_projections; g++) {
    double *w = plan->projection + g * count;
    void *packed = (char *)plan->packed + (size_t)g * engine->ops->weights_bytes(&engine->shape);
    const double *transform = plan->transform + g * plan->transform_count;
    struct kernel_projection projection = {.w = w};
    if (engine->shape.hadamard_width > 0) {
      projection.lengths = transform;
      projection.signs = transform + engine->shape.directions;
    }
    engine->ops->pack_weights(&engine->shape, &projection, factor, packed);
    for (int64_t i = 0; i < count; i++) w[i] *= factor;
  }
  for (int64_t unit = 0; unit < range_count(plan->units); unit++) {
    int64_t g = plan->n_projections == 1 ? 0 : (plan->units.begin + unit) % plan->problem.kv_heads;
    plan->weights[unit] =
        (struct head_weights){.packed = (char *)plan->packed + (size_t)g * engine->ops->weights_bytes(&engine->shape),
                              .exact = plan->projection + g * count,
                              .parameters = map_parameters(&plan->problem),
                              .transform = engine->has_transform ? &plan->estimate.transforms[unit] : NULL};
  }
}

/* Collective: sets the engine's width of a projection that is drawn as a Hadamard one. Rank 0 alone knows whether one
 * is given. A W with columns of biases has no fast transform. */
static void choose_transform(struct favor_plan *plan, const double *data) {
  int64_t width = data ? 0 : projection_hadamard_width(plan->problem.key_width);
  if (plan->problem.projection != FAVOR_PROJECTION_HADAMARD) return;
  dist_broadcast(plan->context, &width, sizeof width);
  if (width > 0) plan_take_transform(plan, width);
}

void plan_take_transform(struct favor_plan *plan, int64_t width) {
  const struct favor_problem *problem = &plan->problem;
  plan->transform_count = problem->features + projection_signs_count(problem->features, problem->key_width);
  if (plan->engine.shape.key_width == problem->key_width) plan->engine.shape.hadamard_width = width;
}

int plan_count_batches(const struct favor_plan *plan) {
  const struct schedule *schedule = &plan->schedule;
  const int64_t window = schedule->window_tokens;
  const int64_t tokens = window > 0 && window < plan->tokens.n_tokens ? window : plan->tokens.n_tokens;
  const struct cost_job job = job_of(plan);
  return cost_batches(&plan->problem, &job, range_count(plan->units), tokens / schedule->n_parts);
}

int plan_count_absorbed(const struct favor_plan *plan, const struct span *span, int n_batches) {
  const struct cost_job job = job_of(plan);
  const bool is_all = span->is_member && span->first_part == 0 && span->n_parts == plan->schedule.n_parts;
  return is_all ? (int)cost_absorbed_batches(&job, span->n_parts, n_batches) : n_batches;
}

/* Two groups a row of the grid, as a rank may be in two spans; or the axis of a method. */
static void make_groups(struct favor_plan *plan) {
  int64_t row = plan->context->rank / plan->grid.tokens;
  int color = row < plan->grid.heads ? (int)row : -1;
  if (plan->method) dist_axis_create(plan->context, color, plan->method->n_pieces(plan), &plan->axis);
  plan->n_batches = plan_count_batches(plan);
  const struct dist_group_shape shape = {.n_lanes = plan->n_batches,
                                         .n_units = range_count(plan->units),
                                         .unit_rows = plan->engine.shape.features,
                                         .row_bytes = plan->engine.row_bytes};
  for (int parity = 0; parity < 2 && plan->schedule.may_meet; parity++) {
    dist_group_create(plan->context, color, &shape, plan->problem.scan, &plan->traffic, &plan->groups[parity]);
  }
}

void plan_take_problem(struct favor_plan *plan, const struct favor_problem *given) {
  copy_problem(plan, given);
  const struct favor_problem *problem = &plan->problem;
  const struct kernel *kernel = kernel_find(problem->kernel, (int)problem->precision, map_rows(problem));
  plan->problem.kernel = kernel->name;
  plan->engine = engine_make(kernel, problem->precision, problem->key_width, problem->value_width, problem->features,
                             map_signs(problem->map), problem->heads / problem->kv_heads, problem->scale);
  plan->engine.shape.map = map_rows(problem);
  if (problem->method != FAVOR_METHOD_FAVOR) plan->engine.half_norm_factor = 0;
  plan->method = method_of(problem);
  estimate_choose(plan, given->estimates);
  key_max_choose(plan, given->estimates);
  plan->unit_bytes = engine_state_bytes(&plan->engine);
  check_longest_segment(plan);
}

/* The steps of creation, each with its agreement. */
static enum favor_status create(struct favor_plan *plan, const struct favor_problem *given) {
  struct favor_context *context = plan->context;
  const struct favor_problem *problem = &plan->problem;
  const double *projection_data = given->projection_data;
  const struct favor_estimates *estimates = given->estimates;
  plan_take_problem(plan, given);
  choose_transform(plan, projection_data);
  allocate_projection(plan);
  draw_projection(plan, projection_data);
  enum favor_status status = dist_agree(context, DIST_SITE_PLAN_DRAW, 0, "");
  if (status != FAVOR_OK) return status;
  dist_broadcast(context, plan->projection,
                 (size_t)(plan->n_projections * problem->features * problem->key_width) * sizeof(double));
  dist_broadcast(context, plan->transform, (size_t)(plan->n_projections * plan->transform_count) * sizeof(double));
  plan->binding = binding_create(context, problem->threads);
  plan->most_threads = plan->threads = plan->binding ? binding_threads(plan->binding) : 1;
  dist_max_int64(context, &plan->most_threads, 1);
  plan_choose_grid(plan);
  plan_take_place(plan);
  plan_choose_block(plan);
  status = dist_agree(context, DIST_SITE_PLAN_MEMORY, 0, "");
  if (status != FAVOR_OK) return status;
  make_groups(plan);
  estimate_make_group(plan);
  status = dist_agree(context, DIST_SITE_PLAN_GROUPS, 0, "");
  if (status != FAVOR_OK) return status;
  plan_allocate(plan);
  estimate_allocate(plan, estimates);
  if (!dist_has_failed(context)) pack_projection(plan);
  if (!dist_has_failed(context)) key_max_allocate(plan, estimates);
  blocks_watch(plan);
  return dist_agree(context, DIST_SITE_PLAN_MEMORY, 0, "");
}

enum favor_status favor_plan_create(struct favor_context *context, const struct favor_problem *problem,
                                    struct favor_plan **plan) {
  *plan = NULL;
  kernel_blas_single_thread();
  problem_check(context, problem);
  bool is_valid = !dist_has_failed(context);
  struct favor_plan *new_plan = memory_zeroed(1, sizeof *new_plan);
  if (!new_plan) dist_fail(context, FAVOR_ENOMEM, "no memory for a plan");
  uint64_t digest = DIST_DIGEST_START;
  if (is_valid) {
    digest = problem_digest(problem, kernel_find(problem->kernel, (int)problem->precision, map_rows(problem)));
  }
  enum favor_status status = dist_agree(context, DIST_SITE_PLAN_CHECK, digest, "problems, or run different kernels");
  if (status == FAVOR_OK) {
    new_plan->context = context;
    status = create(new_plan, problem);
  }
  if (status != FAVOR_OK) {
    favor_plan_destroy(&new_plan);
    return status;
  }
  favor_plan_begin(new_plan);
  *plan = new_plan;
  return FAVOR_OK;
}

void favor_plan_destroy(struct favor_plan **plan) {
  if (!*plan) return;
  blocks_end(*plan);
  for (int parity = 0; parity < 2; parity++) dist_group_destroy(&(*plan)->groups[parity]);
  estimate_free(&(*plan)->estimate);
  key_max_free(&(*plan)->key_max);
  dist_axis_destroy(&(*plan)->axis);
  plan_free(*plan);
  free(*plan);
  *plan = NULL;
}

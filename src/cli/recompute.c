#include "cli/recompute.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "cli/progress.h"
#include "dist/agree.h"
#include "dist/group.h"
#include "kernel/kernel.h"

enum { BLOCK_TILES_MOST = 64, BLOCK_BYTES = 64 << 20, PIECE = 1 << 20 };

static enum favor_status agree(const struct recompute *recompute) {
  return dist_agree(recompute->command->context, DIST_SITE_COMMAND, 0, "");
}

static void fail_memory(const struct recompute *recompute) {
  dist_fail(recompute->command->context, FAVOR_ENOMEM, "no memory to check %lld rows of %lld heads; lower %s",
            (long long)recompute->n_rows, (long long)recompute->heads, recompute->option);
}

/* ---- tensors of files ------------------------------------------------------------------------------------------- */

static void read_inputs(const struct recompute_source *source, enum recompute_tensor which, int64_t begin, int64_t end,
                        double *data) {
  static const char *const roles[] = {[RECOMPUTE_Q] = "q", [RECOMPUTE_K] = "k", [RECOMPUTE_V] = "v"};
  const struct recompute_inputs *own = (const struct recompute_inputs *)source;
  struct favor_tensor *const tensors[] = {
      [RECOMPUTE_Q] = own->inputs->q, [RECOMPUTE_K] = own->inputs->k, [RECOMPUTE_V] = own->inputs->v};
  struct favor_tensor_shape shape;
  favor_tensor_shape(tensors[which], &shape);
  const int64_t heads = shape.batch * shape.heads, tokens = end - begin, n = heads * tokens * shape.width;
  if (favor_tensor_read(tensors[which], 0, heads, begin, end, FAVOR_PRECISION_F64, data) != FAVOR_OK) return;
  if (own->precision != FAVOR_PRECISION_F64 && shape.type == FAVOR_FLOAT64) {
    for (int64_t i = 0; i < n; i++) data[i] = (float)data[i];
  }
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(data[i])) continue;
    const int64_t row = i / shape.width;
    dist_fail(own->context, FAVOR_EDATA, "%s: %s holds NaN or Inf at head %lld, token %lld", own->path, roles[which],
              (long long)(row / tokens), (long long)(begin + row % tokens));
    return;
  }
}

struct recompute_inputs recompute_inputs(struct favor_context *context, const char *path, const struct inputs *inputs,
                                         enum favor_precision precision) {
  return (struct recompute_inputs){
      .source = {.read = read_inputs}, .context = context, .path = path, .inputs = inputs, .precision = precision};
}

/* ---- the sample ------------------------------------------------------------------------------------------------- */

/* The numbers of one key head, which BLAS and MPI count in ints. */
static bool is_sample_too_large(const struct recompute *recompute) {
  const int64_t heads_per_key = recompute->heads / recompute->key_heads;
  const int64_t numbers_of_row = CHECK_MAX_SUMS * heads_per_key * (1 + recompute->problem->value_width);
  return recompute->n_rows > INT_MAX / numbers_of_row;
}

static void draw_rows(struct recompute *recompute, uint64_t seed) {
  const struct favor_problem *problem = recompute->problem;
  const size_t n_rows = (size_t)recompute->n_rows;
  int64_t *tokens = memory_zeroed(n_rows, sizeof *tokens);
  double *weights = memory_zeroed(n_rows, sizeof *weights);
  if (tokens && weights) {
    check_sample(problem->tokens, recompute->n_rows, seed, tokens, weights);
    for (int64_t i = 0; i < recompute->n_rows; i++) {
      recompute->rows[i] =
          check_row_of(tokens[i], problem->tokens, problem->segments, problem->n_segments, problem->is_causal);
      recompute->rows[i].weight = weights[i];
    }
  } else {
    fail_memory(recompute);
  }
  free(tokens);
  free(weights);
}

void recompute_draw(struct recompute *recompute, int64_t rows, uint64_t seed) {
  const struct favor_problem *problem = recompute->problem;
  struct favor_context *context = recompute->command->context;
  recompute->heads = problem->batch * problem->heads;
  recompute->key_heads = problem->batch * problem->kv_heads;
  recompute->n_rows = rows < problem->tokens ? rows : problem->tokens;
  if (is_sample_too_large(recompute)) {
    dist_fail(context, FAVOR_EUSAGE, "%s %lld of %lld heads are too many to check at once; lower %s", recompute->option,
              (long long)recompute->n_rows, (long long)recompute->heads, recompute->option);
    return;
  }
  const int64_t q_stride = recompute->heads * problem->key_width;
  recompute->rows = memory_zeroed((size_t)recompute->n_rows, sizeof *recompute->rows);
  recompute->q = memory_zeroed((size_t)recompute->n_rows, (size_t)q_stride * sizeof *recompute->q);
  if (!recompute->rows || !recompute->q) {
    fail_memory(recompute);
    return;
  }
  if (recompute->n_rows > 0) draw_rows(recompute, seed);
  for (int64_t i = 0; i < recompute->n_rows && context->rank == 0 && !dist_has_failed(context); i++) {
    const int64_t token = recompute->rows[i].token;
    recompute->source->read(recompute->source, RECOMPUTE_Q, token, token + 1, recompute->q + i * q_stride);
  }
}

/* ---- the keys --------------------------------------------------------------------------------------------------- */

/* Whole tiles: few enough for memory, enough blocks for every rank. */
static int64_t choose_block_tokens(const struct recompute *recompute) {
  const struct favor_problem *problem = recompute->problem;
  const int64_t most_bytes = recompute->most_block_bytes ? recompute->most_block_bytes : BLOCK_BYTES;
  const int64_t token_bytes =
      recompute->key_heads * (problem->key_width + problem->value_width) * (int64_t)sizeof(double);
  int64_t tiles = problem->tokens / favor_context_size(recompute->command->context) / CHECK_TILE_TOKENS;
  if (tiles > BLOCK_TILES_MOST) tiles = BLOCK_TILES_MOST;
  if (tiles > most_bytes / token_bytes / CHECK_TILE_TOKENS) tiles = most_bytes / token_bytes / CHECK_TILE_TOKENS;
  return (tiles < 1 ? 1 : tiles) * CHECK_TILE_TOKENS;
}

static enum favor_status prepare(struct recompute *recompute, const struct check_problem *definition) {
  const struct favor_problem *problem = recompute->problem;
  struct favor_context *context = recompute->command->context;
  struct check_problem check = *definition;
  check.rows = recompute->rows;
  check.n_rows = recompute->n_rows;
  check.key_heads = recompute->key_heads;
  check.heads_per_key = recompute->heads / recompute->key_heads;
  check.key_width = problem->key_width;
  check.value_width = problem->value_width;
  check.threads = recompute->threads;
  if (problem->tokens / CHECK_TILE_TOKENS >= CHECK_MOST_TILES) {
    dist_fail(context, FAVOR_EUSAGE, "%lld tokens are more than can be checked, %lld", (long long)problem->tokens,
              (long long)CHECK_MOST_TILES * CHECK_TILE_TOKENS);
    return agree(recompute);
  }
  kernel_blas_single_thread();
  recompute->block_tokens = choose_block_tokens(recompute);
  const size_t rows = (size_t)recompute->key_heads * (size_t)recompute->block_tokens;
  recompute->check = check_create(&check, recompute->q);
  recompute->k = memory_zeroed(rows, (size_t)problem->key_width * sizeof *recompute->k);
  recompute->v = memory_zeroed(rows, (size_t)problem->value_width * sizeof *recompute->v);
  if (!recompute->check || !recompute->k || !recompute->v) fail_memory(recompute);
  enum favor_status status = agree(recompute);
  if (status != FAVOR_OK) return status;
  const struct dist_group_shape shape = {
      .n_lanes = 1, .n_units = 1, .unit_rows = check_n_rows(recompute->check), .row_bytes = check_row_bytes(recompute->check)};
  dist_group_create(context, 0, &shape, FAVOR_SCAN_EXSCAN, NULL, &recompute->group);
  return FAVOR_OK; /* a failure is agreed with the keys */
}

static void absorb_block(struct recompute *recompute, int64_t begin, int64_t end) {
  const struct favor_problem *problem = recompute->problem;
  const struct recompute_source *source = recompute->source;
  if (!check_needs(recompute->check, begin, end)) return;
  source->read(source, RECOMPUTE_K, begin, end, recompute->k);
  if (dist_has_failed(recompute->command->context)) return;
  source->read(source, RECOMPUTE_V, begin, end, recompute->v);
  if (dist_has_failed(recompute->command->context)) return;
#pragma omp parallel for schedule(static, 1) num_threads(recompute->threads > 1 ? recompute->threads : 1)
  for (int64_t g = 0; g < recompute->key_heads; g++) {
    check_absorb(recompute->check, g, begin, end, recompute->k + g * (end - begin) * problem->key_width,
                 recompute->v + g * (end - begin) * problem->value_width);
  }
}

/* Blocks go round the ranks, which evens out that few rows of a causal run need late keys. */
static enum favor_status absorb_keys(struct recompute *recompute) {
  struct favor_context *context = recompute->command->context;
  const int64_t n_tokens = recompute->problem->tokens, length = recompute->block_tokens;
  const int64_t rank = favor_context_rank(context), size = favor_context_size(context);
  int64_t done = 0;
  struct progress progress;
  progress_start(&progress, recompute->command, recompute->what, "tokens", (double)n_tokens / (double)size);
  for (int64_t begin = rank * length; begin < n_tokens && !dist_has_failed(context); begin += size * length) {
    const int64_t end = n_tokens - begin < length ? n_tokens : begin + length;
    absorb_block(recompute, begin, end);
    done += end - begin;
    progress_update(&progress, (double)done);
  }
  progress_end(&progress);
  return agree(recompute);
}

static enum favor_status merge(struct recompute *recompute) {
  enum favor_status status = FAVOR_OK;
  for (int64_t g = 0; g < recompute->key_heads && status == FAVOR_OK; g++) {
    status = dist_reduce_begin(recompute->group, 0, check_n_rows(recompute->check), check_rows(recompute->check, g));
    if (status == FAVOR_OK) status = dist_group_end(recompute->group, 0);
  }
  return status;
}

enum favor_status recompute_run(struct recompute *recompute, const struct check_problem *definition) {
  const size_t q_row_bytes = (size_t)(recompute->heads * recompute->problem->key_width) * sizeof *recompute->q;
  enum favor_status status = agree(recompute);
  if (status == FAVOR_OK)
    status = dist_broadcast(recompute->command->context, recompute->q, (size_t)recompute->n_rows * q_row_bytes);
  if (status == FAVOR_OK) status = prepare(recompute, definition);
  if (status == FAVOR_OK) status = absorb_keys(recompute);
  return status == FAVOR_OK ? merge(recompute) : status;
}

/* ---- judging ---------------------------------------------------------------------------------------------------- */

enum favor_status recompute_certify(const struct recompute *recompute, double *out_rows,
                                    struct check_certificate *certificate) {
  struct favor_context *context = recompute->command->context;
  const int64_t n = recompute_out_row(recompute, recompute->n_rows, 0);
  enum favor_status status = FAVOR_OK;
  for (int64_t i = 0; i < n && status == FAVOR_OK; i += PIECE)
    status = dist_sum_double(context, out_rows + i, (int)(n - i < PIECE ? n - i : PIECE));
  if (status != FAVOR_OK) return status;
  struct check_head sum = {0}, head;
  for (int64_t h = 0; h < recompute->heads; h++) {
    check_judge(recompute->check, h, out_rows, (struct check_type){0}, &head);
    check_head_add(&sum, &head);
  }
  *certificate = check_certify(&sum, recompute->n_rows);
  return dist_broadcast(context, certificate, sizeof *certificate);
}

void recompute_release(struct recompute *recompute) {
  dist_group_destroy(&recompute->group);
  check_destroy(&recompute->check);
  free(recompute->rows);
  free(recompute->q);
  free(recompute->k);
  free(recompute->v);
}

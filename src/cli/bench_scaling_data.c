/* Arrays in memory. To draw normal deviates takes longer than to attend to them, and a run's answer can hardly be held
 * against its definition where that takes millions of keys. Hence each head has PERIOD_TOKENS rows of its own, and
 * token i has row i % PERIOD_TOKENS: a function of head and token, so that the answer is the same on any ranks. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench_scaling.h"
#include "cli/option_table.h"
#include "dist/agree.h"

enum {
  PERIOD_TOKENS = 4 * CHECK_TILE_TOKENS,
  DIGEST_STRIDE = 7 /* prime to tiles and runs, so that every place in one is looked at */
};

int64_t scaling_period_tokens(void) { return PERIOD_TOKENS; }

static int64_t n_heads(const struct favor_shard *shard) { return shard->head_end - shard->head_begin; }
static int64_t n_tokens(const struct favor_shard *shard) { return shard->token_end - shard->token_begin; }
static size_t n_rows(const struct favor_shard *shard) { return (size_t)(n_heads(shard) * n_tokens(shard)); }

int64_t scaling_shard_bytes(const struct scaling *scaling, const struct favor_shard *shard) {
  return 2 * (int64_t)n_rows(shard) * (int64_t)(scaling->data.q_row_bytes + scaling->data.v_row_bytes);
}

int64_t scaling_period_bytes(const struct scaling *scaling) {
  const struct favor_problem *problem = &scaling->points[0].problem;
  const int64_t rows = problem->batch * problem->heads * PERIOD_TOKENS;
  return 2 * rows * (int64_t)(scaling->data.q_row_bytes + scaling->data.v_row_bytes);
}

bool scaling_data_create(struct scaling *scaling) {
  struct scaling_data *data = &scaling->data;
  const struct favor_problem *problem = &scaling->points[0].problem;
  const struct bench_work work = {.heads = problem->batch * problem->heads,
                                  .tokens = PERIOD_TOKENS,
                                  .key_width = problem->key_width,
                                  .value_width = problem->value_width,
                                  .features = problem->features,
                                  .projection = problem->projection,
                                  .map = problem->map};
  size_t most_rows = 0;
  for (int i = 0; i < scaling->n_points; i++) {
    const struct scaling_point *point = &scaling->points[i];
    if (point->plan && n_rows(&point->shard) > most_rows) most_rows = n_rows(&point->shard);
  }
  data->q = memory_zeroed(most_rows, data->q_row_bytes);
  data->k = memory_zeroed(most_rows, data->q_row_bytes);
  data->v = memory_zeroed(most_rows, data->v_row_bytes);
  data->out = memory_zeroed(most_rows, data->v_row_bytes);
  const uint64_t seed = (uint64_t)options_integer(scaling->command->options, OPTION_SEED);
  return data->q && data->k && data->v && data->out &&
         bench_data_create(&work, scaling->precision, seed, &data->period);
}

void scaling_data_release(struct scaling_data *data) {
  bench_data_release(&data->period);
  free(data->q);
  free(data->k);
  free(data->v);
  free(data->out);
}

static void fill_tensor(const struct favor_shard *shard, size_t row_bytes, const void *period, void *x) {
  char *to = x;
  for (int64_t head = shard->head_begin; head < shard->head_end; head++) {
    for (int64_t token = shard->token_begin; token < shard->token_end;) {
      const int64_t place = token % PERIOD_TOKENS, left = shard->token_end - token;
      const int64_t n = PERIOD_TOKENS - place < left ? PERIOD_TOKENS - place : left;
      memcpy(to, (const char *)period + row_bytes * (size_t)(head * PERIOD_TOKENS + place), row_bytes * (size_t)n);
      to += row_bytes * (size_t)n;
      token += n;
    }
  }
}

void scaling_data_fill(struct scaling_data *data, const struct favor_shard *shard) {
  if (data->is_filled && memcmp(&data->held, shard, sizeof *shard) == 0) return;
  fill_tensor(shard, data->q_row_bytes, data->period.q, data->q);
  fill_tensor(shard, data->q_row_bytes, data->period.k, data->k);
  fill_tensor(shard, data->v_row_bytes, data->period.v, data->v);
  data->held = *shard;
  data->is_filled = true;
}

void scaling_data_spoil(struct scaling_data *data, const struct favor_shard *shard) {
  memset(data->out, 0xff, n_rows(shard) * data->v_row_bytes); /* NaN */
}

uint64_t scaling_data_digest(const struct scaling_data *data, const struct scaling_point *point) {
  const struct favor_shard *shard = &point->shard;
  const char *row = data->out;
  uint64_t sum = 0;
  for (int64_t head = shard->head_begin; head < shard->head_end; head++) {
    for (int64_t token = shard->token_begin; token < shard->token_end; token++, row += data->v_row_bytes) {
      if (token % DIGEST_STRIDE != 0 && token != point->problem.tokens - 1) continue;
      const int64_t place[] = {head, token};
      sum += dist_digest(dist_digest(DIST_DIGEST_START, place, sizeof place), row, data->v_row_bytes);
    }
  }
  return sum;
}

/* Some rows of an answer against their definition, in double (core/check.h). As tokens repeat themselves with a period,
 * the keys that a token attends to are so many whole periods and the rest of one: their sums of weights and of weighted
 * values are those of one period, so many times, and those of the rest. */
#include <stdlib.h>
#include <string.h>

#include "base/binned.h"
#include "base/memory.h"
#include "cli/bench_scaling.h"

enum { N_ROWS = 8 };

struct sample {
  struct bench_work work; /* this rank's heads */
  int64_t n_rows;
  int64_t tokens[N_ROWS], periods[N_ROWS];      /* whole ones that a row attends to */
  struct check_row whole[N_ROWS], rest[N_ROWS]; /* the keys of a period, and of what is left */
  double *q, *out;                              /* [n_rows][heads][D], [E] */
  double *projection;                           /* [M][D] */
  double *k, *v;                                /* [period][D], [E] */
  struct check *of_whole, *of_rest;
  void *power; /* two binned rows */
};

static void release(struct sample *sample) {
  check_destroy(&sample->of_whole);
  check_destroy(&sample->of_rest);
  free(sample->q);
  free(sample->out);
  free(sample->projection);
  free(sample->k);
  free(sample->v);
  free(sample->power);
}

static bool allocate(struct sample *sample) {
  const struct bench_work *work = &sample->work;
  const size_t rows = (size_t)(sample->n_rows * work->heads), period = (size_t)scaling_period_tokens();
  const size_t d = (size_t)work->key_width * sizeof(double), e = (size_t)work->value_width * sizeof(double);
  sample->q = memory_zeroed(rows, d);
  sample->out = memory_zeroed(rows, e);
  sample->projection = memory_zeroed((size_t)work->features, d);
  sample->k = memory_zeroed(period, d);
  sample->v = memory_zeroed(period, e);
  return sample->q && sample->out && sample->projection && sample->k && sample->v;
}

/* Ascending by the place in their period, as rows of a check have to be. */
static void choose_rows(const struct scaling_point *point, struct sample *sample) {
  const int64_t period = scaling_period_tokens(), begin = point->shard.token_begin;
  check_sample(point->shard.token_end - begin, sample->n_rows, 0, sample->tokens, NULL);
  for (int64_t i = 0; i < sample->n_rows; i++) {
    const int64_t token = begin + sample->tokens[i];
    int64_t j = i;
    for (; j > 0 && sample->tokens[j - 1] % period > token % period; j--) sample->tokens[j] = sample->tokens[j - 1];
    sample->tokens[j] = token;
  }
  for (int64_t i = 0; i < sample->n_rows; i++) {
    const int64_t token = sample->tokens[i];
    const int64_t n_keys = point->problem.is_causal ? token + 1 : point->problem.tokens;
    const int64_t n_rest = (n_keys - 1) % period + 1; /* never none, so that rests ascend with the rows */
    sample->periods[i] = (n_keys - n_rest) / period;
    sample->whole[i] = (struct check_row){.token = token % period, .key_end = period, .weight = 1};
    sample->rest[i] = (struct check_row){.token = token % period, .key_end = n_rest, .weight = 1};
  }
}

static void take_rows(const struct scaling *scaling, const struct scaling_point *point, struct sample *sample) {
  const struct scaling_data *data = &scaling->data;
  const int64_t heads = sample->work.heads, d = sample->work.key_width, e = sample->work.value_width;
  const int64_t n_tokens = point->shard.token_end - point->shard.token_begin;
  for (int64_t i = 0; i < sample->n_rows; i++) {
    for (int64_t h = 0; h < heads; h++) {
      const int64_t from = h * n_tokens + sample->tokens[i] - point->shard.token_begin, to = i * heads + h;
      bench_widen(scaling->precision, data->q, from * d, d, sample->q + to * d);
      bench_widen(scaling->precision, data->out, from * e, e, sample->out + to * e);
    }
  }
  bench_widen(scaling->precision, favor_plan_projection(point->plan), 0, sample->work.features * d, sample->projection);
}

static bool make_checks(struct sample *sample, const struct favor_estimates *estimates) {
  struct check_problem problem =
      bench_check_problem(&sample->work, sample->whole, sample->n_rows, sample->projection, estimates);
  sample->of_whole = check_create(&problem, sample->q);
  problem.rows = sample->rest;
  sample->of_rest = check_create(&problem, sample->q);
  if (!sample->of_whole || !sample->of_rest) return false;
  sample->power = memory_zeroed(2, check_row_bytes(sample->of_whole));
  return sample->power != NULL;
}

static void absorb(const struct scaling *scaling, const struct scaling_point *point, struct sample *sample) {
  const int64_t d = sample->work.key_width, e = sample->work.value_width, period = scaling_period_tokens();
  for (int64_t h = 0; h < sample->work.heads; h++) {
    const int64_t first = (point->shard.kv_head_begin + h) * period;
    bench_widen(scaling->precision, scaling->data.period.k, first * d, period * d, sample->k);
    bench_widen(scaling->precision, scaling->data.period.v, first * e, period * e, sample->v);
    check_absorb(sample->of_whole, h, 0, period, sample->k, sample->v);
    check_absorb(sample->of_rest, h, 0, period, sample->k, sample->v);
  }
}

/* into += from, so many times: by doubling, as times may be large. */
static void add_times(const void *from, int64_t times, size_t row_bytes, void *power, void *into) {
  char *twin = (char *)power + row_bytes;
  memcpy(power, from, row_bytes);
  for (; times > 0; times >>= 1) {
    if (times & 1) binned_merge(power, into, 1);
    memcpy(twin, power, row_bytes);
    binned_merge(twin, power, 1);
  }
}

static void add_periods(struct sample *sample) {
  const size_t row_bytes = check_row_bytes(sample->of_rest);
  const int64_t n_rows = check_n_rows(sample->of_rest);
  for (int64_t h = 0; h < sample->work.heads; h++) {
    void *whole = check_rows(sample->of_whole, h), *rest = check_rows(sample->of_rest, h);
    for (int64_t i = 0; i < n_rows; i++) {
      add_times(binned_row_at(whole, row_bytes, i), sample->periods[i % sample->n_rows], row_bytes, sample->power,
                binned_row_at(rest, row_bytes, i));
    }
  }
}

static double judge(const struct scaling *scaling, struct sample *sample) {
  double definition = 0, error = 0;
  for (int64_t h = 0; h < sample->work.heads; h++) {
    struct check_head head;
    check_judge(sample->of_rest, h, sample->out, bench_check_type(scaling->precision), &head);
    definition += (double)head.definition;
    error += (double)head.definition_error;
  }
  return check_ratio(error, definition);
}

double scaling_check(const struct scaling *scaling, const struct scaling_point *point,
                     const struct favor_estimates *estimates) {
  const struct favor_shard *shard = &point->shard;
  const int64_t n_tokens = shard->token_end - shard->token_begin;
  struct sample sample = {.work = scaling->data.period.work, .n_rows = n_tokens < N_ROWS ? n_tokens : N_ROWS};
  sample.work.heads = shard->head_end - shard->head_begin;
  if (n_tokens == 0 || sample.work.heads == 0) return 0;
  choose_rows(point, &sample);
  double error = -1;
  if (allocate(&sample)) {
    take_rows(scaling, point, &sample);
    if (make_checks(&sample, estimates)) {
      absorb(scaling, point, &sample);
      add_periods(&sample);
      error = judge(scaling, &sample);
    }
  }
  release(&sample);
  return error;
}

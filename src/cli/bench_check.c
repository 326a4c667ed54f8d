/* Arrays to compute on, and whether what came of them is right. */
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "cli/bench.h"
#include "feature/map.h"

enum { N_ROWS = 32, BLOCK_TOKENS = 2048 };

/* Standard deviation of q and k: logits of a size that trained models have. */
static const double spread = 0.5;

static double element(enum favor_precision precision, const void *x, int64_t i) {
  return precision == FAVOR_PRECISION_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

void bench_widen(enum favor_precision precision, const void *x, int64_t first, int64_t n, double *wide) {
  for (int64_t i = 0; i < n; i++) wide[i] = element(precision, x, first + i);
}

static void *draw(enum favor_precision precision, uint64_t seed, uint64_t tensor, int64_t n, double factor) {
  struct random_stream stream = random_stream(seed, RANDOM_MAKE, tensor, 0);
  void *x = memory_zeroed((size_t)n, precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float));
  for (int64_t i = 0; x && i < n; i += 2) {
    double pair[2];
    random_normal_pair(&stream, (uint64_t)i / 2, pair);
    for (int j = 0; j < 2 && i + j < n; j++) {
      if (precision == FAVOR_PRECISION_F64)
        ((double *)x)[i + j] = factor * pair[j];
      else
        ((float *)x)[i + j] = (float)(factor * pair[j]);
    }
  }
  return x;
}

bool bench_data_create(const struct bench_work *work, enum favor_precision precision, uint64_t seed,
                       struct bench_data *data) {
  const int64_t rows = work->heads * work->tokens;
  const size_t bytes = precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float);
  *data = (struct bench_data){.work = *work, .precision = precision};
  data->q = draw(precision, seed, 0, rows * work->key_width, spread);
  data->k = draw(precision, seed, 1, rows * work->key_width, spread);
  data->v = draw(precision, seed, 2, rows * work->value_width, 1);
  data->out = memory_zeroed((size_t)(rows * work->value_width), bytes);
  return data->q && data->k && data->v && data->out;
}

void bench_data_release(struct bench_data *data) {
  free(data->q);
  free(data->k);
  free(data->v);
  free(data->out);
}

double bench_most_error(enum favor_precision precision) {
  static const double most[] = {
      [FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 1e-12, [FAVOR_PRECISION_BF16] = 4e-3};
  return most[precision];
}

/* Roundings to bfloat16 make more of longer keys, and fewer features average less of them away: 2.3e-3 on D=E=64,
 * M=256, up to 4.7e-3 elsewhere. */
double bench_error_allowance(const struct bench_work *work, enum favor_precision precision) {
  enum { WIDTH = 64, FEATURES = 64 };
  const bool is_plain = work->key_width <= WIDTH && work->features >= FEATURES;
  return precision == FAVOR_PRECISION_BF16 && !is_plain ? 2 : 1;
}

struct check_type bench_check_type(enum favor_precision precision) {
  static const struct check_type types[] = {
      [FAVOR_PRECISION_F32] = {24, -126}, [FAVOR_PRECISION_F64] = {53, -1022}, [FAVOR_PRECISION_BF16] = {24, -126}};
  return types[precision];
}

struct check_problem bench_check_problem(const struct bench_work *work, const struct check_row *rows, int64_t n_rows,
                                         const double *projection, const struct favor_estimates *estimates) {
  return (struct check_problem){.rows = rows,
                                .n_rows = n_rows,
                                .key_heads = work->heads,
                                .heads_per_key = 1,
                                .key_width = work->key_width,
                                .value_width = work->value_width,
                                .definition = CHECK_FEATURES,
                                .map = work->map,
                                .eps = map_eps(work->map, -1),
                                .features = work->features,
                                .scale = 1 / sqrt((double)work->key_width),
                                .projection = projection,
                                .projections = 1,
                                .estimates = *estimates};
}

/* What a check needs besides the arrays themselves, in double. */
struct sample {
  int64_t n_rows;
  struct check_row rows[N_ROWS];
  double *q, *out;    /* [n_rows][heads][D], [E] */
  double *projection; /* [M][D] */
  double *k, *v;      /* [BLOCK_TOKENS][D], [E] */
  struct check *check;
};

static void release(struct sample *sample) {
  check_destroy(&sample->check);
  free(sample->q);
  free(sample->out);
  free(sample->projection);
  free(sample->k);
  free(sample->v);
}

static bool allocate(const struct bench_work *work, struct sample *sample) {
  const size_t rows = (size_t)(sample->n_rows * work->heads), d = (size_t)work->key_width * sizeof(double);
  const size_t e = (size_t)work->value_width * sizeof(double);
  sample->q = memory_zeroed(rows, d);
  sample->out = memory_zeroed(rows, e);
  sample->projection = memory_zeroed((size_t)work->features, d);
  sample->k = memory_zeroed(BLOCK_TOKENS, d);
  sample->v = memory_zeroed(BLOCK_TOKENS, e);
  return sample->q && sample->out && sample->projection && sample->k && sample->v;
}

static bool take(const struct bench_data *data, int64_t tokens, const void *projection,
                 const struct favor_estimates *estimates, struct sample *sample) {
  const struct bench_work *work = &data->work;
  const int64_t d = work->key_width, e = work->value_width;
  int64_t places[N_ROWS];
  sample->n_rows = tokens < N_ROWS ? tokens : N_ROWS;
  if (!allocate(work, sample)) return false;
  check_sample(tokens, sample->n_rows, 0, places, NULL);
  for (int64_t i = 0; i < sample->n_rows; i++) {
    sample->rows[i] = check_row_of(places[i], tokens, NULL, 1, work->is_causal);
    for (int64_t h = 0; h < work->heads; h++) {
      const int64_t from = h * work->tokens + places[i], to = i * work->heads + h;
      bench_widen(data->precision, data->q, from * d, d, sample->q + to * d);
      bench_widen(data->precision, data->out, from * e, e, sample->out + to * e);
    }
  }
  bench_widen(data->precision, projection, 0, work->features * d, sample->projection);
  const struct check_problem problem =
      bench_check_problem(work, sample->rows, sample->n_rows, sample->projection, estimates);
  sample->check = check_create(&problem, sample->q);
  return sample->check != NULL;
}

static void absorb(const struct bench_data *data, int64_t tokens, struct sample *sample) {
  const struct bench_work *work = &data->work;
  for (int64_t h = 0; h < work->heads; h++) {
    for (int64_t begin = 0; begin < tokens; begin += BLOCK_TOKENS) {
      const int64_t n = tokens - begin < BLOCK_TOKENS ? tokens - begin : BLOCK_TOKENS;
      const int64_t first = h * work->tokens + begin;
      bench_widen(data->precision, data->k, first * work->key_width, n * work->key_width, sample->k);
      bench_widen(data->precision, data->v, first * work->value_width, n * work->value_width, sample->v);
      check_absorb(sample->check, h, begin, begin + n, sample->k, sample->v);
    }
  }
}

double bench_check(const struct bench_data *data, int64_t tokens, const void *projection,
                   const struct favor_estimates *estimates) {
  struct sample sample = {0};
  if (!take(data, tokens, projection, estimates, &sample)) {
    release(&sample);
    return -1;
  }
  absorb(data, tokens, &sample);
  double definition = 0, error = 0;
  for (int64_t h = 0; h < data->work.heads; h++) {
    struct check_head head;
    check_judge(sample.check, h, sample.out, bench_check_type(data->precision), &head);
    definition += head.definition;
    error += head.definition_error;
  }
  release(&sample);
  return check_ratio(error, definition);
}

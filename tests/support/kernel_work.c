#include "kernel_work.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const precision_names[] = {"f32", "f64", "bf16"};
const size_t real_bytes[] = {sizeof(float), sizeof(double), sizeof(float)};
const double tolerance[] = {2e-5, 1e-13, 2e-5};
const double bf16_tolerance = 0x1p-8;

static uint64_t random_state;

double problem_uniform(void) { /* SplitMix64 */
  uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

static double normal(void) {
  return sqrt(-2 * log(1 - problem_uniform())) * cos(6.283185307179586477 * problem_uniform());
}

double real_get(int precision, const void *x, int64_t i) {
  return precision == F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

void real_set(int precision, void *x, int64_t i, double value) {
  if (precision == F64) {
    ((double *)x)[i] = value;
  } else {
    ((float *)x)[i] = (float)value;
  }
}

double real_rounded(int precision, double x) {
  if (precision == F64) return x;
  if (precision == F32 || x == 0) return (float)x;
  int exponent;
  double fraction = frexp(x, &exponent);
  return ldexp(rint(ldexp(fraction, 8)), exponent - 8);
}

struct guarded problem_rows(int precision, int64_t n, int64_t width, int64_t stride, double spread, enum side side) {
  struct guarded g = guarded_create((size_t)((n - 1) * stride + width) * real_bytes[precision], side);
  for (int64_t i = 0; i < (n - 1) * stride + width; i++)
    real_set(precision, g.data, i, real_rounded(precision, spread * normal()));
  return g;
}

struct problem problem_create(int precision, enum side side, int64_t d, int64_t e, int64_t m, int64_t signs, int64_t n,
                              double spread) {
  struct problem p = {.precision = precision,
                      .side = side,
                      .shape = {.key_width = d,
                                .value_width = e,
                                .directions = m,
                                .features = signs * m,
                                .s_stride = (e + 15) / 16 * 16},
                      .n = n,
                      .n_heads = 1 + (d + m) % 2,
                      .k_stride = d + n % 3,
                      .v_stride = e + (n + 1) % 3,
                      .is_scaled = (e + n) % 2 == 1,
                      .spread = spread};
  random_state = (uint64_t)(((precision * 300 + d) * 300 + e) * 300 + m) * 1000 + (uint64_t)n;
  p.q_head_stride = n * p.k_stride + 5;
  p.factor = pow((double)d, -0.25) / log(2);
  if (precision == BF16) p.factor = exp2(rint(log2(p.factor))); /* keys times it stay as exact */
  p.w = calloc((size_t)(m * d), sizeof *p.w);
  for (int64_t i = 0; i < m * d; i++) p.w[i] = real_rounded(precision, normal());
  p.k = problem_rows(precision, n, d, p.k_stride, spread, side);
  p.v = problem_rows(precision, n, e, p.v_stride, 1, side);
  p.q = problem_rows(precision, 1, (p.n_heads - 1) * p.q_head_stride + (n - 1) * p.k_stride + d, 0, spread, side);
  p.v_scale = problem_rows(precision, 1, e, 0, 1, side);
  p.out_scale = problem_rows(precision, 1, e, 0, 1, side);
  for (int64_t i = 0; i < e; i++) {
    real_set(precision, p.v_scale.data, i, ldexp(1, (int)(i % 5) - 2));
    real_set(precision, p.out_scale.data, i, ldexp(1, 2 - (int)(i % 5)));
  }
  p.half_norm = calloc((size_t)n, sizeof *p.half_norm);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < d; c++) p.half_norm[i] += pow(real_get(precision, p.k.data, i * p.k_stride + c), 2);
    p.half_norm[i] *= p.factor * p.factor * log(2) / 2;
  }
  return p;
}

/* Sylvester's matrix of this order, from its definition. The caller frees it. */
static double *hadamard_create(int64_t n) {
  double *h = calloc((size_t)(n * n), sizeof *h);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) h[i * n + j] = __builtin_parityll((unsigned long long)(i & j)) ? -1 : 1;
  return h;
}

/* y = x H */
static void times_hadamard(int64_t n, const double *h, const double *x, double *y) {
  for (int64_t j = 0; j < n; j++) y[j] = 0;
  for (int64_t i = 0; i < n; i++) {
    if (x[i] == 0) continue; /* all but one of them, at first */
    for (int64_t j = 0; j < n; j++) y[j] += x[i] * h[i * n + j];
  }
}

void problem_take_hadamard(struct problem *p) {
  int64_t m = p->shape.directions, d = p->shape.key_width, n = 1;
  while (n < d) n *= 2;
  int64_t n_signs = (1 + 2 * ((m + n - 1) / n)) * n;
  double *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y), *h = hadamard_create(n);
  p->shape.hadamard_width = n;
  p->signs = calloc((size_t)n_signs, sizeof *p->signs);
  p->lengths = calloc((size_t)m, sizeof *p->lengths);
  for (int64_t i = 0; i < n_signs; i++) p->signs[i] = problem_uniform() < 0.5 ? -1 : 1;
  for (int64_t r = 0; r < m; r++) {
    const double *own = p->signs + (1 + 2 * (r / n)) * n;
    p->lengths[r] = sqrt((double)n) * (0.8 + 0.4 * problem_uniform());
    for (int64_t i = 0; i < n; i++) x[i] = i == r % n;
    times_hadamard(n, h, x, y);
    for (int64_t i = 0; i < n; i++) y[i] *= own[n + i];
    times_hadamard(n, h, y, x);
    for (int64_t i = 0; i < n; i++) x[i] *= own[i];
    times_hadamard(n, h, x, y);
    for (int64_t i = 0; i < d; i++) {
      double w = p->lengths[r] * pow((double)n, -1.5) * y[i] * p->signs[i];
      p->w[r * d + i] = real_rounded(p->precision, w);
    }
  }
  free(h);
  free(x);
  free(y);
}

void problem_take_map(struct problem *p, const struct kernel_map *map, double eps) {
  p->shape.map = map;
  p->shape.features = p->shape.directions * map->features_per_direction;
  p->factor *= log(2);
  p->parameters = (struct kernel_map_parameters){.eps = eps};
  p->query_half_norm = calloc((size_t)(p->n_heads * p->n), sizeof *p->query_half_norm);
  for (int64_t i = 0; i < p->n_heads * p->n; i++) {
    int64_t row = i / p->n * p->q_head_stride + i % p->n * p->k_stride;
    for (int64_t c = 0; c < p->shape.key_width; c++) {
      p->query_half_norm[i] += pow(p->factor * real_get(p->precision, p->q.data, row + c), 2) / 2 / log(2);
    }
  }
}

void problem_destroy(struct problem *p) {
  free(p->w);
  free(p->signs);
  free(p->lengths);
  free(p->half_norm);
  free(p->query_half_norm);
  guarded_destroy(&p->k);
  guarded_destroy(&p->v);
  guarded_destroy(&p->q);
  guarded_destroy(&p->v_scale);
  guarded_destroy(&p->out_scale);
}

static struct kernel_sum sum_of(const struct work *work) {
  return (struct kernel_sum){(int32_t *)(void *)work->exponent.data, work->s.data, work->z.data, true};
}

void work_create(const struct kernel *kernel, const struct problem *p, struct work *w) {
  size_t bytes = real_bytes[p->precision], m = (size_t)p->shape.features;
  *w = (struct work){.kernel = kernel, .ops = &kernel->real[p->precision], .problem = p};
  if (!w->ops->absorb) w->ops = &kernel->real[F32]; /* the reference, which need not know how bf16 rounds */
  w->weights = guarded_create(w->ops->weights_bytes(&p->shape), p->side);
  w->scratch = guarded_create(w->ops->scratch_bytes(&p->shape), p->side);
  w->exponent = guarded_create(m * sizeof(int32_t), p->side);
  w->s = guarded_create(m * (size_t)p->shape.s_stride * bytes, p->side);
  w->z = guarded_create(m * bytes, p->side);
  w->out = guarded_create((size_t)(p->n_heads * p->n * p->shape.value_width) * bytes, p->side);
  w->is_lost = guarded_create((size_t)(p->n_heads * p->n) * sizeof(bool), p->side);
  w->half_norm = guarded_create((size_t)p->n * sizeof(double), p->side);
  memcpy(w->half_norm.data, p->half_norm, (size_t)p->n * sizeof(double));
  struct kernel_projection projection = {p->w, p->signs, p->lengths};
  w->ops->pack_weights(&p->shape, &projection, p->factor, w->weights.data);
  w->query_half_norm = guarded_create((size_t)(p->n_heads * p->n) * sizeof(double), p->side);
  if (p->shape.map) memcpy(w->query_half_norm.data, p->query_half_norm, (size_t)(p->n_heads * p->n) * sizeof(double));
  w->job = (struct kernel_job){&p->shape, w->weights.data, w->scratch.data, p->shape.map ? &p->parameters : NULL};
  w->sum = sum_of(w);
}

void work_destroy(struct work *w) {
  struct guarded *all[] = {&w->weights, &w->scratch,   &w->exponent,       &w->s, &w->z, &w->out,
                           &w->is_lost, &w->half_norm, &w->query_half_norm};
  if (w->features.data) guarded_destroy(&w->features);
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) guarded_destroy(all[i]);
}

static struct kernel_keys keys_at(const struct work *w, int64_t t, int64_t n) {
  const struct problem *p = w->problem;
  size_t bytes = real_bytes[p->precision];
  return (struct kernel_keys){.n = n,
                              .k = p->k.data + (size_t)(t * p->k_stride) * bytes,
                              .k_stride = p->k_stride,
                              .v = p->v.data + (size_t)(t * p->v_stride) * bytes,
                              .v_stride = p->v_stride,
                              .half_norm = (const double *)(const void *)w->half_norm.data + t,
                              .v_scale = p->is_scaled ? p->v_scale.data : NULL};
}

static struct kernel_queries queries_at(const struct work *w, int64_t t, int64_t n, bool *is_lost) {
  const struct problem *p = w->problem;
  size_t bytes = real_bytes[p->precision];
  return (struct kernel_queries){.n = n,
                                 .n_heads = p->n_heads,
                                 .q = p->q.data + (size_t)(t * p->k_stride) * bytes,
                                 .q_head_stride = p->q_head_stride,
                                 .q_stride = p->k_stride,
                                 .out = w->out.data + (size_t)(t * p->shape.value_width) * bytes,
                                 .out_head_stride = p->n * p->shape.value_width,
                                 .out_stride = p->shape.value_width,
                                 .out_scale = p->is_scaled ? p->out_scale.data : NULL,
                                 .half_norm = (const double *)(const void *)w->query_half_norm.data + t,
                                 .half_norm_head_stride = p->n,
                                 .is_lost = is_lost};
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t count_tiles(const struct work *w) {
  return (w->problem->n + w->kernel->tile_tokens - 1) / w->kernel->tile_tokens;
}

static struct kernel_features *features_of(const struct work *w, int64_t tile) {
  if (!w->features.data) return NULL;
  return (struct kernel_features *)(void *)(w->features.data + (size_t)tile * w->features_bytes);
}

bool work_keep(struct work *w) {
  if (!w->ops->features_bytes) return false;
  w->features_bytes = w->ops->features_bytes(&w->problem->shape);
  assert_int_equal(w->features_bytes % 64, 0);
  w->features = guarded_create((size_t)count_tiles(w) * w->features_bytes, AT_END);
  memset(w->features.data, 0xff, (size_t)count_tiles(w) * w->features_bytes);
  for (int64_t tile = 0; tile < count_tiles(w); tile++) features_of(w, tile)->n = 0;
  return true;
}

bool work_has_features(const struct work *w) {
  for (int64_t tile = 0; tile < count_tiles(w); tile++) {
    if (features_of(w, tile)->n > 0) return true;
  }
  return false;
}

void work_absorb(struct work *w, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; t += w->kernel->tile_tokens) {
    struct kernel_keys keys = keys_at(w, t, smaller(w->kernel->tile_tokens, end - t));
    keys.features = features_of(w, t / w->kernel->tile_tokens);
    w->ops->absorb(&w->job, &keys, &w->sum);
  }
}

void work_emit(struct work *w) {
  int64_t n = w->problem->n;
  for (int64_t t = 0; t < n; t += w->kernel->tile_tokens) {
    struct kernel_queries queries = queries_at(w, t, smaller(w->kernel->tile_tokens, n - t), NULL);
    w->ops->emit(&w->job, &queries, &w->sum);
  }
}

/* Memory for a sum of its own. */
struct guarded_sum {
  struct guarded exponent, s, z;
  struct kernel_sum sum;
};

static struct guarded_sum guarded_sum_create(const struct problem *p) {
  size_t bytes = real_bytes[p->precision], m = (size_t)p->shape.features;
  struct guarded_sum g = {.exponent = guarded_create(m * sizeof(int32_t), p->side),
                          .s = guarded_create(m * (size_t)p->shape.s_stride * bytes, p->side),
                          .z = guarded_create(m * bytes, p->side)};
  g.sum = (struct kernel_sum){(int32_t *)(void *)g.exponent.data, g.s.data, g.z.data, true};
  return g;
}

static void guarded_sum_destroy(struct guarded_sum *g) {
  guarded_destroy(&g->exponent);
  guarded_destroy(&g->s);
  guarded_destroy(&g->z);
}

void work_causal(struct work *w, int64_t begin, int64_t end, const struct kernel_sum *state) {
  const struct problem *p = w->problem;
  int64_t tile = w->kernel->causal_tokens;
  struct guarded_sum before = guarded_sum_create(p);
  for (int64_t t = begin; t < end; t += tile) {
    int64_t n = smaller(tile, end - t);
    struct guarded lost = guarded_create((size_t)(p->n_heads * n) * sizeof(bool), p->side);
    memset(lost.data, 1, (size_t)(p->n_heads * n) * sizeof(bool));
    struct kernel_keys keys = keys_at(w, t, n);
    keys.features = features_of(w, t / w->kernel->tile_tokens);
    keys.features_begin = t % w->kernel->tile_tokens;
    if (kernel_has_features(tile, &keys)) keys.k = keys.half_norm = NULL;
    struct kernel_queries queries = queries_at(w, t, n, (bool *)lost.data);
    w->ops->causal(&w->job, &keys, &queries, state, &w->sum, &before.sum);
    for (int64_t h = 0; h < p->n_heads; h++) {
      memcpy(w->is_lost.data + h * p->n + t, lost.data + h * n, (size_t)n * sizeof(bool));
    }
    guarded_destroy(&lost);
  }
  guarded_sum_destroy(&before);
}

const struct kernel_sum work_no_state = {.is_empty = true};

void work_causal_in_two(struct work *w, int64_t turn) {
  const struct problem *p = w->problem;
  size_t bytes = real_bytes[p->precision], m = (size_t)p->shape.features;
  work_causal(w, 0, turn, &work_no_state);
  struct guarded_sum state = guarded_sum_create(p);
  state.sum.is_empty = w->sum.is_empty;
  memcpy(state.sum.exponent, w->sum.exponent, m * sizeof(int32_t));
  memcpy(state.sum.s, w->sum.s, m * (size_t)p->shape.s_stride * bytes);
  memcpy(state.sum.z, w->sum.z, m * bytes);
  w->sum.is_empty = true;
  work_causal(w, turn, p->n, &state.sum);
  guarded_sum_destroy(&state);
}

void work_check(bool is_right, const struct work *w, const char *what, double error) {
  if (is_right) return;
  const struct problem *p = w->problem;
  fail_msg("%s %s D=%lld E=%lld M=%lld of %lld signs n=%lld: %s off by %.3g", w->kernel->name,
           precision_names[p->precision], (long long)p->shape.key_width, (long long)p->shape.value_width,
           (long long)p->shape.directions, (long long)kernel_signs(&p->shape), (long long)p->n, what, error);
}

void for_each_kernel(void (*test)(const struct kernel *kernel, int precision)) {
  for (int i = 0; kernel_at(i) != NULL; i++) {
    const struct kernel *kernel = kernel_at(i);
    for (int precision = 0; precision < N_PRECISIONS; precision++) {
      if (kernel->is_supported() && kernel->real[precision].absorb != NULL) test(kernel, precision);
    }
  }
}

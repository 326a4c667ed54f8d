#include "cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"

enum stream { STREAM_SHAPE = 1, STREAM_SEGMENTS, STREAM_Q, STREAM_K, STREAM_V };

/* The most multiply-adds of a case, so that 40 of them take seconds. */
static const double WORK_LIMIT = 1e8;

/* ---- numbers from names ------------------------------------------------------------------------------------------ */

/* The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). */
static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

uint64_t case_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  const uint64_t step = UINT64_C(0x9e3779b97f4a7c15);
  return mix(index + step * mix(stream + step * mix(seed + step)));
}

double case_deviate(uint64_t seed, uint64_t stream, uint64_t index) {
  uint64_t bits = case_bits(seed, stream, index);
  double sum = 0;
  for (int part = 0; part < 4; part++) sum += (double)(bits >> (16 * part) & 0xffff) + 0.5;
  return (sum * 0x1p-16 - 2.0) * 1.7320508075688772; /* four uniforms: mean 2, variance 1/3 */
}

/* The next number below `limit` of a case's shape. */
struct draws {
  uint64_t number, stream, index;
};

static int64_t below(struct draws *draws, int64_t limit) {
  return (int64_t)(case_bits(draws->number, draws->stream, draws->index++) % (uint64_t)limit);
}

static int64_t pick(struct draws *draws, const int64_t *from, int n) { return from[below(draws, n)]; }
#define PICK(draws, ...)                                                                                               \
  pick(draws, (const int64_t[]){__VA_ARGS__}, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

static bool can_run(int index, enum favor_precision precision) {
  return kernel_find(favor_kernel_name(index), (int)precision, NULL) != NULL;
}

uint64_t case_count_kernels(enum favor_precision precision) {
  uint64_t n = 0;
  for (int i = 0; favor_kernel_name(i) != NULL; i++) n += can_run(i, precision);
  return n;
}

const char *case_kernel(uint64_t number, enum favor_precision precision) {
  int index = 0, wanted = (int)(number % case_count_kernels(precision));
  while (!can_run(index, precision) || wanted-- > 0) index++;
  return favor_kernel_name(index);
}

double case_bf16_bound(const struct favor_problem *problem, double spread, double longest_row) {
  double scale = problem->scale == 0 ? 1 / sqrt((double)problem->key_width) : problem->scale;
  double product = spread * sqrt(scale) * longest_row; /* root mean square over tokens */
  return 0x1p-9 * sqrt(4 + 2 * product * product);
}

/* Lengths: fewer tokens than ranks, less than a run, some runs, many runs; narrow where long. */
static void draw_size(struct test_case *c, struct draws *draws) {
  struct favor_problem *problem = &c->problem;
  bool is_long = false;
  switch (below(draws, 4)) {
  case 0:
    c->length_tokens = 1 + below(draws, 12);
    break;
  case 1:
    c->length_tokens = 41 + below(draws, 360);
    break;
  case 2:
    c->length_runs = 1.5 + (double)below(draws, 1000) / 400;
    break;
  default:
    c->length_runs = 3 + (double)below(draws, 1000) / 167;
    is_long = true;
  }
  if (is_long) {
    problem->key_width = PICK(draws, 1, 7, 16, 31, 48);
    problem->value_width = PICK(draws, 1, 5, 16, 33, 40);
    problem->features = PICK(draws, 1, 17, 33, 64);
  } else {
    problem->key_width = PICK(draws, 1, 2, 3, 8, 31, 64, 65, 96, 127, 160);
    problem->value_width = PICK(draws, 1, 3, 16, 64, 77, 130);
    problem->features = PICK(draws, 1, 5, 64, 97, 128, 255, 256, 266, 266);
  }
  problem->kv_heads = PICK(draws, 1, 1, 2, 3);
  problem->heads = problem->kv_heads * PICK(draws, 1, 1, 2, 3);
  problem->batch = PICK(draws, 1, 1, 2);
}

void case_draw(uint64_t number, struct test_case *c) {
  static const double spreads[] = {0.1, 0.5, 1, 2, 4};
  struct draws draws = {.number = number, .stream = STREAM_SHAPE};
  *c = (struct test_case){.number = number, .problem = favor_problem_default()};
  struct favor_problem *problem = &c->problem;
  problem->is_causal = number % 2 == 0;
  problem->precision = number / 2 % 2 == 0 ? FAVOR_PRECISION_F32 : FAVOR_PRECISION_F64;
  problem->kernel = case_kernel(number / 4, problem->precision);
  c->spread = spreads[number % 5];
  c->segment_style = (int)(number % 3);
  draw_size(c, &draws);
  problem->projection = (enum favor_projection)PICK(&draws, FAVOR_PROJECTION_GAUSSIAN, FAVOR_PROJECTION_HADAMARD,
                                                    FAVOR_PROJECTION_ORTHOGONAL);
  problem->row_norm = below(&draws, 2) == 0 ? FAVOR_ROW_NORM_SQRT : FAVOR_ROW_NORM_CHI;
  problem->has_projection_per_head = below(&draws, 2) == 0;
  problem->seed = (uint64_t)below(&draws, INT64_MAX);
  problem->layer = (uint64_t)below(&draws, 48);
  problem->redraw = (uint64_t)below(&draws, 5);
  problem->scale = below(&draws, 4) == 0 ? 1.0 / (double)(problem->key_width + 3) : 0;
  problem->scan = (enum favor_scan)below(&draws, 4);
  problem->threads = 1 + (int)below(&draws, 2);
}

/* ---- tokens and segments ----------------------------------------------------------------------------------------- */

static int compare_int64(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Random cuts; some twice (an empty segment), some one token apart; empty segments at both ends. */
static void draw_segments(struct test_case *c, int64_t n_segments) {
  struct draws draws = {.number = c->number, .stream = STREAM_SEGMENTS};
  int64_t tokens = c->problem.tokens;
  c->segments = calloc((size_t)n_segments + 1, sizeof *c->segments);
  for (int64_t s = 1; s < n_segments; s++) {
    int64_t kind = below(&draws, 4), cut = below(&draws, tokens + 1);
    if (kind == 0) cut = c->segments[s - 1];
    if (kind == 1 && c->segments[s - 1] < tokens) cut = c->segments[s - 1] + 1;
    c->segments[s] = cut;
  }
  c->segments[n_segments] = tokens;
  if (n_segments > 6) {
    c->segments[1] = 0;
    c->segments[n_segments - 1] = tokens;
  }
  qsort(c->segments, (size_t)n_segments + 1, sizeof *c->segments, compare_int64);
  c->problem.segments = c->segments;
  c->problem.n_segments = n_segments;
}

static double work_of(const struct favor_problem *problem) {
  return (double)(problem->batch * problem->heads) * (double)problem->tokens * (double)problem->features *
         (double)(problem->key_width + problem->value_width);
}

void case_set_tokens(struct test_case *c, int64_t run_tokens) {
  struct favor_problem *problem = &c->problem;
  problem->tokens = c->length_tokens > 0 ? c->length_tokens : (int64_t)(c->length_runs * (double)run_tokens);
  if (work_of(problem) > WORK_LIMIT) problem->batch = 1;
  if (work_of(problem) > WORK_LIMIT) problem->heads = problem->kv_heads;
  if (work_of(problem) > WORK_LIMIT) problem->heads = problem->kv_heads = 1;
  problem->block_tokens = c->number % 7 == 3 ? 2 * run_tokens : 0;
  if (c->segment_style == 1) draw_segments(c, 3 + (int64_t)(c->number % 9));
  if (c->segment_style == 2) draw_segments(c, 12 + problem->tokens / 20);
}

void case_release(struct test_case *c) {
  free(c->segments);
  c->segments = NULL;
}

void case_describe(const struct test_case *c, char *text, size_t size) {
  static const char *const precisions[] = {"f32", "f64", "bf16"};
  const struct favor_problem *p = &c->problem;
  snprintf(
      text, size,
      "case %2d: %s%s %s B=%lld H=%lld G=%lld N=%lld D=%lld E=%lld M=%lld segments=%lld spread=%g %s %s%s threads=%d "
      "scan=%d %s",
      (int)c->number, p->map == FAVOR_MAP_HYPERBOLIC ? "hyperbolic " : "", p->is_causal ? "causal" : "bidirectional",
      precisions[p->precision], (long long)p->batch, (long long)p->heads, (long long)p->kv_heads, (long long)p->tokens,
      (long long)p->key_width, (long long)p->value_width, (long long)p->features,
      (long long)(p->segments ? p->n_segments : 1), c->spread,
      (const char *const[]){"orthogonal", "gaussian", "hadamard"}[p->projection],
      p->row_norm == FAVOR_ROW_NORM_CHI ? "chi" : "sqrt", p->has_projection_per_head ? " per head" : "", p->threads,
      (int)p->scan, p->kernel);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static double *filled(int64_t count, uint64_t seed, uint64_t stream, double spread) {
  double *x = calloc(count > 0 ? (size_t)count : 1, sizeof *x);
  for (int64_t i = 0; i < count; i++) x[i] = spread * case_deviate(seed, stream, (uint64_t)i);
  return x;
}

void case_tensors_create(const struct favor_problem *problem, uint64_t seed, double spread, struct case_tensors *t) {
  *t = (struct case_tensors){.heads = problem->batch * problem->heads,
                             .kv_heads = problem->batch * problem->kv_heads,
                             .tokens = problem->tokens,
                             .key_width = problem->key_width,
                             .value_width = problem->value_width};
  t->q = filled(t->heads * t->tokens * t->key_width, seed, STREAM_Q, spread);
  t->k = filled(t->kv_heads * t->tokens * t->key_width, seed, STREAM_K, spread);
  t->v = filled(t->kv_heads * t->tokens * t->value_width, seed, STREAM_V, 1.0);
  case_tensors_round(problem, t);
}

static double *sliced(const double *x, int64_t heads, int64_t tokens, int64_t width, int64_t begin, int64_t end) {
  int64_t row = (end - begin) * width;
  double *slice = calloc((size_t)(heads * row) + 1, sizeof *slice);
  for (int64_t h = 0; h < heads; h++)
    memcpy(slice + h * row, x + (h * tokens + begin) * width, (size_t)row * sizeof *slice);
  return slice;
}

void case_tensors_slice(const struct case_tensors *whole, int64_t begin, int64_t end, struct case_tensors *t) {
  *t = *whole;
  t->tokens = end - begin;
  t->q = sliced(whole->q, whole->heads, whole->tokens, whole->key_width, begin, end);
  t->k = sliced(whole->k, whole->kv_heads, whole->tokens, whole->key_width, begin, end);
  t->v = sliced(whole->v, whole->kv_heads, whole->tokens, whole->value_width, begin, end);
}

static void round_to_float(double *x, int64_t count) {
  for (int64_t i = 0; i < count; i++) x[i] = (double)(float)x[i];
}

void case_tensors_round(const struct favor_problem *problem, struct case_tensors *t) {
  if (problem->precision == FAVOR_PRECISION_F64) return;
  round_to_float(t->q, t->heads * t->tokens * t->key_width);
  round_to_float(t->k, t->kv_heads * t->tokens * t->key_width);
  round_to_float(t->v, t->kv_heads * t->tokens * t->value_width);
}

void case_tensors_destroy(struct case_tensors *t) {
  free(t->q);
  free(t->k);
  free(t->v);
  *t = (struct case_tensors){0};
}

int64_t case_kv_head(const struct favor_problem *problem, int64_t head) {
  int64_t batch = head / problem->heads, within = head % problem->heads;
  return batch * problem->kv_heads + within * problem->kv_heads / problem->heads;
}

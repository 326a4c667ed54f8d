/* Every kernel against `reference`, through its table; every array between pages that cannot be touched. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/kernel.h"

enum { F32, F64, BF16, N_PRECISIONS = KERNEL_N_PRECISIONS };
static const char *const precision_names[] = {"f32", "f64", "bf16"};
static const size_t real_bytes[] = {sizeof(float), sizeof(double), sizeof(float)};
/* Of sums against the sum of magnitudes, and of outputs against the largest value, at spread 1. */
static const double tolerance[] = {2e-5, 1e-13, 2e-5};
/* In bf16 besides: W, queries, keys and values are given so that they need no rounding; features of queries and keys,
 * rows of the state and causal weights are off by at most 2^-8 of themselves, and then by 1e-4 for the exponential, and
 * that not all of them in one direction. */
static const double bf16_tolerance = 0x1p-8;
static const double ulp_of_one[] = {0x1p-23, 0x1p-52, 0x1p-7};

/* ---- guarded arrays ---------------------------------------------------------------------------------------------- */

enum side { AT_END, AT_START, N_SIDES }; /* which end of an array touches a page that cannot be touched */

struct guarded {
  char *pages, *data;
  size_t total;
};

static struct guarded guarded_create(size_t bytes, enum side side) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page) / page * page;
  struct guarded g = {.total = inner + 2 * page};
  g.pages = mmap(NULL, g.total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(g.pages != MAP_FAILED);
  memset(g.pages, 0xff, g.total); /* NaN, wherever something is read that nobody wrote */
  assert_int_equal(mprotect(g.pages, page, PROT_NONE), 0);
  assert_int_equal(mprotect(g.pages + page + inner, page, PROT_NONE), 0);
  g.data = side == AT_START ? g.pages + page : g.pages + page + inner - bytes;
  return g;
}

static void guarded_destroy(struct guarded *g) { munmap(g->pages, g->total); }

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static uint64_t random_state;

static double uniform(void) { /* SplitMix64 */
  uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586477 * uniform()); }

static double get(int precision, const void *x, int64_t i) {
  return precision == F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

static void set(int precision, void *x, int64_t i, double value) {
  if (precision == F64) {
    ((double *)x)[i] = value;
  } else {
    ((float *)x)[i] = (float)value;
  }
}

static double rounded(int precision, double x) {
  if (precision == F64) return x;
  if (precision == F32 || x == 0) return (float)x;
  int exponent;
  double fraction = frexp(x, &exponent);
  return ldexp(rint(ldexp(fraction, 8)), exponent - 8);
}

/* Rows of normal deviates at a stride, the last ending where the array does. */
static struct guarded random_rows(int precision, int64_t n, int64_t width, int64_t stride, double spread,
                                  enum side side) {
  struct guarded g = guarded_create((size_t)((n - 1) * stride + width) * real_bytes[precision], side);
  for (int64_t i = 0; i < (n - 1) * stride + width; i++)
    set(precision, g.data, i, rounded(precision, spread * normal()));
  return g;
}

/* ---- a problem of one tile or several ---------------------------------------------------------------------------- */

struct problem {
  int precision;
  enum side side;
  struct kernel_shape shape;
  int64_t n, n_heads, k_stride, v_stride, q_head_stride;
  bool is_scaled;
  double spread;
  double *w, factor;
  double *signs, *lengths; /* NULL, or the projection is a Hadamard one */
  double *half_norm;
  struct guarded k, v, q, v_scale, out_scale;
};

/* m directions of one or both signs. */
static struct problem problem_create(int precision, enum side side, int64_t d, int64_t e, int64_t m, int64_t signs,
                                     int64_t n, double spread) {
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
  for (int64_t i = 0; i < m * d; i++) p.w[i] = rounded(precision, normal());
  p.k = random_rows(precision, n, d, p.k_stride, spread, side);
  p.v = random_rows(precision, n, e, p.v_stride, 1, side);
  p.q = random_rows(precision, 1, (p.n_heads - 1) * p.q_head_stride + (n - 1) * p.k_stride + d, 0, spread, side);
  p.v_scale = random_rows(precision, 1, e, 0, 1, side);
  p.out_scale = random_rows(precision, 1, e, 0, 1, side);
  for (int64_t i = 0; i < e; i++) {
    set(precision, p.v_scale.data, i, ldexp(1, (int)(i % 5) - 2));
    set(precision, p.out_scale.data, i, ldexp(1, 2 - (int)(i % 5)));
  }
  p.half_norm = calloc((size_t)n, sizeof *p.half_norm);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < d; c++) p.half_norm[i] += pow(get(precision, p.k.data, i * p.k_stride + c), 2);
    p.half_norm[i] *= p.factor * p.factor * log(2) / 2;
  }
  return p;
}

/* y = x H, Sylvester's H from its definition. */
static void times_hadamard(int64_t n, const double *x, double *y) {
  for (int64_t j = 0; j < n; j++) {
    y[j] = 0;
    for (int64_t i = 0; i < n; i++) y[j] += __builtin_popcountll((unsigned long long)(i & j)) % 2 == 0 ? x[i] : -x[i];
  }
}

/* Makes the projection a Hadamard one: signs and lengths, and from them W row by row as kernel.h defines it. */
static void take_hadamard(struct problem *p) {
  int64_t m = p->shape.directions, d = p->shape.key_width, n = 1;
  while (n < d) n *= 2;
  int64_t n_signs = (1 + 2 * ((m + n - 1) / n)) * n;
  double *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
  p->shape.hadamard_width = n;
  p->signs = calloc((size_t)n_signs, sizeof *p->signs);
  p->lengths = calloc((size_t)m, sizeof *p->lengths);
  for (int64_t i = 0; i < n_signs; i++) p->signs[i] = uniform() < 0.5 ? -1 : 1;
  for (int64_t r = 0; r < m; r++) {
    const double *own = p->signs + (1 + 2 * (r / n)) * n;
    p->lengths[r] = sqrt((double)n) * (0.8 + 0.4 * uniform());
    for (int64_t i = 0; i < n; i++) x[i] = i == r % n;
    times_hadamard(n, x, y);
    for (int64_t i = 0; i < n; i++) y[i] *= own[n + i];
    times_hadamard(n, y, x);
    for (int64_t i = 0; i < n; i++) x[i] *= own[i];
    times_hadamard(n, x, y);
    for (int64_t i = 0; i < d; i++) {
      double w = p->lengths[r] * pow((double)n, -1.5) * y[i] * p->signs[i];
      p->w[r * d + i] = rounded(p->precision, w);
    }
  }
  free(x);
  free(y);
}

static void problem_destroy(struct problem *p) {
  free(p->w);
  free(p->signs);
  free(p->lengths);
  free(p->half_norm);
  guarded_destroy(&p->k);
  guarded_destroy(&p->v);
  guarded_destroy(&p->q);
  guarded_destroy(&p->v_scale);
  guarded_destroy(&p->out_scale);
}

/* A kernel at work on a problem. */
struct work {
  const struct kernel *kernel;
  const struct kernel_ops *ops;
  const struct problem *problem;
  struct guarded weights, scratch, exponent, s, z, out, is_lost, half_norm;
  struct kernel_job job;
  struct kernel_sum sum;
};

static struct kernel_sum sum_of(const struct work *work) {
  return (struct kernel_sum){(int32_t *)(void *)work->exponent.data, work->s.data, work->z.data, true};
}

static void work_create(const struct kernel *kernel, const struct problem *p, struct work *w) {
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
  w->job = (struct kernel_job){&p->shape, w->weights.data, w->scratch.data};
  w->sum = sum_of(w);
}

static void work_destroy(struct work *w) {
  struct guarded *all[] = {&w->weights, &w->scratch, &w->exponent, &w->s, &w->z, &w->out, &w->is_lost, &w->half_norm};
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
                                 .is_lost = is_lost};
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Keys [begin, end) into the sum. */
static void absorb(struct work *w, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; t += w->kernel->tile_tokens) {
    struct kernel_keys keys = keys_at(w, t, smaller(w->kernel->tile_tokens, end - t));
    w->ops->absorb(&w->job, &keys, &w->sum);
  }
}

static void emit(struct work *w) {
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

/* Causal over tokens [begin, end), after those in the state and in the sum; is_lost of rows of the whole output. */
static void causal(struct work *w, int64_t begin, int64_t end, const struct kernel_sum *state) {
  const struct problem *p = w->problem;
  int64_t tile = w->kernel->causal_tokens;
  struct guarded_sum before = guarded_sum_create(p);
  for (int64_t t = begin; t < end; t += tile) {
    int64_t n = smaller(tile, end - t);
    struct guarded lost = guarded_create((size_t)(p->n_heads * n) * sizeof(bool), p->side);
    memset(lost.data, 1, (size_t)(p->n_heads * n) * sizeof(bool));
    struct kernel_keys keys = keys_at(w, t, n);
    struct kernel_queries queries = queries_at(w, t, n, (bool *)lost.data);
    w->ops->causal(&w->job, &keys, &queries, state, &w->sum, &before.sum);
    for (int64_t h = 0; h < p->n_heads; h++) {
      memcpy(w->is_lost.data + h * p->n + t, lost.data + h * n, (size_t)n * sizeof(bool));
    }
    guarded_destroy(&lost);
  }
  guarded_sum_destroy(&before);
}

static const struct kernel_sum no_state = {.is_empty = true};

/* Likewise over all tokens; from `turn` on those before it are in a state, and the sum begins anew. */
static void causal_in_two(struct work *w, int64_t turn) {
  const struct problem *p = w->problem;
  size_t bytes = real_bytes[p->precision], m = (size_t)p->shape.features;
  causal(w, 0, turn, &no_state);
  struct guarded_sum state = guarded_sum_create(p);
  state.sum.is_empty = w->sum.is_empty;
  memcpy(state.sum.exponent, w->sum.exponent, m * sizeof(int32_t));
  memcpy(state.sum.s, w->sum.s, m * (size_t)p->shape.s_stride * bytes);
  memcpy(state.sum.z, w->sum.z, m * bytes);
  w->sum.is_empty = true;
  causal(w, turn, p->n, &state.sum);
  guarded_sum_destroy(&state);
}

/* ---- comparisons ------------------------------------------------------------------------------------------------- */

static void check(bool is_right, const struct work *w, const char *what, double error) {
  if (is_right) return;
  const struct problem *p = w->problem;
  fail_msg("%s %s D=%lld E=%lld M=%lld of %lld signs n=%lld: %s off by %.3g", w->kernel->name,
           precision_names[p->precision], (long long)p->shape.key_width, (long long)p->shape.value_width,
           (long long)p->shape.directions, (long long)kernel_signs(&p->shape), (long long)p->n, what, error);
}

/* The rounding of l is an error of the feature, and l grows with the square of the spread. */
static double limit_of(const struct problem *p) {
  double limit = tolerance[p->precision] * fmax(1, p->spread * p->spread), largest = 0;
  if (p->precision != BF16) return limit;
  for (int64_t i = 0; i < p->n; i++) {
    for (int64_t e = 0; e < p->shape.value_width; e++) {
      largest = fmax(largest, fabs(get(p->precision, p->v.data, i * p->v_stride + e)));
    }
  }
  return limit + bf16_tolerance * largest;
}

static void compare_sums(const struct work *w, const struct work *reference) {
  const struct problem *p = w->problem;
  double worst = 0;
  for (int64_t r = 0; r < p->shape.features; r++) {
    int apart = w->sum.exponent[r] - reference->sum.exponent[r]; /* 1 where l rounds to the other side of a half */
    check(abs(apart) <= 1, w, "exponent", apart);
    double total = get(p->precision, reference->sum.z, r);
    double error = fabs(ldexp(get(p->precision, w->sum.z, r), apart) - total) / total;
    worst = error <= worst ? worst : error;
    for (int64_t e = 0; e < p->shape.value_width; e++) {
      int64_t i = r * p->shape.s_stride + e;
      double unit = p->is_scaled ? get(p->precision, p->v_scale.data, e) : 1;
      error =
          fabs(ldexp(get(p->precision, w->sum.s, i), apart) - get(p->precision, reference->sum.s, i)) / total / unit;
      worst = error <= worst ? worst : error;
    }
  }
  check(worst <= limit_of(p), w, "sum", worst);
}

static void compare_outputs(const struct work *w, const struct work *reference, bool is_causal) {
  const struct problem *p = w->problem;
  double worst = 0;
  for (int64_t i = 0; i < p->n_heads * p->n; i++) {
    if (is_causal && (((bool *)w->is_lost.data)[i] || ((bool *)reference->is_lost.data)[i])) continue;
    for (int64_t e = 0; e < p->shape.value_width; e++) {
      double error = fabs(get(p->precision, w->out.data, i * p->shape.value_width + e) -
                          get(p->precision, reference->out.data, i * p->shape.value_width + e));
      worst = error <= worst ? worst : error;
    }
  }
  check(worst <= limit_of(p), w, is_causal ? "causal output" : "output", worst);
}

static void check_same_sums(const struct work *a, const struct work *b) {
  const struct problem *p = a->problem;
  size_t bytes = real_bytes[p->precision];
  for (int64_t r = 0; r < p->shape.features; r++) {
    size_t s = (size_t)(r * p->shape.s_stride) * bytes, z = (size_t)r * bytes;
    bool is_same = a->sum.exponent[r] == b->sum.exponent[r] &&
                   memcmp((char *)a->sum.z + z, (char *)b->sum.z + z, bytes) == 0 &&
                   memcmp((char *)a->sum.s + s, (char *)b->sum.s + s, (size_t)p->shape.value_width * bytes) == 0;
    check(is_same, a, "bits of a sum, absorbed and causal; row", (double)r);
  }
}

/* Everything that a kernel does to a problem. */
static void compare_problem(const struct kernel *kernel, const struct problem *p) {
  struct work ours, reference, split;
  work_create(kernel, p, &ours);
  work_create(&kernel_reference, p, &reference);
  work_create(kernel, p, &split);
  absorb(&ours, 0, p->n);
  absorb(&reference, 0, p->n);
  compare_sums(&ours, &reference);
  emit(&ours);
  emit(&reference);
  compare_outputs(&ours, &reference, false);
  split.sum.is_empty = reference.sum.is_empty = true;
  causal(&split, 0, p->n, &no_state);
  causal(&reference, 0, p->n, &no_state);
  compare_outputs(&split, &reference, true);
  check_same_sums(&ours, &split);
  split.sum.is_empty = true;
  causal_in_two(&split, kernel->causal_tokens < p->n ? kernel->causal_tokens : 0);
  compare_outputs(&split, &reference, true);
  work_destroy(&ours);
  work_destroy(&reference);
  work_destroy(&split);
}

/* Calls `test` for every kernel of this machine but the reference, in all precisions. */
static void for_each_kernel(void (*test)(const struct kernel *kernel, int precision)) {
  for (int i = 0; kernel_at(i) != NULL; i++) {
    const struct kernel *kernel = kernel_at(i);
    for (int precision = 0; precision < N_PRECISIONS; precision++) {
      if (kernel->is_supported() && kernel->real[precision].absorb != NULL) test(kernel, precision);
    }
  }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static const int64_t widths[] = {1, 3, 7, 16, 17, 31, 32, 64, 65, 100, 128, 160, 192, 266};
enum { N_WIDTHS = sizeof widths / sizeof widths[0] };

static void agrees_at_every_width_of(const struct kernel *kernel, int precision) {
  for (int i = 0; i < 3 * N_WIDTHS; i++) {
    int64_t d = widths[i % N_WIDTHS], e = widths[(3 * i + 5) % N_WIDTHS], m = widths[(5 * i + i / N_WIDTHS) % N_WIDTHS];
    int64_t n = i % 4 == 0 ? kernel->tile_tokens : i % 4 == 1 ? 2 * kernel->causal_tokens + 1 : 1 + 7 * i % 60;
    for (int64_t signs = 1; signs <= 2; signs++) {
      struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, d, e, m, signs, n, 1);
      compare_problem(kernel, &p);
      problem_destroy(&p);
    }
  }
}

/* Widths of every number of stages, and blocks that M cuts, fills or does not fill. Wide tokens are kept as short as
 * those of 64: the rounding of the reference, which adds D products one by one, grows faster than that of the stages.
 */
static void agrees_at_every_hadamard_width_of(const struct kernel *kernel, int precision) {
  static const int64_t hadamard_widths[] = {1, 2, 3, 5, 8, 9, 16, 20, 32, 50, 64, 65, 128, 200, 256, 300, 600};
  enum { N = sizeof hadamard_widths / sizeof hadamard_widths[0] };
  for (int i = 0; i < 2 * N; i++) {
    int64_t d = hadamard_widths[i % N], e = widths[(3 * i + 5) % N_WIDTHS], m = widths[(5 * i + i / N) % N_WIDTHS];
    int64_t n = i % 4 == 0 ? kernel->tile_tokens : i % 4 == 1 ? 2 * kernel->causal_tokens + 1 : 1 + 7 * i % 60;
    double spread = d > 64 ? 8 / sqrt((double)d) : 1;
    struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, d, e, m, 1 + i / 2 % 2, n, spread);
    take_hadamard(&p);
    compare_problem(kernel, &p);
    problem_destroy(&p);
  }
}

static void agrees_at_every_length_of(const struct kernel *kernel, int precision) {
  for (int64_t n = 1; n <= kernel->tile_tokens; n++) {
    for (int64_t signs = 1; signs <= 2; signs++) {
      struct problem p = problem_create(precision, n % 2 ? AT_START : AT_END, 5, 19, 35, signs, n, 1);
      compare_problem(kernel, &p);
      take_hadamard(&p);
      compare_problem(kernel, &p);
      problem_destroy(&p);
    }
  }
}

/* Exponents that differ by hundreds: parts of tiles, states far away, guesses that are corrected. */
static void agrees_at_every_spread_of(const struct kernel *kernel, int precision) {
  static const double spreads[] = {0, 0.1, 2, 4, 8, 16, 64};
  for (int i = 0; i < (int)(sizeof spreads / sizeof spreads[0]); i++) {
    for (int64_t signs = 1; signs <= 2; signs++) {
      struct problem p = problem_create(precision, AT_END, 16, 33, 70, signs, 3 * kernel->tile_tokens - 5, spreads[i]);
      compare_problem(kernel, &p);
      take_hadamard(&p);
      compare_problem(kernel, &p);
      problem_destroy(&p);
    }
  }
}

/* Bits of sums and outputs that must not depend on how the tokens come. The first `cut` tokens alone, and all. */
static void compare_bits(const struct kernel *kernel, const struct problem *p, int64_t cut) {
  int64_t n = p->n;
  struct work whole, absorbed, shorter;
  work_create(kernel, p, &whole);
  work_create(kernel, p, &absorbed);
  work_create(kernel, p, &shorter);
  causal(&whole, 0, n, &no_state);
  absorb(&absorbed, 0, n);
  check_same_sums(&absorbed, &whole);
  causal(&shorter, 0, cut, &no_state);
  for (int64_t h = 0; h < p->n_heads; h++) {
    for (int64_t t = 0; t < cut; t++) {
      size_t bytes = (size_t)p->shape.value_width * real_bytes[p->precision];
      size_t at = (size_t)(h * n + t) * bytes;
      bool is_lost = ((bool *)whole.is_lost.data)[h * n + t];
      check(is_lost == ((bool *)shorter.is_lost.data)[h * n + t], &whole,
            "loss of a row, with later tokens and without;"
            " token",
            (double)t);
      check(is_lost || memcmp(whole.out.data + at, shorter.out.data + at, bytes) == 0, &whole,
            "bits of an output, with later tokens and without; token", (double)t);
      for (int64_t e = 0; e < p->shape.value_width && !is_lost; e++) {
        check(isfinite(get(p->precision, whole.out.data, (h * n + t) * p->shape.value_width + e)), &whole, "output",
              NAN);
      }
    }
  }
  work_destroy(&whole);
  work_destroy(&absorbed);
  work_destroy(&shorter);
}

/* Where the exponents are wild. */
static void keeps_its_bits_of(const struct kernel *kernel, int precision) {
  static const double spreads[] = {1, 4, 16, 64, 256};
  for (int i = 0; i < 2 * (int)(sizeof spreads / sizeof spreads[0]); i++) {
    int64_t n = kernel->tile_tokens + kernel->causal_tokens / 2 + 1;
    struct problem p = problem_create(precision, AT_END, 16, 33, 70, 1 + i % 2, n, spreads[i / 2]);
    compare_bits(kernel, &p, n - kernel->causal_tokens / 4);
    take_hadamard(&p);
    compare_bits(kernel, &p, n - kernel->causal_tokens / 4);
    problem_destroy(&p);
  }
}

enum form { DENSE, HADAMARD, N_FORMS };

/* z 2^exponent of one key whose l_r is given, and of -l_r after all those where there are two signs. Dense, l_r is the
 * sum of three numbers that no precision rounds. */
static void exponentials(const struct kernel *kernel, int precision, enum form form, int64_t m, int64_t signs,
                         const double *l, double *fraction, int32_t *exponent) {
  if (precision == BF16) form = DENSE; /* always */
  const int n_parts = form == DENSE ? 3 : 1;
  struct problem p = problem_create(precision, AT_END, n_parts, 1, m, signs, 1, 1);
  if (form == HADAMARD) {
    take_hadamard(&p);
    for (int64_t i = 0; i < 1 + 2 * m; i++) p.signs[i] = 1;
    memcpy(p.lengths, l, (size_t)m * sizeof *l);
  }
  for (int64_t i = 0; i < n_parts * m; i++) {
    int64_t r = i / n_parts, part = i % n_parts;
    double rest = l[r];
    for (int64_t before = 0; before < part; before++) rest -= p.w[r * n_parts + before];
    p.w[i] = rounded(part < n_parts - 1 ? BF16 : precision, rest);
  }
  p.factor = 1;
  for (int part = 0; part < n_parts; part++) set(precision, p.k.data, part, 1);
  p.half_norm[0] = 0;
  struct work w;
  work_create(kernel, &p, &w);
  absorb(&w, 0, 1);
  for (int64_t r = 0; r < signs * m; r++) {
    fraction[r] = get(precision, w.sum.z, r);
    exponent[r] = w.sum.exponent[r];
  }
  work_destroy(&w);
  problem_destroy(&p);
}

static void exponential_is_accurate_of(const struct kernel *kernel, int precision) {
  enum { M = 4096, N_RANGES = 6 };
  static const double ranges[N_RANGES] = {0.5, 1, 30, 900, 100000, 4000000};
  double *l = calloc(M, sizeof *l), *fraction = calloc(M, sizeof *fraction);
  int32_t *exponent = calloc(M, sizeof *exponent);
  double worst = 0;
  for (int i = 0; i < N_FORMS * N_RANGES; i++) {
    for (int r = 0; r < M; r++) {
      double x = ranges[i / N_FORMS] * (2 * uniform() - 1);
      l[r] = r % 8 == 0 ? rint(x) : precision == F64 ? x : (double)(float)x; /* bf16: in parts */
    }
    exponentials(kernel, precision, (enum form)(i % N_FORMS), M, 1, l, fraction, exponent);
    for (int r = 0; r < M; r++) {
      long double exact = exp2l((long double)l[r] - exponent[r]);
      double ulp = ulp_of_one[precision] * (exact < 1 ? 0.5 : 1), error = (double)fabsl(fraction[r] - exact) / ulp;
      if (r % 8 == 0) assert_true(fraction[r] == 1 && exponent[r] == (int32_t)l[r]);
      assert_true(l[r] - exponent[r] >= -0.5 && l[r] - exponent[r] <= 1);
      worst = error <= worst ? worst : error;
    }
  }
  printf("%s %s: exponential within %.2f ulp\n", kernel->name, precision_names[precision], worst);
  assert_true(worst <= (precision == BF16 ? 0.52 : 2));
  free(l);
  free(fraction);
  free(exponent);
}

/* 2^(x + n) has the fraction of 2^x, for x with bits to spare. */
static void exponential_knows_no_shift_of(const struct kernel *kernel, int precision) {
  enum { M = 1024 };
  double l[M], fraction[2][M];
  int32_t exponent[2][M];
  for (int form = 0; form < N_FORMS; form++) {
    for (int shift = 0; shift <= 3000; shift += 1500) {
      for (int r = 0; r < M; r++) l[r] = (r + 0.5) / M - 0.5 + shift;
      exponentials(kernel, precision, (enum form)form, M, 1, l, fraction[shift > 0], exponent[shift > 0]);
      for (int r = 0; r < M; r++) {
        assert_true(fraction[shift > 0][r] == fraction[0][r] && exponent[shift > 0][r] == exponent[0][r] + shift);
      }
    }
  }
}

/* The longest rows of W that a plan accepts with the longest token. */
static void long_exponents_are_kept_of(const struct kernel *kernel, int precision) {
  enum { M = 33 };
  double l[M], fraction[2 * M];
  int32_t exponent[2 * M];
  for (int r = 0; r < M; r++) l[r] = (r - M / 2) * 0x1p24;
  for (int form = 0; form < N_FORMS; form++) {
    exponentials(kernel, precision, (enum form)form, M, 2, l, fraction, exponent);
    for (int r = 0; r < M; r++) {
      assert_true(fraction[r] == 1 && exponent[r] == (int32_t)l[r]);
      assert_true(fraction[M + r] == 1 && exponent[M + r] == -(int32_t)l[r]);
    }
  }
}

/* Every feature of every key, of both signs: sum_j 2^(w'_r . k_j - h_j) and sum_j 2^(-w'_r . k_j - h_j). */
static void compare_with_definition(const struct work *w, double bound) {
  const struct problem *p = w->problem;
  const int64_t width = p->shape.key_width, directions = p->shape.directions;
  for (int64_t r = 0; r < p->shape.features; r++) {
    const double *row = p->w + r % directions * width;
    long double sum = 0, top = -INFINITY;
    for (int64_t j = 0; j < p->n; j++) {
      long double u = 0;
      for (int64_t d = 0; d < width; d++) {
        u += (long double)row[d] * (long double)p->factor *
             (long double)get(p->precision, p->k.data, j * p->k_stride + d);
      }
      long double l = (r < directions ? u : -u) - (long double)p->half_norm[j];
      sum += exp2l(l);
      top = fmaxl(top, l);
    }
    double fraction = (double)(top - w->sum.exponent[r]);
    check(fraction >= -0.5 - bound && fraction <= 1 + bound, w, "exponent from the definition's", fraction);
    double error = (double)fabsl(ldexpl(get(p->precision, w->sum.z, r), w->sum.exponent[r]) / sum - 1);
    check(error <= bound, w, "feature from the definition", error);
  }
}

static void features_are_those_of_the_definition_of(const struct kernel *kernel, int precision) {
  static const int64_t directions[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 64, 70, 129};
  const double bound = tolerance[precision] + (precision == BF16 ? bf16_tolerance : 0);
  for (int i = 0; i < (int)(sizeof directions / sizeof directions[0]); i++) {
    for (int64_t signs = 1; signs <= 2; signs++) {
      int64_t n = 1 + 13 * i % kernel->tile_tokens;
      struct problem p = problem_create(precision, i % 2 ? AT_START : AT_END, 5 + i, 3, directions[i], signs, n, 1);
      struct work w;
      work_create(kernel, &p, &w);
      absorb(&w, 0, n);
      compare_with_definition(&w, bound);
      work_destroy(&w);
      take_hadamard(&p);
      work_create(kernel, &p, &w);
      absorb(&w, 0, n);
      compare_with_definition(&w, bound);
      work_destroy(&w);
      problem_destroy(&p);
    }
  }
}

static void measures_of(const struct kernel *kernel, int precision) {
  const struct kernel_ops *ops = &kernel->real[precision];
  for (int i = 0; i < N_WIDTHS; i++) {
    for (int64_t n = 1; n < 12; n++) {
      int64_t width = widths[i], stride = width + n % 2;
      struct guarded x = random_rows(precision, n, width, stride, 10, n % 3 ? AT_END : AT_START);
      struct guarded norm2 = guarded_create((size_t)n * sizeof(double), AT_END);
      struct guarded peak = guarded_create((size_t)width * real_bytes[precision], AT_END);
      memset(peak.data, 0, (size_t)width * real_bytes[precision]);
      if (n == 7) set(precision, x.data, 3 * stride + width / 2, -INFINITY);
      if (n == 8) set(precision, x.data, 7 * stride + width - 1, NAN);
      ops->norms(n, width, x.data, stride, (double *)(void *)norm2.data);
      ops->peaks(n, width, x.data, stride, peak.data);
      for (int64_t t = 0; t < n; t++) {
        double sum = 0, got = ((double *)(void *)norm2.data)[t];
        for (int64_t d = 0; d < width; d++) sum += pow(get(precision, x.data, t * stride + d), 2);
        assert_true(isfinite(sum) ? fabs(got - sum) <= 1e-14 * sum : !isfinite(got));
      }
      for (int64_t d = 0; d < width; d++) {
        double highest = 0, got = get(precision, peak.data, d);
        for (int64_t t = 0; t < n; t++) {
          double magnitude = fabs(get(precision, x.data, t * stride + d));
          highest = isnan(magnitude) || magnitude > highest ? magnitude : highest;
        }
        assert_true(isnan(highest) ? isnan(got) : got == highest);
      }
      guarded_destroy(&x);
      guarded_destroy(&norm2);
      guarded_destroy(&peak);
    }
  }
}

#define TEST(name)                                                                                                     \
  static void name(void **state) {                                                                                     \
    (void)state;                                                                                                       \
    for_each_kernel(name##_of);                                                                                        \
  }
TEST(features_are_those_of_the_definition)
TEST(agrees_at_every_width)
TEST(agrees_at_every_hadamard_width)
TEST(agrees_at_every_length)
TEST(agrees_at_every_spread)
TEST(keeps_its_bits)
TEST(exponential_is_accurate)
TEST(exponential_knows_no_shift)
TEST(long_exponents_are_kept)
TEST(measures)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(measures),
      cmocka_unit_test(exponential_is_accurate),
      cmocka_unit_test(exponential_knows_no_shift),
      cmocka_unit_test(long_exponents_are_kept),
      cmocka_unit_test(features_are_those_of_the_definition),
      cmocka_unit_test(agrees_at_every_length),
      cmocka_unit_test(agrees_at_every_width),
      cmocka_unit_test(agrees_at_every_hadamard_width),
      cmocka_unit_test(agrees_at_every_spread),
      cmocka_unit_test(keeps_its_bits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

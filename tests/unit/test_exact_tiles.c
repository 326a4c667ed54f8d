/* Exact attention on tiles (core/exact.h) against sums in long double: any range of keys, millions of keys. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "core/exact.h"

enum { KEY_WIDTH = 5, VALUE_WIDTH = 3, STRIDE = 7, TILES = 16, KEYS = TILES * EXACT_TILE };

/* A tile of queries, several of keys; every row has the stride, which is longer than it is. */
struct fixture {
  struct engine engine;
  struct exact exact;
  void *q, *k, *v, *out; /* real */
  char *packed;          /* [TILES] */
  void *scratch;
  struct exact_queries queries;
  int64_t n_keys; /* the last tile may be shorter */
};

static void *draw(const struct engine *engine, uint32_t purpose, int64_t n, double spread, double mean) {
  struct random_stream stream = random_stream(1, RANDOM_MAKE, 0, purpose);
  void *x = memory_zeroed((size_t)n, engine->real_bytes);
  for (int64_t i = 0; i < n; i++) {
    double deviate;
    random_normal(&stream, (uint64_t)i, 1, &deviate);
    set_real(engine, x, i, mean + spread * deviate);
  }
  return x;
}

static void fixture_create(enum favor_precision precision, int64_t n_queries, int64_t n_keys, double spread,
                           struct fixture *f) {
  f->engine = engine_make(&kernel_reference, precision, KEY_WIDTH, VALUE_WIDTH, 1, 1, 1, 1);
  f->exact = (struct exact){.engine = &f->engine, .scale = 0.7};
  f->n_keys = n_keys;
  f->q = draw(&f->engine, 0, n_queries * STRIDE, spread, 0);
  f->k = draw(&f->engine, 1, n_keys * STRIDE, spread, 0);
  f->v = draw(&f->engine, 2, n_keys * STRIDE, 1, 1);
  f->out = memory_zeroed((size_t)(n_queries * STRIDE), f->engine.real_bytes);
  f->packed = memory_zeroed(TILES, exact_keys_bytes(&f->exact));
  f->scratch = memory_zeroed(1, exact_scratch_bytes(&f->exact));
  f->queries = (struct exact_queries){
      .n = n_queries, .q = f->q, .q_stride = STRIDE, .sums = memory_zeroed(1, exact_sums_bytes(&f->exact))};
  for (int64_t tile = 0; tile * EXACT_TILE < n_keys; tile++) {
    int64_t begin = tile * EXACT_TILE, n = n_keys - begin < EXACT_TILE ? n_keys - begin : EXACT_TILE;
    struct piece_keys keys = {.n = n,
                              .k = row_in(&f->engine, f->k, STRIDE, begin),
                              .v = row_in(&f->engine, f->v, STRIDE, begin),
                              .k_stride = STRIDE,
                              .v_stride = STRIDE};
    exact_pack(&f->exact, &keys, f->packed + exact_keys_bytes(&f->exact) * (size_t)tile);
  }
  exact_begin(&f->exact, &f->queries);
}

static void fixture_destroy(struct fixture *f) {
  free(f->q);
  free(f->k);
  free(f->v);
  free(f->out);
  free(f->packed);
  free(f->scratch);
  free(f->queries.sums);
}

/* Query i over keys [begin, end) by the definition. */
static void expect(const struct fixture *f, int64_t i, int64_t begin, int64_t end, long double *out) {
  long double weight[KEYS], most = -INFINITY, total = 0;
  for (int64_t j = begin; j < end; j++) {
    weight[j] = 0;
    for (int64_t d = 0; d < KEY_WIDTH; d++) {
      weight[j] += 0.7L * real_at(&f->engine, f->q, i * STRIDE + d) * real_at(&f->engine, f->k, j * STRIDE + d);
    }
    most = fmaxl(most, weight[j]);
  }
  for (int64_t e = 0; e < VALUE_WIDTH; e++) out[e] = 0;
  for (int64_t j = begin; j < end; j++) {
    weight[j] = expl(weight[j] - most);
    total += weight[j];
    for (int64_t e = 0; e < VALUE_WIDTH; e++) out[e] += weight[j] * real_at(&f->engine, f->v, j * STRIDE + e);
  }
  for (int64_t e = 0; e < VALUE_WIDTH && begin < end; e++) out[e] /= total;
}

/* The largest difference of an output of query i from what it should be. */
static double difference(const struct fixture *f, int64_t i, int64_t begin, int64_t end) {
  long double expected[VALUE_WIDTH];
  double worst = 0;
  expect(f, i, begin, end, expected);
  for (int64_t e = 0; e < VALUE_WIDTH; e++) {
    double apart = fabs((double)(expected[e] - real_at(&f->engine, f->out, i * STRIDE + e)));
    if (!(apart <= worst)) worst = apart;
  }
  return worst;
}

static struct exact_range cut(int64_t begin, int64_t end, int64_t tile) {
  int64_t first = begin - tile * EXACT_TILE, last = end - tile * EXACT_TILE;
  first = first < 0 ? 0 : first;
  last = last > EXACT_TILE ? EXACT_TILE : last;
  return first < last ? (struct exact_range){(int32_t)first, (int32_t)last} : (struct exact_range){0, 0};
}

/* Each query sees a window of its own, some of them nothing; of spreads that need logits in double, and that do not. */
static void any_range_of_keys(void **state) {
  (void)state;
  static const double spreads[] = {0.5, 3, 30};
  for (int i = 0; i < 6; i++) {
    enum favor_precision precision = i % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    enum { QUERIES = 61, N = 201 };
    struct fixture f;
    fixture_create(precision, QUERIES, N, spreads[i / 2], &f);
    for (int64_t tile = 0; tile * EXACT_TILE < N; tile++) {
      struct exact_range visible[QUERIES];
      for (int64_t n = 0; n < QUERIES; n++) visible[n] = cut(n % 5 * 17, n % 7 * 33 + 3, tile);
      exact_fold(&f.exact, f.packed + exact_keys_bytes(&f.exact) * (size_t)tile, &f.queries, visible, f.scratch);
    }
    exact_emit(&f.exact, &f.queries, f.out, STRIDE);
    for (int64_t n = 0; n < QUERIES; n++) {
      int64_t begin = n % 5 * 17, end = n % 7 * 33 + 3;
      double apart = difference(&f, n, begin, end > begin ? end : begin);
      assert_true(apart <= (precision == FAVOR_PRECISION_F64 ? 1e-12 : 5e-6));
    }
    fixture_destroy(&f);
  }
}

/* The same thousand keys again and again leave the mean where it is: sums do not drift over four million. */
static void sums_do_not_drift(void **state) {
  (void)state;
  enum { TURNS = 4096 };
  struct fixture f;
  fixture_create(FAVOR_PRECISION_F32, EXACT_TILE, KEYS, 0.7, &f);
  for (int64_t i = 0; i < (int64_t)TURNS * TILES; i++) {
    exact_fold(&f.exact, f.packed + exact_keys_bytes(&f.exact) * (size_t)(i % TILES), &f.queries, NULL, f.scratch);
  }
  exact_emit(&f.exact, &f.queries, f.out, STRIDE);
  for (int64_t n = 0; n < EXACT_TILE; n++) assert_true(difference(&f, n, 0, KEYS) <= 1e-6);
  fixture_destroy(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_range_of_keys),
      cmocka_unit_test(sums_do_not_drift),
  };
  return cmocka_run_group_tests_name("exact_tiles", tests, NULL, NULL);
}

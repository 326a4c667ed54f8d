/* What a map is told of each token on its way through core: half norms, keys and queries, the key head's parameters. By
 * a map of the test's own, on a projection that is the identity: a row of u is then the token x~ itself. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "core/attend.h"
#include "core/decode.h"

enum { D = 6, E = 3, HEADS = 2, N = 150 };
static const double EPS = 0.25, KEY_MAX = -3, SCALE = 0.5;

static int64_t n_keys, n_queries;

/* Tokens of queries are positive, those of keys negative. */
static void meet(const struct kernel_map_row *row, const double *u) {
  double norm2 = 0;
  for (int64_t r = 0; r < D; r++) norm2 += u[r] * u[r];
  assert_int_equal(row->directions, D);
  assert_true(fabs(row->half_norm - norm2 / 2 / log(2)) <= 1e-5 * row->half_norm);
  assert_true(row->is_query == (u[0] > 0));
  assert_true(row->parameters->eps == EPS && row->parameters->key_max == KEY_MAX);
  n_keys += !row->is_query;
  n_queries += row->is_query;
}

static void meet_f64(const struct kernel_map_row *row, double *feature, int32_t *exponent) {
  meet(row, feature);
  for (int64_t r = 0; r < D; r++) {
    feature[r] = 0.5;
    exponent[r] = 0;
  }
}

static void meet_f32(const struct kernel_map_row *row, float *feature, int32_t *exponent) {
  double u[D];
  for (int64_t r = 0; r < D; r++) u[r] = (double)feature[r];
  meet_f64(row, u, exponent);
  for (int64_t r = 0; r < D; r++) feature[r] = (float)u[r];
}

static const struct kernel_map map = {.features_per_direction = 1, .f32 = meet_f32, .f64 = meet_f64};

/* A key head of two query heads on one kernel. */
struct fixture {
  struct engine engine;
  struct worker worker;
  void *memory;
  struct head_weights weights;
  double exact[D * D];
  float q[HEADS][N][D], k[N][D], v[N][E], out[HEADS][N][E];
  struct piece_keys keys;
  struct kernel_queries queries;
};

static void setup(struct fixture *f, const struct kernel *kernel) {
  f->engine = engine_make(kernel, FAVOR_PRECISION_F32, D, E, D, 1, HEADS, SCALE);
  f->engine.shape.map = &map;
  f->memory = memory_zeroed(1, worker_bytes(&f->engine));
  assert_non_null(f->memory);
  worker_place(&f->engine, f->memory, &f->worker);
  double identity[D * D] = {0};
  for (int i = 0; i < D; i++) identity[i * D + i] = 1;
  for (int i = 0; i < D * D; i++) f->exact[i] = sqrt(SCALE) * identity[i];
  void *packed = memory_zeroed(1, f->engine.ops->weights_bytes(&f->engine.shape));
  struct kernel_projection projection = {.w = identity};
  f->engine.ops->pack_weights(&f->engine.shape, &projection, sqrt(SCALE), packed);
  f->weights =
      (struct head_weights){.packed = packed, .exact = f->exact, .parameters = {.eps = EPS, .key_max = KEY_MAX}};
  for (int i = 0; i < HEADS * N * D; i++) (&f->q[0][0][0])[i] = 0.1f + 0.01f * (float)(i * 7 % 101);
  for (int i = 0; i < N * D; i++) (&f->k[0][0])[i] = -0.1f - 0.01f * (float)(i * 11 % 97);
  for (int i = 0; i < N * E; i++) (&f->v[0][0])[i] = (float)(i % 5);
  f->keys = (struct piece_keys){.n = N, .k = f->k, .v = f->v, .k_stride = D, .v_stride = E};
  f->queries = (struct kernel_queries){.n = N,
                                       .n_heads = HEADS,
                                       .q = f->q,
                                       .q_head_stride = N * D,
                                       .q_stride = D,
                                       .out = f->out,
                                       .out_head_stride = N * E,
                                       .out_stride = E};
  n_keys = n_queries = 0;
}

static void teardown(struct fixture *f) {
  free((void *)f->weights.packed);
  free(f->memory);
}

static void tokens_are_told(void **state) {
  (void)state;
  const struct kernel *const kernels[] = {&kernel_blas, &kernel_reference};
  for (int i = 0; i < 2; i++) {
    struct fixture f;
    struct refusal refusal;
    if (!kernels[i]->is_supported()) continue;
    setup(&f, kernels[i]);
    state_clear(&f.engine, f.worker.rows);
    assert_true(attend_absorb(&f.engine, &f.worker, &f.weights, &f.keys, f.worker.rows, &refusal));
    assert_int_equal(n_keys, N);
    worker_view(&f.engine, &f.worker, f.worker.rows);
    assert_true(attend_emit(&f.engine, &f.worker, &f.weights, &f.queries, &refusal));
    assert_int_equal(n_queries, HEADS * N);
    state_clear(&f.engine, f.worker.rows);
    f.v[70][1] = 1e35f; /* cuts a tile */
    assert_true(attend_causal(&f.engine, &f.worker, &f.weights, &f.keys, &f.queries, f.worker.rows, &refusal));
    assert_true(n_keys >= 2 * N && n_queries == 2 * HEADS * N);
    teardown(&f);
  }
}

static void decoded_tokens_are_told(void **state) {
  (void)state;
  struct fixture f;
  int32_t exponent[D] = {0}, state_exponent[D];
  double fraction[D], s[D * E] = {0}, z[D] = {0}, sum[E];
  setup(&f, &kernel_reference);
  for (int r = 0; r < D; r++) state_exponent[r] = BINNED_NONE;
  struct decode_state decode = {state_exponent, s, z};
  const struct decode_features features = {fraction, exponent};
  struct refusal refusal;
  struct kernel_queries one = worker_cut_queries(&f.engine, &f.queries, 9, 1);
  struct kernel_keys key = {.n = 1, .k = f.k[9], .k_stride = D, .v = f.v[9], .v_stride = E};
  assert_true(worker_measure_keys(&f.engine, &f.worker, NULL, &key, &refusal));
  assert_true(worker_measure_queries(&f.engine, &f.worker, NULL, &one, &refusal));
  worker_norms(&f.engine, &f.worker, &one);
  decode_take(&f.engine, &f.weights, f.k[9], f.worker.half_norm[0], f.v[9], &features, &decode);
  for (int h = 0; h < HEADS; h++) {
    decode_read(&f.engine, &f.weights, f.q[h][9], one.half_norm[h * one.half_norm_head_stride], &decode, &features, sum,
                f.out[h][9]);
    for (int e = 0; e < E; e++) assert_true(f.out[h][9][e] == f.v[9][e]);
  }
  assert_true(n_keys == 1 && n_queries == HEADS);
  teardown(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokens_are_told),
      cmocka_unit_test(decoded_tokens_are_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

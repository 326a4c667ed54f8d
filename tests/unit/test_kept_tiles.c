/* Features kept between two passes of one head are found by their pass and token, and by nothing else. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "core/attend.h"

enum { D = 16, E = 5, M = 40, N = 400, N_TILES = 8 };

/* A head on one kernel, its keys, and others. */
struct fixture {
  struct engine engine;
  struct worker worker;
  void *memory;
  struct head_weights weights;
  double w[M * D];
  float q[N][D], keys[2][N][D], v[N][E], out[2][N][E];
  struct kept_tag tags[N_TILES];
  char *features;
};

static float number(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (float)(*state >> 40) / (1 << 23) - 1;
}

static void fill(uint64_t *state, int64_t n, float *x) {
  for (int64_t i = 0; i < n; i++) x[i] = number(state);
}

static void setup(struct fixture *f, const struct kernel *kernel) {
  uint64_t state = 5;
  memset(f->tags, 0, sizeof f->tags);
  f->engine = engine_make(kernel, FAVOR_PRECISION_F32, D, E, M, 1, 1, 0.25);
  f->memory = memory_zeroed(1, worker_bytes(&f->engine));
  f->features = memory_zeroed(N_TILES, f->engine.ops->features_bytes(&f->engine.shape));
  void *packed = memory_zeroed(1, f->engine.ops->weights_bytes(&f->engine.shape));
  assert_true(f->memory && f->features && packed);
  worker_place(&f->engine, f->memory, &f->worker);
  for (int i = 0; i < M * D; i++) f->w[i] = (double)number(&state);
  struct kernel_projection projection = {.w = f->w};
  f->engine.ops->pack_weights(&f->engine.shape, &projection, 0.5 / log(2), packed);
  f->weights = (struct head_weights){.packed = packed, .exact = f->w};
  fill(&state, N * D, f->q[0]);
  fill(&state, 2 * N * D, f->keys[0][0]);
  fill(&state, N * E, f->v[0]);
}

static void teardown(struct fixture *f) {
  free((void *)f->weights.packed);
  free(f->features);
  free(f->memory);
}

static struct piece_keys piece_of(struct fixture *f, int which, int64_t pass, int64_t token, int64_t n_tiles) {
  return (struct piece_keys){.n = N,
                             .k = f->keys[which],
                             .v = f->v,
                             .k_stride = D,
                             .v_stride = E,
                             .kept = {.tags = f->tags,
                                      .features = f->features,
                                      .tile_bytes = f->engine.ops->features_bytes(&f->engine.shape),
                                      .n = n_tiles,
                                      .first = {pass, token}}};
}

static void absorb(struct fixture *f, const struct piece_keys *keys) {
  struct refusal refusal;
  state_clear(&f->engine, f->worker.rows);
  assert_true(attend_absorb(&f->engine, &f->worker, &f->weights, keys, f->worker.rows, &refusal));
}

static void causal(struct fixture *f, const struct piece_keys *keys, float out[N][E]) {
  struct refusal refusal;
  const struct kernel_queries queries = {
      .n = N, .n_heads = 1, .q = f->q, .q_head_stride = N * D, .q_stride = D, .out = out, .out_stride = E};
  state_clear(&f->engine, f->worker.rows);
  assert_true(attend_causal(&f->engine, &f->worker, &f->weights, keys, &queries, f->worker.rows, &refusal));
}

/* Outputs of keys `which` of a pass from a token on, with the features of keys 0 in place as those of pass 1, token 0.
 */
static bool are_those_of(struct fixture *f, int which, int64_t pass, int64_t token, int expected) {
  struct piece_keys kept = piece_of(f, 0, 1, 0, N_TILES), keys = piece_of(f, which, pass, token, N_TILES),
                    plain = piece_of(f, expected, 0, 0, 0);
  absorb(f, &kept);
  causal(f, &keys, f->out[0]);
  causal(f, &plain, f->out[1]);
  return memcmp(f->out[0], f->out[1], sizeof f->out[0]) == 0;
}

static void found_by_pass_and_token(void **state) {
  (void)state;
  for (int i = 0; kernel_at(i); i++) {
    const struct kernel *kernel = kernel_at(i);
    const struct kernel_ops *ops = &kernel->real[FAVOR_PRECISION_F32];
    struct fixture f;
    if (!kernel->is_supported() || !ops->absorb || !ops->features_bytes) continue;
    setup(&f, kernel);
    assert_true(are_those_of(&f, 0, 1, 0, 0));
    assert_true(are_those_of(&f, 1, 1, 0, 0)); /* taken from where they are kept, whatever the keys are */
    assert_true(are_those_of(&f, 1, 2, 0, 1));
    assert_true(are_those_of(&f, 1, 1, 1, 1));
    teardown(&f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(found_by_pass_and_token)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

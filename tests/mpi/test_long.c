/* Sums do not drift: 2^25 tokens of equal weight through the step interface, in float32. A sum of ones in float32 stops
 * at 2^24. The first column of v is 1; the second is 1 in the first half only, so that a sum which stops growing shows
 * in the quotient as well: it would stay 1. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>

#include "oracle.h"
#include "run.h"

enum { M = 3, E = 2 };
static const int64_t TOKENS = INT64_C(1) << 25;

/* What column 1 is at a token: the share of tokens of the first half among those seen. */
static double expected_share(bool is_causal, int64_t token) {
  if (!is_causal) return 0.5;
  return token < TOKENS / 2 ? 1.0 : (double)(TOKENS / 2) / (double)(token + 1);
}

/* Local: runs all steps of this rank; the worst deviation of an output. */
static double stream(struct favor_plan *plan, bool is_causal, int64_t block_tokens) {
  float *zeros = calloc((size_t)block_tokens, sizeof *zeros);
  float *v = calloc((size_t)(block_tokens * E), sizeof *v), *out = calloc((size_t)(block_tokens * E), sizeof *out);
  double worst = 0;
  favor_plan_begin(plan);
  for (int64_t i = 0; i < favor_plan_n_steps(plan); i++) {
    struct favor_step step;
    favor_plan_step(plan, i, &step);
    int64_t n = step.needs ? step.token_end - step.token_begin : 0;
    for (int64_t j = 0; j < n; j++) {
      v[j * E] = 1;
      v[j * E + 1] = step.token_begin + j < TOKENS / 2;
    }
    const struct favor_input x = {zeros, n, 1}, values = {v, n * E, E};
    const struct favor_output outputs = {out, n * E, E};
    (void)favor_plan_run_step(plan, i, &x, &x, &values, &outputs); /* the end tells */
    for (int64_t j = 0; j < n && step.needs & FAVOR_NEEDS_OUT; j++) {
      double share = expected_share(is_causal, step.token_begin + j);
      worst = oracle_worse(worst, oracle_worse(fabs(out[j * E] - 1.0), fabs(out[j * E + 1] - share)));
    }
  }
  free(out);
  free(v);
  free(zeros);
  return worst;
}

/* Every key has phi = M^-1/2, so K' = 1 at the exponent 0: z is the number of tokens, exactly. */
static bool normaliser_counts_tokens(const struct favor_plan *plan, int64_t n_tokens) {
  int32_t exponent[M];
  double s[M * E], z[M];
  char *bytes = calloc(favor_plan_export_bytes(plan), 1);
  bool is_right = favor_plan_export_state(plan, FAVOR_STATE_FINAL, 0, bytes) == FAVOR_OK;
  favor_state_decode(bytes, exponent, s, z);
  for (int r = 0; r < M && is_right; r++) {
    double first_half = (double)(n_tokens < TOKENS / 2 ? n_tokens : TOKENS / 2);
    is_right = ldexp(z[r], exponent[r]) == (double)n_tokens && ldexp(s[r * E], exponent[r]) == (double)n_tokens &&
               ldexp(s[r * E + 1], exponent[r]) == first_half;
  }
  free(bytes);
  return is_right;
}

static void equal_weights(bool is_causal) {
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = favor_problem_default();
  problem.is_causal = is_causal;
  problem.tokens = TOKENS;
  problem.key_width = 1;
  problem.value_width = E;
  problem.features = M;
  problem.block_tokens = 1 << 16;
  struct favor_plan *plan = NULL;
  struct favor_plan_info info;
  struct favor_shard shard;
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  favor_plan_info(plan, &info);
  favor_plan_shard(plan, &shard);
  double worst = stream(plan, is_causal, info.block_tokens);
  assert_all(favor_plan_end(plan) == FAVOR_OK);
  bool is_counted =
      shard.token_begin == shard.token_end || normaliser_counts_tokens(plan, is_causal ? shard.token_end : TOKENS);
  run_print("%s: worst output of rank 0 off by %.2g\n", is_causal ? "causal" : "bidirectional", worst);
  favor_plan_destroy(&plan);
  run_contexts_close(&contexts);
  assert_all(worst <= 1e-6);
  assert_all(is_counted);
}

static void equal_weights_bidirectional(void **state) {
  (void)state;
  equal_weights(false);
}

static void equal_weights_causal(void **state) {
  (void)state;
  equal_weights(true);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {mpi_unit_test(equal_weights_bidirectional), mpi_unit_test(equal_weights_causal)};
  return mpi_cmocka_main(&argc, &argv, "long", tests, sizeof tests / sizeof tests[0]);
}

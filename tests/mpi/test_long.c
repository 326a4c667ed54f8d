/* Sums do not drift: 2^25 tokens of equal weight through the block interface, in float32. A sum of ones in float32
 * stops at 2^24. The first column of v is 1; the second is 1 in the first half only, so that a sum which stops growing
 * shows in the quotient as well: it would stay 1. */
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

/* Runs all blocks; the worst deviation of an output of this rank. */
static double stream(struct favor_plan *plan, bool is_causal, int64_t block_tokens) {
  float *zeros = calloc((size_t)block_tokens, sizeof *zeros);
  float *v = calloc((size_t)(block_tokens * E), sizeof *v), *out = calloc((size_t)(block_tokens * E), sizeof *out);
  double worst = 0;
  favor_plan_begin(plan);
  for (int64_t i = 0; i < favor_plan_n_blocks(plan); i++) {
    struct favor_block block;
    favor_plan_block(plan, i, &block);
    int64_t n = block.token_end - block.token_begin;
    for (int64_t j = 0; j < n; j++) {
      v[j * E] = 1;
      v[j * E + 1] = block.token_begin + j < TOKENS / 2;
    }
    const struct favor_input x = {zeros, n, 1}, values = {v, n * E, E};
    const struct favor_output outputs = {out, n * E, E};
    if (favor_plan_run_block(plan, i, &x, &x, &values, &outputs) != FAVOR_OK) break; /* the end tells */
    for (int64_t j = 0; j < n && block.needs & FAVOR_NEEDS_OUT; j++) {
      double share = expected_share(is_causal, block.token_begin + j);
      worst = oracle_worse(worst, oracle_worse(fabs(out[j * E] - 1.0), fabs(out[j * E + 1] - share)));
    }
  }
  free(out);
  free(v);
  free(zeros);
  return worst;
}

/* Every key has phi = M^-1/2, so K' = 1 at the exponent 0: z is the number of tokens absorbed, exactly. Here after the
 * first tokens, a whole number of runs. */
static bool normaliser_counts_tokens(const struct favor_plan *plan, const struct favor_saved *saved) {
  int32_t exponent[M];
  double s[M * E], z[M];
  const double n_tokens = (double)saved->position.tokens_absorbed, half = (double)(TOKENS / 2);
  if (saved->kv_head_begin == saved->kv_head_end) return true;
  char *bytes = calloc(favor_plan_export_bytes(plan), 1);
  bool is_right = favor_plan_export_state(plan, FAVOR_STATE_SAVED, 0, bytes) == FAVOR_OK;
  favor_state_decode(bytes, exponent, s, z);
  for (int r = 0; r < M && is_right; r++) {
    is_right = ldexp(z[r], exponent[r]) == n_tokens && ldexp(s[r * E], exponent[r]) == n_tokens &&
               ldexp(s[r * E + 1], exponent[r]) == (n_tokens < half ? n_tokens : half);
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
  problem.is_streamed = true;
  struct favor_plan *plan = NULL;
  struct favor_plan_info info;
  struct favor_saved saved;
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  favor_plan_info(plan, &info);
  double worst = stream(plan, is_causal, info.block_tokens);
  assert_all(favor_plan_save(plan, &saved) == FAVOR_OK);
  bool is_counted = normaliser_counts_tokens(plan, &saved);
  assert_all(favor_plan_end(plan) == FAVOR_OK);
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

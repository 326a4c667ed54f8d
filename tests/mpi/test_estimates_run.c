/* Key shift, balance and oprf in runs: the same bits however the work is shared out, given estimates and the past,
 * inputs that say little, and inputs that are refused. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "estimates.h"

/* ---- the library against the oracle ------------------------------------------------------------------------------ */

/* The error of the worst head; heads are shared out over the ranks. Collective. */
static double worst_head_error(const struct favor_problem *problem, const struct favor_plan *plan,
                               const struct favor_estimates *estimates, const struct case_tensors *t, const void *out) {
  const int64_t count = t->tokens * t->value_width;
  double *expected = calloc((size_t)count + 1, sizeof *expected), *got = calloc((size_t)count + 1, sizeof *got);
  double worst = 0;
  for (int64_t h = mpi_rank(); h < t->heads; h += mpi_size()) {
    double *projection = run_projection_of_head(plan, problem, h);
    const struct oracle_head head = estimates_head(problem, t, projection);
    const int64_t kv = case_kv_head(problem, h);
    const struct oracle_move move = estimates_move(problem, estimates, kv);
    oracle_moved_attend(&head, &move, case_query(t, h, 0), case_key(t, kv, 0), case_value(t, kv, 0), expected);
    for (int64_t i = 0; i < count; i++) got[i] = run_element(problem, out, h * count + i);
    worst = oracle_worse(worst, oracle_relative_error(got, expected, count));
    free(projection);
  }
  free(expected);
  free(got);
  MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

/* A case on all ranks: against the oracle, and estimates and outputs against those of a rank alone. */
static double error_of_case(const struct run_contexts *contexts, const struct test_case *c) {
  const struct favor_problem *problem = &c->problem;
  struct case_tensors t;
  case_tensors_create(problem, c->number, c->spread, &t);
  estimates_make_anisotropic(problem, 0.3 * c->spread, &t);
  const size_t bytes = run_out_bytes(problem);
  void *out = malloc(bytes + 1), *alone = malloc(bytes + 1);
  struct estimates_owned owned;
  struct favor_plan *plan = NULL;
  assert_all(estimates_alone(contexts, problem, &t, alone, &owned));
  enum run_mode mode = c->number % 3 ? RUN_EXECUTE : RUN_BLOCKS;
  struct favor_problem way = *problem;
  run_set_mode(&way, mode);
  enum favor_status status = favor_plan_create(contexts->world, &way, &plan);
  if (status == FAVOR_OK) status = run_plan(plan, problem, &t, mode, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(status == FAVOR_OK);
  assert_all(estimates_are_same(problem, plan, &owned));
  run_gather(MPI_COMM_WORLD, out, bytes);
  assert_all(memcmp(out, alone, bytes) == 0);
  const double error = worst_head_error(problem, plan, &owned.estimates, &t, out);
  favor_plan_destroy(&plan);
  estimates_release(&owned);
  free(out);
  free(alone);
  case_tensors_destroy(&t);
  return error;
}

static void the_library_agrees_with_the_oracle(void **state) {
  (void)state;
  static const double bound[] = {[FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 2e-12};
  struct run_contexts contexts = run_contexts_open();
  double worst[2] = {0};
  for (uint64_t number = 0; number < 4 * (ESTIMATES_N_COMBINATIONS - 1); number++) {
    /* Of each four, which differ in mode and precision, two opposite ones. */
    if ((number % 4 == 0 || number % 4 == 3) != (number / 4 % 2 == 0)) continue;
    struct test_case c;
    case_draw(number, &c);
    estimates_combine(&estimates_combinations[1 + number / 4], &c.problem);
    if (c.problem.key_width > 64) c.problem.key_width = 47; /* the oracle multiplies whole matrices */
    case_set_tokens(&c, run_tokens_of(contexts.self, &c.problem));
    const double error = error_of_case(&contexts, &c);
    if (!(error <= bound[c.problem.precision])) {
      char text[256];
      case_describe(&c, text, sizeof text);
      run_print("%s, %s: error %.3g\n", estimates_combinations[1 + number / 4].name, text, error);
    }
    worst[c.problem.precision] = oracle_worse(worst[c.problem.precision], error);
    case_release(&c);
  }
  run_print("library against oracle: worst head %.3g in f32, %.3g in f64\n", worst[0], worst[1]);
  run_contexts_close(&contexts);
  assert_all(worst[FAVOR_PRECISION_F32] <= bound[FAVOR_PRECISION_F32]);
  assert_all(worst[FAVOR_PRECISION_F64] <= bound[FAVOR_PRECISION_F64]);
}

/* bf16 within its bound, where tokens are balanced and so about as long as the isotropic ones that it is stated for. */
static void bf16_agrees_with_the_oracle(void **state) {
  (void)state;
  if (case_count_kernels(FAVOR_PRECISION_BF16) == 0) return;
  struct run_contexts contexts = run_contexts_open();
  double worst = 0;
  for (uint64_t number = 0; number < 2 * ESTIMATES_N_COMBINATIONS; number++) {
    const struct combination *combination = &estimates_combinations[number / 2];
    struct test_case c = {.number = number, .problem = favor_problem_default(), .spread = 0.5};
    c.problem.precision = FAVOR_PRECISION_BF16;
    c.problem.is_causal = number % 2 == 0;
    c.problem.tokens = 700;
    c.problem.key_width = 48;
    estimates_combine(combination, &c.problem);
    if (combination->key_shift != FAVOR_KEY_SHIFT_MEAN || combination->balance == FAVOR_BALANCE_NONE) continue;
    const double error = error_of_case(&contexts, &c), share = error / case_bf16_bound(&c.problem, 0.5, 2 * sqrt(48));
    if (!(share <= 1)) run_print("%s: error %.3g, %.3g of its bound\n", combination->name, error, share);
    worst = oracle_worse(worst, share);
  }
  run_print("bf16 against oracle: worst head %.3g of its bound\n", worst);
  run_contexts_close(&contexts);
  assert_all(worst <= 1);
}

/* ---- the same bits ----------------------------------------------------------------------------------------------- */

/* One problem on all ranks against `alone`: estimates and outputs. */
static void assert_same(const struct run_contexts *contexts, const struct favor_problem *problem,
                        const struct case_tensors *t, enum run_mode mode, const struct estimates_owned *owned,
                        const void *alone) {
  const size_t bytes = run_out_bytes(problem);
  void *out = malloc(bytes);
  struct favor_plan *plan = NULL;
  struct favor_problem way = *problem;
  run_set_mode(&way, mode);
  assert_all(favor_plan_create(contexts->world, &way, &plan) == FAVOR_OK);
  for (int run = 0; run < (problem->threads == 1 ? 2 : 1); run++) { /* a second one measures anew */
    assert_all(run_plan(plan, problem, t, mode, out) == FAVOR_OK);
    assert_all(estimates_are_same(problem, plan, owned));
    run_gather(MPI_COMM_WORLD, out, bytes);
    assert_all(memcmp(out, alone, bytes) == 0);
  }
  favor_plan_destroy(&plan);
  free(out);
}

/* Several runs of tokens; keys whose squares span 2^40, where sums in another order would differ. */
static void the_same_bits(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < 4; number++) {
    struct favor_problem problem = estimates_small_problem();
    problem.precision = number % 2 ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
    problem.is_causal = number / 2;
    problem.features = 16;
    estimates_combine(&estimates_combinations[ESTIMATES_N_COMBINATIONS - 1 - number % 2], &problem);
    const int64_t run_tokens = run_tokens_of(contexts.self, &problem);
    problem.tokens = 5 * run_tokens + 17;
    const int64_t segments[] = {0, run_tokens / 3, run_tokens / 3, 3 * run_tokens, problem.tokens};
    problem.segments = segments;
    problem.n_segments = 4;
    problem.threads = 1;
    struct case_tensors t;
    struct estimates_owned owned;
    case_tensors_create(&problem, (uint64_t)number, 0.5, &t);
    for (int64_t i = 0; i < t.kv_heads * t.tokens * t.key_width; i++) t.k[i] *= exp2((double)(i / 12 % 21 - 20));
    estimates_make_anisotropic(&problem, 0.5, &t);
    void *alone = malloc(run_out_bytes(&problem));
    assert_all(estimates_alone(&contexts, &problem, &t, alone, &owned));
    for (int threads = 1; threads <= 2; threads++) {
      for (int64_t heads = 1; heads <= 2; heads++) {
        if (heads > mpi_size()) continue;
        problem.threads = threads;
        problem.grid_heads = heads;
        problem.grid_tokens = mpi_size() / heads;
        problem.block_tokens = threads == 2 ? 2 * run_tokens : 0;
        assert_same(&contexts, &problem, &t, threads == 2 ? RUN_BLOCKS : RUN_EXECUTE, &owned, alone);
      }
    }
    /* Given, they take no pass of their own and give the same. */
    problem.estimates = &owned.estimates;
    problem.block_tokens = 0;
    struct favor_plan *plan = NULL;
    struct favor_block block;
    struct favor_plan_info info;
    assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
    favor_plan_info(plan, &info);
    assert_all(info.is_strictly_causal == problem.is_causal);
    assert_all(favor_plan_n_blocks(plan) == 1);
    favor_plan_block(plan, 0, &block);
    assert_all(block.after.tokens_emitted == problem.tokens);
    favor_plan_destroy(&plan);
    assert_same(&contexts, &problem, &t, RUN_EXECUTE, &owned, alone);
    /* So do those of which one part is given, and the other follows from the same data and it. */
    struct favor_estimates part = {.balance = owned.balance, .key_shift = owned.key_shift};
    problem.estimates = &part;
    assert_same(&contexts, &problem, &t, RUN_EXECUTE, &owned, alone);
    free(alone);
    estimates_release(&owned);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* What is given leaves the past alone: other last tokens change no earlier output. */
static void given_estimates_are_strictly_causal(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = estimates_small_problem();
  problem.is_causal = true;
  estimates_combine(&estimates_combinations[ESTIMATES_N_COMBINATIONS - 1], &problem);
  struct case_tensors t;
  struct estimates_owned owned;
  case_tensors_create(&problem, 3, 0.5, &t);
  estimates_make_anisotropic(&problem, 0.5, &t);
  const size_t bytes = run_out_bytes(&problem);
  void *before = malloc(bytes), *after = malloc(bytes);
  assert_all(estimates_alone(&contexts, &problem, &t, before, &owned));
  struct favor_plan_info info;
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK);
  favor_plan_info(plan, &info);
  assert_all(!info.is_strictly_causal);
  favor_plan_destroy(&plan);
  for (int64_t g = 0; g < t.kv_heads; g++) {
    for (int64_t d = 0; d < t.key_width; d++) case_key(&t, g, t.tokens - 1)[d] *= -3;
  }
  problem.estimates = &owned.estimates;
  assert_all(run_problem(contexts.self, &problem, &t, RUN_EXECUTE, after) == FAVOR_OK);
  bool is_same = true, is_last_same = true;
  for (int64_t h = 0; h < t.heads; h++) {
    const size_t row = (size_t)t.value_width * sizeof(double), at = (size_t)(h * t.tokens) * row;
    const size_t past = (size_t)(t.tokens - 1) * row;
    is_same = is_same && memcmp((char *)before + at, (char *)after + at, past) == 0;
    is_last_same = is_last_same && memcmp((char *)before + at + past, (char *)after + at + past, row) == 0;
  }
  assert_all(is_same && !is_last_same);
  free(before);
  free(after);
  estimates_release(&owned);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

/* ---- what is hard, and what is refused --------------------------------------------------------------------------- */

enum degeneracy {
  KEYS_ALIKE,
  NO_QUERIES,
  ALL_ZERO,
  ONE_COLUMN,
  ONE_TOKEN,
  NO_TOKEN,
  ONE_WIDE,
  FAR_AWAY,
  N_DEGENERACIES
};

static void degenerate(enum degeneracy kind, struct case_tensors *t) {
  for (int64_t i = 0; i < t->heads * t->tokens * t->key_width; i++) {
    if (kind == NO_QUERIES || kind == ALL_ZERO || (kind == ONE_COLUMN && i % t->key_width != 0)) t->q[i] = 0;
  }
  for (int64_t i = 0; i < t->kv_heads * t->tokens * t->key_width; i++) {
    if (kind == KEYS_ALIKE) t->k[i] = 3.7 * (double)(i % t->key_width);
    if (kind == ALL_ZERO || (kind == ONE_COLUMN && i % t->key_width != 1)) t->k[i] = 0;
    if (kind == FAR_AWAY) t->k[i] += 1e5;
  }
}

/* Whether the estimates of this rank's key heads are numbers. */
static bool has_finite_estimates(const struct favor_problem *problem, const struct favor_plan *plan) {
  struct favor_shard shard;
  struct favor_estimates own;
  favor_plan_shard(plan, &shard);
  if (favor_plan_estimates(plan, &own) != FAVOR_OK) return false;
  const int64_t heads = shard.kv_head_end - shard.kv_head_begin;
  const int64_t counts[] = {problem->key_width, estimates_balance_count(problem), 1};
  const double *const values[] = {own.key_shift, own.balance, own.oprf_a};
  bool is_finite = true;
  for (int k = 0; k < 3; k++)
    for (int64_t i = 0; values[k] && i < heads * counts[k]; i++) is_finite = is_finite && isfinite(values[k][i]);
  return is_finite;
}

/* Finite outputs, no larger than the values. */
static void degenerate_inputs_stay_finite(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int number = 0; number < N_DEGENERACIES * ESTIMATES_N_COMBINATIONS; number++) {
    const enum degeneracy kind = (enum degeneracy)(number % N_DEGENERACIES);
    const struct combination *combination = &estimates_combinations[number / N_DEGENERACIES];
    struct favor_problem problem = estimates_small_problem();
    problem.precision = (number + number / N_DEGENERACIES) % 2 ? FAVOR_PRECISION_F32 : FAVOR_PRECISION_F64;
    problem.is_causal = number % 3 == 0;
    problem.tokens = kind == NO_TOKEN ? 0 : kind == ONE_TOKEN ? 1 : 20;
    if (kind == ONE_WIDE) problem.key_width = 1;
    estimates_combine(combination, &problem);
    if (kind == FAR_AWAY && problem.key_shift == FAVOR_KEY_SHIFT_NONE) continue; /* such keys are too long */
    struct case_tensors t;
    struct favor_plan *plan = NULL;
    case_tensors_create(&problem, (uint64_t)number, 0.5, &t);
    degenerate(kind, &t);
    case_tensors_round(&problem, &t);
    void *out = malloc(run_out_bytes(&problem) + 1);
    bool is_right = favor_plan_create(contexts.world, &problem, &plan) == FAVOR_OK &&
                    run_plan(plan, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK && has_finite_estimates(&problem, plan);
    for (int64_t i = 0; i < t.heads * t.tokens * t.value_width && is_right; i++)
      is_right = fabs(run_element(&problem, out, i)) < 4;
    if (!is_right) run_print("degenerate inputs %d, %s\n", (int)kind, combination->name);
    assert_all(is_right);
    favor_plan_destroy(&plan);
    free(out);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* The problem on all ranks ends with this status, and a message that says this. */
static void assert_refused(const struct run_contexts *contexts, const struct favor_problem *problem,
                           const struct case_tensors *t, enum favor_status expected, const char *text) {
  void *out = malloc(run_out_bytes(problem));
  const enum favor_status status = run_problem(contexts->world, problem, t, RUN_EXECUTE, out);
  const char *message = favor_context_message(contexts->world);
  if (status != expected || !strstr(message, text)) run_print("%d, '%s', not '%s'\n", (int)status, message, text);
  assert_all(status == expected && strstr(message, text) != NULL);
  free(out);
}

static void wrong_inputs_are_refused_by_name(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = estimates_small_problem();
  struct case_tensors t;
  case_tensors_create(&problem, 1, 0.5, &t);
  problem.map = FAVOR_MAP_OPRF;
  assert_refused(&contexts, &problem, &t, FAVOR_EUSAGE, "use row norm chi");
  estimates_combine(&estimates_combinations[ESTIMATES_N_COMBINATIONS - 1], &problem);
  double *balance = calloc((size_t)(2 * 12 * 12), sizeof *balance);
  problem.estimates = &(struct favor_estimates){.balance = balance};
  assert_refused(&contexts, &problem, &t, FAVOR_EINTERNAL, "balance of key head 0");
  double shift[24] = {0}, a[2] = {0, 0};
  problem.estimates = &(struct favor_estimates){.balance = balance, .key_shift = shift, .oprf_a = a};
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "the balance of key head 0 is singular");
  a[1] = 0.2;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "key head 1 is 0.2: the A of oprf must be finite and below 1/8");
  shift[13] = NAN;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "number 1 of key head 1 is nan");
  problem.estimates = NULL;
  case_query(&t, 3, 77)[2] = NAN;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "NaN in q, head 3, token 77");
  case_query(&t, 3, 77)[2] = 0;
  case_key(&t, 1, 300)[11] = INFINITY;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "Inf in k, head 1, token 300");
  shift[13] = a[1] = 0;
  for (int i = 0; i < 2 * 12; i++) balance[i / 12 * 144 + i % 12 * 13] = 1;
  problem.estimates = &(struct favor_estimates){.balance = balance, .key_shift = shift, .oprf_a = a};
  case_key(&t, 1, 300)[11] = 1e6;
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "k of head 1, token 300 is too long once it is shifted");
  problem.estimates = NULL;
  case_key(&t, 1, 300)[11] = 1e200; /* whose square is no number to add up */
  assert_refused(&contexts, &problem, &t, FAVOR_EDATA, "k of head 1, token 300 is too long");
  free(balance);
  case_tensors_destroy(&t);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(the_library_agrees_with_the_oracle),
      mpi_unit_test(bf16_agrees_with_the_oracle),
      mpi_unit_test(the_same_bits),
      mpi_unit_test(given_estimates_are_strictly_causal),
      mpi_unit_test(degenerate_inputs_stay_finite),
      mpi_unit_test(wrong_inputs_are_refused_by_name),
  };
  return mpi_cmocka_main(&argc, &argv, "estimates_run", tests, sizeof tests / sizeof tests[0]);
}

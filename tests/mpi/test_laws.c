/* Laws that attention obeys whatever the numbers are: the future does not matter, constants stay, sums are linear,
 * order is free where it should be; and finite input gives finite output or a refusal by name. */
#include "mpi_cmocka.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "run.h"

static struct favor_problem problem_of(bool is_causal, enum favor_precision precision) {
  struct favor_problem problem = favor_problem_default();
  problem.heads = problem.kv_heads = 2;
  problem.key_width = 64;
  problem.value_width = 5;
  problem.features = 40;
  problem.seed = 3;
  problem.is_causal = is_causal;
  problem.precision = precision;
  return problem;
}

/* The whole output, on every rank. Collective; owned by the caller. */
static char *attend(const struct run_contexts *contexts, const struct favor_problem *problem,
                    const struct case_tensors *t) {
  char *out = malloc(run_out_bytes(problem) + 1);
  enum favor_status status = run_problem(contexts->world, problem, t, RUN_EXECUTE, out);
  if (status != FAVOR_OK) run_print("%s\n", favor_context_message(contexts->world));
  assert_all(status == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, out, run_out_bytes(problem));
  return out;
}

/* The same in float64. */
static double *attend_double(const struct run_contexts *contexts, const struct favor_problem *problem,
                             const struct case_tensors *t) {
  int64_t count = t->heads * t->tokens * t->value_width;
  char *out = attend(contexts, problem, t);
  double *x = calloc((size_t)count + 1, sizeof *x);
  for (int64_t i = 0; i < count; i++) x[i] = run_element(problem, out, i);
  free(out);
  return x;
}

static int64_t out_count(const struct case_tensors *t) { return t->heads * t->tokens * t->value_width; }

/* Whether tokens [begin, end) of a head have the same bytes in two outputs. */
static bool is_same(const struct favor_problem *problem, const char *x, const char *y, int64_t head, int64_t begin,
                    int64_t end) {
  size_t row = run_element_bytes(problem) * (size_t)problem->value_width;
  size_t at = row * (size_t)(head * problem->tokens + begin);
  return memcmp(x + at, y + at, row * (size_t)(end - begin)) == 0;
}

/* Tile and run lengths of a problem. Collective in that it asserts. */
static struct favor_plan_info info_of(const struct run_contexts *contexts, const struct favor_problem *problem) {
  struct favor_plan *plan = NULL;
  struct favor_plan_info info = {0};
  assert_all(favor_plan_create(contexts->self, problem, &plan) == FAVOR_OK);
  favor_plan_info(plan, &info);
  favor_plan_destroy(&plan);
  info.kernel = info.scan = NULL; /* lived in the plan */
  return info;
}

/* ---- the future does not matter ---------------------------------------------------------------------------------- */

/* What happens to one token of key head 1. */
enum change {
  KEY_RAISES_A_FEATURE, /* k = w_0 / sqrt(scale): l_0 becomes |w_0|^2 / 2, 46 bits at D = 64 */
  KEY_IS_ZERO,          /* l = 0, after keys that lie far below */
  KEY_IS_HUGE,          /* just below what is refused */
  QUERY_AND_VALUE,
  VALUE_IS_HUGE,
  N_CHANGES
};

static void change_token(struct case_tensors *t, enum change change, const double *w, int64_t token) {
  double *key = case_key(t, 1, token), *query = case_query(t, 1, token), *value = case_value(t, 1, token);
  double root_scale = pow((double)t->key_width, -0.25);
  for (int64_t d = 0; d < t->key_width; d++) {
    if (change == KEY_RAISES_A_FEATURE) key[d] = w[d] / root_scale;
    if (change == KEY_IS_ZERO) key[d] = 0;
    if (change == KEY_IS_HUGE) key[d] = d == 0 ? 2890 / root_scale : 0; /* 2890^2 / 2 = 0.996 2^22 */
    if (change == QUERY_AND_VALUE) query[d] = -query[d] + 1;
  }
  if (change == QUERY_AND_VALUE)
    for (int64_t e = 0; e < t->value_width; e++) value[e] = -100;
  if (change == VALUE_IS_HUGE)
    for (int64_t e = 0; e < t->value_width; e++) value[e] = e % 2 == 0 ? 3e38 : -1e30;
}

static void change_one(const struct run_contexts *contexts, const struct favor_problem *problem,
                       const struct case_tensors *t, const char *before, enum change change, const double *w,
                       int64_t token, bool is_felt) {
  struct case_tensors changed;
  case_tensors_slice(t, 0, t->tokens, &changed);
  change_token(&changed, change, w, token);
  case_tensors_round(problem, &changed);
  char *after = attend(contexts, problem, &changed);
  bool past_is_same = is_same(problem, before, after, 1, 0, token);
  bool other_head_is_same = is_same(problem, before, after, 0, 0, t->tokens);
  /* A key so large weighs nothing beside those before it, and all beside none. */
  bool has_effect = !is_felt || change == KEY_IS_HUGE || !is_same(problem, before, after, 1, token, t->tokens);
  if (!past_is_same || !other_head_is_same || !has_effect)
    run_print("change %d of token %lld of %lld, precision %d\n", (int)change, (long long)token, (long long)t->tokens,
              (int)problem->precision);
  free(after);
  case_tensors_destroy(&changed);
  assert_all(past_is_same);
  assert_all(other_head_is_same);
  assert_all(has_effect);
}

static void the_future_does_not_matter(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int precision = FAVOR_PRECISION_F32; precision <= FAVOR_PRECISION_BF16; precision++) {
    const uint64_t n_positive = 2 * case_count_kernels((enum favor_precision)precision);
    if (n_positive == 0) continue;
    for (uint64_t pass = 0; pass < n_positive + 2; pass++) { /* the last two: both signs, with the first kernel */
      struct favor_problem problem = problem_of(true, (enum favor_precision)precision);
      problem.map = pass < n_positive ? FAVOR_MAP_POSITIVE : FAVOR_MAP_HYPERBOLIC;
      if ((pass + (uint64_t)precision) % 2 == 1) problem.projection = FAVOR_PROJECTION_HADAMARD;
      problem.kernel = case_kernel(pass % n_positive / 2, problem.precision);
      struct favor_plan_info info = info_of(&contexts, &problem);
      int64_t tile = info.tile_tokens, run = info.run_tokens;
      problem.tokens = 3 * run + tile / 2;
      const int64_t tokens[] = {1, tile / 2, tile - 1, tile, run - 1, run, 2 * run + tile + 1, problem.tokens - 1};
      struct case_tensors t;
      /* At spread 8 a row sees one key or two, and need not feel a change of another. */
      case_tensors_create(&problem, 11, pass % 2 == 0 ? 1.0 : 8.0, &t);
      /* Small values, beside which a huge one would ask for a scale of its own. */
      for (int64_t i = 0; pass % 2 == 1 && i < t.kv_heads * t.tokens * t.value_width; i++) t.v[i] *= 1e-10;
      case_tensors_round(&problem, &t);
      struct favor_plan *plan = NULL;
      assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_OK);
      double *w = run_projection_of_head(plan, &problem, 1);
      favor_plan_destroy(&plan);
      char *before = attend(&contexts, &problem, &t);
      for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        for (int change = 0; change < N_CHANGES; change++)
          change_one(&contexts, &problem, &t, before, (enum change)change, w, tokens[i], pass % 2 == 0);
      free(before);
      free(w);
      case_tensors_destroy(&t);
    }
  }
  run_contexts_close(&contexts);
}

/* The first n tokens have the same outputs whether others follow or not. */
static void a_prefix_stands_alone(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  for (int precision = FAVOR_PRECISION_F32; precision <= FAVOR_PRECISION_BF16; precision++) {
    if (case_count_kernels((enum favor_precision)precision) == 0) continue;
    struct favor_problem problem = problem_of(true, (enum favor_precision)precision), part = problem;
    struct favor_plan_info info = info_of(&contexts, &problem);
    int64_t tile = info.tile_tokens, run = info.run_tokens;
    problem.tokens = 3 * run + 11;
    const int64_t lengths[] = {1, tile / 2, tile - 1, tile, tile + 1, run, run + 1, 2 * run + tile + 3};
    struct case_tensors t;
    case_tensors_create(&problem, 12, 2.0, &t);
    char *whole = attend(&contexts, &problem, &t);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
      struct case_tensors first;
      part.tokens = lengths[i];
      case_tensors_slice(&t, 0, part.tokens, &first);
      char *out = attend(&contexts, &part, &first);
      size_t bytes = run_element_bytes(&problem) * (size_t)(problem.value_width * part.tokens);
      size_t whole_bytes = run_element_bytes(&problem) * (size_t)(problem.value_width * problem.tokens);
      bool both = memcmp(out, whole, bytes) == 0 && memcmp(out + bytes, whole + whole_bytes, bytes) == 0;
      free(out);
      case_tensors_destroy(&first);
      assert_all(both);
    }
    free(whole);
    case_tensors_destroy(&t);
  }
  run_contexts_close(&contexts);
}

/* ---- constants, linearity, order --------------------------------------------------------------------------------- */

/* Both modes in f32 and f64 with two kernels, in f32 of the hyperbolic map too; and of both maps in bf16 where this
 * machine has it; on several runs of tokens. The bound: values have random signs, so that a run of R of them sums
 * to some sqrt(R), by way of R roundings of partial sums as large: an error of about sqrt(R) units of rounding. In bf16
 * it is that of a value, which is rounded to within 2^-8; the state's rows, which are too, go into a mean. */
static void for_each_kind(void (*body)(const struct run_contexts *contexts, const struct favor_problem *problem,
                                       double bound)) {
  static const double units[] = {[FAVOR_PRECISION_F32] = 0x1p-24, [FAVOR_PRECISION_F64] = 0x1p-53};
  struct run_contexts contexts = run_contexts_open();
  for (int kind = 0; kind < 14; kind++) {
    enum favor_precision precision = kind < 8    ? (enum favor_precision)(kind % 4 / 2)
                                     : kind < 10 ? FAVOR_PRECISION_F32
                                                 : FAVOR_PRECISION_BF16;
    if (case_count_kernels(precision) == 0) continue;
    struct favor_problem problem = problem_of(kind % 2, precision);
    problem.map = kind < 8 || kind / 2 == 5 ? FAVOR_MAP_POSITIVE : FAVOR_MAP_HYPERBOLIC;
    problem.kernel = case_kernel((uint64_t)kind % 8 / 4, precision);
    const int64_t run = info_of(&contexts, &problem).run_tokens;
    problem.tokens = 3 * run + 17;
    body(&contexts, &problem, precision == FAVOR_PRECISION_BF16 ? 0x1p-8 : sqrt((double)run) * units[precision]);
  }
  run_contexts_close(&contexts);
}

/* Norm over norm within the bound; and no row far off, since one wrong row in many would not show in the norm. */
static void constant_of(const struct run_contexts *contexts, const struct favor_problem *problem, double bound) {
  static const double spreads[] = {0.1, 1, 4};
  for (int i = 0; i < 3; i++) {
    struct case_tensors t;
    case_tensors_create(problem, 13, spreads[i], &t);
    for (int64_t j = 0; j < t.kv_heads * t.tokens * t.value_width; j++) t.v[j] = 0.7 + (double)(j % t.value_width);
    case_tensors_round(problem, &t);
    double *out = attend_double(contexts, problem, &t), worst = 0;
    double error = oracle_relative_error(out, t.v, out_count(&t)); /* as many heads: v is the answer */
    for (int64_t j = 0; j < out_count(&t); j++) worst = oracle_worse(worst, fabs(out[j] / t.v[j] - 1));
    free(out);
    case_tensors_destroy(&t);
    bool is_constant = error <= bound && worst <= 4 * bound;
    if (!is_constant)
      run_print("constant v, kernel %s, spread %g, causal %d, precision %d: %.3g, worst element %.3g\n",
                problem->kernel, spreads[i], problem->is_causal, problem->precision, error, worst);
    assert_all(is_constant);
  }
}

static void constant_values_stay(void **state) {
  (void)state;
  for_each_kind(constant_of);
}

/* out(2 a - b / 4) = 2 out(a) - out(b) / 4; a and b have 10 bits after the point, so that the sum is a float. */
static void linear_of(const struct run_contexts *contexts, const struct favor_problem *problem, double bound) {
  struct case_tensors a, b, both;
  case_tensors_create(problem, 14, 1.0, &a);
  case_tensors_slice(&a, 0, a.tokens, &b);
  case_tensors_slice(&a, 0, a.tokens, &both);
  for (int64_t j = 0; j < a.kv_heads * a.tokens * a.value_width; j++) {
    a.v[j] = rint(a.v[j] * 1024) / 1024;
    b.v[j] = rint(case_deviate(14, 99, (uint64_t)j) * 1024) / 1024;
    both.v[j] = 2 * a.v[j] - b.v[j] / 4;
  }
  double *out_a = attend_double(contexts, problem, &a), *out_b = attend_double(contexts, problem, &b);
  double *out = attend_double(contexts, problem, &both);
  for (int64_t j = 0; j < out_count(&a); j++) out_a[j] = 2 * out_a[j] - out_b[j] / 4;
  double error = oracle_relative_error(out, out_a, out_count(&a));
  if (error > bound)
    run_print("linearity, causal %d, precision %d: %.3g\n", problem->is_causal, problem->precision, error);
  free(out);
  free(out_b);
  free(out_a);
  case_tensors_destroy(&both);
  case_tensors_destroy(&b);
  case_tensors_destroy(&a);
  assert_all(error <= bound);
}

static void values_are_linear(void **state) {
  (void)state;
  for_each_kind(linear_of);
}

static void swap_rows(double *x, double *y, int64_t width) {
  for (int64_t e = 0; e < width; e++) {
    double kept = x[e];
    x[e] = y[e];
    y[e] = kept;
  }
}

/* Keys and values in another order, inside each of two segments. Values have random signs: a run of R of them sums to
 * some sqrt(R), by way of R roundings of partial sums as large, so that its error is about sqrt(R) units of rounding.
 */
static void order_of(const struct run_contexts *contexts, const struct favor_problem *given, double bound_of_one) {
  if (given->is_causal) return;
  const double unit = given->precision == FAVOR_PRECISION_F64 ? 0x1p-53 : 0x1p-24;
  const double bound = fmax(bound_of_one, unit * sqrt((double)info_of(contexts, given).run_tokens));
  struct favor_problem problem = *given;
  const int64_t segments[] = {0, problem.tokens / 3, problem.tokens};
  problem.segments = segments;
  problem.n_segments = 2;
  struct case_tensors t, shuffled;
  case_tensors_create(&problem, 15, 1.0, &t);
  case_tensors_slice(&t, 0, t.tokens, &shuffled);
  for (int64_t h = 0; h < t.kv_heads; h++)
    for (int s = 0; s < 2; s++)
      for (int64_t j = segments[s + 1] - 1; j > segments[s]; j--) { /* Fisher and Yates */
        int64_t other =
            segments[s] + (int64_t)(case_bits(15, (uint64_t)h, (uint64_t)j) % (uint64_t)(j - segments[s] + 1));
        swap_rows(case_key(&shuffled, h, j), case_key(&shuffled, h, other), t.key_width);
        swap_rows(case_value(&shuffled, h, j), case_value(&shuffled, h, other), t.value_width);
      }
  double *out = attend_double(contexts, &problem, &t), *other = attend_double(contexts, &problem, &shuffled);
  double error = oracle_relative_error(other, out, out_count(&t));
  if (error > bound) run_print("order, precision %d: %.3g\n", problem.precision, error);
  free(other);
  free(out);
  case_tensors_destroy(&shuffled);
  case_tensors_destroy(&t);
  assert_all(error <= bound);
}

static void order_of_keys_is_free(void **state) {
  (void)state;
  for_each_kind(order_of);
}

/* ---- extremes ---------------------------------------------------------------------------------------------------- */

/* The worst head against the oracle. */
static double oracle_error(const struct run_contexts *contexts, const struct favor_problem *problem,
                           const struct case_tensors *t, const double *out) {
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts->self, problem, &plan) == FAVOR_OK);
  int64_t count = t->tokens * t->value_width;
  double *expected = calloc((size_t)count + 1, sizeof *expected), worst = 0;
  for (int64_t h = 0; h < t->heads; h++) {
    double *w = run_projection_of_head(plan, problem, h);
    struct oracle_head head = {.tokens = t->tokens,
                               .key_width = t->key_width,
                               .value_width = t->value_width,
                               .features = problem->features,
                               .is_causal = problem->is_causal,
                               .is_hyperbolic = problem->map == FAVOR_MAP_HYPERBOLIC,
                               .projection = w};
    int64_t kv = case_kv_head(problem, h);
    oracle_attend(&head, case_query(t, h, 0), case_key(t, kv, 0), case_value(t, kv, 0), expected);
    worst = oracle_worse(worst, oracle_relative_error(out + h * count, expected, count));
    free(w);
  }
  free(expected);
  favor_plan_destroy(&plan);
  return worst;
}

enum extreme { VALUES_ARE_HUGE, VALUES_ARE_TINY, COLUMNS_DIFFER, N_EXTREME_VALUES };

/* Of both signs, but the tiny ones: their mean would lose its last bits below the smallest float. */
static double extreme_value(enum extreme extreme, double deviate, int64_t column, int64_t width) {
  if (extreme == VALUES_ARE_HUGE) return deviate < 0 ? -(double)FLT_MAX : (double)FLT_MAX;
  if (extreme == VALUES_ARE_TINY) return (2 + deviate / 4) * 1e-38;
  return ldexp(deviate, (int)(-100 + 200 * column / (width - 1)));
}

static void extreme_values_of(const struct run_contexts *contexts, const struct favor_problem *problem, double bound) {
  (void)bound; /* what the library promises is asked here */
  for (int extreme = 0; extreme < N_EXTREME_VALUES; extreme++) {
    struct case_tensors t;
    case_tensors_create(problem, 16, 1.0, &t);
    for (int64_t j = 0; j < t.kv_heads * t.tokens * t.value_width; j++)
      t.v[j] = extreme_value((enum extreme)extreme, t.v[j], j % t.value_width, t.value_width);
    case_tensors_round(problem, &t);
    double *out = attend_double(contexts, problem, &t), error = oracle_error(contexts, problem, &t, out);
    const double promised[] = {[FAVOR_PRECISION_F32] = 2e-5, [FAVOR_PRECISION_F64] = 2e-13};
    double root_width = sqrt((double)problem->key_width);
    double most = problem->precision == FAVOR_PRECISION_BF16 ? case_bf16_bound(problem, 1, root_width)
                                                             : promised[problem->precision];
    if (!(error <= most))
      run_print("extreme values %d, causal %d, precision %d: %.3g\n", extreme, problem->is_causal, problem->precision,
                error);
    free(out);
    case_tensors_destroy(&t);
    assert_all(error <= most);
  }
}

static void extreme_values_are_finite(void **state) {
  (void)state;
  for_each_kind(extreme_values_of);
}

/* Every seventh key, and every fifth query, just below what is refused. Outputs stay between the values. */
static void huge_keys_of(const struct run_contexts *contexts, const struct favor_problem *problem, double bound) {
  struct case_tensors t;
  case_tensors_create(problem, 17, 1.0, &t);
  double length = 2890 * pow((double)t.key_width, 0.25), low = INFINITY, high = -INFINITY;
  for (int64_t h = 0; h < t.kv_heads; h++)
    for (int64_t j = 0; j < t.tokens; j++)
      for (int64_t d = 0; d < t.key_width; d++) {
        bool is_axis = d == (j + h) % t.key_width;
        double sign = j % 2 == 0 ? 1 : -1;
        if (j % 7 == 0) case_key(&t, h, j)[d] = is_axis ? sign * length : 0;
        if (j % 5 == 0) case_query(&t, h, j)[d] = is_axis ? -sign * length : 0;
      }
  case_tensors_round(problem, &t);
  for (int64_t j = 0; j < t.kv_heads * t.tokens * t.value_width; j++) {
    low = fmin(low, t.v[j]);
    high = fmax(high, t.v[j]);
  }
  double *out = attend_double(contexts, problem, &t);
  bool is_between = true;
  for (int64_t j = 0; j < out_count(&t); j++)
    is_between = is_between && out[j] >= low * (1 + 10 * bound) && out[j] <= high * (1 + 10 * bound);
  free(out);
  case_tensors_destroy(&t);
  assert_all(is_between); /* a NaN is not */
}

static void huge_keys_give_finite_outputs(void **state) {
  (void)state;
  for_each_kind(huge_keys_of);
}

/* Every key far away from the origin: all features of all keys, and their sums, are below 2^-1000. */
static void far_keys_of(const struct run_contexts *contexts, const struct favor_problem *problem, double bound) {
  if (problem->precision == FAVOR_PRECISION_BF16) return; /* bf16 has no bit of l left behind the point there */
  struct case_tensors t;
  case_tensors_create(problem, 18, 1.0, &t);
  for (int64_t j = 0; j < t.kv_heads * t.tokens * t.key_width; j++) t.k[j] += j % t.key_width == 0 ? 200 : 0;
  case_tensors_round(problem, &t);
  double *out = attend_double(contexts, problem, &t), error = oracle_error(contexts, problem, &t, out);
  free(out);
  case_tensors_destroy(&t);
  /* l is some 2500: its last bit in f32 is 1.2e-4, in f64 4.5e-13. */
  bound = problem->precision == FAVOR_PRECISION_F32 ? 1e-3 : 1e-11;
  if (!(error <= bound))
    run_print("far keys, causal %d, precision %d: %.3g\n", problem->is_causal, problem->precision, error);
  assert_all(error <= bound);
}

static void far_keys_weigh_as_they_should(void **state) {
  (void)state;
  for_each_kind(far_keys_of);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

struct refusal {
  char tensor;
  int64_t head, token; /* token: in 1/8 of the length */
  double value;
};

/* Whether the text holds `word` not as a part of a longer word or number. */
static bool has_word(const char *text, const char *word) {
  size_t length = strlen(word);
  for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
    bool starts = at == text || strchr(" '\"(,:[", at[-1]) != NULL;
    bool ends = strchr(" '\"),.:;]", at[length]) != NULL; /* or the end of the text */
    if (starts && ends) return true;
  }
  return false;
}

static bool names_it(const char *message, const struct refusal *refusal, int64_t token) {
  char tensor[2] = {refusal->tensor, 0}, head[32], place[32];
  snprintf(head, sizeof head, "head %lld", (long long)refusal->head);
  snprintf(place, sizeof place, "token %lld", (long long)token);
  return has_word(message, tensor) && has_word(message, head) && has_word(message, place);
}

static bool is_the_same_text_everywhere(const char *text) {
  char first[1024] = "";
  snprintf(first, sizeof first, "%s", text);
  MPI_Bcast(first, sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
  return strcmp(first, text) == 0;
}

static void refuse(const struct run_contexts *contexts, const struct favor_problem *problem, struct favor_plan *plan,
                   const struct case_tensors *good, const void *good_out, const struct refusal *refusal) {
  struct case_tensors t;
  case_tensors_slice(good, 0, good->tokens, &t);
  int64_t token = refusal->token * (t.tokens - 1) / 8;
  double *row = refusal->tensor == 'q'   ? case_query(&t, refusal->head, token)
                : refusal->tensor == 'k' ? case_key(&t, refusal->head, token)
                                         : case_value(&t, refusal->head, token);
  row[1] = refusal->value;
  char *out = malloc(run_out_bytes(problem));
  for (int mode = RUN_EXECUTE; mode <= RUN_BLOCKS; mode++) {
    enum favor_status status = run_plan(plan, problem, &t, (enum run_mode)mode, out);
    const char *message = favor_context_message(contexts->world);
    bool is_named = names_it(message, refusal, token);
    if (status != FAVOR_EDATA || !is_named)
      run_print("%c head %lld token %lld = %g: %s \"%s\"\n", refusal->tensor, (long long)refusal->head,
                (long long)token, refusal->value, favor_status_name(status), message);
    assert_all(status == FAVOR_EDATA);
    assert_all(is_named);
    assert_all(is_the_same_text_everywhere(message));
  }
  /* And the plan lives on. */
  assert_all(run_plan(plan, problem, good, RUN_EXECUTE, out) == FAVOR_OK);
  run_gather(MPI_COMM_WORLD, out, run_out_bytes(problem));
  assert_all(memcmp(out, good_out, run_out_bytes(problem)) == 0);
  free(out);
  case_tensors_destroy(&t);
}

static void refusals_of(const struct run_contexts *contexts, const struct favor_problem *given, double bound) {
  (void)bound;
  const double too_long = 2900 * pow((double)given->key_width, 0.25); /* 2900^2 / 2 = 1.003 2^22 */
  const struct refusal refusals[] = {
      {'q', 2, 0, (double)NAN},      {'k', 1, 8, (double)NAN},       {'v', 0, 3, (double)NAN},
      {'q', 0, 8, (double)INFINITY}, {'k', 0, 4, -(double)INFINITY}, {'v', 1, 7, (double)INFINITY},
      {'q', 3, 5, too_long},         {'k', 1, 2, -too_long},
  };
  struct favor_problem problem = *given;
  problem.heads = 4;
  struct case_tensors t;
  case_tensors_create(&problem, 19, 1.0, &t);
  char *good_out = attend(contexts, &problem, &t);
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts->world, &problem, &plan) == FAVOR_OK);
  for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
    refuse(contexts, &problem, plan, &t, good_out, &refusals[i]);
  favor_plan_destroy(&plan);
  free(good_out);
  case_tensors_destroy(&t);
}

static void what_is_not_finite_is_refused(void **state) {
  (void)state;
  for_each_kind(refusals_of);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(the_future_does_not_matter),    mpi_unit_test(a_prefix_stands_alone),
      mpi_unit_test(constant_values_stay),          mpi_unit_test(values_are_linear),
      mpi_unit_test(order_of_keys_is_free),         mpi_unit_test(extreme_values_are_finite),
      mpi_unit_test(huge_keys_give_finite_outputs), mpi_unit_test(far_keys_weigh_as_they_should),
      mpi_unit_test(what_is_not_finite_is_refused),
  };
  return mpi_cmocka_main(&argc, &argv, "laws", tests, sizeof tests / sizeof tests[0]);
}

/* Random problems and their tensors, everything a function of a case number: no rank, no order, no state. */
#ifndef FAVOR_TESTS_CASES_H
#define FAVOR_TESTS_CASES_H

#include <favor/favor.h>

struct test_case {
  uint64_t number;
  struct favor_problem problem; /* segments point to `segments` */
  int64_t *segments;
  double spread;      /* standard deviation of the elements of q and k */
  double length_runs; /* tokens asked for, in runs; 0: `length_tokens` */
  int64_t length_tokens;
  int segment_style;
};

/* The shape and the options of case `number`; still without tokens. Numbers 0 to 39 cover both modes, both precisions
 * and five spreads in every combination, and all kernels that this machine can run. */
void case_draw(uint64_t number, struct test_case *c);

/* Tokens and segments. run_tokens is favor_plan_info.run_tokens of the problem that case_draw left. */
void case_set_tokens(struct test_case *c, int64_t run_tokens);

/* How many kernels this machine can run in this precision, and one of them: numbers in a row take turns. */
uint64_t case_count_kernels(enum favor_precision precision);
const char *case_kernel(uint64_t number, enum favor_precision precision);

/* The relative error that bf16 may have where q and k have this spread. Rounding to 8 bits is an error of at most 2^-8,
 * and of 1.7e-3 in the mean square; the features of a query and a key, a value, and a row of the state (or a weight)
 * have one each, and w . x~ has the errors of the elements of x~, together |w| |x~| / sqrt(D) times it. Of the rows of
 * W the longest, whose length is given, count most. Errors are of either sign, so that with all lengths sqrt(D) they
 * make sqrt(4 + |q~|^2 + |k~|^2) of one, with 2^-9 for 1.7e-3. Over many features all but a value's become less. */
double case_bf16_bound(const struct favor_problem *problem, double spread, double longest_row);

void case_release(struct test_case *c);

/* One line: number, shape and options. */
void case_describe(const struct test_case *c, char *text, size_t size);

/* 64 bits and a deviate of mean 0 and variance 1 (a sum of four uniforms, so below 3.5) as functions of their names. */
uint64_t case_bits(uint64_t seed, uint64_t stream, uint64_t index);
double case_deviate(uint64_t seed, uint64_t stream, uint64_t index);

/* Whole tensors in float64, heads first; rounded to float unless the problem is FAVOR_PRECISION_F64. */
struct case_tensors {
  int64_t heads, kv_heads; /* flat: B H, B G */
  int64_t tokens, key_width, value_width;
  double *q, *k, *v; /* [heads][N][D], [kv_heads][N][D], [kv_heads][N][E] */
};

void case_tensors_create(const struct favor_problem *problem, uint64_t seed, double spread, struct case_tensors *t);
/* Copies of tokens [begin, end). */
void case_tensors_slice(const struct case_tensors *whole, int64_t begin, int64_t end, struct case_tensors *t);
/* Rounds to float what was changed by hand, unless the problem is FAVOR_PRECISION_F64. */
void case_tensors_round(const struct favor_problem *problem, struct case_tensors *t);
void case_tensors_destroy(struct case_tensors *t);

static inline double *case_query(const struct case_tensors *t, int64_t head, int64_t token) {
  return t->q + (head * t->tokens + token) * t->key_width;
}
static inline double *case_key(const struct case_tensors *t, int64_t kv_head, int64_t token) {
  return t->k + (kv_head * t->tokens + token) * t->key_width;
}
static inline double *case_value(const struct case_tensors *t, int64_t kv_head, int64_t token) {
  return t->v + (kv_head * t->tokens + token) * t->value_width;
}

/* The flat key head that a flat query head reads. */
int64_t case_kv_head(const struct favor_problem *problem, int64_t head);

#endif

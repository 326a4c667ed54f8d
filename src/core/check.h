/* Checking an output: the attention of sampled tokens, computed again in double from what it is defined to be, key by
 * key, without states, tiles' exponents or anything else of the engine.
 *
 * Three answers are computed for every sampled token i and query head, each a weighted mean of v_j over A(i):
 *   definition  weight_ij = sum_r exp(w_r.q~_i - |q~_i|^2/2 + w_r.k~_j - |k~_j|^2/2), FAVOR+ with the projection given
 *               (Choromanski et al., ICLR 2021, lemma 1; the factor 1/M cancels), of the hyperbolic map plus the same
 *               sum with -w_r in place of w_r
 *               With a window, and |i - j| <= window, exp(q~_i.k~_j) instead, and the others by their factor 1/M (or
 *               1/(2M)), which does not cancel then
 *   exact       weight_ij = exp(q~_i.k~_j), softmax attention
 *   mean        weight_ij = 1, the trivial answer
 * Weights are kept relative to a running maximum of their logarithms, as in online softmax (Milakov and Gimelshein,
 * 2018), so nothing overflows. Keys come in pieces, in any order and split over ranks in any way; what ranks found is
 * merged by bringing all to the largest maximum (check_rescale) and adding the sums.
 *
 * All functions are local.
 */
#ifndef FAVOR_CORE_CHECK_H
#define FAVOR_CORE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include <favor/favor.h>

enum check_answer { CHECK_DEFINITION, CHECK_EXACT, CHECK_MEAN, CHECK_N_ANSWERS };

/* A sampled token and what it may attend to. */
struct check_row {
  int64_t token;
  int64_t key_begin, key_end; /* A(token) */
};

struct check_problem {
  const struct check_row *rows; /* [n_rows], tokens ascending; copied */
  int64_t n_rows;
  int64_t key_heads;     /* flat, over the batch */
  int64_t heads_per_key; /* flat query head f reads flat key head f / heads_per_key */
  int64_t key_width, value_width;
  enum favor_map map;
  int64_t features; /* M, of the projection */
  double scale;
  const double *projection; /* [projections][M][D], copied; flat key head g uses number g % projections */
  int64_t projections;
  bool has_window;
  int64_t window;
};

struct check;

/* n_rows tokens of [0, n_tokens), ascending and distinct, a function of the seed alone: one drawn from each of n_rows
 * equal parts, but where there are two or more the first is token 0 and the last is token n_tokens - 1, where mistakes
 * at ends would show. 1 <= n_rows <= n_tokens. */
void check_sample(int64_t n_tokens, int64_t n_rows, uint64_t seed, int64_t *tokens);

/* A(token): the tokens of its segment, up to itself when causal. segments [n_segments + 1]; NULL: one segment. */
struct check_row check_row_of(int64_t token, int64_t n_tokens, const int64_t *segments, int64_t n_segments,
                              bool is_causal);

/* q [n_rows][key_heads * heads_per_key][D], the sampled queries. NULL where memory is short. */
struct check *check_create(const struct check_problem *problem, const double *q);
void check_destroy(struct check **check);

/* Does any sampled row attend to tokens of [begin, end)? */
bool check_needs(const struct check *check, int64_t begin, int64_t end);

/* Takes in tokens [begin, end) of one flat key head: k [end - begin][D], v [end - begin][E], all finite. */
void check_absorb(struct check *check, int64_t key_head, int64_t begin, int64_t end, const double *k, const double *v);

/* What was found for a flat key head. Its queries are (row, head of the group), row-major, once for each answer:
 * tops  [CHECK_N_ANSWERS][queries]: the largest logarithm of a weight, -infinity where no key was seen
 * sums  [CHECK_N_ANSWERS][queries][1 + E]: sum of weights, sum of weights times v, both times exp(-top). */
int64_t check_n_tops(const struct check *check);
double *check_tops(struct check *check, int64_t key_head);
int64_t check_n_sums(const struct check *check);
double *check_sums(struct check *check, int64_t key_head);

/* Brings the sums to other maxima, none lower: tops [check_n_tops]. */
void check_rescale(struct check *check, int64_t key_head, const double *tops);

/* The attention of one row and flat query head: out [E]. */
void check_value(const struct check *check, enum check_answer answer, int64_t row, int64_t head, double *out);

/* ---- judging an output ------------------------------------------------------------------------------------------ */

/* A floating-point type: digits of its significand with the hidden one, exponent of its least normal number. */
struct check_type {
  int digits, min_exponent;
};

/* Sums of squares over the sampled rows of one query head. Infinite where an output is NaN or infinite. */
/* Squares of doubles leave the range of double: hence long double. */
struct check_head {
  long double definition, definition_error; /* |def|^2 and |out - def|^2 beyond rounding, see check_judge */
  long double exact, exact_error;           /* |exact|^2, |out - exact|^2 */
  long double mean_error;                   /* |mean - exact|^2 */
  int64_t worst_row;
  double worst_error; /* of that row: |out - def| / max(|def|, root mean square of |def| over the head's rows) */
};

/* Holds an output against the answers: out [n_rows][heads][E]. An element's distance from the definition counts as far
 * as it exceeds half a unit in the last place of `type`, which storing the element in that type may cost. */
void check_judge(const struct check *check, int64_t head, const double *out, struct check_type type,
                 struct check_head *judged);

/* The relative error that two sums of squares make: 0 where the error is 0, infinite where either is no finite number.
 */
double check_ratio(long double error, long double reference);

#endif

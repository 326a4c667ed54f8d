/* Checking an output: the attention of sampled tokens, computed again in double from what it is defined to be, key by
 * key, without states, tiles' exponents, kernels' features or anything else of the engine.
 *
 * Three answers are computed for every sampled token i and query head, each a weighted mean of v_j over A(i):
 *   definition  weight_ij = sum_r exp(w_r.q~_i - |q~_i|^2/2 + w_r.k~_j - |k~_j|^2/2), FAVOR+ with the projection given
 *               (Choromanski et al., ICLR 2021, lemma 1; the factor 1/M cancels), of the hyperbolic map plus the same
 *               sum with -w_r in place of w_r; of oprf 2 A |w_r|^2 + sqrt(1 - 4 A) w_r.(q~_i + k~_j) in place of
 *               w_r.q~_i + w_r.k~_j; with L q in place of q and L^-T (k - s) in place of k where they are balanced and
 *               shifted; of the other maps sum_r phi_r(q_i) phi_r(k_j)
 *               with an eps or a guard of the normaliser in the form of enum favor_key_max and enum favor_guard
 *   exact       weight_ij = exp(q~_i.k~_j), softmax attention
 *   mean        weight_ij = 1, the trivial answer
 * Weights are kept relative to a running maximum of their logarithms, as in online softmax (Milakov and Gimelshein,
 * 2018), so nothing overflows. Keys come in pieces, in any order and split over ranks in any way; what ranks found is
 * merged by bringing all to the largest maximum (check_rescale) and adding the sums.
 *
 * Maps of negative features have weights of both signs, kept as the logarithm of their size and a sign. Their sums can
 * cancel, and a quotient of such sums has no digits left where its normaliser nearly vanishes. How much of it is left
 * is found too, beside sum_r |phi_r(q_i) phi_r(k_j)| over all keys, and check_judge goes by it.
 *
 * All functions are local.
 */
#ifndef FAVOR_CORE_CHECK_H
#define FAVOR_CORE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include <favor/favor.h>

enum check_answer { CHECK_DEFINITION, CHECK_EXACT, CHECK_MEAN, CHECK_N_ANSWERS };
/* Sums that are kept, at most: those of the answers, and the sizes of the definition's terms where they are signed. */
enum { CHECK_MAX_SUMS = CHECK_N_ANSWERS + 1 };

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
  double eps; /* as it is used, not below 0 */
  /* As in favor.h; the maximum itself comes with the estimates. */
  enum favor_key_max key_max;
  enum favor_guard guard_rule;
  double guard;
  bool is_causal;
  int64_t features; /* M, of the projection */
  double scale;
  const double *projection; /* [projections][M][D], copied; flat key head g uses number g % projections */
  int64_t projections;
  enum favor_balance balance;
  struct favor_estimates estimates; /* of all key heads; NULL members: none; the caller's, until check_destroy */
};

struct check;

/* n_rows tokens of [0, n_tokens), ascending and distinct, a function of the seed alone: one drawn from each of n_rows
 * equal parts, but where there are two or more the first is token 0 and the last is token n_tokens - 1, where mistakes
 * at ends would show. 1 <= n_rows <= n_tokens. */
void check_sample(int64_t n_tokens, int64_t n_rows, uint64_t seed, int64_t *tokens);

/* A(token): the tokens of its segment, up to itself when causal. segments [n_segments + 1]; NULL: one segment. */
struct check_row check_row_of(int64_t token, int64_t n_tokens, const int64_t *segments, int64_t n_segments,
                              bool is_causal);

/* q [n_rows][key_heads * heads_per_key][D], the sampled queries. NULL where memory is short, or a balance is singular.
 */
struct check *check_create(const struct check_problem *problem, const double *q);
void check_destroy(struct check **check);

/* Does any sampled row attend to tokens of [begin, end)? */
bool check_needs(const struct check *check, int64_t begin, int64_t end);

/* Takes in tokens [begin, end) of one flat key head: k [end - begin][D], v [end - begin][E], all finite. */
void check_absorb(struct check *check, int64_t key_head, int64_t begin, int64_t end, const double *k, const double *v);

/* What was found for a flat key head. Its queries are (row, head of the group), row-major, once for each answer:
 * tops  [sums that are kept][queries]: the largest logarithm of a weight's size, -infinity where all were 0
 * sums  [sums that are kept][queries][1 + E]: sum of weights, sum of weights times v, both times exp(-top). */
int64_t check_n_tops(const struct check *check);
double *check_tops(struct check *check, int64_t key_head);
int64_t check_n_sums(const struct check *check);
double *check_sums(struct check *check, int64_t key_head);

/* Brings the sums to other maxima, none lower: tops [check_n_tops]. */
void check_rescale(struct check *check, int64_t key_head, const double *tops);

/* The attention of one row and flat query head: out [E]; 0 where the normaliser is 0. */
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
 * as it exceeds half a unit in the last place of `type`, which storing the element in that type may cost.
 *
 * Where weights are signed, rows whose normaliser D is small beside the sum |D| of its terms' sizes count less. Let c
 * be D / |D| over its root mean square over the head's rows, at most 1: definition is c def there, and its error is c^2
 * times the distance, as rounding by t of |N| and |D| moves a quotient N / D by t (|N| + |N / D| |D|) / D. */
void check_judge(const struct check *check, int64_t head, const double *out, struct check_type type,
                 struct check_head *judged);

/* The relative error that two sums of squares make: 0 where the error is 0, infinite where either is no finite number.
 */
double check_ratio(long double error, long double reference);

#endif

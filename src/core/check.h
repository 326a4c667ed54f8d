/* Checking an output: the attention of sampled tokens, computed again in double from what it is defined to be, key by
 * key, without states, tiles' exponents, kernels' features or anything else of the engine.
 *
 * Three answers are computed for every sampled token i and query head, each a weighted mean of v_j over A(i):
 *   definition  by what the output is defined to be (enum check_definition)
 *   exact       weight_ij = exp(q~_i.k~_j), softmax attention
 *   mean        weight_ij = 1, the trivial answer
 * Tiles of CHECK_TILE_TOKENS keys, counted from token 0, are weighed on their own; what they add goes into reproducible
 * sums (base/binned.h), whose elements reach any exponent, so nothing overflows. Tiles come in any order and split over
 * ranks in any way, and what ranks found is merged by binned_merge, with the same bits.
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
#include <stddef.h>
#include <stdint.h>

#include <favor/favor.h>

enum {
  CHECK_TILE_TOKENS = 256,
  CHECK_MOST_TILES = (1 << 24) - 1 /* as many as a reproducible sum has addends (BINNED_MAX_ADDENDS) */
};

/* What an output is defined to be, by its weights. */
enum check_definition {
  CHECK_FEATURES, /* sum_r exp(w_r.q~_i - |q~_i|^2/2 + w_r.k~_j - |k~_j|^2/2), FAVOR+ with the projection given
                     (Choromanski et al., ICLR 2021, lemma 1; the factor 1/M cancels), of the hyperbolic map plus the
                     same sum with -w_r in place of w_r; of oprf 2 A |w_r|^2 + sqrt(1 - 4 A) w_r.(q~_i + k~_j) in place
                     of w_r.q~_i + w_r.k~_j; with L q in place of q and L^-T (k - s) in place of k where they are
                     balanced and shifted; of the other maps sum_r phi_r(q_i) phi_r(k_j); with an eps or a guard of the
                     normaliser in the form of enum favor_key_max and enum favor_guard.
                     With a window, and |i - j| <= window, exp(q~_i.k~_j) instead (of L q and L^-T (k - s) too), and
                     the others by their factor 1/M (or 1/(2M); of oprf Dc^2/M), which does not cancel then */
  CHECK_SOFTMAX,  /* those of `exact` */
  CHECK_WINDOW,   /* those of `exact` where |i - j| <= window or i or j is among the first global_tokens of the segment
                     (Longformer: Beltagy et al. 2020), else 0 */
  CHECK_EQUAL,    /* 1: the mean of v over A(i) */
  CHECK_ITSELF,   /* 1 for j = i, else 0: v_i */
  CHECK_NONE      /* no concern: the answer `definition` is not computed */
};

enum check_answer { CHECK_DEFINITION, CHECK_EXACT, CHECK_MEAN, CHECK_N_ANSWERS };
/* Sums that are kept, at most: those of the answers, and the sizes of the definition's terms where they are signed. */
enum { CHECK_MAX_SUMS = CHECK_N_ANSWERS + 1 };

/* A sampled token and what it may attend to. */
struct check_row {
  int64_t token;
  int64_t key_begin, key_end; /* A(token) */
  double weight;              /* tokens that it stands for, in the error against exact attention; 1: itself */
};

struct check_problem {
  const struct check_row *rows; /* [n_rows], tokens ascending; copied */
  int64_t n_rows;
  int64_t key_heads;     /* flat, over the batch */
  int64_t heads_per_key; /* flat query head f reads flat key head f / heads_per_key */
  int64_t key_width, value_width;
  double scale;
  enum check_definition definition;
  /* CHECK_FEATURES */
  enum favor_map map;
  int64_t features;         /* M, of the projection */
  const double *projection; /* [projections][M][D], copied; flat key head g uses number g % projections */
  int64_t projections;
  double eps; /* as it is used, not below 0 */
  /* As in favor.h; the maximum itself comes with the estimates. */
  enum favor_key_max key_max;
  enum favor_guard guard_rule;
  double guard;
  bool is_causal; /* what a guard may depend on */
  enum favor_balance balance;
  struct favor_estimates estimates; /* of all key heads; NULL members: none; the caller's, until check_destroy */
  bool has_window;                  /* beside the features */
  int64_t window;                   /* of those, or CHECK_WINDOW's */
  /* CHECK_WINDOW */
  int64_t global_tokens;
  int threads; /* that call check_absorb at once, each for another key head; 0 is 1 */
};

struct check;

/* n_rows tokens of [0, n_tokens), ascending and distinct, a function of the seed alone: where there are three or more
 * the first is token 0 and the last is token n_tokens - 1, where mistakes at ends would show, and one is drawn from
 * each of as many equal parts of what is between as remain; else one from each of n_rows parts. weights [n_rows], or
 * NULL: how many tokens each stands for, so that weighted sums have no bias. 1 <= n_rows <= n_tokens. */
void check_sample(int64_t n_tokens, int64_t n_rows, uint64_t seed, int64_t *tokens, double *weights);

/* A(token): the tokens of its segment, up to itself when causal. segments [n_segments + 1]; NULL: one segment. */
struct check_row check_row_of(int64_t token, int64_t n_tokens, const int64_t *segments, int64_t n_segments,
                              bool is_causal);

/* q [n_rows][key_heads * heads_per_key][D], the sampled queries. NULL where memory is short. */
struct check *check_create(const struct check_problem *problem, const double *q);
void check_destroy(struct check **check);

/* Does any sampled row attend to tokens of [begin, end)? */
bool check_needs(const struct check *check, int64_t begin, int64_t end);

/* Takes in tokens [begin, end) of one flat key head: k [end - begin][D], v [end - begin][E], all finite. begin is a
 * multiple of CHECK_TILE_TOKENS, and end too but for the last token. The calling thread of a team has a number below
 * `threads`. */
void check_absorb(struct check *check, int64_t key_head, int64_t begin, int64_t end, const double *k, const double *v);

/* What was found for a flat key head: binned rows of 1 + E elements, the sum of weights and of weights times v, one for
 * each sum that is kept and query. */
int64_t check_n_rows(const struct check *check);
size_t check_row_bytes(const struct check *check);
void *check_rows(struct check *check, int64_t key_head);

/* The attention of one row and flat query head: out [E]; 0 where the normaliser is 0, and NaN, with which no output
 * agrees, for the definition by a singular balance. */
void check_value(const struct check *check, enum check_answer answer, int64_t row, int64_t head, double *out);

/* ---- judging an output ------------------------------------------------------------------------------------------ */

/* A floating-point type: digits of its significand with the hidden one, exponent of its least normal number. */
struct check_type {
  int digits, min_exponent;
};

/* Sums of squares over the sampled rows of one query head, those of exact attention weighted. Infinite where an output
 * is NaN or infinite. */
/* Squares of doubles leave the range of double: hence long double. */
struct check_head {
  long double definition, definition_error; /* |def|^2 and |out - def|^2 beyond rounding, see check_judge */
  long double exact, exact_error;           /* |exact|^2, |out - exact|^2 */
  long double mean_error;                   /* |mean - exact|^2 */
  int64_t worst_row;
  double worst_error; /* of that row: |out - def| / max(|def|, root mean square of |def| over the head's rows) */
};

/* Holds an output against the answers: out [n_rows][heads][E]. Without a definition its members are 0. An element's
 * distance from the definition counts as far as it exceeds half a unit in the last place of `type`, which storing the
 * element in that type may cost.
 *
 * Where weights are signed, rows whose normaliser D is small beside the sum |D| of its terms' sizes count less. Let c
 * be D / |D| over its root mean square over the head's rows, at most 1: definition is c def there, and its error is c^2
 * times the distance, as rounding by t of |N| and |D| moves a quotient N / D by t (|N| + |N / D| |D|) / D. */
void check_judge(const struct check *check, int64_t head, const double *out, struct check_type type,
                 struct check_head *judged);

/* Adds the squares of another head; its worst row stays its own. */
void check_head_add(struct check_head *sum, const struct check_head *head);

/* The relative error that two sums of squares make: 0 where the error is 0, infinite where either is no finite number.
 */
double check_ratio(long double error, long double reference);

/* How good an approximation of exact attention is, over all sampled rows and heads. */
struct check_certificate {
  int64_t rows;
  double relative_error, mean_error; /* |out - exact| / |exact|, and that of the mean of v over A(i) */
  double skill;                      /* 1 - relative_error / mean_error; NaN where the mean of v is exact */
};
struct check_certificate check_certify(const struct check_head *sum, int64_t rows);

#endif

/* A check, seen from check.c, which finds the answers, and check_judge.c, which holds outputs against them. */
#ifndef FAVOR_CORE_CHECK_INTERNAL_H
#define FAVOR_CORE_CHECK_INTERNAL_H

#include "core/check.h"

enum { CHECK_SIZES = CHECK_N_ANSWERS }; /* of the sums: those of the sizes of the definition's terms */

struct check {
  struct check_problem problem; /* owns rows and projection */
  int64_t n_queries;            /* of one key head: n_rows * heads_per_key */
  int64_t n_features;           /* R: of M directions, with one sign or both */
  bool is_signed;               /* features and weights */
  bool is_plain, is_relative;   /* an exponential map with an eps or a guard; less maxima in the exponent */
  int n_sums;                   /* CHECK_N_ANSWERS, and with signs CHECK_MAX_SUMS */
  double *q;                    /* [key_heads][n_queries][D]: q~ */
  double *q_log;                /* [key_heads][n_queries][R]: logarithms of features, less the query's largest */
  double *q_top;                /* [key_heads][n_queries]: what was taken off */
  double *q_feature;            /* exp of it, with the feature's sign */
  int64_t most_tokens;          /* that features are taken of at a time */
  double *inverse;              /* [key_heads][D][D], of a full balance */
  double *moved;                /* [2][most_tokens][D]: shifted and scaled, then multiplied with a full balance */
  double *tops;                 /* [key_heads][n_sums][n_queries] */
  double *sums;                 /* [key_heads][n_sums][n_queries][1 + E] */
  double *row;                  /* [R] */
  /* one tile of keys */
  double *k;         /* [TILE][D]: k~ */
  double *v;         /* [TILE][1 + E]: 1, v */
  double *k_log;     /* [TILE][R] */
  double *k_feature; /* [TILE][R] */
  double *k_top;     /* [TILE]: what was taken off the logarithms of a key's features */
  double *weights;   /* [CHUNK][TILE] */
  double *signs;     /* [CHUNK][TILE]: of the weights, where they are signed */
  double *q_size;    /* [CHUNK][R]: |q_feature| of the queries at hand, where they are signed */
  double *k_size;    /* [TILE][R] */
  double *answers;   /* [CHECK_N_ANSWERS][E], of the row that is judged */
};

/* What a guard adds to the definition's normaliser, which stands at `place`, in its units. */
double check_guard(const struct check *check, int64_t place, int64_t row, int64_t head);

/* Where the sums of this number stand for a row and flat query head, counted in queries. */
int64_t check_place(const struct check *check, int number, int64_t row, int64_t head);

#endif

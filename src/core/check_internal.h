/* What the parts of the check share: check.c walks keys, check_features.c and check_weights.c find weights, and
 * check_judge.c holds outputs against the answers. */
#ifndef FAVOR_CORE_CHECK_INTERNAL_H
#define FAVOR_CORE_CHECK_INTERNAL_H

#include "base/binned.h"
#include "core/check.h"

enum {
  CHECK_CHUNK_QUERIES = 512,    /* that meet a tile of keys at a time */
  CHECK_SIZES = CHECK_N_ANSWERS /* of the sums: those of the sizes of the definition's terms */
};

struct check {
  struct check_problem problem; /* owns rows and projection */
  int64_t n_queries;            /* of one key head: n_rows * heads_per_key */
  int64_t n_features;           /* R: of M directions, with one sign or both; 0 where no definition asks for any */
  bool is_signed;               /* features and weights */
  bool is_plain, is_relative;   /* an exponential map with an eps or a guard; less maxima in the exponent */
  bool is_singular;             /* a balance: nothing is the definition */
  int first_sum, n_sums;        /* numbers of the sums kept: answers, and with signs CHECK_SIZES */
  double *q;                    /* [key_heads][n_queries][D]: q~ */
  double *q_log;                /* [key_heads][n_queries][R]: logarithms of features, less the query's largest */
  double *q_top;                /* [key_heads][n_queries]: what was taken off */
  double *q_feature;            /* exp of it, with the feature's sign */
  double *inverse;              /* [key_heads][D][D], of a full balance */
  double *tops;                 /* [key_heads][sums][n_queries]: the largest logarithm of a weight's size seen here */
  size_t row_bytes;
  void *sums;            /* [key_heads][sums][n_queries] binned rows of 1 + E */
  double *answers;       /* [CHECK_N_ANSWERS][E], of the row that is judged */
  struct check *workers; /* [threads]: copies of this, each with memory of its own for what follows: one tile of keys */
  double *k;             /* [TILE][D]: k~ */
  double *v;             /* [TILE][1 + E]: 1, v, times a power of two */
  double *moved;         /* [2][TILE][D]: shifted and scaled, then multiplied with a full balance */
  double *sizes;         /* [R]: of one token's features */
  double *k_log;         /* [TILE][R] */
  double *k_feature;     /* [TILE][R] */
  double *k_top;         /* [TILE]: what was taken off the logarithms of a key's features */
  double *weights;       /* [CHUNK][TILE] */
  double *signs;         /* [CHUNK][TILE]: of the weights, where they are signed */
  double *q_size;        /* [CHUNK][R]: |q_feature| of the queries at hand, where they are signed */
  double *k_size;        /* [TILE][R] */
  double *partial;       /* [CHUNK][1 + E]: sums over the tile */
};

/* Where a sum of a key head's queries stands among all. */
int64_t check_place(const struct check *check, int64_t key_head, int number, int64_t query);

/* The sums of this number for a row and flat query head. */
const struct binned_row *check_sums_of(const struct check *check, int number, int64_t row, int64_t head);

/* Features of n <= TILE tokens x~ of a key head, queries or keys: logarithms less the token's largest, and their
 * exponentials with the features' signs. tops: what was taken off. check: a worker. */
void check_take_features(struct check *check, int64_t key_head, bool is_key, const double *x, int64_t n, double *logs,
                         double *features, double *tops);

/* A tile and some queries of a key head. */
struct check_meeting {
  struct check *check; /* a worker, its tile loaded */
  int64_t key_head;
  int64_t token, n_keys;          /* tokens [token, token + n_keys) */
  int64_t query_begin, n_queries; /* queries of the key head, at most CHUNK */
  double *tops;                   /* of the sums at hand, from query_begin on */
  void *sums;                     /* the same */
};

/* Weights of the tile's keys for the sums of this number, before A(i) has its say: the logarithms of their sizes to
 * check->weights, less what all keys of a query share; their signs to check->signs, where true is returned. */
bool check_weigh(const struct check_meeting *meeting, int number);

static inline const struct check_row *check_row_at(const struct check_meeting *meeting, int64_t query) {
  const struct check_problem *problem = &meeting->check->problem;
  return &problem->rows[(meeting->query_begin + query) / problem->heads_per_key];
}

#endif

/* One run of `favor make`: what its parts share. */
#ifndef FAVOR_CLI_MAKE_H
#define FAVOR_CLI_MAKE_H

#include "cli/command.h"

enum make_tensor { MAKE_Q, MAKE_K, MAKE_V, MAKE_N_TENSORS };

/* The tokens of FASTA records; the same on every rank. */
struct sequences {
  int letters, k;
  int64_t vocabulary;
  int64_t n_records, n_letters, n_short; /* short: fewer letters than k */
  int64_t *letter_offsets;               /* [n_records + 1], into codes */
  int64_t *segments;                     /* [n_records + 1], in tokens */
  uint8_t *codes;
};

/* The tokens of one block, as far as they do not depend on the head. */
struct token_block {
  int64_t begin, end;
  int32_t *tokens;   /* [end - begin] */
  double *rotations; /* [end - begin][D / 2][2]: cosine and sine of position times frequency */
};

struct make {
  const struct command *command;
  struct favor_context *context;
  int64_t batch, heads, kv_heads, tokens, key_width, value_width;
  double spread;
  uint64_t seed;
  struct sequences *sequences;    /* NULL: random tensors */
  double *tables[MAKE_N_TENSORS]; /* [heads][vocabulary][width] where they are small enough, else NULL */
  double *row;                    /* [width] of a table that is not kept */
  struct token_block block;
};

static inline int64_t make_heads(const struct make *make, enum make_tensor tensor) {
  return make->batch * (tensor == MAKE_Q ? make->heads : make->kv_heads);
}
static inline int64_t make_width(const struct make *make, enum make_tensor tensor) {
  return tensor == MAKE_V ? make->value_width : make->key_width;
}

/* Collective: rank 0 reads the records and gives them to all. On failure *sequences is NULL. */
enum favor_status sequences_read(const struct command *command, struct sequences **sequences);
void sequences_free(struct sequences **sequences);

/* Local: tables and room for blocks of max_tokens. Failures are recorded. */
enum favor_status embedding_create(struct make *make, int64_t max_tokens);
void embedding_free(struct make *make);
/* Local: makes [begin, end) the current block. */
void embedding_start_block(struct make *make, int64_t begin, int64_t end);
/* Local: the current block of one head, x [tokens][width]. */
void embedding_fill(struct make *make, enum make_tensor tensor, int64_t head, double *x);

#endif

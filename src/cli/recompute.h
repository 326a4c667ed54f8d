/* Sampled rows of an output, recomputed over all keys by all ranks (core/check.h): what `verify`, the certificate of
 * `attend` and its pilot share. Keys go round the ranks in blocks of whole tiles, and the sums are reproducible, so the
 * answers have the same bits for any number of ranks. */
#ifndef FAVOR_CLI_RECOMPUTE_H
#define FAVOR_CLI_RECOMPUTE_H

#include "cli/command.h"
#include "cli/inputs.h"
#include "core/check.h"

enum recompute_tensor { RECOMPUTE_Q, RECOMPUTE_K, RECOMPUTE_V };

/* Where the tensors come from. */
struct recompute_source {
  /* Local: tokens [begin, end) of all flat heads as the run saw them, [heads][tokens][width], all finite; records what
   * fails. */
  void (*read)(const struct recompute_source *source, enum recompute_tensor tensor, int64_t begin, int64_t end,
               double *data);
};

/* Tensors of files; the source comes first, so that a pointer to it is one to all. */
struct recompute_inputs {
  struct recompute_source source;
  struct favor_context *context;
  const char *path;
  const struct inputs *inputs;
  enum favor_precision precision; /* of the run, which rounded what it read to it */
};
struct recompute_inputs recompute_inputs(struct favor_context *context, const char *path, const struct inputs *inputs,
                                         enum favor_precision precision);

struct recompute {
  /* given */
  const struct command *command;
  const char *what;                    /* e.g. "verify", for the line of progress */
  const char *option;                  /* e.g. "--rows", for messages: what to lower */
  const struct favor_problem *problem; /* shapes, segments, is_causal */
  const struct recompute_source *source;
  int threads;              /* of this rank; 0 is 1 */
  int64_t most_block_bytes; /* of the keys and values read at once, as doubles, in whole tiles; 0: a default */
  /* found */
  int64_t heads, key_heads; /* flat */
  int64_t n_rows;
  struct check_row *rows;
  struct check *check;
  /* within */
  double *q; /* [n_rows][heads][D] */
  int64_t block_tokens;
  double *k, *v; /* [key_heads][block_tokens][D], [E] */
  struct dist_group *group;
};

/* Local: draws min(rows, tokens) tokens by the seed alone; rank 0 reads their queries. Records FAVOR_EUSAGE,
 * FAVOR_ENOMEM and what the source records; recompute_run agrees on it. */
void recompute_draw(struct recompute *recompute, int64_t rows, uint64_t seed);

/* Collective, after recompute_draw on all ranks: the answers, complete on every rank. definition: scale, definition and
 * what goes with it; the rest is filled in here. Errors: FAVOR_EUSAGE (more tokens than tiles can be added up),
 * FAVOR_ENOMEM, FAVOR_EMPI, what the source records. */
enum favor_status recompute_run(struct recompute *recompute, const struct check_problem *definition);

/* Local: where rows of the output lie in an array [n_rows][heads][E]. */
static inline int64_t recompute_out_row(const struct recompute *recompute, int64_t row, int64_t head) {
  return (row * recompute->heads + head) * recompute->problem->value_width;
}

/* Collective: joins rows [n_rows][heads][E] of which every rank has some and zeros elsewhere, and judges them against
 * exact attention, the same on every rank. */
enum favor_status recompute_certify(const struct recompute *recompute, double *out_rows,
                                    struct check_certificate *certificate);

/* Collective, without communication but for freeing the group. Accepts zeros. */
void recompute_release(struct recompute *recompute);

#endif

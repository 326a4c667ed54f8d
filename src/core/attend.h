/* One head, one piece of a segment: the mathematics of one rank.
 *
 * A piece is n consecutive tokens of one segment whose first token starts a run. Arrays are rows of reals at a stride.
 * Each function returns false and fills the refusal (its token counted from the piece) at the first token that cannot
 * be computed with; what came before is done.
 */
#ifndef FAVOR_CORE_ATTEND_H
#define FAVOR_CORE_ATTEND_H

#include "core/kept.h"
#include "core/worker.h"

/* Keys and values of a piece; its queries are a struct kernel_queries of n tokens, of which scale and is_lost are not
 * the caller's to set. */
struct piece_keys {
  int64_t n;
  const void *k, *v;
  int64_t k_stride, v_stride;
  struct kept_tiles kept; /* where attend_absorb leaves features and attend_causal finds them */
};
/* Adds the piece's keys and values to the state, run by run. */
bool attend_absorb(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                   const struct piece_keys *keys, void *rows, struct refusal *refusal);

/* Bidirectional outputs of the piece's queries (kernel.h; n of any size) from a complete state, which stands in
 * worker->view (worker_view). */
bool attend_emit(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                 const struct kernel_queries *queries, struct refusal *refusal);

/* Causal outputs of the piece after the keys in `rows`, which then takes the piece's keys. */
bool attend_causal(const struct engine *engine, struct worker *worker, const struct head_weights *weights,
                   const struct piece_keys *keys, const struct kernel_queries *queries, void *rows,
                   struct refusal *refusal);

/* Looks at every number of the piece, and at what a transform (NULL: none) makes of its tokens. */
bool attend_check(const struct engine *engine, struct worker *worker, const struct row_transform *transform,
                  const struct piece_keys *keys, const struct kernel_queries *queries, struct refusal *refusal);

/* The piece's values as the outputs of its queries; reads nothing else of them. */
bool attend_copy(const struct engine *engine, struct worker *worker, const struct piece_keys *keys,
                 const struct kernel_queries *queries, struct refusal *refusal);

#endif

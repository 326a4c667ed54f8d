/* Methods that need other ranks' tokens as they are: the whole shard in one collective block.
 *
 * Such a plan has no states. Its one block gives q, k, v and out of the rank's shard; tokens of other
 * ranks come over plan->axis, the ranks of the same heads in order of tokens. Where those own which tokens is a
 * function of the problem, tokens_shard(&plan->tokens, plan->grid.tokens, part), so nobody has to ask. */
#ifndef FAVOR_PLAN_METHOD_H
#define FAVOR_PLAN_METHOD_H

#include "plan/execute.h"

struct method {
  /* Shards begin at multiples of it from their segment's first token; 0: of a run of the kernel. */
  int64_t tile_tokens;
  const char *kernel; /* that its products are of, a name of favor_kernel_name(); NULL: the plan's */
  /* Most pieces of an exchange over the axis. */
  int64_t (*n_pieces)(const struct favor_plan *plan);
  /* Bytes that allocate() takes on this rank. */
  size_t (*bytes)(const struct favor_plan *plan);
  /* Local: allocates plan->method_data; records FAVOR_ENOMEM. It is freed with free(). */
  void (*allocate)(struct favor_plan *plan);
  /* Collective over the context (ranks that own nothing take part): all inputs are finite, and nothing has failed on
   * any rank. May record FAVOR_EMPI and nothing else; allocates nothing. */
  void (*attend)(struct favor_plan *plan, const struct block_arrays *arrays);
  double (*flops)(const struct favor_plan *plan); /* of the whole problem */
  bool has_states;                                /* of features, if not ones that outlast the block */
};

extern const struct method method_hybrid;

/* NULL: the problem is solved with states, or needs nothing. */
const struct method *method_of(const struct favor_problem *problem);

/* The row of a head (counted from the rank's first) and a token, in an input or in the output of the block. */
static inline const void *method_rows(const struct favor_plan *plan, const struct block_arrays *arrays,
                                      const struct favor_input *x, int64_t head, int64_t token) {
  const void *rows = row_in(&plan->engine, x->data, x->head_stride, head);
  return row_in(&plan->engine, rows, x->token_stride, token - arrays->begin);
}
static inline void *method_out(const struct favor_plan *plan, const struct block_arrays *arrays, int64_t head,
                               int64_t token) {
  void *rows = row_out(&plan->engine, arrays->out->data, arrays->out->head_stride, head);
  return row_out(&plan->engine, rows, arrays->out->token_stride, token - arrays->begin);
}

#endif

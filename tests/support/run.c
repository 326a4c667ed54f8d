#include "run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run_contexts run_contexts_open(void) {
  struct run_contexts contexts = {NULL, NULL};
  if (favor_context_create(MPI_COMM_WORLD, &contexts.world) != FAVOR_OK ||
      favor_context_create(MPI_COMM_SELF, &contexts.self) != FAVOR_OK) {
    fprintf(stderr, "the tests get no context\n");
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  return contexts;
}

void run_contexts_close(struct run_contexts *contexts) {
  favor_context_destroy(&contexts->self);
  favor_context_destroy(&contexts->world);
}

void run_print(const char *format, ...) {
  int rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) return;
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  fflush(stdout);
}

size_t run_element_bytes(const struct favor_problem *problem) {
  return problem->precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float);
}

size_t run_out_bytes(const struct favor_problem *problem) {
  return (size_t)(problem->batch * problem->heads * problem->tokens * problem->value_width) *
         run_element_bytes(problem);
}

double run_element(const struct favor_problem *problem, const void *out, int64_t i) {
  return problem->precision == FAVOR_PRECISION_F64 ? ((const double *)out)[i] : (double)((const float *)out)[i];
}

static void set_element(const struct favor_problem *problem, void *array, int64_t i, double x) {
  if (problem->precision == FAVOR_PRECISION_F64)
    ((double *)array)[i] = x;
  else
    ((float *)array)[i] = (float)x;
}

/* The heads [head_begin, head_end) and tokens [token_begin, token_end) of a tensor, in the library's layout. */
struct block {
  int64_t head_begin, head_end, token_begin, token_end, width;
  int64_t head_stride, token_stride;
  void *data;
};

static struct block block_create(const struct favor_problem *problem, enum run_mode mode, int64_t head_begin,
                                 int64_t head_end, int64_t token_begin, int64_t token_end, int64_t width) {
  int64_t heads = head_end - head_begin, tokens = token_end - token_begin, count = heads * tokens * width;
  struct block block = {.head_begin = head_begin,
                        .head_end = head_end,
                        .token_begin = token_begin,
                        .token_end = token_end,
                        .width = width,
                        .head_stride = mode == RUN_EXECUTE ? tokens * width : width,
                        .token_stride = mode == RUN_EXECUTE ? width : heads * width};
  block.data = calloc(count > 0 ? (size_t)count : 1, run_element_bytes(problem));
  return block;
}

static int64_t block_index(const struct block *block, int64_t head, int64_t token) {
  return (head - block->head_begin) * block->head_stride + (token - block->token_begin) * block->token_stride;
}

/* Copies rows of the whole tensor x, [heads][tokens][width], into the block. */
static void block_pack(const struct favor_problem *problem, struct block *block, const double *x) {
  for (int64_t h = block->head_begin; h < block->head_end; h++)
    for (int64_t i = block->token_begin; i < block->token_end; i++)
      for (int64_t e = 0; e < block->width; e++)
        set_element(problem, block->data, block_index(block, h, i) + e,
                    x[(h * problem->tokens + i) * block->width + e]);
}

static void block_unpack(const struct favor_problem *problem, const struct block *block, void *whole) {
  size_t bytes = run_element_bytes(problem), row_bytes = bytes * (size_t)block->width;
  for (int64_t h = block->head_begin; h < block->head_end; h++)
    for (int64_t i = block->token_begin; i < block->token_end; i++)
      memcpy((char *)whole + (size_t)(h * problem->tokens + i) * row_bytes,
             (const char *)block->data + (size_t)block_index(block, h, i) * bytes, row_bytes);
}

static struct favor_input input_of(const struct block *block) {
  return (struct favor_input){block->data, block->head_stride, block->token_stride};
}

/* Gives the blocks of one token range to the library; index < 0: all at once, else that block. */
static enum favor_status run_range(struct favor_plan *plan, const struct favor_problem *problem,
                                   const struct case_tensors *t, enum run_mode mode, int64_t index, unsigned needs,
                                   int64_t token_begin, int64_t token_end, void *whole) {
  struct favor_shard shard;
  favor_plan_shard(plan, &shard);
  int64_t head_begin = shard.head_begin, head_end = shard.head_end;
  int64_t kv_begin = shard.kv_head_begin, kv_end = shard.kv_head_end;
  struct block q = block_create(problem, mode, head_begin, head_end, token_begin, token_end, t->key_width);
  struct block k = block_create(problem, mode, kv_begin, kv_end, token_begin, token_end, t->key_width);
  struct block v = block_create(problem, mode, kv_begin, kv_end, token_begin, token_end, t->value_width);
  struct block out = block_create(problem, mode, head_begin, head_end, token_begin, token_end, t->value_width);
  block_pack(problem, &q, t->q);
  block_pack(problem, &k, t->k);
  block_pack(problem, &v, t->v);
  struct favor_input in_q = input_of(&q), in_k = input_of(&k), in_v = input_of(&v);
  struct favor_output in_out = {out.data, out.head_stride, out.token_stride};
  enum favor_status status =
      index < 0 ? favor_plan_execute(plan, &in_q, &in_k, &in_v, &in_out)
                : favor_plan_run_block(plan, index, needs & FAVOR_NEEDS_Q ? &in_q : NULL,
                                       needs & FAVOR_NEEDS_K ? &in_k : NULL, needs & FAVOR_NEEDS_V ? &in_v : NULL,
                                       needs & FAVOR_NEEDS_OUT ? &in_out : NULL);
  if (needs & FAVOR_NEEDS_OUT) block_unpack(problem, &out, whole);
  free(q.data);
  free(k.data);
  free(v.data);
  free(out.data);
  return status;
}

void run_set_mode(struct favor_problem *problem, enum run_mode mode) { problem->is_streamed = mode == RUN_BLOCKS; }

enum favor_status run_block(struct favor_plan *plan, const struct favor_problem *problem, const struct case_tensors *t,
                            int64_t index, void *whole) {
  struct favor_block block;
  favor_plan_block(plan, index, &block);
  return run_range(plan, problem, t, RUN_BLOCKS, index, block.needs, block.token_begin, block.token_end, whole);
}

static enum favor_status run_blocks(struct favor_plan *plan, const struct favor_problem *problem,
                                    const struct case_tensors *t, void *whole) {
  favor_plan_begin(plan);
  for (int64_t i = 0; i < favor_plan_n_blocks(plan); i++) {
    if (run_block(plan, problem, t, i, whole) != FAVOR_OK) break;
  }
  return favor_plan_end(plan);
}

enum favor_status run_plan(struct favor_plan *plan, const struct favor_problem *problem, const struct case_tensors *t,
                           enum run_mode mode, void *out) {
  memset(out, 0, run_out_bytes(problem));
  if (mode == RUN_BLOCKS) return run_blocks(plan, problem, t, out);
  struct favor_shard shard;
  favor_plan_shard(plan, &shard);
  return run_range(plan, problem, t, RUN_EXECUTE, -1, FAVOR_NEEDS_OUT, shard.token_begin, shard.token_end, out);
}

enum favor_status run_problem(struct favor_context *context, const struct favor_problem *problem,
                              const struct case_tensors *t, enum run_mode mode, void *out) {
  struct favor_plan *plan = NULL;
  struct favor_problem way = *problem;
  run_set_mode(&way, mode);
  enum favor_status status = favor_plan_create(context, &way, &plan);
  if (status == FAVOR_OK) status = run_plan(plan, problem, t, mode, out);
  favor_plan_destroy(&plan);
  return status;
}

int64_t run_tokens_of(struct favor_context *self, const struct favor_problem *problem) {
  struct favor_plan *plan = NULL;
  struct favor_plan_info info = {0};
  if (favor_plan_create(self, problem, &plan) == FAVOR_OK) favor_plan_info(plan, &info);
  favor_plan_destroy(&plan);
  return info.run_tokens;
}

void run_gather(MPI_Comm comm, void *out, size_t bytes) {
  const size_t most = (size_t)1 << 30;
  for (size_t done = 0; done < bytes; done += most) {
    size_t part = bytes - done < most ? bytes - done : most;
    MPI_Allreduce(MPI_IN_PLACE, (char *)out + done, (int)part, MPI_BYTE, MPI_BOR, comm);
  }
}

double *run_projection_of_head(const struct favor_plan *plan, const struct favor_problem *problem, int64_t head) {
  int64_t count = problem->features * problem->key_width;
  int64_t first = problem->has_projection_per_head ? case_kv_head(problem, head) % problem->kv_heads * count : 0;
  double *projection = calloc((size_t)count, sizeof *projection);
  for (int64_t i = 0; i < count; i++) projection[i] = run_element(problem, favor_plan_projection(plan), first + i);
  return projection;
}

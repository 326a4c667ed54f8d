/* Runs of the library on whole tensors: each rank packs its shard, runs it, and puts its outputs where they belong. */
#ifndef FAVOR_TESTS_RUN_H
#define FAVOR_TESTS_RUN_H

#include "cases.h"

/* What the tests of the library run on: all ranks together, and this rank alone. */
struct run_contexts {
  struct favor_context *world, *self;
};

/* Collective; aborts where a context cannot be had. */
struct run_contexts run_contexts_open(void);
void run_contexts_close(struct run_contexts *contexts);

/* On rank 0 of MPI_COMM_WORLD. */
void run_print(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum run_mode {
  RUN_EXECUTE, /* favor_plan_execute on arrays that are heads first */
  RUN_BLOCKS   /* favor_plan_run_block, arrays that are tokens first and hold one block each; streamed */
};

size_t run_element_bytes(const struct favor_problem *problem);
/* Of the whole out, [heads][N][E]. */
size_t run_out_bytes(const struct favor_problem *problem);

/* Says in the problem how it is run. */
void run_set_mode(struct favor_problem *problem, enum run_mode mode);

/* Collective over the plan's context. out is the whole tensor: this rank's rows are written, all others are zeroed. */
enum favor_status run_plan(struct favor_plan *plan, const struct favor_problem *problem, const struct case_tensors *t,
                           enum run_mode mode, void *out);

/* Collective: one block of a streamed plan; what it gives goes where it belongs in `whole`. */
enum favor_status run_block(struct favor_plan *plan, const struct favor_problem *problem, const struct case_tensors *t,
                            int64_t index, void *whole);

/* Collective: create, run, destroy. */
enum favor_status run_problem(struct favor_context *context, const struct favor_problem *problem,
                              const struct case_tensors *t, enum run_mode mode, void *out);

/* Local: run_tokens of a problem, from a plan of its own on `self`, a context of one rank; 0 if it fails. */
int64_t run_tokens_of(struct favor_context *self, const struct favor_problem *problem);

/* Collective: every rank's rows of what run_plan left; byte for byte. */
void run_gather(MPI_Comm comm, void *out, size_t bytes);

/* Element i of an output, of any precision. */
double run_element(const struct favor_problem *problem, const void *out, int64_t i);

/* The projection that a query head of the plan uses, [M][D], in float64; owned by the caller. */
double *run_projection_of_head(const struct favor_plan *plan, const struct favor_problem *problem, int64_t head);

#endif

/* favor: what a machine costs, and what a run on it will take.
 *
 *   struct favor_machine machine = favor_machine_default();
 *   struct favor_job job = {.ranks = 1024, .nodes = 16, .threads = 2};
 *   favor_predict(context, &problem, &job, &machine, &prediction);
 *
 * The job's ranks need not be there. Grid, scan, schedule, memory and bytes are exactly those of a plan of as many
 * ranks; seconds are as good as the machine's figures, which `favor bench` measures. Symbols are those of favor.h.
 */
#ifndef FAVOR_FAVOR_MACHINE_H
#define FAVOR_FAVOR_MACHINE_H

#include <favor/favor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- costs ------------------------------------------------------------------------------------------------------- */

/* Of a message: latency_s + bytes s_per_byte. */
struct favor_link_costs {
  double latency_s, s_per_byte;
};

/* What moving and merging states costs: the plan's choice of scan and reduction follows it. */
struct favor_costs {
  struct favor_link_costs within_node, between_nodes;
  double merge_s_per_byte; /* of a state into another, on one core */
};

/* Those of a 100 Gb/s network, within a node too. */
FAVOR_API struct favor_costs favor_costs_default(void);

/* Collective: plans made from now on choose by these, the same on every rank. A context starts with
 * favor_costs_default(). Errors: FAVOR_EUSAGE (not all finite and above 0, or not the same), with the costs unchanged.
 */
FAVOR_API enum favor_status favor_context_set_costs(struct favor_context *context, const struct favor_costs *costs);

/* ---- machine ----------------------------------------------------------------------------------------------------- */

enum { FAVOR_KERNEL_NAME_BYTES = 24 };

/* What a kernel takes for a token and head of one shape, where every query head has a key head of its own, by `threads`
 * threads of one rank together. Seconds, above 0. */
struct favor_rate {
  char kernel[FAVOR_KERNEL_NAME_BYTES];
  enum favor_precision precision;
  enum favor_map map;
  enum favor_projection projection;
  int64_t key_width, value_width, features; /* D, E, M */
  int threads;
  double absorb_s; /* a key and its value into the state */
  double emit_s;   /* a query's output from it */
  double causal_s; /* both, causally */
  /* The first and the last of these where the key's features are kept from the one to the other (favor_plan_create); 0:
   * the kernel keeps none, or it was not measured. */
  double keep_s, kept_s;
};

/* Files as a rank's I/O thread reads and writes them. */
struct favor_io_costs {
  double read_s_per_byte, write_s_per_byte; /* by `ranks` ranks of a node at once, each of its own bytes */
  double cpu_s_per_byte;                    /* of that a core is needed for: conversion, checksums */
  double finish_s;                          /* until an output has its name */
  int ranks;
};

struct favor_machine {
  struct favor_costs costs;
  struct favor_io_costs io;
  int cores;                      /* of a node; 0: as many as there are threads */
  const struct favor_rate *rates; /* [n_rates], the caller's; kernels and precisions without one have default figures */
  int n_rates;
};

/* The figures that a prediction has without measurements: a node of unknown cores, and no rates. */
FAVOR_API struct favor_machine favor_machine_default(void);

/* ---- prediction -------------------------------------------------------------------------------------------------- */

/* On what a problem would run. */
struct favor_job {
  int64_t ranks, nodes; /* at least 1; as many ranks on each node */
  int threads;          /* of each rank, at least 1; problem.threads is not read */
  /* Bytes of an element in files; 0: arrays in memory, of which nothing is read or written. */
  int q_bytes, k_bytes, v_bytes, out_bytes;
};

/* Seconds by phase, of the rank that has most of each. Reading and writing go on beside the rest: theirs is what the
 * rest waits for them. */
struct favor_predicted_seconds {
  double read, features_state, reduce, output, write;
  double run;   /* features_state, reduce and output together, of the rank that takes longest */
  double total; /* read, run and write; without starting the program and making the plan */
};

struct favor_prediction {
  const char *kernel, *scan; /* static */
  int64_t grid_heads, grid_tokens;
  const char *grid_reason; /* static */
  int64_t run_tokens, block_tokens, n_blocks;
  bool is_streamed;
  int64_t state_rows;
  size_t state_bytes;     /* one state of every key head of the problem */
  size_t memory_bytes;    /* of the plan on the rank that has most */
  size_t held_bytes;      /* by its caller: problem.caller_bytes, and blocks_held blocks */
  int64_t bytes_read;     /* by all ranks, of files */
  int64_t bytes_written;  /* by all ranks, of files: the outputs */
  int64_t bytes_sent;     /* state bytes that the busiest rank sends; -1: not known, as tokens travel, not states */
  double flops;           /* as in favor_plan_info */
  struct favor_rate rate; /* by which the seconds were reckoned: of this shape, or scaled from it by flops */
  bool is_rate_measured;  /* it is from one of machine->rates; else from a default figure */
  struct favor_rate from; /* what it is scaled from; the same where that is of this shape, map, projection and threads */
  struct favor_predicted_seconds seconds;
};

/* Local: what favor_plan_create and a run would do on these ranks. Refuses what they would refuse, in the same words,
 * which stay with the context as those of any local function; data that are only seen in a run, or on creation the
 * numbers of a projection, it does not look at. Seconds of methods that take other ranks' tokens as they are (exact,
 * window, linformer, lsh, favor with a window) are no more than their flops at the rate of BLAS. Errors: FAVOR_EUSAGE,
 * FAVOR_EDATA (segments), FAVOR_ENOMEM. */
FAVOR_API enum favor_status favor_predict(struct favor_context *context, const struct favor_problem *problem,
                                          const struct favor_job *job, const struct favor_machine *machine,
                                          struct favor_prediction *prediction);

#ifdef __cplusplus
}
#endif

#endif

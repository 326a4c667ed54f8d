/* `favor bench scaling`: the same attention on 1, 2, 4, ... ranks; what its parts share. */
#ifndef FAVOR_CLI_BENCH_SCALING_H
#define FAVOR_CLI_BENCH_SCALING_H

#include "cli/bench.h"
#include "cli/machine.h"
#include "cli/replacement.h"

enum { SCALING_MOST_POINTS = 4096, SCALING_MOST_COUNTS = 64, SCALING_NAME_BYTES = 48 };

/* Strong: the same tokens for any number of ranks; weak: as many for each. One rank's run is both. */
enum scaling_mode { SCALING_STRONG, SCALING_WEAK, SCALING_N_MODES };

/* What is measured of an execution, each of the rank that has most of it. */
enum scaling_time {
  SCALING_FEATURES_STATE,
  SCALING_REDUCE,
  SCALING_OUTPUT,
  SCALING_SUM, /* of these three; what `seconds` are */
  SCALING_WALL,
  SCALING_LOST_SHARE, /* of its threads' time in which the process did not run: others had the core */
  SCALING_N_TIMES
};

/* A run that is repeated: so many tokens on so many ranks, a grid, a scan. */
struct scaling_point {
  unsigned modes;               /* bits of enum scaling_mode */
  int64_t asked_tokens;         /* of all ranks when strong, of each when weak */
  int count;                    /* place of its number of ranks in scaling.counts */
  struct favor_problem problem; /* with grid and scan as they are asked for */

  /* On the ranks that take part. */
  struct favor_plan *plan; /* else NULL */
  struct favor_shard shard;
  struct favor_plan_info info;
  int64_t memory_bytes, bytes_sent; /* of the rank that has most */
  double relative_error;            /* against the definition */
  uint64_t digest;                  /* of the answer */
  double *times[SCALING_N_TIMES];   /* [n_rounds] each */
  double in_flight_s, blocked_s;    /* of all ranks and rounds: states on their way, and waited for */
  double predicted_seconds;         /* by the cost model; NaN: not known */
};

/* Numbers that were asked for. */
struct scaling_counts {
  int n;
  int64_t values[SCALING_MOST_COUNTS];
};

/* This rank's part of random arrays whose tokens repeat themselves (see bench_scaling_data.c). */
struct scaling_data {
  struct bench_data period; /* [heads][scaling_period_tokens] */
  size_t q_row_bytes, v_row_bytes;
  bool is_filled;
  struct favor_shard held;
  void *q, *k, *v, *out; /* [heads][tokens] of the shard that they hold */
};

struct scaling {
  struct command *command;
  struct favor_context *context; /* all ranks */
  enum favor_precision precision;
  int n_rounds;
  struct scaling_counts ranks, tokens;
  struct favor_context *subsets[SCALING_MOST_COUNTS]; /* of the first ranks.values[i] ranks; NULL on others */
  int n_points;
  struct scaling_point *points;
  struct scaling_data data;
  struct machine_file machine; /* of --machine */
};

/* Collective. Prints, and writes the file of --csv, on rank 0. Errors: those of a plan, FAVOR_EVERIFY (a wrong answer
 * is not timed), FAVOR_EUSAGE, FAVOR_ENOMEM, FAVOR_ECREATE and FAVOR_EIO. */
enum favor_status bench_scaling(struct command *command);

/* Local, the same on every rank: points as options ask for them. Errors are recorded; the caller agrees. */
void scaling_list(struct scaling *scaling);
static inline int64_t scaling_ranks_of(const struct scaling *scaling, const struct scaling_point *point) {
  return scaling->ranks.values[point->count];
}
/* Does an earlier point run the same? For points whose grids (info) are known. */
bool scaling_is_repeated(const struct scaling *scaling, int index);

/* Local: draws the period, and makes arrays for the largest of this rank's shards. False where memory is short. */
bool scaling_data_create(struct scaling *scaling);
void scaling_data_release(struct scaling_data *data);
int64_t scaling_period_tokens(void);
/* Local: bytes of the period, which every rank has of all heads. */
int64_t scaling_period_bytes(const struct scaling *scaling);
/* Local: bytes of q, k, v and out of a shard. */
int64_t scaling_shard_bytes(const struct scaling *scaling, const struct favor_shard *shard);
/* Local: fills the arrays with the shard's rows, unless they are there already. */
void scaling_data_fill(struct scaling_data *data, const struct favor_shard *shard);
/* Local: makes the output one that no run would give. */
void scaling_data_spoil(struct scaling_data *data, const struct favor_shard *shard);
/* Local: of a sample of the output's rows by their heads and tokens. The sum over ranks is that of the whole output,
 * however it is shared out. */
uint64_t scaling_data_digest(const struct scaling_data *data, const struct scaling_point *point);

/* Local: the relative error of some of this rank's rows against their definition; 0 where it has none, negative where
 * memory is short. */
double scaling_check(const struct scaling *scaling, const struct scaling_point *point,
                     const struct favor_estimates *estimates);

/* Local, on rank 0: the file of --csv, if any, under a temporary name beside it, so that one that cannot be written is
 * known before the work. Failures are recorded. */
void scaling_file_open(const struct scaling *scaling, struct replacement *file);
/* Local, on rank 0, after the last round: prints all points, and puts the file under its own name. */
void scaling_report(const struct scaling *scaling, struct replacement *file);

#endif

/* One head: exact attention inside a window joined to features outside it.
 *
 *   out_i = sum_j w_ij v_j / sum_j w_ij,  w_ij = exp(q~_i.k~_j) for j within W tokens of i, else phi(q_i).phi(k_j)
 *
 * with j over A(i), the tokens that i attends to, and phi.phi an estimate of exp(q~.k~). What is outside is never taken
 * as all less the window, which would cancel. Instead, of a tile of queries t, tiles t - lag to t + lag meet it one by
 * one; only they can hold keys of the windows, and in at most two of them on each side some pairs are outside. All
 * tiles before are in one state and, unless causal, all tiles after in another. The first follows the queries from the
 * front at its distance, the second from the back. They are sums of whole runs, reproducible, plus a plain sum of the
 * tiles of a run that is not complete: functions of the segment alone.
 *
 * A later value never costs an earlier causal output a bit as long as it is below 2^60 (2^400 in f64): above, a column
 * of the meeting tiles enters their sums times a power of two. */
#ifndef FAVOR_CORE_HYBRID_H
#define FAVOR_CORE_HYBRID_H

#include "core/attend.h"
#include "core/hybrid_tile.h"

/* What is the same for every head. */
struct hybrid {
  const struct engine *engine;
  int64_t tile;   /* tokens */
  int64_t window; /* W; at most 2^48 */
  int64_t lag;    /* tiles */
  bool is_causal;
};

struct hybrid hybrid_make(const struct engine *engine, int64_t window, bool is_causal);

/* The part of a query's sums that is after its windows: the mean, in its output, and the mean's weight. */
struct hybrid_after {
  double total; /* 0: there is none */
  int32_t top;
};

/* Tokens of one segment of one key head, which are counted from the segment's first. */
struct hybrid_stretch {
  int64_t n_tokens;              /* of the segment */
  int64_t key_begin;             /* the first of the keys */
  struct piece_keys keys;        /* rows without a gap; checked, and transformed where there is a transform */
  int64_t begin;                 /* the first query, of a run */
  struct kernel_queries queries; /* checked */
  struct hybrid_after *after;    /* [n_heads][after_stride]; not for causal */
  int64_t after_stride;
};

/* One thread's. */
struct hybrid_worker {
  struct worker *worker;
  struct hybrid_tile *tile;
  const struct head_weights *weights;
  const void *projection; /* as struct hybrid_tile's */
};

/* Adds the keys of whole runs [begin, end) to the state, as the sweep forward or the one backward would. */
void hybrid_absorb(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                   const struct hybrid_stretch *stretch, int64_t begin, int64_t end, bool is_backward, void *rows);

/* The sweep backward, first: fills `after` from the state of the keys from token `at` on, a run's first or the end of
 * the segment. The state takes the keys on the way. */
void hybrid_attend_after(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                         const struct hybrid_stretch *stretch, int64_t at, void *rows);

/* The sweep forward: the outputs, from the state of the keys before token `at`, a run's first. */
void hybrid_attend(const struct hybrid *hybrid, const struct hybrid_worker *worker,
                   const struct hybrid_stretch *stretch, int64_t at, void *rows);

#endif

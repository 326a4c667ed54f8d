/* favor: linear-cost attention over sequences sharded across MPI ranks.
 *
 * The order of calls is  context -> problem -> plan -> execute.
 *
 *   struct favor_context *context = NULL;
 *   struct favor_plan *plan = NULL;
 *   favor_context_create(MPI_COMM_WORLD, &context);
 *   struct favor_problem problem = favor_problem_default();
 *   ... set heads, tokens, widths ...
 *   favor_plan_create(context, &problem, &plan);
 *   favor_plan_shard(plan, &shard);             which heads and tokens this rank owns
 *   favor_plan_execute(plan, &q, &k, &v, &out); arrays of that shard
 *   favor_plan_destroy(&plan);
 *   favor_context_destroy(&context);
 *
 * Symbols: B batch, H query heads, G key heads, N tokens, D key width, E value width, M directions w_r, the rows of the
 * projection, R features, the rows of a state: M, or 2 M with FAVOR_MAP_HYPERBOLIC and FAVOR_MAP_TRIGONOMETRIC. Query
 * head h reads key head floor(h G / H). Heads are counted flat over the batch: query head b H + h, key head b G + g.
 * Token ranges are half-open and global; sizes and indices are int64_t.
 *
 * The computed function (Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, lemma 1):
 *
 *   x~ = sqrt(scale) x,  u_r = w_r . x~,  g = |x~|^2 / 2
 *   phi(x) = M^-1/2 exp(u - g)                          FAVOR_MAP_POSITIVE
 *   phi(x) = (2M)^-1/2 [exp(u - g), exp(-u - g)]        FAVOR_MAP_HYPERBOLIC
 *   phi(x) = M^-1/2 exp(g) [cos u, sin u]               FAVOR_MAP_TRIGONOMETRIC
 *   phi(x) = M^-1/2 Dc exp(A |w|^2 + Bc u - g)          FAVOR_MAP_OPRF, see enum favor_map
 *   phi(x) = f(u) + eps                                 all other maps, the paper's generalised attention
 *   out_i = sum_j (phi(q_i) . phi(k_j)) v_j / sum_j (phi(q_i) . phi(k_j))
 *
 * with j over the tokens of i's segment (causal: those with j <= i). With a key shift s and a balance L, which leave
 * softmax attention as it is, q and k are replaced by L q and L^-T (k - s) first; see enum favor_key_shift. With a
 * window, exp(q~_i . k~_j), of these rows too, takes the place of phi(q_i) . phi(k_j) for the tokens j in it.
 *
 * Errors: every function that can fail returns enum favor_status. A collective function returns the same status on
 * every rank, and favor_context_message() then gives the same text on every rank. A local function that fails leaves
 * its error with the context; the next collective function on that context reports it everywhere.
 */
#ifndef FAVOR_FAVOR_H
#define FAVOR_FAVOR_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <favor/favor_version.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FAVOR_API __attribute__((visibility("default")))
#else
#define FAVOR_API
#endif

/* In order of severity: where ranks fail differently, the highest is reported. */
enum favor_status {
  FAVOR_OK = 0,
  FAVOR_ESTOPPED,  /* ended before its end on request, and can go on */
  FAVOR_EVERIFY,   /* an answer was checked and is wrong */
  FAVOR_EUSAGE,    /* an argument or option is out of range or contradicts another */
  FAVOR_ECONFIG,   /* a configuration file is malformed */
  FAVOR_EDATA,     /* input data: shapes, types, segments, NaN or Inf, truncated or foreign file */
  FAVOR_ECREATE,   /* the output cannot be created */
  FAVOR_EIO,       /* a read or a write failed */
  FAVOR_ENOMEM,    /* memory could not be allocated */
  FAVOR_EINTERNAL, /* a step failed for no reason of the caller's */
  FAVOR_EMPI,      /* an MPI call failed; the context communicates no more */
  FAVOR_N_STATUS
};

/* The name of a status, e.g. "FAVOR_EDATA". Local; never NULL; the string is static. */
FAVOR_API const char *favor_status_name(enum favor_status status);

/* ---- context ---------------------------------------------------------------------------------------------------- */

struct favor_context;

/* Collective over comm, which is duplicated; the caller keeps comm. On the duplicate errors return.
 * Errors: FAVOR_EMPI, FAVOR_ENOMEM. On failure *context is NULL. */
FAVOR_API enum favor_status favor_context_create(MPI_Comm comm, struct favor_context **context);

/* Collective over the context's ranks; plans and files made from it must be gone. Accepts NULL, sets it to NULL. */
FAVOR_API void favor_context_destroy(struct favor_context **context);

/* The text of the last agreed error, "" before any. Local; valid until the next call on the context. */
FAVOR_API const char *favor_context_message(const struct favor_context *context);

/* Local: forgets this rank's own error that no collective function has reported yet, for a caller that dealt with it.
 */
FAVOR_API void favor_context_forget(struct favor_context *context);

FAVOR_API int favor_context_rank(const struct favor_context *context);
FAVOR_API int favor_context_size(const struct favor_context *context);

/* ---- problem ---------------------------------------------------------------------------------------------------- */

/* What is computed, A(i) being the tokens that i attends to. Exact: softmax attention as it is defined,
 * sum_j exp(scale q_i . k_j) v_j / sum_j exp(scale q_i . k_j) over A(i), in N^2 (D + E) time; of memory it takes E + 3
 * doubles for each query of the rank. Its products are those of BLAS: kernel "auto" or "blas". Mean: the mean of v over
 * A(i); copy: v_i, no attention at all, which bounds from below what any method takes (the "OPT" line of Choromanski et
 * al. 2021, figure 3). Both leave q and k out of account (mean still wants them finite). All but favor have no use for
 * what is said of features and projections below.
 *
 * The rest weigh as exact does, but fewer keys or others. Like exact they need other ranks' tokens as they are, so a
 * rank keeps its shard in memory; their products are those of BLAS; a segment has at most 64 (2^24 - 1) tokens.
 *
 * Window (Beltagy et al. 2020, "Longformer"): the j in A(i) with |i - j| <= window, or with i or j among the first
 * global_tokens of their segment.
 *
 * Linformer (Wang et al. 2020; bidirectional only): M = features keys k'_r = sum_j E_rj k_j with values
 * v'_r = sum_j F_rj v_j, sums over i's segment. E and F are independent draws of +-M^-1/2, either sign equally likely:
 * the covariance of the paper's normal ones and the same Johnson-Lindenstrauss bounds (Achlioptas 2003) at one bit an
 * element. They are functions of (seed, layer, redraw, key head, row, token counted from its segment's first one).
 * Segments shorter than M are no exception.
 *
 * LSH (Kitaev et al. 2020, "Reformer"): i itself and the keys that i meets in any of lsh_rounds rounds of hashing, each
 * once however often it is met. A round hashes the queries and keys of a segment of n tokens into b^f buckets: f is the
 * least with b <= 64, b the least even number with b^f lsh_chunk >= n; where n <= lsh_chunk there is one bucket. Each
 * of the f hashes of x is the place of the largest among R x and -R x, R a normal matrix of b / 2 rows, drawn for the
 * round and key head (so the length of x has no say). The keys of a bucket, in order of tokens, are cut into chunks of
 * lsh_chunk. Let c be the chunk of the last key of i's bucket at or before i, or the first chunk where there is none:
 * i meets the keys in A(i) of chunks c - 1 and c of that bucket. (In the paper queries are keys, and chunks are cut
 * from the sorted sequence of all buckets, where later tokens shift what an earlier one meets; here they do not.) */
enum favor_method {
  FAVOR_METHOD_FAVOR = 0,
  FAVOR_METHOD_EXACT,
  FAVOR_METHOD_WINDOW,
  FAVOR_METHOD_MEAN,
  FAVOR_METHOD_COPY,
  FAVOR_METHOD_LINFORMER,
  FAVOR_METHOD_LSH
};
/* Oprf: FAVOR++ of Likhosherstov et al., "Chefs' random tables", NeurIPS 2022, with one A <= 0 a key head, Bc =
 * sqrt(1 - 4 A) and Dc = (1 - 4 A)^(D/4), which cancels where there is no window. The A of the least mean variance is
 * that of
 *   f = mean |q~|^2 + mean |k~|^2 + 2 mean(q~).mean(k~),  A = [D - 2 f - sqrt((2 f + D)^2 + 8 D f)] / (16 D)
 * It weighs rows by their lengths, so these must vary as chi(D) does: rows of one length would estimate exp(Bc^2 q~.k~)
 * times powers of the norms, another kernel. Hence row_norm must be chi. */
/* The first four estimate softmax attention and need random rows. The others are kernels of their own, with and without
 * a projection; "signed" ones have normalisers that may be negative or vanish (see is_negative_allowed). */
enum favor_map {
  FAVOR_MAP_POSITIVE = 0,  /* FAVOR+ (Choromanski et al. 2021, lemma 1) */
  FAVOR_MAP_HYPERBOLIC,    /* both signs of each direction (same, "hyp+") */
  FAVOR_MAP_TRIGONOMETRIC, /* signed; random Fourier features (Rahimi and Recht 2007; in Choromanski et al. 2021 the
                              baseline that fails where the kernel is near 0) */
  FAVOR_MAP_OPRF,          /* FAVOR++ (Likhosherstov et al. 2022), see below */
  FAVOR_MAP_RELU,          /* max(u, 0) */
  FAVOR_MAP_ELU,           /* elu(u) + 1: exp(u) up to 0, u + 1 above (Katharopoulos et al. 2020) */
  FAVOR_MAP_EXP,           /* exp(u) */
  FAVOR_MAP_GELU,          /* signed; u Phi(u), Phi the normal distribution (Hendrycks and Gimpel 2016), by erf */
  FAVOR_MAP_SIGMOID,       /* 1 / (1 + exp(-u)) */
  FAVOR_MAP_TANH,          /* signed; tanh(u) */
  FAVOR_MAP_ABS,           /* |u| */
  FAVOR_MAP_SQUARE,        /* u^2, of both signs of u (Likhosherstov et al. 2021, SLiM; google-research's fast_attention
                              has u^2 for u > 0 alone, which is not this map) */
  FAVOR_MAP_COS,           /* signed; cos(u) */
  FAVOR_MAP_IDENTITY       /* signed; u */
};
/* Positive and hyperbolic features in the form of public packages, phi(x) = R^-1/2 (exp(u - g - m) + eps): m is the
 * largest u of the query's own features, and for keys the largest u of all features and tokens of the key head, or of
 * the whole tensor, all batches and heads. Without eps and guard m cancels. With them later keys change earlier
 * outputs, in causal attention too, and an eps above most of a token's features turns its attention into a mean of v.
 */
enum favor_key_max { FAVOR_KEY_MAX_NONE = 0 /* m = 0 */, FAVOR_KEY_MAX_HEAD, FAVOR_KEY_MAX_TENSOR };

/* What is added to the normaliser, sum_j phi(q_i).phi(k_j), of positive and hyperbolic features. */
enum favor_guard {
  FAVOR_GUARD_NONE = 0,
  FAVOR_GUARD_SUM,        /* guard */
  FAVOR_GUARD_PLAIN_SUM,  /* guard / R: what features without R^-1/2 would have */
  FAVOR_GUARD_NORMALISER, /* causal: guard sum_r phi_r(q_i), as if each feature of sum_j phi(k_j) had it; else none */
  FAVOR_GUARD_SMALL       /* 2 guard where the sum is not above guard */
};

/* How W is made.
 *   orthogonal  rows of Haar-distributed orthogonal D x D blocks (Choromanski et al. 2021, section 2.4)
 *   gaussian    iid normal
 *   hadamard    blocks of three rounds of random signs and Walsh-Hadamard transforms, of the width padded to a power of
 *               two (Yu et al. 2016); nearly orthogonal rows' error at a small bias, and less work in the fused kernels
 *   simplex     blocks of D directions with pairwise cosine -1 / (D - 1), turned by a Haar-distributed rotation (Reid
 *               et al., "Simplex random features", 2023)
 *   none        W is the identity: u = x~ and M = D (which `features` must be); for the generalised maps */
enum favor_projection {
  FAVOR_PROJECTION_ORTHOGONAL = 0,
  FAVOR_PROJECTION_GAUSSIAN,
  FAVOR_PROJECTION_HADAMARD,
  FAVOR_PROJECTION_SIMPLEX,
  FAVOR_PROJECTION_NONE
};
enum favor_row_norm { FAVOR_ROW_NORM_SQRT = 0, FAVOR_ROW_NORM_CHI };
/* Of arrays and of products. BF16: arrays are float; the numbers that enter a product are rounded to bfloat16 (the
 * projection once, which is then the one in use), sums are float, and states are exact as ever. For machines that have
 * instructions for it; relative error some 2.3e-3 where D = 64 and q and k have a spread of 1/2. */
enum favor_precision { FAVOR_PRECISION_F32 = 0, FAVOR_PRECISION_F64, FAVOR_PRECISION_BF16 };
enum favor_scan { FAVOR_SCAN_AUTO = 0, FAVOR_SCAN_EXSCAN, FAVOR_SCAN_DOUBLING, FAVOR_SCAN_CHAIN, FAVOR_SCAN_NODES };

/* What lowers the error and leaves softmax attention as it is: the variance of a weight's estimate grows as the
 * exponential of |q~ + k~|^2, which both make smaller. They are estimated for each key head, over its tokens of all
 * segments and all query heads that read it, unless problem.estimates gives them.
 *
 * Key shift: k - s, as q.s is the same for all keys of a query. Mean: s = mean(k) + L^T L mean(q), the shift of least
 * mean |L q + L^-T (k - s)|^2 (L = 1 without a balance): queries and keys then lie around opposite points. */
enum favor_key_shift { FAVOR_KEY_SHIFT_NONE = 0, FAVOR_KEY_SHIFT_MEAN };
/* Balance: L q and L^-T k, whose products are those of q and k, with the L of least mean |L q|^2 + |L^-T k|^2.
 * Diagonal: L_dd = (Mk_dd / Mq_dd)^(1/4), the psi of SADERF (Likhosherstov et al., "FAVOR#", 2023). Full: the upper
 * triangular L with L^T L = Mq^-1 # Mk, the geometric mean of matrices, for which L Mq L^T = L^-T Mk L^-1. Mq and Mk
 * are the D x D second moments of queries and keys, about their means with FAVOR_KEY_SHIFT_MEAN. Directions with next
 * to no variance count as if they had 2^-16 of the mean one; where queries or keys are all alike, L = 1. */
enum favor_balance { FAVOR_BALANCE_NONE = 0, FAVOR_BALANCE_DIAGONAL, FAVOR_BALANCE_FULL };

/* Numbers for each key head, in double. NULL members: not given, or not in use. */
struct favor_estimates {
  const double *key_shift; /* [key heads][D]: s */
  const double *balance;   /* [key heads][D], the diagonal of L, or [key heads][D][D], L */
  const double *oprf_a;    /* [key heads]: A */
  const double *key_max;   /* [key heads]: m of the keys, favor_problem.key_max */
};

struct favor_problem {
  int64_t batch;       /* B >= 1 */
  int64_t heads;       /* H >= 1, a multiple of kv_heads */
  int64_t kv_heads;    /* G >= 1 */
  int64_t tokens;      /* N >= 0 */
  int64_t key_width;   /* D >= 1 */
  int64_t value_width; /* E >= 1 */

  const int64_t *segments; /* [n_segments + 1] offsets, first 0, last N, not decreasing; copied; NULL: one segment */
  int64_t n_segments;
  bool is_causal;

  enum favor_method method;
  enum favor_map map;
  double eps; /* added to every feature: 0, or from 1e-30 to 1e30; negative: the map's own, 1e-3 for the generalised
                 maps and 0 for the others, of which positive and hyperbolic alone take another (favor_key_max) */
  enum favor_key_max key_max;
  enum favor_guard guard_rule;
  double guard; /* from 1e-30 to 1e30 where there is a rule */
  /* Accepts maps whose normaliser can vanish: the signed ones, and with eps 0 also relu, abs and square. The output of
   * a token whose normaliser is 0 is then 0, and one that passes the largest number is that number. */
  bool is_negative_allowed;
  int64_t features; /* M >= 1 */
  enum favor_projection projection;
  enum favor_row_norm row_norm; /* of every row; iid Gaussian rows are those of chi, sqrt gives them one length */
  bool has_projection_per_head; /* one projection for each key head (shared over the batch) */
  uint64_t seed, layer, redraw; /* the projection is a function of these and of the key head */
  double scale;                 /* of the logits; 0: D^-1/2; else from 1e-30 to 1e30 */
  enum favor_key_shift key_shift;
  enum favor_balance balance;
  /* What is not to be estimated, of all B G key heads; copied; NULL: nothing. Members that map, key_shift and balance
   * do not ask for are not read. */
  const struct favor_estimates *estimates;
  /* A projection to use instead of a drawn one: [M][D], or [G][M][D] with has_projection_per_head. Read on rank 0
   * only, copied (and rounded to float in f32, to bfloat16 in bf16); NULL: draw. */
  const double *projection_data;

  /* Tokens on each side of a query (before it only, when causal); 0 is the token itself, -1 no window. With method
   * favor and maps that estimate the weights exp(scale q.k), that is positive, hyperbolic and oprf, these are attended
   * to with exactly those weights, beside features for all others; the plan then keeps its shard in memory, in one
   * block after those that estimate. */
  int64_t window;
  int64_t global_tokens; /* method window: of each segment, its first ones: all attend to them, and they to all */
  int64_t lsh_rounds;    /* from 1 to 64 */
  int64_t lsh_chunk;     /* keys, >= 1 */

  enum favor_precision precision;
  const char *kernel; /* "auto", or a name of favor_kernel_name() */
  int threads; /* of this rank; 0: OMP_NUM_THREADS, else the cores this rank may use over the ranks sharing them */
  int64_t grid_heads, grid_tokens; /* process grid; both 0: chosen by cost; their product <= ranks */
  enum favor_scan scan;
  /* Data passes block by block (see favor_plan_run_block); methods that take a whole shard at once do not stream. */
  bool is_streamed;
  int64_t block_tokens; /* streamed: tokens of a rank's part of a block at most, rounded to whole runs; 0: chosen */
  int64_t memory_bytes; /* per rank, for states, scratch, kept features and what the caller holds; 0: no bound */
  int64_t blocks_held;  /* blocks that the caller holds at a time; 0: one */
  int64_t caller_bytes; /* what else it holds, of memory_bytes */
};

/* One head, width 64, 256 features, causal off, no window, 4 rounds and chunks of 64 for lsh, everything automatic;
 * tokens 0. */
FAVOR_API struct favor_problem favor_problem_default(void);

/* Local: makes the problem compute what a public package does: its map, eps, key_max, guard, scale, row_norm and
 * whether heads have projections of their own. The same projection then gives the package's outputs to the rounding of
 * its floats; a drawn one is not the package's own. The names:
 *   google-jax         google-research performer/fast_attention/jax: eps 1e-6, maximum of a head, guard 1e-6
 *   google-tf          google-research performer/fast_attention/tensorflow, of 2021 on: the same without guard
 *   lucidrains         performer-pytorch from 1.1.1 on: eps 1e-4, maximum of a head, causal 1e-6 on normalisers
 *   lucidrains-legacy  before 1.1.1: maximum of the whole tensor
 *   idiap              pytorch-fast-transformers, Favor: hyperbolic, no eps, no maximum, guard 1e-6
 *   slim               google-research performer/models/slim_performer: no eps, no maximum, guard 1e-16, a projection a
 *                      head; the package is causal only
 * Errors: FAVOR_EUSAGE (no such profile), with the problem unchanged. */
FAVOR_API enum favor_status favor_problem_set_profile(struct favor_problem *problem, const char *name);
/* Local: the profiles; NULL past the last. */
FAVOR_API const char *favor_profile_name(int index);

/* ---- plan ------------------------------------------------------------------------------------------------------- */

struct favor_plan;

/* Collective. Checks the problem, chooses grid, kernel and schedule, draws and broadcasts the projection, allocates and
 * touches all memory that execution needs. The problem must be the same on every rank but for `threads` and
 * projection_data. Errors: FAVOR_EUSAGE, FAVOR_EDATA (segments, projection values), FAVOR_ENOMEM, FAVOR_EINTERNAL
 * (LAPACK), FAVOR_EMPI. Sets OpenBLAS to one thread for the whole process: tiles are too small to share.
 * A causal rank that has to absorb its keys before it computes outputs (a token shard, or threads that share a head)
 * keeps their features from the one to the other, about M reals a token of a block and key head, as far as
 * problem.memory_bytes leaves room for them; without a bound they take up to 5/4 of what q, k, v and out of a block do.
 * What is not kept is computed twice. That changes no bit of the outputs.
 * On failure *plan is NULL. The plan keeps using the context, which must outlive it. */
FAVOR_API enum favor_status favor_plan_create(struct favor_context *context, const struct favor_problem *problem,
                                              struct favor_plan **plan);

/* Collective (frees communicators). Accepts NULL, sets it to NULL. */
FAVOR_API void favor_plan_destroy(struct favor_plan **plan);

/* What one rank owns: flat query heads, flat key heads, tokens. Any of them may be empty. */
struct favor_shard {
  int64_t head_begin, head_end;
  int64_t kv_head_begin, kv_head_end;
  int64_t token_begin, token_end;
};

/* Local. Of a streamed plan the tokens are all, of which each block says what is this rank's. */
FAVOR_API void favor_plan_shard(const struct favor_plan *plan, struct favor_shard *shard);

/* A rank's rows of a tensor: element (head, token, column) of the shard or block is
 * data[head * head_stride + token * token_stride + column], counted from its first head and token.
 * Elements are double under FAVOR_PRECISION_F64 and float otherwise. */
struct favor_input {
  const void *data;
  int64_t head_stride, token_stride; /* elements */
};
struct favor_output {
  void *data;
  int64_t head_stride, token_stride; /* elements */
};

/* Collective. Attention of the whole problem: q [heads][tokens][D], k [kv_heads][tokens][D], v [kv_heads][tokens][E],
 * out [heads][tokens][E], each this rank's shard. The caller owns all four; out must not overlap the others.
 * Allocates nothing. Errors: FAVOR_EDATA (NaN, Inf, or with method favor |x~|^2/2 above 2^22, of what features are made
 * of: shifted,
 * balanced, times Bc; tensor, head and token named), FAVOR_EMPI.
 * After an error out is unspecified and the plan can be executed again. */
FAVOR_API enum favor_status favor_plan_execute(struct favor_plan *plan, const struct favor_input *q,
                                               const struct favor_input *k, const struct favor_input *v,
                                               const struct favor_output *out);

/* ---- the same block by block, for data that does not fit into memory ----------------------------------------------
 *
 *   favor_plan_begin(plan);
 *   for (i = 0; i < favor_plan_n_blocks(plan); i++) {
 *     favor_plan_block(plan, i, &block);
 *     ... read what block.needs says of tokens [block.token_begin, block.token_end) of the shard's heads ...
 *     if (favor_plan_run_block(plan, i, &q, &k, &v, &out) != FAVOR_OK) break;
 *     ... write out if block.needs says so ...
 *   }
 *   status = favor_plan_end(plan);
 *
 * With problem.is_streamed a block is a part of the token axis, of which every rank takes some, at most
 * favor_plan_info.block_tokens: memory does not depend on the number of tokens, and all ranks stand at one place after
 * each block. A run that is not streamed has the rank's shard in one block. Before these come, where something is
 * estimated from the data, blocks over all tokens that are only measured. */
enum { FAVOR_NEEDS_Q = 1, FAVOR_NEEDS_K = 2, FAVOR_NEEDS_V = 4, FAVOR_NEEDS_OUT = 8 };

/* How far a run is, on all ranks. */
struct favor_position {
  int64_t tokens_emitted;  /* earlier tokens have their outputs */
  int64_t tokens_absorbed; /* the states are of the keys up to here, from the start of the segment of tokens_emitted */
};

/* One rank's part of a block. */
struct favor_block {
  int64_t token_begin, token_end; /* global tokens, possibly none */
  unsigned needs;                 /* FAVOR_NEEDS_... */
  struct favor_position after;    /* once the block is done; the same on every rank */
};

/* Local. The same number on every rank. Every output of the rank's heads is emitted in exactly one block of one rank of
 * its row of the grid. */
FAVOR_API int64_t favor_plan_n_blocks(const struct favor_plan *plan);
FAVOR_API void favor_plan_block(const struct favor_plan *plan, int64_t index, struct favor_block *block);

/* Collective where a run was left in the middle, else local: forgets every state, so that a run can start. */
FAVOR_API void favor_plan_begin(struct favor_plan *plan);

/* Collective: runs one block; blocks go in order. Arrays start at the block's first token; those that it does not need
 * may be NULL. First the ranks agree on what went wrong so far: what a rank meets in the block itself (tokens that
 * cannot be computed with), or the caller left with the context since, is returned by the next block or by
 * favor_plan_end. After an error nothing more is computed. Allocates nothing. Errors: as favor_plan_execute. */
FAVOR_API enum favor_status favor_plan_run_block(struct favor_plan *plan, int64_t index, const struct favor_input *q,
                                                 const struct favor_input *k, const struct favor_input *v,
                                                 const struct favor_output *out);

/* Collective: agrees on the outcome of the run. */
FAVOR_API enum favor_status favor_plan_end(struct favor_plan *plan);

/* What a streamed run needs to go on, on any number of ranks: a position, and a state for each flat key head. */
struct favor_saved {
  struct favor_position position;
  int64_t kv_head_begin, kv_head_end; /* this rank holds the states of these: the first rank of each row of the grid
                                         those of its shard, all others none */
  size_t state_bytes;                 /* of one; 0 where the method has no states */
  void *states;                       /* [kv_head_end - kv_head_begin][state_bytes], owned by the plan */
};

/* Collective, after any block of a streamed run: what it takes to go on from there. The states are reproducible
 * accumulators, the same bytes for every number of ranks, and stay until the next block; where a bidirectional run
 * stands between two segments (both numbers of the position are the same) they mean nothing. While position is 0 and 0
 * nothing is done yet that could be kept. Errors: FAVOR_EUSAGE (the plan is not streamed, or its method takes the whole
 * shard at once), and those that favor_plan_run_block left to the next collective call. */
FAVOR_API enum favor_status favor_plan_save(struct favor_plan *plan, struct favor_saved *saved);

/* Collective, in place of favor_plan_begin: goes on at a position. The caller then fills saved->states with the bytes
 * that favor_plan_save gave for these heads; blocks (favor_plan_n_blocks) are those that are left. The plan must be one
 * of the same problem and kernel; ranks, grid, threads and memory may be others. The first block checks that the states
 * are of this problem's form (FAVOR_EDATA), not that they are right. What was estimated from the data must be given
 * with the problem. Errors: FAVOR_EUSAGE, FAVOR_EDATA (no run of this problem can stand there), FAVOR_ENOMEM. */
FAVOR_API enum favor_status favor_plan_resume(struct favor_plan *plan, const struct favor_position *position,
                                              struct favor_saved *saved);

/* ---- what a plan chose, did and holds --------------------------------------------------------------------------- */

struct favor_plan_info {
  const char *kernel; /* valid as long as the plan */
  const char *scan;   /* "none" where no scan or reduction is needed */
  int64_t grid_heads, grid_tokens;
  int threads;
  int cores;           /* that this rank may run on; threads beyond them wait for each other */
  bool is_bound;       /* whoever started this rank lets it run on a part of the machine only */
  const char *binding; /* what each thread has for itself: "cores", "hardware threads", "none"; "environment": OpenMP's
                          own variables say */
  int64_t tile_tokens, run_tokens; /* a run is what is added to a state at once: shards and blocks are whole runs */
  bool is_streamed;        /* block by block, so that a run can be saved; no method that takes a shard at once is */
  int64_t block_tokens;    /* of a rank's part of a block, at most */
  int64_t state_rows;      /* R: features of a key head's state */
  size_t state_bytes;      /* one state of every key head of the problem */
  size_t memory_bytes;     /* what the plan allocated on this rank */
  size_t kept_bytes;       /* of that, features of keys that are kept between two passes (favor_plan_create) */
  bool is_strictly_causal; /* no output depends on a later token: causal, and nothing is estimated from the data */
  /* Over the whole problem: 4 (M D + R E) a token and query head, causal without intra-tile products; exact,
   * window: 2 (D + E) a query and each key that it attends to; linformer: 2 M (D + E) a token and head, key heads too;
   * lsh: the same as exact for 2 lsh_chunk keys a round, which is the most, and the hashes. */
  double flops;
};
/* Local. */
FAVOR_API void favor_plan_info(const struct favor_plan *plan, struct favor_plan_info *info);

/* Local: one line for people on what was chosen and why. Writes at most size bytes with the final NUL. */
FAVOR_API void favor_plan_describe(const struct favor_plan *plan, char *text, size_t size);

/* Local: the projection in use, double under FAVOR_PRECISION_F64 and float otherwise: [M][D], or [G][M][D]. Owned by
 * the plan. NULL where the method has none. */
FAVOR_API const void *favor_plan_projection(const struct favor_plan *plan);

/* Local: the estimates in use, of this rank's key heads [kv_head_begin, kv_head_end) of the shard; owned by the plan,
 * and another run may change them. Given back as problem.estimates they give the same outputs, to the bit. Errors:
 * FAVOR_EUSAGE (they come from the data, and no run got so far). */
FAVOR_API enum favor_status favor_plan_estimates(const struct favor_plan *plan, struct favor_estimates *estimates);

struct favor_plan_times {
  double features_state_s; /* measuring; absorbing keys and values */
  double reduce_s;         /* blocked until states, or moments, have met */
  double output_s;         /* emitting */
  double accumulate_s; /* of absorbing and emitting, by all threads: runs into the reproducible state, and reading it */
  int64_t bytes_sent;  /* state bytes that this rank sent */
  /* States on their way: the time in which some were, from when this rank was ready to send or receive them until it
   * saw that they had met, and in which it had nothing to compute meanwhile. Hidden behind arithmetic is a share of
   * 1 - blocked_s / in_flight_s. */
  double in_flight_s, blocked_s;
};
/* Local: of the run since favor_plan_begin. */
FAVOR_API void favor_plan_times(const struct favor_plan *plan, struct favor_plan_times *times);

enum favor_state_kind {
  FAVOR_STATE_PREFIX, /* causal: of the keys of the first token's segment before this rank's first token */
  FAVOR_STATE_FINAL,  /* causal: up to this rank's last token; else of the whole segment of its last token */
  FAVOR_STATE_SAVED   /* of a streamed plan, the only one: what favor_plan_save gave this rank */
};
/* Bytes that favor_plan_export_state writes for one key head. Local. */
FAVOR_API size_t favor_plan_export_bytes(const struct favor_plan *plan);

/* Local, after a run: the exact state (reproducible accumulators) of one flat key head of the shard. Equal keys and
 * values give equal bytes for every number of ranks and threads. Errors: FAVOR_EUSAGE (no such head on this rank, no
 * such state). */
FAVOR_API enum favor_status favor_plan_export_state(const struct favor_plan *plan, enum favor_state_kind kind,
                                                    int64_t kv_head, void *bytes);

/* Local: an exported state as numbers: S_re = s[r][e] 2^exponent[r], z_r = z[r] 2^exponent[r]. A row of no key has
 * exponent INT32_MIN and zeros, one to which all keys gave a feature of 0 has exponent -2^29 and zeros. exponent [R], s
 * [R][E], z [R]; owned by the caller. */
FAVOR_API void favor_state_decode(const void *bytes, int32_t *exponent, double *s, double *z);

/* ---- decoding: causal attention one token at a time ---------------------------------------------------------------
 *
 * A decoder holds the states of this rank's key heads, in double, and advances them by one token at a cost that does
 * not depend on how many came before. It starts from no key or from exported states, and can be saved as such. */
struct favor_decoder;

/* Local. A decoder for the heads, widths, projection, estimates and precision of arrays of a causal plan, which must
 * outlive it and, where it estimates from data, must not run meanwhile. Errors: FAVOR_EUSAGE (the plan is not causal,
 * or no run has estimated yet), FAVOR_ENOMEM. On failure *decoder is NULL. */
FAVOR_API enum favor_status favor_decoder_create(const struct favor_plan *plan, struct favor_decoder **decoder);
/* Local. Accepts NULL, sets it to NULL. */
FAVOR_API void favor_decoder_destroy(struct favor_decoder **decoder);

/* Local: sets or gives the state of one flat key head of the shard, in the bytes of favor_plan_export_state.
 * Errors: FAVOR_EUSAGE (no such head on this rank), FAVOR_EDATA (load: not a state of this shape). */
FAVOR_API enum favor_status favor_decoder_load(struct favor_decoder *decoder, int64_t kv_head, const void *bytes);
FAVOR_API enum favor_status favor_decoder_save(const struct favor_decoder *decoder, int64_t kv_head, void *bytes);

/* Local: takes the next token's k and v of every key head, then gives the outputs of its queries. Arrays as in
 * favor_plan_execute, of one token (token_stride is not read). Errors: FAVOR_EDATA (as favor_plan_execute; the token is
 * counted from the decoder's creation); the states are then as before. Allocates nothing. */
FAVOR_API enum favor_status favor_decoder_step(struct favor_decoder *decoder, const struct favor_input *q,
                                               const struct favor_input *k, const struct favor_input *v,
                                               const struct favor_output *out);

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

/* Local: the kernels of this build, best first; NULL past the last. */
FAVOR_API const char *favor_kernel_name(int index);
/* Local: whether this machine can run it. */
FAVOR_API bool favor_kernel_is_supported(int index);
/* Local: which BLAS, its configuration and its chosen core. The string is static. */
FAVOR_API const char *favor_blas_description(void);

#ifdef __cplusplus
}
#endif

#endif

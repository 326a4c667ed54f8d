/* The all-reduce of states in place, by three algorithms of which the cost chooses; see Thakur, Rabenseifner and Gropp,
 * "Optimization of collective communication operations in MPICH", IJHPCA 2005.
 *
 * Each is a number of rounds, and a round is a function of the ranks alone: which rows go where, which come from where,
 * and whether these are merged in or take the place of what was there. */
#include "dist/group_internal.h"

struct rows {
  int64_t begin, end;
};

struct round {
  int to, from; /* -1: nobody */
  struct rows send, receive;
  bool is_merged;
};

struct group_reduction {
  int (*n_rounds)(int size);
  struct round (*round)(const struct dist_group *group, int round);
  double (*seconds)(int size, double state_bytes);
};

static struct rows all_rows(const struct dist_group *group) { return (struct rows){0, group->n_rows}; }

/* Blocks [first, first + n) of n_blocks nearly equal ones. */
static struct rows blocks(const struct dist_group *group, int64_t n_blocks, int64_t first, int64_t n) {
  return (struct rows){group->n_rows * first / n_blocks, group->n_rows * (first + n) / n_blocks};
}

/* ---- sizes that are no power of two ------------------------------------------------------------------------------
 *
 * The first 2 n_pairs ranks are pairs: the even one gives its state to the odd one beforehand, and takes the sum from
 * it in the end. Those that remain have places [0, power). */

struct fold {
  int n_levels, power, n_pairs;
};

static struct fold fold_of(int size) {
  struct fold fold = {.power = 1};
  for (; fold.power <= size / 2; fold.power *= 2) fold.n_levels++;
  fold.n_pairs = size - fold.power;
  return fold;
}

static bool is_folded(struct fold fold, int rank) { return rank < 2 * fold.n_pairs && rank % 2 == 0; }
static int place_of(struct fold fold, int rank) { return rank < 2 * fold.n_pairs ? rank / 2 : rank - fold.n_pairs; }
static int rank_of(struct fold fold, int place) { return place < fold.n_pairs ? 2 * place + 1 : place + fold.n_pairs; }

/* The first round and the last, from the even ranks of pairs and back. */
static struct round fold_round(const struct dist_group *group, struct fold fold, bool is_first) {
  struct round round = {.to = -1, .from = -1, .send = all_rows(group), .receive = all_rows(group)};
  if (group->rank >= 2 * fold.n_pairs) return round;
  round.is_merged = is_first;
  if (is_folded(fold, group->rank) == is_first) {
    round.to = group->rank ^ 1;
  } else {
    round.from = group->rank ^ 1;
  }
  return round;
}

static double fold_seconds(int size, double state_bytes) {
  if (fold_of(size).n_pairs == 0) return 0;
  return 2 * GROUP_LATENCY_S + state_bytes * (2 * GROUP_SEND_S_PER_BYTE + GROUP_MERGE_S_PER_BYTE);
}

/* ---- recursive doubling: every round all of the state ------------------------------------------------------------ */

static int doubling_n_rounds(int size) {
  struct fold fold = fold_of(size);
  return fold.n_levels + (fold.n_pairs > 0 ? 2 : 0);
}

static struct round doubling_round(const struct dist_group *group, int index) {
  const struct fold fold = fold_of(group->size);
  const int level = index - (fold.n_pairs > 0);
  if (level < 0 || level == fold.n_levels) return fold_round(group, fold, level < 0);
  if (is_folded(fold, group->rank)) return (struct round){.to = -1, .from = -1};
  const int peer = rank_of(fold, place_of(fold, group->rank) ^ 1 << level);
  return (struct round){peer, peer, all_rows(group), all_rows(group), true};
}

static double doubling_seconds(int size, double state_bytes) {
  return fold_seconds(size, state_bytes) +
         fold_of(size).n_levels * (GROUP_LATENCY_S + state_bytes * (GROUP_SEND_S_PER_BYTE + GROUP_MERGE_S_PER_BYTE));
}

/* ---- recursive halving, then the same way back -------------------------------------------------------------------
 *
 * After level i of the way there a place has the sum, over the places that agree with it below its i highest bits, of
 * the blocks that agree with it in these. On the way back it gives what it has for what its peer has. */

static int halving_n_rounds(int size) {
  struct fold fold = fold_of(size);
  return 2 * fold.n_levels + (fold.n_pairs > 0 ? 2 : 0);
}

static struct rows rows_at_level(const struct dist_group *group, struct fold fold, int place, int level) {
  const int n = fold.power >> level;
  return blocks(group, fold.power, place / n * n, n);
}

static struct round halving_round(const struct dist_group *group, int index) {
  const struct fold fold = fold_of(group->size);
  const int step = index - (fold.n_pairs > 0), n_levels = fold.n_levels;
  if (step < 0 || step == 2 * n_levels) return fold_round(group, fold, step < 0);
  if (is_folded(fold, group->rank)) return (struct round){.to = -1, .from = -1};
  const bool is_way_back = step >= n_levels;
  const int level = is_way_back ? 2 * n_levels - step : step + 1;
  const int place = place_of(fold, group->rank), other = place ^ fold.power >> level, peer = rank_of(fold, other);
  const struct rows own = rows_at_level(group, fold, place, level), others = rows_at_level(group, fold, other, level);
  return is_way_back ? (struct round){peer, peer, own, others, false} : (struct round){peer, peer, others, own, true};
}

/* All but a share of the state there and back. */
static double shares_seconds(int n_shares, double state_bytes) {
  return state_bytes * (1 - 1.0 / n_shares) * (2 * GROUP_SEND_S_PER_BYTE + GROUP_MERGE_S_PER_BYTE);
}

static double halving_seconds(int size, double state_bytes) {
  const struct fold fold = fold_of(size);
  return fold_seconds(size, state_bytes) + 2 * fold.n_levels * GROUP_LATENCY_S +
         shares_seconds(fold.power, state_bytes);
}

/* ---- a ring: no fold, but rounds for every rank ------------------------------------------------------------------
 *
 * Block b starts at rank b, is the sum when it comes to rank b - 1, and then goes round once more. */

static int ring_n_rounds(int size) { return 2 * (size - 1); }

static struct round ring_round(const struct dist_group *group, int index) {
  const int size = group->size, rank = group->rank;
  const int sent = (rank - index + 2 * size) % size, received = (rank - index - 1 + 2 * size) % size;
  return (struct round){(rank + 1) % size, (rank - 1 + size) % size, blocks(group, size, sent, 1),
                        blocks(group, size, received, 1), index < size - 1};
}

static double ring_seconds(int size, double state_bytes) {
  return ring_n_rounds(size) * GROUP_LATENCY_S + shares_seconds(size, state_bytes);
}

/* ---- what is common ---------------------------------------------------------------------------------------------- */

static const struct group_reduction *choose(const struct dist_group *group) {
  static const struct group_reduction reductions[] = {{doubling_n_rounds, doubling_round, doubling_seconds},
                                                      {halving_n_rounds, halving_round, halving_seconds},
                                                      {ring_n_rounds, ring_round, ring_seconds}};
  const double state_bytes = (double)group_state_bytes(group);
  const struct group_reduction *best = reductions;
  for (size_t i = 1; i < sizeof reductions / sizeof *reductions; i++) {
    if (reductions[i].seconds(group->size, state_bytes) < best->seconds(group->size, state_bytes)) {
      best = &reductions[i];
    }
  }
  return best;
}

static void *rows_in(const struct dist_group *group, void *state, struct rows rows) {
  return (char *)state + group->row_bytes * (size_t)rows.begin;
}

static enum favor_status start_round(struct dist_group *group) {
  const struct round round = group->reduction.algorithm->round(group, group->reduction.round);
  const int64_t n_sent = round.send.end - round.send.begin, n_received = round.receive.end - round.receive.begin;
  MPI_Request *requests = group->requests;
  enum favor_status status = FAVOR_OK;
  requests[0] = requests[1] = MPI_REQUEST_NULL;
  if (round.from >= 0) {
    void *into = round.is_merged ? group->incoming : rows_in(group, group->result, round.receive);
    status = group_receive(group, into, n_received, round.from, GROUP_TAG_REDUCE, &requests[0]);
  }
  if (status == FAVOR_OK && round.to >= 0) {
    const void *from = rows_in(group, group->result, round.send);
    status = group_send(group, from, n_sent, round.to, GROUP_TAG_REDUCE, &requests[1]);
  }
  return status;
}

static void finish_round(struct dist_group *group) {
  const struct round round = group->reduction.algorithm->round(group, group->reduction.round);
  if (round.from < 0 || !round.is_merged) return;
  binned_merge(group->incoming, rows_in(group, group->result, round.receive), round.receive.end - round.receive.begin);
}

static enum favor_status reduce_progress(struct dist_group *group, bool *is_done) {
  *is_done = false;
  while (group->reduction.round < group->reduction.n_rounds) {
    int flag = 0;
    int mpi_code = MPI_Testall(2, group->requests, &flag, MPI_STATUSES_IGNORE);
    enum favor_status status = dist_check(group->context, mpi_code, "merging states");
    if (status != FAVOR_OK || !flag) return status;
    finish_round(group);
    if (++group->reduction.round < group->reduction.n_rounds) status = start_round(group);
    if (status != FAVOR_OK) return status;
  }
  *is_done = true;
  return FAVOR_OK;
}

enum favor_status dist_reduce_begin(struct dist_group *group, void *state) {
  FAVOR_ASSERT(!group->progress);
  if (group->context->is_dead) return FAVOR_EMPI;
  if (group->size < 2) return FAVOR_OK;
  group->result = state;
  group->reduction.algorithm = choose(group);
  group->reduction.n_rounds = group->reduction.algorithm->n_rounds(group->size);
  group->reduction.round = 0;
  enum favor_status status = start_round(group);
  if (status == FAVOR_OK) group->progress = reduce_progress;
  return status;
}

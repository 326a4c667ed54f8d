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
  struct round (*round)(const struct group_lane *lane, int round);
};

static struct rows all_rows(const struct group_lane *lane) { return (struct rows){0, lane->n_rows}; }

/* Blocks [first, first + n) of n_blocks nearly equal ones. */
static struct rows blocks(const struct group_lane *lane, int64_t n_blocks, int64_t first, int64_t n) {
  return (struct rows){lane->n_rows * first / n_blocks, lane->n_rows * (first + n) / n_blocks};
}

/* ---- sizes that are no power of two ------------------------------------------------------------------------------
 *
 * The first 2 n_pairs ranks are pairs: the even one gives its state to the odd one beforehand, and takes the sum from
 * it in the end. Those that remain have places [0, power). */

static bool is_folded(struct fold fold, int rank) { return rank < 2 * fold.n_pairs && rank % 2 == 0; }
static int place_of(struct fold fold, int rank) { return rank < 2 * fold.n_pairs ? rank / 2 : rank - fold.n_pairs; }
static int rank_of(struct fold fold, int place) { return place < fold.n_pairs ? 2 * place + 1 : place + fold.n_pairs; }

/* The first round and the last, from the even ranks of pairs and back. */
static struct round fold_round(const struct group_lane *lane, struct fold fold, bool is_first) {
  struct round round = {.to = -1, .from = -1, .send = all_rows(lane), .receive = all_rows(lane)};
  if (lane->group->rank >= 2 * fold.n_pairs) return round;
  round.is_merged = is_first;
  if (is_folded(fold, lane->group->rank) == is_first) {
    round.to = lane->group->rank ^ 1;
  } else {
    round.from = lane->group->rank ^ 1;
  }
  return round;
}

/* ---- recursive doubling: every round all of the state ------------------------------------------------------------ */

static int doubling_n_rounds(int size) {
  struct fold fold = fold_of(size);
  return fold.n_levels + (fold.n_pairs > 0 ? 2 : 0);
}

static struct round doubling_round(const struct group_lane *lane, int index) {
  const struct fold fold = fold_of(lane->group->size);
  const int level = index - (fold.n_pairs > 0);
  if (level < 0 || level == fold.n_levels) return fold_round(lane, fold, level < 0);
  if (is_folded(fold, lane->group->rank)) return (struct round){.to = -1, .from = -1};
  const int peer = rank_of(fold, place_of(fold, lane->group->rank) ^ 1 << level);
  return (struct round){peer, peer, all_rows(lane), all_rows(lane), true};
}

/* ---- recursive halving, then the same way back -------------------------------------------------------------------
 *
 * After level i of the way there a place has the sum, over the places that agree with it below its i highest bits, of
 * the blocks that agree with it in these. On the way back it gives what it has for what its peer has. */

static int halving_n_rounds(int size) {
  struct fold fold = fold_of(size);
  return 2 * fold.n_levels + (fold.n_pairs > 0 ? 2 : 0);
}

static struct rows rows_at_level(const struct group_lane *lane, struct fold fold, int place, int level) {
  const int n = fold.power >> level;
  return blocks(lane, fold.power, place / n * n, n);
}

static struct round halving_round(const struct group_lane *lane, int index) {
  const struct fold fold = fold_of(lane->group->size);
  const int step = index - (fold.n_pairs > 0), n_levels = fold.n_levels;
  if (step < 0 || step == 2 * n_levels) return fold_round(lane, fold, step < 0);
  if (is_folded(fold, lane->group->rank)) return (struct round){.to = -1, .from = -1};
  const bool is_way_back = step >= n_levels;
  const int level = is_way_back ? 2 * n_levels - step : step + 1;
  const int place = place_of(fold, lane->group->rank), other = place ^ fold.power >> level, peer = rank_of(fold, other);
  const struct rows own = rows_at_level(lane, fold, place, level), others = rows_at_level(lane, fold, other, level);
  return is_way_back ? (struct round){peer, peer, own, others, false} : (struct round){peer, peer, others, own, true};
}

/* ---- a ring: no fold, but rounds for every rank ------------------------------------------------------------------
 *
 * Block b starts at rank b, is the sum when it comes to rank b - 1, and then goes round once more. */

static int ring_n_rounds(int size) { return 2 * (size - 1); }

static struct round ring_round(const struct group_lane *lane, int index) {
  const int size = lane->group->size, rank = lane->group->rank;
  const int sent = (rank - index + 2 * size) % size, received = (rank - index - 1 + 2 * size) % size;
  return (struct round){(rank + 1) % size, (rank - 1 + size) % size, blocks(lane, size, sent, 1),
                        blocks(lane, size, received, 1), index < size - 1};
}

/* ---- what is common ---------------------------------------------------------------------------------------------- */

static const struct group_reduction *choose(const struct group_lane *lane) {
  const struct dist_group *group = lane->group;
  static const struct group_reduction reductions[DIST_N_REDUCTIONS] = {
      [DIST_REDUCTION_DOUBLING] = {doubling_n_rounds, doubling_round},
      [DIST_REDUCTION_HALVING] = {halving_n_rounds, halving_round},
      [DIST_REDUCTION_RING] = {ring_n_rounds, ring_round}};
  return &reductions[dist_costs_choose_reduction(&group->costs, group_layout_of(group), (double)group_bytes(lane))];
}

static void *rows_in(const struct group_lane *lane, void *state, struct rows rows) {
  return (char *)state + lane->group->shape.row_bytes * (size_t)rows.begin;
}

static enum favor_status start_round(struct group_lane *lane) {
  const struct round round = lane->reduction.algorithm->round(lane, lane->reduction.round);
  const int64_t n_sent = round.send.end - round.send.begin, n_received = round.receive.end - round.receive.begin;
  MPI_Request *requests = lane->requests;
  enum favor_status status = FAVOR_OK;
  requests[0] = requests[1] = MPI_REQUEST_NULL;
  if (round.from >= 0) {
    void *into = round.is_merged ? lane->incoming : rows_in(lane, lane->result, round.receive);
    status = group_receive(lane, into, n_received, round.from, GROUP_TAG_REDUCE, &requests[0]);
  }
  if (status == FAVOR_OK && round.to >= 0) {
    const void *from = rows_in(lane, lane->result, round.send);
    status = group_send(lane, from, n_sent, round.to, GROUP_TAG_REDUCE, &requests[1]);
  }
  return status;
}

static void finish_round(struct group_lane *lane) {
  const struct round round = lane->reduction.algorithm->round(lane, lane->reduction.round);
  if (round.from < 0 || !round.is_merged) return;
  binned_merge(lane->incoming, rows_in(lane, lane->result, round.receive), round.receive.end - round.receive.begin);
}

static enum favor_status reduce_progress(struct group_lane *lane, bool *is_done) {
  *is_done = false;
  while (lane->reduction.round < lane->reduction.n_rounds) {
    bool is_over;
    enum favor_status status = group_test_pair(lane, "merging states", &is_over);
    if (status != FAVOR_OK || !is_over) return status;
    finish_round(lane);
    if (++lane->reduction.round < lane->reduction.n_rounds) status = start_round(lane);
    if (status != FAVOR_OK) return status;
  }
  *is_done = true;
  return FAVOR_OK;
}

enum favor_status dist_reduce_begin(struct dist_group *group, int lane_index, int64_t n_rows, void *state) {
  struct group_lane *lane = group_lane_at(group, lane_index);
  FAVOR_ASSERT(lane_index != DIST_LANE_PASS && n_rows <= group_lane_rows(group, lane_index));
  if (group->context->is_dead) return FAVOR_EMPI;
  FAVOR_ASSERT(!lane->progress);
  if (group->size < 2) return FAVOR_OK;
  lane->n_rows = n_rows;
  lane->result = state;
  lane->reduction.algorithm = choose(lane);
  lane->reduction.n_rounds = lane->reduction.algorithm->n_rounds(group->size);
  lane->reduction.round = 0;
  enum favor_status status = start_round(lane);
  if (status == FAVOR_OK) group_has_begun(lane, reduce_progress);
  return status;
}

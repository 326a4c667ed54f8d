/* Groups of ranks: every algorithm gives the bytes of merging one state after another. */
#include "base/binned.h"
#include "base/clock.h"
#include "dist/agree.h"
#include "dist/group_internal.h"
#include "support/mpi_cmocka.h"

#include <stdlib.h>
#include <string.h>

static const enum favor_scan SCANS[] = {FAVOR_SCAN_AUTO, FAVOR_SCAN_EXSCAN, FAVOR_SCAN_DOUBLING, FAVOR_SCAN_CHAIN,
                                        FAVOR_SCAN_NODES};
enum { N_SCANS = sizeof SCANS / sizeof SCANS[0], UNTOUCHED = 0xA5 };

struct shape {
  int64_t n_rows, width;
  int n_bins;
};

/* A group as a rank knows it beforehand: which world ranks are in it, in order. */
struct members {
  int ranks[64];
  int size, own; /* own: index of this rank; -1 where it is in no group */
};

static struct members members_of(int (*color_of)(int rank, int parameter), int parameter) {
  struct members m = {.own = -1};
  int color = color_of(mpi_rank(), parameter);
  for (int r = 0; color >= 0 && r < mpi_size(); r++) {
    if (color_of(r, parameter) != color) continue;
    if (r == mpi_rank()) m.own = m.size;
    m.ranks[m.size++] = r;
  }
  return m;
}

static uint64_t mix(uint64_t x) { /* splitmix64 */
  x += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
  return x ^ x >> 31;
}

/* The state that a world rank brings, which every rank can make: rows of magnitudes 2^-60 to 2^60, some of them empty.
 */
static void fill_state(void *state, struct shape shape, int world_rank, uint64_t seed) {
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins);
  binned_clear(state, shape.n_rows, shape.width, shape.n_bins);
  for (int64_t r = 0; r < shape.n_rows; r++) {
    uint64_t name = mix(mix(seed * 1000 + (uint64_t)world_rank) + (uint64_t)r);
    struct binned_row *row = binned_row_at(state, row_bytes, r);
    int64_t shift = (int64_t)(name % 121) - 60;
    if (name % 5 == 0) continue;
    binned_raise(row, (int32_t)shift);
    for (int64_t e = 0; e < shape.width; e++) {
      double x = (double)(int64_t)mix(name + (uint64_t)e) * 0x1p-63;
      binned_deposit(row, e, 1, &x, shift, NULL);
    }
  }
}

/* The states of members [0, n) merged one after another. */
static void merge_in_order(void *expected, const struct members *m, int n, struct shape shape, uint64_t seed) {
  size_t bytes = (size_t)shape.n_rows * binned_row_bytes(shape.width, shape.n_bins);
  void *state = malloc(bytes);
  assert_non_null(state);
  binned_clear(expected, shape.n_rows, shape.width, shape.n_bins);
  for (int i = 0; i < n; i++) {
    fill_state(state, shape, m->ranks[i], seed);
    binned_merge(state, expected, shape.n_rows);
  }
  free(state);
}

static enum favor_status finish(struct dist_group *group, int lane, bool is_polled) {
  if (!is_polled) return dist_group_end(group, lane);
  double limit_s = clock_now_s() + 20;
  enum favor_status status = FAVOR_OK;
  for (bool is_done = false; !is_done && status == FAVOR_OK;) {
    status = dist_group_progress(group, &is_done);
    if (clock_now_s() > limit_s) return FAVOR_EINTERNAL;
  }
  return status;
}

/* One scan and one reduction on a group that this rank is in; is every byte right? */
static bool is_exact(struct dist_group *group, const struct members *m, struct shape shape, uint64_t seed,
                     bool is_polled) {
  size_t bytes = (size_t)shape.n_rows * binned_row_bytes(shape.width, shape.n_bins);
  char *partial = malloc(bytes), *copy = malloc(bytes), *result = malloc(bytes), *expected = malloc(bytes);
  assert_true(partial && copy && result && expected);
  fill_state(partial, shape, m->ranks[m->own], seed);
  memcpy(copy, partial, bytes);
  memset(result, UNTOUCHED, bytes);
  memset(expected, UNTOUCHED, bytes);
  if (m->own > 0) merge_in_order(expected, m, m->own, shape, seed);
  enum favor_status status = dist_scan_begin(group, 0, shape.n_rows, partial, result);
  if (status == FAVOR_OK) status = finish(group, 0, is_polled);
  bool is_scan_right = status == FAVOR_OK && memcmp(result, expected, bytes) == 0 && memcmp(partial, copy, bytes) == 0;

  /* The other ranks come to the reduction however the scan went here. */
  merge_in_order(expected, m, m->size, shape, seed);
  status = dist_reduce_begin(group, 0, shape.n_rows, partial);
  if (status == FAVOR_OK) status = finish(group, 0, is_polled);
  bool is_sum_right = status == FAVOR_OK && memcmp(partial, expected, bytes) == 0;
  free(partial);
  free(copy);
  free(result);
  free(expected);
  return is_scan_right && is_sum_right;
}

/* Ranks that are to be taken for neighbours on one machine: how many; negative: ranks dealt out in turns to so many
 * machines; 0: as it is. */
static int ranks_of_node;

static struct favor_context *make_context(void) {
  struct favor_context *context = NULL;
  enum favor_status status = favor_context_create(MPI_COMM_WORLD, &context);
  assert_all(status == FAVOR_OK);
  if (ranks_of_node > 0) context->node = mpi_rank() / ranks_of_node * ranks_of_node;
  if (ranks_of_node < 0) context->node = mpi_rank() % -ranks_of_node;
  return context;
}

static struct dist_group *make_group(struct favor_context *context, int64_t n_rows, size_t row_bytes,
                                     enum favor_scan scan) {
  struct dist_group *group = NULL;
  const struct dist_group_shape shape = {1, 1, n_rows, row_bytes};
  enum favor_status status = dist_group_create(context, 0, &shape, scan, NULL, &group);
  assert_all(status == FAVOR_OK);
  return group;
}

/* All algorithms on the groups of one colouring, three operations in a row on each group. */
static void check_colors(int (*color_of)(int rank, int parameter), int parameter, struct shape shape) {
  struct favor_context *context = make_context();
  struct members m = members_of(color_of, parameter);
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins);
  for (int s = 0; s < N_SCANS; s++) {
    struct dist_group *group = NULL;
    int color = color_of(mpi_rank(), parameter);
    const struct dist_group_shape one = {1, 1, shape.n_rows, row_bytes};
    enum favor_status status = dist_group_create(context, color, &one, SCANS[s], NULL, &group);
    assert_all(status == FAVOR_OK);
    assert_all((group == NULL) == (m.own < 0));
    assert_all(!group || (dist_group_rank(group) == m.own && dist_group_size(group) == m.size));
    for (uint64_t seed = 0; seed < 3; seed++) {
      assert_all(!group || is_exact(group, &m, shape, 10 * seed + (uint64_t)s, seed % 2 == 1));
    }
    dist_group_destroy(&group);
    assert_all(group == NULL);
  }
  assert_all(dist_agree(context, DIST_SITE_NONE, 0, NULL) == FAVOR_OK);
  favor_context_destroy(&context);
}

static int first_ranks(int rank, int n) { return rank < n ? 0 : -1; }
static int last_ranks(int rank, int n) { return rank >= mpi_size() - n ? 5 : -1; }
static int interleaved(int rank, int n) { return rank % n; }
static int ragged(int rank, int unused) {
  (void)unused;
  return rank == 0 ? 9 : rank < 3 ? 2 : rank == 3 ? -1 : 4; /* sizes 1, 2, none, the rest */
}

static const struct shape SMALL = {37, 9, 2};

static void groups_of_every_size(void **state) {
  (void)state;
  for (int n = 1; n <= mpi_size(); n++) {
    check_colors(first_ranks, n, SMALL);
    check_colors(last_ranks, n, SMALL);
  }
}

static void several_groups_at_once(void **state) {
  (void)state;
  check_colors(interleaved, 2, SMALL);
  check_colors(interleaved, 3, SMALL);
  check_colors(ragged, 0, SMALL);
}

static void nobody_in_a_group(void **state) {
  (void)state;
  check_colors(first_ranks, 0, SMALL);
}

/* Fewer rows than ranks; three bins; states that the chain cuts into many blocks, the last one short. */
static void states_of_every_shape(void **state) {
  (void)state;
  const struct shape shapes[] = {{0, 9, 2}, {1, 9, 2}, {5, 1, 3}, {64, 33, 3}, {1021, 65, 2}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check_colors(first_ranks, mpi_size(), shapes[i]);
}

/* ---- sets -------------------------------------------------------------------------------------------------------- */

/* The linker gives calls of memory_zeroed to the wrapper, which counts them. */
void *__real_memory_zeroed(size_t count, size_t bytes);
void *__wrap_memory_zeroed(size_t count, size_t bytes);
static int n_allocations;
void *__wrap_memory_zeroed(size_t count, size_t bytes) {
  n_allocations++;
  return __real_memory_zeroed(count, bytes);
}

struct set {
  int first, size;
};

/* This rank's set in a division of the axis that every rank can draw: sets of one, of many, and ranks in none. The
 * first three are all in one, each alone, and nobody. */
static struct set draw_set(const struct members *axis, uint64_t seed) {
  if (seed == 0) return (struct set){0, axis->size};
  if (seed == 1) return (struct set){axis->own, 1};
  if (seed == 2) return (struct set){0, 0};
  for (int place = 0;;) {
    uint64_t drawn = mix(seed * 64 + (uint64_t)place);
    int size = 1 + (int)(drawn % (uint64_t)(axis->size - place));
    bool is_none = drawn >> 32 & 1 && size <= 2;
    if (axis->own < place + size) return is_none ? (struct set){0, 0} : (struct set){place, size};
    place += size;
  }
}

/* An operation on one of the groups, and what it has to give. */
struct operation {
  bool is_scan;
  char *partial, *result, *expected;
  size_t bytes;
};

static void begin_operation(struct operation *operation, struct dist_group *group, const struct members *axis,
                            struct shape shape, uint64_t seed) {
  struct set set = draw_set(axis, seed);
  struct members m = {.size = set.size, .own = set.size > 0 ? axis->own - set.first : -1};
  memcpy(m.ranks, axis->ranks + set.first, (size_t)set.size * sizeof m.ranks[0]);
  operation->is_scan = mix(seed) % 3 != 0;
  fill_state(operation->partial, shape, axis->ranks[axis->own], seed);
  memset(operation->result, UNTOUCHED, operation->bytes);
  memcpy(operation->expected, operation->is_scan ? operation->result : operation->partial, operation->bytes);
  int n_merged = operation->is_scan ? m.own : m.size;
  if (n_merged > 0) merge_in_order(operation->expected, &m, n_merged, shape, seed);
  dist_group_set(group, set.first, set.size);
  bool is_right = dist_group_rank(group) == m.own && dist_group_size(group) == m.size;
  enum favor_status status = operation->is_scan
                                 ? dist_scan_begin(group, 0, shape.n_rows, operation->partial, operation->result)
                                 : dist_reduce_begin(group, 0, shape.n_rows, operation->partial);
  if (!is_right || status != FAVOR_OK) operation->expected[0] ^= 1; /* found out in the end, with the others */
}

static bool end_operation(const struct operation *operation, struct dist_group *group, bool is_polled) {
  return finish(group, 0, is_polled) == FAVOR_OK && memcmp(operation->is_scan ? operation->result : operation->partial,
                                                           operation->expected, operation->bytes) == 0;
}

/* Two groups of one axis with an operation each in flight, again and again, on other sets each time. */
static void check_sets(int (*color_of)(int rank, int parameter), int parameter, struct shape shape, uint64_t n_seeds) {
  struct favor_context *context = make_context();
  struct members axis = members_of(color_of, parameter);
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins), bytes = row_bytes * (size_t)shape.n_rows;
  struct operation operations[2];
  for (int i = 0; i < 2; i++) {
    operations[i] = (struct operation){.bytes = bytes};
    operations[i].partial = malloc(bytes);
    operations[i].result = malloc(bytes);
    operations[i].expected = malloc(bytes);
    assert_all(operations[i].partial && operations[i].result && operations[i].expected);
  }
  for (int s = 0; s < N_SCANS; s++) {
    struct dist_group *groups[2];
    for (int i = 0; i < 2; i++) {
      int color = color_of(mpi_rank(), parameter);
      const struct dist_group_shape one = {1, 1, shape.n_rows, row_bytes};
      assert_all(dist_group_create(context, color, &one, SCANS[s], NULL, &groups[i]) == FAVOR_OK);
    }
    int n_before = n_allocations;
    bool is_right = true;
    for (uint64_t seed = 0; groups[0] && seed < n_seeds; seed++) {
      for (int i = 0; i < 2; i++) {
        begin_operation(&operations[i], groups[i], &axis, shape, i == 0 ? seed : n_seeds + 7 * seed);
      }
      for (int i = 0; i < 2; i++) is_right = end_operation(&operations[i], groups[i], seed % 2 == 1) && is_right;
    }
    assert_all(is_right);
    assert_all(n_allocations == n_before);
    for (int i = 0; i < 2; i++) dist_group_destroy(&groups[i]);
  }
  for (int i = 0; i < 2; i++) {
    free(operations[i].partial);
    free(operations[i].result);
    free(operations[i].expected);
  }
  favor_context_destroy(&context);
}

static int whole(int rank, int unused) {
  (void)rank, (void)unused;
  return 0;
}

static void sets_change_between_operations(void **state) {
  (void)state;
  check_sets(whole, 0, SMALL, 24);
  check_sets(whole, 0, (struct shape){5, 1, 3}, 24);
  check_sets(whole, 0, (struct shape){0, 1, 3}, 6);
}

/* Reductions by shares, some of them of no row; chains of several blocks. */
static void sets_with_large_states(void **state) {
  (void)state;
  check_sets(whole, 0, (struct shape){301, 33, 2}, 10);
  check_sets(whole, 0, (struct shape){3, 2000, 3}, 8);
}

static void sets_of_several_axes(void **state) {
  (void)state;
  check_sets(interleaved, 2, SMALL, 12);
  check_sets(ragged, 0, SMALL, 12);
}

/* Scans by nodes, of every size and in turns, of which sets cut off parts. */
static void sets_of_ranks_on_several_machines(void **state) {
  static const int sizes[] = {1, 2, 3, 4, -2};
  (void)state;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    ranks_of_node = sizes[i];
    check_sets(whole, 0, SMALL, 8);
    check_sets(interleaved, 2, SMALL, 4);
  }
  ranks_of_node = 0;
}

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

enum { N_LANES = 4, N_LANE_ROUNDS = 6 };

/* An operation in every lane at once, scans and reductions of different numbers of rows, which end in another order
 * than they began in; one of them stays in flight while its lane's neighbours are used again. */
static void check_lanes(enum favor_scan scan) {
  const struct shape most = {23, 9, 2};
  const size_t row_bytes = binned_row_bytes(most.width, most.n_bins), bytes = row_bytes * (size_t)most.n_rows;
  struct favor_context *context = make_context();
  struct members axis = members_of(whole, 0);
  struct dist_traffic traffic = {0};
  struct dist_group *group = NULL;
  const struct dist_group_shape lanes = {N_LANES, N_LANES, most.n_rows, row_bytes};
  assert_all(dist_group_create(context, 0, &lanes, scan, &traffic, &group) == FAVOR_OK);
  char *memory = malloc(3 * N_LANES * bytes);
  assert_all(memory != NULL);
  for (uint64_t round = 0; round < N_LANE_ROUNDS; round++) {
    bool is_right = true;
    for (int lane = 0; lane < N_LANES; lane++) {
      const struct shape shape = {most.n_rows - lane - (int64_t)round, most.width, most.n_bins};
      char *partial = memory + (size_t)(3 * lane) * bytes, *result = partial + bytes, *expected = result + bytes;
      const bool is_scan = (lane + (int)round) % 3 != 0;
      fill_state(partial, shape, mpi_rank(), 100 * round + (uint64_t)lane);
      memset(result, UNTOUCHED, bytes);
      memcpy(expected, is_scan ? result : partial, bytes);
      const int n_merged = is_scan ? axis.own : axis.size;
      if (n_merged > 0) merge_in_order(expected, &axis, n_merged, shape, 100 * round + (uint64_t)lane);
      enum favor_status status = is_scan ? dist_scan_begin(group, lane, shape.n_rows, partial, result)
                                         : dist_reduce_begin(group, lane, shape.n_rows, partial);
      is_right = is_right && status == FAVOR_OK;
    }
    for (int i = 0; i < N_LANES; i++) {
      const int lane = (3 * i + 2 * (int)round) % N_LANES;
      const char *partial = memory + (size_t)(3 * lane) * bytes;
      const size_t shape_bytes = row_bytes * (size_t)(most.n_rows - lane - (int64_t)round);
      is_right = dist_group_end(group, lane) == FAVOR_OK && is_right;
      is_right =
          memcmp((lane + (int)round) % 3 != 0 ? partial + bytes : partial, partial + 2 * bytes, shape_bytes) == 0 &&
          is_right;
    }
    assert_all(is_right && traffic.n_in_flight == 0);
  }
  assert_all(traffic.in_flight_s >= traffic.blocked_s && traffic.blocked_s >= 0);
  assert_all((traffic.in_flight_s > 0) == (mpi_size() > 1));
  free(memory);
  dist_group_destroy(&group);
  favor_context_destroy(&context);
}

static void lanes_do_not_meet(void **state) {
  (void)state;
  for (int s = 0; s < N_SCANS; s++) check_lanes(SCANS[s]);
  ranks_of_node = 2;
  check_lanes(FAVOR_SCAN_NODES);
  ranks_of_node = 0;
}

/* One pass from each rank to each, while a scan of the other group is in flight. Sets do not matter, and who has
 * nothing to do need not call. */
static void check_passes(struct shape shape, bool is_receiver_early) {
  struct favor_context *context = make_context();
  struct members axis = members_of(whole, 0);
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins), bytes = row_bytes * (size_t)shape.n_rows;
  struct dist_group *group = make_group(context, shape.n_rows, row_bytes, FAVOR_SCAN_AUTO);
  struct dist_group *other = make_group(context, shape.n_rows, row_bytes, FAVOR_SCAN_AUTO);
  struct operation scan = {
      .bytes = bytes, .partial = malloc(bytes), .result = malloc(bytes), .expected = malloc(bytes)};
  char *given = malloc(bytes), *into = malloc(bytes), *expected = malloc(bytes);
  assert_all(scan.partial && scan.result && scan.expected && given && into && expected);
  for (int from = 0; from < mpi_size(); from++) {
    for (int to = 0; to < mpi_size(); to++) {
      uint64_t seed = 3 + (uint64_t)(from * mpi_size() + to);
      struct set set = draw_set(&axis, seed);
      const int lane = seed % 2 == 0 ? DIST_LANE_PASS : 0;
      bool is_party = mpi_rank() == from || mpi_rank() == to, waits = is_receiver_early == (mpi_rank() == from);
      dist_group_set(group, set.first, set.size);
      fill_state(given, shape, mpi_rank(), seed);
      memset(into, UNTOUCHED, bytes);
      memset(expected, UNTOUCHED, bytes);
      if (mpi_rank() == to) fill_state(expected, shape, from, seed);
      enum favor_status status = FAVOR_OK;
      int64_t sent = dist_group_bytes_sent(group);
      if (is_party && !waits) status = dist_pass_begin(group, lane, from, to, shape.n_rows, given, into);
      MPI_Barrier(MPI_COMM_WORLD);
      begin_operation(&scan, other, &axis, shape, seed);
      if (waits && status == FAVOR_OK) status = dist_pass_begin(group, lane, from, to, shape.n_rows, given, into);
      bool is_scan_right = end_operation(&scan, other, true);
      if (is_party && status == FAVOR_OK) status = dist_group_end(group, lane);
      bool is_right = status == FAVOR_OK && is_scan_right && memcmp(into, expected, bytes) == 0;
      int64_t expected_sent = from != to && mpi_rank() == from ? (int64_t)bytes : 0;
      assert_all(is_right && dist_group_bytes_sent(group) - sent == expected_sent);
    }
  }
  free(scan.partial);
  free(scan.result);
  free(scan.expected);
  free(given);
  free(into);
  free(expected);
  dist_group_destroy(&group);
  dist_group_destroy(&other);
  favor_context_destroy(&context);
}

static void states_pass_between_any_two_ranks(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    check_passes(SMALL, i == 0);
    check_passes((struct shape){64, 33, 3}, i == 0);
  }
}

/* ---- what is chosen and what is sent ------------------------------------------------------------------------------
 */

static int64_t bytes_of_one_scan(enum favor_scan scan, struct shape shape) {
  struct favor_context *context = make_context();
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins);
  struct dist_group *group = make_group(context, shape.n_rows, row_bytes, scan);
  char *partial = malloc(row_bytes * (size_t)shape.n_rows), *result = malloc(row_bytes * (size_t)shape.n_rows);
  assert_all(partial && result);
  fill_state(partial, shape, mpi_rank(), 1);
  assert_all(dist_group_bytes_sent(group) == 0);
  assert_all(dist_scan_begin(group, 0, shape.n_rows, partial, result) == FAVOR_OK &&
             dist_group_end(group, 0) == FAVOR_OK);
  int64_t bytes = dist_group_bytes_sent(group);
  free(partial);
  free(result);
  dist_group_destroy(&group);
  favor_context_destroy(&context);
  return bytes;
}

static void bytes_sent_are_those_of_the_algorithm(void **state) {
  (void)state;
  struct shape shape = {1021, 65, 2};
  int64_t state_bytes = shape.n_rows * (int64_t)binned_row_bytes(shape.width, shape.n_bins);
  int64_t one_unless_last = mpi_rank() < mpi_size() - 1 ? state_bytes : 0, doubling = 0;
  for (int distance = 1; mpi_rank() + distance < mpi_size(); distance *= 2) doubling += state_bytes;
  assert_all(bytes_of_one_scan(FAVOR_SCAN_EXSCAN, shape) == one_unless_last);
  assert_all(bytes_of_one_scan(FAVOR_SCAN_CHAIN, shape) == one_unless_last);
  assert_all(bytes_of_one_scan(FAVOR_SCAN_DOUBLING, shape) == doubling);
}

static int64_t states_of_one_reduction(struct shape shape) {
  struct favor_context *context = make_context();
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins);
  struct dist_group *group = make_group(context, shape.n_rows, row_bytes, FAVOR_SCAN_AUTO);
  char *sum = malloc(row_bytes * (size_t)shape.n_rows);
  assert_all(sum != NULL);
  fill_state(sum, shape, mpi_rank(), 1);
  assert_all(dist_reduce_begin(group, 0, shape.n_rows, sum) == FAVOR_OK && dist_group_end(group, 0) == FAVOR_OK);
  double sent = (double)dist_group_bytes_sent(group);
  assert_all(dist_sum_double(context, &sent, 1) == FAVOR_OK);
  free(sum);
  dist_group_destroy(&group);
  favor_context_destroy(&context);
  return (int64_t)(sent / (double)row_bytes / (double)shape.n_rows);
}

/* Large states go by shares, there and back; small ones whole in each of log2 P rounds, with a fold and its end for the
 * ranks beyond a power of two. */
static void reductions_send_what_their_algorithm_does(void **state) {
  (void)state;
  int n_levels = 0, power = 1;
  for (; 2 * power <= mpi_size(); power *= 2) n_levels++;
  assert_all(states_of_one_reduction((struct shape){1021, 65, 2}) == 2 * (mpi_size() - 1));
  assert_all(states_of_one_reduction((struct shape){2, 9, 2}) == n_levels * power + 2 * (mpi_size() - power));
}

static void cost_chooses_doubling_for_small_and_chain_for_large(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  struct dist_group *small = make_group(context, 2, 200, FAVOR_SCAN_AUTO);
  struct dist_group *large = make_group(context, 8192, 1320, FAVOR_SCAN_AUTO);
  assert_all(strcmp(dist_group_scan_name(small), "doubling") == 0);
  assert_all(strcmp(dist_group_scan_name(large), mpi_size() > 2 ? "chain" : "doubling") == 0);
  dist_group_destroy(&small);
  dist_group_destroy(&large);
  const char *const names[N_SCANS] = {NULL, "exscan", "doubling", "chain", "nodes"};
  for (int s = 1; s < N_SCANS; s++) {
    struct dist_group *forced = make_group(context, 2, 200, SCANS[s]);
    assert_all(strcmp(dist_group_scan_name(forced), names[s]) == 0);
    dist_group_destroy(&forced);
  }
  favor_context_destroy(&context);
}

/* Many ranks of a node share its network card, small states are many messages: one rank a node is to send them. Two
 * ranks, or one a node, gain nothing by it; and large states go by the chain, which leaves a node once. */
static void cost_tells_when_nodes_are_worth_it(void **state) {
  (void)state;
  const struct favor_costs costs = favor_costs_default();
  const struct dist_layout cluster = {1024, 64}, spread = {1024, 1};
  assert_true(dist_costs_scan_s(&costs, FAVOR_SCAN_NODES, cluster, 1e4) <
              dist_costs_scan_s(&costs, FAVOR_SCAN_DOUBLING, cluster, 1e4));
  assert_true(dist_costs_scan_s(&costs, FAVOR_SCAN_NODES, cluster, 1e4) <
              dist_costs_scan_s(&costs, FAVOR_SCAN_CHAIN, cluster, 1e4));
  assert_true(dist_costs_scan_s(&costs, FAVOR_SCAN_NODES, spread, 1e4) >
              dist_costs_scan_s(&costs, FAVOR_SCAN_DOUBLING, spread, 1e4));
  assert_true(dist_costs_scan_s(&costs, FAVOR_SCAN_CHAIN, cluster, 1e9) <
              dist_costs_scan_s(&costs, FAVOR_SCAN_NODES, cluster, 1e9));
}

/* A group keeps to the costs that its context had: scratch is for as many blocks as these ask for. */
static void costs_of_a_group_stay(void **state) {
  (void)state;
  const struct shape shape = {1021, 65, 2};
  struct favor_context *context = make_context();
  struct members m = members_of(whole, 0);
  struct dist_group *group =
      make_group(context, shape.n_rows, binned_row_bytes(shape.width, shape.n_bins), FAVOR_SCAN_CHAIN);
  struct favor_costs costs = favor_costs_default();
  costs.within_node.latency_s = costs.between_nodes.latency_s = 1e-12;
  assert_all(favor_context_set_costs(context, &costs) == FAVOR_OK);
  assert_all(is_exact(group, &m, shape, 3, false));
  dist_group_destroy(&group);
  favor_context_destroy(&context);
}

/* The ranks need not start together, and those that have to wait for nobody do not. */
static void first_rank_waits_for_nobody(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  struct shape shape = {16, 9, 2}; /* small messages: MPI takes them without the receiver */
  size_t row_bytes = binned_row_bytes(shape.width, shape.n_bins);
  char partial[16 * 512], result[16 * 512];
  assert_all(row_bytes <= 512);
  for (int s = 0; s < N_SCANS; s++) {
    struct dist_group *group = make_group(context, shape.n_rows, row_bytes, SCANS[s]);
    fill_state(partial, shape, mpi_rank(), 1);
    bool is_right = true;
    if (mpi_rank() == 0) {
      is_right =
          dist_scan_begin(group, 0, shape.n_rows, partial, result) == FAVOR_OK && dist_group_end(group, 0) == FAVOR_OK;
    }
    MPI_Barrier(MPI_COMM_WORLD); /* the others start only when the first has finished */
    if (mpi_rank() != 0) {
      is_right =
          dist_scan_begin(group, 0, shape.n_rows, partial, result) == FAVOR_OK && dist_group_end(group, 0) == FAVOR_OK;
    }
    assert_all(is_right);
    dist_group_destroy(&group);
  }
  favor_context_destroy(&context);
}

static void nothing_in_flight_is_done(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  struct dist_group *group = make_group(context, 3, 200, FAVOR_SCAN_AUTO);
  bool is_done = false;
  assert_all(dist_group_progress(group, &is_done) == FAVOR_OK && is_done);
  assert_all(dist_group_end(group, 0) == FAVOR_OK);
  dist_group_destroy(&group);
  dist_group_destroy(&group);
  favor_context_destroy(&context);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(groups_of_every_size),
      mpi_unit_test(several_groups_at_once),
      mpi_unit_test(nobody_in_a_group),
      mpi_unit_test(states_of_every_shape),
      mpi_unit_test(sets_change_between_operations),
      mpi_unit_test(sets_with_large_states),
      mpi_unit_test(sets_of_several_axes),
      mpi_unit_test(sets_of_ranks_on_several_machines),
      mpi_unit_test(lanes_do_not_meet),
      mpi_unit_test(states_pass_between_any_two_ranks),
      mpi_unit_test(bytes_sent_are_those_of_the_algorithm),
      mpi_unit_test(reductions_send_what_their_algorithm_does),
      mpi_unit_test(cost_chooses_doubling_for_small_and_chain_for_large),
      mpi_unit_test(cost_tells_when_nodes_are_worth_it),
      mpi_unit_test(costs_of_a_group_stay),
      mpi_unit_test(first_rank_waits_for_nobody),
      mpi_unit_test(nothing_in_flight_is_done),
  };
  return mpi_cmocka_main(&argc, &argv, "group", tests, sizeof tests / sizeof tests[0]);
}

/* Reproducible sums: any order, any grouping, the same bytes; and the right number. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/binned.h"
#include "base/random.h"

enum { WIDTH = 5, N_ADDENDS = 3000 };

struct addend {
  double x[WIDTH];
  int64_t shift;
};

/* Addends whose sizes spread over 2^spread, some zero, some exact ties of a bin boundary. */
static void draw(struct addend *addends, int n, int spread, uint64_t seed) {
  struct random_stream stream = random_stream(seed, RANDOM_MAKE, 0, 0);
  for (int i = 0; i < n; i++) {
    for (int e = 0; e < WIDTH; e++) {
      uint64_t bits = random_bits(&stream, (uint64_t)(i * WIDTH + e));
      double x = ldexp((double)(int64_t)(bits >> 11), -53) * (bits & 1 ? 1 : -1);
      if (bits % 17 == 0) x = 0;
      if (bits % 13 == 0) x = ldexp(x < 0 ? -1 : 1, (int)(bits % 7) * BINNED_WIDTH - 1);
      addends[i].x[e] = x;
    }
    addends[i].shift = (int64_t)(random_bits(&stream, (uint64_t)(n * WIDTH + i)) % (uint64_t)(spread + 1)) - spread / 2;
  }
}

static void *new_row(int n_bins) {
  void *row = malloc(binned_row_bytes(WIDTH, n_bins));
  binned_clear(row, 1, WIDTH, n_bins);
  return row;
}

static void add(void *row, const struct addend *addend) {
  binned_deposit(row, 0, WIDTH, addend->x, addend->shift, NULL);
  binned_raise(row, (int32_t)addend->shift);
}

static void order_and_grouping_leave_no_trace(void **state) {
  (void)state;
  for (int n_bins = 2; n_bins <= 3; n_bins++) {
    for (int spread = 0; spread <= 3000; spread = spread * 3 + 40) {
      struct addend *addends = malloc(N_ADDENDS * sizeof *addends);
      draw(addends, N_ADDENDS, spread, (uint64_t)spread);
      void *forward = new_row(n_bins), *backward = new_row(n_bins), *merged = new_row(n_bins), *part = new_row(n_bins);
      for (int i = 0; i < N_ADDENDS; i++) add(forward, &addends[i]);
      for (int i = N_ADDENDS - 1; i >= 0; i--) add(backward, &addends[i]);
      for (int i = 0, length = 1; i < N_ADDENDS; length = length * 2 % 37) {
        binned_clear(part, 1, WIDTH, n_bins);
        for (int j = 0; j < length && i < N_ADDENDS; j++) add(part, &addends[i++]);
        binned_merge(part, merged, 1);
      }
      assert_memory_equal(forward, backward, binned_row_bytes(WIDTH, n_bins));
      assert_memory_equal(forward, merged, binned_row_bytes(WIDTH, n_bins));
      free(forward), free(backward), free(merged), free(part), free(addends);
    }
  }
}

/* Against sums in long double of addends that long double holds exactly enough. */
static void the_sum_is_right(void **state) {
  (void)state;
  for (int n_bins = 2; n_bins <= 3; n_bins++) {
    for (int spread = 0; spread <= 30; spread += 10) {
      struct addend *addends = malloc(N_ADDENDS * sizeof *addends);
      draw(addends, N_ADDENDS, spread, 77);
      void *row = new_row(n_bins);
      long double sum[WIDTH] = {0}, size[WIDTH] = {0};
      for (int i = 0; i < N_ADDENDS; i++) {
        add(row, &addends[i]);
        for (int e = 0; e < WIDTH; e++) {
          sum[e] += ldexpl(addends[i].x[e], (int)addends[i].shift);
          size[e] = fmaxl(size[e], fabsl(ldexpl(addends[i].x[e], (int)addends[i].shift)));
        }
      }
      double value[WIDTH];
      binned_value(row, 0, WIDTH, 0, NULL, value);
      /* Each addend is cut at worst 2^-(40 (n_bins - 1) + 1) below the largest. */
      double bound = N_ADDENDS * ldexp(1, -(BINNED_WIDTH * (n_bins - 1))) + 0x1p-50;
      for (int e = 0; e < WIDTH; e++) assert_true(fabsl(value[e] - sum[e]) <= bound * size[e]);
      free(row), free(addends);
    }
  }
}

/* The addends can tell: plain sums of them follow the order. */
static void plain_sums_would_be_caught(void **state) {
  (void)state;
  struct addend *addends = malloc(N_ADDENDS * sizeof *addends);
  draw(addends, N_ADDENDS, 0, 5);
  double forward = 0, backward = 0;
  for (int i = 0; i < N_ADDENDS; i++) forward += fmod(addends[i].x[0], 1);
  for (int i = N_ADDENDS - 1; i >= 0; i--) backward += fmod(addends[i].x[0], 1);
  assert_true(forward != backward);
  free(addends);
}

static void a_large_addend_drops_what_lies_far_below(void **state) {
  (void)state;
  void *row = new_row(2);
  double small[WIDTH] = {1, -1, 0.5, 3, 0}, large[WIDTH] = {1, 1, 1, 1, 1}, value[WIDTH];
  binned_deposit(row, 0, WIDTH, small, 0, NULL);
  binned_deposit(row, 0, WIDTH, large, 200, NULL);
  binned_value(row, 0, WIDTH, 200, NULL, value);
  for (int e = 0; e < WIDTH; e++) assert_true(value[e] == 1);
  assert_int_equal(binned_magnitude(row, 0), 201);
  free(row);
}

static void columns_have_shifts_of_their_own(void **state) {
  (void)state;
  void *row = new_row(3);
  const int32_t shift[WIDTH] = {0, 100, -100, 1000, -1000};
  double x[WIDTH] = {1, 2, 3, 4, 5}, value[WIDTH];
  binned_deposit(row, 0, WIDTH, x, -7, shift);
  binned_value(row, 0, WIDTH, -7, shift, value);
  for (int e = 0; e < WIDTH; e++) assert_true(value[e] == x[e]);
  binned_value(row, 1, 2, 0, NULL, value);
  assert_true(value[0] == ldexp(2, 93) && value[1] == ldexp(3, -107));
  free(row);
}

static void a_row_of_nothing_is_the_neutral_element(void **state) {
  (void)state;
  void *row = new_row(2), *nothing = new_row(2), *sum = new_row(2);
  struct addend addend = {.x = {1, -2, 0, 1e300, 1e-300}, .shift = 5};
  double value[WIDTH];
  binned_value(nothing, 0, WIDTH, 0, NULL, value);
  for (int e = 0; e < WIDTH; e++) assert_true(value[e] == 0);
  add(row, &addend);
  binned_merge(row, sum, 1);
  binned_merge(nothing, sum, 1);
  assert_memory_equal(row, sum, binned_row_bytes(WIDTH, 2));
  assert_int_equal(binned_magnitude(nothing, 0), BINNED_NONE);
  free(row), free(nothing), free(sum);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(order_and_grouping_leave_no_trace), cmocka_unit_test(the_sum_is_right),
      cmocka_unit_test(plain_sums_would_be_caught),        cmocka_unit_test(a_large_addend_drops_what_lies_far_below),
      cmocka_unit_test(columns_have_shifts_of_their_own),  cmocka_unit_test(a_row_of_nothing_is_the_neutral_element),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

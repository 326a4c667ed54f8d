/* Whose tokens are whose: the spans of a window against their definition, which looks at every segment and part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "plan/tokens.h"

enum { MOST_SEGMENTS = 12, MOST_PARTS = 40, N_CASES = 20000 };

static uint64_t draw(uint64_t *state, uint64_t n) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (*state >> 33) % n;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* What all parts have of the window's segments, spans numbered along the axis. Returns how many there are. */
static int define(const struct tokens *tokens, struct range window, int64_t n_parts, struct span spans[][2]) {
  int number = 0;
  memset(spans, 0, MOST_PARTS * sizeof *spans);
  for (int64_t i = 0; i < tokens->n_segments; i++) {
    struct range pieces[MOST_PARTS];
    int64_t first = -1, last = -1;
    for (int64_t part = 0; part < n_parts; part++) {
      const struct range share = tokens_share(tokens, window, n_parts, part);
      pieces[part] =
          (struct range){larger(share.begin, tokens->offsets[i]), smaller(share.end, tokens->offsets[i + 1])};
      if (range_count(pieces[part]) <= 0) continue;
      if (first < 0) first = part;
      last = part;
    }
    for (int64_t part = first; first < last && part <= last; part++) {
      spans[part][number % 2] = (struct span){.is_member = true,
                                              .first_part = first,
                                              .n_parts = last - first + 1,
                                              .is_first = part == first,
                                              .is_last = part == last,
                                              .piece = pieces[part]};
    }
    number += first < last;
  }
  return number;
}

static void assert_same(const struct span *span, const struct span *expected) {
  assert_int_equal(span->is_member, expected->is_member);
  if (!expected->is_member) return;
  assert_int_equal(span->first_part, expected->first_part);
  assert_int_equal(span->n_parts, expected->n_parts);
  assert_int_equal(span->is_first, expected->is_first);
  assert_int_equal(span->is_last, expected->is_last);
  assert_int_equal(larger(range_count(span->piece), 0), larger(range_count(expected->piece), 0));
  if (range_count(expected->piece) > 0) assert_int_equal(span->piece.begin, expected->piece.begin);
}

static void spans_are_those_of_the_definition(void **state) {
  (void)state;
  uint64_t random = 7;
  int64_t n_spans = 0, n_shared_parts = 0;
  for (int i = 0; i < N_CASES; i++) {
    int64_t offsets[MOST_SEGMENTS + 1] = {0};
    struct tokens tokens = {.n_segments = 1 + (int64_t)draw(&random, MOST_SEGMENTS),
                            .offsets = offsets,
                            .run_tokens = 1 + (int64_t)draw(&random, 5)};
    const uint64_t longest = draw(&random, 2) ? 6 : 60; /* some are empty */
    for (int64_t s = 0; s < tokens.n_segments; s++) offsets[s + 1] = offsets[s] + (int64_t)draw(&random, longest);
    tokens.n_tokens = offsets[tokens.n_segments];
    const uint64_t n_places = (uint64_t)tokens.n_tokens + 1;
    const int64_t a = tokens_run_floor(&tokens, (int64_t)draw(&random, n_places)),
                  b = tokens_run_floor(&tokens, (int64_t)draw(&random, n_places));
    const struct range window = {smaller(a, b), larger(a, b)};
    const int64_t n_parts = 1 + (int64_t)draw(&random, MOST_PARTS);
    struct span expected[MOST_PARTS][2], spans[2];
    const int n = define(&tokens, window, n_parts, expected);
    for (int64_t part = 0; part < n_parts; part++) {
      tokens_spans(&tokens, window, n_parts, part, spans);
      for (int parity = 0; parity < 2; parity++) assert_same(&spans[parity], &expected[part][parity]);
      n_shared_parts += spans[0].is_member && spans[1].is_member;
    }
    struct span_walk walk = tokens_walk_spans(&tokens, window, n_parts);
    while (tokens_next_span(&walk)) {
      for (int64_t part = walk.first; part <= walk.last; part++) {
        const struct span span = tokens_member_span(&walk, part);
        assert_same(&span, &expected[part][walk.number % 2]);
      }
    }
    assert_int_equal(walk.number + 1, n);
    n_spans += n;
  }
  assert_true(n_spans > N_CASES && n_shared_parts > N_CASES / 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(spans_are_those_of_the_definition)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Random numbers: functions of their indices, normal, and the same ones as ever. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/random.h"

enum { N = 200000 };

static void deviates_are_normal(void **state) {
  (void)state;
  struct random_stream stream = random_stream(7, RANDOM_MAKE, 3, 1);
  double *x = malloc(N * sizeof *x), moment[5] = {0};
  random_normal(&stream, 0, N, x);
  for (int i = 0; i < N; i++) {
    for (int power = 1; power <= 4; power++) moment[power] += pow(x[i], power) / N;
  }
  /* Five standard errors of the moments of a normal sample. */
  assert_true(fabs(moment[1]) < 5 / sqrt(N));
  assert_true(fabs(moment[2] - 1) < 5 * sqrt(2.0 / N));
  assert_true(fabs(moment[3]) < 5 * sqrt(15.0 / N));
  assert_true(fabs(moment[4] - 3) < 5 * sqrt(96.0 / N));
  free(x);
}

static void a_deviate_is_a_function_of_its_index(void **state) {
  (void)state;
  struct random_stream stream = random_stream(1, RANDOM_PROJECTION, 0, 0);
  double whole[101], part[101];
  random_normal(&stream, 0, 101, whole);
  for (int first = 0; first < 20; first++) {
    for (int n = 0; n < 20; n++) {
      random_normal(&stream, (uint64_t)first, n, part);
      for (int i = 0; i < n; i++) assert_true(part[i] == whole[first + i]);
    }
  }
}

static void names_make_streams_of_their_own(void **state) {
  (void)state;
  const struct random_stream streams[] = {
      random_stream(1, RANDOM_MAKE, 2, 3),          random_stream(2, RANDOM_MAKE, 2, 3),
      random_stream(1, RANDOM_SAMPLE, 2, 3),        random_stream(1, RANDOM_MAKE, 3, 3),
      random_stream(1, RANDOM_MAKE, 2, 4),          random_stream(1ull << 32, RANDOM_MAKE, 2, 3),
      random_stream(1, RANDOM_MAKE, 2ull << 32, 3),
  };
  enum { N_STREAMS = sizeof streams / sizeof streams[0] };
  for (int a = 0; a < N_STREAMS; a++) {
    for (int b = 0; b < a; b++) assert_true(random_bits(&streams[a], 0) != random_bits(&streams[b], 0));
  }
}

/* A seed stands for the same numbers in every version: outputs name the seed that made them. */
static void seeds_keep_their_meaning(void **state) {
  (void)state;
  struct random_stream stream = random_stream(0, RANDOM_PROJECTION, 0, 0);
  double pair[2];
  random_normal_pair(&stream, 0, pair);
  assert_true(random_bits(&stream, 0) == UINT64_C(0x50282a4dcb63db8c));
  assert_true(random_bits(&stream, UINT64_C(1) << 40) == UINT64_C(0xb11b272ee38978c6));
  assert_true(fabs(pair[0] - -1.4688412821324393) < 1e-14 && fabs(pair[1] - -0.40606447902185389) < 1e-14);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(deviates_are_normal),
      cmocka_unit_test(a_deviate_is_a_function_of_its_index),
      cmocka_unit_test(names_make_streams_of_their_own),
      cmocka_unit_test(seeds_keep_their_meaning),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

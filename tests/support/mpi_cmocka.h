/* cmocka under mpirun. A failed assertion of cmocka jumps out of the test; on one rank alone it would leave the others
 * waiting in their next MPI call. So tests that run on several ranks assert together:
 *
 *   assert_all(condition)   every rank votes; then all fail, or all go on
 *
 * It is collective over MPI_COMM_WORLD: all ranks must come to it, so it stands under no condition that differs between
 * ranks. Where one rank fails alone nevertheless (a crash, an assertion of cmocka's own), the run is aborted.
 *
 *   int main(int argc, char **argv) {
 *     const struct CMUnitTest tests[] = {mpi_unit_test(test_this), mpi_unit_test(test_that)};
 *     return mpi_cmocka_main(&argc, &argv, "agree", tests, sizeof tests / sizeof tests[0]);
 *   }
 */
#ifndef FAVOR_TESTS_MPI_CMOCKA_H
#define FAVOR_TESTS_MPI_CMOCKA_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <mpi.h>

/* Collective: fails the test on every rank where the condition is false on any. */
#define assert_all(condition) mpi_assert_all((condition), #condition, __FILE__, __LINE__)
void mpi_assert_all(bool is_true, const char *text, const char *file, int line);

/* Leaves the test, which then counts as skipped; for tests that need a certain number of ranks. The condition must be
 * the same on every rank. */
void mpi_skip_all_if(bool condition);

/* One entry of the list of tests, in place of cmocka_unit_test. */
// clang-format off
#define mpi_unit_test(function) \
  {#function, mpi_cmocka_test, mpi_cmocka_before, NULL, &(struct mpi_cmocka_body){function}}
// clang-format on
struct mpi_cmocka_body {
  void (*function)(void **state);
};
void mpi_cmocka_test(void **state);
int mpi_cmocka_before(void **state);

/* In MPI_COMM_WORLD. */
int mpi_rank(void);
int mpi_size(void);

/* The whole of a test's main: starts MPI, runs the tests (only rank 0 prints what cmocka says), ends MPI, and returns
 * the same exit code on every rank: 0 if all tests passed everywhere. */
int mpi_cmocka_main(int *argc, char ***argv, const char *name, const struct CMUnitTest *tests, size_t n_tests);

#endif

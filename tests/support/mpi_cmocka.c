#include "support/mpi_cmocka.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum outcome { RUNNING, FINISHED, LEFT_TOGETHER };
static enum outcome outcome = FINISHED; /* of the test that runs or ran last on this rank */

int mpi_rank(void) {
  int rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int mpi_size(void) {
  int size;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

void mpi_assert_all(bool is_true, const char *text, const char *file, int line) {
  int own[2] = {is_true, mpi_rank()}, worst[2]; /* the lowest rank among those where it is false */
  MPI_Allreduce(own, worst, 1, MPI_2INT, MPI_MINLOC, MPI_COMM_WORLD);
  if (worst[0]) return;
  outcome = LEFT_TOGETHER;
  if (own[1] != 0) skip(); /* out of the test, in silence: the failure is rank 0's to report */
  print_error("%s:%d: on rank %d of %d: %s\n", file, line, worst[1], mpi_size(), text);
  _fail(file, line);
}

void mpi_skip_all_if(bool condition) {
  if (!condition) return;
  outcome = LEFT_TOGETHER;
  skip();
}

void mpi_cmocka_test(void **state) {
  const struct mpi_cmocka_body *body = *state;
  body->function(state);
  outcome = FINISHED;
}

/* cmocka prints why a test failed only after the test's teardown. So a rank that failed alone waits for that, and takes
 * the others with it at the start of the next test, or at the end of the run. */
static void abort_if_alone(void) {
  if (outcome != RUNNING) return;
  fprintf(stderr, "rank %d failed alone\n", mpi_rank());
  MPI_Abort(MPI_COMM_WORLD, 1);
}

int mpi_cmocka_before(void **state) {
  (void)state;
  abort_if_alone();
  outcome = RUNNING;
  return 0;
}

/* Sends a descriptor to nowhere. */
static void silence(int descriptor) {
  int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere < 0 || dup2(nowhere, descriptor) < 0) MPI_Abort(MPI_COMM_WORLD, 1);
  close(nowhere);
}

/* cmocka prints its summary on stderr, after the group's teardown. Rank 0's is enough; but what a rank says before (a
 * test that failed alone) or after (a sanitizer) must be heard. */
static int saved_stderr = -1;
static int hide_summary(void **state) {
  (void)state;
  saved_stderr = dup(STDERR_FILENO);
  silence(STDERR_FILENO);
  return 0;
}
static void show_stderr(void) {
  if (saved_stderr < 0) return;
  dup2(saved_stderr, STDERR_FILENO);
  close(saved_stderr);
}

int mpi_cmocka_main(int *argc, char ***argv, const char *name, const struct CMUnitTest *tests, size_t n_tests) {
  int provided;
  MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
  bool is_quiet = mpi_rank() != 0;
  if (is_quiet) silence(STDOUT_FILENO);
  int failed = _cmocka_run_group_tests(name, tests, n_tests, NULL, is_quiet ? hide_summary : NULL);
  show_stderr();
  abort_if_alone();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

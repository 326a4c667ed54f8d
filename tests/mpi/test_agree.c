/* dist_agree and its company: one outcome on every rank. */
#include "dist/agree.h"
#include "support/mpi_cmocka.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct favor_context *make_context(void) {
  struct favor_context *context = NULL;
  enum favor_status status = favor_context_create(MPI_COMM_WORLD, &context);
  assert_all(status == FAVOR_OK && context != NULL);
  return context;
}

static bool has_message(const struct favor_context *context, const char *text) {
  return strcmp(favor_context_message(context), text) == 0;
}

static void context_is_a_duplicate(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  int relation;
  MPI_Comm_compare(MPI_COMM_WORLD, context->comm, &relation);
  assert_all(relation == MPI_CONGRUENT);
  MPI_Errhandler handler;
  MPI_Comm_get_errhandler(context->comm, &handler);
  assert_all(handler == MPI_ERRORS_RETURN);
  MPI_Errhandler_free(&handler);
  assert_all(favor_context_rank(context) == mpi_rank() && favor_context_size(context) == mpi_size());
  assert_all(has_message(context, ""));
  favor_context_destroy(&context);
  assert_all(context == NULL);
  favor_context_destroy(&context);
}

static void agrees_where_nobody_failed(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  assert_all(dist_agree(context, DIST_SITE_NONE, 0, NULL) == FAVOR_OK);
  assert_all(dist_agree(context, DIST_SITE_COMMAND, UINT64_MAX, "options") == FAVOR_OK);
  assert_all(dist_agree(context, DIST_SITE_COMMAND, 12345, "options") == FAVOR_OK);
  assert_all(has_message(context, ""));
  favor_context_destroy(&context);
}

/* Every rank in turn fails alone: its text arrives everywhere, and the next agreement is clean. */
static void one_failure_is_everybodys(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  for (int failing = 0; failing < mpi_size(); failing++) {
    char expected[64];
    snprintf(expected, sizeof expected, "k: NaN in head 3, token %d", failing);
    if (mpi_rank() == failing) {
      dist_fail(context, FAVOR_EDATA, "k: NaN in head %d, token %d", 3, failing);
      dist_fail(context, FAVOR_EIO, "a later error of the same rank");
    }
    assert_all(dist_has_failed(context) == (mpi_rank() == failing));
    assert_all(dist_agree(context, DIST_SITE_RUN_END, 7, "problems") == FAVOR_EDATA);
    assert_all(has_message(context, expected));
    assert_all(!dist_has_failed(context));
    assert_all(dist_agree(context, DIST_SITE_RUN_END, 7, "problems") == FAVOR_OK);
    assert_all(has_message(context, expected)); /* of the last error, until the next */
  }
  favor_context_destroy(&context);
}

/* All ranks fail, and only the code decides, then the rank. */
static void worst_code_then_lowest_rank(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  int rank = mpi_rank(), last = mpi_size() - 1;
  for (int worst = 0; worst <= last; worst++) {
    char expected[32];
    snprintf(expected, sizeof expected, "from rank %d", worst);
    /* Ranks from `worst` on share the worst code. */
    dist_fail(context, rank < worst ? FAVOR_EUSAGE : FAVOR_ENOMEM, "from rank %d", rank);
    assert_all(dist_agree(context, DIST_SITE_RUN_END, 0, NULL) == FAVOR_ENOMEM);
    assert_all(has_message(context, expected));
  }
  for (int code = FAVOR_EVERIFY; code < FAVOR_EMPI; code++) { /* each beats the one below, also from the last rank */
    dist_fail(context, (enum favor_status)(rank == last ? code + 1 : code), "from rank %d", rank);
    assert_all(dist_agree(context, DIST_SITE_RUN_END, 0, NULL) == (enum favor_status)(code + 1));
    char expected[32];
    snprintf(expected, sizeof expected, "from rank %d", last);
    assert_all(has_message(context, expected));
  }
  favor_context_destroy(&context);
}

static void different_arguments_are_named(void **state) {
  (void)state;
  mpi_skip_all_if(mpi_size() == 1);
  struct favor_context *context = make_context();
  const uint64_t digests[] = {0, 1, UINT64_C(1) << 63, UINT64_MAX};
  for (int different = 0; different < mpi_size(); different++) {
    for (size_t i = 0; i < sizeof digests / sizeof digests[0]; i++) {
      uint64_t digest = digests[i] ^ (mpi_rank() == different ? 1 : 0);
      assert_all(dist_agree(context, DIST_SITE_PLAN_CHECK, digest, "problems") == FAVOR_EUSAGE);
      assert_all(strstr(favor_context_message(context), "the ranks were given different problems") != NULL);
      assert_all(dist_agree(context, DIST_SITE_PLAN_CHECK, digests[i], "problems") == FAVOR_OK);
    }
  }
  /* An error explains more than the difference that it causes. */
  if (mpi_rank() == 1) dist_fail(context, FAVOR_EVERIFY, "the cause");
  assert_all(dist_agree(context, DIST_SITE_PLAN_CHECK, (uint64_t)mpi_rank(), "problems") == FAVOR_EVERIFY);
  assert_all(has_message(context, "the cause"));
  favor_context_destroy(&context);
}

static void long_text_is_cut(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  char text[2 * STATUS_TEXT_BYTES];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  if (mpi_rank() == mpi_size() - 1) dist_fail(context, FAVOR_EDATA, "%s", text);
  assert_all(dist_agree(context, DIST_SITE_RUN_END, 0, NULL) == FAVOR_EDATA);
  assert_all(strlen(favor_context_message(context)) == STATUS_TEXT_BYTES - 1);
  favor_context_destroy(&context);
}

/* Threads that fail at the same moment: one text, whole. Many rounds, for the moment is short; on one rank only, so
 * that the threads have cores to run on. */
static void threads_may_fail_together(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  enum { N_ROUNDS = 5000, TEXT_BYTES = 500 };
  char expected[2][TEXT_BYTES + 1] = {{0}};
  memset(expected[0], 'a', TEXT_BYTES);
  memset(expected[1], 'b', TEXT_BYTES);
  int n_torn = 0;
  if (mpi_rank() == mpi_size() - 1) {
#pragma omp parallel num_threads(2)
    for (int round = 0; round < N_ROUNDS; round++) {
#pragma omp single
      status_clear(&context->pending);
      dist_fail(context, FAVOR_EDATA, "%s", expected[omp_get_thread_num()]);
#pragma omp barrier
#pragma omp single
      n_torn += strcmp(context->pending.text, expected[0]) != 0 && strcmp(context->pending.text, expected[1]) != 0;
    }
  }
  assert_all(n_torn == 0);
  assert_all(dist_agree(context, DIST_SITE_RUN_END, 0, NULL) == FAVOR_EDATA);
  favor_context_destroy(&context);
}

/* After an MPI failure a rank does not communicate: it gets its answer although no other rank comes. */
static void dead_contexts_stay_silent(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  bool is_right = true;
  int values[4] = {0};
  int64_t number = 1;
  assert_all(dist_check(context, MPI_SUCCESS, "a step") == FAVOR_OK && !context->is_dead);
  if (mpi_rank() == mpi_size() / 2) {
    is_right = dist_check(context, MPI_ERR_COMM, "a step") == FAVOR_EMPI && context->is_dead &&
               dist_agree(context, DIST_SITE_RUN_END, 0, NULL) == FAVOR_EMPI &&
               dist_broadcast(context, values, sizeof values) == FAVOR_EMPI &&
               dist_max_int64(context, &number, 1) == FAVOR_EMPI &&
               strstr(favor_context_message(context), "MPI failed in a step") != NULL;
  }
  assert_all(is_right);
  context->is_dead = false; /* nothing really broke: let it be freed */
  favor_context_destroy(&context);
}

/* A real failure of MPI, on every rank: it comes back as a status instead of ending the program. */
static void mpi_errors_come_back(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  int64_t value = 1;
  assert_all(dist_max_int64(context, &value, -1) == FAVOR_EMPI);
  assert_all(context->is_dead);
  assert_all(strstr(favor_context_message(context), "MPI failed in a reduction: MPI_ERR_COUNT") != NULL);
  context->is_dead = false; /* the count was refused before anything was sent */
  favor_context_destroy(&context);
}

static void broadcasts_bytes(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  const size_t sizes[] = {0, 1, 1000003};
  for (int s = 0; s < 3; s++) {
    unsigned char *data = calloc(sizes[s] + 1, 1);
    assert_all(data != NULL);
    for (size_t i = 0; mpi_rank() == 0 && i < sizes[s]; i++) data[i] = (unsigned char)(i * 2654435761u >> 13);
    assert_all(dist_broadcast(context, data, sizes[s]) == FAVOR_OK);
    bool is_right = data[sizes[s]] == 0;
    for (size_t i = 0; i < sizes[s]; i++) is_right = is_right && data[i] == (unsigned char)(i * 2654435761u >> 13);
    assert_all(is_right);
    free(data);
  }
  favor_context_destroy(&context);
}

/* MPI's profiling interface: while `expected_next` is set, broadcasts are only looked at. */
static const char *expected_next;
static size_t most_bytes;
int MPI_Bcast(void *buffer, int count, MPI_Datatype datatype, int root, MPI_Comm comm) {
  if (!expected_next) return PMPI_Bcast(buffer, count, datatype, root, comm);
  if (buffer != expected_next || datatype != MPI_BYTE || root != 0) return MPI_ERR_BUFFER;
  expected_next += count;
  if ((size_t)count > most_bytes) most_bytes = (size_t)count;
  return MPI_SUCCESS;
}

/* More bytes than an int counts go in pieces, without a gap; addresses are enough to see that. */
static void broadcasts_more_than_an_int_counts(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  const size_t bytes = ((size_t)5 << 30) + 12345;
  char *data = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  assert_all(data != MAP_FAILED);
  expected_next = data;
  enum favor_status status = dist_broadcast(context, data, bytes);
  const char *end = expected_next;
  expected_next = NULL;
  assert_all(status == FAVOR_OK && end == data + bytes);
  assert_all(most_bytes == (size_t)1 << 30);
  munmap(data, bytes);
  favor_context_destroy(&context);
}

static void reductions(void **state) {
  (void)state;
  struct favor_context *context = make_context();
  int rank = mpi_rank(), size = mpi_size();
  int64_t integers[2] = {INT64_MIN + rank, rank == size / 2 ? INT64_MAX : -1};
  assert_all(dist_max_int64(context, integers, 2) == FAVOR_OK);
  assert_all(integers[0] == INT64_MIN + size - 1 && integers[1] == INT64_MAX);
  double numbers[2] = {-1.0 - rank, rank};
  assert_all(dist_max_double(context, numbers, 2) == FAVOR_OK);
  assert_all(numbers[0] == -1 && numbers[1] == size - 1);
  double sums[2] = {1, rank};
  assert_all(dist_sum_double(context, sums, 2) == FAVOR_OK);
  assert_all(sums[0] == size && sums[1] == size * (size - 1) / 2);
  favor_context_destroy(&context);
}

/* The published vectors of 64-bit FNV-1a (Fowler, Noll, Vo; draft-eastlake-fnv). */
static void digest_is_fnv1a(void **state) {
  (void)state;
  assert_all(dist_digest(DIST_DIGEST_START, "", 0) == UINT64_C(0xcbf29ce484222325));
  assert_all(dist_digest(DIST_DIGEST_START, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
  assert_all(dist_digest(DIST_DIGEST_START, "foobar", 6) == UINT64_C(0x85944171f73967e8));
  uint64_t in_parts = dist_digest(dist_digest(DIST_DIGEST_START, "foo", 3), "bar", 3);
  assert_all(in_parts == UINT64_C(0x85944171f73967e8));
}

static void every_site_has_a_name(void **state) {
  (void)state;
  for (int a = 0; a < DIST_N_SITES; a++) {
    const char *name = dist_site_name((enum dist_site)a);
    assert_all(name != NULL && name[0] != '\0');
    for (int b = 0; b < a; b++) assert_all(strcmp(name, dist_site_name((enum dist_site)b)) != 0);
  }
  assert_all(dist_site_name(DIST_N_SITES) == NULL);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(context_is_a_duplicate),
      mpi_unit_test(agrees_where_nobody_failed),
      mpi_unit_test(one_failure_is_everybodys),
      mpi_unit_test(worst_code_then_lowest_rank),
      mpi_unit_test(different_arguments_are_named),
      mpi_unit_test(long_text_is_cut),
      mpi_unit_test(threads_may_fail_together),
      mpi_unit_test(dead_contexts_stay_silent),
      mpi_unit_test(mpi_errors_come_back),
      mpi_unit_test(broadcasts_bytes),
      mpi_unit_test(broadcasts_more_than_an_int_counts),
      mpi_unit_test(reductions),
      mpi_unit_test(digest_is_fnv1a),
      mpi_unit_test(every_site_has_a_name),
  };
  return mpi_cmocka_main(&argc, &argv, "agree", tests, sizeof tests / sizeof tests[0]);
}

#include "dist/agree.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "dist/count.h"
#include "dist/watch.h"

/* MPI counts are int; starting a piece of this size costs nothing beside moving it. */
static const size_t PIECE_BYTES = (size_t)1 << 30;

/* The three words of an agreement. Their maxima over the ranks give the worst code, the lowest rank that has it, and
 * the greatest and the least digest. */
enum { WORD_ERROR, WORD_DIGEST, WORD_NOT_DIGEST, N_WORDS };

static uint64_t error_word(enum favor_status code, int rank) {
  return (uint64_t)code << 32 | (UINT32_MAX - (uint32_t)rank);
}
static enum favor_status code_of(uint64_t word) { return (enum favor_status)(word >> 32); }
static int rank_of(uint64_t word) { return (int)(UINT32_MAX - (uint32_t)word); }

static void sleep_for(double seconds) {
  struct timespec left = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
  while (nanosleep(&left, &left) != 0) continue;
}

/* The failure that a test asked for with dist_inject. */
static void fail_if_injected(struct favor_context *context, enum dist_site site) {
  if (site == DIST_SITE_NONE || site != context->fault_site || context->rank != context->fault_rank) return;
  if (context->fault_skip > 0) {
    context->fault_skip--;
    return;
  }
  if (context->fault_stall_s > 0) {
    context->fault_site = DIST_SITE_NONE; /* once */
    sleep_for(context->fault_stall_s);
    return;
  }
  dist_fail(context, FAVOR_EINTERNAL, "injected failure at %s on rank %d", dist_site_name(site), context->rank);
}

/* Gives every rank the message of the one that `word` names. */
static enum favor_status share_message(struct favor_context *context, uint64_t word) {
  memcpy(context->message, context->pending.text, sizeof context->message);
  status_clear(&context->pending);
  int mpi_code = MPI_Bcast(context->message, STATUS_TEXT_BYTES, MPI_CHAR, rank_of(word), context->comm);
  if (dist_check(context, mpi_code, "sharing an error message") != FAVOR_OK) return FAVOR_EMPI;
  return code_of(word);
}

static enum favor_status agree(struct favor_context *context, uint64_t digest, const char *what) {
  uint64_t words[N_WORDS] = {error_word(context->pending.code, context->rank), digest, ~digest};
  int mpi_code = MPI_Allreduce(MPI_IN_PLACE, words, N_WORDS, MPI_UINT64_T, MPI_MAX, context->comm);
  if (dist_check(context, mpi_code, "an agreement") != FAVOR_OK) return FAVOR_EMPI;
  if (code_of(words[WORD_ERROR]) != FAVOR_OK) return share_message(context, words[WORD_ERROR]);
  if (words[WORD_DIGEST] == ~words[WORD_NOT_DIGEST]) return FAVOR_OK;
  snprintf(context->message, sizeof context->message, "the ranks were given different %s; give every rank the same",
           what);
  return FAVOR_EUSAGE;
}

enum favor_status dist_agree(struct favor_context *context, enum dist_site site, uint64_t digest, const char *what) {
  if (context->is_dead) return FAVOR_EMPI;
  fail_if_injected(context, site);
  dist_watch_enter(context->watch, "an agreement");
  enum favor_status status = agree(context, digest, what);
  dist_watch_leave(context->watch);
  return status;
}

enum favor_status dist_broadcast(struct favor_context *context, void *data, size_t bytes) {
  if (context->is_dead) return FAVOR_EMPI;
  for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
    size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
    dist_watch_enter(context->watch, "a broadcast");
    int mpi_code = MPI_Bcast((char *)data + done, dist_count((int64_t)piece), MPI_BYTE, 0, context->comm);
    dist_watch_leave(context->watch);
    if (dist_check(context, mpi_code, "a broadcast") != FAVOR_OK) return FAVOR_EMPI;
  }
  return FAVOR_OK;
}

static enum favor_status reduce_in_place(struct favor_context *context, void *values, int n, MPI_Datatype type,
                                         MPI_Op operation) {
  if (context->is_dead) return FAVOR_EMPI;
  dist_watch_enter(context->watch, "a reduction");
  int mpi_code = MPI_Allreduce(MPI_IN_PLACE, values, n, type, operation, context->comm);
  dist_watch_leave(context->watch);
  return dist_check(context, mpi_code, "a reduction");
}

enum favor_status dist_max_int64(struct favor_context *context, int64_t *values, int n) {
  return reduce_in_place(context, values, n, MPI_INT64_T, MPI_MAX);
}

enum favor_status dist_max_double(struct favor_context *context, double *values, int n) {
  return reduce_in_place(context, values, n, MPI_DOUBLE, MPI_MAX);
}

enum favor_status dist_sum_double(struct favor_context *context, double *values, int n) {
  return reduce_in_place(context, values, n, MPI_DOUBLE, MPI_SUM);
}

enum favor_status dist_sum_uint64(struct favor_context *context, uint64_t *values, int64_t n) {
  static const int64_t PIECE = 1 << 20;
  enum favor_status status = FAVOR_OK;
  for (int64_t done = 0; done < n && status == FAVOR_OK; done += PIECE)
    status =
        reduce_in_place(context, values + done, dist_count(n - done < PIECE ? n - done : PIECE), MPI_UINT64_T, MPI_SUM);
  return status;
}

uint64_t dist_digest(uint64_t digest, const void *data, size_t bytes) {
  const unsigned char *byte = data;
  for (size_t i = 0; i < bytes; i++) digest = (digest ^ byte[i]) * UINT64_C(1099511628211);
  return digest;
}

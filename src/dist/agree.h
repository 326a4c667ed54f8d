/* Agree, then leave: the only exit of a collective function before it communicates. */
#ifndef FAVOR_DIST_AGREE_H
#define FAVOR_DIST_AGREE_H

#include "dist/comm.h"

/* Collective. Every rank brings its pending error (context->pending) and a digest of its arguments (0 where there is
 * nothing to compare; then on every rank). One MPI_Allreduce(MAX) of three words finds the worst code, the lowest rank
 * that has it, and whether digests differ. All ranks return the same status; on failure context->message is the same
 * text everywhere, and the pending error is forgotten. A digest that differs is FAVOR_EUSAGE with a text that names
 * `what`, what the ranks were given different ..., e.g. "problems". Where MPI itself fails: FAVOR_EMPI, context dead.
 */
enum favor_status dist_agree(struct favor_context *context, enum dist_site site, uint64_t digest, const char *what);

/* Collective: bytes from rank 0 to all, any 64-bit count. Records FAVOR_EMPI on failure and returns it. */
enum favor_status dist_broadcast(struct favor_context *context, void *data, size_t bytes);

/* Collective reductions of n values in place. */
enum favor_status dist_max_int64(struct favor_context *context, int64_t *values, int n);
enum favor_status dist_max_double(struct favor_context *context, double *values, int n);
enum favor_status dist_sum_double(struct favor_context *context, double *values, int n);
enum favor_status dist_sum_uint64(struct favor_context *context, uint64_t *values, int64_t n); /* modulo 2^64 */

/* FNV-1a, for digests; start with DIST_DIGEST_START. */
#define DIST_DIGEST_START UINT64_C(14695981039346656037)
uint64_t dist_digest(uint64_t digest, const void *data, size_t bytes);

#endif

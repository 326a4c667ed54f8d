/* What a query sums over some of its keys (core/exact.h), in a form whose addition is exact: one binned row of 1 + E
 * elements, the weights' sum and the sums of weights times values. Tiles of keys folded apart, by any threads and
 * ranks, add up to the same bits. The elements reach any exponent, so no maximum has to be known beforehand; only
 * logits beyond 2^34, where float no longer resolves 1000, count as equal. */
#ifndef FAVOR_CORE_PARTIAL_H
#define FAVOR_CORE_PARTIAL_H

#include "core/exact.h"

size_t partial_bytes(const struct engine *engine);
/* Rows of no key; and into += from. */
void partial_clear(const struct engine *engine, void *rows, int64_t n_rows);
void partial_merge(const void *from, void *into, int64_t n_rows);

/* rows [n] += what the queries' sums hold. */
void partial_add(const struct exact *exact, const struct exact_queries *queries, void *rows);
/* The queries' sums = rows that stand `stride` rows apart, to be emitted. */
void partial_take(const struct exact *exact, const void *rows, int64_t stride, const struct exact_queries *queries);

#endif

/* Memory that is aligned for vectors and touched by the one who asks for it. */
#ifndef FAVOR_BASE_MEMORY_H
#define FAVOR_BASE_MEMORY_H

#include <stddef.h>

/* count * bytes, aligned to 64, zeroed (so that its pages exist); NULL when it cannot be had or the product
 * overflows. A size of 0 gives a valid pointer. Freed with free(). */
void *memory_zeroed(size_t count, size_t bytes);

/* The same untouched, for threads that are to have it near: its pages come to be where each is written first. */
void *memory_untouched(size_t count, size_t bytes);

/* The largest resident set of this process so far, in bytes. */
size_t memory_peak_bytes(void);

#endif

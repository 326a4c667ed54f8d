/* Files with holes: what they hold between the holes, copied or compared. All return 0 or an errno. */
#ifndef FAVOR_IO_SPARSE_H
#define FAVOR_IO_SPARSE_H

#include <stddef.h>
#include <stdint.h>

enum { SPARSE_PIECE_BYTES = 16 * 1024 };

/* Hands every stretch of `file` that is not a hole to `take`, in pieces of at most SPARSE_PIECE_BYTES. A stretch may be
 * larger than what was written: it consists of whole pages, filled with zeros. Ends at what `take` returns but 0. */
int sparse_for_each(int file, int (*take)(void *self, int64_t begin, size_t bytes), void *self);

/* Copies all but the holes. */
int sparse_copy(int from, int to);

/* Writes to `file` those bytes of `after` that differ from those of `before`. */
int sparse_write_changes(int before, int after, int file);

#endif

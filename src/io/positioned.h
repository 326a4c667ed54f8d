/* Reads and writes at a place of a file that are complete or an error, and the flush of a name. */
#ifndef FAVOR_IO_POSITIONED_H
#define FAVOR_IO_POSITIONED_H

#include <stddef.h>
#include <stdint.h>

/* Reads `bytes` at `offset`, through interruptions and short reads. Returns 0, an errno, or POSITIONED_END where the
 * file ends before. */
enum { POSITIONED_END = -1 };
int positioned_read(int fd, void *data, size_t bytes, int64_t offset);

/* Writes `bytes` at `offset`, through interruptions and short writes. Returns 0 or an errno. */
int positioned_write(int fd, const void *data, size_t bytes, int64_t offset);

/* Makes the name `path`, which was made or renamed, durable: flushes its directory. Returns 0 or an errno. */
int positioned_sync_directory(const char *path);

#endif

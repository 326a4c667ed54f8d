#include "io/positioned.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "files are larger than 2 GiB");

int positioned_read(int fd, void *data, size_t bytes, int64_t offset) {
  for (size_t done = 0; done < bytes;) {
    ssize_t n = pread(fd, (char *)data + done, bytes - done, offset + (int64_t)done);
    if (n == 0) return POSITIONED_END;
    if (n > 0)
      done += (size_t)n;
    else if (errno != EINTR)
      return errno;
  }
  return 0;
}

int positioned_write(int fd, const void *data, size_t bytes, int64_t offset) {
  for (size_t done = 0; done < bytes;) {
    ssize_t n = pwrite(fd, (const char *)data + done, bytes - done, offset + (int64_t)done);
    if (n == 0) return EIO; /* no progress and no reason: do not try for ever */
    if (n > 0)
      done += (size_t)n;
    else if (errno != EINTR)
      return errno;
  }
  return 0;
}

int positioned_sync_directory(const char *path) {
  const char *slash = strrchr(path, '/');
  char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  if (!directory) return ENOMEM;
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = fd >= 0 && fsync(fd) == 0 ? 0 : errno;
  if (fd >= 0) close(fd);
  free(directory);
  return error == EINVAL ? 0 : error; /* a file system that has nothing to do there */
}

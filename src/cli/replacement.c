#include "cli/replacement.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/positioned.h"

bool replacement_open(struct replacement *replacement, const char *path) {
  *replacement = (struct replacement){.name = ""};
  snprintf(replacement->name, sizeof replacement->name, "%s.XXXXXX", path);
  const int descriptor = mkstemp(replacement->name);
  if (descriptor < 0) {
    replacement->name[0] = '\0';
    return false;
  }
  const mode_t mask = umask(0); /* mkstemp gives no rights to others, open would */
  umask(mask);
  if (fchmod(descriptor, 0666 & ~mask) == 0) replacement->file = fdopen(descriptor, "w");
  if (replacement->file) return true;
  const int reason = errno;
  close(descriptor);
  replacement_discard(replacement);
  errno = reason;
  return false;
}

bool replacement_finish(struct replacement *replacement, const char *path) {
  FILE *file = replacement->file;
  if (ferror(file)) {
    errno = EIO; /* of the write that failed it is not known any more */
    return false;
  }
  if (fflush(file) != 0 || fsync(fileno(file)) != 0 || rename(replacement->name, path) != 0) return false;
  replacement->name[0] = '\0';
  errno = positioned_sync_directory(path);
  return errno == 0;
}

void replacement_discard(struct replacement *replacement) {
  if (replacement->file) fclose(replacement->file);
  if (replacement->name[0]) unlink(replacement->name);
  *replacement = (struct replacement){.name = ""};
}

#define _GNU_SOURCE /* fallocate, F_OFD_SETLK */
#include "io/output_part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dist/comm.h"
#include "io/positioned.h"
#include "io/sparse.h"

bool part_identify(const char *part, struct part_identity *identity) {
  struct stat stat_part;
  if (lstat(part, &stat_part) != 0) return false;
  *identity = (struct part_identity){(uint64_t)stat_part.st_ino, stat_part.st_size};
  return true;
}

bool part_is_same(const struct part_identity *a, const struct part_identity *b) {
  return a->inode == b->inode && a->bytes == b->bytes;
}

static enum favor_status fail_create(struct favor_context *context, const char *part, int error) {
  if (error == ENOENT) return dist_fail(context, FAVOR_ECREATE, "cannot create %s: its directory does not exist", part);
  return dist_fail(context, FAVOR_ECREATE, "cannot create %s: %s", part, strerror(error));
}

/* ---- the lock ----------------------------------------------------------------------------------------------------
 *
 * A lock of the open file description (fcntl(2)): no close of another descriptor of the file gives it up, as HDF5's and
 * the other ranks' would with a lock of the process, and the kernel takes it back from a process that was killed.
 * Processes of a killed run that linger write to a file that a new run has unlinked; after a resume, the bytes that the
 * new run writes as well.
 */

enum lock { LOCK_HELD, LOCK_REFUSED };

/* A file system without locks has to do without. */
static enum lock lock_file(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return LOCK_HELD;
  return errno == EAGAIN || errno == EACCES ? LOCK_REFUSED : LOCK_HELD;
}

static bool is_under_name(int fd, const char *part) {
  struct stat open_file, named_file;
  return fstat(fd, &open_file) == 0 && lstat(part, &named_file) == 0 && open_file.st_ino == named_file.st_ino &&
         open_file.st_dev == named_file.st_dev;
}

static enum favor_status fail_locked(struct favor_context *context, const char *path, const char *part) {
  return dist_fail(context, FAVOR_ECREATE, "%s is being written by another run (%s is locked)", path, part);
}

/* Opens what has the name and locks it; *fd is -1 with FAVOR_OK where nothing has. A file that lost its name between
 * the two was renamed or replaced by the run that held the lock. */
static enum favor_status open_locked(struct favor_context *context, const char *path, const char *part, int *fd) {
  enum { MOST_ATTEMPTS = 100 };
  struct stat stat;
  for (int i = 0; i < MOST_ATTEMPTS; i++) {
    *fd = open(part, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    const int error = errno;
    if (*fd < 0 && lstat(part, &stat) != 0) return FAVOR_OK; /* a directory that is not there is for others to find */
    if (*fd < 0)
      return dist_fail(context, FAVOR_ECREATE, "cannot open %s, which is in the way: %s; remove it", part,
                       strerror(error));
    const enum lock lock = lock_file(*fd);
    if (lock == LOCK_HELD && is_under_name(*fd, part)) return FAVOR_OK;
    close(*fd);
    *fd = -1;
    if (lock == LOCK_REFUSED) break;
  }
  return fail_locked(context, path, part);
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

/* Free bytes of the file system for this user, -1 where unknown (some network file systems have no size). */
static int64_t free_bytes(int fd) {
  struct statvfs fs;
  return fstatvfs(fd, &fs) == 0 && fs.f_blocks > 0 ? (int64_t)(fs.f_bavail * fs.f_frsize) : -1;
}

/* Gives the file its size and reserves its space; 0 or an errno. Where the file system cannot reserve, enough free
 * space must do: posix_fallocate would instead write to every block, which on a network takes as long as the output. */
static int reserve(int fd, int64_t bytes) {
  int error;
  do {
    error = fallocate(fd, 0, 0, bytes) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error != EOPNOTSUPP && error != ENOSYS) return error;
  struct stat stat;
  if (fstat(fd, &stat) != 0) return errno;
  int64_t available = free_bytes(fd), present = (int64_t)stat.st_blocks * 512; /* of a run that goes on */
  if (available >= 0 && available < bytes - present) return ENOSPC;
  return ftruncate(fd, bytes) == 0 ? 0 : errno;
}

static enum favor_status fail_space(struct favor_context *context, const char *path, int fd, int64_t bytes, int error) {
  if (error == ENOSPC)
    return dist_fail(context, FAVOR_ECREATE, "no space for %s: needs %lld bytes, %lld are free", path, (long long)bytes,
                     (long long)free_bytes(fd));
  return dist_fail(context, FAVOR_ECREATE, "no space for %s: needs %lld bytes: %s", path, (long long)bytes,
                   strerror(error));
}

/* Makes a file of this name and locks it. Another run may get in between; then it goes first. */
static enum favor_status create_locked(struct favor_context *context, const char *path, const char *part, int *fd) {
  *fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (*fd < 0 && errno != EEXIST) return fail_create(context, part, errno);
  if (*fd >= 0 && lock_file(*fd) == LOCK_HELD && is_under_name(*fd, part)) return FAVOR_OK;
  if (*fd >= 0) close(*fd);
  *fd = -1;
  return fail_locked(context, path, part);
}

/* Size, space, image and number; 0 or an errno. */
static int fill(struct favor_context *context, const char *path, int fd, int image, uint64_t id) {
  struct stat stat;
  if (fstat(image, &stat) != 0) return errno;
  int error = reserve(fd, stat.st_size + PART_TRAILER_BYTES);
  if (error != 0) {
    fail_space(context, path, fd, stat.st_size, error);
    return error;
  }
  error = sparse_copy(image, fd);
  if (error == 0) error = positioned_write(fd, &id, sizeof id, stat.st_size);
  return error == 0 && fsync(fd) != 0 ? errno : error;
}

enum favor_status part_create(struct favor_context *context, const char *path, const char *part, int image,
                              const char *companion, uint64_t *id, int *fd) {
  int old;
  enum favor_status status = open_locked(context, path, part, &old);
  if (status != FAVOR_OK) return status;
  if (companion) unlink(companion); /* first, as it is nothing without the other */
  if (old >= 0) unlink(part);       /* while its lock is held; where that fails, so does the next line */
  status = create_locked(context, path, part, fd);
  if (old >= 0) close(old);
  if (status != FAVOR_OK) return status;
  int error = getrandom(id, sizeof *id, 0) == (ssize_t)sizeof *id ? 0 : errno;
  if (error == 0) error = fill(context, path, *fd, image, *id);
  if (error == 0) return FAVOR_OK;
  unlink(part);
  return fail_create(context, part, error); /* after what fill recorded */
}

/* ---- going on ---------------------------------------------------------------------------------------------------- */

struct comparison {
  int image, mask, file;
  const struct part_range *ranges;
  int n_ranges;
  bool is_restoring;
  bool is_different;
};

static bool is_in_ranges(const struct comparison *comparison, int64_t at) {
  for (int i = 0; i < comparison->n_ranges; i++) {
    if (at >= comparison->ranges[i].begin && at < comparison->ranges[i].end) return true;
  }
  return false;
}

static int compare_piece(void *self, int64_t at, size_t bytes) {
  struct comparison *comparison = self;
  char image[SPARSE_PIECE_BYTES], mask[SPARSE_PIECE_BYTES], file[SPARSE_PIECE_BYTES];
  int error = positioned_read(comparison->image, image, bytes, at);
  if (error == 0) error = positioned_read(comparison->mask, mask, bytes, at);
  if (error == 0) error = positioned_read(comparison->file, file, bytes, at);
  for (size_t i = 0; i < bytes && error == 0; i++) {
    if (image[i] == file[i] || is_in_ranges(comparison, at + (int64_t)i)) continue;
    comparison->is_different |= image[i] == mask[i];
    if (comparison->is_restoring) error = positioned_write(comparison->file, image + i, 1, at + (int64_t)i);
  }
  return error;
}

static enum favor_status fail_other(struct favor_context *context, const char *part, const char *reason) {
  return dist_fail(context, FAVOR_EDATA,
                   "%s is not the one that the checkpoint belongs to: %s; start afresh, without --resume", part,
                   reason);
}

/* Is it this number's file? One of the size of the image alone is complete but for its name. */
static enum favor_status check_number(struct favor_context *context, const char *part, int fd, int64_t image_bytes,
                                      uint64_t id) {
  struct stat stat;
  uint64_t found;
  if (fstat(fd, &stat) != 0) return dist_fail(context, FAVOR_EIO, "cannot read %s: %s", part, strerror(errno));
  if (stat.st_size == image_bytes) return FAVOR_OK;
  if (stat.st_size != image_bytes + PART_TRAILER_BYTES) return fail_other(context, part, "it has another size");
  const int error = positioned_read(fd, &found, sizeof found, image_bytes);
  if (error != 0) return dist_fail(context, FAVOR_EIO, "cannot read %s: %s", part, strerror(error));
  return found == id ? FAVOR_OK : fail_other(context, part, "another run made it");
}

static enum favor_status check_contents(struct favor_context *context, const char *part,
                                        struct comparison *comparison) {
  int error = sparse_for_each(comparison->image, compare_piece, comparison);
  if (error == 0 && comparison->is_different) return fail_other(context, part, "it was made with other options");
  comparison->is_restoring = true;
  if (error == 0) error = sparse_for_each(comparison->image, compare_piece, comparison);
  if (error == 0) return FAVOR_OK;
  return dist_fail(context, FAVOR_EIO, "cannot compare %s with its layout: %s", part, strerror(error));
}

/* What a file system that could not reserve space gives now; and the number again where it was cut off. */
static enum favor_status reserve_again(struct favor_context *context, const char *path, const char *part, int fd,
                                       int64_t image_bytes, uint64_t id) {
  /* The number first: one that is cut off has no other, one that is there has this. */
  int error = positioned_write(fd, &id, sizeof id, image_bytes);
  if (error != 0) return dist_fail(context, FAVOR_EIO, "cannot write %s: %s", part, strerror(error));
  error = reserve(fd, image_bytes + PART_TRAILER_BYTES);
  return error == 0 ? FAVOR_OK : fail_space(context, path, fd, image_bytes, error);
}

enum favor_status part_resume(struct favor_context *context, const char *path, const char *part, int image, int mask,
                              const struct part_range *ranges, int n_ranges, uint64_t id, int *fd) {
  struct stat stat;
  enum favor_status status = open_locked(context, path, part, fd);
  if (status != FAVOR_OK) return status;
  if (*fd < 0)
    return dist_fail(context, FAVOR_EDATA,
                     "%s, which the checkpoint belongs to, is missing; start afresh, without --resume", part);
  if (fstat(image, &stat) != 0) return dist_fail(context, FAVOR_EIO, "cannot read a layout: %s", strerror(errno));
  struct comparison comparison = {.image = image, .mask = mask, .file = *fd, .ranges = ranges, .n_ranges = n_ranges};
  status = check_number(context, part, *fd, stat.st_size, id);
  if (status == FAVOR_OK) status = check_contents(context, part, &comparison);
  if (status == FAVOR_OK) status = reserve_again(context, path, part, *fd, stat.st_size, id);
  return status;
}

/* Makes the n-th call on a file fail on one rank. Preloaded (LD_PRELOAD), this stands between the C library and a
 * program with its libraries, HDF5 included, so that tests can break every call in turn. Set in the environment:
 *
 *   FAULT_RANK    the rank; processes without a rank, as mpirun, are left alone
 *   FAULT_PATH    only files whose path contains this text
 *   FAULT_CALL    open, read, write, sync, rename, allocate, close or any
 *   FAULT_AFTER   how many matching calls pass first
 *   FAULT_ERRNO   what the next one and all after it fail with, e.g. ENOSPC; KILL: the process is killed there; SHORT:
 *                 reads and writes move half of their bytes
 *   FAULT_EVERY   k: of these only every k-th; 0: only the first
 *   FAULT_SHORT   if set, a read or write in place of the first failure moves half of its bytes
 *   FAULT_REPORT  a file that gets a line at the first failure; where it is missing, the run passed untouched
 *
 * Calls that the C library makes within itself, as fopen does, cannot be caught. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, KILL = -1, SHORT = -2 };

static struct {
  bool is_on, is_short;
  const char *call, *path, *report;
  long after, every;
  int error; /* an errno, KILL or SHORT */
} fault;
static _Atomic long n_calls;

static int error_named(const char *name) {
  static const struct {
    const char *name;
    int error;
  } errors[] = {{"EACCES", EACCES}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR},   {"EIO", EIO},
                {"EMFILE", EMFILE}, {"ENFILE", ENFILE}, {"ENOLCK", ENOLCK}, {"ENOSPC", ENOSPC},
                {"EROFS", EROFS},   {"ESTALE", ESTALE}, {"KILL", KILL},     {"SHORT", SHORT}};
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
    if (strcmp(name, errors[i].name) == 0) return errors[i].error;
  }
  fprintf(stderr, "fault_io: FAULT_ERRNO is '%s', which is not known\n", name);
  abort();
}

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value ? value : otherwise;
}

__attribute__((constructor)) static void read_settings(void) {
  const char *own = setting("OMPI_COMM_WORLD_RANK", setting("PMIX_RANK", NULL)), *rank = setting("FAULT_RANK", NULL);
  if (!own || !rank || strcmp(own, rank) != 0) return;
  fault.call = setting("FAULT_CALL", "any");
  fault.path = setting("FAULT_PATH", "");
  fault.report = setting("FAULT_REPORT", NULL);
  fault.after = atol(setting("FAULT_AFTER", "0"));
  fault.error = error_named(setting("FAULT_ERRNO", "EIO"));
  fault.every = atol(setting("FAULT_EVERY", "1"));
  fault.is_short = getenv("FAULT_SHORT") != NULL;
  fault.is_on = true;
}

/* By system calls alone, which nothing here stands before. */
static void report(const char *call, const char *path) {
  char line[PATH_BYTES + 64];
  int n = snprintf(line, sizeof line, "%s number %ld, %s\n", call, fault.after, path);
  if (!fault.report) return;
  long fd = syscall(SYS_openat, AT_FDCWD, fault.report, O_WRONLY | O_CREAT | O_APPEND, 0666);
  if (fd < 0 || syscall(SYS_write, fd, line, n) != n) abort();
  syscall(SYS_close, fd);
}

enum verdict { PASS, HALF, FAIL };

/* What is to become of this call; sets errno where it is to fail. */
static enum verdict judge(const char *call, const char *path) {
  bool is_meant = strcmp(fault.call, call) == 0 || strcmp(fault.call, "any") == 0;
  if (!is_meant || !strstr(path, fault.path)) return PASS;
  long index = atomic_fetch_add(&n_calls, 1) - fault.after;
  if (index < 0 || (index > 0 && (fault.every == 0 || index % fault.every != 0))) return PASS;
  if (index == 0) report(call, path);
  if (fault.error == KILL) raise(SIGKILL);
  bool is_transfer = strcmp(call, "read") == 0 || strcmp(call, "write") == 0;
  if (fault.error == SHORT || (fault.is_short && index == 0 && is_transfer)) return is_transfer ? HALF : PASS;
  errno = fault.error;
  return FAIL;
}

static enum verdict judge_path(const char *call, const char *path) {
  return fault.is_on && path ? judge(call, path) : PASS;
}

static enum verdict judge_fd(const char *call, int fd) {
  char link[64], path[PATH_BYTES];
  if (!fault.is_on) return PASS;
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  errno = before;
  if (n < 0) return PASS;
  path[n] = '\0';
  return judge(call, path);
}

/* The bytes to move of this many. */
static size_t share(enum verdict verdict, size_t bytes) { return verdict == HALF ? (bytes + 1) / 2 : bytes; }

/* The function that stands behind this one. */
#define REAL(name)                                                                                                     \
  static __typeof__(&name) real;                                                                                       \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define EXPORT __attribute__((visibility("default")))

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* The mode of a call that creates a file. */
#define READ_MODE(flags, mode)                                                                                         \
  mode_t mode = 0;                                                                                                     \
  if (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE) {                                                         \
    va_list arguments;                                                                                                 \
    va_start(arguments, flags);                                                                                        \
    mode = va_arg(arguments, mode_t);                                                                                  \
    va_end(arguments);                                                                                                 \
  }

#define DEFINE_OPEN(name)                                                                                              \
  EXPORT int name(const char *path, int flags, ...) {                                                                  \
    REAL(name);                                                                                                        \
    READ_MODE(flags, mode)                                                                                             \
    return judge_path("open", path) == PASS ? real(path, flags, mode) : -1;                                            \
  }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name)                                                                                            \
  EXPORT int name(int directory, const char *path, int flags, ...) {                                                   \
    REAL(name);                                                                                                        \
    READ_MODE(flags, mode)                                                                                             \
    return judge_path("open", path) == PASS ? real(directory, path, flags, mode) : -1;                                 \
  }
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

EXPORT int creat(const char *path, mode_t mode) {
  REAL(creat);
  return judge_path("open", path) == PASS ? real(path, mode) : -1;
}

/* As on a network, where what was written may be lost: the descriptor is gone in any case. Of files that are only read
 * none fails, and HDF5 does not survive it. */
EXPORT int close(int fd) {
  REAL(close);
  bool is_written = fault.is_on && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
  enum verdict verdict = is_written ? judge_fd("close", fd) : PASS;
  int code = real(fd);
  if (verdict == PASS || code != 0) return code;
  errno = fault.error;
  return -1;
}

/* ---- reading and writing ----------------------------------------------------------------------------------------- */

#define DEFINE_TRANSFER(name, call, DATA)                                                                              \
  EXPORT ssize_t name(int fd, DATA data, size_t bytes) {                                                               \
    REAL(name);                                                                                                        \
    enum verdict verdict = judge_fd(call, fd);                                                                         \
    return verdict == FAIL ? -1 : real(fd, data, share(verdict, bytes));                                               \
  }
DEFINE_TRANSFER(read, "read", void *)
DEFINE_TRANSFER(write, "write", const void *)

#define DEFINE_TRANSFER_AT(name, call, DATA)                                                                           \
  EXPORT ssize_t name(int fd, DATA data, size_t bytes, off_t offset) {                                                 \
    REAL(name);                                                                                                        \
    enum verdict verdict = judge_fd(call, fd);                                                                         \
    return verdict == FAIL ? -1 : real(fd, data, share(verdict, bytes), offset);                                       \
  }
DEFINE_TRANSFER_AT(pread, "read", void *)
DEFINE_TRANSFER_AT(pread64, "read", void *)
DEFINE_TRANSFER_AT(pwrite, "write", const void *)
DEFINE_TRANSFER_AT(pwrite64, "write", const void *)

/* A vector of one half is its first element. */
#define DEFINE_VECTOR(name, call)                                                                                      \
  EXPORT ssize_t name(int fd, const struct iovec *parts, int n_parts) {                                                \
    REAL(name);                                                                                                        \
    enum verdict verdict = judge_fd(call, fd);                                                                         \
    return verdict == FAIL ? -1 : real(fd, parts, verdict == HALF && n_parts > 1 ? 1 : n_parts);                       \
  }
DEFINE_VECTOR(readv, "read")
DEFINE_VECTOR(writev, "write")

#define DEFINE_VECTOR_AT(name, call)                                                                                   \
  EXPORT ssize_t name(int fd, const struct iovec *parts, int n_parts, off_t offset) {                                  \
    REAL(name);                                                                                                        \
    enum verdict verdict = judge_fd(call, fd);                                                                         \
    return verdict == FAIL ? -1 : real(fd, parts, verdict == HALF && n_parts > 1 ? 1 : n_parts, offset);               \
  }
DEFINE_VECTOR_AT(preadv, "read")
DEFINE_VECTOR_AT(preadv64, "read")
DEFINE_VECTOR_AT(pwritev, "write")
DEFINE_VECTOR_AT(pwritev64, "write")

/* ---- bringing to disk, room, names ------------------------------------------------------------------------------- */

/* Not sync_file_range: without waiting it is a hint, whose failure means nothing. */
EXPORT int fsync(int fd) {
  REAL(fsync);
  return judge_fd("sync", fd) == PASS ? real(fd) : -1;
}

EXPORT int fdatasync(int fd) {
  REAL(fdatasync);
  return judge_fd("sync", fd) == PASS ? real(fd) : -1;
}

#define DEFINE_ALLOCATE(name)                                                                                          \
  EXPORT int name(int fd, int mode, off_t offset, off_t bytes) {                                                       \
    REAL(name);                                                                                                        \
    return judge_fd("allocate", fd) == PASS ? real(fd, mode, offset, bytes) : -1;                                      \
  }
DEFINE_ALLOCATE(fallocate)
DEFINE_ALLOCATE(fallocate64)

/* These give the error and leave errno alone. */
#define DEFINE_POSIX_ALLOCATE(name)                                                                                    \
  EXPORT int name(int fd, off_t offset, off_t bytes) {                                                                 \
    REAL(name);                                                                                                        \
    return judge_fd("allocate", fd) == PASS ? real(fd, offset, bytes) : fault.error;                                   \
  }
DEFINE_POSIX_ALLOCATE(posix_fallocate)
DEFINE_POSIX_ALLOCATE(posix_fallocate64)

#define DEFINE_TRUNCATE(name)                                                                                          \
  EXPORT int name(int fd, off_t bytes) {                                                                               \
    REAL(name);                                                                                                        \
    return judge_fd("allocate", fd) == PASS ? real(fd, bytes) : -1;                                                    \
  }
DEFINE_TRUNCATE(ftruncate)
DEFINE_TRUNCATE(ftruncate64)

/* Calls that give a file a name are known by the old one. */
EXPORT int rename(const char *from, const char *to) {
  REAL(rename);
  return judge_path("rename", from) == PASS ? real(from, to) : -1;
}

EXPORT int renameat(int from_directory, const char *from, int to_directory, const char *to) {
  REAL(renameat);
  return judge_path("rename", from) == PASS ? real(from_directory, from, to_directory, to) : -1;
}

EXPORT int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
  REAL(renameat2);
  return judge_path("rename", from) == PASS ? real(from_directory, from, to_directory, to, flags) : -1;
}

EXPORT int link(const char *from, const char *to) {
  REAL(link);
  return judge_path("rename", from) == PASS ? real(from, to) : -1;
}

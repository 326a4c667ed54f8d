#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Of the sanitizers, where they are there. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

_Noreturn void fuzz_check_failed(const char *condition, const char *file, int line) {
  fprintf(stderr, "%s:%d: %s does not hold\n", file, line, condition);
  abort();
}

void fuzz_check_error(enum favor_status status, const char *text) {
  bool is_expected = status == FAVOR_EDATA || status == FAVOR_EIO || status == FAVOR_ENOMEM || status == FAVOR_EUSAGE ||
                     status == FAVOR_ECONFIG;
  if (!is_expected || text[0] == '\0') fprintf(stderr, "%s: '%s'\n", favor_status_name(status), text);
  FUZZ_CHECK(is_expected);
  FUZZ_CHECK(text[0] != '\0');
}

static char directory[256];

static const char *path_of(int file) {
  static char paths[FUZZ_N_FILES][sizeof directory + 8];
  snprintf(paths[file], sizeof paths[file], "%s/%d", directory, file);
  return paths[file];
}

const char *fuzz_path(int file) { return fuzz_file(file, "", 0); }

static void remove_files(void) {
  for (int file = 0; file < FUZZ_N_FILES; file++) unlink(path_of(file));
  rmdir(directory);
}

const char *fuzz_file(int file, const void *content, size_t n_bytes) {
  if (directory[0] == '\0') {
    const char *parent = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/favor_fuzz_XXXXXX", parent ? parent : "/tmp");
    FUZZ_CHECK(mkdtemp(directory));
    atexit(remove_files);
  }
  int fd = open(path_of(file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  FUZZ_CHECK(fd >= 0 && write(fd, content, n_bytes) == (ssize_t)n_bytes && close(fd) == 0);
  return path_of(file);
}

static struct favor_context *context;

struct favor_context *fuzz_context(void) {
  if (context) return context;
  setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0); /* as the program does */
  if (__lsan_disable) __lsan_disable();        /* MPI keeps memory until the process ends */
  FUZZ_CHECK(MPI_Init(NULL, NULL) == MPI_SUCCESS);
  FUZZ_CHECK(favor_context_create(MPI_COMM_SELF, &context) == FAVOR_OK);
  if (__lsan_enable) __lsan_enable();
  return context;
}

void fuzz_end(void) {
  if (!context) return;
  favor_context_destroy(&context);
  MPI_Finalize();
}

int fuzz_next_descriptor(void) {
  int fd = dup(STDERR_FILENO);
  FUZZ_CHECK(fd >= 0 && close(fd) == 0);
  return fd;
}

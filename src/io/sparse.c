#define _GNU_SOURCE /* SEEK_DATA */
#include "io/sparse.h"

#include <errno.h>
#include <unistd.h>

#include "io/positioned.h"

int sparse_for_each(int file, int (*take)(void *self, int64_t begin, size_t bytes), void *self) {
  int64_t begin, end = 0;
  while ((begin = lseek(file, end, SEEK_DATA)) >= 0) {
    end = lseek(file, begin, SEEK_HOLE); /* the end of the file is a hole */
    int error = end < 0 ? errno : 0;
    for (int64_t at = begin; at < end && error == 0; at += SPARSE_PIECE_BYTES)
      error = take(self, at, (size_t)(end - at < SPARSE_PIECE_BYTES ? end - at : SPARSE_PIECE_BYTES));
    if (error != 0) return error;
  }
  return errno == ENXIO ? 0 : errno;
}

struct copy {
  int from, to;
};

static int copy_piece(void *self, int64_t at, size_t bytes) {
  const struct copy *copy = self;
  char buffer[SPARSE_PIECE_BYTES];
  int error = positioned_read(copy->from, buffer, bytes, at);
  return error == 0 ? positioned_write(copy->to, buffer, bytes, at) : error;
}

int sparse_copy(int from, int to) { return sparse_for_each(from, copy_piece, &(struct copy){from, to}); }

struct change {
  int before, after, file;
};

static int write_changes(void *self, int64_t at, size_t bytes) {
  const struct change *change = self;
  char before[SPARSE_PIECE_BYTES], after[SPARSE_PIECE_BYTES];
  int error = positioned_read(change->before, before, bytes, at);
  if (error == 0) error = positioned_read(change->after, after, bytes, at);
  for (size_t first = 0, last; first < bytes && error == 0; first = last) {
    while (first < bytes && before[first] == after[first]) first++;
    last = first;
    while (last < bytes && before[last] != after[last]) last++;
    if (last > first) error = positioned_write(change->file, after + first, last - first, at + (int64_t)first);
  }
  return error;
}

int sparse_write_changes(int before, int after, int file) {
  return sparse_for_each(after, write_changes, &(struct change){before, after, file});
}

#include "io/checkpoint.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "dist/agree.h"
#include "io/positioned.h"

/* ---- format ------------------------------------------------------------------------------------------------------ */

/* As PNG's: a byte that is no ASCII, a name, and what programs that take a file for text would change. */
static const unsigned char MAGIC[8] = {0x89, 'F', 'V', 'R', 'C', '\r', '\n', 0x1a};

/* Where the numbers of the header stand. The checksum is of everything behind it, to the end of the text. */
enum { AT_CHECKSUM = 8, AT_VERSION = 16, AT_TEXT_BYTES = 20, AT_N_RECORDS = 24, AT_RECORD_BYTES = 32 };

static uint32_t load_u32(const unsigned char *at) {
  uint32_t word;
  memcpy(&word, at, sizeof word);
  return le32toh(word);
}

static uint64_t load_u64(const unsigned char *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return le64toh(word);
}

static void store_u32(unsigned char *at, uint32_t word) {
  word = htole32(word);
  memcpy(at, &word, sizeof word);
}

static void store_u64(unsigned char *at, uint64_t word) {
  word = htole64(word);
  memcpy(at, &word, sizeof word);
}

static uint64_t header_checksum(const unsigned char *bytes, int64_t text_bytes) {
  return XXH3_64bits(bytes + AT_VERSION, (size_t)(CHECKPOINT_START_BYTES - AT_VERSION + text_bytes));
}

/* Seeded with its number, so that a record in another one's place is noticed. */
static uint64_t record_checksum(const void *record, int64_t record_bytes, int64_t i) {
  return XXH3_64bits_withSeed(record, (size_t)record_bytes, (uint64_t)i);
}

static int64_t record_offset(const struct checkpoint_header *header, int64_t i) {
  return CHECKPOINT_START_BYTES + header->text_bytes + i * (header->record_bytes + CHECKPOINT_CHECKSUM_BYTES);
}

/* Sets file_bytes from the other numbers; false where an int64_t cannot count them. */
static bool count_bytes(struct checkpoint_header *header) {
  int64_t pitch, all;
  return !__builtin_add_overflow(header->record_bytes, CHECKPOINT_CHECKSUM_BYTES, &pitch) &&
         !__builtin_mul_overflow(header->n_records, pitch, &all) &&
         !__builtin_add_overflow(all, CHECKPOINT_START_BYTES + header->text_bytes, &header->file_bytes);
}

/* The numbers of a header that is known to be one. False where they cannot be those of a file. */
static bool load_numbers(const unsigned char *start, struct checkpoint_header *header) {
  uint64_t n_records = load_u64(start + AT_N_RECORDS), record_bytes = load_u64(start + AT_RECORD_BYTES);
  *header = (struct checkpoint_header){.text_bytes = load_u32(start + AT_TEXT_BYTES),
                                       .n_records = (int64_t)n_records,
                                       .record_bytes = (int64_t)record_bytes};
  return header->text_bytes <= CHECKPOINT_MAX_TEXT_BYTES && n_records <= INT64_MAX && record_bytes <= INT64_MAX &&
         count_bytes(header);
}

static void store_header(const struct checkpoint_header *header, unsigned char *bytes) {
  memcpy(bytes, MAGIC, sizeof MAGIC);
  store_u32(bytes + AT_VERSION, CHECKPOINT_VERSION);
  store_u32(bytes + AT_TEXT_BYTES, (uint32_t)header->text_bytes);
  store_u64(bytes + AT_N_RECORDS, (uint64_t)header->n_records);
  store_u64(bytes + AT_RECORD_BYTES, (uint64_t)header->record_bytes);
  memcpy(bytes + CHECKPOINT_START_BYTES, header->text, (size_t)header->text_bytes);
  store_u64(bytes + AT_CHECKSUM, header_checksum(bytes, header->text_bytes));
}

bool checkpoint_parse(const void *bytes, size_t n_bytes, struct checkpoint_header *header, const char **reason) {
  const unsigned char *start = bytes;
  size_t magic_bytes = n_bytes < sizeof MAGIC ? n_bytes : sizeof MAGIC;
  *reason = NULL;
  if (magic_bytes > 0 && memcmp(start, MAGIC, magic_bytes) != 0)
    *reason = "not a checkpoint of favor";
  else if (n_bytes < CHECKPOINT_START_BYTES)
    *reason = "truncated in its header";
  else if (load_u32(start + AT_VERSION) > CHECKPOINT_VERSION)
    *reason = "damaged, or of a newer favor, which could go on from it";
  else if (load_u32(start + AT_VERSION) < CHECKPOINT_VERSION || !load_numbers(start, header))
    *reason = "damaged in its header";
  else if (n_bytes < CHECKPOINT_START_BYTES + (size_t)header->text_bytes)
    *reason = "truncated in its header";
  else if (load_u64(start + AT_CHECKSUM) != header_checksum(start, header->text_bytes))
    *reason = "damaged in its header";
  if (*reason) return false;
  header->text = (const char *)start + CHECKPOINT_START_BYTES;
  if (memchr(header->text, '\0', (size_t)header->text_bytes)) *reason = "damaged in its header";
  return !*reason;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct writer {
  struct favor_context *context;
  const char *path;
  char *part; /* PATH.new */
  int fd;
  bool is_made; /* rank 0: PATH.new exists and is this run's */
  struct checkpoint_header header;
  uint64_t inode; /* of what rank 0 made */
};

static void fail_to_write(const struct writer *writer, int error) {
  dist_fail(writer->context, error == ENOMEM ? FAVOR_ENOMEM : FAVOR_EIO, "writing %s failed on rank %d: %s",
            writer->part, writer->context->rank, strerror(error));
}

/* Makes a file of this size, with its space; 0 or an errno. */
static int reserve(struct writer *writer) {
  struct stat stat_part;
  /* What a killed run left, or a link that somebody laid there, is not written through. */
  if (unlink(writer->part) != 0 && errno != ENOENT) return errno;
  writer->fd = open(writer->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (writer->fd < 0) return errno;
  writer->is_made = true;
  if (fstat(writer->fd, &stat_part) != 0) return errno;
  writer->inode = (uint64_t)stat_part.st_ino;
  int error;
  do error = posix_fallocate(writer->fd, 0, writer->header.file_bytes);
  while (error == EINTR);
  return error;
}

/* Rank 0 only: PATH.new with its header. */
static void create(struct writer *writer, const char *text) {
  writer->header.text = text;
  writer->header.text_bytes = (int64_t)strlen(text);
  if (writer->header.text_bytes > CHECKPOINT_MAX_TEXT_BYTES) {
    dist_fail(writer->context, FAVOR_EUSAGE, "the text of %s has %lld bytes; at most %d are allowed", writer->path,
              (long long)writer->header.text_bytes, CHECKPOINT_MAX_TEXT_BYTES);
    return;
  }
  FAVOR_ASSERT(count_bytes(&writer->header));
  size_t bytes = CHECKPOINT_START_BYTES + (size_t)writer->header.text_bytes;
  unsigned char *start = malloc(bytes);
  int error = start ? reserve(writer) : ENOMEM;
  if (error == 0) {
    store_header(&writer->header, start);
    error = positioned_write(writer->fd, start, bytes, 0);
  }
  if (error != 0) fail_to_write(writer, error);
  free(start);
}

/* Collective: every rank opens what rank 0 made. */
static enum favor_status join(struct writer *writer) {
  uint64_t shared[2] = {(uint64_t)writer->header.text_bytes, writer->inode};
  dist_broadcast(writer->context, shared, sizeof shared);
  writer->header.text_bytes = (int64_t)shared[0];
  writer->inode = shared[1];
  if (dist_has_failed(writer->context) || writer->fd >= 0)
    return dist_agree(writer->context, DIST_SITE_CHECKPOINT, 0, "");
  struct stat stat_part;
  writer->fd = open(writer->part, O_WRONLY | O_CLOEXEC);
  if (writer->fd < 0 || fstat(writer->fd, &stat_part) != 0)
    fail_to_write(writer, errno);
  else if ((uint64_t)stat_part.st_ino != writer->inode)
    dist_fail(writer->context, FAVOR_EIO,
              "rank %d finds another file than rank 0 at %s: is it on a shared disk, and is no other run writing it?",
              writer->context->rank, writer->part);
  return dist_agree(writer->context, DIST_SITE_CHECKPOINT, 0, "");
}

/* This rank's records, flushed; 0 or an errno. */
static int write_records(const struct writer *writer, int64_t first, int64_t n, const void *records) {
  const struct checkpoint_header *header = &writer->header;
  for (int64_t i = first; i < first + n; i++) {
    const char *record = (const char *)records + (i - first) * header->record_bytes;
    unsigned char checksum[CHECKPOINT_CHECKSUM_BYTES];
    store_u64(checksum, record_checksum(record, header->record_bytes, i));
    int64_t offset = record_offset(header, i);
    int error = positioned_write(writer->fd, record, (size_t)header->record_bytes, offset);
    if (error == 0) error = positioned_write(writer->fd, checksum, sizeof checksum, offset + header->record_bytes);
    if (error != 0) return error;
  }
  return fsync(writer->fd) == 0 ? 0 : errno;
}

/* Rank 0 only, when all ranks have written and flushed theirs. */
static void publish(struct writer *writer) {
  /* Again: only now do all records, and the size of the file, count for this descriptor too. */
  int error = fsync(writer->fd) == 0 ? 0 : errno;
  if (close(writer->fd) != 0 && error == 0) error = errno;
  writer->fd = -1;
  if (error == 0 && rename(writer->part, writer->path) != 0) error = errno;
  if (error == 0) {
    writer->is_made = false;
    error = positioned_sync_directory(writer->path);
  }
  if (error != 0) fail_to_write(writer, error);
}

/* Collective: all but creating. */
static enum favor_status fill(struct writer *writer, int64_t first, int64_t n, const void *records) {
  enum favor_status status = join(writer);
  if (status != FAVOR_OK) return status;
  int error = write_records(writer, first, n, records);
  if (error != 0) fail_to_write(writer, error);
  status = dist_agree(writer->context, DIST_SITE_CHECKPOINT, 0, "");
  if (status != FAVOR_OK) return status;
  if (writer->context->rank == 0) publish(writer);
  return dist_agree(writer->context, DIST_SITE_CHECKPOINT, 0, "");
}

enum favor_status checkpoint_write(struct favor_context *context, const char *path, const char *text, int64_t n_records,
                                   size_t record_bytes, int64_t first, int64_t n, const void *records) {
  FAVOR_ASSERT(first >= 0 && n >= 0 && first <= n_records - n && record_bytes <= INT64_MAX);
  struct writer writer = {.context = context,
                          .path = path,
                          .fd = -1,
                          .header = {.n_records = n_records, .record_bytes = (int64_t)record_bytes}};
  size_t part_bytes = strlen(path) + sizeof CHECKPOINT_NEW_SUFFIX;
  writer.part = malloc(part_bytes);
  if (writer.part)
    snprintf(writer.part, part_bytes, "%s" CHECKPOINT_NEW_SUFFIX, path);
  else
    dist_fail(context, FAVOR_ENOMEM, "no memory to write %s", path);
  if (context->rank == 0 && !dist_has_failed(context)) create(&writer, text);
  uint64_t digest = dist_digest(DIST_DIGEST_START, path, strlen(path) + 1);
  digest = dist_digest(digest, &n_records, sizeof n_records);
  digest = dist_digest(digest, &record_bytes, sizeof record_bytes);
  enum favor_status status = dist_agree(context, DIST_SITE_CHECKPOINT, digest, "checkpoints");
  double n_given = (double)n;
  if (status == FAVOR_OK) status = dist_sum_double(context, &n_given, 1);
  FAVOR_ASSERT(status != FAVOR_OK || n_given == (double)n_records);
  if (status == FAVOR_OK) status = fill(&writer, first, n, records);
  if (writer.fd >= 0) close(writer.fd);
  if (writer.is_made) unlink(writer.part);
  free(writer.part);
  return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct checkpoint {
  struct favor_context *context;
  char *path;
  char *text;
  int fd; /* negative where there is no file */
  struct checkpoint_header header;
  unsigned char start[CHECKPOINT_START_BYTES];
};

/* The error of a file that is there and no use. */
__attribute__((format(printf, 2, 3))) static void refuse(const struct checkpoint *checkpoint, const char *format, ...) {
  char what[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  dist_fail(checkpoint->context, FAVOR_EDATA, "%s is %s; remove it to start afresh", checkpoint->path, what);
}

static void fail_to_read(const struct checkpoint *checkpoint, int error) {
  dist_fail(checkpoint->context, FAVOR_EIO, "reading %s failed on rank %d: %s", checkpoint->path,
            checkpoint->context->rank, strerror(error));
}

/* The header in `bytes`, of a file of file_bytes; the checkpoint's text is its own copy. */
static void take_header(struct checkpoint *checkpoint, const unsigned char *bytes, size_t n_bytes, int64_t file_bytes) {
  const char *reason;
  struct checkpoint_header *header = &checkpoint->header;
  if (!checkpoint_parse(bytes, n_bytes, header, &reason)) {
    refuse(checkpoint, "%s", reason);
  } else if (header->file_bytes != file_bytes) {
    refuse(checkpoint, "%s: it has %lld bytes, and its header speaks of %lld",
           file_bytes < header->file_bytes ? "truncated" : "damaged", (long long)file_bytes,
           (long long)header->file_bytes);
  } else {
    memcpy(checkpoint->start, bytes, sizeof checkpoint->start);
    checkpoint->text = strndup(header->text, (size_t)header->text_bytes);
    if (!checkpoint->text) dist_fail(checkpoint->context, FAVOR_ENOMEM, "no memory to read %s", checkpoint->path);
  }
}

/* Rank 0 only: opens the file if there is one, and reads its header. */
static void load(struct checkpoint *checkpoint) {
  struct stat stat_file;
  /* O_NONBLOCK: a pipe of that name must not make the run wait. */
  checkpoint->fd = open(checkpoint->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (checkpoint->fd < 0 && errno == ENOENT) return;
  if (checkpoint->fd < 0 || fstat(checkpoint->fd, &stat_file) != 0) {
    fail_to_read(checkpoint, errno);
    return;
  }
  if (!S_ISREG(stat_file.st_mode)) {
    refuse(checkpoint, "not a regular file");
    return;
  }
  int64_t longest = CHECKPOINT_START_BYTES + CHECKPOINT_MAX_TEXT_BYTES;
  size_t n_bytes = (size_t)(stat_file.st_size < longest ? stat_file.st_size : longest);
  unsigned char *bytes = malloc(n_bytes + 1);
  int error = bytes ? positioned_read(checkpoint->fd, bytes, n_bytes, 0) : ENOMEM;
  if (error == ENOMEM)
    dist_fail(checkpoint->context, FAVOR_ENOMEM, "no memory to read %s", checkpoint->path);
  else if (error == POSITIONED_END)
    refuse(checkpoint, "truncated while it was read");
  else if (error != 0)
    fail_to_read(checkpoint, error);
  else
    take_header(checkpoint, bytes, n_bytes, stat_file.st_size);
  free(bytes);
}

/* All ranks but 0: opens what rank 0 did, and makes sure that it is that. */
static void follow(struct checkpoint *checkpoint) {
  unsigned char start[CHECKPOINT_START_BYTES];
  load_numbers(checkpoint->start, &checkpoint->header); /* rank 0 has checked them */
  checkpoint->text = calloc((size_t)checkpoint->header.text_bytes + 1, 1);
  if (!checkpoint->text) {
    dist_fail(checkpoint->context, FAVOR_ENOMEM, "no memory to read %s", checkpoint->path);
    return;
  }
  checkpoint->fd = open(checkpoint->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  int error = checkpoint->fd < 0 ? errno : positioned_read(checkpoint->fd, start, sizeof start, 0);
  if (error > 0)
    fail_to_read(checkpoint, error);
  else if (error == POSITIONED_END || memcmp(start, checkpoint->start, sizeof start) != 0)
    dist_fail(checkpoint->context, FAVOR_EDATA,
              "rank %d finds another file than rank 0 at %s: is it on a shared disk, and is no other run writing it?",
              checkpoint->context->rank, checkpoint->path);
}

/* Collective, when rank 0 has looked: gives the others what it found. */
static enum favor_status share(struct checkpoint *checkpoint, bool *is_there) {
  struct favor_context *context = checkpoint->context;
  *is_there = checkpoint->fd >= 0;
  dist_broadcast(context, is_there, sizeof *is_there);
  if (!dist_has_failed(context) && !*is_there) return FAVOR_OK;
  dist_broadcast(context, checkpoint->start, sizeof checkpoint->start);
  if (!dist_has_failed(context) && context->rank != 0) follow(checkpoint);
  enum favor_status status = dist_agree(context, DIST_SITE_CHECKPOINT, 0, "");
  if (status == FAVOR_OK) status = dist_broadcast(context, checkpoint->text, (size_t)checkpoint->header.text_bytes);
  return status;
}

enum favor_status checkpoint_open(struct favor_context *context, const char *path, struct checkpoint **checkpoint) {
  struct checkpoint *opened = calloc(1, sizeof *opened);
  if (opened) *opened = (struct checkpoint){.context = context, .path = strdup(path), .fd = -1};
  if (!opened || !opened->path) dist_fail(context, FAVOR_ENOMEM, "no memory to read %s", path);
  if (context->rank == 0 && !dist_has_failed(context)) load(opened);
  bool is_there = false;
  enum favor_status status =
      dist_agree(context, DIST_SITE_CHECKPOINT, dist_digest(DIST_DIGEST_START, path, strlen(path) + 1), "checkpoints");
  if (status == FAVOR_OK) status = share(opened, &is_there);
  if (status != FAVOR_OK || !is_there) checkpoint_close(&opened);
  *checkpoint = opened;
  return status;
}

const char *checkpoint_text(const struct checkpoint *checkpoint) { return checkpoint->text; }
int64_t checkpoint_n_records(const struct checkpoint *checkpoint) { return checkpoint->header.n_records; }
size_t checkpoint_record_bytes(const struct checkpoint *checkpoint) { return (size_t)checkpoint->header.record_bytes; }

enum favor_status checkpoint_read(struct checkpoint *checkpoint, int64_t i, void *bytes) {
  const struct checkpoint_header *header = &checkpoint->header;
  FAVOR_ASSERT(i >= 0 && i < header->n_records);
  unsigned char checksum[CHECKPOINT_CHECKSUM_BYTES];
  int64_t offset = record_offset(header, i);
  int error = positioned_read(checkpoint->fd, bytes, (size_t)header->record_bytes, offset);
  if (error == 0) error = positioned_read(checkpoint->fd, checksum, sizeof checksum, offset + header->record_bytes);
  if (error > 0) {
    fail_to_read(checkpoint, error);
    return FAVOR_EIO;
  }
  if (error == 0 && load_u64(checksum) == record_checksum(bytes, header->record_bytes, i)) return FAVOR_OK;
  refuse(checkpoint, "%s at record %lld (bytes %lld to %lld)", error == POSITIONED_END ? "truncated" : "damaged",
         (long long)i, (long long)offset, (long long)(offset + header->record_bytes + CHECKPOINT_CHECKSUM_BYTES));
  return FAVOR_EDATA;
}

void checkpoint_close(struct checkpoint **checkpoint) {
  struct checkpoint *closed = *checkpoint;
  *checkpoint = NULL;
  if (!closed) return;
  if (closed->fd >= 0) close(closed->fd);
  free(closed->text);
  free(closed->path);
  free(closed);
}

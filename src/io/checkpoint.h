/* A checkpoint: a text (JSON) and n_records records of record_bytes each, in one file that a kill at any instant leaves
 * as the old one or the new one. What the text says and what a record holds is the caller's. doc/file-format.md has the
 * layout. */
#ifndef FAVOR_IO_CHECKPOINT_H
#define FAVOR_IO_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <favor/favor.h>

enum {
  CHECKPOINT_VERSION = 1,      /* of the format */
  CHECKPOINT_START_BYTES = 40, /* of the header without its text */
  CHECKPOINT_MAX_TEXT_BYTES = 1 << 24,
  CHECKPOINT_CHECKSUM_BYTES = 8 /* behind each record */
};

/* What a new checkpoint is called until it is whole. */
#define CHECKPOINT_NEW_SUFFIX ".new"

/* Collective. Replaces the checkpoint at `path`: writes PATH.new, flushes it, renames it, flushes the directory. The
 * text is rank 0's (others may give NULL) and at most CHECKPOINT_MAX_TEXT_BYTES long. This rank's records are
 * [first, first + n), at `records`; every record is given by exactly one rank, and n may be 0.
 * Errors: FAVOR_EUSAGE (path or sizes differ between ranks, text too long), FAVOR_EIO, FAVOR_ENOMEM. The old checkpoint
 * is then still there and PATH.new is not; only where it was the flush of the directory that failed, the new one has
 * its name already. */
enum favor_status checkpoint_write(struct favor_context *context, const char *path, const char *text, int64_t n_records,
                                   size_t record_bytes, int64_t first, int64_t n, const void *records);

struct checkpoint; /* an open one */

/* Collective. Opens the checkpoint and checks all of its header; records are checked as they are read. Where there is
 * none, *checkpoint is NULL and the status FAVOR_OK. The caller closes it.
 * Errors: FAVOR_EDATA (not a checkpoint, truncated, damaged, of a newer format, other than rank 0's), FAVOR_EIO,
 * FAVOR_ENOMEM; *checkpoint is then NULL. */
enum favor_status checkpoint_open(struct favor_context *context, const char *path, struct checkpoint **checkpoint);

/* Local. The text is valid until the checkpoint is closed. */
const char *checkpoint_text(const struct checkpoint *checkpoint);
int64_t checkpoint_n_records(const struct checkpoint *checkpoint);
size_t checkpoint_record_bytes(const struct checkpoint *checkpoint);

/* Local: record i into bytes [record_bytes], checked. Errors, left with the context: FAVOR_EDATA (damaged or cut short
 * since it was opened), FAVOR_EIO; what is in `bytes` then means nothing. */
enum favor_status checkpoint_read(struct checkpoint *checkpoint, int64_t i, void *bytes);

/* Local. Accepts NULL, sets it to NULL. */
void checkpoint_close(struct checkpoint **checkpoint);

/* What a header says. */
struct checkpoint_header {
  const char *text; /* in the parsed bytes, [text_bytes], without a final NUL */
  int64_t text_bytes;
  int64_t n_records;
  int64_t record_bytes;
  int64_t file_bytes; /* of the whole file */
};

/* Local and pure: reads the header that `bytes`, the first n_bytes of a file, start with. False where they do not start
 * with one: *reason then says what they are ("truncated in its header"), and *header means nothing. */
bool checkpoint_parse(const void *bytes, size_t n_bytes, struct checkpoint_header *header, const char **reason);

#endif

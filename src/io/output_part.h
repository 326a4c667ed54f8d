/* The temporary of an output on disk, as rank 0 makes and keeps it: under a lock, with its space reserved, and with a
 * number at its end that names it. No MPI calls.
 *
 * The file is the image of its layout (output_layout.h) and, until it is complete, PART_TRAILER_BYTES more, which hold
 * the number. HDF5 does not mind, and cutting them off is the last that happens to the file before it is renamed: so
 * equal outputs are equal files, and a run that is killed at any moment leaves either a file that its checkpoint can
 * recognise or one that is complete. */
#ifndef FAVOR_IO_OUTPUT_PART_H
#define FAVOR_IO_OUTPUT_PART_H

#include <favor/favor_io.h>

enum { PART_TRAILER_BYTES = sizeof(uint64_t) };

/* What tells the temporary file of this run from one that another run put in its place. */
struct part_identity {
  uint64_t inode;
  int64_t bytes;
};
bool part_identify(const char *part, struct part_identity *identity);
bool part_is_same(const struct part_identity *a, const struct part_identity *b);

/* Makes the file anew in the place of what a killed run may have left, with the contents of the image and a number
 * drawn at random. A companion (or NULL) of what was there goes before it. *fd holds the lock until it is closed. Records FAVOR_ECREATE (another run holds the lock, no space,
 * no permission) and returns it; then nothing of it is left. */
enum favor_status part_create(struct favor_context *context, const char *path, const char *part, int image,
                              const char *companion, uint64_t *id, int *fd);

/* A part of the file that is not in the image. */
struct part_range {
  int64_t begin, end;
};

/* Opens and locks what an earlier run left, and makes sure that it is the file of this number and image: between the
 * ranges it must hold what the image does, but where the mask differs from the image; there it does afterwards. Records
 * FAVOR_EDATA (it is another, or not there) and FAVOR_ECREATE (locked, no space) and returns it. Never removes it. */
enum favor_status part_resume(struct favor_context *context, const char *path, const char *part, int image, int mask,
                              const struct part_range *ranges, int n_ranges, uint64_t id, int *fd);

#endif

/* An output file, and what its parts share: creating and writing (output_file.c), finishing (output_finish.c). */
#ifndef FAVOR_IO_OUTPUT_FILE_H
#define FAVOR_IO_OUTPUT_FILE_H

#include "base/status.h"
#include "io/output_layout.h"
#include "io/output_part.h"
#include "io/slab.h"

struct output_tensor {
  char *name;
  struct favor_tensor_shape shape;
  struct output_place place;
  int64_t first_sum;
};

struct favor_output_file {
  struct favor_context *context;
  char *path, *part;
  bool is_overwrite, is_resumable;
  bool has_part;     /* rank 0: the temporary exists and is this run's */
  bool is_published; /* rank 0: it has its final name */
  struct part_identity identity;
  uint64_t id; /* of the temporary */
  int fd;      /* on rank 0 with the lock */
  int image;   /* rank 0: the temporary as it was laid out, in memory */
  struct output_tensor *tensors;
  int n_tensors;
  uint64_t *sums; /* checksums of what this rank wrote; of rank 0 also what a checkpoint brought */
  int64_t n_sums;
  int64_t buffer_bytes;
  void *buffer;
};

/* Local. Accepts NULL, sets it to NULL; the temporary stays. */
void output_destroy(struct favor_output_file **file);

/* As favor_output_write, but the error goes to *status, which is FAVOR_OK before: for a thread that must not touch the
 * context. Two writes to a file at once would share its buffer. */
enum favor_status output_write(struct favor_output_file *file, int index, const struct slab *slab,
                               enum favor_precision precision, const void *data, struct status *status);

/* The shape of tensor `index`. */
void output_shape(const struct favor_output_file *file, int index, struct favor_tensor_shape *shape);

#endif

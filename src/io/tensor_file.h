/* Reading a tensor without its context, as a thread beside the caller's must. */
#ifndef FAVOR_IO_TENSOR_FILE_H
#define FAVOR_IO_TENSOR_FILE_H

#include "base/status.h"
#include "io/slab.h"

/* As favor_tensor_read, but the error goes to *status, which is FAVOR_OK before. Two reads of a tensor at once would
 * share its buffer; two of chunked tensors HDF5, which is not thread-safe. */
enum favor_status tensor_read(struct favor_tensor *tensor, const struct slab *slab, enum favor_precision precision,
                              void *data, struct status *status);

/* Hands the rows of a slab to `take`, a buffer full at a time: as they stand in the file (of a big-endian dataset, the
 * bytes of each element turned round), with the pitch of the walk. */
enum favor_status tensor_walk(struct favor_tensor *tensor, const struct slab *slab,
                              void (*take)(void *self, const struct slab_walk *walk, const void *rows), void *self,
                              struct status *status);

#endif

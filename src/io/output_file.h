/* Writing an output without its context, as a thread beside the caller's must. */
#ifndef FAVOR_IO_OUTPUT_FILE_H
#define FAVOR_IO_OUTPUT_FILE_H

#include "base/status.h"
#include "io/slab.h"

/* As favor_output_write, but the error goes to *status, which is FAVOR_OK before. Two writes to a file at once would
 * share its buffer. */
enum favor_status output_write(struct favor_output_file *file, int index, const struct slab *slab,
                               enum favor_precision precision, const void *data, struct status *status);

/* The shape of tensor `index`. */
void output_shape(const struct favor_output_file *file, int index, struct favor_tensor_shape *shape);

#endif

/* The temporary file of an output as rank 0 lays it out: datasets in their places, attributes, space reserved. */
#ifndef FAVOR_IO_OUTPUT_LAYOUT_H
#define FAVOR_IO_OUTPUT_LAYOUT_H

#include <favor/favor_io.h>

/* The temporary beside PATH: a name that nobody else gives a file, as what stands under it is replaced. */
#define OUTPUT_PART_SUFFIX ".favor-part"

/* Local, no MPI call. Refuses what cannot be created, then makes the file `part` anew: small datasets and attributes
 * written, space for the tensors reserved. offsets[spec->n_tensors] gets where each tensor starts in the file.
 * Records FAVOR_ECREATE (and FAVOR_EIO where the reason is not the caller's) and returns it; then nothing is left. */
enum favor_status output_layout_create(struct favor_context *context, const struct favor_output_spec *spec,
                                       const char *part, int64_t *offsets);

#endif

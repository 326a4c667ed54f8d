/* The temporary file of an output as rank 0 lays it out: datasets in their places, attributes, space reserved. */
#ifndef FAVOR_IO_OUTPUT_LAYOUT_H
#define FAVOR_IO_OUTPUT_LAYOUT_H

#include <favor/favor_io.h>

/* The temporary beside PATH: a name that nobody else gives a file, as what stands under it is replaced. */
#define OUTPUT_PART_SUFFIX ".favor-part"

/* Local, no MPI call. Refuses what cannot be created, then makes the file `part` anew: small datasets and attributes
 * written, space for the tensors reserved. offsets[spec->n_tensors] gets where each tensor starts in the file, *image
 * the same file in memory without the tensors, which is the caller's to close.
 * Records FAVOR_ECREATE (and FAVOR_EIO where the reason is not the caller's) and returns it; then nothing is left. */
enum favor_status output_layout_create(struct favor_context *context, const struct favor_output_spec *spec,
                                       const char *part, int64_t *offsets, int *image);

/* Local, no MPI call. Gives integers and numbers other values: in the image by HDF5, in the file `part`, open as fd, by
 * writing the bytes that this changed. HDF5 never writes to the file itself. Records and returns FAVOR_EUSAGE (no such
 * attribute, or text) and FAVOR_EIO. */
enum favor_status output_layout_set(struct favor_context *context, const struct favor_attribute *attributes,
                                    int n_attributes, const char *part, int fd, int image);

#endif

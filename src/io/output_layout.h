/* An output as rank 0 lays it out, in memory: small datasets and attributes written, places for all else. HDF5 never
 * touches the file on disk (output_part.h). No MPI calls. */
#ifndef FAVOR_IO_OUTPUT_LAYOUT_H
#define FAVOR_IO_OUTPUT_LAYOUT_H

#include <favor/favor_io.h>

/* Where a tensor and its checksums start in the file. */
struct output_place {
  int64_t data, sums;
};

/* Refuses a path at which no output can be put: FAVOR_ECREATE. */
enum favor_status output_layout_check_target(struct favor_context *context, const struct favor_output_spec *spec);

/* Makes *image, a file in memory with holes for the tensors and their checksums, which is the caller's to close;
 * equal specifications make equal images. places [spec->n_tensors]. `part` is the file's name, for messages. Records
 * FAVOR_ECREATE and returns it. */
enum favor_status output_layout_make(struct favor_context *context, const struct favor_output_spec *spec,
                                     const char *part, struct output_place *places, int *image);

/* Makes *mask, a copy of the image in which all bytes differ that output_layout_set may change where the attributes
 * that it gives other values were laid out as NaN. Records FAVOR_EIO and returns it. */
enum favor_status output_layout_mask(struct favor_context *context, const struct favor_output_spec *spec,
                                     const char *part, int image, int *mask);

/* Gives integers and numbers other values: in the image by HDF5, in the file `part`, open as fd, by writing the bytes
 * that this changed. Records and returns FAVOR_EUSAGE (no such attribute, or text) and FAVOR_EIO. */
enum favor_status output_layout_set(struct favor_context *context, const struct favor_attribute *attributes,
                                    int n_attributes, const char *part, int fd, int image);

#endif

/* The serial HDF5 library: quiet, with its reasons as text, and with our element types.
 *
 * None of these functions makes an MPI call. Those that take a context record their error with it. Handles are
 * released with hdf5_release; a negative handle is none.
 */
#ifndef FAVOR_IO_HDF5_H
#define FAVOR_IO_HDF5_H

#include <hdf5.h>

#include <favor/favor_io.h>

#include "base/status.h"
#include "io/slab.h"

/* HDF5 prints its error stack unless told otherwise. Between begin and end it does not; end restores what the calling
 * program had set. */
struct hdf5_quiet {
  H5E_auto2_t print;
  void *data;
};
void hdf5_quiet_begin(struct hdf5_quiet *quiet);
void hdf5_quiet_end(const struct hdf5_quiet *quiet);

/* Why the last call failed: the innermost message, and what it was about. */
struct hdf5_reason {
  char text[256];
  bool is_foreign;   /* not an HDF5 file */
  bool is_truncated; /* shorter than its superblock says */
  bool is_filter;    /* compressed data that cannot be decoded */
  bool is_system;    /* the system could not open or read the file; text is what it said */
};
struct hdf5_reason hdf5_reason(void);

/* Has the last call failed because the system could not read the file? Then that is recorded, as FAVOR_EIO. */
bool hdf5_fail_system(struct favor_context *context, const char *path);

/* Closes any kind of handle; hdf5_reason still speaks of the call before. */
void hdf5_release(hid_t id);

/* A file for reading. FAVOR_EIO: cannot be opened; FAVOR_EDATA: not HDF5, truncated, damaged. */
hid_t hdf5_open_file(struct favor_context *context, const char *path);

/* Is there an object of this path? Where it is not found, hdf5_fail_system tells whether that is sure. */
bool hdf5_has_object(hid_t file, const char *name);

/* A dataset of an open file. FAVOR_EDATA: there is none (the text lists what there is), or it is not a dataset. */
hid_t hdf5_open_dataset(struct favor_context *context, hid_t file, const char *path, const char *name);

/* The extent of a dataset that has at most max_dims dimensions. Returns how many, or -1 with FAVOR_EDATA recorded. */
int hdf5_dims(struct favor_context *context, hid_t dataset, const char *path, const char *name, int max_dims,
              int64_t *dims);

/* Which of our element types is this? False where none. Big-endian numbers count. */
bool hdf5_type_find(hid_t id, enum favor_type *type);
/* The little-endian type of a file. */
hid_t hdf5_type_create(enum favor_type type);
/* The same numbers in the byte order of this machine, to read into memory without conversion. */
hid_t hdf5_type_native_order(hid_t id);
/* A name for people, e.g. "a 32-bit integer". */
void hdf5_type_describe(hid_t id, char *text, size_t size);

/* Reads a slab, which lies in one batch, in the order of the dataset; nothing where it is NULL, as a rank may take part
 * in a collective transfer. */
bool hdf5_read_slab(hid_t dataset, hid_t memory_type, hid_t transfer, const struct favor_tensor_shape *shape,
                    const struct slab *slab, void *buffer);

/* Records that reading a dataset failed: FAVOR_EDATA where the data cannot be decoded, else FAVOR_EIO. */
enum favor_status hdf5_fail_read(struct favor_context *context, const char *path, const char *name);
/* The same without a context. */
enum favor_status hdf5_status_read(struct status *status, const char *path, const char *name);

#endif

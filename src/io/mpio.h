/* Collective reads of a dataset through parallel HDF5. Only reads: what collective writes do with errors is in
 * doc/file-format.md.
 *
 * Neither MPI-IO nor HDF5 lets ranks leave a collective call together where one of them fails: others may wait in it
 * for good. So ranks meet after each call. One that failed waits for the others for some seconds; where they do not
 * come, it is the only one that can speak: its context is dead, its error pending (favor_io.h). Where rank 0 cannot
 * read the superblock, HDF5 1.10 does not even return, as its clean-up waits for those to whom it owes a broadcast:
 * that is left to the watch, and rare, since each rank has read it just before. */
#ifndef FAVOR_IO_MPIO_H
#define FAVOR_IO_MPIO_H

#include <favor/favor_io.h>

#include "io/slab.h"

struct mpio;

/* Collective. Opens a dataset that every rank has found right with the serial library. Errors, the same on all ranks:
 * FAVOR_EIO, FAVOR_ENOMEM, FAVOR_EMPI. On failure *mpio is NULL. */
enum favor_status mpio_open(struct favor_context *context, const char *path, const char *name, struct mpio **mpio);

/* Collective. Accepts NULL, sets it to NULL. After the context's death nothing is closed, which ranks do together. */
void mpio_close(struct mpio **mpio);

/* Collective. Reads a piece, which lies in one batch and differs between ranks, or nothing where it is NULL, as
 * elements of the file (in the byte order of this machine) in the order of the dataset. Errors, the same on all ranks:
 * FAVOR_EIO, FAVOR_EDATA (compressed data that cannot be decoded), FAVOR_EMPI. */
enum favor_status mpio_read(struct mpio *mpio, const struct favor_tensor_shape *shape, const struct slab *piece,
                            void *buffer);

#endif

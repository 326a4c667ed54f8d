#include "io/mpio.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "dist/agree.h"
#include "dist/watch.h"
#include "io/hdf5.h"

/* How long a rank that failed waits for the others: they may still have reads of their own to do. */
static const double PATIENCE_S = 3;

struct mpio {
  struct favor_context *context;
  const char *path, *name; /* the caller's */
  hid_t file, dataset, memory_type, transfer;
};

/* ---- meeting ----------------------------------------------------------------------------------------------------- */

/* Local: has the request come to its end within PATIENCE_S? */
static bool comes_in_time(struct favor_context *context, MPI_Request *request) {
  const struct timespec pause = {.tv_nsec = 1000000};
  const double start = clock_now_s();
  int is_done = 0;
  while (!is_done && clock_now_s() - start < PATIENCE_S) {
    nanosleep(&pause, NULL);
    if (dist_check(context, MPI_Test(request, &is_done, MPI_STATUS_IGNORE), "meeting after a failure") != FAVOR_OK)
      return true; /* the context is dead already */
  }
  return is_done != 0;
}

/* Collective: the end of a step of which each rank has an outcome. */
static enum favor_status meet(struct favor_context *context, enum dist_site site, const struct status *own) {
  int has_failed = dist_fail_status(context, own) != FAVOR_OK, has_any_failed = 0;
  MPI_Request request;
  int code = MPI_Iallreduce(&has_failed, &has_any_failed, 1, MPI_INT, MPI_MAX, context->comm, &request);
  if (dist_check(context, code, "meeting after a collective read") != FAVOR_OK) return FAVOR_EMPI;
  if (!has_failed) {
    code = MPI_Wait(&request, MPI_STATUS_IGNORE);
    if (dist_check(context, code, "meeting after a collective read") != FAVOR_OK) return FAVOR_EMPI;
  } else if (!comes_in_time(context, &request)) {
    memcpy(context->message, own->text, sizeof context->message);
    context->is_dead = true;
  }
  if (context->is_dead) return FAVOR_EMPI;
  return has_any_failed ? dist_agree(context, site, 0, "") : FAVOR_OK;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void open_together(struct mpio *mpio, struct status *status) {
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  mpio->transfer = H5Pcreate(H5P_DATASET_XFER);
  H5Pset_dxpl_mpio(mpio->transfer, H5FD_MPIO_COLLECTIVE);
  if (H5Pset_fapl_mpio(access, mpio->context->comm, MPI_INFO_NULL) >= 0)
    mpio->file = H5Fopen(mpio->path, H5F_ACC_RDONLY, access);
  if (mpio->file >= 0) mpio->dataset = H5Dopen2(mpio->file, mpio->name, H5P_DEFAULT);
  if (mpio->dataset >= 0) {
    hid_t type = H5Dget_type(mpio->dataset);
    mpio->memory_type = hdf5_type_native_order(type);
    hdf5_release(type);
  }
  if (mpio->memory_type < 0)
    status_set(status, FAVOR_EIO, "dataset %s of %s cannot be opened by MPI-IO (%s)", mpio->name, mpio->path,
               hdf5_reason().text);
  hdf5_release(access);
}

enum favor_status mpio_open(struct favor_context *context, const char *path, const char *name, struct mpio **mpio) {
  struct status status = {0};
  struct hdf5_quiet quiet;
  struct mpio *opened = calloc(1, sizeof *opened);
  *mpio = NULL;
  if (!opened) dist_fail(context, FAVOR_ENOMEM, "no memory to open %s by MPI-IO", path);
  enum favor_status outcome = dist_agree(context, DIST_SITE_TENSOR_OPEN, 0, "");
  if (outcome != FAVOR_OK) {
    free(opened);
    return outcome;
  }
  *opened = (struct mpio){.context = context,
                          .path = path,
                          .name = name,
                          .file = H5I_INVALID_HID,
                          .dataset = H5I_INVALID_HID,
                          .memory_type = H5I_INVALID_HID,
                          .transfer = H5I_INVALID_HID};
  dist_watch_enter(context->watch, "opening a file by MPI-IO");
  hdf5_quiet_begin(&quiet);
  open_together(opened, &status);
  hdf5_quiet_end(&quiet);
  outcome = meet(context, DIST_SITE_TENSOR_OPEN, &status);
  if (outcome != FAVOR_OK) mpio_close(&opened);
  dist_watch_leave(context->watch);
  *mpio = opened;
  return outcome;
}

void mpio_close(struct mpio **mpio) {
  struct mpio *closed = *mpio;
  struct hdf5_quiet quiet;
  *mpio = NULL;
  if (!closed) return;
  if (!closed->context->is_dead) {
    dist_watch_enter(closed->context->watch, "closing a file of MPI-IO");
    hdf5_quiet_begin(&quiet);
    hdf5_release(closed->transfer);
    hdf5_release(closed->memory_type);
    hdf5_release(closed->dataset);
    hdf5_release(closed->file);
    hdf5_quiet_end(&quiet);
    dist_watch_leave(closed->context->watch);
  }
  free(closed);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

enum favor_status mpio_read(struct mpio *mpio, const struct favor_tensor_shape *shape, const struct slab *piece,
                            void *buffer) {
  struct status status = {0};
  struct hdf5_quiet quiet;
  dist_watch_enter(mpio->context->watch, "a collective read");
  hdf5_quiet_begin(&quiet);
  if (!hdf5_read_slab(mpio->dataset, mpio->memory_type, mpio->transfer, shape, piece, buffer))
    hdf5_status_read(&status, mpio->path, mpio->name);
  hdf5_quiet_end(&quiet);
  enum favor_status outcome = meet(mpio->context, DIST_SITE_TENSOR_READ, &status);
  dist_watch_leave(mpio->context->watch);
  return outcome;
}

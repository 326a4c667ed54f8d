#define _GNU_SOURCE /* renameat2 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/agree.h"
#include "io/checksum.h"
#include "io/output_file.h"
#include "io/positioned.h"

/* ---- stopping places --------------------------------------------------------------------------------------------- */

uint64_t favor_output_id(const struct favor_output_file *file) { return file->id; }

int64_t favor_output_n_sums(const struct favor_output_file *file) { return file->n_sums; }

int64_t favor_output_spec_n_sums(const struct favor_output_spec *spec) {
  int64_t n_sums = 0;
  for (int i = 0; i < spec->n_tensors; i++) n_sums += checksum_n_sums(&spec->tensors[i].shape);
  return n_sums;
}

enum favor_status favor_output_sums(const struct favor_output_file *file, uint64_t *sums) {
  memcpy(sums, file->sums, (size_t)file->n_sums * sizeof *sums);
  return dist_sum_uint64(file->context, sums, file->n_sums);
}

static enum favor_status fail_write(const struct favor_output_file *file, int error) {
  return dist_fail(file->context, FAVOR_EIO, "writing %s failed on rank %d: %s", file->part, file->context->rank,
                   strerror(error));
}

enum favor_status favor_output_sync(struct favor_output_file *file) {
  return fdatasync(file->fd) == 0 ? FAVOR_OK : fail_write(file, errno);
}

/* ---- finishing --------------------------------------------------------------------------------------------------- */

/* Rank 0 keeps the file open, with its lock. */
static void sync_part(struct favor_output_file *file) {
  int error = fsync(file->fd) == 0 ? 0 : errno;
  if (file->context->rank != 0) {
    if (close(file->fd) != 0 && error == 0) error = errno;
    file->fd = -1;
  }
  if (error != 0) fail_write(file, error);
}

/* Gives the temporary its final name; 0 or an errno, EEXIST where the name is taken. */
static int rename_part(const struct favor_output_file *file) {
  if (file->is_overwrite) return rename(file->part, file->path) == 0 ? 0 : errno;
  if (renameat2(AT_FDCWD, file->part, AT_FDCWD, file->path, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  /* A file system without that flag: a hard link does not replace either. */
  if (link(file->part, file->path) != 0) return errno;
  if (unlink(file->part) == 0) return 0;
  int error = errno;
  unlink(file->path);
  return error;
}

/* Rank 0 only, with the sums over all ranks: what the file lacks of its final contents, and nothing more; 0 or an
 * errno. */
static int complete(struct favor_output_file *file) {
  int error = 0;
  for (int i = 0; i < file->n_tensors && error == 0; i++) {
    const struct output_tensor *tensor = &file->tensors[i];
    const size_t bytes = (size_t)checksum_n_sums(&tensor->shape) * sizeof *file->sums;
    error = positioned_write(file->fd, file->sums + tensor->first_sum, bytes, tensor->place.sums);
  }
  if (error == 0 && fsync(file->fd) != 0) error = errno;
  if (error == 0 && ftruncate(file->fd, file->identity.bytes - PART_TRAILER_BYTES) != 0) error = errno;
  if (error == 0 && fsync(file->fd) != 0) error = errno;
  return error;
}

/* Rank 0 only: the checked temporary becomes the output. */
static void publish(struct favor_output_file *file) {
  struct part_identity identity;
  if (!part_identify(file->part, &identity) || !part_is_same(&identity, &file->identity)) {
    dist_fail(file->context, FAVOR_EIO, "%s was replaced or cut while it was written: is another run writing it?",
              file->part);
    return;
  }
  int error = complete(file);
  if (error != 0) {
    fail_write(file, error);
    return;
  }
  error = rename_part(file);
  if (error == EEXIST)
    dist_fail(file->context, FAVOR_ECREATE, "%s appeared during the run and is left as it is; %s", file->path,
              file->is_resumable ? "the result waits beside it" : "the result is dropped");
  else if (error != 0)
    dist_fail(file->context, FAVOR_ECREATE, "cannot rename %s to %s: %s", file->part, file->path, strerror(error));
  if (error != 0) return;
  file->is_published = true;
  error = positioned_sync_directory(file->path);
  if (error != 0)
    dist_fail(file->context, FAVOR_EIO, "the directory of %s cannot be synchronised: %s", file->path, strerror(error));
}

/* What failed leaves no output, but perhaps a temporary to go on with. Where only MPI failed, the output is whole. One
 * that replaced another stays: that is gone, and here is all that there is. */
static void withdraw(struct favor_output_file **file, enum favor_status status) {
  const struct favor_output_file *failed = *file;
  if (failed->is_published && status != FAVOR_EMPI) {
    if (failed->is_resumable)
      rename(failed->path, failed->part);
    else if (!failed->is_overwrite)
      unlink(failed->path);
  }
  if (failed->is_resumable)
    favor_output_keep(file);
  else
    favor_output_abandon(file);
}

enum favor_status favor_output_finish(struct favor_output_file **file) {
  struct favor_output_file *finished = *file;
  struct favor_context *context = finished->context;
  if (!dist_has_failed(context)) sync_part(finished);
  enum favor_status status = dist_agree(context, DIST_SITE_OUTPUT_FINISH, 0, "");
  if (status == FAVOR_OK) status = dist_sum_uint64(context, finished->sums, finished->n_sums);
  if (status == FAVOR_OK) {
    if (context->rank == 0) publish(finished);
    status = dist_agree(context, DIST_SITE_OUTPUT_FINISH, 0, "");
  }
  if (status != FAVOR_OK)
    withdraw(file, status);
  else
    output_destroy(file);
  return status;
}

void favor_output_abandon(struct favor_output_file **file) {
  struct part_identity identity;
  if (*file && (*file)->has_part && part_identify((*file)->part, &identity) &&
      identity.inode == (*file)->identity.inode)
    unlink((*file)->part);
  output_destroy(file);
}

void favor_output_keep(struct favor_output_file **file) { output_destroy(file); }

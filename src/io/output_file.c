#define _GNU_SOURCE /* renameat2 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "dist/agree.h"
#include "io/output_layout.h"
#include "io/positioned.h"
#include "io/slab.h"
#include "io/type.h"

enum { BUFFER_BYTES = 4 << 20 };

struct output_tensor {
  char *name;
  struct favor_tensor_shape shape;
  int64_t offset; /* in the file */
};

/* What tells the temporary file of this run from one that another run put in its place. */
struct identity {
  uint64_t inode;
  int64_t bytes;
};

struct favor_output_file {
  struct favor_context *context;
  char *path, *part;
  bool is_overwrite;
  bool has_part;     /* rank 0: the temporary exists and is this run's */
  bool is_published; /* rank 0: it has its final name */
  struct identity identity;
  int fd;
  int image; /* rank 0: the temporary as it was laid out, in memory */
  struct output_tensor *tensors;
  int n_tensors;
  int64_t buffer_bytes;
  void *buffer;
};

/* ---- creating ---------------------------------------------------------------------------------------------------- */

static bool is_shape_valid(const struct favor_tensor_shape *shape) {
  return shape->n_dims >= 2 && shape->n_dims <= 4 && favor_type_bytes(shape->type) > 0 && shape->tokens >= 0 &&
         shape->width >= 1 && shape->heads >= 1 && shape->batch >= 1 && (shape->n_dims == 4 || shape->batch == 1) &&
         (shape->n_dims > 2 || shape->heads == 1);
}

/* Copies the specification into the file. False without memory. */
static bool copy_spec(struct favor_output_file *file, const struct favor_output_spec *spec) {
  size_t path_bytes = strlen(spec->path) + sizeof OUTPUT_PART_SUFFIX;
  file->path = strdup(spec->path);
  file->part = malloc(path_bytes);
  file->tensors = calloc((size_t)spec->n_tensors + 1, sizeof *file->tensors);
  if (!file->path || !file->part || !file->tensors) return false;
  snprintf(file->part, path_bytes, "%s" OUTPUT_PART_SUFFIX, spec->path);
  file->is_overwrite = spec->is_overwrite;
  file->n_tensors = spec->n_tensors;
  file->buffer_bytes = BUFFER_BYTES;
  for (int i = 0; i < spec->n_tensors; i++) {
    struct output_tensor *tensor = &file->tensors[i];
    tensor->shape = spec->tensors[i].shape;
    tensor->name = strdup(spec->tensors[i].name);
    if (!tensor->name) return false;
    if (!is_shape_valid(&tensor->shape)) {
      dist_fail(file->context, FAVOR_EUSAGE, "the shape asked for %s of %s is not one of a tensor", tensor->name,
                file->path);
      return true;
    }
    int64_t row_bytes = slab_row_bytes(&tensor->shape);
    if (row_bytes > file->buffer_bytes) file->buffer_bytes = row_bytes;
  }
  file->buffer = memory_zeroed((size_t)file->buffer_bytes, 1);
  return file->buffer != NULL;
}

static void destroy(struct favor_output_file **file) {
  struct favor_output_file *destroyed = *file;
  *file = NULL;
  if (!destroyed) return;
  if (destroyed->fd >= 0) close(destroyed->fd);
  if (destroyed->image >= 0) close(destroyed->image);
  for (int i = 0; destroyed->tensors && i < destroyed->n_tensors; i++) free(destroyed->tensors[i].name);
  free(destroyed->tensors);
  free(destroyed->buffer);
  free(destroyed->path);
  free(destroyed->part);
  free(destroyed);
}

static struct favor_output_file *allocate(struct favor_context *context, const struct favor_output_spec *spec) {
  struct favor_output_file *file = calloc(1, sizeof *file);
  if (file) {
    *file = (struct favor_output_file){.context = context, .fd = -1, .image = -1};
    if (copy_spec(file, spec)) return file;
  }
  dist_fail(context, FAVOR_ENOMEM, "no memory to create %s", spec->path);
  destroy(&file);
  return NULL;
}

static uint64_t digest_of(const struct favor_output_spec *spec) {
  uint64_t digest = dist_digest(DIST_DIGEST_START, spec->path, strlen(spec->path) + 1);
  for (int i = 0; i < spec->n_tensors; i++) {
    const struct favor_tensor_shape *shape = &spec->tensors[i].shape;
    const int64_t numbers[] = {shape->n_dims, shape->batch, shape->heads, shape->tokens,
                               shape->width,  shape->type,  shape->layout};
    digest = dist_digest(digest, spec->tensors[i].name, strlen(spec->tensors[i].name) + 1);
    digest = dist_digest(digest, numbers, sizeof numbers);
  }
  return digest;
}

static bool identify(const char *path, struct identity *identity) {
  struct stat stat_part;
  if (lstat(path, &stat_part) != 0) return false;
  *identity = (struct identity){(uint64_t)stat_part.st_ino, stat_part.st_size};
  return true;
}

static bool is_same(const struct identity *a, const struct identity *b) {
  return a->inode == b->inode && a->bytes == b->bytes;
}

/* Rank 0 only. */
static void create_part(struct favor_output_file *file, const struct favor_output_spec *spec) {
  int64_t *offsets = calloc((size_t)spec->n_tensors + 1, sizeof *offsets);
  if (!offsets) {
    dist_fail(file->context, FAVOR_ENOMEM, "no memory to create %s", spec->path);
    return;
  }
  file->has_part = output_layout_create(file->context, spec, file->part, offsets, &file->image) == FAVOR_OK;
  if (file->has_part && !identify(file->part, &file->identity))
    dist_fail(file->context, FAVOR_ECREATE, "cannot create %s: it vanished", file->part);
  for (int i = 0; i < spec->n_tensors; i++) file->tensors[i].offset = offsets[i];
  free(offsets);
}

/* Every rank opens what rank 0 made, and makes sure that it is that. */
static void open_part(struct favor_output_file *file) {
  struct identity identity;
  int rank = file->context->rank;
  file->fd = open(file->part, O_WRONLY | O_CLOEXEC);
  if (file->fd < 0)
    dist_fail(file->context, FAVOR_ECREATE, "rank %d cannot open %s, which rank 0 made: %s", rank, file->part,
              strerror(errno));
  else if (!identify(file->part, &identity) || !is_same(&identity, &file->identity))
    dist_fail(file->context, FAVOR_ECREATE,
              "rank %d finds another file than rank 0 at %s: is it on a shared disk, and is no other run writing it?",
              rank, file->part);
}

/* Collective. */
static enum favor_status share_layout(struct favor_output_file *file) {
  dist_broadcast(file->context, &file->identity, sizeof file->identity);
  for (int i = 0; i < file->n_tensors; i++)
    dist_broadcast(file->context, &file->tensors[i].offset, sizeof file->tensors[i].offset);
  if (!dist_has_failed(file->context)) open_part(file);
  return dist_agree(file->context, DIST_SITE_OUTPUT_CREATE, 0, "");
}

enum favor_status favor_output_create(struct favor_context *context, const struct favor_output_spec *spec,
                                      struct favor_output_file **file) {
  struct favor_output_file *created = allocate(context, spec);
  if (context->rank == 0 && !dist_has_failed(context)) create_part(created, spec);
  enum favor_status status = dist_agree(context, DIST_SITE_OUTPUT_CREATE, digest_of(spec), "outputs");
  if (status == FAVOR_OK) status = share_layout(created);
  if (status != FAVOR_OK) favor_output_abandon(&created);
  *file = created;
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static enum favor_status write_runs(struct favor_output_file *file, const struct output_tensor *tensor,
                                    const struct slab_runs *runs, const void *rows) {
  int64_t row_bytes = slab_row_bytes(&tensor->shape);
  for (int64_t i = 0; i < runs->n_runs; i++) {
    int64_t offset = tensor->offset + (runs->file_row + i * runs->file_stride) * row_bytes;
    const char *from = (const char *)rows + i * runs->buffer_stride * row_bytes;
    int error = positioned_write(file->fd, from, (size_t)(runs->run_rows * row_bytes), offset);
    if (error != 0)
      return dist_fail(file->context, FAVOR_EIO, "writing %s of %s failed on rank %d: %s", tensor->name, file->part,
                       file->context->rank, strerror(error));
  }
  return FAVOR_OK;
}

static enum favor_status write_piece(struct favor_output_file *file, const struct output_tensor *tensor,
                                     const struct slab_walk *walk, enum favor_precision precision, const void *data) {
  struct slab_runs runs = slab_walk_runs(walk);
  int64_t array_row = type_is_native(tensor->shape.type, precision) ? slab_walk_array_row(walk) : -1;
  if (array_row >= 0)
    return write_runs(file, tensor, &runs, (const char *)data + array_row * slab_row_bytes(&tensor->shape));
  int64_t head, token;
  if (!slab_encode(walk, data, precision, file->buffer, &head, &token))
    return dist_fail(file->context, FAVOR_EDATA,
                     "a value of %s at head %lld, token %lld does not fit into %s; use --out-type float32",
                     tensor->name, (long long)head, (long long)token, favor_type_name(tensor->shape.type));
  return write_runs(file, tensor, &runs, file->buffer);
}

enum favor_status favor_output_write(struct favor_output_file *file, int index, int64_t head_begin, int64_t head_end,
                                     int64_t token_begin, int64_t token_end, enum favor_precision precision,
                                     const void *data) {
  struct slab whole = {head_begin, head_end, token_begin, token_end};
  if (index < 0 || index >= file->n_tensors)
    return dist_fail(file->context, FAVOR_EUSAGE, "%s has no tensor number %d", file->path, index);
  const struct output_tensor *tensor = &file->tensors[index];
  if (!slab_is_inside(&whole, &tensor->shape))
    return dist_fail(file->context, FAVOR_EUSAGE, "heads [%lld, %lld) and tokens [%lld, %lld) are not all in %s of %s",
                     (long long)head_begin, (long long)head_end, (long long)token_begin, (long long)token_end,
                     tensor->name, file->path);
  int64_t group_heads = tensor->shape.layout == FAVOR_TOKENS_FIRST ? tensor->shape.heads : 1;
  enum favor_status status = FAVOR_OK;
  struct slab_walk walk = slab_walk_start(&tensor->shape, &whole, group_heads, false, file->buffer_bytes);
  while (status == FAVOR_OK && slab_walk_next(&walk)) status = write_piece(file, tensor, &walk, precision, data);
  return status;
}

const char *favor_output_part(const struct favor_output_file *file) { return file->part; }

enum favor_status favor_output_set_attributes(struct favor_output_file *file, const struct favor_attribute *attributes,
                                              int n_attributes) {
  if (!file->has_part) return FAVOR_OK;
  return output_layout_set(file->context, attributes, n_attributes, file->part, file->fd, file->image);
}

/* ---- finishing --------------------------------------------------------------------------------------------------- */

static void sync_part(struct favor_output_file *file) {
  int error = fsync(file->fd) == 0 ? 0 : errno;
  if (close(file->fd) != 0 && error == 0) error = errno;
  file->fd = -1;
  if (error != 0)
    dist_fail(file->context, FAVOR_EIO, "writing %s failed on rank %d: %s", file->part, file->context->rank,
              strerror(error));
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

/* Makes the new name durable; 0 or an errno. */
static int sync_directory(const char *path) {
  const char *slash = strrchr(path, '/');
  char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  if (!directory) return ENOMEM;
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = fd >= 0 && fsync(fd) == 0 ? 0 : errno;
  if (fd >= 0) close(fd);
  free(directory);
  return error == EINVAL ? 0 : error; /* a file system that has nothing to do there */
}

/* Rank 0 only: the checked temporary becomes the output. */
static void publish(struct favor_output_file *file) {
  struct identity identity;
  if (!identify(file->part, &identity) || !is_same(&identity, &file->identity)) {
    dist_fail(file->context, FAVOR_EIO, "%s was replaced or cut while it was written: is another run writing it?",
              file->part);
    return;
  }
  int error = rename_part(file);
  if (error == EEXIST)
    dist_fail(file->context, FAVOR_ECREATE, "%s appeared during the run and is left as it is; the result is dropped",
              file->path);
  else if (error != 0)
    dist_fail(file->context, FAVOR_ECREATE, "cannot rename %s to %s: %s", file->part, file->path, strerror(error));
  if (error != 0) return;
  file->is_published = true;
  error = sync_directory(file->path);
  if (error != 0)
    dist_fail(file->context, FAVOR_EIO, "the directory of %s cannot be synchronised: %s", file->path, strerror(error));
}

enum favor_status favor_output_finish(struct favor_output_file **file) {
  struct favor_output_file *finished = *file;
  struct favor_context *context = finished->context;
  if (!dist_has_failed(context)) sync_part(finished);
  enum favor_status status = dist_agree(context, DIST_SITE_OUTPUT_FINISH, 0, "");
  if (status == FAVOR_OK) {
    if (context->rank == 0) publish(finished);
    status = dist_agree(context, DIST_SITE_OUTPUT_FINISH, 0, "");
    /* What failed leaves no output; where only MPI failed, the output is whole, and stays. So does one that replaced
     * another: that is gone, and here is all that there is. */
    if (status != FAVOR_OK && status != FAVOR_EMPI && finished->is_published && !finished->is_overwrite)
      unlink(finished->path);
  }
  if (status != FAVOR_OK)
    favor_output_abandon(file);
  else
    destroy(file);
  return status;
}

void favor_output_abandon(struct favor_output_file **file) {
  struct identity identity;
  if (*file && (*file)->has_part && identify((*file)->part, &identity) && identity.inode == (*file)->identity.inode)
    unlink((*file)->part);
  destroy(file);
}

#include "io/tensor_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "dist/agree.h"
#include "io/hdf5.h"
#include "io/mpio.h"
#include "io/positioned.h"
#include "io/slab.h"
#include "io/type.h"

enum {
  BUFFER_BYTES = 4 << 20,
  SMALL_CACHE_BYTES = 1 << 20, /* HDF5's own default */
  LARGE_CACHE_BYTES = 64 << 20 /* unless one chunk alone is larger */
};

struct favor_tensor {
  struct favor_context *context;
  char *path, *name;
  struct favor_tensor_shape shape;
  int fd;                           /* of contiguous datasets, else -1 */
  int64_t offset;                   /* of a contiguous dataset in the file */
  hid_t file, dataset, memory_type; /* of all others, else negative */
  int64_t group_heads;              /* heads to read together */
  int64_t buffer_bytes;
  int64_t cache_bytes; /* HDF5's, of chunks */
  void *buffer;
  struct mpio *mpio; /* FAVOR_IO_MPIO: how ranks read together */
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static bool read_shape(struct favor_tensor *tensor) {
  struct favor_tensor_shape *shape = &tensor->shape;
  int64_t dims[4] = {1, 1, 1, 1};
  int n = hdf5_dims(tensor->context, tensor->dataset, tensor->path, tensor->name, 4, dims);
  if (n < 0) return false;
  if (n < 2) {
    dist_fail(tensor->context, FAVOR_EDATA, "dataset %s of %s has %d dimensions, 2 to 4 are needed", tensor->name,
              tensor->path, n);
    return false;
  }
  bool is_tokens_first = shape->layout == FAVOR_TOKENS_FIRST && n > 2;
  shape->n_dims = n;
  shape->width = dims[n - 1];
  shape->tokens = is_tokens_first ? dims[n - 3] : dims[n - 2];
  shape->heads = n == 2 ? 1 : is_tokens_first ? dims[n - 2] : dims[n - 3];
  shape->batch = n == 4 ? dims[0] : 1;
  if (shape->width == 0 || shape->heads == 0 || shape->batch == 0) {
    dist_fail(tensor->context, FAVOR_EDATA, "dataset %s of %s is empty: width %lld, heads %lld, batch %lld",
              tensor->name, tensor->path, (long long)shape->width, (long long)shape->heads, (long long)shape->batch);
    return false;
  }
  return true;
}

/* The type in the file; *is_little_endian. */
static bool read_type(struct favor_tensor *tensor, bool *is_little_endian) {
  hid_t id = H5Dget_type(tensor->dataset);
  bool is_known = hdf5_type_find(id, &tensor->shape.type);
  *is_little_endian = H5Tget_order(id) == H5T_ORDER_LE;
  if (is_known) {
    tensor->memory_type = hdf5_type_native_order(id);
    if (tensor->memory_type < 0) hdf5_fail_read(tensor->context, tensor->path, tensor->name);
  } else {
    char found[96];
    hdf5_type_describe(id, found, sizeof found);
    dist_fail(tensor->context, FAVOR_EDATA,
              "dataset %s of %s is of an unknown type, %s; float16, bfloat16, float32 and float64 are understood",
              tensor->name, tensor->path, found);
  }
  hdf5_release(id);
  return tensor->memory_type >= 0;
}

/* Is the dataset in the file that was named? An external link may lead elsewhere. */
static bool is_in_same_file(const struct favor_tensor *tensor) {
  ssize_t file_bytes = H5Fget_name(tensor->file, NULL, 0);
  ssize_t dataset_bytes = H5Fget_name(tensor->dataset, NULL, 0);
  if (file_bytes < 0 || file_bytes != dataset_bytes) return false;
  char *names = calloc(2, (size_t)file_bytes + 1);
  if (!names) return false;
  char *second = names + file_bytes + 1;
  bool is_same = H5Fget_name(tensor->file, names, (size_t)file_bytes + 1) >= 0 &&
                 H5Fget_name(tensor->dataset, second, (size_t)file_bytes + 1) >= 0 && strcmp(names, second) == 0;
  free(names);
  return is_same;
}

/* The bytes before what HDF5 counts from. */
static hsize_t user_block_bytes(hid_t file) {
  hsize_t bytes = 0;
  hid_t properties = H5Fget_create_plist(file);
  H5Pget_userblock(properties, &bytes);
  hdf5_release(properties);
  return bytes;
}

/* The offset of the dataset where it is one run of bytes of this file that can be read without HDF5, else -1. HDF5
 * gives none of data that is chunked, compact, virtual, in external files, or not there yet: HADDR_UNDEF, which is the
 * largest number, or what becomes of that when 1.10 adds the user block to it. */
static int64_t find_offset(const struct favor_tensor *tensor) {
  haddr_t offset = H5Dget_offset(tensor->dataset);
  if (offset > INT64_MAX || offset < user_block_bytes(tensor->file) || !is_in_same_file(tensor)) return -1;
  return (int64_t)offset;
}

/* Bytes of the chunks beside each other in a row, with which a read may leave off in the middle. */
static double band_bytes(const struct favor_tensor_shape *shape, const hsize_t *chunk) {
  double bytes = (double)favor_type_bytes(shape->type); /* a double: nothing to overflow */
  for (int i = 0; i < shape->n_dims; i++) bytes *= (double)chunk[i];
  hsize_t chunk_width = chunk[shape->n_dims - 1];
  double limit = bytes > LARGE_CACHE_BYTES ? bytes : LARGE_CACHE_BYTES;
  bytes *= (double)(((hsize_t)shape->width + chunk_width - 1) / chunk_width);
  return bytes < limit ? bytes : limit;
}

/* Opens the dataset again with a cache of this size; a dataset that is still open would keep its own. */
static void reopen_with_cache(struct favor_tensor *tensor, double bytes) {
  hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
  H5Pset_chunk_cache(access, H5D_CHUNK_CACHE_NSLOTS_DEFAULT, (size_t)bytes, H5D_CHUNK_CACHE_W0_DEFAULT);
  hdf5_release(tensor->dataset);
  tensor->dataset = H5Dopen2(tensor->file, tensor->name, access);
  if (tensor->dataset < 0) hdf5_fail_read(tensor->context, tensor->path, tensor->name);
  hdf5_release(access);
}

/* Chunks that hold several heads are read for all of them at once, and HDF5's cache keeps the chunks that one step
 * leaves unfinished, so that each is decoded once. */
static void fit_to_chunks(struct favor_tensor *tensor) {
  const struct favor_tensor_shape *shape = &tensor->shape;
  hsize_t chunk[4];
  hid_t properties = H5Dget_create_plist(tensor->dataset);
  bool is_tokens_first = shape->layout == FAVOR_TOKENS_FIRST && shape->n_dims > 2;
  tensor->group_heads = is_tokens_first ? shape->heads : 1;
  if (H5Pget_layout(properties) == H5D_CHUNKED && H5Pget_chunk(properties, 4, chunk) == shape->n_dims) {
    if (shape->n_dims > 2) tensor->group_heads = (int64_t)chunk[shape->n_dims - (is_tokens_first ? 2 : 3)];
    double bytes = band_bytes(shape, chunk);
    tensor->cache_bytes = SMALL_CACHE_BYTES;
    if (bytes > SMALL_CACHE_BYTES) {
      reopen_with_cache(tensor, bytes);
      tensor->cache_bytes = (int64_t)bytes;
    }
  }
  hdf5_release(properties);
}

/* From now on the file is read by file descriptor; HDF5 has nothing more to do with it. */
static void open_contiguous(struct favor_tensor *tensor, int64_t offset, int64_t bytes) {
  tensor->fd = open(tensor->path, O_RDONLY | O_CLOEXEC);
  struct stat stat;
  if (tensor->fd < 0 || fstat(tensor->fd, &stat) != 0) {
    dist_fail(tensor->context, FAVOR_EIO, "cannot open %s: %s", tensor->path, strerror(errno));
    return;
  }
  if (stat.st_size - bytes < offset) {
    dist_fail(tensor->context, FAVOR_EDATA,
              "%s is truncated, copy or make it again: dataset %s ends at byte %lld of %lld", tensor->path,
              tensor->name, (long long)(offset + bytes), (long long)stat.st_size);
    return;
  }
  /* Twice the read-ahead: with a cold cache 1 GiB, of one head or 8 in turns, came 2 to 3 times as fast, as with
   * POSIX_FADV_WILLNEED for each next block, which costs calls. */
  posix_fadvise(tensor->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  tensor->offset = offset;
  tensor->shape.is_contiguous = true;
  tensor->group_heads = tensor->shape.layout == FAVOR_TOKENS_FIRST ? tensor->shape.heads : 1;
  hdf5_release(tensor->memory_type);
  hdf5_release(tensor->dataset);
  hdf5_release(tensor->file);
  tensor->memory_type = tensor->dataset = tensor->file = H5I_INVALID_HID;
}

static void open_local(struct favor_tensor *tensor) {
  bool is_little_endian = false;
  tensor->file = hdf5_open_file(tensor->context, tensor->path);
  if (tensor->file < 0) return;
  tensor->dataset = hdf5_open_dataset(tensor->context, tensor->file, tensor->path, tensor->name);
  if (tensor->dataset < 0 || !read_shape(tensor) || !read_type(tensor, &is_little_endian)) return;
  int64_t bytes = slab_dataset_bytes(&tensor->shape);
  if (bytes < 0) {
    dist_fail(tensor->context, FAVOR_EDATA, "dataset %s of %s is too large", tensor->name, tensor->path);
    return;
  }
  int64_t offset = is_little_endian ? find_offset(tensor) : -1;
  if (offset >= 0)
    open_contiguous(tensor, offset, bytes);
  else
    fit_to_chunks(tensor);
  if (dist_has_failed(tensor->context)) return;
  int64_t row_bytes = slab_row_bytes(&tensor->shape);
  tensor->buffer_bytes = row_bytes > BUFFER_BYTES ? row_bytes : BUFFER_BYTES;
  tensor->buffer = memory_zeroed((size_t)tensor->buffer_bytes, 1);
  if (!tensor->buffer)
    dist_fail(tensor->context, FAVOR_ENOMEM, "no memory for a buffer of %lld bytes to read %s of %s",
              (long long)tensor->buffer_bytes, tensor->name, tensor->path);
}

static struct favor_tensor *allocate(struct favor_context *context, const char *path, const char *name,
                                     enum favor_layout layout) {
  struct favor_tensor *tensor = calloc(1, sizeof *tensor);
  char *path_copy = strdup(path), *name_copy = strdup(name);
  if (!tensor || !path_copy || !name_copy) {
    free(tensor);
    free(path_copy);
    free(name_copy);
    dist_fail(context, FAVOR_ENOMEM, "no memory to open %s", path);
    return NULL;
  }
  *tensor = (struct favor_tensor){.context = context,
                                  .path = path_copy,
                                  .name = name_copy,
                                  .shape.layout = layout,
                                  .fd = -1,
                                  .file = H5I_INVALID_HID,
                                  .dataset = H5I_INVALID_HID,
                                  .memory_type = H5I_INVALID_HID};
  return tensor;
}

/* Do all ranks see what rank 0 sees? A path may lead to different files on different nodes. */
static enum favor_status agree_on_shape(struct favor_tensor *tensor) {
  const struct favor_tensor_shape *shape = &tensor->shape;
  int64_t own[] = {shape->n_dims, shape->batch, shape->heads, shape->tokens, shape->width, shape->type};
  int64_t first[sizeof own / sizeof *own];
  memcpy(first, own, sizeof own);
  dist_broadcast(tensor->context, first, sizeof first);
  if (memcmp(first, own, sizeof own) != 0)
    dist_fail(tensor->context, FAVOR_EDATA,
              "dataset %s of %s is not the same on all ranks: is the file on a shared disk?", tensor->name,
              tensor->path);
  return dist_agree(tensor->context, DIST_SITE_TENSOR_OPEN, 0, "");
}

/* Local: parallel HDF5 reads no virtual dataset, which only says where in other files its parts are. */
static void check_collective(const struct favor_tensor *tensor) {
  if (tensor->dataset < 0) return; /* contiguous */
  hid_t properties = H5Dget_create_plist(tensor->dataset);
  if (H5Pget_layout(properties) == H5D_VIRTUAL)
    dist_fail(tensor->context, FAVOR_EDATA,
              "dataset %s of %s is virtual, which MPI-IO cannot read; read it by --io direct", tensor->name,
              tensor->path);
  hdf5_release(properties);
}

enum favor_status favor_tensor_open(struct favor_context *context, const char *path, const char *name,
                                    enum favor_layout layout, struct favor_tensor **tensor) {
  return favor_tensor_open_mode(context, path, name, layout, FAVOR_IO_DIRECT, tensor);
}

enum favor_status favor_tensor_open_mode(struct favor_context *context, const char *path, const char *name,
                                         enum favor_layout layout, enum favor_io_mode mode,
                                         struct favor_tensor **tensor) {
  struct hdf5_quiet quiet;
  struct favor_tensor *opened = allocate(context, path, name, layout);
  if (opened) {
    hdf5_quiet_begin(&quiet);
    open_local(opened);
    if (mode == FAVOR_IO_MPIO && !dist_has_failed(context)) check_collective(opened);
    hdf5_quiet_end(&quiet);
  }
  uint64_t digest = dist_digest(DIST_DIGEST_START, path, strlen(path) + 1);
  digest = dist_digest(digest, name, strlen(name) + 1);
  digest = dist_digest(digest, &layout, sizeof layout);
  digest = dist_digest(digest, &mode, sizeof mode);
  enum favor_status status = dist_agree(context, DIST_SITE_TENSOR_OPEN, digest, "tensors to open");
  if (status == FAVOR_OK) status = agree_on_shape(opened);
  if (status == FAVOR_OK && mode == FAVOR_IO_MPIO)
    status = mpio_open(context, opened->path, opened->name, &opened->mpio);
  if (status != FAVOR_OK) favor_tensor_close(&opened);
  *tensor = opened;
  return status;
}

void favor_tensor_close(struct favor_tensor **tensor) {
  struct favor_tensor *closed = *tensor;
  *tensor = NULL;
  if (!closed) return;
  struct hdf5_quiet quiet;
  mpio_close(&closed->mpio);
  hdf5_quiet_begin(&quiet);
  hdf5_release(closed->memory_type);
  hdf5_release(closed->dataset);
  hdf5_release(closed->file);
  hdf5_quiet_end(&quiet);
  if (closed->fd >= 0) close(closed->fd);
  free(closed->buffer);
  free(closed->path);
  free(closed->name);
  free(closed);
}

int64_t favor_tensor_memory_bytes(const struct favor_tensor *tensor) {
  return tensor->buffer_bytes + tensor->cache_bytes;
}

void favor_tensor_shape(const struct favor_tensor *tensor, struct favor_tensor_shape *shape) { *shape = tensor->shape; }

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static enum favor_status fail_positioned(const struct favor_tensor *tensor, int error, int64_t offset,
                                         struct status *status) {
  if (error == POSITIONED_END)
    return status_set(status, FAVOR_EDATA, "%s is truncated, copy or make it again: it ends inside dataset %s",
                      tensor->path, tensor->name);
  return status_set(status, FAVOR_EIO, "reading dataset %s of %s at byte %lld failed: %s", tensor->name, tensor->path,
                    (long long)offset, strerror(error));
}

static enum favor_status read_contiguous(const struct favor_tensor *tensor, const struct slab_runs *runs, void *buffer,
                                         struct status *status) {
  int64_t row_bytes = slab_row_bytes(&tensor->shape);
  for (int64_t i = 0; i < runs->n_runs; i++) {
    int64_t offset = tensor->offset + (runs->file_row + i * runs->file_stride) * row_bytes;
    char *to = (char *)buffer + i * runs->buffer_stride * row_bytes;
    int error = positioned_read(tensor->fd, to, (size_t)(runs->run_rows * row_bytes), offset);
    if (error != 0) return fail_positioned(tensor, error, offset, status);
  }
  return FAVOR_OK;
}

static enum favor_status read_hyperslab(const struct favor_tensor *tensor, const struct slab *piece, void *buffer,
                                        struct status *status) {
  struct hdf5_quiet quiet;
  hdf5_quiet_begin(&quiet);
  if (!hdf5_read_slab(tensor->dataset, tensor->memory_type, H5P_DEFAULT, &tensor->shape, piece, buffer))
    hdf5_status_read(status, tensor->path, tensor->name);
  hdf5_quiet_end(&quiet);
  return status->code;
}

static enum favor_status read_rows(const struct favor_tensor *tensor, const struct slab_walk *walk, void *buffer,
                                   struct status *status) {
  if (tensor->fd < 0) return read_hyperslab(tensor, &walk->piece, buffer, status);
  struct slab_runs runs = slab_walk_runs(walk);
  return read_contiguous(tensor, &runs, buffer, status);
}

static enum favor_status read_piece(struct favor_tensor *tensor, const struct slab_walk *walk,
                                    enum favor_precision precision, void *data, struct status *status) {
  int64_t array_row = type_is_native(tensor->shape.type, precision) ? slab_walk_array_row(walk) : -1;
  if (array_row >= 0) return read_rows(tensor, walk, (char *)data + array_row * slab_row_bytes(&tensor->shape), status);
  if (read_rows(tensor, walk, tensor->buffer, status) == FAVOR_OK) slab_decode(walk, tensor->buffer, precision, data);
  return status->code;
}

static enum favor_status fail_range(const struct favor_tensor *tensor, const struct slab *whole,
                                    struct status *status) {
  return status_set(status, FAVOR_EUSAGE, "heads [%lld, %lld) and tokens [%lld, %lld) are not all in %s of %s",
                    (long long)whole->head_begin, (long long)whole->head_end, (long long)whole->token_begin,
                    (long long)whole->token_end, tensor->name, tensor->path);
}

enum favor_status tensor_read(struct favor_tensor *tensor, const struct slab *slab, enum favor_precision precision,
                              void *data, struct status *status) {
  if (!slab_is_inside(slab, &tensor->shape)) return fail_range(tensor, slab, status);
  struct slab_walk walk =
      slab_walk_start(&tensor->shape, slab, tensor->group_heads, tensor->fd >= 0, tensor->buffer_bytes);
  while (status->code == FAVOR_OK && slab_walk_next(&walk)) read_piece(tensor, &walk, precision, data, status);
  return status->code;
}

enum favor_status tensor_walk(struct favor_tensor *tensor, const struct slab *slab,
                              void (*take)(void *self, const struct slab_walk *walk, const void *rows), void *self,
                              struct status *status) {
  struct slab_walk walk =
      slab_walk_start(&tensor->shape, slab, tensor->group_heads, tensor->fd >= 0, tensor->buffer_bytes);
  while (status->code == FAVOR_OK && slab_walk_next(&walk)) {
    if (read_rows(tensor, &walk, tensor->buffer, status) == FAVOR_OK) take(self, &walk, tensor->buffer);
  }
  return status->code;
}

enum favor_status favor_tensor_read(struct favor_tensor *tensor, int64_t head_begin, int64_t head_end,
                                    int64_t token_begin, int64_t token_end, enum favor_precision precision,
                                    void *data) {
  const struct slab slab = {head_begin, head_end, token_begin, token_end};
  struct status status = {0};
  tensor_read(tensor, &slab, precision, data, &status);
  return dist_fail_status(tensor->context, &status);
}

/* ---- reading together -------------------------------------------------------------------------------------------- */

/* The array's pieces, of as many heads of a batch as fit (or a chunk has): the larger a piece, the fewer collective
 * calls. All ranks make as many as the one that has most pieces. */
static enum favor_status read_together(struct favor_tensor *tensor, const struct slab *slab,
                                       enum favor_precision precision, void *data) {
  const struct favor_tensor_shape *shape = &tensor->shape;
  const int64_t group_heads = shape->is_contiguous ? shape->heads : tensor->group_heads;
  struct slab_walk walk = slab_walk_start(shape, slab, group_heads, false, tensor->buffer_bytes), counted = walk;
  int64_t n_pieces = 0;
  while (slab_walk_next(&counted)) n_pieces++;
  enum favor_status status = dist_max_int64(tensor->context, &n_pieces, 1);
  for (int64_t i = 0; i < n_pieces && status == FAVOR_OK; i++) {
    const bool has_piece = slab_walk_next(&walk);
    status = mpio_read(tensor->mpio, shape, has_piece ? &walk.piece : NULL, tensor->buffer);
    if (status == FAVOR_OK && has_piece) slab_decode(&walk, tensor->buffer, precision, data);
  }
  return status;
}

/* HDF5 takes what lies behind the end of a file for zeros, so one that shrank while it was read tells nobody. */
static void check_length(const struct favor_tensor *tensor) {
  struct stat stat;
  if (tensor->fd < 0) return; /* as HDF5 reads it */
  const int64_t end = tensor->offset + slab_dataset_bytes(&tensor->shape);
  struct status status = {0};
  if (fstat(tensor->fd, &stat) != 0)
    fail_positioned(tensor, errno, end, &status);
  else if (stat.st_size < end)
    fail_positioned(tensor, POSITIONED_END, end, &status);
  dist_fail_status(tensor->context, &status);
}

enum favor_status favor_tensor_read_all(struct favor_tensor *tensor, int64_t head_begin, int64_t head_end,
                                        int64_t token_begin, int64_t token_end, enum favor_precision precision,
                                        void *data) {
  const struct slab slab = {head_begin, head_end, token_begin, token_end};
  struct status status = {0};
  if (!slab_is_inside(&slab, &tensor->shape))
    fail_range(tensor, &slab, &status);
  else if (!tensor->mpio)
    tensor_read(tensor, &slab, precision, data, &status);
  dist_fail_status(tensor->context, &status);
  enum favor_status outcome = dist_agree(tensor->context, DIST_SITE_TENSOR_READ, 0, "");
  if (outcome != FAVOR_OK || !tensor->mpio) return outcome;
  outcome = read_together(tensor, &slab, precision, data);
  if (outcome != FAVOR_OK) return outcome;
  check_length(tensor);
  return dist_agree(tensor->context, DIST_SITE_TENSOR_READ, 0, "");
}

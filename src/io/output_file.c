#define _GNU_SOURCE /* sync_file_range */
#include "io/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "dist/agree.h"
#include "io/checksum.h"
#include "io/positioned.h"
#include "io/type.h"

enum { BUFFER_BYTES = 4 << 20 };

/* ---- creating ---------------------------------------------------------------------------------------------------- */

static bool is_shape_valid(const struct favor_tensor_shape *shape) {
  return shape->n_dims >= 2 && shape->n_dims <= 4 && favor_type_bytes(shape->type) > 0 && shape->tokens >= 0 &&
         shape->width >= 1 && shape->heads >= 1 && shape->batch >= 1 && (shape->n_dims == 4 || shape->batch == 1) &&
         (shape->n_dims > 2 || shape->heads == 1);
}

/* False without memory. */
static bool copy_tensor(struct favor_output_file *file, int index, const struct favor_output_tensor *tensor) {
  struct output_tensor *copy = &file->tensors[index];
  copy->shape = tensor->shape;
  copy->name = strdup(tensor->name);
  if (!copy->name) return false;
  if (!is_shape_valid(&copy->shape)) {
    dist_fail(file->context, FAVOR_EUSAGE, "the shape asked for %s of %s is not one of a tensor", copy->name,
              file->path);
    return true;
  }
  int64_t row_bytes = slab_row_bytes(&copy->shape);
  if (row_bytes > file->buffer_bytes) file->buffer_bytes = row_bytes;
  copy->first_sum = file->n_sums;
  file->n_sums += checksum_n_sums(&copy->shape);
  return true;
}

/* Copies the specification into the file. False without memory. */
static bool copy_spec(struct favor_output_file *file, const struct favor_output_spec *spec) {
  size_t path_bytes = strlen(spec->path) + sizeof FAVOR_OUTPUT_PART_SUFFIX;
  file->path = strdup(spec->path);
  file->part = malloc(path_bytes);
  file->tensors = calloc((size_t)spec->n_tensors + 1, sizeof *file->tensors);
  if (!file->path || !file->part || !file->tensors) return false;
  snprintf(file->part, path_bytes, "%s" FAVOR_OUTPUT_PART_SUFFIX, spec->path);
  file->is_overwrite = spec->is_overwrite;
  file->n_tensors = spec->n_tensors;
  file->buffer_bytes = BUFFER_BYTES;
  for (int i = 0; i < spec->n_tensors; i++) {
    if (!copy_tensor(file, i, &spec->tensors[i])) return false;
    if (dist_has_failed(file->context)) return true;
  }
  file->sums = memory_zeroed((size_t)file->n_sums, sizeof *file->sums);
  file->buffer = memory_zeroed((size_t)file->buffer_bytes, 1);
  return file->sums && file->buffer;
}

void output_destroy(struct favor_output_file **file) {
  struct favor_output_file *destroyed = *file;
  *file = NULL;
  if (!destroyed) return;
  if (destroyed->fd >= 0) close(destroyed->fd);
  if (destroyed->image >= 0) close(destroyed->image);
  for (int i = 0; destroyed->tensors && i < destroyed->n_tensors; i++) free(destroyed->tensors[i].name);
  free(destroyed->tensors);
  free(destroyed->sums);
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
  output_destroy(&file);
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

/* Rank 0 only. */
static enum favor_status lay_out(struct favor_output_file *file, const struct favor_output_spec *spec) {
  struct output_place *places = calloc((size_t)spec->n_tensors + 1, sizeof *places);
  if (!places) return dist_fail(file->context, FAVOR_ENOMEM, "no memory to create %s", spec->path);
  enum favor_status status = output_layout_check_target(file->context, spec);
  if (status == FAVOR_OK) status = output_layout_make(file->context, spec, file->part, places, &file->image);
  for (int i = 0; i < spec->n_tensors; i++) file->tensors[i].place = places[i];
  free(places);
  return status;
}

/* Rank 0 only: the file on disk is there, and this run's. */
static void take_part(struct favor_output_file *file) {
  file->has_part = true;
  if (!part_identify(file->part, &file->identity))
    dist_fail(file->context, FAVOR_ECREATE, "cannot create %s: it vanished", file->part);
}

/* Rank 0 only. */
static void create_part(struct favor_output_file *file, const struct favor_output_spec *spec) {
  if (lay_out(file, spec) != FAVOR_OK) return;
  if (part_create(file->context, file->path, file->part, file->image, spec->companion, &file->id, &file->fd) ==
      FAVOR_OK)
    take_part(file);
}

/* Every rank opens what rank 0 has made and keeps open, and makes sure that it is that. */
static void open_part(struct favor_output_file *file) {
  struct part_identity identity;
  int rank = file->context->rank;
  if (rank != 0) file->fd = open(file->part, O_WRONLY | O_CLOEXEC);
  if (file->fd < 0)
    dist_fail(file->context, FAVOR_ECREATE, "rank %d cannot open %s, which rank 0 made: %s", rank, file->part,
              strerror(errno));
  else if (!part_identify(file->part, &identity) || !part_is_same(&identity, &file->identity))
    dist_fail(file->context, FAVOR_ECREATE,
              "rank %d finds another file than rank 0 at %s: is it on a shared disk, and is no other run writing it?",
              rank, file->part);
}

/* Collective. */
static enum favor_status share_layout(struct favor_output_file *file) {
  dist_broadcast(file->context, &file->identity, sizeof file->identity);
  dist_broadcast(file->context, &file->id, sizeof file->id);
  for (int i = 0; i < file->n_tensors; i++)
    dist_broadcast(file->context, &file->tensors[i].place, sizeof file->tensors[i].place);
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

/* ---- going on ---------------------------------------------------------------------------------------------------- */

/* Where tensors and their checksums stand; the caller's to free, NULL without memory. */
static struct part_range *ranges_of(const struct favor_output_file *file) {
  struct part_range *ranges = calloc(2 * (size_t)file->n_tensors + 1, sizeof *ranges);
  for (int i = 0; ranges && i < file->n_tensors; i++) {
    const struct output_tensor *tensor = &file->tensors[i];
    const int64_t sums_bytes = checksum_n_sums(&tensor->shape) * (int64_t)sizeof *file->sums;
    ranges[2 * i] = (struct part_range){tensor->place.data, tensor->place.data + slab_dataset_bytes(&tensor->shape)};
    ranges[2 * i + 1] = (struct part_range){tensor->place.sums, tensor->place.sums + sums_bytes};
  }
  return ranges;
}

/* Rank 0 only. */
static void resume_part(struct favor_output_file *file, const struct favor_output_spec *spec, uint64_t id,
                        const uint64_t *sums) {
  int mask = -1;
  if (lay_out(file, spec) != FAVOR_OK) return;
  struct part_range *ranges = ranges_of(file);
  if (!ranges) {
    dist_fail(file->context, FAVOR_ENOMEM, "no memory to go on with %s", file->part);
    return;
  }
  enum favor_status status = output_layout_mask(file->context, spec, file->part, file->image, &mask);
  if (status == FAVOR_OK)
    status = part_resume(file->context, file->path, file->part, file->image, mask, ranges, 2 * file->n_tensors, id,
                         &file->fd);
  if (mask >= 0) close(mask);
  free(ranges);
  if (status != FAVOR_OK) return;
  file->id = id;
  memcpy(file->sums, sums, (size_t)file->n_sums * sizeof *sums);
  take_part(file);
}

enum favor_status favor_output_resume(struct favor_context *context, const struct favor_output_spec *spec, uint64_t id,
                                      const uint64_t *sums, struct favor_output_file **file) {
  struct favor_output_file *resumed = allocate(context, spec);
  if (resumed) favor_output_set_resumable(resumed);
  if (context->rank == 0 && !dist_has_failed(context)) resume_part(resumed, spec, id, sums);
  enum favor_status status = dist_agree(context, DIST_SITE_OUTPUT_CREATE, digest_of(spec), "outputs");
  if (status == FAVOR_OK) status = share_layout(resumed);
  if (status != FAVOR_OK) favor_output_keep(&resumed);
  *file = resumed;
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static enum favor_status write_runs(const struct favor_output_file *file, const struct output_tensor *tensor,
                                    const struct slab_runs *runs, const void *rows, struct status *status) {
  int64_t row_bytes = slab_row_bytes(&tensor->shape);
  for (int64_t i = 0; i < runs->n_runs; i++) {
    int64_t offset = tensor->place.data + (runs->file_row + i * runs->file_stride) * row_bytes;
    const char *from = (const char *)rows + i * runs->buffer_stride * row_bytes;
    int error = positioned_write(file->fd, from, (size_t)(runs->run_rows * row_bytes), offset);
    if (error != 0)
      return status_set(status, FAVOR_EIO, "writing %s of %s failed on rank %d: %s", tensor->name, file->part,
                        file->context->rank, strerror(error));
  }
  return FAVOR_OK;
}

/* Lets the kernel write to disk what the piece put into its cache, so that little is left for the end: of 1 GiB in
 * pieces of 4 MiB with pauses of 20 ms, the last fsync took 0.002 s and not 0.4, and the writes no longer. fdatasync
 * every 64 MiB does the same for the end, but made writes without pauses take 2.1 s and not 0.4. Errors come again with
 * fsync. */
static void start_writeback(const struct favor_output_file *file, const struct output_tensor *tensor,
                            const struct slab_runs *runs) {
  int64_t row_bytes = slab_row_bytes(&tensor->shape);
  int64_t rows = (runs->n_runs - 1) * runs->file_stride + runs->run_rows; /* with those of others between */
  sync_file_range(file->fd, tensor->place.data + runs->file_row * row_bytes, rows * row_bytes, SYNC_FILE_RANGE_WRITE);
}

/* Writes rows of the pitch of the walk, and enters their checksums. */
static enum favor_status write_rows(struct favor_output_file *file, const struct output_tensor *tensor,
                                    const struct slab_walk *walk, const void *rows, struct status *status) {
  struct slab_runs runs = slab_walk_runs(walk);
  if (write_runs(file, tensor, &runs, rows, status) != FAVOR_OK) return status->code;
  checksum_add(walk, rows, checksum_block_shift(tensor->shape.tokens), file->sums + tensor->first_sum);
  start_writeback(file, tensor, &runs);
  return FAVOR_OK;
}

static enum favor_status write_piece(struct favor_output_file *file, const struct output_tensor *tensor,
                                     const struct slab_walk *walk, enum favor_precision precision, const void *data,
                                     struct status *status) {
  int64_t array_row = type_is_native(tensor->shape.type, precision) ? slab_walk_array_row(walk) : -1;
  if (array_row >= 0) {
    const void *rows = (const char *)data + array_row * slab_row_bytes(&tensor->shape);
    return write_rows(file, tensor, walk, rows, status);
  }
  int64_t head, token;
  if (!slab_encode(walk, data, precision, file->buffer, &head, &token))
    return status_set(status, FAVOR_EDATA,
                      "a value of %s at head %lld, token %lld does not fit into %s; use --out-type float32",
                      tensor->name, (long long)head, (long long)token, favor_type_name(tensor->shape.type));
  return write_rows(file, tensor, walk, file->buffer, status);
}

enum favor_status output_write(struct favor_output_file *file, int index, const struct slab *slab,
                               enum favor_precision precision, const void *data, struct status *status) {
  if (index < 0 || index >= file->n_tensors)
    return status_set(status, FAVOR_EUSAGE, "%s has no tensor number %d", file->path, index);
  const struct output_tensor *tensor = &file->tensors[index];
  if (!slab_is_inside(slab, &tensor->shape))
    return status_set(status, FAVOR_EUSAGE, "heads [%lld, %lld) and tokens [%lld, %lld) are not all in %s of %s",
                      (long long)slab->head_begin, (long long)slab->head_end, (long long)slab->token_begin,
                      (long long)slab->token_end, tensor->name, file->path);
  int64_t group_heads = tensor->shape.layout == FAVOR_TOKENS_FIRST ? tensor->shape.heads : 1;
  struct slab_walk walk = slab_walk_start(&tensor->shape, slab, group_heads, false, file->buffer_bytes);
  while (status->code == FAVOR_OK && slab_walk_next(&walk)) write_piece(file, tensor, &walk, precision, data, status);
  return status->code;
}

enum favor_status favor_output_write(struct favor_output_file *file, int index, int64_t head_begin, int64_t head_end,
                                     int64_t token_begin, int64_t token_end, enum favor_precision precision,
                                     const void *data) {
  const struct slab slab = {head_begin, head_end, token_begin, token_end};
  struct status status = {0};
  output_write(file, index, &slab, precision, data, &status);
  return dist_fail_status(file->context, &status);
}

void output_shape(const struct favor_output_file *file, int index, struct favor_tensor_shape *shape) {
  *shape = file->tensors[index].shape;
}

int64_t favor_output_bytes(const struct favor_output_file *file) { return file->identity.bytes - PART_TRAILER_BYTES; }

void favor_output_set_resumable(struct favor_output_file *file) { file->is_resumable = true; }

int64_t favor_output_memory_bytes(void) { return BUFFER_BYTES; }

const char *favor_output_part(const struct favor_output_file *file) { return file->part; }

enum favor_status favor_output_set_attributes(struct favor_output_file *file, const struct favor_attribute *attributes,
                                              int n_attributes) {
  if (!file->has_part) return FAVOR_OK;
  return output_layout_set(file->context, attributes, n_attributes, file->part, file->fd, file->image);
}

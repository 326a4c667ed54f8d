#include "io/check.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dist/agree.h"
#include "io/checksum.h"
#include "io/hdf5.h"
#include "io/tensor_file.h"

/* ---- what there is: rank 0 --------------------------------------------------------------------------------------- */

/* The paths of all datasets, in order, each ended by a zero. */
struct names {
  char *text;
  size_t bytes;
  bool has_failed;
};

static bool append(struct names *names, const char *name) {
  const size_t bytes = strlen(name) + 1;
  char *text = realloc(names->text, names->bytes + bytes);
  names->has_failed |= !text;
  if (!text) return false;
  memcpy(text + names->bytes, name, bytes);
  names->text = text;
  names->bytes += bytes;
  return true;
}

static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *data) {
  (void)info;
  hid_t object = H5Oopen(group, name, H5P_DEFAULT);
  const bool is_dataset = object >= 0 && H5Iget_type(object) == H5I_DATASET;
  hdf5_release(object);
  return is_dataset && !append(data, name) ? -1 : 0;
}

static void list_names(struct favor_context *context, hid_t file, const char *path, struct names *names) {
  if (H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, visit, names) >= 0) return;
  if (names->has_failed)
    dist_fail(context, FAVOR_ENOMEM, "no memory for the list of datasets of %s", path);
  else
    dist_fail(context, FAVOR_EDATA, "%s: its list of datasets cannot be read: %s", path, hdf5_reason().text);
}

static bool has_sums(hid_t file, const char *name) {
  char *sums = checksum_name(name);
  const bool is_there = sums && hdf5_has_object(file, CHECKSUM_GROUP) && hdf5_has_object(file, sums);
  free(sums);
  return is_there;
}

static bool is_sums(const char *name) { return strncmp(name, CHECKSUM_GROUP, strlen(CHECKSUM_GROUP)) == 0; }

/* ---- small datasets: rank 0 -------------------------------------------------------------------------------------- */

/* The bytes of a dataset as they stand in the file; NULL where they cannot be had. */
static void *read_bytes(hid_t dataset, size_t *bytes) {
  hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
  const hssize_t n = H5Sget_simple_extent_npoints(space);
  void *data = NULL;
  if (n >= 0 && !__builtin_mul_overflow((size_t)n, H5Tget_size(type), bytes)) data = malloc(*bytes + 1);
  if (data && *bytes > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
    free(data);
    data = NULL;
  }
  hdf5_release(type);
  hdf5_release(space);
  return data;
}

/* Is it one value? The file says how many there are. */
static bool is_single(hid_t attribute) {
  hid_t space = attribute >= 0 ? H5Aget_space(attribute) : H5I_INVALID_HID;
  bool is_one = space >= 0 && H5Sget_simple_extent_npoints(space) == 1;
  hdf5_release(space);
  return is_one;
}

static enum check_outcome check_small(hid_t file, const char *name) {
  uint64_t stored = 0;
  size_t bytes;
  hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  hid_t id = H5Aexists(dataset, CHECKSUM_ATTRIBUTE) > 0 ? H5Aopen(dataset, CHECKSUM_ATTRIBUTE, H5P_DEFAULT) : -1;
  enum check_outcome outcome = id < 0 ? CHECK_UNKNOWN : CHECK_DAMAGED;
  if (is_single(id) && H5Aread(id, H5T_NATIVE_UINT64, &stored) >= 0) {
    void *data = read_bytes(dataset, &bytes);
    if (data && checksum_of(data, bytes) == stored) outcome = CHECK_OK;
    free(data);
  }
  hdf5_release(id);
  hdf5_release(dataset);
  return outcome;
}

/* ---- the checksums of a tensor: rank 0 --------------------------------------------------------------------------- */

/* As it is broadcast, but for `stored`. */
struct sums {
  bool is_valid;
  enum favor_layout layout;
  int block_shift;
  int64_t heads, blocks;
  uint64_t *stored;
};

/* Of a variable-length string, as favor writes them; "" where it is none. */
static void read_text(hid_t dataset, const char *name, char *text, size_t size) {
  char *found = NULL;
  hid_t id = H5Aexists(dataset, name) > 0 ? H5Aopen(dataset, name, H5P_DEFAULT) : -1;
  hid_t type = id >= 0 ? H5Aget_type(id) : -1;
  text[0] = '\0';
  if (type >= 0 && is_single(id) && H5Tis_variable_str(type) > 0 && H5Aread(id, type, &found) >= 0 && found &&
      strlen(found) < size)
    strcpy(text, found);
  if (found) H5free_memory(found);
  hdf5_release(type);
  hdf5_release(id);
}

/* log2 of the tokens of a block, -1 where there is no such number. */
static int read_block_shift(hid_t dataset) {
  int64_t tokens = 0;
  hid_t id = H5Aexists(dataset, "block_tokens") > 0 ? H5Aopen(dataset, "block_tokens", H5P_DEFAULT) : -1;
  if (!is_single(id) || H5Aread(id, H5T_NATIVE_INT64, &tokens) < 0) tokens = 0;
  hdf5_release(id);
  return tokens > 0 && (tokens & (tokens - 1)) == 0 ? __builtin_ctzll((uint64_t)tokens) : -1;
}

static struct sums read_sums(hid_t file, const char *tensor) {
  struct sums sums = {0};
  char algorithm[64], layout[64], *name = checksum_name(tensor);
  hsize_t dims[H5S_MAX_RANK];
  size_t bytes = 0;
  hid_t dataset = name ? H5Dopen2(file, name, H5P_DEFAULT) : -1, space = H5Dget_space(dataset);
  read_text(dataset, "algorithm", algorithm, sizeof algorithm);
  read_text(dataset, "layout", layout, sizeof layout);
  sums.block_shift = read_block_shift(dataset);
  sums.layout = strcmp(layout, checksum_layout_name(FAVOR_TOKENS_FIRST)) == 0 ? FAVOR_TOKENS_FIRST : FAVOR_HEADS_FIRST;
  if (H5Sget_simple_extent_dims(space, dims, NULL) == 2) {
    sums.heads = (int64_t)dims[0];
    sums.blocks = (int64_t)dims[1];
    sums.stored = read_bytes(dataset, &bytes);
  }
  sums.is_valid = sums.stored && bytes == (size_t)sums.heads * (size_t)sums.blocks * sizeof *sums.stored &&
                  sums.block_shift >= 0 && strcmp(algorithm, CHECKSUM_ALGORITHM) == 0 &&
                  strcmp(layout, checksum_layout_name(sums.layout)) == 0;
  hdf5_release(space);
  hdf5_release(dataset);
  free(name);
  return sums;
}

/* ---- tensors: all ranks ------------------------------------------------------------------------------------------ */

struct adding {
  int block_shift;
  uint64_t *sums;
};

static void add_rows(void *self, const struct slab_walk *walk, const void *rows) {
  const struct adding *adding = self;
  checksum_add(walk, rows, adding->block_shift, adding->sums);
}

/* Collective: the sums as they should be, from the rows; NULL on failure. */
static uint64_t *add_up(struct favor_context *context, struct favor_tensor *tensor, const struct sums *stored,
                        const char *name, enum favor_status *status) {
  struct favor_tensor_shape shape;
  struct status local = {0};
  const int64_t n = stored->heads * stored->blocks;
  favor_tensor_shape(tensor, &shape);
  const int64_t each = shape.tokens / context->size, more = shape.tokens % context->size, rank = context->rank;
  const int64_t begin = each * rank + (rank < more ? rank : more), end = begin + each + (rank < more);
  const struct slab slab = {0, shape.batch * shape.heads, begin, end};
  struct adding adding = {stored->block_shift, memory_zeroed((size_t)n, sizeof(uint64_t))};
  if (adding.sums) {
    tensor_walk(tensor, &slab, add_rows, &adding, &local);
    dist_fail_status(context, &local);
  } else {
    dist_fail(context, FAVOR_ENOMEM, "no memory for the checksums of %s", name);
  }
  *status = dist_agree(context, DIST_SITE_DATA_READ, 0, "");
  if (*status == FAVOR_OK) *status = dist_sum_uint64(context, adding.sums, n);
  if (*status == FAVOR_OK) return adding.sums;
  free(adding.sums);
  return NULL;
}

/* Rank 0. */
static bool add_range(struct check_dataset *dataset, const struct favor_tensor_shape *shape, int64_t head,
                      int64_t begin, int64_t end) {
  struct check_range *last = dataset->n_ranges > 0 ? &dataset->ranges[dataset->n_ranges - 1] : NULL;
  if (!last || last->head != head || last->token_end != begin) {
    struct check_range *grown = realloc(dataset->ranges, (size_t)(dataset->n_ranges + 1) * sizeof *grown);
    if (!grown) return false;
    dataset->ranges = grown;
    last = &grown[dataset->n_ranges++];
    *last = (struct check_range){.head = head, .token_begin = begin, .first_row = slab_file_row(shape, head, begin)};
  }
  last->token_end = end;
  last->last_row = slab_file_row(shape, head, end - 1);
  return true;
}

/* Rank 0. */
static void compare(struct favor_context *context, struct check_dataset *dataset,
                    const struct favor_tensor_shape *shape, const struct sums *stored, const uint64_t *sums) {
  for (int64_t i = 0; i < stored->heads * stored->blocks; i++) {
    if (sums[i] == stored->stored[i]) continue;
    const int64_t begin = i % stored->blocks << stored->block_shift;
    const int64_t full = begin + (INT64_C(1) << stored->block_shift), end = full < shape->tokens ? full : shape->tokens;
    dataset->outcome = CHECK_DAMAGED;
    if (end > begin && !add_range(dataset, shape, i / stored->blocks, begin, end)) {
      dist_fail(context, FAVOR_ENOMEM, "no memory to list the damage");
      return;
    }
  }
}

/* Collective. */
static enum favor_status check_tensor(struct favor_context *context, const char *path, hid_t file,
                                      struct check_dataset *dataset) {
  struct sums stored = {0};
  struct favor_tensor_shape shape;
  struct favor_tensor *tensor = NULL;
  if (context->rank == 0) stored = read_sums(file, dataset->name);
  uint64_t *kept = stored.stored, *sums = NULL;
  enum favor_status status = dist_broadcast(context, &stored, sizeof stored);
  stored.stored = kept;
  dataset->outcome = CHECK_DAMAGED;
  if (status == FAVOR_OK && stored.is_valid)
    status = favor_tensor_open(context, path, dataset->name, stored.layout, &tensor);
  if (tensor) {
    favor_tensor_shape(tensor, &shape);
    const bool is_fitting = shape.batch * shape.heads == stored.heads &&
                            checksum_n_blocks(shape.tokens, stored.block_shift) == stored.blocks;
    if (is_fitting) sums = add_up(context, tensor, &stored, dataset->name, &status);
  }
  if (sums) dataset->outcome = CHECK_OK;
  if (sums && context->rank == 0) compare(context, dataset, &shape, &stored, sums);
  favor_tensor_close(&tensor);
  free(sums);
  free(kept);
  return status;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Collective: gives every rank rank 0's names. */
static enum favor_status share_names(struct favor_context *context, const char *path, struct names *names) {
  const uint64_t digest = dist_digest(DIST_DIGEST_START, path, strlen(path) + 1);
  enum favor_status status = dist_agree(context, DIST_SITE_DATA_READ, digest, "files");
  if (status == FAVOR_OK) status = dist_broadcast(context, &names->bytes, sizeof names->bytes);
  if (status == FAVOR_OK && context->rank != 0) {
    names->text = malloc(names->bytes + 1);
    if (!names->text) dist_fail(context, FAVOR_ENOMEM, "no memory for the list of datasets of %s", path);
  }
  if (status == FAVOR_OK) status = dist_agree(context, DIST_SITE_DATA_READ, 0, "");
  return status == FAVOR_OK ? dist_broadcast(context, names->text, names->bytes) : status;
}

/* A dataset of the report; NULL without memory, which is recorded. */
static struct check_dataset *add_dataset(struct favor_context *context, struct check_report *report, const char *name) {
  struct check_dataset *grown = realloc(report->datasets, (size_t)(report->n_datasets + 1) * sizeof *grown);
  char *copy = strdup(name);
  if (grown) report->datasets = grown;
  if (grown && copy) {
    grown[report->n_datasets] = (struct check_dataset){.name = copy};
    return &grown[report->n_datasets++];
  }
  free(copy);
  dist_fail(context, FAVOR_ENOMEM, "no memory for the list of datasets");
  return NULL;
}

/* What the ranks do with a dataset. */
enum step { STEP_NONE, STEP_TENSOR };

/* Rank 0: enters the dataset, checks what it can alone. */
static enum step enter(struct favor_context *context, hid_t file, const char *name, struct check_report *report) {
  if (is_sums(name)) {
    const char *tensor = name + strlen(CHECKSUM_GROUP);
    if (hdf5_has_object(file, tensor)) return STEP_NONE; /* comes under its own name */
    struct check_dataset *missing = add_dataset(context, report, tensor);
    if (missing) missing->outcome = CHECK_MISSING;
    return STEP_NONE;
  }
  struct check_dataset *dataset = add_dataset(context, report, name);
  if (!dataset) return STEP_NONE;
  if (has_sums(file, name)) return STEP_TENSOR;
  dataset->outcome = check_small(file, name);
  return STEP_NONE;
}

static bool has_any(const struct check_report *report) {
  for (int i = 0; i < report->n_datasets; i++) {
    if (report->datasets[i].outcome != CHECK_UNKNOWN) return true;
  }
  return false;
}

/* Collective. */
static enum favor_status check_all(struct favor_context *context, const char *path, hid_t file,
                                   const struct names *names, struct check_report *report) {
  enum favor_status status = FAVOR_OK;
  const char *end = names->text + names->bytes;
  for (const char *name = names->text; name < end && status == FAVOR_OK; name += strlen(name) + 1) {
    enum step step = STEP_NONE;
    if (context->rank == 0)
      step = enter(context, file, name, report);
    else if (!is_sums(name))
      add_dataset(context, report, name);
    status = dist_agree(context, DIST_SITE_DATA_READ, 0, "");
    if (status == FAVOR_OK) status = dist_broadcast(context, &step, sizeof step);
    if (status == FAVOR_OK && step == STEP_TENSOR)
      status = check_tensor(context, path, file, &report->datasets[report->n_datasets - 1]);
  }
  if (status == FAVOR_OK && context->rank == 0 && !has_any(report))
    dist_fail(context, FAVOR_EDATA, "%s has no checksums: not written by favor, or by an older version", path);
  return status == FAVOR_OK ? dist_agree(context, DIST_SITE_DATA_READ, 0, "") : status;
}

enum favor_status check_file(struct favor_context *context, const char *path, struct check_report *report) {
  struct names names = {0};
  struct hdf5_quiet quiet;
  hid_t file = H5I_INVALID_HID;
  *report = (struct check_report){0};
  hdf5_quiet_begin(&quiet);
  if (context->rank == 0) {
    file = hdf5_open_file(context, path);
    if (file >= 0) list_names(context, file, path, &names);
  }
  enum favor_status status = share_names(context, path, &names);
  if (status == FAVOR_OK) status = check_all(context, path, file, &names, report);
  hdf5_release(file);
  hdf5_quiet_end(&quiet);
  free(names.text);
  if (status != FAVOR_OK) check_release(report);
  return status;
}

void check_release(struct check_report *report) {
  for (int i = 0; i < report->n_datasets; i++) {
    free(report->datasets[i].name);
    free(report->datasets[i].ranges);
  }
  free(report->datasets);
  *report = (struct check_report){0};
}

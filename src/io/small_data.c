/* What is small is read on rank 0 and broadcast: 1-D integers, small floating-point datasets, attributes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"
#include "io/hdf5.h"
#include "io/type.h"

static uint64_t digest_of(const char *path, const char *name) {
  return dist_digest(dist_digest(DIST_DIGEST_START, path, strlen(path) + 1), name, strlen(name) + 1);
}

/* Collective. Gives every rank the `bytes` bytes at *values of rank 0, in memory of its own. On failure *values is
 * freed and NULL. */
static enum favor_status share_values(struct favor_context *context, size_t bytes, void **values) {
  if (context->rank != 0) {
    *values = calloc(bytes > 0 ? bytes : 1, 1);
    if (!*values) dist_fail(context, FAVOR_ENOMEM, "no memory for %zu bytes of a dataset", bytes);
  }
  enum favor_status status = dist_agree(context, DIST_SITE_DATA_READ, 0, "");
  if (status == FAVOR_OK) status = dist_broadcast(context, *values, bytes);
  if (status != FAVOR_OK) {
    free(*values);
    *values = NULL;
  }
  return status;
}

/* The number of elements, or -1 where their bytes cannot be counted. */
static int64_t count_of(int n_dims, const int64_t *dims) {
  int64_t count = 1, bytes;
  for (int i = 0; i < n_dims; i++) {
    if (__builtin_mul_overflow(count, dims[i], &count)) return -1;
  }
  return __builtin_mul_overflow(count, (int64_t)sizeof(double), &bytes) ? -1 : count;
}

/* Reads a whole dataset as memory_type, whose elements have at most 8 bytes, into memory for doubles or int64s. */
static void *read_all(struct favor_context *context, hid_t dataset, hid_t memory_type, const char *path,
                      const char *name, int64_t count) {
  void *values = count >= 0 ? calloc(count > 0 ? (size_t)count : 1, 8) : NULL;
  if (!values) {
    dist_fail(context, FAVOR_ENOMEM, "no memory to read dataset %s of %s", name, path);
  } else if (count > 0 && H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
    hdf5_fail_read(context, path, name);
    free(values);
    return NULL;
  }
  return values;
}

static void fail_type(struct favor_context *context, const char *path, const char *name, hid_t type,
                      const char *wanted) {
  char found[96];
  hdf5_type_describe(type, found, sizeof found);
  dist_fail(context, FAVOR_EDATA, "dataset %s of %s is of type %s; %s is needed", name, path, found, wanted);
}

/* ---- integers ---------------------------------------------------------------------------------------------------- */

static int64_t *read_integers(struct favor_context *context, hid_t dataset, const char *path, const char *name,
                              int64_t *count) {
  int64_t *values = NULL;
  hid_t type = H5Dget_type(dataset);
  int n_dims = hdf5_dims(context, dataset, path, name, 1, count);
  if (n_dims == 0)
    dist_fail(context, FAVOR_EDATA, "dataset %s of %s is one number, a list is needed", name, path);
  else if (n_dims == 1 && H5Tget_class(type) != H5T_INTEGER)
    fail_type(context, path, name, type, "int64");
  else if (n_dims == 1)
    values = read_all(context, dataset, H5T_NATIVE_INT64, path, name, count_of(1, count));
  hdf5_release(type);
  return values;
}

/* Rank 0's part. *count is -1 where the dataset is absent and need not be there. */
static int64_t *find_integers(struct favor_context *context, const char *path, const char *name, bool is_required,
                              int64_t *count) {
  int64_t *values = NULL;
  *count = -1;
  hid_t file = hdf5_open_file(context, path);
  if (file < 0) return NULL;
  if (is_required || hdf5_has_object(file, name)) {
    hid_t dataset = hdf5_open_dataset(context, file, path, name);
    if (dataset >= 0) values = read_integers(context, dataset, path, name, count);
    hdf5_release(dataset);
  } else {
    hdf5_fail_system(context, path);
  }
  hdf5_release(file);
  return values;
}

enum favor_status favor_int64_read(struct favor_context *context, const char *path, const char *name, bool is_required,
                                   int64_t *n_values, int64_t **values) {
  int64_t count = -1;
  void *read = NULL;
  *n_values = 0;
  *values = NULL;
  if (context->rank == 0) {
    struct hdf5_quiet quiet;
    hdf5_quiet_begin(&quiet);
    read = find_integers(context, path, name, is_required, &count);
    hdf5_quiet_end(&quiet);
  }
  enum favor_status status = dist_agree(context, DIST_SITE_DATA_READ, digest_of(path, name), "dataset names");
  if (status == FAVOR_OK) status = dist_broadcast(context, &count, sizeof count);
  if (status != FAVOR_OK) free(read);
  if (status != FAVOR_OK || count < 0) return status;
  status = share_values(context, (size_t)count * sizeof(int64_t), &read);
  if (status == FAVOR_OK) *n_values = count;
  *values = read;
  return status;
}

/* ---- floating-point numbers -------------------------------------------------------------------------------------- */

enum { MAX_DIMS = 4 };

/* The shape of a dataset as it is broadcast. */
struct extent {
  int64_t n_dims, dims[MAX_DIMS];
};

static double *read_numbers(struct favor_context *context, hid_t dataset, const char *path, const char *name,
                            struct extent *extent) {
  enum favor_type type;
  double *values = NULL;
  hid_t id = H5Dget_type(dataset);
  int n_dims = hdf5_dims(context, dataset, path, name, MAX_DIMS, extent->dims);
  extent->n_dims = n_dims;
  if (n_dims == 0)
    dist_fail(context, FAVOR_EDATA, "dataset %s of %s is one number, an array is needed", name, path);
  else if (n_dims > 0 && !hdf5_type_find(id, &type))
    fail_type(context, path, name, id, "a floating-point type");
  else if (n_dims > 0)
    values = read_all(context, dataset, H5T_NATIVE_DOUBLE, path, name, count_of(n_dims, extent->dims));
  hdf5_release(id);
  return values;
}

/* Rank 0's part. */
static double *find_numbers(struct favor_context *context, const char *path, const char *name, struct extent *extent) {
  double *values = NULL;
  hid_t file = hdf5_open_file(context, path);
  if (file < 0) return NULL;
  hid_t dataset = hdf5_open_dataset(context, file, path, name);
  if (dataset >= 0) values = read_numbers(context, dataset, path, name, extent);
  hdf5_release(dataset);
  hdf5_release(file);
  return values;
}

enum favor_status favor_double_read(struct favor_context *context, const char *path, const char *name, int *n_dims,
                                    int64_t *dims, double **values) {
  struct extent extent = {0};
  void *read = NULL;
  *n_dims = 0;
  *values = NULL;
  if (context->rank == 0) {
    struct hdf5_quiet quiet;
    hdf5_quiet_begin(&quiet);
    read = find_numbers(context, path, name, &extent);
    hdf5_quiet_end(&quiet);
  }
  enum favor_status status = dist_agree(context, DIST_SITE_DATA_READ, digest_of(path, name), "dataset names");
  if (status == FAVOR_OK) status = dist_broadcast(context, &extent, sizeof extent);
  if (status != FAVOR_OK) {
    free(read);
    return status;
  }
  status = share_values(context, (size_t)count_of((int)extent.n_dims, extent.dims) * sizeof(double), &read);
  if (status == FAVOR_OK) {
    *n_dims = (int)extent.n_dims;
    memcpy(dims, extent.dims, (size_t)extent.n_dims * sizeof *dims);
  }
  *values = read;
  return status;
}

/* ---- attributes -------------------------------------------------------------------------------------------------- */

struct attribute_list {
  struct favor_context *context;
  const char *path;
  struct favor_attribute *attributes;
  int64_t n_attributes, n_allocated;
};

/* A copy that fits, cut between the characters of UTF-8. */
static void copy_text(char *to, size_t size, const char *from) {
  size_t bytes = strlen(from);
  if (bytes >= size) {
    bytes = size - 1;
    while (bytes > 0 && ((unsigned char)from[bytes] & 0xc0) == 0x80) bytes--;
  }
  memcpy(to, from, bytes);
  to[bytes] = '\0';
}

static bool read_variable_text(hid_t id, hid_t type, struct favor_attribute *attribute) {
  char *text = NULL;
  if (H5Aread(id, type, &text) < 0) return false;
  copy_text(attribute->text, sizeof attribute->text, text ? text : "");
  H5free_memory(text);
  return true;
}

static bool read_fixed_text(hid_t id, hid_t type, struct favor_attribute *attribute) {
  size_t bytes = H5Tget_size(type);
  char *text = calloc(bytes + 1, 1); /* it need not end in a zero */
  bool is_read = text && H5Aread(id, type, text) >= 0;
  if (is_read) {
    if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) {
      while (bytes > 0 && text[bytes - 1] == ' ') text[--bytes] = '\0';
    }
    copy_text(attribute->text, sizeof attribute->text, text);
  }
  free(text);
  return is_read;
}

enum outcome { IS_READ, IS_OTHER, HAS_FAILED };

/* IS_OTHER: of a kind that struct favor_attribute cannot hold. */
static enum outcome read_attribute(hid_t id, struct favor_attribute *attribute) {
  hid_t space = H5Aget_space(id), type = H5Aget_type(id);
  H5T_class_t class = H5Sget_simple_extent_npoints(space) == 1 ? H5Tget_class(type) : H5T_NO_CLASS;
  bool is_read = false, is_other = false;
  if (class == H5T_STRING) {
    attribute->kind = FAVOR_ATTRIBUTE_TEXT;
    is_read =
        H5Tis_variable_str(type) > 0 ? read_variable_text(id, type, attribute) : read_fixed_text(id, type, attribute);
  } else if (class == H5T_INTEGER) {
    attribute->kind = FAVOR_ATTRIBUTE_INTEGER;
    is_read = H5Aread(id, H5T_NATIVE_INT64, &attribute->integer) >= 0;
  } else if (class == H5T_FLOAT) {
    attribute->kind = FAVOR_ATTRIBUTE_NUMBER;
    is_read = H5Aread(id, H5T_NATIVE_DOUBLE, &attribute->number) >= 0;
  } else {
    is_other = true;
  }
  hdf5_release(type);
  hdf5_release(space);
  return is_read ? IS_READ : is_other ? IS_OTHER : HAS_FAILED;
}

static bool grow(struct attribute_list *list) {
  if (list->n_attributes < list->n_allocated) return true;
  int64_t n = 2 * list->n_allocated + 16;
  struct favor_attribute *grown = realloc(list->attributes, (size_t)n * sizeof *grown);
  if (!grown) return false;
  list->attributes = grown;
  list->n_allocated = n;
  return true;
}

/* Called by H5Aiterate2; a negative result ends the iteration. */
static herr_t visit_attribute(hid_t location, const char *name, const H5A_info_t *info, void *data) {
  (void)info;
  struct attribute_list *list = data;
  if (!grow(list)) {
    dist_fail(list->context, FAVOR_ENOMEM, "no memory to read the attributes of %s", list->path);
    return -1;
  }
  struct favor_attribute *attribute = &list->attributes[list->n_attributes];
  memset(attribute, 0, sizeof *attribute);
  copy_text(attribute->name, sizeof attribute->name, name);
  hid_t id = H5Aopen(location, name, H5P_DEFAULT);
  enum outcome outcome = id >= 0 ? read_attribute(id, attribute) : HAS_FAILED;
  if (outcome == HAS_FAILED && !hdf5_fail_system(list->context, list->path))
    dist_fail(list->context, FAVOR_EDATA, "attribute %s of %s cannot be read", name, list->path);
  if (outcome == IS_READ) list->n_attributes++;
  hdf5_release(id);
  return outcome == HAS_FAILED ? -1 : 0;
}

/* Rank 0's part. */
static void find_attributes(struct attribute_list *list) {
  hid_t file = hdf5_open_file(list->context, list->path);
  if (file < 0) return;
  /* The question after a name that is not there decodes every attribute in turn. Where one is of a format that this
   * HDF5 does not know, it fails, but H5Aiterate2 of 1.10 releases a table that it has not filled, and crashes. */
  bool is_read =
      H5Aexists(file, "\001") >= 0 && H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, NULL, visit_attribute, list) >= 0;
  if (!is_read && !hdf5_fail_system(list->context, list->path))
    dist_fail(list->context, FAVOR_EDATA, "the attributes of %s cannot be read (%s)", list->path, hdf5_reason().text);
  hdf5_release(file);
}

enum favor_status favor_attributes_read(struct favor_context *context, const char *path, int *n_attributes,
                                        struct favor_attribute **attributes) {
  struct attribute_list list = {.context = context, .path = path};
  *n_attributes = 0;
  *attributes = NULL;
  if (context->rank == 0) {
    struct hdf5_quiet quiet;
    hdf5_quiet_begin(&quiet);
    find_attributes(&list);
    hdf5_quiet_end(&quiet);
    if (!list.attributes && !dist_has_failed(context) && !grow(&list))
      dist_fail(context, FAVOR_ENOMEM, "no memory to read the attributes of %s", path);
  }
  void *shared = list.attributes;
  enum favor_status status = dist_agree(context, DIST_SITE_DATA_READ, digest_of(path, ""), "file names");
  if (status == FAVOR_OK) status = dist_broadcast(context, &list.n_attributes, sizeof list.n_attributes);
  if (status != FAVOR_OK) {
    free(shared);
    return status;
  }
  status = share_values(context, (size_t)list.n_attributes * sizeof **attributes, &shared);
  if (status == FAVOR_OK) *n_attributes = (int)list.n_attributes;
  *attributes = shared;
  return status;
}

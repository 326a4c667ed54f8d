#define _GNU_SOURCE /* memfd_create */
#include "io/output_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dist/comm.h"
#include "io/checksum.h"
#include "io/hdf5.h"
#include "io/slab.h"
#include "io/sparse.h"

enum {
  /* Tensors start on pages, so that other programs can map them. */
  ALIGNMENT_BYTES = 4096,
  ALIGNMENT_THRESHOLD_BYTES = 64 * 1024
};

/* ---- refusing ---------------------------------------------------------------------------------------------------- */

enum favor_status output_layout_check_target(struct favor_context *context, const struct favor_output_spec *spec) {
  struct stat stat_link, stat_file;
  if (spec->path[0] == '\0') return dist_fail(context, FAVOR_ECREATE, "cannot create an output without a name");
  if (lstat(spec->path, &stat_link) != 0) return FAVOR_OK; /* absent, or a reason that creation will name */
  bool is_file = stat(spec->path, &stat_file) != 0 || S_ISREG(stat_file.st_mode); /* a dangling link is replaced */
  if (!is_file)
    return dist_fail(context, FAVOR_ECREATE, "cannot create %s: %s", spec->path,
                     S_ISDIR(stat_file.st_mode) ? "it is a directory" : "it exists and is not a regular file");
  if (!spec->is_overwrite)
    return dist_fail(context, FAVOR_ECREATE, "%s exists; give another name, or --overwrite to replace it", spec->path);
  return FAVOR_OK;
}

static int64_t small_bytes(const struct favor_output_small *small) {
  int64_t bytes = small->element == FAVOR_ELEMENT_FLOAT ? 4 : 8;
  for (int i = 0; i < small->n_dims; i++) {
    if (__builtin_mul_overflow(bytes, small->dims[i], &bytes)) return -1;
  }
  return bytes;
}

/* Can the bytes of all datasets be counted? */
static bool is_countable(const struct favor_output_spec *spec) {
  int64_t total = 0, bytes;
  for (int i = 0; i < spec->n_tensors; i++) {
    bytes = slab_dataset_bytes(&spec->tensors[i].shape);
    if (bytes < 0 || __builtin_add_overflow(total, bytes, &total)) return false;
  }
  for (int i = 0; i < spec->n_small; i++) {
    bytes = small_bytes(&spec->small[i]);
    if (bytes < 0 || __builtin_add_overflow(total, bytes, &total)) return false;
  }
  return true;
}

/* ---- layout by HDF5, in memory -----------------------------------------------------------------------------------
 *
 * HDF5 that cannot write its file cannot close it either, and then crashes when the program ends. So it lays out a file
 * in memory, whose holes cost nothing, and the few bytes that it wrote there are copied.
 */

/* A dataset without time stamps, so that equal outputs are equal files, made with the groups of its path. */
static hid_t create_dataset(hid_t file, const char *name, hid_t type, int n_dims, const int64_t *dims, bool is_early) {
  hsize_t extent[4];
  for (int i = 0; i < n_dims; i++) extent[i] = (hsize_t)dims[i];
  hid_t space = H5Screate_simple(n_dims, extent, NULL);
  hid_t links = H5Pcreate(H5P_LINK_CREATE), creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_create_intermediate_group(links, 1);
  H5Pset_char_encoding(links, H5T_CSET_UTF8);
  H5Pset_obj_track_times(creation, false);
  H5Pset_layout(creation, H5D_CONTIGUOUS);
  if (is_early) {
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  }
  hid_t dataset = H5Dcreate2(file, name, type, space, links, creation, H5P_DEFAULT);
  hdf5_release(creation);
  hdf5_release(links);
  hdf5_release(space);
  return dataset;
}

/* Of any object. */
static bool create_attribute(hid_t object, const struct favor_attribute *attribute) {
  const char *text = attribute->text;
  const void *data = &attribute->number;
  hid_t type = H5Tcopy(H5T_IEEE_F64LE), space = H5Screate(H5S_SCALAR);
  if (attribute->kind == FAVOR_ATTRIBUTE_INTEGER) {
    hdf5_release(type);
    type = H5Tcopy(H5T_STD_I64LE);
    data = &attribute->integer;
  } else if (attribute->kind == FAVOR_ATTRIBUTE_TEXT) { /* variable length: h5py then gives a str */
    hdf5_release(type);
    type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    data = &text;
  }
  hid_t id = H5Acreate2(object, attribute->name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  bool is_created = id >= 0 && H5Awrite(id, type, data) >= 0;
  hdf5_release(id);
  hdf5_release(space);
  hdf5_release(type);
  return is_created;
}

/* Space for raw data that is written later. */
static bool create_early(hid_t file, const char *name, hid_t type, int n_dims, const int64_t *dims, int64_t *offset) {
  hid_t dataset = create_dataset(file, name, type, n_dims, dims, true);
  haddr_t address = dataset >= 0 ? H5Dget_offset(dataset) : HADDR_UNDEF;
  bool is_empty = false;
  for (int i = 0; i < n_dims; i++) is_empty |= dims[i] == 0;
  *offset = address != HADDR_UNDEF ? (int64_t)address : 0;
  hdf5_release(dataset);
  return dataset >= 0 && (address != HADDR_UNDEF || is_empty);
}

static bool create_tensor(hid_t file, const struct favor_output_tensor *tensor, int64_t *offset) {
  int64_t dims[4];
  slab_dims(&tensor->shape, dims);
  hid_t type = hdf5_type_create(tensor->shape.type);
  bool is_created = create_early(file, tensor->name, type, tensor->shape.n_dims, dims, offset);
  hdf5_release(type);
  return is_created;
}

static bool create_small_checksum(hid_t dataset, const struct favor_output_small *small) {
  const uint64_t checksum = checksum_of(small->data, (size_t)small_bytes(small));
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t id = H5Acreate2(dataset, CHECKSUM_ATTRIBUTE, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  bool is_created = id >= 0 && H5Awrite(id, H5T_NATIVE_UINT64, &checksum) >= 0;
  hdf5_release(id);
  hdf5_release(space);
  return is_created;
}

static bool create_small(hid_t file, const struct favor_output_small *small) {
  const hid_t file_types[] = {[FAVOR_ELEMENT_INT64] = H5T_STD_I64LE,
                              [FAVOR_ELEMENT_FLOAT] = H5T_IEEE_F32LE,
                              [FAVOR_ELEMENT_DOUBLE] = H5T_IEEE_F64LE};
  hid_t type = file_types[small->element]; /* also the type in memory */
  hid_t dataset = create_dataset(file, small->name, type, small->n_dims, small->dims, false);
  bool is_created = dataset >= 0;
  if (is_created && small_bytes(small) > 0)
    is_created = H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, small->data) >= 0;
  is_created = is_created && create_small_checksum(dataset, small);
  hdf5_release(dataset);
  return is_created;
}

/* The place for a tensor's checksums, and how they are to be read. */
static bool create_sums(hid_t file, const struct favor_output_tensor *tensor, int64_t *offset) {
  const struct favor_tensor_shape *shape = &tensor->shape;
  const int shift = checksum_block_shift(shape->tokens);
  const int64_t dims[2] = {shape->batch * shape->heads, checksum_n_blocks(shape->tokens, shift)};
  struct favor_attribute attributes[] = {
      {.name = "algorithm", .kind = FAVOR_ATTRIBUTE_TEXT, .text = CHECKSUM_ALGORITHM},
      {.name = "block_tokens", .kind = FAVOR_ATTRIBUTE_INTEGER, .integer = INT64_C(1) << shift},
      {.name = "layout", .kind = FAVOR_ATTRIBUTE_TEXT},
  };
  snprintf(attributes[2].text, sizeof attributes[2].text, "%s", checksum_layout_name(shape->layout));
  char *name = checksum_name(tensor->name);
  bool is_created = name && create_early(file, name, H5T_STD_U64LE, 2, dims, offset);
  hid_t dataset = is_created ? H5Dopen2(file, name, H5P_DEFAULT) : H5I_INVALID_HID;
  for (size_t i = 0; i < sizeof attributes / sizeof *attributes && is_created; i++)
    is_created = create_attribute(dataset, &attributes[i]);
  hdf5_release(dataset);
  free(name);
  return is_created;
}

static hid_t create_file(const char *part) {
  hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_obj_track_times(creation, false);
  H5Pset_fapl_stdio(access); /* the default driver wants the real path of a file, and one in memory has none */
  H5Pset_alignment(access, ALIGNMENT_THRESHOLD_BYTES, ALIGNMENT_BYTES);
  hid_t file = H5Fcreate(part, H5F_ACC_TRUNC, creation, access);
  hdf5_release(access);
  hdf5_release(creation);
  return file;
}

static enum favor_status fail_layout(struct favor_context *context, const char *part, const char *name) {
  return dist_fail(context, FAVOR_ECREATE, "cannot create %s in %s (%s)", name, part, hdf5_reason().text);
}

/* What is small comes first, so that HDF5's structures lie together at the start of the file. */
static enum favor_status create_contents(struct favor_context *context, hid_t file,
                                         const struct favor_output_spec *spec, const char *part,
                                         struct output_place *places) {
  for (int i = 0; i < spec->n_attributes; i++) {
    if (!create_attribute(file, &spec->attributes[i])) return fail_layout(context, part, spec->attributes[i].name);
  }
  for (int i = 0; i < spec->n_small; i++) {
    if (!create_small(file, &spec->small[i])) return fail_layout(context, part, spec->small[i].name);
  }
  for (int i = 0; i < spec->n_tensors; i++) {
    const struct favor_output_tensor *tensor = &spec->tensors[i];
    if (!create_sums(file, tensor, &places[i].sums)) return fail_layout(context, part, "checksums");
  }
  for (int i = 0; i < spec->n_tensors; i++) {
    const struct favor_output_tensor *tensor = &spec->tensors[i];
    if (!create_tensor(file, tensor, &places[i].data)) return fail_layout(context, part, tensor->name);
  }
  return FAVOR_OK;
}

/* `image` is an empty file in memory. */
static enum favor_status lay_out(struct favor_context *context, const struct favor_output_spec *spec, const char *part,
                                 int image, struct output_place *places) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", image);
  hid_t file = create_file(name);
  if (file < 0) return fail_layout(context, part, "an HDF5 file");
  enum favor_status status = create_contents(context, file, spec, part, places);
  return H5Fclose(file) >= 0 ? status : fail_layout(context, part, "an HDF5 file");
}

enum favor_status output_layout_make(struct favor_context *context, const struct favor_output_spec *spec,
                                     const char *part, struct output_place *places, int *image) {
  if (!is_countable(spec)) return dist_fail(context, FAVOR_ECREATE, "%s would be too large", spec->path);
  *image = memfd_create("favor_layout", MFD_CLOEXEC);
  if (*image < 0) return dist_fail(context, FAVOR_ECREATE, "cannot lay out %s in memory: %s", part, strerror(errno));
  struct hdf5_quiet quiet;
  hdf5_quiet_begin(&quiet);
  enum favor_status status = lay_out(context, spec, part, *image, places);
  hdf5_quiet_end(&quiet);
  return status;
}

/* ---- other values ------------------------------------------------------------------------------------------------ */

/* A value of the same size in the place of the old one. */
static bool replace_attribute(hid_t file, const struct favor_attribute *attribute) {
  bool is_integer = attribute->kind == FAVOR_ATTRIBUTE_INTEGER;
  hid_t id = H5Aopen(file, attribute->name, H5P_DEFAULT), type = id >= 0 ? H5Aget_type(id) : H5I_INVALID_HID;
  bool is_same_kind = attribute->kind != FAVOR_ATTRIBUTE_TEXT && type >= 0 &&
                      H5Tequal(type, is_integer ? H5T_STD_I64LE : H5T_IEEE_F64LE) > 0;
  const void *data = is_integer ? (const void *)&attribute->integer : (const void *)&attribute->number;
  bool is_replaced = is_same_kind && H5Awrite(id, type, data) >= 0;
  hdf5_release(type);
  hdf5_release(id);
  return is_replaced;
}

/* `image` is a whole file in memory. */
static enum favor_status replace_attributes(struct favor_context *context, const struct favor_attribute *attributes,
                                            int n_attributes, const char *part, int image) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", image);
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fapl_stdio(access);
  hid_t file = H5Fopen(name, H5F_ACC_RDWR, access);
  hdf5_release(access);
  if (file < 0) return dist_fail(context, FAVOR_EIO, "cannot open the layout of %s (%s)", part, hdf5_reason().text);
  enum favor_status status = FAVOR_OK;
  for (int i = 0; i < n_attributes && status == FAVOR_OK; i++) {
    if (!replace_attribute(file, &attributes[i]))
      status =
          dist_fail(context, FAVOR_EUSAGE, "%s has no attribute %s of this kind to change", part, attributes[i].name);
  }
  if (H5Fclose(file) >= 0) return status;
  return dist_fail(context, FAVOR_EIO, "cannot close the layout of %s (%s)", part, hdf5_reason().text);
}

/* A copy of a file in memory with its holes; a descriptor, or -1 with errno. */
static int copy_image(int image, int64_t bytes) {
  int copy = memfd_create("favor_layout", MFD_CLOEXEC);
  int error = copy < 0 || ftruncate(copy, bytes) != 0 ? errno : sparse_copy(image, copy);
  if (error == 0) return copy;
  if (copy >= 0) close(copy);
  errno = error;
  return -1;
}

/* The image becomes `after`, and the file follows it; 0 or an errno. HDF5 that moved something would have changed the
 * size. */
static int follow(int after, int64_t bytes, int fd, int image) {
  struct stat stat;
  if (fstat(after, &stat) != 0) return errno;
  if (stat.st_size != bytes) return EIO;
  int error = sparse_write_changes(image, after, fd);
  if (error == 0) error = dup3(after, image, O_CLOEXEC) < 0 ? errno : 0;
  return error;
}

enum favor_status output_layout_set(struct favor_context *context, const struct favor_attribute *attributes,
                                    int n_attributes, const char *part, int fd, int image) {
  struct stat stat;
  int after = fstat(image, &stat) == 0 ? copy_image(image, stat.st_size) : -1;
  if (after < 0) return dist_fail(context, FAVOR_EIO, "cannot copy the layout of %s: %s", part, strerror(errno));
  struct hdf5_quiet quiet;
  hdf5_quiet_begin(&quiet);
  enum favor_status status = replace_attributes(context, attributes, n_attributes, part, after);
  hdf5_quiet_end(&quiet);
  int error = status == FAVOR_OK ? follow(after, stat.st_size, fd, image) : 0;
  if (error != 0) status = dist_fail(context, FAVOR_EIO, "writing attributes of %s failed: %s", part, strerror(error));
  close(after);
  return status;
}

enum favor_status output_layout_mask(struct favor_context *context, const struct favor_output_spec *spec,
                                     const char *part, int image, int *mask) {
  struct stat stat;
  struct hdf5_quiet quiet;
  enum favor_status status = FAVOR_OK;
  *mask = fstat(image, &stat) == 0 ? copy_image(image, stat.st_size) : -1;
  if (*mask < 0) return dist_fail(context, FAVOR_EIO, "cannot copy the layout of %s: %s", part, strerror(errno));
  hdf5_quiet_begin(&quiet);
  for (int i = 0; i < spec->n_attributes && status == FAVOR_OK; i++) {
    struct favor_attribute other = spec->attributes[i];
    if (other.kind != FAVOR_ATTRIBUTE_NUMBER || !isnan(other.number)) continue;
    uint64_t bits;
    memcpy(&bits, &other.number, sizeof bits);
    bits = ~bits;
    memcpy(&other.number, &bits, sizeof bits);
    status = replace_attributes(context, &other, 1, part, *mask);
  }
  hdf5_quiet_end(&quiet);
  return status;
}

#define _GNU_SOURCE /* fallocate, memfd_create */
#include "io/output_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dist/comm.h"
#include "io/hdf5.h"
#include "io/positioned.h"
#include "io/slab.h"

enum {
  /* Tensors start on pages, so that other programs can map them. */
  ALIGNMENT_BYTES = 4096,
  ALIGNMENT_THRESHOLD_BYTES = 64 * 1024,
  COPY_BYTES = 16 * 1024
};

/* ---- refusing ---------------------------------------------------------------------------------------------------- */

static enum favor_status check_target(struct favor_context *context, const struct favor_output_spec *spec) {
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

static enum favor_status fail_create(struct favor_context *context, const char *part, int error) {
  if (error == ENOENT) return dist_fail(context, FAVOR_ECREATE, "cannot create %s: its directory does not exist", part);
  return dist_fail(context, FAVOR_ECREATE, "cannot create %s: %s", part, strerror(error));
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

static bool create_tensor(hid_t file, const struct favor_output_tensor *tensor, int64_t *offset) {
  int64_t dims[4];
  slab_dims(&tensor->shape, dims);
  hid_t type = hdf5_type_create(tensor->shape.type);
  hid_t dataset = create_dataset(file, tensor->name, type, tensor->shape.n_dims, dims, true);
  haddr_t address = dataset >= 0 ? H5Dget_offset(dataset) : HADDR_UNDEF;
  bool is_created = dataset >= 0 && (address != HADDR_UNDEF || tensor->shape.tokens == 0);
  *offset = address != HADDR_UNDEF ? (int64_t)address : 0;
  hdf5_release(dataset);
  hdf5_release(type);
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
  hdf5_release(dataset);
  return is_created;
}

static bool create_attribute(hid_t file, const struct favor_attribute *attribute) {
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
  hid_t id = H5Acreate2(file, attribute->name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  bool is_created = id >= 0 && H5Awrite(id, type, data) >= 0;
  hdf5_release(id);
  hdf5_release(space);
  hdf5_release(type);
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
                                         const struct favor_output_spec *spec, const char *part, int64_t *offsets) {
  for (int i = 0; i < spec->n_attributes; i++) {
    if (!create_attribute(file, &spec->attributes[i])) return fail_layout(context, part, spec->attributes[i].name);
  }
  for (int i = 0; i < spec->n_small; i++) {
    if (!create_small(file, &spec->small[i])) return fail_layout(context, part, spec->small[i].name);
  }
  for (int i = 0; i < spec->n_tensors; i++) {
    if (!create_tensor(file, &spec->tensors[i], &offsets[i])) return fail_layout(context, part, spec->tensors[i].name);
  }
  return FAVOR_OK;
}

/* `image` is an empty file in memory. */
static enum favor_status lay_out(struct favor_context *context, const struct favor_output_spec *spec, const char *part,
                                 int image, int64_t *offsets) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", image);
  hid_t file = create_file(name);
  if (file < 0) return fail_layout(context, part, "an HDF5 file");
  enum favor_status status = create_contents(context, file, spec, part, offsets);
  return H5Fclose(file) >= 0 ? status : fail_layout(context, part, "an HDF5 file");
}

/* ---- the file on disk -------------------------------------------------------------------------------------------- */

/* Free bytes of the file system for this user, -1 where unknown (some network file systems have no size). */
static int64_t free_bytes(int fd) {
  struct statvfs fs;
  return fstatvfs(fd, &fs) == 0 && fs.f_blocks > 0 ? (int64_t)(fs.f_bavail * fs.f_frsize) : -1;
}

/* Gives the file its size and reserves its space; 0 or an errno. Where the file system cannot reserve, enough free
 * space must do: posix_fallocate would instead write to every block, which on a network takes as long as the output. */
static int reserve(int fd, int64_t bytes) {
  int error;
  do {
    error = fallocate(fd, 0, 0, bytes) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error != EOPNOTSUPP && error != ENOSYS) return error;
  int64_t available = free_bytes(fd);
  if (available >= 0 && available < bytes) return ENOSPC;
  return ftruncate(fd, bytes) == 0 ? 0 : errno;
}

static enum favor_status fail_space(struct favor_context *context, const char *path, int fd, int64_t bytes, int error) {
  if (error == ENOSPC)
    return dist_fail(context, FAVOR_ECREATE, "no space for %s: needs %lld bytes, %lld are free", path, (long long)bytes,
                     (long long)free_bytes(fd));
  return dist_fail(context, FAVOR_ECREATE, "no space for %s: needs %lld bytes: %s", path, (long long)bytes,
                   strerror(error));
}

static int copy_range(int from, int to, int64_t begin, int64_t end) {
  char buffer[COPY_BYTES];
  int error = 0;
  for (int64_t at = begin; at < end && error == 0; at += COPY_BYTES) {
    size_t bytes = (size_t)(end - at < COPY_BYTES ? end - at : COPY_BYTES);
    error = positioned_read(from, buffer, bytes, at);
    if (error == 0) error = positioned_write(to, buffer, bytes, at);
  }
  return error;
}

/* Hands every stretch of `file` that is not a hole to `take`; 0 or an errno. */
static int for_each_stretch(int file, int (*take)(void *self, int64_t begin, int64_t end), void *self) {
  int64_t begin, end = 0;
  while ((begin = lseek(file, end, SEEK_DATA)) >= 0) {
    end = lseek(file, begin, SEEK_HOLE); /* the end of the file is a hole */
    int error = end < 0 ? errno : take(self, begin, end);
    if (error != 0) return error;
  }
  return errno == ENXIO ? 0 : errno;
}

struct copy {
  int from, to;
};

static int copy_stretch(void *self, int64_t begin, int64_t end) {
  const struct copy *copy = self;
  return copy_range(copy->from, copy->to, begin, end);
}

/* Copies all but the holes; 0 or an errno. */
static int copy_data(int from, int to) { return for_each_stretch(from, copy_stretch, &(struct copy){from, to}); }

static enum favor_status create_part(struct favor_context *context, const char *path, const char *part, int image) {
  struct stat stat;
  if (fstat(image, &stat) != 0) return fail_create(context, part, errno);
  unlink(part); /* what a killed run may have left; where that fails, so does the next line */
  int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return fail_create(context, part, errno);
  enum favor_status status = FAVOR_OK;
  int error = reserve(fd, stat.st_size);
  if (error != 0) status = fail_space(context, path, fd, stat.st_size, error);
  if (error == 0) error = copy_data(image, fd);
  if (close(fd) != 0 && error == 0) error = errno;
  if (error != 0 && status == FAVOR_OK) status = fail_create(context, part, error);
  if (status != FAVOR_OK) unlink(part);
  return status;
}

enum favor_status output_layout_create(struct favor_context *context, const struct favor_output_spec *spec,
                                       const char *part, int64_t *offsets, int *image) {
  enum favor_status status = check_target(context, spec);
  if (status != FAVOR_OK) return status;
  if (!is_countable(spec)) return dist_fail(context, FAVOR_ECREATE, "%s would be too large", spec->path);
  *image = memfd_create("favor_layout", MFD_CLOEXEC);
  if (*image < 0) return fail_create(context, part, errno);
  struct hdf5_quiet quiet;
  hdf5_quiet_begin(&quiet);
  status = lay_out(context, spec, part, *image, offsets);
  hdf5_quiet_end(&quiet);
  return status == FAVOR_OK ? create_part(context, spec->path, part, *image) : status;
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

struct change {
  int before, after, file;
};

/* Writes to the file what differs between before and after. */
static int write_changes(void *self, int64_t begin, int64_t end) {
  const struct change *change = self;
  char before[COPY_BYTES], after[COPY_BYTES];
  int error = 0;
  for (int64_t at = begin; at < end && error == 0; at += COPY_BYTES) {
    size_t bytes = (size_t)(end - at < COPY_BYTES ? end - at : COPY_BYTES), first = 0;
    error = positioned_read(change->before, before, bytes, at);
    if (error == 0) error = positioned_read(change->after, after, bytes, at);
    while (first < bytes && error == 0) {
      while (first < bytes && before[first] == after[first]) first++;
      size_t last = first;
      while (last < bytes && before[last] != after[last]) last++;
      if (last > first) error = positioned_write(change->file, after + first, last - first, at + (int64_t)first);
      first = last;
    }
  }
  return error;
}

/* A copy of a file in memory with its holes; a descriptor, or -1 with errno. */
static int copy_image(int image, int64_t bytes) {
  int copy = memfd_create("favor_layout", MFD_CLOEXEC);
  int error = copy < 0 || ftruncate(copy, bytes) != 0 ? errno : copy_data(image, copy);
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
  int error = for_each_stretch(after, write_changes, &(struct change){image, after, fd});
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

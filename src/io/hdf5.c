#include "io/hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dist/comm.h"
#include "io/output_part.h"

enum { MAX_LISTED_OBJECTS = 16 };

void hdf5_quiet_begin(struct hdf5_quiet *quiet) {
  H5Eget_auto2(H5E_DEFAULT, &quiet->print, &quiet->data);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void hdf5_quiet_end(const struct hdf5_quiet *quiet) { H5Eset_auto2(H5E_DEFAULT, quiet->print, quiet->data); }

/* Of HDF5's long text about a system call that failed, what the system said. False where it is about something else. */
static bool cut_to_system_error(char *text) {
  static const char before[] = "error message = '";
  char *begin = strstr(text, before), *end = begin ? strchr(begin + strlen(before), '\'') : NULL;
  if (!end) return false;
  *end = '\0';
  memmove(text, begin + strlen(before), strlen(begin + strlen(before)) + 1);
  return true;
}

/* H5E_WALK_UPWARD comes by the innermost error first; its text names the cause. */
static herr_t note_error(unsigned n, const H5E_error2_t *error, void *data) {
  struct hdf5_reason *reason = data;
  if (n == 0 && error->desc) snprintf(reason->text, sizeof reason->text, "%s", error->desc);
  reason->is_foreign |= error->min_num == H5E_NOTHDF5;
  reason->is_truncated |= error->min_num == H5E_TRUNCATED;
  reason->is_filter |= error->maj_num == H5E_PLINE;
  return 0;
}

struct hdf5_reason hdf5_reason(void) {
  struct hdf5_reason reason = {.text = "no reason given"};
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note_error, &reason);
  for (char *c = reason.text; *c; c++) {
    if (*c == '\n') *c = ' ';
  }
  reason.is_system = cut_to_system_error(reason.text);
  return reason;
}

bool hdf5_fail_system(struct favor_context *context, const char *path) {
  struct hdf5_reason reason = hdf5_reason();
  if (reason.is_system) dist_fail(context, FAVOR_EIO, "reading %s failed: %s", path, reason.text);
  return reason.is_system;
}

/* Every call of HDF5 forgets why the last one failed; here that is kept. */
void hdf5_release(hid_t id) {
  if (id < 0) return;
  hid_t errors = H5Eget_current_stack();
  H5Idec_ref(id);
  H5Eset_current_stack(errors);
}

/* Opens the file once without HDF5, whose errors say less about missing files and permissions. */
static bool can_open(struct favor_context *context, const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    dist_fail(context, FAVOR_EIO, "cannot open %s: %s", path, strerror(errno));
    return false;
  }
  struct stat stat;
  int error = fstat(fd, &stat) == 0 ? 0 : errno;
  close(fd);
  if (error != 0)
    dist_fail(context, FAVOR_EIO, "cannot open %s: %s", path, strerror(error));
  else if (S_ISDIR(stat.st_mode))
    dist_fail(context, FAVOR_EIO, "cannot open %s: it is a directory", path);
  else if (S_ISREG(stat.st_mode) && stat.st_size == 0)
    dist_fail(context, FAVOR_EDATA, "%s is empty", path);
  else
    return true;
  return false;
}

/* A temporary of ours has a lock of ours, which HDF5's own would meet on NFS: there flock is fcntl. */
static hid_t open_unlocked(const char *path) {
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_file_locking(access, false, true);
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
  hdf5_release(access);
  return file;
}

static bool is_part(const char *path) {
  const size_t bytes = strlen(path), suffix_bytes = strlen(FAVOR_OUTPUT_PART_SUFFIX);
  return bytes > suffix_bytes && strcmp(path + bytes - suffix_bytes, FAVOR_OUTPUT_PART_SUFFIX) == 0;
}

hid_t hdf5_open_file(struct favor_context *context, const char *path) {
  if (!can_open(context, path)) return H5I_INVALID_HID;
  hid_t file = is_part(path) ? open_unlocked(path) : H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file >= 0 || hdf5_fail_system(context, path)) return file;
  struct hdf5_reason reason = hdf5_reason();
  if (reason.is_foreign)
    dist_fail(context, FAVOR_EDATA, "%s is not an HDF5 file", path);
  else if (reason.is_truncated)
    dist_fail(context, FAVOR_EDATA, "%s is truncated, copy or make it again (%s)", path, reason.text);
  else
    dist_fail(context, FAVOR_EDATA, "%s cannot be read, it may be damaged or still be written (%s)", path, reason.text);
  return H5I_INVALID_HID;
}

bool hdf5_has_object(hid_t file, const char *name) {
  return name[0] != '\0' && H5Oexists_by_name(file, name, H5P_DEFAULT) > 0; /* negative where a group is missing */
}

/* The names in the root group, "q, k, v". */
static void list_objects(hid_t file, char *text, size_t size) {
  H5G_info_t info;
  size_t used = 0;
  snprintf(text, size, "nothing");
  if (H5Gget_info(file, &info) < 0) return;
  for (hsize_t i = 0; i < info.nlinks && used + 1 < size; i++) {
    char name[64];
    if (i == MAX_LISTED_OBJECTS) {
      snprintf(text + used, size - used, ", ...");
      return;
    }
    if (H5Lget_name_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT) < 0) return;
    int n = snprintf(text + used, size - used, "%s%s", i == 0 ? "" : ", ", name);
    used += n > 0 ? (size_t)n : 0;
  }
}

hid_t hdf5_open_dataset(struct favor_context *context, hid_t file, const char *path, const char *name) {
  if (!hdf5_has_object(file, name)) {
    if (hdf5_fail_system(context, path)) return H5I_INVALID_HID;
    char objects[512];
    list_objects(file, objects, sizeof objects);
    dist_fail(context, FAVOR_EDATA, "%s has no dataset %s; it has %s", path, name, objects);
    return H5I_INVALID_HID;
  }
  hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  if (dataset < 0 && !hdf5_fail_system(context, path))
    dist_fail(context, FAVOR_EDATA, "%s of %s cannot be read as a dataset (%s)", name, path, hdf5_reason().text);
  return dataset;
}

int hdf5_dims(struct favor_context *context, hid_t dataset, const char *path, const char *name, int max_dims,
              int64_t *dims) {
  hsize_t extent[H5S_MAX_RANK];
  hid_t space = H5Dget_space(dataset);
  bool has_extent = space >= 0 && H5Sget_simple_extent_type(space) != H5S_NULL;
  int n_dims = has_extent ? H5Sget_simple_extent_dims(space, extent, NULL) : -1;
  hdf5_release(space);
  if (n_dims < 0) {
    dist_fail(context, FAVOR_EDATA, "dataset %s of %s has no extent", name, path);
    return -1;
  }
  if (n_dims > max_dims) {
    dist_fail(context, FAVOR_EDATA, "dataset %s of %s has %d dimensions, at most %d are understood", name, path, n_dims,
              max_dims);
    return -1;
  }
  for (int i = 0; i < n_dims; i++) {
    if (extent[i] > INT64_MAX) {
      dist_fail(context, FAVOR_EDATA, "dataset %s of %s is too large", name, path);
      return -1;
    }
    dims[i] = (int64_t)extent[i];
  }
  return n_dims;
}

/* The layouts of our types, as H5Tset_fields takes them. */
static const struct fields {
  size_t sign, exponent, exponent_bits, mantissa, mantissa_bits, bias;
} fields_of[] = {
    [FAVOR_FLOAT16] = {15, 10, 5, 0, 10, 15},
    [FAVOR_BFLOAT16] = {15, 7, 8, 0, 7, 127},
    [FAVOR_FLOAT32] = {31, 23, 8, 0, 23, 127},
    [FAVOR_FLOAT64] = {63, 52, 11, 0, 52, 1023},
};

bool hdf5_type_find(hid_t id, enum favor_type *type) {
  if (H5Tget_class(id) != H5T_FLOAT) return false;
  struct fields f;
  if (H5Tget_fields(id, &f.sign, &f.exponent, &f.exponent_bits, &f.mantissa, &f.mantissa_bits) < 0) return false;
  f.bias = H5Tget_ebias(id);
  size_t bytes = H5Tget_size(id);
  H5T_order_t order = H5Tget_order(id);
  if (order != H5T_ORDER_LE && order != H5T_ORDER_BE) return false;
  if (H5Tget_norm(id) != H5T_NORM_IMPLIED || H5Tget_precision(id) != 8 * bytes || H5Tget_offset(id) != 0) return false;
  for (int i = FAVOR_FLOAT16; i <= FAVOR_FLOAT64; i++) {
    if (favor_type_bytes((enum favor_type)i) == bytes && memcmp(&fields_of[i], &f, sizeof f) == 0) {
      *type = (enum favor_type)i;
      return true;
    }
  }
  return false;
}

hid_t hdf5_type_create(enum favor_type type) {
  if (type == FAVOR_FLOAT64) return H5Tcopy(H5T_IEEE_F64LE);
  hid_t id = H5Tcopy(H5T_IEEE_F32LE);
  if (type == FAVOR_FLOAT32 || id < 0) return id;
  const struct fields *f = &fields_of[type];
  /* The fields first: the size can shrink only to what they leave free. */
  if (H5Tset_fields(id, f->sign, f->exponent, f->exponent_bits, f->mantissa, f->mantissa_bits) >= 0 &&
      H5Tset_size(id, favor_type_bytes(type)) >= 0 && H5Tset_ebias(id, f->bias) >= 0)
    return id;
  hdf5_release(id);
  return H5I_INVALID_HID;
}

hid_t hdf5_type_native_order(hid_t id) {
  hid_t copy = H5Tcopy(id);
  if (copy >= 0 && H5Tset_order(copy, H5T_ORDER_LE) >= 0) return copy;
  hdf5_release(copy);
  return H5I_INVALID_HID;
}

void hdf5_type_describe(hid_t id, char *text, size_t size) {
  static const char *const names[H5T_NCLASSES] = {
      [H5T_TIME] = "a time",         [H5T_STRING] = "text",          [H5T_BITFIELD] = "a bit field",
      [H5T_OPAQUE] = "opaque bytes", [H5T_COMPOUND] = "a compound",  [H5T_REFERENCE] = "a reference",
      [H5T_ENUM] = "an enumeration", [H5T_VLEN] = "variable-length", [H5T_ARRAY] = "an array",
  };
  H5T_class_t class = H5Tget_class(id);
  size_t bits = 8 * H5Tget_size(id);
  if (class == H5T_INTEGER)
    snprintf(text, size, "%s %zu-bit integer", H5Tget_sign(id) == H5T_SGN_NONE ? "an unsigned" : "a", bits);
  else if (class == H5T_FLOAT)
    snprintf(text, size, "a %zu-bit floating-point number of another format", bits);
  else
    snprintf(text, size, "%s", class >= 0 && class < H5T_NCLASSES && names[class] ? names[class] : "unknown");
}

bool hdf5_read_slab(hid_t dataset, hid_t memory_type, hid_t transfer, const struct favor_tensor_shape *shape,
                    const struct slab *slab, void *buffer) {
  int64_t start[4] = {0}, count[4] = {1, 1, 1, 1};
  hsize_t h5_start[4], h5_count[4];
  if (slab) slab_hyperslab(shape, slab, start, count);
  for (int i = 0; i < shape->n_dims; i++) {
    h5_start[i] = (hsize_t)start[i];
    h5_count[i] = (hsize_t)count[i];
  }
  hid_t file_space = H5Dget_space(dataset);
  hid_t memory_space = H5Screate_simple(shape->n_dims, h5_count, NULL);
  bool is_selected = slab ? H5Sselect_hyperslab(file_space, H5S_SELECT_SET, h5_start, NULL, h5_count, NULL) >= 0
                          : H5Sselect_none(file_space) >= 0 && H5Sselect_none(memory_space) >= 0;
  bool is_read = is_selected && H5Dread(dataset, memory_type, memory_space, file_space, transfer, buffer) >= 0;
  hdf5_release(memory_space);
  hdf5_release(file_space);
  return is_read;
}

enum favor_status hdf5_status_read(struct status *status, const char *path, const char *name) {
  struct hdf5_reason reason = hdf5_reason();
  if (reason.is_filter)
    return status_set(status, FAVOR_EDATA, "compressed dataset %s of %s cannot be decoded (%s)", name, path,
                      reason.text);
  return status_set(status, FAVOR_EIO, "dataset %s of %s cannot be read (%s)", name, path, reason.text);
}

enum favor_status hdf5_fail_read(struct favor_context *context, const char *path, const char *name) {
  struct status status = {0};
  hdf5_status_read(&status, path, name);
  return dist_fail_status(context, &status);
}

const char *favor_hdf5_version(void) {
  static char text[32]; /* the same text whoever writes it */
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  snprintf(text, sizeof text, "%u.%u.%u", major, minor, release);
  return text;
}

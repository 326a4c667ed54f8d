/* What the tests of files share: a scratch directory, tensors of known values, and HDF5 files written and read with the
 * HDF5 library alone, so that the code under test is not its own oracle. */
#ifndef FAVOR_TESTS_IO_FILES_H
#define FAVOR_TESTS_IO_FILES_H

#include "support/mpi_cmocka.h"

#include <dirent.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <favor/favor_io.h>

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

struct scratch {
  struct favor_context *context;
  char directory[256];
};

/* Collective. */
static inline void scratch_begin(struct scratch *scratch) {
  const char *parent = getenv("TMPDIR");
  snprintf(scratch->directory, sizeof scratch->directory, "%s/favor_io_XXXXXX", parent ? parent : "/tmp");
  bool is_made = mpi_rank() != 0 || mkdtemp(scratch->directory) != NULL;
  assert_all(is_made);
  MPI_Bcast(scratch->directory, sizeof scratch->directory, MPI_CHAR, 0, MPI_COMM_WORLD);
  assert_all(favor_context_create(MPI_COMM_WORLD, &scratch->context) == FAVOR_OK);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* A path in the directory. The text is valid until the fourth call from now. */
static inline const char *scratch_path(const struct scratch *scratch, const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", scratch->directory, name);
  return path;
}

static inline bool file_exists(const char *path) {
  struct stat stat_file;
  return lstat(path, &stat_file) == 0;
}

static inline int64_t file_bytes(const char *path) {
  struct stat stat_file;
  return stat(path, &stat_file) == 0 ? stat_file.st_size : -1;
}

/* The number of files in the directory; optionally removes them. */
static inline int scratch_visit(const struct scratch *scratch, bool is_removing) {
  int n = 0;
  DIR *directory = opendir(scratch->directory);
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    n++;
    if (is_removing) remove(scratch_path(scratch, entry->d_name));
  }
  if (directory) closedir(directory);
  return n;
}

/* Collective: the number of files, after all that ranks did before and before all that they do next. */
static inline int scratch_count(const struct scratch *scratch) {
  MPI_Barrier(MPI_COMM_WORLD);
  int n = scratch_visit(scratch, false);
  MPI_Barrier(MPI_COMM_WORLD);
  return n;
}

/* Collective. */
static inline void scratch_end(struct scratch *scratch) {
  MPI_Barrier(MPI_COMM_WORLD);
  if (mpi_rank() == 0) {
    scratch_visit(scratch, true);
    rmdir(scratch->directory);
  }
  favor_context_destroy(&scratch->context);
}

/* Collective: the last agreed error is this code, and its text holds this. */
#define assert_refused(scratch, status, code, words)                                                                   \
  do {                                                                                                                 \
    if (mpi_rank() == 0 && ((status) != (code) || !strstr(favor_context_message((scratch)->context), (words))))        \
      print_error("got %s \"%s\", wanted %s \"%s\"\n", favor_status_name(status),                                      \
                  favor_context_message((scratch)->context), favor_status_name(code), (words));                        \
    assert_all((status) == (code) && strstr(favor_context_message((scratch)->context), (words)) != NULL);              \
  } while (0)

/* ---- tensors of known values ------------------------------------------------------------------------------------- */

/* Element (flat head, token, column) of every tensor: a multiple of 1/16 below 8, which every type holds exactly. */
static inline double value_at(const struct favor_tensor_shape *shape, int64_t head, int64_t token, int64_t column) {
  uint64_t x = (uint64_t)((head * shape->tokens + token) * shape->width + column);
  x = (x + 1) * UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
  return ((double)(x >> 40 & 0xff) - 128) / 16;
}

/* Where that element stands in the dataset, in elements, by the definition of the layouts (favor_io.h). */
static inline int64_t index_in_file(const struct favor_tensor_shape *s, int64_t head, int64_t token, int64_t column) {
  int64_t b = head / s->heads, h = head % s->heads;
  if (s->layout == FAVOR_TOKENS_FIRST) return (((b * s->tokens + token) * s->heads) + h) * s->width + column;
  return (((b * s->heads + h) * s->tokens) + token) * s->width + column;
}

static inline int64_t n_elements(const struct favor_tensor_shape *s) {
  return s->batch * s->heads * s->tokens * s->width;
}

static inline int dims_in_file(const struct favor_tensor_shape *s, hsize_t *dims) {
  bool is_tokens_first = s->layout == FAVOR_TOKENS_FIRST;
  const int64_t all[4] = {s->batch, is_tokens_first ? s->tokens : s->heads, is_tokens_first ? s->heads : s->tokens,
                          s->width};
  const int64_t two[2] = {s->tokens, s->width};
  const int64_t *from = s->n_dims == 2 ? two : all + 4 - s->n_dims;
  for (int i = 0; i < s->n_dims; i++) dims[i] = (hsize_t)from[i];
  return s->n_dims;
}

/* ---- files by HDF5 alone ----------------------------------------------------------------------------------------- */

static inline hid_t sixteen_bits(size_t exponent_bits, size_t bias) {
  hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(type, 15, 15 - exponent_bits, exponent_bits, 0, 15 - exponent_bits);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, bias);
  return type;
}

static inline hid_t file_type(enum favor_type type, bool is_big_endian) {
  hid_t id = type == FAVOR_FLOAT16    ? sixteen_bits(5, 15)
             : type == FAVOR_BFLOAT16 ? sixteen_bits(8, 127)
             : type == FAVOR_FLOAT32  ? H5Tcopy(H5T_IEEE_F32LE)
                                      : H5Tcopy(H5T_IEEE_F64LE);
  if (is_big_endian) H5Tset_order(id, H5T_ORDER_BE);
  return id;
}

/* The tensor in the order of the file. */
static inline double *tensor_values(const struct favor_tensor_shape *s) {
  double *values = malloc((size_t)n_elements(s) * sizeof *values);
  for (int64_t head = 0; head < s->batch * s->heads; head++) {
    for (int64_t token = 0; token < s->tokens; token++) {
      for (int64_t c = 0; c < s->width; c++) values[index_in_file(s, head, token, c)] = value_at(s, head, token, c);
    }
  }
  return values;
}

/* One rank. Writes the known values as dataset `name` of a file made anew, with these creation properties. */
static inline bool write_tensor(const char *path, const char *name, const struct favor_tensor_shape *shape,
                                bool is_big_endian, hid_t creation) {
  hsize_t dims[4];
  int n_dims = dims_in_file(shape, dims);
  double *values = tensor_values(shape);
  hid_t type = file_type(shape->type, is_big_endian);
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), space = H5Screate_simple(n_dims, dims, NULL);
  hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  bool is_written = H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  H5Dclose(dataset);
  H5Sclose(space);
  H5Tclose(type);
  free(values);
  return H5Fclose(file) >= 0 && is_written;
}

/* One rank. Does the dataset hold the known values, by HDF5's own reading? */
static inline bool holds_values(const char *path, const char *name, const struct favor_tensor_shape *shape) {
  int64_t n = n_elements(shape);
  double *expected = tensor_values(shape), *found = calloc((size_t)n + 1, sizeof *found);
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), dataset = H5Dopen2(file, name, H5P_DEFAULT);
  hid_t space = H5Dget_space(dataset);
  hsize_t dims[4], found_dims[4];
  int n_dims = dims_in_file(shape, dims);
  bool is_right = H5Sget_simple_extent_ndims(space) == n_dims &&
                  H5Sget_simple_extent_dims(space, found_dims, NULL) >= 0 &&
                  memcmp(dims, found_dims, (size_t)n_dims * sizeof *dims) == 0 &&
                  H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, found) >= 0 &&
                  memcmp(expected, found, (size_t)n * sizeof *found) == 0;
  H5Sclose(space);
  H5Dclose(dataset);
  H5Fclose(file);
  free(expected);
  free(found);
  return is_right;
}

/* Chunks of several heads that divide no dimension. */
static inline hid_t chunked(const struct favor_tensor_shape *shape, bool is_compressed) {
  const hsize_t heads_first[4] = {2, 3, 10, 4}, tokens_first[4] = {2, 10, 3, 4}, flat[2] = {10, 4};
  const hsize_t *chunk = shape->layout == FAVOR_TOKENS_FIRST ? tokens_first : heads_first;
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(creation, shape->n_dims, shape->n_dims == 2 ? flat : chunk + 4 - shape->n_dims);
  if (is_compressed) H5Pset_shuffle(creation);
  if (is_compressed) H5Pset_deflate(creation, 4);
  return creation;
}

enum storage { CONTIGUOUS, BIG_ENDIAN_ORDER, CHUNKED, COMPRESSED, COMPACT, N_STORAGES };

/* One rank. The known values in one of the ways in which HDF5 stores them. */
static inline bool write_stored(const char *path, const struct favor_tensor_shape *shape, enum storage storage) {
  hid_t creation = storage == CHUNKED || storage == COMPRESSED ? chunked(shape, storage == COMPRESSED)
                                                               : H5Pcreate(H5P_DATASET_CREATE);
  if (storage == COMPACT) H5Pset_layout(creation, H5D_COMPACT);
  bool is_written = write_tensor(path, "q", shape, storage == BIG_ENDIAN_ORDER, creation);
  H5Pclose(creation);
  return is_written;
}

/* Collective: HDF5 refuses to make a file anew while a rank has it open. */
static inline void close_everywhere(struct favor_tensor **tensor) {
  favor_tensor_close(tensor);
  MPI_Barrier(MPI_COMM_WORLD);
}

/* On this rank: a compressed file whose first chunk is damaged. False: it could not be made so. */
static inline bool write_damaged(const char *path, const struct favor_tensor_shape *shape) {
  static const unsigned char zeros[64];
  haddr_t address;
  hsize_t chunk_bytes, offset[4] = {0};
  if (!write_stored(path, shape, COMPRESSED)) return false;
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), dataset = H5Dopen2(file, "q", H5P_DEFAULT);
  H5Dget_chunk_info_by_coord(dataset, offset, NULL, &address, &chunk_bytes);
  H5Dclose(dataset);
  H5Fclose(file);
  int fd = open(path, O_WRONLY);
  return chunk_bytes > 64 && pwrite(fd, zeros, 64, (off_t)address) == 64 && close(fd) == 0;
}

/* ---- slabs in memory --------------------------------------------------------------------------------------------- */

static inline size_t precision_bytes(enum favor_precision precision) {
  return precision == FAVOR_PRECISION_F64 ? sizeof(double) : sizeof(float);
}

static inline double element(const void *data, enum favor_precision precision, int64_t i) {
  return precision == FAVOR_PRECISION_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

/* The known values of heads [h0, h1) and tokens [t0, t1) as [heads][tokens][width]. */
static inline void *slab_values(const struct favor_tensor_shape *s, int64_t h0, int64_t h1, int64_t t0, int64_t t1,
                                enum favor_precision precision) {
  void *data = malloc((size_t)((h1 - h0) * (t1 - t0) * s->width) * precision_bytes(precision) + 1);
  int64_t i = 0;
  for (int64_t head = h0; head < h1; head++) {
    for (int64_t token = t0; token < t1; token++) {
      for (int64_t column = 0; column < s->width; column++, i++) {
        double value = value_at(s, head, token, column);
        if (precision == FAVOR_PRECISION_F64)
          ((double *)data)[i] = value;
        else
          ((float *)data)[i] = (float)value;
      }
    }
  }
  return data;
}

/* Reads a slab and compares it; nothing beyond its end is touched. */
static inline bool reads_right(struct favor_tensor *tensor, int64_t h0, int64_t h1, int64_t t0, int64_t t1,
                               enum favor_precision precision) {
  struct favor_tensor_shape shape;
  favor_tensor_shape(tensor, &shape);
  size_t bytes = (size_t)((h1 - h0) * (t1 - t0) * shape.width) * precision_bytes(precision);
  void *expected = slab_values(&shape, h0, h1, t0, t1, precision);
  unsigned char *found = malloc(bytes + 1);
  memset(found, 0xa5, bytes + 1);
  bool is_right = favor_tensor_read(tensor, h0, h1, t0, t1, precision, found) == FAVOR_OK &&
                  memcmp(found, expected, bytes) == 0 && found[bytes] == 0xa5;
  free(expected);
  free(found);
  return is_right;
}

/* This rank's part of n. */
static inline int64_t part_begin(int64_t n) { return n * mpi_rank() / mpi_size(); }
static inline int64_t part_end(int64_t n) { return n * (mpi_rank() + 1) / mpi_size(); }

#endif

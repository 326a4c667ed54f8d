#include "hdf5_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct float_format float_formats[4] = {{2, 5, 10, 15}, {2, 8, 7, 127}, {4, 8, 23, 127}, {8, 11, 52, 1023}};

const char *const made_names[MADE_N_NAMES] = {
    [MADE_Q] = "q",
    [MADE_K] = "k",
    [MADE_V] = "v",
    [MADE_SEGMENTS] = "segments",
    [MADE_PROJECTION] = "projection",
    [MADE_KEY_SHIFT] = "estimates/key_shift",
};

unsigned choose(struct choices *choices, unsigned n) {
  if (choices->n_bytes == 0) return 0;
  choices->n_bytes--;
  return *choices->bytes++ % n;
}

/* One time in 16; never when the bytes have run out. */
static bool is_rare(struct choices *choices) { return choose(choices, 16) == 15; }

double made_value(const struct made *made, int64_t i) {
  const struct float_format *f = &float_formats[made->format];
  const uint8_t *bytes = made->bytes ? made->bytes + i * (int64_t)f->n_bytes : made->fill;
  uint64_t bits = 0;
  for (unsigned b = 0; b < f->n_bytes; b++) bits = bits << 8 | bytes[made->is_big_endian ? b : f->n_bytes - 1 - b];
  uint64_t mantissa = bits & ((UINT64_C(1) << f->mantissa_bits) - 1);
  int exponent = (int)(bits >> f->mantissa_bits & ((UINT64_C(1) << f->exponent_bits) - 1));
  double sign = bits >> (8 * f->n_bytes - 1) ? -1 : 1, fraction = ldexp((double)mantissa, -(int)f->mantissa_bits);
  if (exponent == (1 << f->exponent_bits) - 1) return mantissa ? (double)NAN : sign * (double)INFINITY;
  return sign * (exponent == 0 ? ldexp(fraction, 1 - f->bias) : ldexp(1 + fraction, exponent - f->bias));
}

/* ---- types ------------------------------------------------------------------------------------------------------- */

static hid_t type_of_format(int format) {
  const struct float_format *f = &float_formats[format];
  hid_t type = H5Tcopy(f->n_bytes == 8 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE);
  H5Tset_fields(type, 8 * f->n_bytes - 1, f->mantissa_bits, f->exponent_bits, 0, f->mantissa_bits);
  H5Tset_size(type, f->n_bytes);
  H5Tset_ebias(type, (size_t)f->bias);
  return type;
}

/* A floating-point type that differs from ours in one thing. */
static hid_t odd_float(struct choices *choices) {
  hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  switch (choose(choices, 9)) {
  case 0:
    H5Tset_ebias(type, 126);
    break;
  case 1:
    H5Tset_size(type, 8);
    break;
  case 2:
    H5Tset_size(type, 8);
    H5Tset_offset(type, 16);
    break;
  case 3:
    H5Tset_norm(type, choose(choices, 2) ? H5T_NORM_NONE : H5T_NORM_MSBSET);
    break;
  case 4:
    H5Tset_fields(type, 15, 9, 6, 0, 9);
    H5Tset_size(type, 2);
    break;
  case 5:
    H5Tset_fields(type, 23, 16, 7, 0, 16);
    H5Tset_size(type, 3);
    break;
  case 6:
    H5Tset_fields(type, 0, 24, 8, 1, 23);
    break;
  case 7:
    H5Tclose(type);
    return H5Tcopy(H5T_NATIVE_LDOUBLE);
  default:
    H5Tclose(type);
    return H5Tcopy(H5T_VAX_F32);
  }
  return type;
}

static hid_t array_of_floats(struct choices *choices) {
  const hsize_t dims[2] = {1 + choose(choices, 3), 2};
  return H5Tarray_create2(H5T_IEEE_F32LE, 1 + choose(choices, 2), dims);
}

static hid_t text_type(struct choices *choices) {
  hid_t type = H5Tcopy(H5T_C_S1);
  unsigned n = choose(choices, 8);
  H5Tset_size(type, n == 7 ? H5T_VARIABLE : n == 6 ? 2000 : 1 + n);
  H5Tset_strpad(type, (H5T_str_t)choose(choices, 3));
  H5Tset_cset(type, choose(choices, 2) ? H5T_CSET_UTF8 : H5T_CSET_ASCII);
  return type;
}

static hid_t integer_type(struct choices *choices) {
  hid_t type = H5Tcopy(H5T_STD_I64LE);
  H5Tset_size(type, (size_t)1 << choose(choices, 4));
  H5Tset_sign(type, choose(choices, 2) ? H5T_SGN_NONE : H5T_SGN_2);
  if (choose(choices, 2)) H5Tset_order(type, H5T_ORDER_BE);
  return type;
}

static hid_t enumeration(void) {
  hid_t type = H5Tenum_create(H5T_STD_I16LE);
  const int16_t one = 1;
  H5Tenum_insert(type, "one", &one);
  return type;
}

static hid_t other_type(struct choices *choices) {
  hid_t type = H5I_INVALID_HID;
  switch (choose(choices, 10)) {
  case 0:
    return text_type(choices);
  case 1:
    type = H5Tcreate(H5T_COMPOUND, 8);
    H5Tinsert(type, "x", choose(choices, 4) * 1, H5T_IEEE_F32LE);
    return type;
  case 2:
    return array_of_floats(choices);
  case 3:
    return H5Tvlen_create(H5T_IEEE_F32LE);
  case 4:
    return enumeration();
  case 5:
    type = H5Tcreate(H5T_OPAQUE, 1 + choose(choices, 16));
    H5Tset_tag(type, "bytes");
    return type;
  case 6:
    return H5Tcopy(choose(choices, 2) ? H5T_STD_B64BE : H5T_STD_B8LE);
  case 7:
    return H5Tcopy(choose(choices, 2) ? H5T_STD_REF_OBJ : H5T_STD_REF_DSETREG);
  case 8:
    return integer_type(choices);
  default:
    return odd_float(choices);
  }
}

/* One of ours in most cases: then made->format says which. */
static hid_t choose_type(struct choices *choices, struct made *made) {
  made->format = -1;
  made->is_big_endian = false;
  if (is_rare(choices)) return other_type(choices);
  if (is_rare(choices)) return odd_float(choices);
  made->format = (int)(choose(choices, 4) + 2) % 4;
  made->is_big_endian = is_rare(choices);
  hid_t type = type_of_format(made->format);
  if (made->is_big_endian) H5Tset_order(type, H5T_ORDER_BE);
  return type;
}

/* Can any bytes be elements of this type? Pointers cannot. */
static bool is_plain(hid_t type) {
  return H5Tdetect_class(type, H5T_VLEN) <= 0 && H5Tdetect_class(type, H5T_REFERENCE) <= 0 &&
         H5Tis_variable_str(type) <= 0;
}

/* ---- contents ---------------------------------------------------------------------------------------------------- */

static uint64_t mixed(uint64_t x) {
  x = (x + 1) * UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
  return x ^ (x >> 32);
}

/* Any bits, NaN and infinities among them; with style 0 ordinary numbers below 2. */
static void set_bytes(struct choices *choices, struct made *made, uint8_t *bytes, int64_t n) {
  uint64_t style = choose(choices, 4), seed = (uint64_t)choose(choices, 256) << 32;
  for (int64_t i = 0; i < n * (int64_t)made->element_bytes; i++)
    bytes[i] = (uint8_t)(mixed(seed + (uint64_t)i) >> (style == 3 ? 60 : 8));
  if (style != 0 || made->format < 0) return;
  const struct float_format *f = &float_formats[made->format];
  for (int64_t i = 0; i < n; i++) {
    uint8_t *last = bytes + (i + 1) * (int64_t)f->n_bytes - 1;
    uint8_t *high = made->is_big_endian ? last + 1 - f->n_bytes : last;
    *high = (uint8_t)((*high & 0x80) | 0x3a); /* an exponent below the bias, in every format */
  }
}

enum { SMALL_ELEMENTS = 4096 };

static int64_t count(const struct made *made) {
  int64_t n = made->n_dims < 0 ? 0 : 1;
  for (int i = 0; i < made->n_dims; i++) {
    if (__builtin_mul_overflow(n, made->dims[i], &n)) return INT64_MAX;
  }
  return n;
}

static hid_t create_space(const struct made *made, bool is_growing) {
  hsize_t dims[MADE_MAX_DIMS], most[MADE_MAX_DIMS];
  if (made->n_dims < 0) return H5Screate(H5S_NULL);
  if (made->n_dims == 0) return H5Screate(H5S_SCALAR);
  for (int i = 0; i < made->n_dims; i++) {
    dims[i] = (hsize_t)made->dims[i];
    most[i] = H5S_UNLIMITED;
  }
  return H5Screate_simple(made->n_dims, dims, is_growing ? most : NULL);
}

/* Fills a new dataset, or leaves it as it is; made->is_known where it is certain what it then holds. */
static void fill_dataset(struct choices *choices, hid_t dataset, hid_t type, bool has_fill, struct made *made) {
  bool is_small = made->n_elements <= SMALL_ELEMENTS;
  made->is_known = has_fill;
  if (!is_small || !is_plain(type) || is_rare(choices)) return;
  made->bytes = calloc((size_t)made->n_elements + 1, made->element_bytes);
  set_bytes(choices, made, made->bytes, made->n_elements);
  made->is_known = H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, made->bytes) >= 0;
}

/* ---- layouts ----------------------------------------------------------------------------------------------------- */

/* What creating a dataset needs to know of its surroundings. */
struct place {
  hid_t file;
  const char *other, *raw;      /* files */
  off_t raw_bytes;              /* of `raw` that datasets have already */
  const struct made *elsewhere; /* dataset "x" of the other file */
};

/* Nbit behind shuffle is left out: HDF5 1.10 does not read back what it wrote. */
static void set_filters(struct choices *choices, hid_t creation) {
  if (is_rare(choices))
    H5Pset_nbit(creation);
  else if (choose(choices, 3) == 1)
    H5Pset_shuffle(creation);
  if (choose(choices, 2)) H5Pset_deflate(creation, 1);
  if (choose(choices, 3) == 1) H5Pset_fletcher32(creation);
}

static void set_chunks(struct choices *choices, hid_t creation, const struct made *made) {
  hsize_t chunk[MADE_MAX_DIMS];
  for (int i = 0; i < made->n_dims; i++) {
    chunk[i] = 1 + choose(choices, 8);
    if ((int64_t)chunk[i] > made->dims[i] && made->dims[i] > 0) chunk[i] = (hsize_t)made->dims[i];
  }
  H5Pset_chunk(creation, made->n_dims, chunk);
  if (choose(choices, 2)) set_filters(choices, creation);
  if (is_rare(choices)) H5Pset_chunk_opts(creation, H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS);
}

/* All of the dataset is what the other file's x is, or the fill value where that is of another shape. */
static void set_virtual(struct choices *choices, hid_t creation, const struct place *place, const struct made *made) {
  hid_t space = create_space(made, false), source = create_space(place->elsewhere, false);
  if (H5Sget_simple_extent_npoints(space) == H5Sget_simple_extent_npoints(source))
    H5Pset_virtual(creation, space, is_rare(choices) ? "/nonexistent.h5" : place->other, "x", source);
  H5Sclose(source);
  H5Sclose(space);
}

static void set_external(struct choices *choices, hid_t creation, struct place *place, const struct made *made) {
  hsize_t bytes = (hsize_t)(made->n_elements < SMALL_ELEMENTS ? made->n_elements : 1) * made->element_bytes;
  const char *path = is_rare(choices) ? "/nonexistent/raw" : place->raw;
  off_t offset = place->raw_bytes + (off_t)choose(choices, 256);
  place->raw_bytes = offset + (off_t)bytes;
  hsize_t first = bytes * choose(choices, 4) / 4;
  if (first > 0 && first < bytes) H5Pset_external(creation, path, offset + (off_t)(bytes - first), first);
  H5Pset_external(creation, path, offset, first > 0 && first < bytes ? bytes - first : bytes);
}

/* Returns the layout. Nothing huge is allocated: where there are many elements, allocation is late. */
static unsigned set_layout(struct choices *choices, hid_t creation, struct place *place, const struct made *made,
                           bool *is_growing) {
  enum { CONTIGUOUS, CHUNKED, COMPACT, EXTERNAL, VIRTUAL, N_LAYOUTS };
  unsigned layout = choose(choices, 12);
  bool is_huge = made->n_elements > SMALL_ELEMENTS;
  *is_growing = false;
  if (layout >= 5 && layout < 8 && made->n_dims > 0) {
    *is_growing = choose(choices, 4) == 1;
    set_chunks(choices, creation, made);
  } else if (layout == 8) {
    H5Pset_layout(creation, H5D_COMPACT);
  } else if (layout == 9) {
    set_external(choices, creation, place, made);
  } else if (layout == 10) {
    set_virtual(choices, creation, place, made);
  }
  if (!is_huge && layout != 8 && layout != 10) H5Pset_alloc_time(creation, (H5D_alloc_time_t)choose(choices, 4));
  return layout;
}

/* Sets made->fill; true where what was not written is that. */
static bool set_fill(struct choices *choices, hid_t creation, hid_t type, struct made *made) {
  if (made->element_bytes > sizeof made->fill || !is_plain(type)) return false;
  if (is_rare(choices)) {
    set_bytes(choices, made, made->fill, 1);
    if (H5Pset_fill_value(creation, type, made->fill) < 0) return false;
  }
  if (!is_rare(choices)) return true;
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  return false;
}

/* A dataset of this extent in the file. */
static void create_dataset(struct choices *choices, struct place *place, const char *name, struct made *made) {
  bool is_growing;
  made->n_elements = count(made);
  hid_t type = choose_type(choices, made), creation = H5Pcreate(H5P_DATASET_CREATE);
  hid_t links = H5Pcreate(H5P_LINK_CREATE);
  made->element_bytes = H5Tget_size(type);
  H5Pset_create_intermediate_group(links, 1);
  bool has_fill = set_fill(choices, creation, type, made);
  unsigned layout = set_layout(choices, creation, place, made, &is_growing);
  hid_t space = create_space(made, is_growing);
  hid_t dataset = H5Dcreate2(place->file, name, type, space, links, creation, H5P_DEFAULT);
  made->is_there = dataset >= 0;
  /* A virtual dataset is written through to the other file; here it is only read, as are external data that are not
   * there. */
  bool is_elsewhere = layout == 9 || layout == 10;
  if (made->is_there && !is_elsewhere) fill_dataset(choices, dataset, type, has_fill, made);
  if (made->is_there && layout == 9) fill_dataset(choices, dataset, type, false, made);
  if (dataset >= 0 && H5Dclose(dataset) < 0) made->is_known = false;
  H5Sclose(space);
  H5Pclose(links);
  H5Pclose(creation);
  H5Tclose(type);
}

/* ---- links and groups -------------------------------------------------------------------------------------------- */

/* A copy of what `from` leads to. */
static struct made copied(const struct made *from) {
  struct made copy = *from;
  if (from->bytes) {
    copy.bytes = calloc((size_t)from->n_elements + 1, from->element_bytes);
    memcpy(copy.bytes, from->bytes, (size_t)from->n_elements * from->element_bytes);
  }
  if (from->integers) {
    copy.integers = calloc((size_t)from->n_elements + 1, sizeof *copy.integers);
    memcpy(copy.integers, from->integers, (size_t)from->n_elements * sizeof *copy.integers);
  }
  return copy;
}

/* Something else than a dataset under that name. */
static void create_other(struct choices *choices, const struct place *place, const char *name, const struct made *q,
                         struct made *made) {
  hid_t id = H5I_INVALID_HID;
  *made = (struct made){.format = -1};
  switch (choose(choices, 8)) {
  case 0:
    return;
  case 1:
    id = H5Gcreate2(place->file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (id >= 0) H5Gclose(id);
    return;
  case 2:
    if (H5Lcreate_soft("/q", place->file, name, H5P_DEFAULT, H5P_DEFAULT) >= 0) *made = copied(q);
    return;
  case 3:
    H5Lcreate_soft(name, place->file, name, H5P_DEFAULT, H5P_DEFAULT); /* to itself, or nowhere */
    return;
  case 4:
    if (H5Lcreate_hard(place->file, "/q", place->file, name, H5P_DEFAULT, H5P_DEFAULT) >= 0) *made = copied(q);
    return;
  case 5:
    if (H5Lcreate_external(place->other, "x", place->file, name, H5P_DEFAULT, H5P_DEFAULT) >= 0)
      *made = copied(place->elsewhere);
    return;
  case 6:
    H5Lcreate_external("/nonexistent.h5", "x", place->file, name, H5P_DEFAULT, H5P_DEFAULT);
    return;
  default:
    id = other_type(choices);
    H5Tcommit2(place->file, name, id, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Tclose(id);
  }
}

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* What the three tensors agree on, where they do. */
struct shared_shape {
  int n_dims;
  int64_t batch, heads, tokens, width;
  bool is_tokens_first;
};

/* Few, or more than any memory holds: what lies between would only take time. */
static int64_t any_extent(struct choices *choices) {
  switch (choose(choices, 4)) {
  case 0:
    return choose(choices, 8);
  case 1:
    return choose(choices, 64);
  case 2:
    return INT64_C(1) << (45 + choose(choices, 18));
  default:
    return INT64_MAX - choose(choices, 3);
  }
}

static void set_dims(struct choices *choices, const struct shared_shape *s, struct made *made) {
  bool is_swapped = s->is_tokens_first && s->n_dims > 2;
  const int64_t dims[4] = {s->batch, is_swapped ? s->tokens : s->heads, is_swapped ? s->heads : s->tokens, s->width};
  made->n_dims = s->n_dims;
  memcpy(made->dims, dims + 4 - s->n_dims, (size_t)s->n_dims * sizeof *dims);
  if (is_rare(choices)) made->n_dims = (int)choose(choices, MADE_MAX_DIMS + 2) - 1;
  for (int i = 0; i < made->n_dims; i++) {
    if (i >= s->n_dims || is_rare(choices)) made->dims[i] = any_extent(choices);
  }
}

/* ---- segments and attributes ------------------------------------------------------------------------------------- */

static void create_segments(struct choices *choices, hid_t file, int64_t tokens, struct made *made) {
  int64_t values[8] = {0};
  hsize_t n = choose(choices, 8);
  for (hsize_t i = 1; i < n; i++) values[i] = is_rare(choices) ? -1 : tokens * (int64_t)i / ((int64_t)n - 1);
  hid_t type = is_rare(choices) ? other_type(choices) : H5Tcopy(H5T_STD_I64LE), space = H5Screate_simple(1, &n, NULL);
  hid_t dataset = H5Dcreate2(file, "segments", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  made->is_there = dataset >= 0;
  made->n_dims = 1;
  made->dims[0] = made->n_elements = (int64_t)n;
  if (made->is_there && H5Tequal(type, H5T_STD_I64LE) > 0) {
    made->integers = calloc(8, sizeof *made->integers);
    memcpy(made->integers, values, sizeof values);
    made->is_known = H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  }
  if (dataset >= 0) H5Dclose(dataset);
  H5Sclose(space);
  H5Tclose(type);
}

static void create_attribute(struct choices *choices, hid_t file, unsigned i) {
  char name[80], text[80];
  snprintf(name, sizeof name, "%*u", is_rare(choices) ? 70 : 3, i);
  struct made made = {.n_dims = choose(choices, 4) == 3 ? (int)choose(choices, 3) - 1 : 0, .dims = {2, 1}};
  hid_t type = choose(choices, 2) ? text_type(choices) : other_type(choices), space = create_space(&made, false);
  hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  made.element_bytes = H5Tget_size(type);
  made.n_elements = count(&made);
  made.format = -1;
  bool is_written = !is_rare(choices);
  if (attribute >= 0 && is_written && is_plain(type)) {
    uint8_t *bytes = calloc((size_t)made.n_elements + 1, made.element_bytes);
    set_bytes(choices, &made, bytes, made.n_elements);
    H5Awrite(attribute, type, bytes);
    free(bytes);
  } else if (attribute >= 0 && is_written && H5Tis_variable_str(type) > 0 && made.n_elements == 1) {
    const char *pointer = text;
    snprintf(text, sizeof text, "%.*s", (int)choose(choices, 80), "caf\xc3\xa9 \xff and more of it, up to a length");
    H5Awrite(attribute, type, &pointer);
  }
  if (attribute >= 0) H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static hid_t create_file(struct choices *choices, const char *path) {
  hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
  if (is_rare(choices)) H5Pset_userblock(creation, 512);
  if (is_rare(choices)) H5Pset_file_space_strategy(creation, H5F_FSPACE_STRATEGY_PAGE, choose(choices, 2), 1);
  if (is_rare(choices)) H5Pset_attr_phase_change(creation, 0, 0);
  if (choose(choices, 3) == 1) H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
  H5Pclose(access);
  H5Pclose(creation);
  return file;
}

static struct shared_shape choose_shape(struct choices *choices) {
  return (struct shared_shape){.n_dims = 2 + (int)choose(choices, 3),
                               .is_tokens_first = choose(choices, 2) == 1,
                               .batch = 1 + choose(choices, 3),
                               .heads = 1 + choose(choices, 4),
                               .tokens = choose(choices, 24),
                               .width = 1 + choose(choices, 9)};
}

/* The other file, with its dataset x. */
static bool make_other(struct choices *choices, const char *path, const struct shared_shape *shape, struct made *x) {
  if (choose(choices, 2)) return true;
  struct place place = {.file = create_file(choices, path), .other = "/nonexistent.h5", .raw = "/nonexistent/raw"};
  if (place.file < 0) return false;
  const struct made nothing = {.n_dims = 1};
  place.elsewhere = &nothing;
  set_dims(choices, shape, x);
  create_dataset(choices, &place, "x", x);
  return H5Fclose(place.file) >= 0;
}

static void create_object(struct choices *choices, struct place *place, const struct shared_shape *shape, int name,
                          struct made made[MADE_N_NAMES]) {
  if (name != MADE_Q && is_rare(choices)) {
    create_other(choices, place, made_names[name], &made[MADE_Q], &made[name]);
  } else if (name == MADE_SEGMENTS) {
    create_segments(choices, place->file, shape->tokens, &made[name]);
  } else {
    set_dims(choices, shape, &made[name]);
    create_dataset(choices, place, made_names[name], &made[name]);
  }
}

bool hdf5_file_make(struct choices *choices, const char *path, const char *other, const char *raw,
                    struct made made[MADE_N_NAMES]) {
  struct made x = {.format = -1};
  for (int i = 0; i < MADE_N_NAMES; i++) made[i] = (struct made){.format = -1};
  const struct shared_shape shape = choose_shape(choices);
  bool is_made = make_other(choices, other, &shape, &x);
  struct place place = {
      .file = is_made ? create_file(choices, path) : H5I_INVALID_HID, .other = other, .raw = raw, .elsewhere = &x};
  if (place.file >= 0) {
    int n_names = choose(choices, 4) == 3 ? MADE_N_NAMES : MADE_SEGMENTS + (int)choose(choices, 2);
    for (int i = 0; i < n_names; i++) create_object(choices, &place, &shape, i, made);
    unsigned n_attributes = choose(choices, 4) == 3 ? choose(choices, 20) : 0;
    for (unsigned i = 0; i < n_attributes; i++) create_attribute(choices, place.file, i);
    is_made = H5Fclose(place.file) >= 0;
  }
  free(x.bytes);
  return is_made && place.file >= 0;
}

void hdf5_file_free(struct made made[MADE_N_NAMES]) {
  for (int i = 0; i < MADE_N_NAMES; i++) {
    free(made[i].bytes);
    free(made[i].integers);
  }
}

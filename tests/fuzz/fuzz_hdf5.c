/* What reads HDF5 (favor_io.h, cli/inputs.h, cli/estimates.h) on files that are well-formed and of any schema and
 * contents. What is said to be read must be what was written; a plain tensor must be read; a refusal must have a text;
 * nothing stays open. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <favor/favor_io.h>

#include "cli/estimates.h"
#include "cli/inputs.h"
#include "fuzz.h"
#include "hdf5_file.h"

enum { MAX_READ_ELEMENTS = 1 << 14 };

/* In place of base/memory.h's: it touches the 4 MiB of every open tensor, which is most of the time here. */
void *__wrap_memory_zeroed(size_t count, size_t bytes);
void *__wrap_memory_zeroed(size_t count, size_t bytes) { return calloc(count, bytes); }

static void check_refusal(enum favor_status status) { fuzz_check_error(status, favor_context_message(fuzz_context())); }

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static void check_shape(const struct favor_tensor_shape *shape, const struct made *made) {
  bool is_swapped = shape->layout == FAVOR_TOKENS_FIRST && shape->n_dims > 2;
  const int64_t dims[4] = {shape->batch, is_swapped ? shape->tokens : shape->heads,
                           is_swapped ? shape->heads : shape->tokens, shape->width};
  FUZZ_CHECK(made->is_there && shape->n_dims == made->n_dims && (int)shape->type == made->format);
  FUZZ_CHECK(memcmp(dims + 4 - shape->n_dims, made->dims, (size_t)shape->n_dims * sizeof *dims) == 0);
}

static int64_t index_in_file(const struct favor_tensor_shape *s, int64_t head, int64_t token) {
  bool is_swapped = s->layout == FAVOR_TOKENS_FIRST && s->n_dims > 2;
  int64_t b = head / s->heads, h = head % s->heads;
  return (is_swapped ? (b * s->tokens + token) * s->heads + h : (b * s->heads + h) * s->tokens + token) * s->width;
}

static bool is_same(double a, double b) { return a == b ? signbit(a) == signbit(b) : isnan(a) && isnan(b); }

static void check_slab(const struct favor_tensor_shape *shape, const struct made *made, const int64_t range[4],
                       enum favor_precision precision, const void *data) {
  int64_t at = 0;
  for (int64_t head = range[0]; head < range[1]; head++) {
    for (int64_t token = range[2]; token < range[3]; token++) {
      int64_t first = index_in_file(shape, head, token);
      for (int64_t column = 0; column < shape->width; column++, at++) {
        double value = made_value(made, made->bytes ? first + column : 0);
        if (precision == FAVOR_PRECISION_F64)
          FUZZ_CHECK(is_same(((const double *)data)[at], value));
        else
          FUZZ_CHECK(is_same((double)((const float *)data)[at], (double)(float)value));
      }
    }
  }
}

/* Some heads and tokens, few enough to be compared. */
static bool choose_range(struct choices *choices, const struct favor_tensor_shape *shape, int64_t range[4]) {
  const int64_t extents[2] = {shape->batch * shape->heads, shape->tokens};
  int64_t n = shape->width;
  for (int i = 0; i < 2; i++) {
    int64_t longest = MAX_READ_ELEMENTS / n, rest = extents[i];
    if (longest == 0) return false;
    range[2 * i] = extents[i] > 0 ? (int64_t)((double)extents[i] * choose(choices, 256) / 1024) : 0;
    rest -= range[2 * i];
    range[2 * i + 1] = range[2 * i] + (rest < longest ? rest : longest);
    n *= range[2 * i + 1] > range[2 * i] ? range[2 * i + 1] - range[2 * i] : 1;
  }
  return true;
}

static void read_slab(struct choices *choices, struct favor_tensor *tensor, const struct made *made, bool is_good) {
  struct favor_tensor_shape shape;
  int64_t range[4];
  favor_tensor_shape(tensor, &shape);
  check_shape(&shape, made);
  if (!choose_range(choices, &shape, range)) return;
  enum favor_precision precision = choose(choices, 2) ? FAVOR_PRECISION_F64 : FAVOR_PRECISION_F32;
  size_t n = (size_t)((range[1] - range[0]) * (range[3] - range[2]) * shape.width);
  void *data = malloc(n * (precision == FAVOR_PRECISION_F64 ? 8 : 4)); /* what is written behind it is noticed */
  enum favor_status status = favor_tensor_read(tensor, range[0], range[1], range[2], range[3], precision, data);
  FUZZ_CHECK(status == FAVOR_OK || !is_good);
  if (status == FAVOR_OK && made->is_known) check_slab(&shape, made, range, precision, data);
  favor_context_forget(fuzz_context());
  free(data);
}

/* Must it be read? */
static bool is_good_tensor(const struct made *made) {
  bool is_good =
      made->is_there && made->is_known && made->bytes && made->format >= 0 && made->n_dims >= 2 && made->n_dims <= 4;
  for (int i = 0; i < made->n_dims && is_good; i++) is_good = made->dims[i] > 0;
  return is_good;
}

static void open_one(struct choices *choices, const char *path, const char *name, const struct made *made,
                     enum favor_layout layout) {
  struct favor_tensor *tensor;
  enum favor_status status = favor_tensor_open(fuzz_context(), path, name, layout, &tensor);
  FUZZ_CHECK((status == FAVOR_OK) == (tensor != NULL));
  if (status == FAVOR_OK) {
    read_slab(choices, tensor, made, is_good_tensor(made));
    read_slab(choices, tensor, made, is_good_tensor(made));
    favor_tensor_close(&tensor);
  } else {
    FUZZ_CHECK(!is_good_tensor(made));
    check_refusal(status);
  }
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

static void open_inputs(const char *path, const struct made made[MADE_N_NAMES], enum favor_layout layout) {
  const struct input_names names = {.query = "q", .key = "k", .value = "v", .segments = "segments", .layout = layout};
  struct inputs inputs;
  enum favor_status status = inputs_open(fuzz_context(), path, &names, &inputs);
  if (status != FAVOR_OK) {
    check_refusal(status);
    return;
  }
  check_shape(&inputs.q_shape, &made[MADE_Q]);
  check_shape(&inputs.k_shape, &made[MADE_K]);
  check_shape(&inputs.v_shape, &made[MADE_V]);
  struct favor_problem problem = favor_problem_default();
  struct estimates_file read;
  inputs_describe(&inputs, &problem);
  FUZZ_CHECK(problem.heads % problem.kv_heads == 0 && problem.tokens == inputs.v_shape.tokens);
  FUZZ_CHECK(!inputs.segments || inputs.n_segments >= 1);
  problem.key_shift = FAVOR_KEY_SHIFT_MEAN;
  status = estimates_read(fuzz_context(), path, &problem, &read);
  if (status == FAVOR_OK) {
    for (int64_t i = 0; i < problem.batch * problem.kv_heads * problem.key_width; i++)
      FUZZ_CHECK(isfinite(read.key_shift[i]));
    estimates_release(&read);
  } else {
    check_refusal(status);
  }
  inputs_close(&inputs);
}

/* ---- what is small ----------------------------------------------------------------------------------------------- */

static void read_integers(const char *path, const struct made *made) {
  int64_t n, *values;
  enum favor_status status = favor_int64_read(fuzz_context(), path, "segments", false, &n, &values);
  if (status != FAVOR_OK) {
    check_refusal(status);
    FUZZ_CHECK(!values && !made->integers);
    return;
  }
  if (made->integers && made->is_known) {
    FUZZ_CHECK(n == made->n_elements);
    for (int64_t i = 0; i < n; i++) FUZZ_CHECK(values[i] == made->integers[i]);
  }
  free(values);
}

static void read_numbers(const char *path, const char *name, const struct made *made) {
  int n_dims;
  int64_t dims[4];
  double *values;
  enum favor_status status = favor_double_read(fuzz_context(), path, name, &n_dims, dims, &values);
  if (status != FAVOR_OK) {
    check_refusal(status);
    FUZZ_CHECK(!values && !is_good_tensor(made));
    return;
  }
  FUZZ_CHECK(made->is_there && made->format >= 0 && n_dims == made->n_dims);
  FUZZ_CHECK(memcmp(dims, made->dims, (size_t)n_dims * sizeof *dims) == 0);
  for (int64_t i = 0; made->is_known && i < made->n_elements; i++)
    FUZZ_CHECK(is_same(values[i], made_value(made, made->bytes ? i : 0)));
  free(values);
}

static void read_attributes(const char *path) {
  int n;
  struct favor_attribute *attributes;
  enum favor_status status = favor_attributes_read(fuzz_context(), path, &n, &attributes);
  if (status != FAVOR_OK) {
    check_refusal(status);
    FUZZ_CHECK(!attributes);
    return;
  }
  for (int i = 0; i < n; i++) {
    FUZZ_CHECK(memchr(attributes[i].name, '\0', sizeof attributes[i].name));
    FUZZ_CHECK(memchr(attributes[i].text, '\0', sizeof attributes[i].text));
    FUZZ_CHECK(i == 0 || strcmp(attributes[i - 1].name, attributes[i].name) <= 0);
  }
  free(attributes);
}

/* ---- one input --------------------------------------------------------------------------------------------------- */

/* Of the library, which exports it without a header; the public H5Inmembers refuses the library's own kinds. */
int64_t H5I_nmembers(H5I_type_t type);

/* Handles of HDF5 that are open. */
static int64_t n_handles(void) {
  static const H5I_type_t kinds[] = {H5I_FILE,    H5I_GROUP, H5I_DATATYPE,    H5I_DATASPACE,
                                     H5I_DATASET, H5I_ATTR,  H5I_GENPROP_LST, H5I_ERROR_STACK};
  int64_t n = 0;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) n += H5I_nmembers(kinds[i]);
  return n;
}

/* One kind of reading, or all: an opening of a file costs HDF5 a millisecond. */
static void read_some(struct choices *choices, const char *path, const struct made made[MADE_N_NAMES]) {
  enum favor_layout layout = choose(choices, 2) ? FAVOR_TOKENS_FIRST : FAVOR_HEADS_FIRST;
  unsigned kind = choose(choices, 8);
  if (kind == 0 || kind >= 6) open_one(choices, path, made_names[MADE_Q], &made[MADE_Q], layout);
  if (kind == 0 || kind == 5) open_one(choices, path, made_names[MADE_V], &made[MADE_V], layout);
  if (kind == 0 || kind == 4) open_inputs(path, made, layout);
  if (kind == 0 || kind == 3) read_integers(path, &made[MADE_SEGMENTS]);
  if (kind == 0 || kind == 2) read_numbers(path, made_names[MADE_PROJECTION], &made[MADE_PROJECTION]);
  if (kind == 0 || kind == 2) read_numbers(path, made_names[MADE_KEY_SHIFT], &made[MADE_KEY_SHIFT]);
  if (kind == 0 || kind == 1) read_attributes(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct choices choices = {data, size};
  struct made made[MADE_N_NAMES];
  fuzz_context(); /* which sets HDF5's environment */
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  const char *path = fuzz_path(0), *other = fuzz_path(1), *raw = fuzz_path(2);
  int descriptor = fuzz_next_descriptor();
  bool is_made = hdf5_file_make(&choices, path, other, raw, made);
  int64_t n_open = n_handles();
  if (is_made) read_some(&choices, path, made);
  FUZZ_CHECK(n_handles() == n_open && fuzz_next_descriptor() == descriptor);
  hdf5_file_free(made);
  return 0;
}

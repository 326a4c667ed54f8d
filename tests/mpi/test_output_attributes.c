/* Attributes of an output that are known only at its end: the file is the one that would have been made with them from
 * the start, byte for byte, but for the addresses of the root group, which HDF5's superblock may repeat or not. */
#include "io_files.h"

#include <math.h>

#include "dist/comm.h"

static const int64_t n_rows = 37; /* of a tensor so small that it lies among the attributes */

static struct favor_attribute number(const char *name, double x) {
  struct favor_attribute attribute = {.kind = FAVOR_ATTRIBUTE_NUMBER, .number = x};
  snprintf(attribute.name, sizeof attribute.name, "%s", name);
  return attribute;
}

static struct favor_attribute integer(const char *name, int64_t i) {
  struct favor_attribute attribute = {.kind = FAVOR_ATTRIBUTE_INTEGER, .integer = i};
  snprintf(attribute.name, sizeof attribute.name, "%s", name);
  return attribute;
}

static enum favor_status create(const struct scratch *scratch, const char *path, int64_t tokens, double first,
                                int64_t second, double third, struct favor_output_file **file) {
  static const float floats[3000] = {0.5f, 1e-30f};
  const struct favor_output_tensor tensor = {"out", {3, 1, 2, tokens, 5, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true}};
  const struct favor_output_small small = {"projection", FAVOR_ELEMENT_FLOAT, 1, {3000}, floats};
  struct favor_attribute attributes[40];
  int n = 0;
  for (; n < 36; n++) { /* as many as move a header to a second block */
    attributes[n] = integer("", n);
    snprintf(attributes[n].name, sizeof attributes[n].name, "option-%d", n);
  }
  attributes[n++] = number("error", first);
  attributes[n++] = integer("rows", second);
  attributes[n++] = number("skill", third);
  attributes[n++] = (struct favor_attribute){.name = "text", .kind = FAVOR_ATTRIBUTE_TEXT, .text = "x"};
  const struct favor_output_spec spec = {.path = path,
                                         .is_overwrite = true,
                                         .tensors = &tensor,
                                         .n_tensors = 1,
                                         .small = &small,
                                         .n_small = 1,
                                         .attributes = attributes,
                                         .n_attributes = n};
  return favor_output_create(scratch->context, &spec, file);
}

/* This rank's rows, so that the tensor is full before attributes change. */
static bool write_rows(struct favor_output_file *file, int64_t tokens) {
  const struct favor_tensor_shape shape = {3, 1, 2, tokens, 5, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true};
  const int64_t begin = part_begin(tokens), end = part_end(tokens);
  void *data = slab_values(&shape, 0, 2, begin, end, FAVOR_PRECISION_F32);
  const bool is_written = favor_output_write(file, 0, 0, 2, begin, end, FAVOR_PRECISION_F32, data) == FAVOR_OK;
  free(data);
  return is_written;
}

static bool is_same_file(const char *a, const char *b) {
  enum { SUPERBLOCK_BYTES = 96 };
  FILE *files[2] = {fopen(a, "rb"), fopen(b, "rb")};
  int byte = 0, other = 0;
  bool is_same = file_bytes(a) > SUPERBLOCK_BYTES && file_bytes(a) == file_bytes(b);
  for (int64_t i = 0; is_same && byte != EOF; i++) {
    byte = getc(files[0]);
    other = getc(files[1]);
    is_same = byte == other || i < SUPERBLOCK_BYTES;
  }
  fclose(files[0]);
  fclose(files[1]);
  return is_same;
}

/* By HDF5's own reading. */
static bool holds_attribute(const char *path, const char *name, double expected) {
  double found = NAN;
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), id = H5Aopen(file, name, H5P_DEFAULT);
  bool is_read = H5Aread(id, H5T_NATIVE_DOUBLE, &found) >= 0;
  H5Aclose(id);
  H5Fclose(file);
  return is_read && found == expected;
}

static void test_changed_file_is_the_one_made_so(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *made = scratch_path(&scratch, "made.h5"), *changed = scratch_path(&scratch, "changed.h5");
  for (int64_t tokens = n_rows; tokens <= 100 * n_rows * n_rows; tokens *= 100 * n_rows) { /* the second is mapped */
    struct favor_output_file *file;
    enum favor_status status = create(&scratch, made, tokens, 0.125, 64, -3.5, &file);
    assert_all(status == FAVOR_OK && write_rows(file, tokens));
    status = favor_output_finish(&file);
    assert_all(status == FAVOR_OK);
    status = create(&scratch, changed, tokens, NAN, 3, 1e300, &file);
    assert_all(status == FAVOR_OK && write_rows(file, tokens));
    MPI_Barrier(MPI_COMM_WORLD); /* all rows are there when rank 0 changes attributes */
    const struct favor_attribute wrong[] = {number("error", 7)};
    const struct favor_attribute right[] = {number("skill", -3.5), integer("rows", 64), number("error", 0.125)};
    status = favor_output_set_attributes(file, wrong, 1);
    assert_all(status == FAVOR_OK);
    status = favor_output_set_attributes(file, right, 3); /* the last one counts */
    assert_all(status == FAVOR_OK);
    status = favor_output_finish(&file);
    assert_all(status == FAVOR_OK);
    const struct favor_tensor_shape shape = {3, 1, 2, tokens, 5, FAVOR_FLOAT32, FAVOR_HEADS_FIRST, true};
    const bool is_right =
        mpi_rank() != 0 || (is_same_file(made, changed) && holds_values(changed, "out", &shape) &&
                            holds_attribute(changed, "error", 0.125) && holds_attribute(changed, "rows", 64) &&
                            holds_attribute(changed, "skill", -3.5) && holds_attribute(changed, "option-35", 35));
    assert_all(is_right);
  }
  scratch_end(&scratch);
}

static void test_what_cannot_be_changed_is_refused(void **state) {
  (void)state;
  struct scratch scratch;
  scratch_begin(&scratch);
  const char *path = scratch_path(&scratch, "out.h5");
  struct favor_attribute wrong[] = {number("unheard-of", 1), number("rows", 1), integer("error", 1), {.name = "text"}};
  struct favor_output_file *file;
  enum favor_status status = create(&scratch, path, n_rows, NAN, 3, 1, &file);
  assert_all(status == FAVOR_OK);
  for (int i = 0; i < 4; i++) {
    status = favor_output_set_attributes(file, &wrong[i], 1);
    assert_all(mpi_rank() == 0 ? status == FAVOR_EUSAGE && dist_has_failed(scratch.context) : status == FAVOR_OK);
    favor_context_forget(scratch.context);
  }
  const struct favor_attribute right = integer("rows", 4);
  status = favor_output_set_attributes(file, &right, 1);
  assert_all(status == FAVOR_OK);
  favor_output_abandon(&file);
  const int n_files = scratch_count(&scratch);
  assert_all(n_files == 0);
  scratch_end(&scratch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(test_changed_file_is_the_one_made_so),
      mpi_unit_test(test_what_cannot_be_changed_is_refused),
  };
  return mpi_cmocka_main(&argc, &argv, "output_attributes", tests, sizeof tests / sizeof tests[0]);
}

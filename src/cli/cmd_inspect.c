#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/certificate.h"
#include "cli/command.h"
#include "cli/inspect.h"
#include "cli/report.h"
#include "dist/agree.h"
#include "io/hdf5.h"

static json_t *pack_dims(hid_t dataset) {
  hsize_t dims[H5S_MAX_RANK];
  hid_t space = H5Dget_space(dataset);
  int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
  json_t *list = json_array();
  for (int i = 0; i < n_dims; i++) json_array_append_new(list, json_integer((json_int_t)dims[i]));
  hdf5_release(space);
  return list;
}

static json_t *pack_type(hid_t dataset) {
  char text[96];
  enum favor_type type;
  hid_t id = H5Dget_type(dataset);
  if (hdf5_type_find(id, &type))
    snprintf(text, sizeof text, "%s", favor_type_name(type));
  else
    hdf5_type_describe(id, text, sizeof text);
  hdf5_release(id);
  return json_string(text);
}

static const char *layout_name(hid_t dataset) {
  hid_t properties = H5Dget_create_plist(dataset);
  H5D_layout_t layout = H5Pget_layout(properties);
  bool is_filtered = H5Pget_nfilters(properties) > 0;
  hdf5_release(properties);
  switch (layout) {
  case H5D_CONTIGUOUS:
    return "contiguous";
  case H5D_CHUNKED:
    return is_filtered ? "chunked, compressed" : "chunked";
  case H5D_COMPACT:
    return "compact";
  default:
    return "virtual";
  }
}

/* H5Lvisit's callback: appends a dataset to the list. */
static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *list) {
  (void)info;
  hid_t object = H5Oopen(group, name, H5P_DEFAULT);
  if (object >= 0 && H5Iget_type(object) == H5I_DATASET) {
    json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:s}", "name", name, "shape", pack_dims(object), "type",
                                          pack_type(object), "layout", layout_name(object)));
  }
  hdf5_release(object);
  return 0;
}

/* Rank 0: the datasets of the file, in order of name. NULL with the error recorded. */
static json_t *list_datasets(struct favor_context *context, const char *path) {
  struct hdf5_quiet quiet;
  hdf5_quiet_begin(&quiet);
  json_t *list = NULL;
  hid_t file = hdf5_open_file(context, path);
  if (file >= 0) {
    list = json_array();
    if (H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, visit, list) < 0) {
      dist_fail(context, FAVOR_EDATA, "%s: its list of datasets cannot be read: %s", path, hdf5_reason().text);
      json_decref(list);
      list = NULL;
    }
    hdf5_release(file);
  }
  hdf5_quiet_end(&quiet);
  return list;
}

static json_t *pack_attributes(const struct favor_attribute *attributes, int n) {
  json_t *object = json_object();
  for (int i = 0; i < n; i++) {
    const struct favor_attribute *attribute = &attributes[i];
    json_t *value = NULL;
    switch (attribute->kind) {
    case FAVOR_ATTRIBUTE_TEXT:
      value = json_string(attribute->text);
      break;
    case FAVOR_ATTRIBUTE_INTEGER:
      value = json_integer((json_int_t)attribute->integer);
      break;
    case FAVOR_ATTRIBUTE_NUMBER:
      value = certificate_number(attribute->number);
      break;
    }
    json_object_set_new(object, attribute->name, value ? value : json_null());
  }
  return object;
}

static void print_table(const char *path, json_t *datasets, const struct favor_attribute *attributes, int n) {
  size_t i, j;
  json_t *dataset, *dim;
  printf("%s\n\ndatasets\n", path);
  json_array_foreach(datasets, i, dataset) {
    printf("  %-20s ", json_string_value(json_object_get(dataset, "name")));
    json_array_foreach(json_object_get(dataset, "shape"), j, dim) {
      printf("[%" JSON_INTEGER_FORMAT "]", json_integer_value(dim));
    }
    printf(" %s, %s\n", json_string_value(json_object_get(dataset, "type")),
           json_string_value(json_object_get(dataset, "layout")));
  }
  printf("\nmade with\n");
  for (int a = 0; a < n; a++) {
    printf("  %-20s ", attributes[a].name);
    switch (attributes[a].kind) {
    case FAVOR_ATTRIBUTE_TEXT:
      printf("%s\n", attributes[a].text);
      break;
    case FAVOR_ATTRIBUTE_INTEGER:
      printf("%" PRId64 "\n", attributes[a].integer);
      break;
    case FAVOR_ATTRIBUTE_NUMBER:
      printf("%.9g\n", attributes[a].number);
      break;
    }
  }
  if (n == 0) puts("  (no attributes)");
}

/* Rank 0. `check` is NULL without --check. */
static void print(struct command *command, const char *path, const struct favor_attribute *attributes, int n,
                  const struct check_report *check) {
  json_t *datasets = list_datasets(command->context, path);
  if (!datasets) return;
  if (options_flag(command->options, OPTION_JSON)) {
    json_t *object = report_object(command);
    json_object_set_new(object, "path", json_string(path));
    json_object_set(object, "datasets", datasets);
    json_object_set_new(object, "attributes", pack_attributes(attributes, n));
    if (check) json_object_set_new(object, "check", inspect_pack_check(check));
    report_json(command, object);
  } else {
    print_table(path, datasets, attributes, n);
    if (check) inspect_print_check(check);
  }
  json_decref(datasets);
}

enum favor_status cmd_inspect(struct command *command) {
  const char *path = command->options->operands[0];
  const bool is_checking = options_flag(command->options, OPTION_CHECK);
  struct favor_attribute *attributes;
  struct check_report check = {0};
  int n;
  enum favor_status status = favor_attributes_read(command->context, path, &n, &attributes);
  if (status == FAVOR_OK && is_checking) status = check_file(command->context, path, &check);
  if (status == FAVOR_OK && command_is_speaker(command)) {
    print(command, path, attributes, n, is_checking ? &check : NULL);
    if (is_checking) inspect_fail_check(command, path, &check);
  }
  free(attributes);
  check_release(&check);
  if (status != FAVOR_OK) return status;
  return dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
}

#include "cli/inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"

enum { SHAPE_TEXT_BYTES = 112 };

/* One of the three tensors, as messages name it. */
struct named {
  const char *role, *name; /* "q", the dataset */
  const struct favor_tensor_shape *shape;
};

static void describe_shape(const struct favor_tensor_shape *shape, char text[SHAPE_TEXT_BYTES]) {
  bool is_heads_first = shape->layout == FAVOR_HEADS_FIRST;
  long long second = is_heads_first ? shape->heads : shape->tokens,
            third = is_heads_first ? shape->tokens : shape->heads;
  int n = 0;
  if (shape->n_dims == 4) n += snprintf(text, SHAPE_TEXT_BYTES, "[%lld]", (long long)shape->batch);
  if (shape->n_dims >= 3) n += snprintf(text + n, SHAPE_TEXT_BYTES - (size_t)n, "[%lld][%lld]", second, third);
  if (shape->n_dims == 2) n += snprintf(text + n, SHAPE_TEXT_BYTES - (size_t)n, "[%lld]", (long long)shape->tokens);
  snprintf(text + n, SHAPE_TEXT_BYTES - (size_t)n, "[%lld]", (long long)shape->width);
}

/* Records that `first` and `second` differ in what `field` says. */
static void fail_pair(struct favor_context *context, const char *path, struct named first, struct named second,
                      const char *field) {
  char first_shape[SHAPE_TEXT_BYTES], second_shape[SHAPE_TEXT_BYTES];
  describe_shape(first.shape, first_shape);
  describe_shape(second.shape, second_shape);
  dist_fail(context, FAVOR_EDATA, "%s: %s (dataset %.64s) is %s and %s (dataset %.64s) is %s: %s", path, first.role,
            first.name, first_shape, second.role, second.name, second_shape, field);
}

static void check_pair(struct favor_context *context, const char *path, struct named first, struct named second) {
  const struct favor_tensor_shape *a = first.shape, *b = second.shape;
  if (a->n_dims != b->n_dims) {
    fail_pair(context, path, first, second, "they must have the same number of dimensions");
  } else if (a->batch != b->batch) {
    fail_pair(context, path, first, second, "their batches must be equal");
  } else if (a->tokens != b->tokens) {
    fail_pair(context, path, first, second, "their tokens must be as many (or try the other --layout)");
  }
}

/* Heads and widths are above 0, or the tensors would not have opened. */
static void check_shapes(struct favor_context *context, const char *path, const struct input_names *names,
                         const struct inputs *inputs) {
  struct named q = {"q", names->query, &inputs->q_shape};
  struct named k = {"k", names->key, &inputs->k_shape};
  struct named v = {"v", names->value, &inputs->v_shape};
  check_pair(context, path, q, k);
  check_pair(context, path, k, v);
  if (q.shape->width != k.shape->width) fail_pair(context, path, q, k, "their widths must be equal");
  if (k.shape->heads != v.shape->heads) fail_pair(context, path, k, v, "their heads must be as many");
  if (q.shape->heads % k.shape->heads != 0) {
    fail_pair(context, path, q, k, "the heads of q must be a multiple of those of k");
  }
}

static enum favor_status open_tensor(struct favor_context *context, const char *path, const char *name,
                                     const struct input_names *names, struct favor_tensor **tensor,
                                     struct favor_tensor_shape *shape) {
  enum favor_status status = favor_tensor_open_mode(context, path, name, names->layout, names->io, tensor);
  if (status == FAVOR_OK) favor_tensor_shape(*tensor, shape);
  return status;
}

static enum favor_status read_segments(struct favor_context *context, const char *path, const struct input_names *names,
                                       struct inputs *inputs) {
  int64_t n_values;
  enum favor_status status =
      favor_int64_read(context, path, names->segments, names->is_segments_required, &n_values, &inputs->segments);
  if (status != FAVOR_OK || !inputs->segments) return status;
  inputs->n_segments = n_values - 1;
  if (n_values < 2) {
    dist_fail(context, FAVOR_EDATA, "%s: dataset %.64s has %lld offsets; segments need at least two, 0 and the tokens",
              path, names->segments, (long long)n_values);
  }
  return dist_agree(context, DIST_SITE_COMMAND, 0, "");
}

enum favor_status inputs_open(struct favor_context *context, const char *path, const struct input_names *names,
                              struct inputs *inputs) {
  memset(inputs, 0, sizeof *inputs);
  enum favor_status status = open_tensor(context, path, names->query, names, &inputs->q, &inputs->q_shape);
  if (status == FAVOR_OK) {
    status = open_tensor(context, path, names->key, names, &inputs->k, &inputs->k_shape);
  }
  if (status == FAVOR_OK) {
    status = open_tensor(context, path, names->value, names, &inputs->v, &inputs->v_shape);
  }
  if (status == FAVOR_OK) {
    check_shapes(context, path, names, inputs);
    status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  }
  if (status == FAVOR_OK) status = read_segments(context, path, names, inputs);
  if (status != FAVOR_OK) inputs_close(inputs);
  return status;
}

void inputs_close(struct inputs *inputs) {
  favor_tensor_close(&inputs->q);
  favor_tensor_close(&inputs->k);
  favor_tensor_close(&inputs->v);
  free(inputs->segments);
  inputs->segments = NULL;
}

void inputs_describe(const struct inputs *inputs, struct favor_problem *problem) {
  problem->batch = inputs->q_shape.batch;
  problem->heads = inputs->q_shape.heads;
  problem->kv_heads = inputs->k_shape.heads;
  problem->tokens = inputs->q_shape.tokens;
  problem->key_width = inputs->q_shape.width;
  problem->value_width = inputs->v_shape.width;
  problem->segments = inputs->segments;
  problem->n_segments = inputs->n_segments;
}

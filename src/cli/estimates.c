#include "cli/estimates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dist/agree.h"
#include "feature/map.h"

enum kind { KEY_SHIFT, BALANCE, OPRF_A, KEY_MAX };

static const char *const names[ESTIMATES_MOST] = {[KEY_SHIFT] = "estimates/key_shift",
                                                  [BALANCE] = "estimates/balance",
                                                  [OPRF_A] = "estimates/oprf_a",
                                                  [KEY_MAX] = "estimates/key_max"};

static bool is_used(const struct favor_problem *problem, int kind) {
  if (problem->method != FAVOR_METHOD_FAVOR) return false;
  return kind == KEY_SHIFT ? problem->key_shift != FAVOR_KEY_SHIFT_NONE
         : kind == BALANCE ? problem->balance != FAVOR_BALANCE_NONE
         : kind == OPRF_A  ? problem->map == FAVOR_MAP_OPRF
                           : map_needs_key_max(problem);
}

static bool is_matrix(const struct favor_problem *problem, int kind) {
  return kind == BALANCE && problem->balance == FAVOR_BALANCE_FULL;
}

bool estimates_are_used(const struct favor_problem *problem) {
  return is_used(problem, KEY_SHIFT) || is_used(problem, BALANCE) || is_used(problem, OPRF_A) ||
         is_used(problem, KEY_MAX);
}

/* [key heads][D], [key heads][D][D], or [key heads][1], as a tensor. */
static struct favor_tensor_shape shape_of(const struct favor_problem *problem, int kind) {
  const int64_t heads = problem->batch * problem->kv_heads;
  const bool has_matrix = is_matrix(problem, kind);
  return (struct favor_tensor_shape){.n_dims = has_matrix ? 3 : 2,
                                     .batch = 1,
                                     .heads = has_matrix ? heads : 1,
                                     .tokens = has_matrix ? problem->key_width : heads,
                                     .width = kind == OPRF_A || kind == KEY_MAX ? 1 : problem->key_width,
                                     .type = FAVOR_FLOAT64,
                                     .layout = FAVOR_HEADS_FIRST,
                                     .is_contiguous = true};
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void check_values(struct favor_context *context, const char *path, int kind, int64_t n, const double *values) {
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(values[i])) continue;
    dist_fail(context, FAVOR_EDATA, "%s: dataset %s holds NaN or Inf", path, names[kind]);
    return;
  }
}

/* Local, the same on every rank. */
static void check_shape(struct favor_context *context, const char *path, const struct favor_problem *problem, int kind,
                        int n_dims, const int64_t *dims, const double *values) {
  const struct favor_tensor_shape shape = shape_of(problem, kind);
  const int64_t matrix[] = {shape.heads, shape.tokens, shape.width}, *wanted = matrix + 3 - shape.n_dims;
  bool is_right = n_dims == shape.n_dims;
  for (int i = 0; i < n_dims && is_right; i++) is_right = dims[i] == wanted[i];
  if (is_right) {
    check_values(context, path, kind, shape.heads * shape.tokens * shape.width, values);
    return;
  }
  char found[96] = "";
  for (int i = 0, n = 0; i < n_dims; i++)
    n += snprintf(found + n, sizeof found - (size_t)n, "[%lld]", (long long)dims[i]);
  dist_fail(context, FAVOR_EDATA,
            "%s: dataset %s is %s; %lld key heads of width %lld need [%lld][%lld]%s: give an output of attend on the "
            "same shape and with the same --key-shift, --balance, --map and --key-max",
            path, names[kind], found, (long long)(problem->batch * problem->kv_heads), (long long)problem->key_width,
            (long long)wanted[0], (long long)wanted[1], is_matrix(problem, kind) ? "[the same]" : "");
}

enum favor_status estimates_read(struct favor_context *context, const char *path, const struct favor_problem *problem,
                                 struct estimates_file *read) {
  double **const values[ESTIMATES_MOST] = {&read->key_shift, &read->balance, &read->oprf_a, &read->key_max};
  enum favor_status status = FAVOR_OK;
  *read = (struct estimates_file){0};
  if (!estimates_are_used(problem)) return FAVOR_OK;
  for (int kind = 0; kind < ESTIMATES_MOST && status == FAVOR_OK; kind++) {
    int n_dims;
    int64_t dims[4];
    if (!is_used(problem, kind)) continue;
    status = favor_double_read(context, path, names[kind], &n_dims, dims, values[kind]);
    if (status == FAVOR_OK) check_shape(context, path, problem, kind, n_dims, dims, *values[kind]);
  }
  if (status == FAVOR_OK) status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status != FAVOR_OK) estimates_release(read);
  return status;
}

struct favor_estimates estimates_of(const struct estimates_file *read) {
  return (struct favor_estimates){
      .key_shift = read->key_shift, .balance = read->balance, .oprf_a = read->oprf_a, .key_max = read->key_max};
}

void estimates_release(struct estimates_file *read) {
  free(read->key_shift);
  free(read->balance);
  free(read->oprf_a);
  free(read->key_max);
  *read = (struct estimates_file){0};
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

int estimates_tensors(const struct favor_problem *problem, struct favor_output_tensor *tensors) {
  int n = 0;
  for (int kind = 0; kind < ESTIMATES_MOST; kind++) {
    if (is_used(problem, kind)) {
      tensors[n++] = (struct favor_output_tensor){.name = names[kind], .shape = shape_of(problem, kind)};
    }
  }
  return n;
}

void estimates_write(struct favor_output_file *file, int first, const struct favor_problem *problem,
                     const struct favor_shard *shard, const struct favor_estimates *estimates) {
  const double *const values[ESTIMATES_MOST] = {estimates->key_shift, estimates->balance, estimates->oprf_a,
                                                estimates->key_max};
  const int64_t begin = shard->kv_head_begin, end = shard->kv_head_end;
  for (int kind = 0; kind < ESTIMATES_MOST; kind++) {
    if (!is_used(problem, kind)) continue;
    if (is_matrix(problem, kind)) {
      favor_output_write(file, first++, begin, end, 0, problem->key_width, FAVOR_PRECISION_F64, values[kind]);
    } else {
      favor_output_write(file, first++, 0, 1, begin, end, FAVOR_PRECISION_F64, values[kind]);
    }
  }
}

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "feature/map.h"
#include "plan/method.h"

struct favor_problem favor_problem_default(void) {
  return (struct favor_problem){.batch = 1,
                                .heads = 1,
                                .kv_heads = 1,
                                .key_width = 64,
                                .value_width = 64,
                                .features = 256,
                                .window = -1,
                                .lsh_rounds = 4,
                                .lsh_chunk = 64,
                                .kernel = "auto",
                                .eps = -1};
}

/* Widths and features are kept below 2^24 and arrays below 2^62 elements, so that products never overflow. */
#define MAX_WIDTH (INT64_C(1) << 24)
#define MAX_TOKENS (INT64_C(1) << 48)
#define MAX_ROUNDS 64

/* The projection times sqrt(scale) stays within float. */
#define LEAST_SCALE 1e-30
#define MOST_SCALE 1e30

static void check_sizes(struct favor_context *context, const struct favor_problem *problem) {
  const struct {
    const char *name;
    int64_t value, least, most;
  } sizes[] = {
      {"batch", problem->batch, 1, MAX_WIDTH},
      {"heads", problem->heads, 1, MAX_WIDTH},
      {"kv_heads", problem->kv_heads, 1, MAX_WIDTH},
      {"tokens", problem->tokens, 0, MAX_TOKENS},
      {"key width", problem->key_width, 1, MAX_WIDTH},
      {"value width", problem->value_width, 1, MAX_WIDTH},
      {"features", problem->features, 1, MAX_WIDTH},
      {"window", problem->window, -1, MAX_TOKENS},
      {"global tokens", problem->global_tokens, 0, MAX_TOKENS},
      {"lsh rounds", problem->lsh_rounds, 1, MAX_ROUNDS},
      {"lsh chunk", problem->lsh_chunk, 1, MAX_TOKENS},
  };
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    if (sizes[i].value >= sizes[i].least && sizes[i].value <= sizes[i].most) continue;
    dist_fail(context, FAVOR_EUSAGE, "%s is %lld: it must be from %lld to %lld", sizes[i].name,
              (long long)sizes[i].value, (long long)sizes[i].least, (long long)sizes[i].most);
  }
  if (problem->kv_heads >= 1 && problem->heads % problem->kv_heads != 0) {
    dist_fail(context, FAVOR_EUSAGE, "heads (%lld) must be a multiple of key heads (%lld)", (long long)problem->heads,
              (long long)problem->kv_heads);
  }
}

static const char *const precision_names[] = {"f32", "f64", "bf16"};

/* The precision has no kernel with the map, or not the one that is asked for. */
static void check_kernel_of_map(struct favor_context *context, const struct favor_problem *problem) {
  const struct map *map = map_at(problem->map);
  const int precision = (int)problem->precision;
  const char *with = map_rows(problem) == map->rows ? "" : " with an eps or a guard of the normaliser";
  char able[128] = "";
  for (int i = 0, n = 0; kernel_at(i); i++) {
    if (!kernel_find(kernel_at(i)->name, precision, map_rows(problem))) continue;
    n += snprintf(able + n, sizeof able - (size_t)n, "%s%s", n > 0 ? ", " : "", kernel_at(i)->name);
  }
  if (able[0] == '\0') {
    dist_fail(context, FAVOR_EUSAGE, "no kernel has map %s%s in precision %s; use precision f32 or f64", map->name,
              with, precision_names[precision]);
    return;
  }
  dist_fail(context, FAVOR_EUSAGE, "kernel %s does not have map %s%s; in precision %s these do: %s", problem->kernel,
            map->name, with, precision_names[precision], able);
}

static void check_kernel(struct favor_context *context, const struct favor_problem *problem) {
  const char *const *names = precision_names;
  const int precision = (int)problem->precision;
  if (kernel_find(problem->kernel, precision, map_rows(problem))) return;
  if (kernel_find(problem->kernel, precision, NULL)) {
    check_kernel_of_map(context, problem);
    return;
  }
  const struct kernel *best = kernel_find("auto", precision, NULL);
  if (!best) {
    dist_fail(context, FAVOR_EUSAGE, "no kernel of this machine has precision %s; use precision f32", names[precision]);
    return;
  }
  for (int other = 0; other < KERNEL_N_PRECISIONS; other++) {
    if (!kernel_find(problem->kernel, other, NULL)) continue;
    dist_fail(context, FAVOR_EUSAGE,
              "kernel %s has no precision %s; use precision %s with it, or kernel %s for precision %s", problem->kernel,
              names[precision], names[other], best->name, names[precision]);
    return;
  }
  dist_fail(context, FAVOR_EUSAGE, "kernel %s does not exist or this machine cannot run it", problem->kernel);
}

/* eps of a size that products of two of it still have in float. */
#define LEAST_EPS 1e-30
#define MOST_EPS 1e30

static void check_eps(struct favor_context *context, const struct favor_problem *problem) {
  const struct map *map = map_at(problem->map);
  const double eps = map_eps(problem->map, problem->eps);
  if (!map->is_generalised && !map->plain_rows && eps > 0) {
    dist_fail(context, FAVOR_EUSAGE, "eps is %g: map %s needs none and takes none; give eps 0", eps, map->name);
  } else if (eps != 0 && !(eps >= LEAST_EPS && eps <= MOST_EPS)) {
    dist_fail(context, FAVOR_EUSAGE, "eps is %g: it must be 0, or from %g to %g", eps, LEAST_EPS, MOST_EPS);
  }
}

/* Key maximum and guard, which packages have beside exponential features alone. */
static void check_plain_form(struct favor_context *context, const struct favor_problem *problem) {
  const struct map *map = map_at(problem->map);
  const bool has_guard = problem->guard_rule != FAVOR_GUARD_NONE;
  if (!map->plain_rows && (has_guard || problem->key_max != FAVOR_KEY_MAX_NONE)) {
    dist_fail(context, FAVOR_EUSAGE, "map %s takes no %s; maps positive and hyperbolic do", map->name,
              has_guard ? "guard of the normaliser" : "key maximum (--key-max)");
  } else if (has_guard && !(problem->guard >= LEAST_EPS && problem->guard <= MOST_EPS)) {
    dist_fail(context, FAVOR_EUSAGE, "guard is %g: it must be from %g to %g", problem->guard, LEAST_EPS, MOST_EPS);
  }
}

/* Maps that can answer with a quotient of nothing are not to be met by chance. */
static void check_normaliser(struct favor_context *context, const struct favor_problem *problem) {
  const struct map *map = map_at(problem->map);
  if (problem->is_negative_allowed || !map_can_vanish(problem->map, map_eps(problem->map, problem->eps))) return;
  if (map->sign == MAP_SIGNED) {
    dist_fail(context, FAVOR_EUSAGE,
              "map %s has negative features, so that normalisers can vanish and outputs be anything; use a map of "
              "positive features (positive, relu, ...), or allow it (--allow-negative)",
              map->name);
  } else {
    dist_fail(context, FAVOR_EUSAGE,
              "map %s with eps 0 can have only features of 0, so that normalisers can vanish; give eps above 0 (1e-3 "
              "is usual), use another map, or allow it (--allow-negative)",
              map->name);
  }
}

static void check_map(struct favor_context *context, const struct favor_problem *problem) {
  const struct map *map = map_at(problem->map);
  if (!map->name) {
    dist_fail(context, FAVOR_EUSAGE, "map %d is not in this version", (int)problem->map);
    return;
  }
  check_eps(context, problem);
  check_plain_form(context, problem);
  check_normaliser(context, problem);
  if (problem->projection != FAVOR_PROJECTION_NONE) return;
  if (!map->is_generalised) {
    dist_fail(context, FAVOR_EUSAGE,
              "map %s is an estimate over random rows: projection none is for relu, elu and "
              "other generalised maps",
              map->name);
  } else if (problem->features != problem->key_width) {
    dist_fail(context, FAVOR_EUSAGE, "features is %lld: with projection none it must be the key width, %lld",
              (long long)problem->features, (long long)problem->key_width);
  }
}

static void check_choices(struct favor_context *context, const struct favor_problem *problem) {
  const struct {
    const char *name;
    int value, n;
  } choices[] = {
      {"method", (int)problem->method, FAVOR_METHOD_LSH + 1},
      {"map", (int)problem->map, FAVOR_MAP_IDENTITY + 1},
      {"key_max", (int)problem->key_max, FAVOR_KEY_MAX_TENSOR + 1},
      {"guard_rule", (int)problem->guard_rule, FAVOR_GUARD_SMALL + 1},
      {"projection", (int)problem->projection, FAVOR_PROJECTION_NONE + 1},
      {"row_norm", (int)problem->row_norm, FAVOR_ROW_NORM_CHI + 1},
      {"key_shift", (int)problem->key_shift, FAVOR_KEY_SHIFT_MEAN + 1},
      {"balance", (int)problem->balance, FAVOR_BALANCE_FULL + 1},
      {"precision", (int)problem->precision, FAVOR_PRECISION_BF16 + 1},
      {"scan", (int)problem->scan, FAVOR_SCAN_NODES + 1},
  };
  for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
    if (choices[i].value >= 0 && choices[i].value < choices[i].n) continue;
    dist_fail(context, FAVOR_EUSAGE, "%s %d does not exist", choices[i].name, choices[i].value);
    return;
  }
  bool is_scale_valid = problem->scale == 0 || (problem->scale >= LEAST_SCALE && problem->scale <= MOST_SCALE);
  if (!is_scale_valid) {
    dist_fail(context, FAVOR_EUSAGE, "scale is %g: it must be from %g to %g, or 0 for width^-1/2", problem->scale,
              LEAST_SCALE, MOST_SCALE);
  }
  if (problem->method == FAVOR_METHOD_FAVOR) check_map(context, problem);
  check_kernel(context, problem);
  /* A projection may be given on rank 0 only, and its rows may have any lengths. */
  if (problem->method == FAVOR_METHOD_FAVOR && problem->map == FAVOR_MAP_OPRF &&
      problem->row_norm == FAVOR_ROW_NORM_SQRT) {
    dist_fail(
        context, FAVOR_EUSAGE,
        "the oprf map weighs rows of the projection by their lengths, which must be chi's: with rows of one length "
        "it would estimate another kernel; use row norm chi");
  }
  const bool is_moved = problem->key_shift != FAVOR_KEY_SHIFT_NONE || problem->balance != FAVOR_BALANCE_NONE;
  if (problem->method == FAVOR_METHOD_FAVOR && is_moved && map_rows(problem)) {
    dist_fail(context, FAVOR_EUSAGE,
              "key shift and balance leave softmax attention as it is, which map %s with this eps and guard does not "
              "estimate; use them with positive, hyperbolic or oprf as they are",
              map_at(problem->map)->name);
  }
  if (problem->method != FAVOR_METHOD_FAVOR && problem->precision == FAVOR_PRECISION_BF16) {
    dist_fail(context, FAVOR_EUSAGE, "precision bf16 is for the products of method favor; use f32 or f64");
  }
  const bool is_blas_only = problem->method != FAVOR_METHOD_FAVOR && problem->method != FAVOR_METHOD_MEAN &&
                            problem->method != FAVOR_METHOD_COPY;
  if (is_blas_only && strcmp(problem->kernel, "auto") && strcmp(problem->kernel, "blas")) {
    dist_fail(context, FAVOR_EUSAGE, "this method has no products but those of BLAS; use kernel blas, or auto");
  }
  if (problem->threads < 0 || problem->block_tokens < 0 || problem->memory_bytes < 0 || problem->blocks_held < 0 ||
      problem->caller_bytes < 0) {
    dist_fail(context, FAVOR_EUSAGE,
              "threads, block_tokens, memory_bytes, blocks_held and caller_bytes must not be negative");
  }
}

/* The window's weights are those of softmax: what is outside must be an estimate of them. */
static void check_window(struct favor_context *context, const struct favor_problem *problem) {
  if (problem->method != FAVOR_METHOD_FAVOR || problem->window < 0) return;
  if (problem->global_tokens > 0) {
    dist_fail(context, FAVOR_EUSAGE, "global tokens are for method window; with method favor leave them out");
  }
  if (!map_estimates_softmax(problem->map) || map_rows(problem)) {
    dist_fail(context, FAVOR_EUSAGE,
              "a window joins exact softmax with features that estimate it: use map positive, hyperbolic or oprf, "
              "without eps and guard");
  }
  if (problem->precision == FAVOR_PRECISION_BF16) {
    dist_fail(context, FAVOR_EUSAGE,
              "a window with method favor has precisions f32 and f64; bf16 is for features alone");
  }
}

static void check_method(struct favor_context *context, const struct favor_problem *problem) {
  if (method_of(problem) && (problem->block_tokens > 0 || problem->scan != FAVOR_SCAN_AUTO)) {
    dist_fail(context, FAVOR_EUSAGE,
              "this method takes a rank's tokens at once, and its states meet in a way of its own; leave %s out",
              problem->block_tokens > 0 ? "block_tokens" : "scan");
  }
  if (problem->method == FAVOR_METHOD_WINDOW && problem->window < 0) {
    dist_fail(context, FAVOR_EUSAGE, "method window needs a window: how many tokens on each side, 0 or more");
  }
  if (problem->method == FAVOR_METHOD_LINFORMER && problem->is_causal) {
    dist_fail(context, FAVOR_EUSAGE,
              "method linformer cannot be causal: each of its rows is a sum over all tokens of a segment; leave causal "
              "off, or use another method");
  }
}

static void check_grid(struct favor_context *context, const struct favor_problem *problem) {
  int64_t heads = problem->grid_heads, tokens = problem->grid_tokens;
  if (heads == 0 && tokens == 0) return;
  if (heads < 1 || tokens < 1 || heads > context->size || tokens > context->size || heads * tokens > context->size) {
    dist_fail(context, FAVOR_EUSAGE, "grid %lldx%lld does not fit: heads times tokens must be from 1 to the %d ranks",
              (long long)heads, (long long)tokens, context->size);
  }
}

static void check_segments(struct favor_context *context, const struct favor_problem *problem) {
  const int64_t *offsets = problem->segments;
  if (!offsets) return;
  if (problem->n_segments < 1) {
    dist_fail(context, FAVOR_EDATA, "segments: there must be at least two offsets, 0 and the number of tokens");
    return;
  }
  if (offsets[0] != 0) {
    dist_fail(context, FAVOR_EDATA, "segments: the first offset is %lld and must be 0", (long long)offsets[0]);
  }
  for (int64_t s = 0; s < problem->n_segments; s++) {
    if (offsets[s + 1] >= offsets[s]) continue;
    dist_fail(context, FAVOR_EDATA,
              "segments: offset %lld (%lld) is below the one before it (%lld); they must not decrease",
              (long long)(s + 1), (long long)offsets[s + 1], (long long)offsets[s]);
    return;
  }
  if (offsets[problem->n_segments] != problem->tokens) {
    dist_fail(context, FAVOR_EDATA, "segments: the last offset is %lld and must be the number of tokens, %lld",
              (long long)offsets[problem->n_segments], (long long)problem->tokens);
  }
}

void problem_check(struct favor_context *context, const struct favor_problem *problem) {
  check_sizes(context, problem);
  check_choices(context, problem);
  check_window(context, problem);
  check_method(context, problem);
  check_grid(context, problem);
  check_segments(context, problem);
  if (!dist_has_failed(context)) estimate_check(context, problem);
  if (!dist_has_failed(context)) key_max_check(context, problem);
}

uint64_t problem_digest(const struct favor_problem *problem, const struct kernel *kernel) {
  const int64_t integers[] = {problem->batch,
                              problem->heads,
                              problem->kv_heads,
                              problem->tokens,
                              problem->key_width,
                              problem->value_width,
                              problem->n_segments,
                              problem->is_causal,
                              (int64_t)problem->method,
                              (int64_t)problem->map,
                              problem->is_negative_allowed,
                              (int64_t)problem->key_max,
                              (int64_t)problem->guard_rule,
                              problem->features,
                              (int64_t)problem->projection,
                              (int64_t)problem->row_norm,
                              problem->has_projection_per_head,
                              (int64_t)problem->seed,
                              (int64_t)problem->layer,
                              (int64_t)problem->redraw,
                              problem->window,
                              problem->global_tokens,
                              problem->lsh_rounds,
                              problem->lsh_chunk,
                              (int64_t)problem->precision,
                              (int64_t)problem->key_shift,
                              (int64_t)problem->balance,
                              problem->grid_heads,
                              problem->grid_tokens,
                              (int64_t)problem->scan,
                              problem->is_streamed,
                              problem->block_tokens,
                              problem->memory_bytes,
                              problem->blocks_held,
                              problem->caller_bytes};
  uint64_t digest = dist_digest(DIST_DIGEST_START, integers, sizeof integers);
  digest = dist_digest(digest, &problem->scale, sizeof problem->scale);
  digest = dist_digest(digest, &problem->eps, sizeof problem->eps);
  digest = dist_digest(digest, &problem->guard, sizeof problem->guard);
  if (problem->segments && problem->n_segments > 0) {
    digest = dist_digest(digest, problem->segments, (size_t)(problem->n_segments + 1) * sizeof *problem->segments);
  }
  digest = key_max_digest(problem, estimate_digest(problem, digest));
  if (kernel) {
    const char *blas = kernel_blas_description();
    digest = dist_digest(digest, kernel->name, strlen(kernel->name));
    digest = dist_digest(digest, blas, strlen(blas));
  }
  return digest;
}

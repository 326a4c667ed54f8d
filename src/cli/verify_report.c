#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/certificate.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "cli/verify.h"
#include "dist/agree.h"
#include "feature/map.h"

/* The error that fails: of all sampled rows together, and of any one of them (see check_head.worst_error). Rounding to
 * bfloat16 leaves 2.3e-3 and 5e-3 where q and k have a spread of 0.5 at D=64, and 5e-3 and 1.6e-2 at a spread of 1;
 * where it leaves more than is allowed, bf16 does not suit the input. */
static const struct {
  double all, row;
} tolerances[] = {
    [FAVOR_PRECISION_F32] = {1e-4, 1e-4}, [FAVOR_PRECISION_F64] = {1e-4, 1e-4}, [FAVOR_PRECISION_BF16] = {1e-2, 5e-2}};

void verify_fail_memory(struct verify *verify) {
  dist_fail(verify->context, FAVOR_ENOMEM, "no memory to check %lld rows of %lld heads; lower --rows",
            (long long)verify->recompute.n_rows, (long long)verify->recompute.heads);
}

struct verdict {
  struct check_head *heads; /* [heads] */
  double error;             /* of all sampled rows and heads against the definition */
  struct check_certificate certificate;
  int64_t worst_head;
  double worst_error;
  bool is_passed;
};

/* Rank 0. verdict->heads is the caller's. */
static void judge(const struct verify *verify, struct verdict *verdict) {
  static const struct check_type types[] = {[FAVOR_FLOAT16] = {11, -14},
                                            [FAVOR_BFLOAT16] = {8, -126},
                                            [FAVOR_FLOAT32] = {24, -126},
                                            [FAVOR_FLOAT64] = {53, -1022}};
  struct check_head sum = {0};
  verdict->worst_error = -1;
  for (int64_t h = 0; h < verify->recompute.heads; h++) {
    struct check_head *head = &verdict->heads[h];
    check_judge(verify->recompute.check, h, verify->out_rows, types[verify->out_shape.type], head);
    check_head_add(&sum, head);
    if (head->worst_error > verdict->worst_error) {
      verdict->worst_error = head->worst_error;
      verdict->worst_head = h;
    }
  }
  verdict->error = check_ratio(sum.definition_error, sum.definition);
  verdict->certificate = check_certify(&sum, verify->recompute.n_rows);
  verdict->is_passed =
      verdict->error <= tolerances[verify->precision].all && verdict->worst_error <= tolerances[verify->precision].row;
}

static int64_t worst_token(const struct verify *verify, const struct check_head *head) {
  return verify->recompute.n_rows > 0 ? verify->recompute.rows[head->worst_row].token
                                      : -1; /* no token was there to check */
}

static json_t *pack_worst(const struct verify *verify, const struct verdict *verdict, int64_t head) {
  return json_pack("{s:I, s:I, s:o}", "head", (json_int_t)head, "token",
                   (json_int_t)worst_token(verify, &verdict->heads[head]), "relative_error",
                   certificate_number(verdict->heads[head].worst_error));
}

static json_t *pack_heads(const struct verify *verify, const struct verdict *verdict) {
  json_t *list = json_array();
  for (int64_t h = 0; h < verify->recompute.heads; h++) {
    const struct check_head *head = &verdict->heads[h];
    json_array_append_new(list,
                          json_pack("{s:o, s:o, s:o, s:o}", "relative_error_definition",
                                    certificate_number(check_ratio(head->definition_error, head->definition)), "worst",
                                    pack_worst(verify, verdict, h), "relative_error_exact",
                                    certificate_number(check_ratio(head->exact_error, head->exact)), "mean_error_exact",
                                    certificate_number(check_ratio(head->mean_error, head->exact))));
  }
  return list;
}

static struct certificate_subject subject_of(const struct verify *verify) {
  const struct check_problem *definition = &verify->definition;
  bool is_features = definition->definition == CHECK_FEATURES;
  bool is_plain = definition->eps == 0 && definition->guard_rule == FAVOR_GUARD_NONE;
  return (struct certificate_subject){.is_features = is_features,
                                      .estimates_softmax =
                                          is_features && is_plain && !map_at(definition->map)->is_generalised};
}

/* Rank 0; NULL when out of memory. */
static json_t *pack(const struct verify *verify, const struct verdict *verdict) {
  const bool is_defined = verify->definition.definition != CHECK_NONE;
  const struct certificate_subject subject = subject_of(verify);
  json_t *object = report_object(verify->command);
  json_t *more = json_pack("{s:I, s:I, s:s, s:f, s:f, s:o, s:o, s:o, s:o, s:o, s:{s:f}, s:b}", "rows",
                           (json_int_t)verify->recompute.n_rows, "heads", (json_int_t)verify->recompute.heads,
                           "out_type", favor_type_name(verify->out_shape.type), "tolerance",
                           tolerances[verify->precision].all, "row_tolerance", tolerances[verify->precision].row,
                           "relative_error_definition", certificate_number(is_defined ? verdict->error : NAN), "worst",
                           pack_worst(verify, verdict, verdict->worst_head), "relative_error_exact",
                           certificate_number(verdict->certificate.relative_error), "mean_error_exact",
                           certificate_number(verdict->certificate.mean_error), "certificate",
                           certificate_pack(&verdict->certificate, &subject), "seconds", "total",
                           clock_now_s() - verify->command->start_s, "passed", (int)verdict->is_passed);
  bool is_complete = object && more && json_object_update(object, more) == 0;
  json_decref(more);
  if (is_complete && options_flag(verify->command->options, OPTION_VERBOSE)) {
    is_complete = json_object_set_new(object, "per_head", pack_heads(verify, verdict)) == 0;
  }
  if (is_complete) return object;
  json_decref(object);
  return NULL;
}

static void print_head(const struct verify *verify, const struct verdict *verdict, int64_t h) {
  const struct check_head *head = &verdict->heads[h];
  printf("  head %-5lld definition %.2e, worst row %.2e (token %lld), exact softmax %.2e, mean of v %.2e\n",
         (long long)h, check_ratio(head->definition_error, head->definition), head->worst_error,
         (long long)worst_token(verify, head), check_ratio(head->exact_error, head->exact),
         check_ratio(head->mean_error, head->exact));
}

static void print_method(const struct verify *verify) {
  const struct check_problem *definition = &verify->definition;
  const char *direction = verify->problem.is_causal ? "causal" : "bidirectional";
  if (definition->definition == CHECK_FEATURES)
    printf("%s, %s, %lld features)\n", direction, option_at(OPTION_MAP)->choices[definition->map],
           (long long)definition->features);
  else
    printf("%s, %s)\n", direction, verify->method);
}

static void print_table(const struct verify *verify, const struct verdict *verdict) {
  const struct check_head *worst = &verdict->heads[verdict->worst_head];
  printf("%s: %lld row%s of %lld head%s, checked against %s (", verify->out_path, (long long)verify->recompute.n_rows,
         verify->recompute.n_rows == 1 ? "" : "s", (long long)verify->recompute.heads,
         verify->recompute.heads == 1 ? "" : "s", verify->in_path);
  print_method(verify);
  if (verify->definition.definition == CHECK_NONE) {
    printf("  against the definition      not done: method %s has none that single rows tell\n", verify->method);
  } else {
    printf("  against the definition      %.2e   at most %.0e, beyond half a last place of %s\n", verdict->error,
           tolerances[verify->precision].all, favor_type_name(verify->out_shape.type));
    printf("  its worst row               %.2e   at most %.0e; head %lld, token %lld\n", verdict->worst_error,
           tolerances[verify->precision].row, (long long)verdict->worst_head, (long long)worst_token(verify, worst));
  }
  const struct certificate_subject subject = subject_of(verify);
  certificate_print(&verdict->certificate, &subject);
  if (options_flag(verify->command->options, OPTION_VERBOSE)) {
    for (int64_t h = 0; h < verify->recompute.heads; h++) print_head(verify, verdict, h);
  }
  puts(verdict->is_passed ? "passed" : "failed");
}

static void fail_verdict(struct verify *verify, const struct verdict *verdict) {
  const struct check_head *worst = &verdict->heads[verdict->worst_head];
  const int64_t stride = verify->recompute.heads * verify->problem.value_width;
  const double *out = verify->out_rows + worst->worst_row * stride + verdict->worst_head * verify->problem.value_width;
  bool is_finite = true;
  for (int64_t e = 0; e < verify->problem.value_width; e++) is_finite = is_finite && isfinite(out[e]);
  const long long head = verdict->worst_head, token = worst_token(verify, worst);
  if (!is_finite) {
    dist_fail(verify->context, FAVOR_EVERIFY, "%s: verification failed: out holds NaN or Inf at head %lld, token %lld",
              verify->out_path, head, token);
    return;
  }
  dist_fail(
      verify->context, FAVOR_EVERIFY,
      "%s: verification failed: relative error %.3g against the definition, worst at head %lld, token %lld (%.3g); "
      "at most %.0e is allowed, and %.0e in a row; run attend on %s again%s",
      verify->out_path, verdict->error, head, token, verdict->worst_error, tolerances[verify->precision].all,
      tolerances[verify->precision].row, verify->in_path,
      verify->precision == FAVOR_PRECISION_BF16 ? ", with --precision f32 if bf16 is too coarse for it" : "");
}

void verify_report(struct verify *verify) {
  const struct options *options = verify->command->options;
  struct verdict verdict = {.heads = memory_zeroed((size_t)verify->recompute.heads, sizeof *verdict.heads)};
  if (!verdict.heads) {
    verify_fail_memory(verify);
    return;
  }
  judge(verify, &verdict);
  if (options_flag(options, OPTION_JSON))
    report_json(verify->command, pack(verify, &verdict));
  else if (!options_flag(options, OPTION_QUIET))
    print_table(verify, &verdict);
  if (!verdict.is_passed) fail_verdict(verify, &verdict);
  free(verdict.heads);
}

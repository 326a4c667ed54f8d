/* The certificate of a run: exact attention for rows of the output that was just written, as it is stored. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/attend.h"
#include "cli/option_table.h"
#include "dist/agree.h"

int64_t attend_certified_rows(const struct options *options) {
  const bool is_implied =
      options_number(options, OPTION_TARGET_ERROR) > 0 && !options_is_given(options, OPTION_CERTIFY);
  return is_implied ? PILOT_ROWS : options_integer(options, OPTION_CERTIFY);
}

void attend_reserve_certificate(const struct attend *attend, struct favor_attribute *attributes, int *n) {
  const int64_t rows = attend_certified_rows(attend->command->options), tokens = attend->problem.tokens;
  const struct check_certificate unknown = {rows < tokens ? rows : tokens, NAN, NAN, NAN};
  if (rows == 0) return;
  certificate_attributes(&unknown, attributes + *n);
  *n += CERTIFICATE_N_ATTRIBUTES;
}

/* Collective, but only the opening: some of the rows, of this rank's heads. */
static enum favor_status read_out_rows(struct attend *attend, const struct recompute *recompute, double *out_rows) {
  const struct favor_shard *shard = &attend->shard;
  const enum favor_layout layout = (enum favor_layout)options_integer(attend->command->options, OPTION_LAYOUT);
  struct favor_tensor *out;
  enum favor_status status = favor_tensor_open(attend->context, favor_output_part(attend->output), "out", layout, &out);
  if (status != FAVOR_OK) return status;
  for (int64_t i = 0; i < recompute->n_rows && out_rows && !dist_has_failed(attend->context); i++) {
    const int64_t token = recompute->rows[i].token;
    if (i % attend->info.grid_tokens != attend->context->rank % attend->info.grid_tokens) continue;
    favor_tensor_read(out, shard->head_begin, shard->head_end, token, token + 1, FAVOR_PRECISION_F64,
                      out_rows + recompute_out_row(recompute, i, shard->head_begin));
  }
  favor_tensor_close(&out);
  return FAVOR_OK;
}

static enum favor_status certify(struct attend *attend, struct recompute *recompute, double **out_rows) {
  const struct options *options = attend->command->options;
  const struct check_problem nothing = {.definition = CHECK_NONE, .scale = attend_scale(attend)};
  struct favor_attribute attributes[CERTIFICATE_N_ATTRIBUTES];
  recompute_draw(recompute, attend_certified_rows(options), (uint64_t)options_integer(options, OPTION_SEED));
  if (!dist_has_failed(attend->context)) {
    *out_rows = memory_zeroed((size_t)recompute->n_rows, (size_t)recompute_out_row(recompute, 1, 0) * sizeof(double));
    if (!*out_rows) dist_fail(attend->context, FAVOR_ENOMEM, "no memory for the rows to certify; lower --certify");
  }
  enum favor_status status = read_out_rows(attend, recompute, *out_rows);
  if (status == FAVOR_OK) status = recompute_run(recompute, &nothing);
  if (status == FAVOR_OK) status = recompute_certify(recompute, *out_rows, &attend->certificate);
  if (status != FAVOR_OK) return status;
  certificate_attributes(&attend->certificate, attributes);
  favor_output_set_attributes(attend->output, attributes, CERTIFICATE_N_ATTRIBUTES);
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

enum favor_status attend_certify(struct attend *attend) {
  const struct options *options = attend->command->options;
  const double start = clock_now_s();
  if (attend_certified_rows(options) == 0) return FAVOR_OK;
  favor_output_sync(attend->output); /* other ranks read it */
  const struct recompute_inputs source =
      recompute_inputs(attend->context, options->operands[0], &attend->inputs, attend->problem.precision);
  struct recompute recompute = {.command = attend->command,
                                .what = "certify",
                                .option = "--certify",
                                .problem = &attend->problem,
                                .source = &source.source,
                                .threads = attend->info.threads,
                                .most_block_bytes = attend->problem.memory_bytes / 4};
  double *out_rows = NULL;
  attend_free_blocks(attend);
  const enum favor_status status = certify(attend, &recompute, &out_rows);
  recompute_release(&recompute);
  free(out_rows);
  attend->has_certificate = status == FAVOR_OK;
  attend->seconds[ATTEND_CERTIFY] = clock_now_s() - start;
  return status;
}

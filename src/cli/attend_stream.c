/* Blocks in, through the plan, and out. */
#include "base/clock.h"
#include "cli/attend.h"
#include "cli/progress.h"
#include "dist/agree.h"

/* After a failure of this rank the steps still go on, since other ranks wait in them; reads and writes do not. */
struct stream {
  struct attend *attend;
  enum favor_status outcome; /* the first failure that a step reported */
};

static bool has_failed(const struct stream *stream) {
  return stream->outcome != FAVOR_OK || dist_has_failed(stream->attend->context);
}

static void read_block(struct stream *stream, const struct favor_step *step) {
  struct attend *attend = stream->attend;
  const struct favor_shard *shard = &attend->shard;
  enum favor_precision precision = attend->problem.precision;
  int64_t begin = step->token_begin, end = step->token_end;
  double start = clock_now_s();
  if (step->needs & FAVOR_NEEDS_Q && !has_failed(stream)) {
    favor_tensor_read(attend->inputs.q, shard->head_begin, shard->head_end, begin, end, precision, attend->q);
  }
  if (step->needs & FAVOR_NEEDS_K && !has_failed(stream)) {
    favor_tensor_read(attend->inputs.k, shard->kv_head_begin, shard->kv_head_end, begin, end, precision, attend->k);
  }
  if (step->needs & FAVOR_NEEDS_V && !has_failed(stream)) {
    favor_tensor_read(attend->inputs.v, shard->kv_head_begin, shard->kv_head_end, begin, end, precision, attend->v);
  }
  attend->seconds[ATTEND_READ] += clock_now_s() - start;
}

static void run_block(struct stream *stream, int64_t index, const struct favor_step *step) {
  struct attend *attend = stream->attend;
  const struct favor_problem *problem = &attend->problem;
  int64_t tokens = step->token_end - step->token_begin;
  struct favor_input q = {attend->q, tokens * problem->key_width, problem->key_width};
  struct favor_input k = {attend->k, tokens * problem->key_width, problem->key_width};
  struct favor_input v = {attend->v, tokens * problem->value_width, problem->value_width};
  struct favor_output out = {attend->out, tokens * problem->value_width, problem->value_width};
  enum favor_status status = favor_plan_run_step(attend->plan, index, &q, &k, &v, &out);
  if (stream->outcome == FAVOR_OK) stream->outcome = status;
}

static void write_block(struct stream *stream, const struct favor_step *step) {
  struct attend *attend = stream->attend;
  const struct favor_shard *shard = &attend->shard;
  if (!(step->needs & FAVOR_NEEDS_OUT) || has_failed(stream)) return;
  double start = clock_now_s();
  favor_output_write(attend->output, 0, shard->head_begin, shard->head_end, step->token_begin, step->token_end,
                     attend->problem.precision, attend->out);
  attend->seconds[ATTEND_WRITE] += clock_now_s() - start;
}

/* Tokens that the steps of this rank touch, a token once for each step that reads it. */
static int64_t count_tokens(const struct favor_plan *plan) {
  int64_t tokens = 0;
  for (int64_t i = 0; i < favor_plan_n_steps(plan); i++) {
    struct favor_step step;
    favor_plan_step(plan, i, &step);
    tokens += step.token_end - step.token_begin;
  }
  return tokens;
}

enum favor_status attend_stream(struct attend *attend) {
  struct stream stream = {.attend = attend};
  struct favor_plan *plan = attend->plan;
  struct progress progress;
  int64_t done = 0;
  progress_start(&progress, attend->command, "attend", "tokens", (double)count_tokens(plan));
  favor_plan_begin(plan);
  for (int64_t i = 0; i < favor_plan_n_steps(plan); i++) {
    struct favor_step step;
    favor_plan_step(plan, i, &step);
    read_block(&stream, &step);
    run_block(&stream, i, &step);
    write_block(&stream, &step);
    done += step.token_end - step.token_begin;
    progress_update(&progress, (double)done);
  }
  progress_end(&progress);
  enum favor_status status = favor_plan_end(plan);
  struct favor_plan_times times;
  favor_plan_times(plan, &times);
  attend->seconds[ATTEND_FEATURES_STATE] = times.features_state_s;
  attend->seconds[ATTEND_REDUCE] = times.reduce_s;
  attend->seconds[ATTEND_OUTPUT] = times.output_s;
  return status;
}

/* Blocks in, through the plan, and out: while one is computed the lane reads the next and writes the last. */
#include <stdio.h>

#include "base/clock.h"
#include "cli/attend_checkpoint.h"
#include "cli/option_table.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "dist/agree.h"

struct stream {
  struct attend *attend;
  int64_t n_blocks;
  int n_held;                       /* blocks in memory: with one there is nothing to read ahead into */
  unsigned loaded[ATTEND_N_BLOCKS]; /* FAVOR_NEEDS_... that was ever read into each */
  int64_t read;                     /* ticket of the block that is read last */
  int64_t written[ATTEND_N_BLOCKS]; /* of each block that is written last; -1: none */
};

static struct attend_block *held(const struct stream *stream, int64_t index) {
  return &stream->attend->blocks[index % stream->n_held];
}

/* What a block has of an input. */
struct part {
  struct favor_tensor *tensor;
  int64_t head_begin, head_end, token_begin, token_end; /* none where the block does not need it */
  void *to;
};
enum { N_INPUTS = 3 };

/* In the order in which they are read. Its arrays are free, since the block that had them last is computed. */
static void find_parts(struct stream *stream, int64_t index, struct part parts[N_INPUTS]) {
  struct attend *attend = stream->attend;
  const struct favor_shard *shard = &attend->shard;
  const struct attend_block *to = held(stream, index);
  struct favor_block block;
  favor_plan_block(attend->plan, index, &block);
  if (attend->mode == ATTEND_ARITHMETIC) block.needs &= ~stream->loaded[index % stream->n_held];
  stream->loaded[index % stream->n_held] |= block.needs;
  const int64_t begin = block.token_begin, end = block.token_end;
  const int64_t kv_begin = shard->kv_head_begin, kv_end = shard->kv_head_end;
  const bool has_k = block.needs & FAVOR_NEEDS_K, has_v = block.needs & FAVOR_NEEDS_V,
             has_q = block.needs & FAVOR_NEEDS_Q;
  parts[0] = (struct part){attend->inputs.k, kv_begin, kv_end, begin, has_k ? end : begin, to->k};
  parts[1] = (struct part){attend->inputs.v, kv_begin, kv_end, begin, has_v ? end : begin, to->v};
  parts[2] = (struct part){attend->inputs.q, shard->head_begin, shard->head_end, begin, has_q ? end : begin, to->q};
}

/* Asks the lane for what a block needs. */
static void read_ahead(struct stream *stream, int64_t index) {
  struct part parts[N_INPUTS];
  if (index >= stream->n_blocks) return;
  find_parts(stream, index, parts);
  for (const struct part *part = parts; part < parts + N_INPUTS; part++) {
    if (part->token_begin == part->token_end) continue;
    stream->read = favor_lane_read(stream->attend->lane, part->tensor, part->head_begin, part->head_end,
                                   part->token_begin, part->token_end, stream->attend->problem.precision, part->to);
  }
}

static enum favor_status run_block(struct stream *stream, int64_t index, const struct favor_block *block) {
  struct attend *attend = stream->attend;
  const struct favor_problem *problem = &attend->problem;
  const struct attend_block *held_block = held(stream, index);
  int64_t tokens = block->token_end - block->token_begin;
  struct favor_input q = {held_block->q, tokens * problem->key_width, problem->key_width};
  struct favor_input k = {held_block->k, tokens * problem->key_width, problem->key_width};
  struct favor_input v = {held_block->v, tokens * problem->value_width, problem->value_width};
  struct favor_output out = {held_block->out, tokens * problem->value_width, problem->value_width};
  if (attend->mode == ATTEND_IO) return dist_agree(attend->context, DIST_SITE_BLOCK, 0, "");
  return favor_plan_run_block(attend->plan, index, &q, &k, &v, &out);
}

/* Outputs of a block in which this rank met something wrong are not worth writing. */
static void write_block(struct stream *stream, int64_t index, const struct favor_block *block) {
  struct attend *attend = stream->attend;
  const struct favor_shard *shard = &attend->shard;
  if (!(block->needs & FAVOR_NEEDS_OUT) || dist_has_failed(attend->context) || attend->mode == ATTEND_ARITHMETIC)
    return;
  stream->written[index % stream->n_held] =
      favor_lane_write(attend->lane, attend->output, 0, shard->head_begin, shard->head_end, block->token_begin,
                       block->token_end, attend->problem.precision, held(stream, index)->out);
}

/* What the lane was to read is read, and the block's outputs have room. */
static void wait_for_block(struct stream *stream, int64_t index) {
  struct attend *attend = stream->attend;
  const int64_t written = stream->written[index % stream->n_held];
  const int64_t last = stream->read > written ? stream->read : written;
  const double start = clock_now_s();
  if (last >= 0) favor_lane_wait(attend->lane, last);
  attend->seconds[ATTEND_READ] += clock_now_s() - start;
}

/* Collective: all ranks read what they need of a block, or nothing. The thread that calls MPI does, so nothing is read
 * ahead. */
static enum favor_status read_together(struct stream *stream, int64_t index) {
  struct attend *attend = stream->attend;
  struct part parts[N_INPUTS];
  enum favor_status status = FAVOR_OK;
  const double start = clock_now_s();
  find_parts(stream, index, parts);
  for (const struct part *part = parts; part < parts + N_INPUTS && status == FAVOR_OK; part++)
    status = favor_tensor_read_all(part->tensor, part->head_begin, part->head_end, part->token_begin, part->token_end,
                                   attend->problem.precision, part->to);
  attend->seconds[ATTEND_READ] += clock_now_s() - start;
  return status;
}

/* A block's arrays are read when this returns; the lane has begun with the next one's, unless ranks read together. */
static enum favor_status fetch_block(struct stream *stream, int64_t index) {
  const bool is_together = options_integer(stream->attend->command->options, OPTION_IO) == FAVOR_IO_MPIO;
  if (!is_together && (index == 0 || stream->n_held == 1)) read_ahead(stream, index);
  wait_for_block(stream, index);
  if (is_together) return read_together(stream, index);
  if (stream->n_held > 1) read_ahead(stream, index + 1);
  return FAVOR_OK;
}

static void wait_for_writes(struct stream *stream) {
  const double start = clock_now_s();
  favor_lane_wait(stream->attend->lane, -1);
  stream->attend->seconds[ATTEND_WRITE] += clock_now_s() - start;
}

/* What all ranks do after a block: rank 0's clock and anybody's signal decide. */
struct decision {
  bool is_checkpoint_due;
  int signal;
};

/* Collective. */
static enum favor_status decide(const struct attend *attend, struct decision *decision) {
  const double interval = options_number(attend->command->options, OPTION_CHECKPOINT_EVERY);
  const bool is_due = attend->context->rank == 0 && interval > 0 && clock_now_s() - attend->checkpointed_s >= interval;
  int64_t wishes[] = {is_due, stop_signal()};
  enum favor_status status = dist_max_int64(attend->context, wishes, 2);
  *decision = (struct decision){.is_checkpoint_due = wishes[0] != 0, .signal = (int)wishes[1]};
  return status;
}

static enum favor_status stopped(const struct attend *attend, const struct favor_position *at, int signal) {
  const char *how = attend->has_checkpoint
                        ? "the same command with --resume, on any number of ranks, goes on from there"
                        : "nothing is done yet that could be kept; start it again";
  dist_fail(attend->context, FAVOR_ESTOPPED, "stopped by %s; of %lld tokens %lld are absorbed and %lld written; %s",
            stop_signal_name(signal), (long long)attend->problem.tokens, (long long)at->tokens_absorbed,
            (long long)at->tokens_emitted, how);
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

/* Between two blocks. While the run only measures there is nothing to save. */
static enum favor_status pause(struct stream *stream, const struct favor_block *block) {
  struct attend *attend = stream->attend;
  struct decision decision;
  if (!attend->info.is_streamed) return FAVOR_OK;
  enum favor_status status = decide(attend, &decision);
  if (status != FAVOR_OK) return status;
  if ((decision.is_checkpoint_due || decision.signal != 0) && block->after.tokens_absorbed > 0) {
    wait_for_writes(stream);
    status = attend_save(attend);
  }
  return status == FAVOR_OK && decision.signal != 0 ? stopped(attend, &block->after, decision.signal) : status;
}

static enum favor_status run_blocks(struct stream *stream, struct progress *progress) {
  struct attend *attend = stream->attend;
  int64_t done = 0;
  for (int64_t i = 0; i < stream->n_blocks; i++) {
    struct favor_block block;
    favor_plan_block(attend->plan, i, &block);
    enum favor_status status = fetch_block(stream, i);
    if (status == FAVOR_OK) status = run_block(stream, i, &block);
    if (status != FAVOR_OK) return status;
    write_block(stream, i, &block);
    done += block.token_end - block.token_begin;
    progress_update(progress, (double)done);
    status = pause(stream, &block);
    if (status != FAVOR_OK) return status;
  }
  return FAVOR_OK;
}

/* Tokens that the blocks of this rank touch, a token once for each that reads it. */
static int64_t count_tokens(const struct favor_plan *plan) {
  int64_t tokens = 0;
  for (int64_t i = 0; i < favor_plan_n_blocks(plan); i++) {
    struct favor_block block;
    favor_plan_block(plan, i, &block);
    tokens += block.token_end - block.token_begin;
  }
  return tokens;
}

static void take_times(struct attend *attend) {
  struct favor_plan_times times;
  favor_plan_times(attend->plan, &times);
  attend->seconds[ATTEND_FEATURES_STATE] = times.features_state_s;
  attend->seconds[ATTEND_REDUCE] = times.reduce_s;
  attend->seconds[ATTEND_OUTPUT] = times.output_s;
}

enum favor_status attend_stream(struct attend *attend) {
  struct stream stream = {
      .attend = attend, .n_held = attend->info.is_streamed ? ATTEND_N_BLOCKS : 1, .read = -1, .written = {-1, -1}};
  struct progress progress;
  enum favor_status status = attend_begin(attend);
  if (status != FAVOR_OK) return status;
  stream.n_blocks = favor_plan_n_blocks(attend->plan);
  progress_start(&progress, attend->command, "attend", "tokens", (double)count_tokens(attend->plan));
  status = run_blocks(&stream, &progress);
  progress_end(&progress);
  wait_for_writes(&stream);
  enum favor_status end = favor_plan_end(attend->plan);
  take_times(attend);
  return status == FAVOR_OK ? end : status;
}

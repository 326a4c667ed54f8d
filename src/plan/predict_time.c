/* Seconds: every block in turn, and in it what each rank of the fullest row of the grid computes, when the states of
 * those before it can be there, and so how long it has nothing to do. All start a block together. */
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "feature/map.h"
#include "plan/method.h"
#include "plan/predict.h"
#include "plan/rates.h"

/* What one core reads and writes, where arithmetic is next to nothing. */
static const double memory_s_per_byte = 1e-10;

/* Seconds a token and key head, with the query heads that go with it; of one thread. */
struct pace {
  double absorb, emit, causal, measure, copy;
  double keep, kept; /* absorb and causal, where features are kept */
};

/* Of a rank of the row. */
struct outlook_part {
  double features_state_s, reduce_s, output_s; /* of all blocks so far */
  double states_sent;
  double before_s, beside_s, after_s; /* of the block at hand: until its states can go, while they travel, once others'
                                         are here */
  double saved_beside_s, saved_after_s; /* of these, as keys were absorbed before */
  struct span spans[2];                 /* of the block at hand */
};

struct outlook {
  const struct favor_plan *plan;
  struct pace pace;
  double delay; /* times slower, as threads share cores */
  const struct prospect *prospect;
  const struct favor_costs *costs;
  struct favor_link_costs link; /* of a message along the token axis */
  int n_batches;                /* of states that travel while others are computed */
  double batch_bytes;
  double kept; /* the share of the keys absorbed first whose features are */
  int64_t units;
  double state_bytes;
  struct outlook_part *parts; /* [plan->schedule.n_parts] */
  double n_alike;             /* blocks that the one at hand stands for */
  bool is_met;                /* a long segment's states */
  double run_s;
};

/* ---- pace -------------------------------------------------------------------------------------------------------- */

static struct rate_subject subject_of(const struct favor_plan *plan) {
  const struct favor_problem *problem = &plan->problem;
  return (struct rate_subject){.kernel = plan->engine.kernel->name,
                               .precision = problem->precision,
                               .map = problem->map,
                               .projection = problem->projection,
                               .key_width = problem->key_width,
                               .value_width = problem->value_width,
                               .features = problem->features,
                               .threads = plan->threads};
}

/* What blocks of measuring do with the g queries and the key of a token, in products a multiply-add: moments, or the
 * features of the key alone. */
static double measuring(const struct favor_plan *plan, double absorb_s) {
  const struct kernel_shape *shape = &plan->engine.shape;
  const double width = (double)plan->problem.key_width,
               products = (double)shape->directions * width + (double)shape->features * (double)shape->value_width;
  if (plan->key_max.is_measured) return absorb_s * (double)shape->directions * width / products;
  const double moments = width * (1 + (double)plan->estimate.measure.n_squares);
  return absorb_s * (double)(plan->engine.heads_per_key + 1) * moments / products;
}

static double at_least(double seconds, double bytes) { return fmax(seconds, bytes * memory_s_per_byte); }

/* Query heads that share a key head share its absorbing: the rest of a causal pass is each one's own. */
static struct pace pace_of(const struct favor_plan *plan, const struct favor_rate *rate) {
  const double g = (double)plan->engine.heads_per_key, threads = rate->threads,
               real_bytes = (double)plan->engine.real_bytes;
  const double row_bytes = (double)(plan->problem.key_width + plan->problem.value_width) * real_bytes;
  const struct pace pace = {.absorb = at_least(rate->absorb_s * threads, row_bytes),
                            .emit = at_least(g * rate->emit_s * threads, g * row_bytes),
                            .copy = 2 * g * (double)plan->problem.value_width * real_bytes * memory_s_per_byte};
  const double others = (g - 1) * fmax(0, rate->causal_s - rate->absorb_s) * threads;
  struct pace all = pace;
  all.causal = at_least(rate->causal_s * threads + others, (g + 1) * row_bytes);
  all.keep = rate->keep_s > 0 ? at_least(rate->keep_s * threads, row_bytes) : all.absorb;
  all.kept = rate->kept_s > 0 ? at_least(rate->kept_s * threads + others, (g + 1) * row_bytes) : all.causal;
  all.measure = measuring(plan, pace.absorb);
  return all;
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

/* Spread over the threads by heads and runs of tokens. */
static double spread_s(const struct outlook *outlook, double pace, int64_t tokens) {
  return outlook->delay * pace * (double)(tokens * outlook->units) / outlook->plan->threads;
}

/* Of a causal head, as there are more threads than heads. */
static int64_t count_chunks(const struct outlook *outlook, int64_t tokens) {
  const int64_t units = outlook->units, threads = outlook->plan->threads, run = outlook->plan->tokens.run_tokens;
  const int64_t n_runs = (tokens + run - 1) / run;
  const int64_t chunks = threads > units ? (threads + units - 1) / units : 1;
  return chunks <= n_runs ? chunks : n_runs > 0 ? n_runs : 1;
}

/* Keys that are absorbed first. */
static double absorb_first_s(const struct outlook *outlook, int64_t tokens) {
  const struct pace *pace = &outlook->pace;
  return spread_s(outlook, pace->absorb + outlook->kept * (pace->keep - pace->absorb), tokens);
}

/* To know what stands before each chunk but the first. */
static double prefixes_s(const struct outlook *outlook, int64_t tokens) {
  return absorb_first_s(outlook, tokens) * (1 - 1.0 / (double)count_chunks(outlook, tokens));
}

/* Causal heads are sequential: a thread takes a whole one or a chunk. */
static double causal_s(const struct outlook *outlook, int64_t tokens) {
  const int64_t chunks = count_chunks(outlook, tokens), threads = outlook->plan->threads;
  const double piece = (double)tokens / (double)chunks,
               turns = (double)((chunks * outlook->units + threads - 1) / threads);
  return prefixes_s(outlook, tokens) + outlook->delay * outlook->pace.causal * piece * turns;
}

/* Outputs of tokens together with their keys. */
static double attend_s(const struct outlook *outlook, int64_t tokens) {
  if (outlook->plan->problem.is_causal) return causal_s(outlook, tokens);
  return spread_s(outlook, outlook->pace.absorb + outlook->pace.emit, tokens);
}

/* What that saves of their outputs: features that are kept, prefixes of chunks. */
static double saved_s(const struct outlook *outlook, int64_t tokens) {
  const struct pace *pace = &outlook->pace;
  return spread_s(outlook, outlook->kept * (pace->causal - pace->kept), tokens) + prefixes_s(outlook, tokens);
}

/* ---- where states meet ------------------------------------------------------------------------------------------- */

static double reduction_s(const struct outlook *outlook, int64_t size, double bytes, double *sent) {
  const struct dist_layout layout = prospect_layout(outlook->prospect, size);
  const enum dist_reduction reduction = dist_costs_choose_reduction(outlook->costs, layout, bytes);
  *sent = dist_costs_reduction_sent(reduction, (int)size);
  return dist_costs_reduction_s(outlook->costs, reduction, layout, bytes);
}

static double scan_s(const struct outlook *outlook, int64_t size, int64_t place, double *sent) {
  const struct dist_layout layout = prospect_layout(outlook->prospect, size);
  const enum favor_scan scan =
      dist_costs_choose_scan(outlook->costs, outlook->plan->problem.scan, layout, outlook->batch_bytes);
  *sent = dist_costs_scan_sent(scan, (int)place, layout);
  return dist_costs_scan_s(outlook->costs, scan, layout, outlook->batch_bytes);
}

/* Everybody's keys are absorbed, and the sums of all parts become one. */
static double meet(struct outlook *outlook, double bytes) {
  const int64_t n_parts = outlook->plan->schedule.n_parts;
  double sent, seconds = reduction_s(outlook, n_parts, bytes, &sent);
  for (int64_t part = 0; part < n_parts; part++) {
    outlook->parts[part].reduce_s += seconds;
    outlook->parts[part].states_sent += sent * bytes / fmax(outlook->state_bytes, 1);
  }
  return seconds;
}

/* Has an outcome of one batch after another: each can be there so long after the last of its keys, but behind those
 * before it; what waits for it is computed when it comes. Returns how long there was nothing to compute. */
static double wait_for_batches(const struct outlook *outlook, const struct outlook_part *part, double ready_s,
                               double travel_s) {
  const int n = outlook->n_batches;
  const double send_s = outlook->batch_bytes * outlook->link.s_per_byte, busy_s = part->before_s + part->beside_s;
  double now_s = busy_s, arrival_s = 0;
  for (int batch = 0; batch < n; batch++) {
    arrival_s = fmax(arrival_s + send_s, ready_s * (batch + 1) / n + travel_s);
    now_s = fmax(now_s, arrival_s) + part->after_s / n;
  }
  return now_s - busy_s - part->after_s;
}

/* travel_s: of a batch from the parts that are ready so long after the start of the block; 0 for one that waits for
 * nobody. */
static void finish_part(struct outlook *outlook, int64_t index, double ready_s, double travel_s, double *slowest_s) {
  struct outlook_part *part = &outlook->parts[index];
  const double wait_s = travel_s > 0 ? wait_for_batches(outlook, part, ready_s, travel_s) : 0;
  part->features_state_s += outlook->n_alike * part->before_s;
  part->output_s += outlook->n_alike * (part->beside_s + part->after_s);
  part->reduce_s += outlook->n_alike * wait_s;
  *slowest_s = fmax(*slowest_s, part->before_s + part->beside_s + wait_s + part->after_s);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* The state at the end of a window is wanted by the next one, or by who saves it. */
static bool goes_on_at(const struct favor_plan *plan, int64_t token) {
  if (token >= plan->tokens.n_tokens) return plan->problem.is_streamed;
  return tokens_segment(&plan->tokens, token).begin < token;
}

/* All parts' spans of a window. */
static void find_spans(struct outlook *outlook, struct range window) {
  const int64_t n_parts = outlook->plan->schedule.n_parts;
  for (int64_t part = 0; part < n_parts; part++) {
    outlook->parts[part].spans[0] = outlook->parts[part].spans[1] = (struct span){0};
  }
  struct span_walk walk = tokens_walk_spans(&outlook->plan->tokens, window, n_parts);
  while (tokens_next_span(&walk)) {
    for (int64_t part = walk.first; part <= walk.last; part++) {
      outlook->parts[part].spans[walk.number % 2] = tokens_member_span(&walk, part);
    }
  }
}

/* What a part does in a block of outputs; which of its spans it shares with parts before it. */
static void share_out(struct outlook *outlook, struct range window, int64_t index) {
  const struct favor_plan *plan = outlook->plan;
  const bool is_causal = plan->problem.is_causal;
  struct outlook_part *part = &outlook->parts[index];
  const int64_t share = range_count(tokens_share(&plan->tokens, window, plan->schedule.n_parts, index));
  int64_t absorbed = 0, waiting = 0, kept_waiting = 0;
  for (int parity = 0; parity < 2; parity++) {
    const struct span *span = &part->spans[parity];
    if (!span->is_member) continue;
    const int64_t piece = range_count(span->piece);
    const bool is_absorbed = !is_causal || !span->is_last || (outlook->kept > 0 && piece == share) ||
                             (span->piece.end == window.end && goes_on_at(plan, window.end));
    if (is_absorbed) absorbed += piece;
    if (is_causal && span->is_first) continue;
    waiting += piece;
    if (is_absorbed) kept_waiting += piece;
  }
  part->before_s = absorb_first_s(outlook, absorbed);
  part->beside_s = attend_s(outlook, share - waiting);
  part->after_s = is_causal ? causal_s(outlook, waiting) : spread_s(outlook, outlook->pace.emit, waiting);
  part->saved_beside_s = is_causal ? saved_s(outlook, absorbed - kept_waiting) : 0;
  part->saved_after_s = is_causal ? saved_s(outlook, kept_waiting) : 0;
}

/* What a share of the heads saves. */
static void save(struct outlook_part *part, double share) {
  part->beside_s -= share * part->saved_beside_s;
  part->after_s -= share * part->saved_after_s;
}

/* What is sent in a block, and how long the states of those before are on their way; 0 where it waits for nobody. */
static double travel_s(struct outlook *outlook, struct outlook_part *part) {
  double longest = 0, sent;
  for (int parity = 0; parity < 2; parity++) {
    const struct span *span = &part->spans[parity];
    if (!span->is_member) continue;
    const bool is_causal = outlook->plan->problem.is_causal;
    const int64_t place = part - outlook->parts - span->first_part;
    const double seconds = is_causal ? scan_s(outlook, span->n_parts, place, &sent)
                                     : reduction_s(outlook, span->n_parts, outlook->batch_bytes, &sent);
    part->states_sent += outlook->n_alike * sent;
    if (!is_causal || !span->is_first) longest = fmax(longest, seconds);
  }
  return longest;
}

/* The state at the end of a causal block goes back to the first part, which needs it for the next. */
static double carry(struct outlook *outlook, struct range window) {
  const struct favor_plan *plan = outlook->plan;
  int64_t last = plan->schedule.n_parts - 1;
  while (last > 0 && range_count(tokens_share(&plan->tokens, window, plan->schedule.n_parts, last)) == 0) last--;
  if (!plan->problem.is_causal || last == 0 || !goes_on_at(plan, window.end)) return 0;
  const double seconds = outlook->link.latency_s + outlook->state_bytes * outlook->link.s_per_byte;
  outlook->parts[last].states_sent += outlook->n_alike;
  outlook->parts[0].reduce_s += outlook->n_alike * seconds;
  return seconds;
}

/* Outputs of one batch after another on a part: those of as many absorbed ones as there are parts before, then of the
 * relayed ones, each when the part before is done with it, then of the rest. Returns the time of the last. relayed_s:
 * when the part before, and then this one, is done with each. */
static double relay(const struct outlook *outlook, int64_t index, int n_absorbed, double ready_s, double travel_s,
                    double relayed_s[COST_MOST_BATCHES]) {
  const struct outlook_part *part = &outlook->parts[index];
  const double batch_s = (part->beside_s + part->after_s) / outlook->n_batches,
               pass_s = outlook->link.latency_s + outlook->batch_bytes * outlook->link.s_per_byte;
  double now_s = part->before_s;
  for (int i = 0; i < outlook->n_batches; i++) {
    const int n_relayed = outlook->n_batches - n_absorbed, turn = i - (int)index;
    const bool is_relayed = turn >= 0 && turn < n_relayed;
    const int batch = is_relayed ? n_absorbed + turn : turn < 0 ? i : i - n_relayed;
    const double arrival_s = is_relayed ? relayed_s[batch] + pass_s : ready_s * (batch + 1) / n_absorbed + travel_s;
    now_s = (index > 0 ? fmax(now_s, arrival_s) : now_s) + batch_s;
    if (is_relayed) relayed_s[batch] = now_s;
  }
  return now_s;
}

/* A causal block of which some batches are not absorbed first. */
static void relayed_block(struct outlook *outlook, struct range window, int n_absorbed) {
  const int64_t n_parts = outlook->plan->schedule.n_parts;
  const double share = (double)n_absorbed / outlook->n_batches;
  double slowest_s = 0, ready_s = 0, relayed_s[COST_MOST_BATCHES] = {0};
  for (int64_t index = 0; index < n_parts; index++) {
    struct outlook_part *part = &outlook->parts[index];
    double sent;
    share_out(outlook, window, index);
    part->before_s *= index + 1 < n_parts ? share : 0;
    save(part, index + 1 < n_parts ? share : 0);
    const double travel_s = scan_s(outlook, n_parts, index, &sent),
                 end_s = relay(outlook, index, n_absorbed, ready_s, travel_s, relayed_s);
    part->features_state_s += outlook->n_alike * part->before_s;
    part->output_s += outlook->n_alike * (part->beside_s + part->after_s);
    part->reduce_s += outlook->n_alike * (end_s - part->before_s - part->beside_s - part->after_s);
    part->states_sent += outlook->n_alike * (sent * share + (index + 1 < n_parts ? 1 - share : 0));
    ready_s = fmax(ready_s, part->before_s);
    slowest_s = fmax(slowest_s, end_s);
  }
  outlook->run_s += outlook->n_alike * (slowest_s + carry(outlook, window));
}

static void attend_block(struct outlook *outlook, struct range window) {
  const int64_t n_parts = outlook->plan->schedule.n_parts;
  const bool is_causal = outlook->plan->problem.is_causal;
  double slowest_s = 0, ready_s = 0;
  for (int64_t part = 0; part < n_parts; part++) {
    share_out(outlook, window, part);
    save(&outlook->parts[part], 1);
    if (!is_causal) ready_s = fmax(ready_s, outlook->parts[part].before_s);
  }
  for (int64_t part = 0; part < n_parts; part++) {
    const double travel = travel_s(outlook, &outlook->parts[part]);
    finish_part(outlook, part, ready_s, travel, &slowest_s);
    if (is_causal) ready_s = fmax(ready_s, outlook->parts[part].before_s);
  }
  outlook->run_s += outlook->n_alike * (slowest_s + carry(outlook, window));
}

static void attend(struct outlook *outlook, struct range window) {
  const struct favor_plan *plan = outlook->plan;
  find_spans(outlook, window);
  const int n_absorbed = plan_count_absorbed(plan, &outlook->parts[0].spans[0], outlook->n_batches);
  if (plan->problem.is_causal && n_absorbed < outlook->n_batches) {
    relayed_block(outlook, window, n_absorbed);
  } else {
    attend_block(outlook, window);
  }
}

/* Blocks in which no part waits for another: so long a token and head, before states go or as outputs. */
static void plain_block(struct outlook *outlook, const struct planned_block *block, double pace) {
  const struct favor_plan *plan = outlook->plan;
  const bool is_output = block->kind == BLOCK_EMIT || block->kind == BLOCK_COPY;
  double slowest_s = 0;
  for (int64_t part = 0; part < plan->schedule.n_parts; part++) {
    const int64_t tokens = range_count(tokens_share(&plan->tokens, block->window, plan->schedule.n_parts, part));
    const double seconds = spread_s(outlook, pace, tokens);
    outlook->parts[part].before_s = is_output ? 0 : seconds;
    outlook->parts[part].beside_s = is_output ? seconds : 0;
    outlook->parts[part].after_s = 0;
    finish_part(outlook, part, 0, 0, &slowest_s);
  }
  outlook->run_s += outlook->n_alike * slowest_s;
}

/* Methods that take a shard at once: their flops, shared out evenly, as fast as BLAS. */
static void whole_block(struct outlook *outlook, const struct favor_machine *machine) {
  const struct favor_plan *plan = outlook->plan;
  struct rate_subject subject = subject_of(plan);
  bool is_measured;
  subject.kernel = "blas";
  subject.features = plan->length_rows;
  const struct favor_rate rate = rates_scaled(rates_find(machine, &subject, &is_measured), &subject);
  const double flops = 4.0 * (double)subject.features *
                       (double)(subject.key_width + map_signs(subject.map) * subject.value_width),
               flops_per_s = flops / (rate.absorb_s + rate.emit_s);
  const double seconds =
      outlook->delay * plan_flops(plan) / (double)(plan->grid.heads * plan->grid.tokens) / flops_per_s;
  for (int64_t part = 0; part < plan->schedule.n_parts; part++) outlook->parts[part].output_s += seconds;
  outlook->run_s += seconds;
}

static void run_block(struct outlook *outlook, const struct planned_block *block, const struct favor_machine *machine) {
  const struct favor_plan *plan = outlook->plan;
  switch (block->kind) {
  case BLOCK_MEASURE:
    plain_block(outlook, block, outlook->pace.measure);
    if (block->is_last_measure && !plan->key_max.is_measured) {
      outlook->run_s += meet(outlook, (double)measure_unit_bytes(&plan->estimate.measure) * (double)outlook->units);
    }
    break;
  case BLOCK_ATTEND:
    attend(outlook, block->window);
    break;
  case BLOCK_ABSORB:
    outlook->is_met = false;
    plain_block(outlook, block, outlook->pace.absorb);
    break;
  case BLOCK_EMIT:
    if (!outlook->is_met) outlook->run_s += meet(outlook, outlook->state_bytes);
    outlook->is_met = true;
    plain_block(outlook, block, outlook->pace.emit);
    break;
  case BLOCK_COPY:
    plain_block(outlook, block, outlook->pace.copy);
    break;
  case BLOCK_WHOLE:
    whole_block(outlook, machine);
    break;
  }
}

static bool is_in_one_segment(const struct favor_plan *plan, struct range window) {
  return range_count(window) > 0 && tokens_segment(&plan->tokens, window.begin).end >= window.end;
}

/* Has every part the same to do in both? Windows begin at runs, so as many tokens of one segment are shared out
 * alike. */
static bool is_alike(const struct favor_plan *plan, const struct planned_block *a, const struct planned_block *b) {
  return a->kind == b->kind && range_count(a->window) == range_count(b->window) && !a->is_last_measure &&
         !b->is_last_measure && is_in_one_segment(plan, a->window) && is_in_one_segment(plan, b->window) &&
         goes_on_at(plan, a->window.end) == goes_on_at(plan, b->window.end);
}

/* All blocks in turn; those in a row that are alike as one, as a long segment may have millions. */
static void run_blocks(struct outlook *outlook, const struct favor_machine *machine) {
  const struct schedule *schedule = &outlook->plan->schedule;
  for (int64_t i = 0, next; i < schedule->n_blocks; i = next) {
    next = i + 1;
    while (next < schedule->n_blocks && is_alike(outlook->plan, &schedule->blocks[i], &schedule->blocks[next])) next++;
    outlook->n_alike = (double)(next - i);
    run_block(outlook, &schedule->blocks[i], machine);
  }
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static int64_t ranks_of_node(const struct favor_job *job) { return (job->ranks + job->nodes - 1) / job->nodes; }

/* A core does the work of the threads that share it one after another. */
static double delay_of(const struct prospect *prospect) {
  const int cores = prospect->machine->cores;
  const double threads = (double)ranks_of_node(prospect->job) * prospect->job->threads;
  return cores > 0 ? fmax(1, threads / cores) : 1;
}

/* Of reading and writing the processor's part is each rank's own, and the rest the node's. */
static double io_s_per_byte(const struct prospect *prospect, double measured_s) {
  const struct favor_io_costs *io = &prospect->machine->io;
  const double cpu_s = fmin(io->cpu_s_per_byte, measured_s);
  return cpu_s + (measured_s - cpu_s) * (double)ranks_of_node(prospect->job) / io->ranks;
}

/* The I/O thread works beside the others, before the first block and after the last alone; where they have all cores,
 * it takes some of their time. */
static void add_files(const struct prospect *prospect, struct favor_prediction *prediction) {
  const struct favor_io_costs *io = &prospect->machine->io;
  const struct grid *grid = &prospect->plan.grid;
  struct favor_predicted_seconds *seconds = &prediction->seconds;
  const double ranks = (double)(grid->heads * grid->tokens), read_bytes = (double)prediction->bytes_read / ranks,
               written_bytes = (double)prediction->bytes_written / ranks;
  const double read_s = read_bytes * io_s_per_byte(prospect, io->read_s_per_byte),
               write_s = written_bytes * io_s_per_byte(prospect, io->write_s_per_byte);
  if (read_s + write_s > 0) {
    const int cores = prospect->machine->cores, threads = prospect->job->threads;
    const bool has_core = cores > ranks_of_node(prospect->job) * threads;
    const double cpu_s = has_core ? 0 : (read_bytes + written_bytes) * io->cpu_s_per_byte / threads;
    const double factor = seconds->run > 0 ? 1 + cpu_s / seconds->run : 1;
    seconds->features_state *= factor;
    seconds->output *= factor;
    seconds->run += cpu_s;
  }
  const double n_blocks = fmax(1, (double)prediction->n_blocks), first_s = read_s / n_blocks,
               last_s = write_s / n_blocks, rest_s = read_s + write_s - first_s - last_s,
               waited_s = fmax(0, rest_s - seconds->run), share = rest_s > 0 ? (read_s - first_s) / rest_s : 0;
  seconds->read = first_s + waited_s * share;
  seconds->write = last_s + waited_s * (1 - share) + (prediction->bytes_written > 0 ? io->finish_s : 0);
}

static void conclude(const struct prospect *prospect, const struct outlook *outlook,
                     struct favor_prediction *prediction) {
  struct favor_predicted_seconds *seconds = &prediction->seconds;
  double most_sent = 0;
  for (int64_t part = 0; part < outlook->plan->schedule.n_parts; part++) {
    seconds->features_state = fmax(seconds->features_state, outlook->parts[part].features_state_s);
    seconds->reduce = fmax(seconds->reduce, outlook->parts[part].reduce_s);
    seconds->output = fmax(seconds->output, outlook->parts[part].output_s);
    most_sent = fmax(most_sent, outlook->parts[part].states_sent);
  }
  const bool do_tokens_travel = outlook->plan->method && outlook->plan->schedule.n_parts > 1;
  prediction->bytes_sent = do_tokens_travel ? -1 : (int64_t)(most_sent * outlook->state_bytes);
  seconds->run = outlook->run_s;
  add_files(prospect, prediction);
  /* Before each block the ranks agree. */
  const double agreements_s =
      (double)prediction->n_blocks * 2 * outlook->link.latency_s * dist_costs_n_rounds((int)prospect->job->ranks);
  seconds->total = seconds->read + seconds->run + seconds->write + agreements_s;
}

void predict_time(struct prospect *prospect, struct favor_prediction *prediction) {
  const struct favor_plan *plan = &prospect->plan;
  const struct rate_subject subject = subject_of(plan);
  const struct favor_rate *rate = rates_find(prospect->machine, &subject, &prediction->is_rate_measured);
  prediction->from = *rate;
  prediction->rate = rates_scaled(rate, &subject);
  const int n_batches = plan_count_batches(plan);
  struct outlook outlook = {
      .plan = plan,
      .pace = pace_of(plan, &prediction->rate),
      .delay = delay_of(prospect),
      .prospect = prospect,
      .costs = &prospect->context.costs,
      .link =
          prospect->context.n_nodes > 1 ? prospect->context.costs.between_nodes : prospect->context.costs.within_node,
      .n_batches = n_batches,
      .batch_bytes = prospect_batch_bytes(plan, n_batches),
      .kept = kept_share(plan),
      .units = range_count(plan->units),
      .state_bytes = (double)plan->unit_bytes * (double)range_count(plan->units),
      .parts = memory_zeroed((size_t)plan->schedule.n_parts, sizeof *outlook.parts),
  };
  if (!outlook.parts) {
    dist_fail(&prospect->context, FAVOR_ENOMEM, "no memory to predict what %lld ranks do",
              (long long)plan->schedule.n_parts);
    return;
  }
  run_blocks(&outlook, prospect->machine);
  conclude(prospect, &outlook, prediction);
  free(outlook.parts);
}

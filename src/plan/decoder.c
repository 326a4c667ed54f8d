#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "core/decode.h"
#include "plan/export.h"
#include "plan/plan.h"

struct favor_decoder {
  const struct favor_plan *plan;
  struct decode_state *states; /* [units] */
  void *memory;                /* of the states */
  struct worker worker;        /* measures tokens */
  void *worker_memory;
  struct decode_features features;
  double *sum; /* [E] */
  int64_t n_tokens;
};

static int64_t n_units(const struct favor_plan *plan) { return range_count(plan->units); }

/* Lays the states out: each M (E + 1) doubles, then M exponents. */
static void place_states(struct favor_decoder *decoder) {
  const struct kernel_shape *shape = &decoder->plan->engine.shape;
  int64_t m = shape->features, e = shape->value_width, units = n_units(decoder->plan);
  double *numbers = decoder->memory;
  int32_t *exponents = (int32_t *)(numbers + units * m * (e + 1));
  for (int64_t unit = 0; unit < units; unit++) {
    decoder->states[unit] = (struct decode_state){
        .exponent = exponents + unit * m, .s = numbers + unit * m * (e + 1), .z = numbers + unit * m * (e + 1) + m * e};
    for (int64_t r = 0; r < m; r++) decoder->states[unit].exponent[r] = BINNED_NONE;
  }
}

enum favor_status favor_decoder_create(const struct favor_plan *plan, struct favor_decoder **decoder) {
  *decoder = NULL;
  if (plan->schedule.kind != SCHEDULE_CAUSAL) {
    return dist_fail(plan->context, FAVOR_EUSAGE, "only a causal plan with states can decode token by token");
  }
  struct favor_estimates estimates;
  enum favor_status status = favor_plan_estimates(plan, &estimates);
  if (status != FAVOR_OK) return status;
  const struct kernel_shape *shape = &plan->engine.shape;
  size_t m = (size_t)shape->features, e = (size_t)shape->value_width, units = (size_t)n_units(plan);
  struct favor_decoder *created = memory_zeroed(1, sizeof *created);
  if (created) {
    created->plan = plan;
    created->states = memory_zeroed(units, sizeof *created->states);
    created->memory = memory_zeroed(units * m, (e + 1) * sizeof(double) + sizeof(int32_t));
    created->worker_memory = memory_zeroed(1, worker_bytes(&plan->engine));
    created->features.fraction = memory_zeroed(m + e, sizeof(double));
    created->features.exponent = memory_zeroed(m, sizeof(int32_t));
  }
  if (!created || !created->states || !created->memory || !created->worker_memory || !created->features.fraction ||
      !created->features.exponent) {
    favor_decoder_destroy(&created);
    return dist_fail(plan->context, FAVOR_ENOMEM, "no memory for a decoder of %zu heads", units);
  }
  created->sum = created->features.fraction + m;
  worker_place(&plan->engine, created->worker_memory, &created->worker);
  place_states(created);
  *decoder = created;
  return FAVOR_OK;
}

void favor_decoder_destroy(struct favor_decoder **decoder) {
  if (!*decoder) return;
  free((*decoder)->states);
  free((*decoder)->memory);
  free((*decoder)->worker_memory);
  free((*decoder)->features.fraction);
  free((*decoder)->features.exponent);
  free(*decoder);
  *decoder = NULL;
}

static enum favor_status find_unit(const struct favor_plan *plan, int64_t kv_head, int64_t *unit) {
  *unit = kv_head - plan->units.begin;
  if (*unit >= 0 && *unit < n_units(plan)) return FAVOR_OK;
  return dist_fail(plan->context, FAVOR_EUSAGE, "key head %lld is not on rank %d", (long long)kv_head,
                   plan->context->rank);
}

enum favor_status favor_decoder_load(struct favor_decoder *decoder, int64_t kv_head, const void *bytes) {
  int64_t unit;
  enum favor_status status = find_unit(decoder->plan, kv_head, &unit);
  if (status != FAVOR_OK) return status;
  if (!export_is_valid(decoder->plan, bytes)) {
    return dist_fail(decoder->plan->context, FAVOR_EDATA,
                     "the bytes given for key head %lld are no state of this shape", (long long)kv_head);
  }
  struct decode_state *state = &decoder->states[unit];
  export_decode(bytes, DECODE_SHIFT, state->exponent, state->s, state->z);
  return FAVOR_OK;
}

enum favor_status favor_decoder_save(const struct favor_decoder *decoder, int64_t kv_head, void *bytes) {
  const struct favor_plan *plan = decoder->plan;
  int64_t unit, width = plan->engine.shape.value_width;
  enum favor_status status = find_unit(plan, kv_head, &unit);
  if (status != FAVOR_OK) return status;
  const struct decode_state *state = &decoder->states[unit];
  void *rows = export_begin(plan, bytes);
  state_clear(&plan->engine, rows);
  for (int64_t r = 0; r < plan->engine.shape.features; r++) {
    if (state->exponent[r] == BINNED_NONE) continue;
    struct binned_row *row = binned_row_at(rows, plan->engine.row_bytes, r);
    binned_raise(row, state->exponent[r]);
    binned_deposit(row, 0, width, state->s + r * width, (int64_t)state->exponent[r] + DECODE_SHIFT, NULL);
    binned_deposit(row, width, 1, state->z + r, state->exponent[r], NULL);
  }
  return FAVOR_OK;
}

/* The addresses of one key head's arrays. */
static struct kernel_keys keys_of(const struct favor_decoder *decoder, const struct favor_input *k,
                                  const struct favor_input *v, int64_t unit) {
  const struct engine *engine = &decoder->plan->engine;
  return (struct kernel_keys){.n = 1,
                              .k = row_in(engine, k->data, k->head_stride, unit),
                              .v = row_in(engine, v->data, v->head_stride, unit),
                              .k_stride = engine->key_width,
                              .v_stride = engine->shape.value_width};
}

static struct kernel_queries queries_of(const struct favor_decoder *decoder, const struct favor_input *q,
                                        const struct favor_output *out, int64_t unit) {
  const struct engine *engine = &decoder->plan->engine;
  int64_t head = unit * engine->heads_per_key;
  return (struct kernel_queries){.n = 1,
                                 .n_heads = engine->heads_per_key,
                                 .q = row_in(engine, q->data, q->head_stride, head),
                                 .q_head_stride = q->head_stride,
                                 .q_stride = engine->key_width,
                                 .out = row_out(engine, out->data, out->head_stride, head),
                                 .out_head_stride = out->head_stride,
                                 .out_stride = engine->shape.value_width};
}

/* Checks everything before anything changes. */
static enum favor_status check_token(struct favor_decoder *decoder, const struct favor_input *q,
                                     const struct favor_input *k, const struct favor_input *v,
                                     const struct favor_output *out) {
  const struct favor_plan *plan = decoder->plan;
  for (int64_t unit = 0; unit < n_units(plan); unit++) {
    struct refusal refusal;
    struct kernel_keys keys = keys_of(decoder, k, v, unit);
    struct kernel_queries queries = queries_of(decoder, q, out, unit);
    const struct row_transform *transform = plan_weights(plan, unit)->transform;
    if (worker_measure_keys(&plan->engine, &decoder->worker, transform, &keys, &refusal) &&
        worker_measure_queries(&plan->engine, &decoder->worker, transform, &queries, &refusal)) {
      continue;
    }
    refusal.head += (plan->units.begin + unit) * (refusal.tensor == 'q' ? plan->engine.heads_per_key : 1);
    refusal.token = decoder->n_tokens;
    return plan_refuse(plan->context, &refusal);
  }
  return FAVOR_OK;
}

enum favor_status favor_decoder_step(struct favor_decoder *decoder, const struct favor_input *q,
                                     const struct favor_input *k, const struct favor_input *v,
                                     const struct favor_output *out) {
  const struct favor_plan *plan = decoder->plan;
  enum favor_status status = check_token(decoder, q, k, v, out);
  if (status != FAVOR_OK) return status;
  for (int64_t unit = 0; unit < n_units(plan); unit++) {
    const struct head_weights *weights = plan_weights(plan, unit);
    struct decode_state *state = &decoder->states[unit];
    struct kernel_keys keys = keys_of(decoder, k, v, unit);
    struct kernel_queries queries = queries_of(decoder, q, out, unit);
    struct refusal refusal;
    worker_measure_keys(&plan->engine, &decoder->worker, weights->transform, &keys, &refusal);
    worker_measure_queries(&plan->engine, &decoder->worker, weights->transform, &queries, &refusal);
    worker_norms(&plan->engine, &decoder->worker, &queries);
    decode_take(&plan->engine, weights, keys.k, decoder->worker.half_norm[0], keys.v, &decoder->features, state);
    for (int64_t h = 0; h < queries.n_heads; h++) {
      double half_norm = plan->engine.shape.map ? queries.half_norm[h * queries.half_norm_head_stride] : 0;
      decode_read(&plan->engine, weights, row_in(&plan->engine, queries.q, queries.q_head_stride, h), half_norm, state,
                  &decoder->features, decoder->sum, row_out(&plan->engine, queries.out, queries.out_head_stride, h));
    }
  }
  decoder->n_tokens++;
  return FAVOR_OK;
}

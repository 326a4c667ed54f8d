#include "plan/rates.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "feature/map.h"

/* One core with AVX-512: the table in doc/performance.md, half of a bidirectional token each to absorb and to emit. The
 * causal pass of `reference` is not in it, and stands in proportion, as do the passes with kept features. */
#define SHAPE .key_width = 64, .value_width = 64, .features = 256, .threads = 1
static const struct favor_rate default_rates[] = {
    {"avx512", FAVOR_PRECISION_F32, SHAPE, .absorb_s = 318e-9, .emit_s = 318e-9, .causal_s = 830e-9, .keep_s = 332e-9,
     .kept_s = 682e-9},
    {"avx512bf16", FAVOR_PRECISION_BF16, SHAPE, .absorb_s = 181e-9, .emit_s = 181e-9, .causal_s = 523e-9,
     .keep_s = 187e-9, .kept_s = 443e-9},
    {"avx2", FAVOR_PRECISION_F32, SHAPE, .absorb_s = 628e-9, .emit_s = 628e-9, .causal_s = 1551e-9, .keep_s = 644e-9,
     .kept_s = 1218e-9},
    {"blas", FAVOR_PRECISION_F32, SHAPE, .absorb_s = 529e-9, .emit_s = 529e-9, .causal_s = 1484e-9},
    {"reference", FAVOR_PRECISION_F32, SHAPE, .absorb_s = 6259e-9, .emit_s = 6259e-9, .causal_s = 16330e-9},
};
#undef SHAPE
enum { N_DEFAULT_RATES = sizeof default_rates / sizeof *default_rates };

struct favor_machine favor_machine_default(void) {
  /* A local file system, and a core that converts and sums up 2 GB/s. */
  return (struct favor_machine){
      .costs = favor_costs_default(),
      .io = {
          .read_s_per_byte = 5e-10, .write_s_per_byte = 1e-9, .cpu_s_per_byte = 5e-10, .finish_s = 0.05, .ranks = 1}};
}

/* Multiply-adds of a token and head, without the intra-tile products of a causal pass, which go with them. */
static double work_of(int64_t key_width, int64_t value_width, int64_t features, enum favor_map map) {
  return (double)features * (double)(key_width + map_signs(map) * value_width);
}

static double log_ratio(int64_t a, int64_t b) { return fabs(log((double)a / (double)b)); }

/* In order of what matters most: who computes, in what, which features; then how near the shape is. */
static double distance(const struct favor_rate *rate, const struct rate_subject *subject) {
  return 1e4 * (strcmp(rate->kernel, subject->kernel) != 0) + 3e3 * (rate->precision != subject->precision) +
         1e3 * (map_at(rate->map)->is_generalised != map_at(subject->map)->is_generalised) +
         3e2 * (rate->projection != subject->projection) + 1e2 * (rate->map != subject->map) +
         log_ratio(rate->key_width, subject->key_width) + log_ratio(rate->value_width, subject->value_width) +
         log_ratio(rate->features, subject->features) + log_ratio(rate->threads, subject->threads);
}

static const struct favor_rate *nearest(const struct favor_rate *rates, int n, const struct rate_subject *subject) {
  const struct favor_rate *best = NULL;
  for (int i = 0; i < n; i++) {
    if (!best || distance(&rates[i], subject) < distance(best, subject)) best = &rates[i];
  }
  return best;
}

static bool is_of(const struct favor_rate *rate, const struct rate_subject *subject) {
  return strcmp(rate->kernel, subject->kernel) == 0 && rate->precision == subject->precision;
}

const struct favor_rate *rates_find(const struct favor_machine *machine, const struct rate_subject *subject,
                                    bool *is_measured) {
  const struct favor_rate *measured = nearest(machine->rates, machine->n_rates, subject);
  *is_measured = measured && is_of(measured, subject);
  return *is_measured ? measured : nearest(default_rates, N_DEFAULT_RATES, subject);
}

struct favor_rate rates_scaled(const struct favor_rate *rate, const struct rate_subject *subject) {
  struct favor_rate scaled = *rate;
  double factor = work_of(subject->key_width, subject->value_width, subject->features, subject->map) /
                  work_of(rate->key_width, rate->value_width, rate->features, rate->map);
  /* Doubles are twice as wide as floats. */
  if (subject->precision == FAVOR_PRECISION_F64 && rate->precision != FAVOR_PRECISION_F64) factor *= 2;
  factor *= (double)rate->threads / subject->threads;
  snprintf(scaled.kernel, sizeof scaled.kernel, "%s", subject->kernel);
  scaled.precision = subject->precision;
  scaled.map = subject->map;
  scaled.projection = subject->projection;
  scaled.key_width = subject->key_width;
  scaled.value_width = subject->value_width;
  scaled.features = subject->features;
  scaled.threads = subject->threads;
  scaled.absorb_s *= factor;
  scaled.emit_s *= factor;
  scaled.causal_s *= factor;
  scaled.keep_s *= factor;
  scaled.kept_s *= factor;
  return scaled;
}

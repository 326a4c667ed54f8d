/* What a benchmark found: a table, or one JSON object. */
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "feature/map.h"

static const char *precision_name(int precision) { return option_at(OPTION_PRECISION)->choices[precision]; }

static double rows_of(const struct bench_run *run) { return (double)(run->work.heads * run->work.tokens); }

/* 4 (M D + R E) a token and head, R features of M directions: two products with the projection, one with the values,
 * one with the state. */
static double gflops_of(const struct bench_run *run) {
  const struct bench_work *work = &run->work;
  const double flops =
      4.0 * (double)work->features * (double)(work->key_width + map_signs(work->map) * work->value_width);
  return 1e-9 * flops * rows_of(run) / run->seconds;
}

static double peak_of(const struct bench *bench, const struct bench_run *run) {
  return bench->peaks[run->kernel->precision][run->kernel->isa].gflops * bench->threads;
}

static double ns_of(const struct bench_run *run) { return 1e9 * run->seconds / rows_of(run); }

static const char *name_of(const struct bench_run *run, char text[96]) {
  const struct bench_work *work = &run->work;
  const char *projection = option_at(OPTION_PROJECTION)->choices[work->projection];
  bool is_usual = work->projection == FAVOR_PROJECTION_ORTHOGONAL;
  snprintf(text, 96, "%s D=%lld E=%lld M=%lld%s%s", work->is_causal ? "causal" : "bidirectional",
           (long long)work->key_width, (long long)work->value_width, (long long)work->features, is_usual ? "" : " ",
           is_usual ? "" : projection);
  return text;
}

static json_t *pack_run(const struct bench *bench, const struct bench_run *run) {
  const struct bench_work *work = &run->work;
  char name[96];
  return json_pack(
      "{s:s, s:b, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:f}",
      "name", name_of(run, name), "causal", (int)work->is_causal, "map",
      options_text(bench->command->options, OPTION_MAP), "projection",
      option_at(OPTION_PROJECTION)->choices[work->projection], "heads", (json_int_t)work->heads, "tokens",
      (json_int_t)work->tokens, "D", (json_int_t)work->key_width, "E", (json_int_t)work->value_width, "M",
      (json_int_t)work->features, "kernel", run->kernel->kernel->name, "precision",
      precision_name((int)run->kernel->precision), "peak_isa", peak_name(run->kernel->isa), "threads", bench->threads,
      "repetitions", run->rounds, "ns_per_token_head", ns_of(run), "spread", run->spread, "cpu_share", run->cpu_share,
      "gflops", gflops_of(run), "peak_ratio", gflops_of(run) / peak_of(bench, run), "same_bits_share",
      run->accumulate_share, "blas_ns_per_token_head",
      run->blas_seconds > 0 ? json_real(1e9 * run->blas_seconds) : json_null(), "relative_error", run->relative_error);
}

static json_t *pack_peaks(const struct bench *bench) {
  json_t *list = json_array();
  for (int precision = 0; precision < KERNEL_N_PRECISIONS; precision++) {
    for (int isa = 0; isa < PEAK_N_ISAS; isa++) {
      const struct bench_peak *peak = &bench->peaks[precision][isa];
      if (peak->n_samples == 0) continue;
      json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:i}", "isa", peak_name((enum peak_isa)isa),
                                            "precision", precision_name(precision), "gflops", peak->gflops, "spread",
                                            peak->spread, "samples", peak->n_samples));
    }
  }
  return list;
}

static json_t *pack(const struct bench *bench, enum peak_isa best) {
  json_t *object = report_object(bench->command), *runs = json_array();
  for (int i = 0; i < bench->n_runs; i++) json_array_append_new(runs, pack_run(bench, &bench->runs[i]));
  json_t *more =
      json_pack("{s:f, s:s, s:o, s:s, s:i, s:o}", "peak_gflops", bench->peaks[FAVOR_PRECISION_F32][best].gflops, "isa",
                peak_name(best), "peaks", pack_peaks(bench), "blas", favor_blas_description(), "works_left_out",
                bench->n_works_left_out, "runs", runs);
  bool is_complete = object && more && json_object_update(object, more) == 0;
  json_decref(more);
  if (is_complete) return object;
  json_decref(object);
  return NULL;
}

static void print_peaks(const struct bench *bench) {
  printf("peak of one core, from multiply-adds on registers\n");
  for (int precision = 0; precision < KERNEL_N_PRECISIONS; precision++) {
    for (int isa = 0; isa < PEAK_N_ISAS; isa++) {
      const struct bench_peak *peak = &bench->peaks[precision][isa];
      if (peak->n_samples == 0) continue;
      printf("  %-10s %s %8.1f GFLOP/s, the middle half of %d samples within %.1f%%\n", peak_name((enum peak_isa)isa),
             precision_name(precision), peak->gflops, peak->n_samples, 100 * peak->spread);
    }
  }
}

/* Without the name, where it is that of the line before. */
static void print_run(const struct bench *bench, const struct bench_run *run, const char *name) {
  char ns[32] = "-", times[32] = "-";
  if (run->blas_seconds > 0) {
    snprintf(ns, sizeof ns, "%.1f", 1e9 * run->blas_seconds);
    snprintf(times, sizeof times, "%.2f", 1e9 * run->blas_seconds / ns_of(run));
  }
  printf("%-41s%-11s%-5s%9.1f%7.1f%%%6.0f%%%9.1f  %.3f %-11s%7.1f%%%9s%7s%9.1e\n", name, run->kernel->kernel->name,
         precision_name((int)run->kernel->precision), ns_of(run), 100 * run->spread, 100 * run->cpu_share,
         gflops_of(run), gflops_of(run) / peak_of(bench, run), peak_name(run->kernel->isa), 100 * run->accumulate_share,
         ns, times, run->relative_error);
}

static void print_table(const struct bench *bench) {
  char names[2][96] = {"", ""};
  int n_repetitions = BENCH_MOST_ROUNDS;
  bool is_busy = false;
  print_peaks(bench);
  printf("BLAS %s\n\n%-41s%-11s%-5s%9s%8s%7s%9s  %-17s%8s%9s%7s%9s\n", favor_blas_description(), "", "kernel", "", "ns",
         "spread", "CPU", "GFLOP/s", "of the peak of", "bits", "BLAS ns", "times", "error");
  for (int i = 0; i < bench->n_runs; i++) {
    const struct bench_run *run = &bench->runs[i];
    name_of(run, names[i % 2]);
    print_run(bench, run, strcmp(names[0], names[1]) != 0 ? names[i % 2] : "");
    if (run->rounds < n_repetitions) n_repetitions = run->rounds;
    is_busy = is_busy || run->cpu_share < BENCH_IDLE_SHARE;
  }
  const struct options *options = bench->command->options;
  const bool has_both_signs = map_signs((enum favor_map)options_integer(options, OPTION_MAP)) == 2;
  printf("\n%d thread%s; map %s; ns a token and head, medians of at least %d repetitions; GFLOP/s count 4 M (D+%sE)\n",
         bench->threads, bench->threads == 1 ? "" : "s", options_text(options, OPTION_MAP), n_repetitions,
         has_both_signs ? "2" : "");
  puts("bits: the share of the time that the reproducible state takes, the price of the same bits on any ranks");
  if (is_busy) puts("others used the cores meanwhile (CPU): the ratios are lower than on an idle machine");
  if (bench->n_works_left_out > 0) {
    printf("for the time, %d more shapes were left out; --shape and --features ask for one\n", bench->n_works_left_out);
  }
}

void bench_report(const struct bench *bench, enum peak_isa best) {
  const struct options *options = bench->command->options;
  if (options_flag(options, OPTION_JSON))
    report_json(bench->command, pack(bench, best));
  else if (!options_flag(options, OPTION_QUIET))
    print_table(bench);
}

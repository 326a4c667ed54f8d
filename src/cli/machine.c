#define _GNU_SOURCE /* CPU sets */
#include "cli/machine.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cpus.h"
#include "base/memory.h"
#include "cli/option_table.h"
#include "cli/replacement.h"
#include "dist/agree.h"

enum { FORMAT = 1, MOST_RATES = 4096 };

/* ---- names ------------------------------------------------------------------------------------------------------- */

static const char *name_of(enum option_key key, int place) { return option_at(key)->choices[place]; }

/* The place of a name among an option's choices; -1. */
static int place_of(enum option_key key, const char *name) {
  for (int i = 0; option_at(key)->choices[i]; i++) {
    if (strcmp(option_at(key)->choices[i], name) == 0) return i;
  }
  return -1;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct reading {
  struct favor_context *context;
  const char *path;
};

static void fail(const struct reading *reading, const char *what) {
  dist_fail(
      reading->context, FAVOR_EDATA,
      "%s is not a machine file of this version of favor: %s; mend it, or remove it and measure anew (favor bench "
      "kernel --machine, bench io --machine)",
      reading->path, what);
}

/* A number of things; JSON's are wider than int, and would be cut to it. */
static bool take_count(json_int_t n, int *count) {
  const bool is_valid = n >= 1 && n <= INT32_MAX;
  if (is_valid) *count = (int)n;
  return is_valid;
}

static bool is_positive(double x) { return isfinite(x) && x > 0; }

/* 0 where a link was not measured. */
static bool read_link(const struct reading *reading, json_t *object, struct favor_link_costs *link) {
  json_error_t error;
  double latency_s, s_per_byte;
  if (!object) return true;
  if (json_unpack_ex(object, &error, 0, "{s:F, s:F !}", "latency_s", &latency_s, "s_per_byte", &s_per_byte) != 0) {
    fail(reading, error.text);
  } else if (!is_positive(latency_s) || !is_positive(s_per_byte)) {
    fail(reading, "latency_s and s_per_byte must be above 0");
  } else {
    *link = (struct favor_link_costs){latency_s, s_per_byte};
    return true;
  }
  return false;
}

static bool read_network(const struct reading *reading, json_t *object, struct favor_costs *costs) {
  json_error_t error;
  json_t *within = NULL, *between = NULL;
  if (!object) return true;
  int code = json_unpack_ex(object, &error, 0, "{s:F, s?o, s?o !}", "merge_s_per_byte", &costs->merge_s_per_byte,
                            "within_node", &within, "between_nodes", &between);
  if (code != 0) {
    fail(reading, error.text);
    return false;
  }
  if (!is_positive(costs->merge_s_per_byte)) {
    fail(reading, "merge_s_per_byte must be above 0");
    return false;
  }
  return read_link(reading, within, &costs->within_node) && read_link(reading, between, &costs->between_nodes);
}

static bool read_io(const struct reading *reading, json_t *object, struct favor_io_costs *io) {
  json_error_t error;
  json_int_t ranks;
  if (!object) return true;
  int code = json_unpack_ex(object, &error, 0, "{s:I, s:F, s:F, s:F, s:F !}", "ranks", &ranks, "read_s_per_byte",
                            &io->read_s_per_byte, "write_s_per_byte", &io->write_s_per_byte, "cpu_s_per_byte",
                            &io->cpu_s_per_byte, "finish_s", &io->finish_s);
  const bool is_valid = code == 0 && take_count(ranks, &io->ranks) && is_positive(io->read_s_per_byte) &&
                        is_positive(io->write_s_per_byte) && io->cpu_s_per_byte >= 0 && io->finish_s >= 0;
  if (!is_valid) fail(reading, code != 0 ? error.text : "figures of io must be above 0, and ranks at most 2147483647");
  return is_valid;
}

static bool read_rate(const struct reading *reading, json_t *object, struct favor_rate *rate) {
  json_error_t error;
  const char *kernel, *precision, *map, *projection;
  json_int_t d, e, m, threads;
  double absorb_ns, emit_ns, causal_ns, keep_ns = 0, kept_ns = 0;
  int code = json_unpack_ex(object, &error, 0, "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:F, s:F, s:F, s?F, s?F !}",
                            "kernel", &kernel, "precision", &precision, "map", &map, "projection", &projection, "D", &d,
                            "E", &e, "M", &m, "threads", &threads, "absorb_ns", &absorb_ns, "emit_ns", &emit_ns,
                            "causal_ns", &causal_ns, "keep_ns", &keep_ns, "kept_ns", &kept_ns);
  if (code != 0) {
    fail(reading, error.text);
    return false;
  }
  const int places[] = {place_of(OPTION_PRECISION, precision), place_of(OPTION_MAP, map),
                        place_of(OPTION_PROJECTION, projection)};
  const bool is_named = places[0] >= 0 && places[1] >= 0 && places[2] >= 0 && strlen(kernel) < sizeof rate->kernel;
  if (!is_named || d < 1 || e < 1 || m < 1 || !take_count(threads, &rate->threads) || !is_positive(absorb_ns) ||
      !is_positive(emit_ns) || !is_positive(causal_ns) || !(keep_ns >= 0) || !(kept_ns >= 0)) {
    fail(reading,
         is_named ? "numbers of a rate must be above 0 (keep_ns and kept_ns may be 0), and threads at most 2147483647"
                  : "a rate has a kernel, precision, map or projection that favor does not know");
    return false;
  }
  snprintf(rate->kernel, sizeof rate->kernel, "%s", kernel);
  rate->precision = (enum favor_precision)places[0];
  rate->map = (enum favor_map)places[1];
  rate->projection = (enum favor_projection)places[2];
  rate->key_width = d;
  rate->value_width = e;
  rate->features = m;
  rate->absorb_s = 1e-9 * absorb_ns;
  rate->emit_s = 1e-9 * emit_ns;
  rate->causal_s = 1e-9 * causal_ns;
  rate->keep_s = 1e-9 * keep_ns;
  rate->kept_s = 1e-9 * kept_ns;
  return true;
}

static bool read_kernels(const struct reading *reading, json_t *object, struct machine_file *machine) {
  json_error_t error;
  json_t *rates;
  const char *isa;
  double peak;
  if (!object) return true;
  if (json_unpack_ex(object, &error, 0, "{s:F, s:s, s:o !}", "peak_gflops", &peak, "isa", &isa, "rates", &rates) != 0) {
    fail(reading, error.text);
    return false;
  }
  const size_t n = json_array_size(rates);
  if (!json_is_array(rates) || n > MOST_RATES) {
    fail(reading, "rates must be a list, of at most 4096");
    return false;
  }
  machine->rates = memory_zeroed(n, sizeof *machine->rates);
  if (!machine->rates) dist_fail(reading->context, FAVOR_ENOMEM, "no memory for %zu rates", n);
  for (size_t i = 0; machine->rates && i < n; i++) {
    if (!read_rate(reading, json_array_get(rates, i), &machine->rates[i])) return false;
    machine->figures.n_rates++;
  }
  return machine->rates != NULL;
}

/* All of it, so that what is stored again is known to be right. */
static bool read_all(const struct reading *reading, json_t *root, struct machine_file *machine) {
  json_error_t error;
  json_t *kernel = NULL, *network = NULL, *io = NULL;
  json_int_t format = 0, cores = 0;
  struct favor_machine *figures = &machine->figures;
  int code = json_unpack_ex(root, &error, 0, "{s:I, s:I, s?o, s?o, s?o !}", "favor_machine", &format, "cores", &cores,
                            "kernel", &kernel, "network", &network, "io", &io);
  const bool is_valid = code == 0 && format == FORMAT && take_count(cores, &figures->cores);
  if (!is_valid) fail(reading, code != 0 ? error.text : "favor_machine must be 1, and cores from 1 to 2147483647");
  return is_valid && read_kernels(reading, kernel, machine) && read_network(reading, network, &figures->costs) &&
         read_io(reading, io, &figures->io);
}

/* Local: the file as it is and what it says; NULL where that is recorded as wrong. */
static json_t *read_file(struct favor_context *context, const char *path, struct machine_file *machine) {
  const struct reading reading = {context, path};
  json_error_t error;
  FILE *file = fopen(path, "r");
  if (!file) {
    dist_fail(context, FAVOR_EIO, "%s: cannot open the machine file: %s", path, strerror(errno));
    return NULL;
  }
  json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
  fclose(file);
  if (!root) fail(&reading, error.text);
  if (root && read_all(&reading, root, machine)) return root;
  json_decref(root);
  return NULL;
}

enum favor_status machine_load(struct favor_context *context, const char *path, struct machine_file *machine) {
  *machine = (struct machine_file){.figures = favor_machine_default()};
  if (context->rank == 0) json_decref(read_file(context, path, machine));
  enum favor_status status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = dist_broadcast(context, &machine->figures, sizeof machine->figures);
  if (status != FAVOR_OK) return status;
  const size_t n = (size_t)machine->figures.n_rates;
  if (context->rank != 0) machine->rates = memory_zeroed(n, sizeof *machine->rates);
  if (n > 0 && !machine->rates) dist_fail(context, FAVOR_ENOMEM, "no memory for %zu rates", n);
  status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK && n > 0) status = dist_broadcast(context, machine->rates, n * sizeof *machine->rates);
  machine->figures.rates = machine->rates;
  return status;
}

bool machine_predict(struct favor_context *context, const struct favor_problem *problem, const struct favor_job *job,
                     const struct machine_file *machine, struct favor_prediction *prediction) {
  if (dist_has_failed(context)) return false;
  if (favor_predict(context, problem, job, &machine->figures, prediction) == FAVOR_OK) return true;
  favor_context_forget(context);
  return false;
}

void machine_check(struct favor_context *context, const char *path) {
  struct machine_file machine = {.figures = favor_machine_default()};
  if (access(path, F_OK) == 0) json_decref(read_file(context, path, &machine));
  machine_release(&machine);
}

void machine_release(struct machine_file *machine) {
  free(machine->rates);
  *machine = (struct machine_file){0};
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

int machine_count_cores(void) {
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  struct cpus_topology topology;
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int cpu = 0; cpu < n && cpu < CPU_SETSIZE; cpu++) CPU_SET(cpu, &all);
  cpus_read_topology(&all, &topology);
  return cpus_count_cores(&topology, &all);
}

static json_t *pack_rate(const struct favor_rate *rate) {
  return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:f, s:f, s:f, s:f, s:f}", "kernel", rate->kernel,
                   "precision", name_of(OPTION_PRECISION, (int)rate->precision), "map",
                   name_of(OPTION_MAP, (int)rate->map), "projection", name_of(OPTION_PROJECTION, (int)rate->projection),
                   "D", (json_int_t)rate->key_width, "E", (json_int_t)rate->value_width, "M",
                   (json_int_t)rate->features, "threads", rate->threads, "absorb_ns", 1e9 * rate->absorb_s, "emit_ns",
                   1e9 * rate->emit_s, "causal_ns", 1e9 * rate->causal_s, "keep_ns", 1e9 * rate->keep_s, "kept_ns",
                   1e9 * rate->kept_s);
}

bool machine_is_same_subject(const struct favor_rate *a, const struct favor_rate *b) {
  return strcmp(a->kernel, b->kernel) == 0 && a->precision == b->precision && a->map == b->map &&
         a->projection == b->projection && a->key_width == b->key_width && a->value_width == b->value_width &&
         a->features == b->features && a->threads == b->threads;
}

static void replace(struct favor_context *context, const char *path, const json_t *root) {
  struct replacement file;
  if (!replacement_open(&file, path)) {
    dist_fail(context, FAVOR_ECREATE, "%s: cannot create the machine file: %s", path, strerror(errno));
    return;
  }
  const bool is_dumped =
      json_dumpf(root, file.file, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0 && fputc('\n', file.file) != EOF;
  if (!is_dumped || !replacement_finish(&file, path)) {
    dist_fail(context, FAVOR_EIO, "%s: cannot write the machine file: %s", path, strerror(errno));
  }
  replacement_discard(&file);
}

/* The file with a section, which it takes over, in the place of its own; links that this job does not have stay. */
static void store(struct favor_context *context, const char *path, const char *key, json_t *section) {
  struct machine_file machine = {.figures = favor_machine_default()};
  json_t *root =
      access(path, F_OK) == 0 ? read_file(context, path, &machine) : json_pack("{s:i}", "favor_machine", FORMAT);
  machine_release(&machine);
  if (!section || (!root && !dist_has_failed(context))) {
    dist_fail(context, FAVOR_ENOMEM, "no memory for the machine file %s", path);
  }
  if (root && section) {
    json_object_update_missing(section, json_object_get(root, key));
    const bool is_set = json_object_set_new(root, "cores", json_integer(machine_count_cores())) == 0 &&
                        json_object_set(root, key, section) == 0;
    if (is_set) replace(context, path, root);
  }
  json_decref(section);
  json_decref(root);
}

void machine_store_rates(struct favor_context *context, const char *path, double peak_gflops, const char *isa,
                         const struct favor_rate *rates, int n_rates) {
  struct machine_file before = {.figures = favor_machine_default()};
  if (access(path, F_OK) == 0) json_decref(read_file(context, path, &before));
  json_t *list = json_array();
  for (int i = 0; i < before.figures.n_rates; i++) {
    bool is_kept = true;
    for (int j = 0; j < n_rates; j++) is_kept = is_kept && !machine_is_same_subject(&before.rates[i], &rates[j]);
    if (is_kept) json_array_append_new(list, pack_rate(&before.rates[i]));
  }
  for (int i = 0; i < n_rates; i++) json_array_append_new(list, pack_rate(&rates[i]));
  machine_release(&before);
  json_t *section = json_pack("{s:f, s:s, s:o}", "peak_gflops", peak_gflops, "isa", isa, "rates", list);
  if (dist_has_failed(context)) {
    json_decref(section);
  } else {
    store(context, path, "kernel", section);
  }
}

static void add_link(json_t *section, const char *key, struct favor_link_costs link) {
  json_object_set_new(section, key,
                      json_pack("{s:f, s:f}", "latency_s", link.latency_s, "s_per_byte", link.s_per_byte));
}

void machine_store_network(struct favor_context *context, const char *path, const struct dist_probe *probe) {
  json_t *section = json_pack("{s:f}", "merge_s_per_byte", probe->costs.merge_s_per_byte);
  if (section && probe->has_within_node) add_link(section, "within_node", probe->costs.within_node);
  if (section && probe->has_between_nodes) add_link(section, "between_nodes", probe->costs.between_nodes);
  store(context, path, "network", section);
}

void machine_store_io(struct favor_context *context, const char *path, const struct favor_io_costs *io) {
  store(context, path, "io",
        json_pack("{s:i, s:f, s:f, s:f, s:f}", "ranks", io->ranks, "read_s_per_byte", io->read_s_per_byte,
                  "write_s_per_byte", io->write_s_per_byte, "cpu_s_per_byte", io->cpu_s_per_byte, "finish_s",
                  io->finish_s));
}

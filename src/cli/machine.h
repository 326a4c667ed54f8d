/* The machine file: what `favor bench` measured, for `favor plan`. doc/file-format.md describes it. */
#ifndef FAVOR_CLI_MACHINE_H
#define FAVOR_CLI_MACHINE_H

#include <favor/favor_machine.h>

#include "dist/probe.h"

struct machine_file {
  struct favor_machine figures; /* default ones where the file has none; its rates are those below */
  struct favor_rate *rates;     /* NULL: none */
};

/* Collective: reads the file on rank 0, the same figures for all. Errors: FAVOR_EIO (cannot open), FAVOR_EDATA (not a
 * machine file, or one with a key that is not known), FAVOR_ENOMEM; the machine is then to be released all the same. */
enum favor_status machine_load(struct favor_context *context, const char *path, struct machine_file *machine);
void machine_release(struct machine_file *machine);

/* Whether two rates are of the same kernel, precision, map, projection, shape and threads. */
bool machine_is_same_subject(const struct favor_rate *a, const struct favor_rate *b);

/* Local: what a run that is made or over should take. False where that cannot be told, or an error is pending already:
 * the model has every rank be like this one, so it may refuse what the ranks, unlike each other, can do. That is no
 * error of the run, and none is left pending. */
bool machine_predict(struct favor_context *context, const struct favor_problem *problem, const struct favor_job *job,
                     const struct machine_file *machine, struct favor_prediction *prediction);

/* Local, before something is measured that is to be stored: what is there must be a machine file. Records what is wrong
 * with it. */
void machine_check(struct favor_context *context, const char *path);

/* Local: the cores of this machine, whoever may use them. */
int machine_count_cores(void);

/* Local, on one rank: what was measured takes the place of what the file has of the same kind, and the rest of it
 * stays; without a file makes one. The file is replaced as a whole. Of rates those of the same kernel, precision, map,
 * projection, shape and threads give way. Failures are recorded: FAVOR_EDATA (what is there is not a machine file, and
 * stays), FAVOR_ECREATE, FAVOR_EIO, FAVOR_ENOMEM. */
void machine_store_rates(struct favor_context *context, const char *path, double peak_gflops, const char *isa,
                         const struct favor_rate *rates, int n_rates);
void machine_store_network(struct favor_context *context, const char *path, const struct dist_probe *probe);
void machine_store_io(struct favor_context *context, const char *path, const struct favor_io_costs *io);

#endif

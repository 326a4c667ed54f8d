/* Key shift, balance, the A of oprf and the key maximum in files: the group `estimates` of an output of attend. */
#ifndef FAVOR_CLI_ESTIMATES_H
#define FAVOR_CLI_ESTIMATES_H

#include <favor/favor_io.h>

/* What was read, [key heads][...] as struct favor_estimates has it. */
struct estimates_file {
  double *key_shift, *balance, *oprf_a, *key_max; /* NULL: not asked for */
};

/* Whether the problem asks for anything that such a file holds. */
bool estimates_are_used(const struct favor_problem *problem);

/* Collective: reads what the problem (its method, map, key_shift, balance, eps, guard_rule, key_max, and
 * shapes) asks for. Errors: those of
 * favor_double_read; FAVOR_EDATA where a shape is another. On failure there is nothing to release. */
enum favor_status estimates_read(struct favor_context *context, const char *path, const struct favor_problem *problem,
                                 struct estimates_file *read);
struct favor_estimates estimates_of(const struct estimates_file *read);
void estimates_release(struct estimates_file *read);

/* Local: the datasets that hold them, for favor_output_create; at most ESTIMATES_MOST. Returns how many. */
enum { ESTIMATES_MOST = 4 };
int estimates_tensors(const struct favor_problem *problem, struct favor_output_tensor *tensors);

/* Local: writes this rank's key heads into those datasets, the first of which is tensor number `first` of the file. */
void estimates_write(struct favor_output_file *file, int first, const struct favor_problem *problem,
                     const struct favor_shard *shard, const struct favor_estimates *estimates);

#endif

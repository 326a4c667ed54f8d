/* The inputs of attention: q, k, v and segments of one HDF5 file, checked against each other. */
#ifndef FAVOR_CLI_INPUTS_H
#define FAVOR_CLI_INPUTS_H

#include <favor/favor_io.h>

struct input_names {
  const char *query, *key, *value, *segments; /* datasets */
  bool is_segments_required;                  /* else: used if the file has it */
  enum favor_layout layout;
  enum favor_io_mode io;
};

struct inputs {
  struct favor_tensor *q, *k, *v;
  struct favor_tensor_shape q_shape, k_shape, v_shape;
  int64_t *segments; /* [n_segments + 1]; NULL: one segment */
  int64_t n_segments;
};

/* Collective. Errors: those of favor_tensor_open_mode and favor_int64_read; FAVOR_EDATA where shapes do not match.
 * On failure there is nothing to close. */
enum favor_status inputs_open(struct favor_context *context, const char *path, const struct input_names *names,
                              struct inputs *inputs);

/* Local; where they are read through MPI-IO collective. */
void inputs_close(struct inputs *inputs);

/* Sets batch, heads, kv_heads, tokens, widths and segments of the problem. Local; the segments stay the inputs'. */
void inputs_describe(const struct inputs *inputs, struct favor_problem *problem);

#endif

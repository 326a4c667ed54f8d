/* HDF5 files that are well-formed and of any form, made from a string of bytes: every choice takes the next byte, and 0
 * when they have run out. What a dataset holds is remembered, so that what is read of it can be compared. */
#ifndef FAVOR_TESTS_FUZZ_HDF5_FILE_H
#define FAVOR_TESTS_FUZZ_HDF5_FILE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct choices {
  const uint8_t *bytes;
  size_t n_bytes;
};
/* A number below n, at most 256. */
unsigned choose(struct choices *choices, unsigned n);

/* Bits of a floating-point format from the lowest: mantissa, exponent, sign. */
struct float_format {
  unsigned n_bytes, exponent_bits, mantissa_bits;
  int bias;
};
extern const struct float_format float_formats[4]; /* by enum favor_type */

enum { MADE_MAX_DIMS = 5 };

/* What a name of the file leads to. */
struct made {
  bool is_there; /* it leads to a dataset, directly or by links */
  bool is_known; /* and its values are these */
  int format;    /* of float_formats, or -1: another type */
  bool is_big_endian;
  int n_dims; /* -1: no extent */
  int64_t dims[MADE_MAX_DIMS];
  int64_t n_elements;
  size_t element_bytes;
  uint8_t *bytes; /* [n_elements][element_bytes], or NULL: all are as `fill` */
  uint8_t fill[16];
  int64_t *integers; /* [n_elements], in place of bytes */
};

enum made_name { MADE_Q, MADE_K, MADE_V, MADE_SEGMENTS, MADE_PROJECTION, MADE_KEY_SHIFT, MADE_N_NAMES };
extern const char *const made_names[MADE_N_NAMES];

/* Writes the file `path`; `other` is for what lies outside of it and `raw` for external data. False where HDF5 itself
 * will not write what was chosen; there is then no file to speak of, but `made` must be freed as ever. */
bool hdf5_file_make(struct choices *choices, const char *path, const char *other, const char *raw,
                    struct made made[MADE_N_NAMES]);
void hdf5_file_free(struct made made[MADE_N_NAMES]);

/* Element i of a known dataset of one of the formats. */
double made_value(const struct made *made, int64_t i);

#endif

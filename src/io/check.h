/* Verifies the checksums of a file (checksum.h) on all ranks together, in bounded memory. */
#ifndef FAVOR_IO_CHECK_H
#define FAVOR_IO_CHECK_H

#include <favor/favor_io.h>

/* Blocks of a head beside each other that do not have their checksums. */
struct check_range {
  int64_t head; /* flat */
  int64_t token_begin, token_end;
  int64_t first_row, last_row; /* in the order of the file; those of other heads may lie between */
};

enum check_outcome {
  CHECK_OK,
  CHECK_DAMAGED, /* in these ranges; without any: as a whole, or its checksums cannot be read */
  CHECK_UNKNOWN, /* it has no checksum */
  CHECK_MISSING  /* there are checksums but no dataset */
};

struct check_dataset {
  char *name;
  enum check_outcome outcome;
  struct check_range *ranges;
  int64_t n_ranges;
};

struct check_report {
  struct check_dataset *datasets; /* in order of name, without the checksums themselves */
  int n_datasets;
};

/* Collective. The report is rank 0's, and released by check_release on every rank. What is damaged is no error here;
 * errors are: FAVOR_EIO, FAVOR_EDATA (not HDF5, truncated, cannot be read, has no checksums at all), FAVOR_ENOMEM. */
enum favor_status check_file(struct favor_context *context, const char *path, struct check_report *report);
void check_release(struct check_report *report);

#endif

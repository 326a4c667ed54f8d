/* Options: one table (option_table.c) drives --key, `key = value` in configuration files, --help, --print-config and
 * the attributes of outputs. Rank 0 parses; the result is a plain struct that is broadcast. */
#ifndef FAVOR_CLI_OPTIONS_H
#define FAVOR_CLI_OPTIONS_H

#include <favor/favor_io.h>

#include "base/status.h"

enum {
  COMMAND_ATTEND = 1,
  COMMAND_MAKE = 2,
  COMMAND_VERIFY = 4,
  COMMAND_INSPECT = 8,
  COMMAND_VERSION = 16,
  COMMAND_HELP = 32,
  COMMAND_BENCH = 64,
  COMMAND_STUDY = 128,
  COMMAND_PLAN = 256 /* has all options of attend, and its own */
};

enum option_key {
  /* attend: the method */
  OPTION_CAUSAL,
  OPTION_METHOD,
  OPTION_MAP,
  OPTION_FEATURES,
  OPTION_PROJECTION,
  OPTION_ROW_NORM,
  OPTION_PROJECTION_FILE,
  OPTION_PROJECTION_PER_HEAD,
  OPTION_SEED,
  OPTION_LAYER,
  OPTION_REDRAW,
  OPTION_SCALE,
  OPTION_EPS,
  OPTION_KEY_MAX,
  OPTION_PROFILE,
  OPTION_ALLOW_NEGATIVE,
  OPTION_KEY_SHIFT,
  OPTION_BALANCE,
  OPTION_ESTIMATES_FILE,
  OPTION_WINDOW,
  OPTION_GLOBAL_TOKENS,
  OPTION_LSH_ROUNDS,
  OPTION_LSH_CHUNK,
  OPTION_PRECISION,
  /* attend: the run */
  OPTION_KERNEL,
  OPTION_THREADS,
  OPTION_GRID,
  OPTION_SCAN,
  OPTION_BLOCK_TOKENS,
  OPTION_MEMORY,
  OPTION_STALL_TIMEOUT,
  OPTION_MACHINE,
  OPTION_RANKS,
  OPTION_NODES,
  OPTION_IO,
  OPTION_CHECKPOINT_EVERY,
  OPTION_RESUME,
  OPTION_CERTIFY,
  OPTION_TARGET_ERROR,
  OPTION_FEATURES_MAX,
  /* make */
  OPTION_SHAPE,
  OPTION_FASTA,
  OPTION_ALPHABET,
  OPTION_KMER,
  OPTION_HEADS,
  OPTION_DIM,
  OPTION_KV_HEADS,
  OPTION_VALUE_WIDTH,
  OPTION_SPREAD,
  OPTION_TYPE,
  /* verify */
  OPTION_ROWS,
  /* inspect */
  OPTION_CHECK,
  /* study */
  OPTION_MAPS,
  OPTION_PROJECTIONS,
  OPTION_ROW_NORMS,
  OPTION_FEATURES_LIST,
  OPTION_DRAWS,
  /* bench scaling */
  OPTION_MODES,
  OPTION_SCANS,
  OPTION_RANKS_LIST,
  OPTION_TOKENS_LIST,
  OPTION_ROUNDS,
  OPTION_CSV,
  /* files */
  OPTION_QUERY,
  OPTION_KEY,
  OPTION_VALUE,
  OPTION_SEGMENTS,
  OPTION_LAYOUT,
  OPTION_OUT_TYPE,
  OPTION_OUTPUT,
  OPTION_OVERWRITE,
  /* the program */
  OPTION_CONFIG,
  OPTION_PRINT_CONFIG,
  OPTION_JSON,
  OPTION_QUIET,
  OPTION_VERBOSE,
  OPTION_N_KEYS
};

enum option_origin { OPTION_FROM_DEFAULT, OPTION_FROM_CONFIG, OPTION_FROM_COMMAND_LINE };

enum { OPTION_TEXT_BYTES = 1024, OPTION_MAX_INTEGERS = 4, OPTION_MAX_OPERANDS = 2 };

struct option_value {
  enum option_origin origin;
  int64_t integers[OPTION_MAX_INTEGERS]; /* integers and bytes, flags (0 or 1), choices (their place), grids, shapes */
  double number;
  char text[OPTION_TEXT_BYTES]; /* every kind: as it would be written in a configuration file */
};

/* Plain, so that it can be broadcast. */
struct options {
  unsigned command; /* COMMAND_... */
  bool is_help_wanted;
  int n_operands;
  char operands[OPTION_MAX_OPERANDS][OPTION_TEXT_BYTES]; /* IN, or IN and OUT */
  struct option_value values[OPTION_N_KEYS];
};

/* Parses the words after the program's name: the command, its operands and options, and the configuration file that
 * they name (defaults < configuration file < command line). Local. Errors: FAVOR_EUSAGE, FAVOR_ECONFIG. */
enum favor_status options_parse(struct options *options, int n_words, char *const *words, struct status *status);

static inline bool options_flag(const struct options *options, enum option_key key) {
  return options->values[key].integers[0] != 0;
}
/* Also the place of a choice; 0 where "auto". */
static inline int64_t options_integer(const struct options *options, enum option_key key) {
  return options->values[key].integers[0];
}
static inline double options_number(const struct options *options, enum option_key key) {
  return options->values[key].number;
}
static inline const char *options_text(const struct options *options, enum option_key key) {
  return options->values[key].text;
}
/* Was it given, on the command line or in the configuration file? */
static inline bool options_is_given(const struct options *options, enum option_key key) {
  return options->values[key].origin != OPTION_FROM_DEFAULT;
}

/* The options that decide what the command writes, as attributes: name is the option's key, flags and integers are
 * integers, numbers are numbers, all else is text; without those that are empty or have no say beside another. Sets
 * *n_attributes; attributes has room for OPTION_N_KEYS. */
void options_attributes(const struct options *options, struct favor_attribute *attributes, int *n_attributes);

#endif

/* The table of options, and one option's text to and from its value. */
#ifndef FAVOR_CLI_OPTION_TABLE_H
#define FAVOR_CLI_OPTION_TABLE_H

#include "cli/options.h"

enum option_kind {
  KIND_FLAG,    /* --causal, --causal=false */
  KIND_INTEGER, /* decimal */
  KIND_BYTES,   /* an integer with an optional suffix k, M or G */
  KIND_NUMBER,
  KIND_CHOICE, /* one of `choices` */
  KIND_KERNEL, /* "auto" or one of favor_kernel_name() */
  KIND_TEXT,
  KIND_GRID, /* HxT */
  KIND_SHAPE /* B,H,N,D */
};

struct option {
  const char *name; /* without dashes */
  unsigned commands;
  enum option_kind kind;
  const char *preset;         /* the default as text; "" for none */
  const char *automatic;      /* a word that stands for 0, "auto" in most; NULL: there is none */
  double least, most;         /* inclusive; integers, bytes, numbers and each member of grids and shapes */
  const char *const *choices; /* NULL-terminated */
  unsigned methods;           /* of attend, by bits of enum favor_method, that it has a say in; 0: all */
  bool is_attribute;          /* decides what is written, and is stored with it */
  bool is_config_key;         /* may stand in a configuration file */
  char letter;                /* -o; 0: none */
  const char *argument;       /* name of the value in the help, "" for flags */
  const char *help;
};

const struct option *option_at(enum option_key key);

/* Does a command have it? */
bool option_belongs(enum option_key key, unsigned command);

/* The option of this name; OPTION_N_KEYS when the command has none. */
enum option_key option_find(unsigned command, const char *name);
/* The command's option whose name is nearest by edit distance. */
enum option_key option_nearest(unsigned command, const char *name);

/* Parses text into the value (origin stays). `where` opens the message: "--features" or "run.conf:3: features". */
enum favor_status option_parse(enum option_key key, const char *text, const char *where, enum favor_status code,
                               struct option_value *value, struct status *status);

/* "one of: orthogonal, gaussian", "an integer from 1 to 8" */
void option_describe_range(enum option_key key, char *text, size_t size);

/* Two options that cannot both be active. */
struct option_conflict {
  enum option_key first, second;
  const char *reason;
};
/* NULL past the last. */
const struct option_conflict *option_conflict_at(int index);
/* Was it given, and does it say something? Not a false flag, not an empty text, and not a default that a configuration
 * file repeats (--print-config writes those). */
bool option_is_active(const struct options *options, enum option_key key);

/* Has it no say in the command's method? */
bool option_is_foreign(const struct options *options, enum option_key key);

/* Has it no say, for that reason or as it contradicts one that is active? */
bool option_is_excluded(const struct options *options, enum option_key key);

/* The number of single-character insertions, deletions, replacements and swaps of neighbours between two words. */
int option_word_distance(const char *a, const char *b);

#endif

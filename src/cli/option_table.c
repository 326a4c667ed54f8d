#include "cli/option_table.h"

#include <string.h>

static const char *const methods[] = {"favor", "exact", "window", "mean", "copy", "linformer", "lsh", NULL};
static const char *const maps[] = {"positive", "hyperbolic", "trigonometric", "oprf",     "relu",
                                   "elu",      "exp",        "gelu",          "sigmoid",  "tanh",
                                   "abs",      "square",     "cos",           "identity", NULL};
static const char *const projections[] = {"orthogonal", "gaussian", "hadamard", "simplex", "none", NULL};
static const char *const key_shifts[] = {"none", "mean", NULL};
static const char *const balances[] = {"none", "diagonal", "full", NULL};
static const char *const key_maxima[] = {"none", "head", "tensor", NULL};
static const char *const profiles[] = {"none",  "google-jax", "google-tf", "lucidrains", "lucidrains-legacy",
                                       "idiap", "slim",       NULL};
static const char *const row_norms[] = {"sqrt", "chi", NULL};
static const char *const precisions[] = {"f32", "f64", "bf16", NULL};
static const char *const scans[] = {"auto", "exscan", "doubling", "chain", "nodes", NULL};
static const char *const ios[] = {"direct", "mpio", NULL};
static const char *const layouts[] = {"heads-first", "tokens-first", NULL};
static const char *const types[] = {"float16", "bfloat16", "float32", "float64", NULL};
static const char *const out_types[] = {"auto", "float16", "bfloat16", "float32", "float64", NULL};
static const char *const alphabets[] = {"dna", "protein", NULL};

/* Above what any run could hold, below where products of sizes leave int64_t. */
#define MOST_WIDTH 1048576.0
#define MOST_HEADS 16777216.0
#define MOST_TOKENS 1099511627776.0
#define MOST_BYTES 1e18
#define MOST_SEED 9007199254740992.0 /* 2^53: what every JSON reader keeps */
#define MOST_REAL 1e30
#define LEAST_REAL 1e-30

#define JOBS (COMMAND_ATTEND | COMMAND_MAKE | COMMAND_VERIFY | COMMAND_BENCH | COMMAND_STUDY | COMMAND_PLAN)
#define ATTRIBUTE .is_attribute = true, .is_config_key = true
#define SETTING .is_config_key = true
#define OF_FAVOR .methods = 1U << FAVOR_METHOD_FAVOR
#define OF_WINDOW .methods = 1U << FAVOR_METHOD_WINDOW
#define OF_NEAR .methods = 1U << FAVOR_METHOD_FAVOR | 1U << FAVOR_METHOD_WINDOW
#define OF_LSH .methods = 1U << FAVOR_METHOD_LSH
#define OF_ROWS .methods = 1U << FAVOR_METHOD_FAVOR | 1U << FAVOR_METHOD_LINFORMER
#define OF_DRAWN OF_ROWS | 1U << FAVOR_METHOD_LSH

static const struct option table[OPTION_N_KEYS] = {
#include "cli/option_rows_method.h"
#include "cli/option_rows_other.h"
#include "cli/option_rows_run.h"
#include "cli/option_rows_scaling.h"
};

static const struct option_conflict conflicts[] = {
    {OPTION_PROJECTION_FILE, OPTION_PROJECTION, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_ROW_NORM, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_PROJECTION_PER_HEAD, "the shape of the projection that is read decides"},
    {OPTION_PROJECTION_FILE, OPTION_SEED, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_LAYER, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_REDRAW, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_TARGET_ERROR, "the projection that is read has its features"},
    {OPTION_SHAPE, OPTION_FASTA, "tensors are either random or from sequences"},
    {OPTION_SHAPE, OPTION_ALPHABET, "it belongs to --fasta"},
    {OPTION_SHAPE, OPTION_KMER, "it belongs to --fasta"},
    {OPTION_SHAPE, OPTION_HEADS, "the shape has the heads already"},
    {OPTION_SHAPE, OPTION_DIM, "the shape has the width already"},
    {OPTION_QUIET, OPTION_VERBOSE, "one asks for less, the other for more"},
};

const struct option *option_at(enum option_key key) { return &table[key]; }

bool option_belongs(enum option_key key, unsigned command) {
  const unsigned commands = table[key].commands;
  return ((commands & COMMAND_ATTEND ? commands | COMMAND_PLAN : commands) & command) != 0;
}

const struct option_conflict *option_conflict_at(int index) {
  return index < (int)(sizeof conflicts / sizeof *conflicts) ? &conflicts[index] : NULL;
}

bool option_is_active(const struct options *options, enum option_key key) {
  const struct option_value *value = &options->values[key];
  if (!option_belongs(key, options->command) || value->origin == OPTION_FROM_DEFAULT) return false;
  if (value->origin == OPTION_FROM_CONFIG && strcmp(value->text, table[key].preset) == 0) return false;
  if (table[key].kind == KIND_FLAG) return options_flag(options, key);
  return value->text[0] != '\0';
}

bool option_is_foreign(const struct options *options, enum option_key key) {
  if (!(options->command & (COMMAND_ATTEND | COMMAND_PLAN)) || table[key].methods == 0) return false;
  return !(table[key].methods >> options_integer(options, OPTION_METHOD) & 1);
}

bool option_is_excluded(const struct options *options, enum option_key key) {
  if (option_is_foreign(options, key)) return true;
  for (size_t i = 0; i < sizeof conflicts / sizeof *conflicts; i++) {
    if (conflicts[i].second == key && option_is_active(options, conflicts[i].first)) return true;
  }
  return false;
}

enum option_key option_find(unsigned command, const char *name) {
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    if (option_belongs((enum option_key)key, command) && strcmp(table[key].name, name) == 0) {
      return (enum option_key)key;
    }
  }
  return OPTION_N_KEYS;
}

enum option_key option_nearest(unsigned command, const char *name) {
  enum option_key best = OPTION_N_KEYS;
  int best_distance = 0;
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    if (!option_belongs((enum option_key)key, command)) continue;
    int distance = option_word_distance(name, table[key].name);
    if (best == OPTION_N_KEYS || distance < best_distance) {
      best = (enum option_key)key;
      best_distance = distance;
    }
  }
  return best;
}

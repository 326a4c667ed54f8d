#include "cli/option_table.h"

#include <string.h>

static const char *const methods[] = {"favor", "exact", "window", "mean", "copy", "linformer", "lsh", NULL};
static const char *const maps[] = {"positive", "hyperbolic", NULL};
static const char *const projections[] = {"orthogonal", "gaussian", "hadamard", NULL};
static const char *const row_norms[] = {"sqrt", "chi", NULL};
static const char *const precisions[] = {"f32", "f64", "bf16", NULL};
static const char *const scans[] = {"auto", "exscan", "doubling", "chain", NULL};
static const char *const ios[] = {"direct", NULL};
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

#define JOBS (COMMAND_ATTEND | COMMAND_MAKE | COMMAND_VERIFY | COMMAND_BENCH)
#define ATTRIBUTE .is_attribute = true, .is_config_key = true
#define SETTING .is_config_key = true
#define OF_FAVOR .methods = 1U << FAVOR_METHOD_FAVOR
#define OF_WINDOW .methods = 1U << FAVOR_METHOD_WINDOW
#define OF_LSH .methods = 1U << FAVOR_METHOD_LSH
#define OF_ROWS .methods = 1U << FAVOR_METHOD_FAVOR | 1U << FAVOR_METHOD_LINFORMER
#define OF_DRAWN OF_ROWS | 1U << FAVOR_METHOD_LSH

static const struct option table[OPTION_N_KEYS] = {
    [OPTION_CAUSAL] = {.name = "causal",
                       .commands = COMMAND_ATTEND | COMMAND_BENCH,
                       .kind = KIND_FLAG,
                       .preset = "false",
                       ATTRIBUTE,
                       .help = "a token attends to itself and earlier tokens of its segment only"},
    [OPTION_METHOD] = {.name = "method",
                       .commands = COMMAND_ATTEND,
                       .kind = KIND_CHOICE,
                       .choices = methods,
                       .preset = "favor",
                       ATTRIBUTE,
                       .argument = "NAME",
                       .help = "favor; exact, softmax attention in time N^2; or a baseline: window, softmax over "
                               "tokens that are near (Longformer); mean, "
                               "the mean of v over what a token attends to; copy, v itself; linformer, softmax over "
                               "projections of the tokens; lsh, softmax over tokens of like hashes (Reformer)"},
    [OPTION_MAP] = {.name = "map",
                    .commands = COMMAND_ATTEND | COMMAND_BENCH,
                    .kind = KIND_CHOICE,
                    .choices = maps,
                    .preset = "positive",
                    ATTRIBUTE,
                    OF_FAVOR,
                    .argument = "NAME",
                    .help = "the feature map: positive is FAVOR+ (Choromanski et al. 2021, lemma 1), hyperbolic has "
                            "both signs of each direction"},
    [OPTION_FEATURES] =
        {.name = "features",
         .commands = COMMAND_ATTEND | COMMAND_BENCH,
         .kind = KIND_INTEGER,
         .preset = "256",
         .least = 1,
         .most = 16777216,
         ATTRIBUTE,
         OF_ROWS,
         .argument = "M",
         .help = "random features; the hyperbolic map has two of each, so a state has 2 M rows; linformer: the rows "
                 "to which keys and values are projected"},
    [OPTION_PROJECTION] = {.name = "projection",
                           .commands = COMMAND_ATTEND | COMMAND_BENCH,
                           .kind = KIND_CHOICE,
                           .choices = projections,
                           .preset = "orthogonal",
                           ATTRIBUTE,
                           OF_FAVOR,
                           .argument = "NAME",
                           .help = "how the rows of the projection are drawn; hadamard: from random signs and fast "
                                   "transforms, D log D work instead of D^2, on D padded to a power of two; its "
                                   "kernel estimate has a small bias, below 1 % at D=64 and about 2 % at D=16 with "
                                   "--row-norm chi"},
    [OPTION_ROW_NORM] = {.name = "row-norm",
                         .commands = COMMAND_ATTEND,
                         .kind = KIND_CHOICE,
                         .choices = row_norms,
                         .preset = "sqrt",
                         ATTRIBUTE,
                         OF_FAVOR,
                         .argument = "NAME",
                         .help = "lengths of orthogonal and hadamard rows: sqrt(D), or drawn from chi(D)"},
    [OPTION_PROJECTION_FILE] = {.name = "projection-file",
                                .commands = COMMAND_ATTEND,
                                .kind = KIND_TEXT,
                                .preset = "",
                                ATTRIBUTE,
                                OF_FAVOR,
                                .argument = "F[:DATASET]",
                                .help = "read the projection, [M][D] or [G][M][D], instead of drawing it; the dataset "
                                        "is `projection` unless named"},
    [OPTION_PROJECTION_PER_HEAD] = {.name = "projection-per-head",
                                    .commands = COMMAND_ATTEND,
                                    .kind = KIND_FLAG,
                                    .preset = "false",
                                    ATTRIBUTE,
                                    OF_FAVOR,
                                    .help = "draw a projection for each key head"},
    [OPTION_SEED] = {.name = "seed",
                     .commands = JOBS,
                     .kind = KIND_INTEGER,
                     .preset = "0",
                     .least = 0,
                     .most = MOST_SEED,
                     ATTRIBUTE,
                     .argument = "S",
                     .help = "of the random numbers"},
    [OPTION_LAYER] = {.name = "layer",
                      .commands = COMMAND_ATTEND,
                      .kind = KIND_INTEGER,
                      .preset = "0",
                      .least = 0,
                      .most = MOST_SEED,
                      ATTRIBUTE,
                      OF_DRAWN,
                      .argument = "L",
                      .help = "another projection of the same seed"},
    [OPTION_REDRAW] = {.name = "redraw",
                       .commands = COMMAND_ATTEND,
                       .kind = KIND_INTEGER,
                       .preset = "0",
                       .least = 0,
                       .most = MOST_SEED,
                       ATTRIBUTE,
                       OF_DRAWN,
                       .argument = "R",
                       .help = "another projection of the same layer"},
    [OPTION_SCALE] = {.name = "scale",
                      .commands = COMMAND_ATTEND,
                      .kind = KIND_NUMBER,
                      .preset = "auto",
                      .automatic = "auto",
                      .least = LEAST_REAL,
                      .most = MOST_REAL,
                      ATTRIBUTE,
                      .argument = "X",
                      .help = "of the logits; auto is D^-1/2"},
    [OPTION_WINDOW] = {.name = "window",
                       .commands = COMMAND_ATTEND,
                       .kind = KIND_INTEGER,
                       .preset = "-1",
                       .least = -1,
                       .most = MOST_TOKENS,
                       ATTRIBUTE,
                       OF_WINDOW,
                       .argument = "W",
                       .help = "tokens on each side that a token attends to, before it only with --causal; -1 is none"},
    [OPTION_GLOBAL_TOKENS] = {.name = "global-tokens",
                              .commands = COMMAND_ATTEND,
                              .kind = KIND_INTEGER,
                              .preset = "0",
                              .least = 0,
                              .most = MOST_TOKENS,
                              ATTRIBUTE,
                              OF_WINDOW,
                              .argument = "T",
                              .help = "the first tokens of each segment, to which all attend, and which attend to all"},
    [OPTION_LSH_ROUNDS] = {.name = "lsh-rounds",
                           .commands = COMMAND_ATTEND,
                           .kind = KIND_INTEGER,
                           .preset = "4",
                           .least = 1,
                           .most = 64,
                           ATTRIBUTE,
                           OF_LSH,
                           .argument = "R",
                           .help = "of hashing; a token attends to all that it meets in any"},
    [OPTION_LSH_CHUNK] = {.name = "lsh-chunk",
                          .commands = COMMAND_ATTEND,
                          .kind = KIND_INTEGER,
                          .preset = "64",
                          .least = 1,
                          .most = MOST_TOKENS,
                          ATTRIBUTE,
                          OF_LSH,
                          .argument = "C",
                          .help = "keys of a bucket that are met together; there are about N / C buckets"},
    [OPTION_PRECISION] = {.name = "precision",
                          .commands = COMMAND_ATTEND | COMMAND_BENCH,
                          .kind = KIND_CHOICE,
                          .choices = precisions,
                          .preset = "f32",
                          ATTRIBUTE,
                          .argument = "NAME",
                          .help = "of the arithmetic; bf16 multiplies in bfloat16 and adds in f32"},

    [OPTION_KERNEL] = {.name = "kernel",
                       .commands = COMMAND_ATTEND | COMMAND_BENCH,
                       .kind = KIND_KERNEL,
                       .preset = "auto",
                       ATTRIBUTE,
                       .argument = "NAME",
                       .help = "the inner loops; auto is the best that every rank can run"},
    [OPTION_THREADS] = {.name = "threads",
                        .commands = COMMAND_ATTEND | COMMAND_BENCH,
                        .kind = KIND_INTEGER,
                        .preset = "auto",
                        .automatic = "auto",
                        .least = 1,
                        .most = 65536,
                        SETTING,
                        .argument = "T",
                        .help = "of each rank, each on cores of its own; auto is OMP_NUM_THREADS, else the cores that "
                                "the rank may use over the ranks sharing them"},
    [OPTION_GRID] = {.name = "grid",
                     .commands = COMMAND_ATTEND,
                     .kind = KIND_GRID,
                     .preset = "auto",
                     .automatic = "auto",
                     .least = 1,
                     .most = 16777216,
                     SETTING,
                     .argument = "HxT",
                     .help = "ranks over heads by ranks over tokens; auto is the cheapest"},
    [OPTION_SCAN] = {.name = "scan",
                     .commands = COMMAND_ATTEND,
                     .kind = KIND_CHOICE,
                     .choices = scans,
                     .preset = "auto",
                     SETTING,
                     .argument = "NAME",
                     .help = "how causal states travel along the ranks"},
    [OPTION_BLOCK_TOKENS] = {.name = "block-tokens",
                             .commands = COMMAND_ATTEND,
                             .kind = KIND_INTEGER,
                             .preset = "auto",
                             .automatic = "auto",
                             .least = 1,
                             .most = MOST_TOKENS,
                             SETTING,
                             .argument = "N",
                             .help = "read and computed at once; auto follows --memory"},
    [OPTION_MEMORY] = {.name = "memory",
                       .commands = COMMAND_ATTEND,
                       .kind = KIND_BYTES,
                       .preset = "auto",
                       .automatic = "auto",
                       .least = 1,
                       .most = MOST_BYTES,
                       SETTING,
                       .argument = "BYTES",
                       .help = "bound on each rank's states, scratch and blocks; auto is no bound"},
    [OPTION_IO] = {.name = "io",
                   .commands = COMMAND_ATTEND,
                   .kind = KIND_CHOICE,
                   .choices = ios,
                   .preset = "direct",
                   SETTING,
                   .argument = "NAME",
                   .help = "how files are read"},

    [OPTION_SHAPE] = {.name = "shape",
                      .commands = COMMAND_MAKE | COMMAND_BENCH,
                      .kind = KIND_SHAPE,
                      .preset = "",
                      .least = 1,
                      .most = MOST_TOKENS,
                      ATTRIBUTE,
                      .argument = "B,H,N,D",
                      .help = "random tensors: batch, heads, tokens, width"},
    [OPTION_FASTA] = {.name = "fasta",
                      .commands = COMMAND_MAKE,
                      .kind = KIND_TEXT,
                      .preset = "",
                      ATTRIBUTE,
                      .argument = "FILE",
                      .help = "tensors from sequences; plain, gzip or bgzip; - is stdin"},
    [OPTION_ALPHABET] = {.name = "alphabet",
                         .commands = COMMAND_MAKE,
                         .kind = KIND_CHOICE,
                         .choices = alphabets,
                         .preset = "dna",
                         ATTRIBUTE,
                         .argument = "NAME",
                         .help = "of the FASTA file"},
    [OPTION_KMER] = {.name = "kmer",
                     .commands = COMMAND_MAKE,
                     .kind = KIND_INTEGER,
                     .preset = "auto",
                     .automatic = "auto",
                     .least = 1,
                     .most = 12,
                     ATTRIBUTE,
                     .argument = "K",
                     .help = "letters of a token; auto is 6 for dna, 1 for protein"},
    [OPTION_HEADS] = {.name = "heads",
                      .commands = COMMAND_MAKE,
                      .kind = KIND_INTEGER,
                      .preset = "2",
                      .least = 1,
                      .most = MOST_HEADS - 1,
                      ATTRIBUTE,
                      .argument = "H",
                      .help = "query heads, with --fasta"},
    [OPTION_DIM] = {.name = "dim",
                    .commands = COMMAND_MAKE,
                    .kind = KIND_INTEGER,
                    .preset = "64",
                    .least = 1,
                    .most = MOST_WIDTH,
                    ATTRIBUTE,
                    .argument = "D",
                    .help = "width of a head, with --fasta"},
    [OPTION_KV_HEADS] = {.name = "kv-heads",
                         .commands = COMMAND_MAKE,
                         .kind = KIND_INTEGER,
                         .preset = "auto",
                         .automatic = "auto",
                         .least = 1,
                         .most = MOST_HEADS - 1,
                         ATTRIBUTE,
                         .argument = "G",
                         .help = "key and value heads, a divisor of the query heads; auto is as many"},
    [OPTION_VALUE_WIDTH] = {.name = "value-width",
                            .commands = COMMAND_MAKE | COMMAND_BENCH,
                            .kind = KIND_INTEGER,
                            .preset = "auto",
                            .automatic = "auto",
                            .least = 1,
                            .most = MOST_WIDTH,
                            ATTRIBUTE,
                            .argument = "E",
                            .help = "width of v; auto is that of k"},
    [OPTION_SPREAD] = {.name = "spread",
                       .commands = COMMAND_MAKE,
                       .kind = KIND_NUMBER,
                       .preset = "auto",
                       .automatic = "auto",
                       .least = LEAST_REAL,
                       .most = 1000,
                       ATTRIBUTE,
                       .argument = "X",
                       .help = "standard deviation of q and k; auto is 1, with --fasta 0.5"},
    [OPTION_TYPE] = {.name = "type",
                     .commands = COMMAND_MAKE,
                     .kind = KIND_CHOICE,
                     .choices = types,
                     .preset = "float16",
                     ATTRIBUTE,
                     .argument = "NAME",
                     .help = "of the numbers in the file"},

    [OPTION_ROWS] = {.name = "rows",
                     .commands = COMMAND_VERIFY,
                     .kind = KIND_INTEGER,
                     .preset = "64",
                     .least = 1,
                     .most = MOST_TOKENS,
                     SETTING,
                     .argument = "R",
                     .help = "of the output that are recomputed"},

    [OPTION_QUERY] = {.name = "query",
                      .commands = COMMAND_ATTEND,
                      .kind = KIND_TEXT,
                      .preset = "q",
                      ATTRIBUTE,
                      .argument = "DATASET",
                      .help = "the queries in IN"},
    [OPTION_KEY] = {.name = "key",
                    .commands = COMMAND_ATTEND,
                    .kind = KIND_TEXT,
                    .preset = "k",
                    ATTRIBUTE,
                    .argument = "DATASET",
                    .help = "the keys in IN"},
    [OPTION_VALUE] = {.name = "value",
                      .commands = COMMAND_ATTEND,
                      .kind = KIND_TEXT,
                      .preset = "v",
                      ATTRIBUTE,
                      .argument = "DATASET",
                      .help = "the values in IN"},
    [OPTION_SEGMENTS] = {.name = "segments",
                         .commands = COMMAND_ATTEND,
                         .kind = KIND_TEXT,
                         .preset = "segments",
                         ATTRIBUTE,
                         .argument = "DATASET",
                         .help = "the segments' offsets in IN, used if there"},
    [OPTION_LAYOUT] = {.name = "layout",
                       .commands = COMMAND_ATTEND | COMMAND_MAKE,
                       .kind = KIND_CHOICE,
                       .choices = layouts,
                       .preset = "heads-first",
                       ATTRIBUTE,
                       .argument = "NAME",
                       .help = "[B][H][N][D] or [B][N][H][D]"},
    [OPTION_OUT_TYPE] = {.name = "out-type",
                         .commands = COMMAND_ATTEND,
                         .kind = KIND_CHOICE,
                         .choices = out_types,
                         .preset = "auto",
                         ATTRIBUTE,
                         .argument = "NAME",
                         .help = "of the numbers in OUT; auto is the type of q"},
    [OPTION_OUTPUT] = {.name = "output",
                       .commands = COMMAND_ATTEND,
                       .kind = KIND_TEXT,
                       .preset = "",
                       SETTING,
                       .letter = 'o',
                       .argument = "OUT",
                       .help = "the file to write"},
    [OPTION_OVERWRITE] = {.name = "overwrite",
                          .commands = COMMAND_ATTEND | COMMAND_MAKE,
                          .kind = KIND_FLAG,
                          .preset = "false",
                          SETTING,
                          .help = "replace the output file if it exists"},

    [OPTION_CONFIG] = {.name = "config",
                       .commands = JOBS,
                       .kind = KIND_TEXT,
                       .preset = "",
                       .argument = "FILE",
                       .help = "read options from lines `key = value`; the command line goes first"},
    [OPTION_PRINT_CONFIG] = {.name = "print-config",
                             .commands = JOBS,
                             .kind = KIND_FLAG,
                             .preset = "false",
                             .help = "print all options as a configuration file and stop"},
    [OPTION_JSON] = {.name = "json",
                     .commands = JOBS | COMMAND_INSPECT | COMMAND_VERSION,
                     .kind = KIND_FLAG,
                     .preset = "false",
                     SETTING,
                     .help = "print the result as one JSON object on stdout"},
    [OPTION_QUIET] = {.name = "quiet",
                      .commands = JOBS,
                      .kind = KIND_FLAG,
                      .preset = "false",
                      SETTING,
                      .help = "print nothing but errors and what --json asks for"},
    [OPTION_VERBOSE] = {.name = "verbose",
                        .commands = JOBS,
                        .kind = KIND_FLAG,
                        .preset = "false",
                        SETTING,
                        .help = "say what was chosen and why"},
};

static const struct option_conflict conflicts[] = {
    {OPTION_PROJECTION_FILE, OPTION_PROJECTION, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_ROW_NORM, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_PROJECTION_PER_HEAD, "the shape of the projection that is read decides"},
    {OPTION_PROJECTION_FILE, OPTION_SEED, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_LAYER, "the projection is read, not drawn"},
    {OPTION_PROJECTION_FILE, OPTION_REDRAW, "the projection is read, not drawn"},
    {OPTION_SHAPE, OPTION_FASTA, "tensors are either random or from sequences"},
    {OPTION_SHAPE, OPTION_ALPHABET, "it belongs to --fasta"},
    {OPTION_SHAPE, OPTION_KMER, "it belongs to --fasta"},
    {OPTION_SHAPE, OPTION_HEADS, "the shape has the heads already"},
    {OPTION_SHAPE, OPTION_DIM, "the shape has the width already"},
    {OPTION_QUIET, OPTION_VERBOSE, "one asks for less, the other for more"},
};

const struct option *option_at(enum option_key key) { return &table[key]; }

const struct option_conflict *option_conflict_at(int index) {
  return index < (int)(sizeof conflicts / sizeof *conflicts) ? &conflicts[index] : NULL;
}

bool option_is_active(const struct options *options, enum option_key key) {
  const struct option_value *value = &options->values[key];
  if (!(table[key].commands & options->command) || value->origin == OPTION_FROM_DEFAULT) return false;
  if (value->origin == OPTION_FROM_CONFIG && strcmp(value->text, table[key].preset) == 0) return false;
  if (table[key].kind == KIND_FLAG) return options_flag(options, key);
  return value->text[0] != '\0';
}

bool option_is_foreign(const struct options *options, enum option_key key) {
  if (options->command != COMMAND_ATTEND || table[key].methods == 0) return false;
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
    if ((table[key].commands & command) && strcmp(table[key].name, name) == 0) return (enum option_key)key;
  }
  return OPTION_N_KEYS;
}

enum option_key option_nearest(unsigned command, const char *name) {
  enum option_key best = OPTION_N_KEYS;
  int best_distance = 0;
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    if (!(table[key].commands & command)) continue;
    int distance = option_word_distance(name, table[key].name);
    if (best == OPTION_N_KEYS || distance < best_distance) {
      best = (enum option_key)key;
      best_distance = distance;
    }
  }
  return best;
}

#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/option_table.h"
#include "dist/agree.h"

enum { HELP_COLUMN = 32, LINE_WIDTH = 110 };

/* Prints text from HELP_COLUMN on, broken between words. */
static void print_wrapped(const char *text) {
  int column = HELP_COLUMN;
  while (*text) {
    int length = (int)strcspn(text, " ");
    if (column == HELP_COLUMN) {
      column += length;
    } else if (column + 1 + length > LINE_WIDTH) {
      printf("\n%*s", HELP_COLUMN, "");
      column = HELP_COLUMN + length;
    } else {
      putchar(' ');
      column += 1 + length;
    }
    printf("%.*s", length, text);
    text += length;
    text += strspn(text, " ");
  }
  putchar('\n');
}

static void print_option(enum option_key key) {
  const struct option *option = option_at(key);
  char left[HELP_COLUMN + 64], range[256], text[1024];
  snprintf(left, sizeof left, "  %s%c%s--%s%s%s", option->letter ? "-" : "", option->letter ? option->letter : ' ',
           option->letter ? ", " : "   ", option->name, option->argument ? " " : "",
           option->argument ? option->argument : "");
  option_describe_range(key, range, sizeof range);
  bool is_listing = option->kind == KIND_CHOICE || option->kind == KIND_KERNEL;
  const char *preset = option->kind == KIND_FLAG ? "off" : option->preset[0] ? option->preset : "none";
  snprintf(text, sizeof text, "%s%s%s [%s]", option->help, is_listing ? ": " : "", is_listing ? range : "", preset);
  printf("%-*s", HELP_COLUMN, left);
  if (strlen(left) >= HELP_COLUMN) printf("\n%*s", HELP_COLUMN, "");
  print_wrapped(text);
}

static void print_command(const struct command_entry *entry) {
  printf("usage: favor %s %s\n\n%s.\n\n", entry->name, entry->usage, entry->summary);
  if (entry->details[0]) printf("%s\n", entry->details);
  bool has_options = false;
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    if (!option_belongs((enum option_key)key, entry->mask)) continue;
    if (!has_options) puts("Options, with the default in brackets:");
    has_options = true;
    print_option((enum option_key)key);
  }
}

static void print_overview(void) {
  printf("favor %s: linear-cost attention over sequences sharded across MPI ranks\n\n"
         "usage: favor COMMAND ...      or under MPI:  mpirun -n 8 favor COMMAND ...\n\nCommands:\n",
         FAVOR_VERSION);
  for (int i = 0; command_at(i); i++) printf("  %-10s%s\n", command_at(i)->name, command_at(i)->summary);
  puts("\n`favor help COMMAND` lists a command's options. Options go as --key value or --key=value; a file of lines\n"
       "`key = value` goes with --config, and --print-config writes one.\n"
       "\n"
       "Example:\n"
       "  favor make qkv.h5 --shape 1,8,65536,64\n"
       "  mpirun -n 4 favor attend qkv.h5 -o out.h5 --causal\n"
       "  mpirun -n 4 favor verify qkv.h5 out.h5\n"
       "\n"
       "Environment:\n"
       "  OMP_NUM_THREADS   threads of a rank, where --threads is auto\n"
       "  OPENBLAS_CORETYPE the processor that OpenBLAS takes this one for, e.g. Haswell\n"
       "\n"
       "Exit codes:\n"
       "  0 done                     1 verification failed      64 usage                 65 bad data\n"
       "  70 internal or MPI error   73 output not creatable    74 reading or writing    75 stopped: --resume\n"
       "  78 bad configuration file");
}

enum favor_status cmd_help(struct command *command) {
  const struct options *options = command->options;
  const struct command_entry *entry = NULL;
  if (options->command != COMMAND_HELP) {
    entry = command_of_mask(options->command);
  } else if (options->n_operands == 1) {
    entry = command_find(options->operands[0]);
    if (!entry) {
      dist_fail(command->context, FAVOR_EUSAGE, "no command '%.64s'; `favor help` lists them", options->operands[0]);
    }
  }
  enum favor_status status = dist_agree(command->context, DIST_SITE_COMMAND, 0, NULL);
  if (status != FAVOR_OK || !command_is_speaker(command)) return status;
  if (entry) {
    print_command(entry);
  } else {
    print_overview();
  }
  return FAVOR_OK;
}

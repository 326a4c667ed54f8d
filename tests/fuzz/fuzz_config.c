/* The configuration reader (cli/config.h) on any bytes, for each command; and what it accepts, printed, must be read as
 * the same options. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/config.h"
#include "cli/option_table.h"
#include "fuzz.h"

static enum favor_status parse(const struct command_entry *command, const char *path, struct options *options,
                               struct status *status) {
  char name[32], config[] = "--config", file[64], operand[] = "file";
  snprintf(name, sizeof name, "%s", command->name);
  snprintf(file, sizeof file, "%s", path);
  char *words[8] = {name, config, file};
  int n_words = 3;
  while (n_words < 3 + command->n_operands_max) words[n_words++] = operand;
  return options_parse(options, n_words, words, status);
}

static void check_round_trip(const struct command_entry *command, const struct options *options) {
  static struct options again; /* large */
  struct status status = {0};
  char *text;
  size_t n_bytes;
  FILE *file = open_memstream(&text, &n_bytes);
  config_print(options, file);
  FUZZ_CHECK(fclose(file) == 0);
  enum favor_status code = parse(command, fuzz_file(1, text, n_bytes), &again, &status);
  if (code != FAVOR_OK) fprintf(stderr, "%s%s\n", text, status.text);
  FUZZ_CHECK(code == FAVOR_OK);
  free(text);
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    const struct option_value *a = &options->values[key], *b = &again.values[key];
    if (!option_at((enum option_key)key)->is_config_key) continue;
    FUZZ_CHECK(memcmp(a->integers, b->integers, sizeof a->integers) == 0 && a->number == b->number);
    FUZZ_CHECK(strcmp(a->text, b->text) == 0);
  }
}

static void check_attributes(const struct options *options) {
  static struct favor_attribute attributes[OPTION_N_KEYS]; /* large */
  int n;
  options_attributes(options, attributes, &n);
  FUZZ_CHECK(n >= 0 && n <= OPTION_N_KEYS);
  for (int i = 0; i < n; i++) FUZZ_CHECK(memchr(attributes[i].text, '\0', sizeof attributes[i].text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct options options; /* large */
  const char *path = fuzz_file(0, data, size);
  int descriptor = fuzz_next_descriptor();
  for (int i = 0; command_at(i); i++) {
    const struct command_entry *command = command_at(i);
    struct status status = {0};
    if (option_find(command->mask, "config") == OPTION_N_KEYS) continue;
    if (parse(command, path, &options, &status) == FAVOR_OK) {
      FUZZ_CHECK(status.code == FAVOR_OK);
      check_attributes(&options);
      check_round_trip(command, &options);
    } else {
      fuzz_check_error(status.code, status.text);
    }
    FUZZ_CHECK(fuzz_next_descriptor() == descriptor);
  }
  return 0;
}

#include "cli/config.h"

#include <errno.h>
#include <ini.h>
#include <string.h>

#include "cli/command.h"
#include "cli/option_table.h"

struct reader {
  FILE *file;
  const char *path;
  int line;
  struct options *options;
  bool has_seen[OPTION_N_KEYS];
  struct status *status;
};

/* fgets for inih, which counts lines, refuses those that inih would cut, and removes the indent that inih would take
 * for a continuation. */
static char *next_line(char *text, int size, void *stream) {
  struct reader *reader = stream;
  if (reader->status->code != FAVOR_OK || !fgets(text, size, reader->file)) return NULL;
  reader->line++;
  size_t length = strlen(text);
  if (text[length - (length > 0)] != '\n' && !feof(reader->file)) {
    status_set(reader->status, FAVOR_ECONFIG, "%s:%d: the line is longer than %d characters (or not text); shorten it",
               reader->path, reader->line, size - 2);
    return NULL;
  }
  size_t indent = strspn(text, " \t");
  memmove(text, text + indent, length - indent + 1);
  return text;
}

/* Which command a line is for: the heading's, or without one the command that runs. NULL: no such command. */
static const struct command_entry *command_of_section(const struct reader *reader, const char *section) {
  return section[0] ? command_find(section) : command_of_mask(reader->options->command);
}

static void take_value(struct reader *reader, enum option_key key, const char *where, const char *text, bool is_ours) {
  struct option_value value = {.origin = OPTION_FROM_CONFIG};
  if (option_parse(key, text, where, FAVOR_ECONFIG, &value, reader->status) != FAVOR_OK || !is_ours) return;
  if (reader->has_seen[key]) {
    status_set(reader->status, FAVOR_ECONFIG, "%s: given twice in this file; keep one", where);
    return;
  }
  reader->has_seen[key] = true;
  struct option_value *into = &reader->options->values[key];
  if (into->origin != OPTION_FROM_COMMAND_LINE) *into = value;
}

/* inih's handler: 1 to go on, 0 where the line is wrong. */
static int take_line(void *user, const char *section, const char *name, const char *text) {
  struct reader *reader = user;
  const struct command_entry *command = command_of_section(reader, section);
  if (!command) {
    status_set(reader->status, FAVOR_ECONFIG, "%s:%d: [%.40s] is not a command of favor", reader->path, reader->line,
               section);
    return 0;
  }
  enum option_key key = option_find(command->mask, name);
  if (key != OPTION_N_KEYS && !option_at(key)->is_config_key) {
    status_set(reader->status, FAVOR_ECONFIG, "%s:%d: '%s' belongs on the command line, not into a file", reader->path,
               reader->line, name);
    return 0;
  }
  if (key == OPTION_N_KEYS) {
    enum option_key nearest = option_nearest(command->mask, name);
    status_set(reader->status, FAVOR_ECONFIG, "%s:%d: unknown key '%.64s' for `favor %s`; the nearest is '%s'",
               reader->path, reader->line, name, command->name,
               nearest == OPTION_N_KEYS ? "none" : option_at(nearest)->name);
    return 0;
  }
  char where[OPTION_TEXT_BYTES + 80];
  snprintf(where, sizeof where, "%s:%d: %s", reader->path, reader->line, option_at(key)->name);
  take_value(reader, key, where, text, command->mask == reader->options->command);
  return reader->status->code == FAVOR_OK;
}

enum favor_status config_read(struct options *options, const char *path, struct status *status) {
  struct reader reader = {.file = fopen(path, "r"), .path = path, .options = options, .status = status};
  if (!reader.file) {
    status_set(status, FAVOR_ECONFIG, "%s: cannot open the configuration file: %s", path, strerror(errno));
    return FAVOR_ECONFIG;
  }
  errno = 0;
  int wrong_line = ini_parse_stream(next_line, &reader, take_line, &reader);
  if (ferror(reader.file)) {
    status_set(status, FAVOR_ECONFIG, "%s: cannot read the configuration file: %s", path, strerror(errno));
  } else if (wrong_line > 0) {
    status_set(status, FAVOR_ECONFIG, "%s:%d: not a line `key = value`, `[command]` or a comment", path, wrong_line);
  } else if (wrong_line < 0) {
    status_set(status, FAVOR_ENOMEM, "%s: no memory to read the configuration file", path);
  }
  fclose(reader.file);
  return status->code;
}

void config_print(const struct options *options, FILE *file) {
  fprintf(file, "# favor %s: options of `favor %s`\n", FAVOR_VERSION, command_of_mask(options->command)->name);
  for (int i = 0; i < OPTION_N_KEYS; i++) {
    enum option_key key = (enum option_key)i;
    const struct option *option = option_at(key);
    if (!option_belongs(key, options->command) || !option->is_config_key) continue;
    fprintf(file, "%s = %s\n", option->name, options_text(options, key));
  }
}

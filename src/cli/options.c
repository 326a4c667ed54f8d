#include "cli/options.h"

#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/config.h"
#include "cli/option_table.h"

static void set_defaults(struct options *options) {
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    struct status status = {0};
    option_parse((enum option_key)key, option_at((enum option_key)key)->preset, "default", FAVOR_EINTERNAL,
                 &options->values[key], &status);
    FAVOR_ASSERT(status.code == FAVOR_OK);
  }
}

static enum favor_status find_command(const char *word, struct options *options, struct status *status) {
  const struct command_entry *command = command_find(word);
  if (command) {
    options->command = command->mask;
    return FAVOR_OK;
  }
  const struct command_entry *nearest = command_at(0);
  for (int i = 1; command_at(i); i++) {
    bool is_nearer = option_word_distance(word, command_at(i)->name) < option_word_distance(word, nearest->name);
    if (is_nearer) nearest = command_at(i);
  }
  status_set(status, FAVOR_EUSAGE, "unknown command '%.64s'; the nearest is '%s'; `favor help` lists them", word,
             nearest->name);
  return FAVOR_EUSAGE;
}

static enum favor_status take_operand(struct options *options, const char *word, struct status *status) {
  const struct command_entry *command = command_of_mask(options->command);
  if (options->n_operands >= command->n_operands_max) {
    status_set(status, FAVOR_EUSAGE, "'%.64s' is one operand too many for: favor %s %s", word, command->name,
               command->usage);
  } else if (strlen(word) >= OPTION_TEXT_BYTES) {
    status_set(status, FAVOR_EUSAGE, "the operand '%.64s...' is longer than %d characters; use a shorter path", word,
               OPTION_TEXT_BYTES - 1);
  } else {
    memcpy(options->operands[options->n_operands++], word, strlen(word) + 1);
  }
  return status->code;
}

/* The option that a word `--name`, `--name=value`, `-o` or `-oVALUE` names; *value is the value inside the word. */
static enum option_key find_option(unsigned command, const char *word, const char **value, struct status *status) {
  char name[64];
  *value = NULL;
  if (word[1] != '-') {
    for (int key = 0; key < OPTION_N_KEYS; key++) {
      const struct option *option = option_at((enum option_key)key);
      if (!option_belongs((enum option_key)key, command) || !option->letter || option->letter != word[1]) continue;
      if (word[2]) *value = word + 2;
      return (enum option_key)key;
    }
    snprintf(name, sizeof name, "%s", word + 1);
  } else {
    const char *equals = strchr(word, '=');
    int length = equals ? (int)(equals - word) - 2 : (int)strlen(word) - 2;
    snprintf(name, sizeof name, "%.*s", length, word + 2);
    if (equals) *value = equals + 1;
    enum option_key key = length < (int)sizeof name ? option_find(command, name) : OPTION_N_KEYS;
    if (key != OPTION_N_KEYS) return key;
  }
  enum option_key nearest = option_nearest(command, name);
  const char *command_name = command_of_mask(command)->name;
  if (nearest == OPTION_N_KEYS) {
    status_set(status, FAVOR_EUSAGE, "unknown option %.64s; `favor %s` has none", word, command_name);
  } else {
    status_set(status, FAVOR_EUSAGE, "unknown option %.64s of `favor %s`; the nearest is --%s", word, command_name,
               option_at(nearest)->name);
  }
  return OPTION_N_KEYS;
}

/* Takes the option at words[*i], and the value after it where it needs one. */
static enum favor_status take_option(struct options *options, int n_words, char *const *words, int *i,
                                     struct status *status) {
  const char *value;
  enum option_key key = find_option(options->command, words[*i], &value, status);
  if (key == OPTION_N_KEYS) return status->code;
  const struct option *option = option_at(key);
  if (!value && option->kind == KIND_FLAG) value = "true";
  if (!value) {
    if (*i + 1 == n_words) {
      char range[256];
      option_describe_range(key, range, sizeof range);
      status_set(status, FAVOR_EUSAGE, "--%s needs a value: %s", option->name, range);
      return FAVOR_EUSAGE;
    }
    value = words[++*i];
  }
  char where[80];
  snprintf(where, sizeof where, "--%s", option->name);
  options->values[key].origin = OPTION_FROM_COMMAND_LINE;
  return option_parse(key, value, where, FAVOR_EUSAGE, &options->values[key], status);
}

static enum favor_status take_words(struct options *options, int n_words, char *const *words, struct status *status) {
  bool has_ended = false; /* after `--` all words are operands */
  for (int i = 1; i < n_words && status->code == FAVOR_OK; i++) {
    const char *word = words[i];
    if (has_ended || word[0] != '-' || word[1] == '\0') {
      take_operand(options, word, status);
    } else if (strcmp(word, "--") == 0) {
      has_ended = true;
    } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      options->is_help_wanted = true;
      return FAVOR_OK;
    } else {
      take_option(options, n_words, words, &i, status);
    }
  }
  return status->code;
}

static enum favor_status check_methods(const struct options *options, struct status *status) {
  for (int key = 0; key < OPTION_N_KEYS && status->code == FAVOR_OK; key++) {
    if (!option_is_active(options, (enum option_key)key) || !option_is_foreign(options, (enum option_key)key)) continue;
    status_set(status, FAVOR_EUSAGE, "--%s has no say in --method %s; leave it out, or choose another method",
               option_at((enum option_key)key)->name, options_text(options, OPTION_METHOD));
  }
  return status->code;
}

static enum favor_status check_conflicts(const struct options *options, struct status *status) {
  const struct option_conflict *conflict;
  for (int i = 0; (conflict = option_conflict_at(i)); i++) {
    if (!option_is_active(options, conflict->first) || !option_is_active(options, conflict->second)) continue;
    status_set(status, FAVOR_EUSAGE, "--%s contradicts --%s: %s; give one of them", option_at(conflict->first)->name,
               option_at(conflict->second)->name, conflict->reason);
  }
  return status->code;
}

/* Was it said, on the command line or against its default? */
static bool is_said(const struct options *options, enum option_key key) {
  return options->values[key].origin == OPTION_FROM_COMMAND_LINE || option_is_active(options, key);
}

/* Options beside a profile must say what it says. */
static enum favor_status check_profile(const struct options *options, struct status *status) {
  if (!option_is_active(options, OPTION_PROFILE) || options_integer(options, OPTION_PROFILE) == 0) return FAVOR_OK;
  struct favor_problem problem = favor_problem_default();
  if (favor_problem_set_profile(&problem, options_text(options, OPTION_PROFILE)) != FAVOR_OK) return FAVOR_EINTERNAL;
  char eps[32];
  snprintf(eps, sizeof eps, "%g", problem.eps);
  const struct {
    enum option_key key;
    bool is_the_same;
    const char *text;
  } set[] = {
#define CHOICE(key, value) {key, options_integer(options, key) == (int64_t)(value), option_at(key)->choices[value]}
      CHOICE(OPTION_MAP, problem.map),
      CHOICE(OPTION_KEY_MAX, problem.key_max),
      CHOICE(OPTION_ROW_NORM, problem.row_norm),
      CHOICE(OPTION_KEY_SHIFT, problem.key_shift),
      CHOICE(OPTION_BALANCE, problem.balance),
#undef CHOICE
      {OPTION_EPS, options_number(options, OPTION_EPS) == problem.eps, eps},
      {OPTION_SCALE, options_number(options, OPTION_SCALE) == 0, "D^-1/2"},
      {OPTION_PROJECTION_PER_HEAD, options_flag(options, OPTION_PROJECTION_PER_HEAD) == problem.has_projection_per_head,
       problem.has_projection_per_head ? "true" : "false"},
  };
  for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
    if (!is_said(options, set[i].key) || set[i].is_the_same) continue;
    status_set(status, FAVOR_EUSAGE, "--%s %s contradicts --profile %s, which has %s %s; give one of them",
               option_at(set[i].key)->name, options_text(options, set[i].key), options_text(options, OPTION_PROFILE),
               option_at(set[i].key)->name, set[i].text);
    return status->code;
  }
  return FAVOR_OK;
}

static enum favor_status check_operands(const struct options *options, struct status *status) {
  const struct command_entry *command = command_of_mask(options->command);
  if (options->n_operands < command->n_operands_min && !options_flag(options, OPTION_PRINT_CONFIG)) {
    status_set(status, FAVOR_EUSAGE, "too few operands; it goes: favor %s %s", command->name, command->usage);
  }
  return status->code;
}

enum favor_status options_parse(struct options *options, int n_words, char *const *words, struct status *status) {
  memset(options, 0, sizeof *options);
  set_defaults(options);
  if (find_command(words[0], options, status) != FAVOR_OK) return status->code;
  if (take_words(options, n_words, words, status) != FAVOR_OK || options->is_help_wanted) return status->code;
  const char *config = options_text(options, OPTION_CONFIG);
  if (option_is_active(options, OPTION_CONFIG) && config_read(options, config, status) != FAVOR_OK) return status->code;
  if (check_methods(options, status) != FAVOR_OK) return status->code;
  if (check_conflicts(options, status) != FAVOR_OK || check_profile(options, status) != FAVOR_OK) return status->code;
  return check_operands(options, status);
}

static void set_attribute(enum option_key key, const struct option_value *value, struct favor_attribute *attribute) {
  *attribute = (struct favor_attribute){.kind = FAVOR_ATTRIBUTE_TEXT};
  snprintf(attribute->name, sizeof attribute->name, "%s", option_at(key)->name);
  switch (option_at(key)->kind) {
  case KIND_FLAG:
  case KIND_INTEGER:
  case KIND_BYTES:
    attribute->kind = FAVOR_ATTRIBUTE_INTEGER;
    attribute->integer = value->integers[0];
    break;
  case KIND_NUMBER:
    attribute->kind = FAVOR_ATTRIBUTE_NUMBER;
    attribute->number = value->number;
    break;
  default:
    snprintf(attribute->text, sizeof attribute->text, "%s", value->text);
    break;
  }
}

void options_attributes(const struct options *options, struct favor_attribute *attributes, int *n_attributes) {
  *n_attributes = 0;
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    const struct option *option = option_at((enum option_key)key);
    bool is_kept = option_belongs((enum option_key)key, options->command) && option->is_attribute;
    bool is_empty = options->values[key].text[0] == '\0';
    if (!is_kept || is_empty || option_is_excluded(options, (enum option_key)key)) continue;
    set_attribute((enum option_key)key, &options->values[key], &attributes[(*n_attributes)++]);
  }
}

/* `favor study`: how good the approximation is, and what it costs, as tables and pictures. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/option_table.h"
#include "cli/report.h"
#include "cli/study.h"
#include "dist/agree.h"

typedef enum favor_status part_function(struct study *study, struct study_table *table);
static const struct {
  const char *name;
  part_function *run;
} parts[] = {{"error", study_error}, {"kernel", study_kernel}, {"time", study_time}};
enum { N_PARTS = sizeof parts / sizeof *parts };

enum favor_status study_fail_memory(const struct study *study) {
  return dist_fail(study->context, FAVOR_ENOMEM, "no memory for the study; give a smaller --shape");
}

struct study_cell study_text(const char *text) {
  struct study_cell cell = {0};
  size_t length = strlen(text);
  memcpy(cell.text, text, length < sizeof cell.text ? length : sizeof cell.text - 1);
  return cell;
}

bool study_add(const struct study *study, struct study_table *table, const struct study_cell *row) {
  enum { FIRST_CAPACITY = 64 };
  if (table->n_rows == table->capacity) {
    int64_t capacity = table->capacity ? 2 * table->capacity : FIRST_CAPACITY;
    void *cells = realloc(table->cells, (size_t)(capacity * table->n_columns) * sizeof *table->cells);
    if (!cells) {
      study_fail_memory(study);
      return false;
    }
    table->cells = cells;
    table->capacity = capacity;
  }
  size_t bytes = (size_t)table->n_columns * sizeof *table->cells;
  memcpy(table->cells + table->n_rows++ * table->n_columns, row, bytes);
  return true;
}

/* ---- what is asked for ------------------------------------------------------------------------------------------ */

/* Calls take() with each member of a list "a,b,c". */
static void for_members(const char *list, void (*take)(struct study *study, const char *member), struct study *study) {
  char text[OPTION_TEXT_BYTES], *rest = NULL;
  memcpy(text, list, strlen(list) + 1);
  for (char *member = strtok_r(text, ",", &rest); member; member = strtok_r(NULL, ",", &rest)) take(study, member);
}

static void take_choice(struct study *study, enum option_key list_key, enum option_key choice_key, const char *member,
                        struct study_list *list) {
  const char *const *choices = option_at(choice_key)->choices;
  int place = 0;
  while (choices[place] && strcmp(choices[place], member) != 0) place++;
  if (choices[place] && list->n < STUDY_MAX_CHOICES) {
    list->places[list->n++] = place;
    return;
  }
  char range[256];
  option_describe_range(choice_key, range, sizeof range);
  dist_fail(study->context, FAVOR_EUSAGE, "--%s: '%.64s' is not known; each is %s", option_at(list_key)->name, member,
            range);
}

static void take_map(struct study *study, const char *member) {
  take_choice(study, OPTION_MAPS, OPTION_MAP, member, &study->maps);
}

static void take_projection(struct study *study, const char *member) {
  take_choice(study, OPTION_PROJECTIONS, OPTION_PROJECTION, member, &study->projections);
}

static void take_row_norm(struct study *study, const char *member) {
  take_choice(study, OPTION_ROW_NORMS, OPTION_ROW_NORM, member, &study->row_norms);
}

static void take_count(struct study *study, const char *member) {
  char *end;
  errno = 0;
  long long count = strtoll(member, &end, 10);
  bool is_valid = errno == 0 && *end == '\0' && count >= 1 && (double)count <= option_at(OPTION_FEATURES)->most;
  if (is_valid && study->n_counts < STUDY_MAX_COUNTS) {
    study->counts[study->n_counts++] = count;
    return;
  }
  dist_fail(study->context, FAVOR_EUSAGE, "--%s: '%.64s' is not a number of features from 1 on, or one too many",
            option_at(OPTION_FEATURES_LIST)->name, member);
}

static int find_part(const struct study *study) {
  const struct options *options = study->command->options;
  if (options->n_operands == 0) return -1;
  const bool has_file = options->n_operands > 1;
  for (int i = 0; i < N_PARTS; i++) {
    if (strcmp(parts[i].name, options->operands[0]) != 0) continue;
    if (has_file && parts[i].run != study_error) {
      dist_fail(study->context, FAVOR_EUSAGE, "the study of %s takes no file; leave %.64s out", parts[i].name,
                options->operands[1]);
    } else if (has_file && (option_is_active(options, OPTION_SHAPE) || option_is_active(options, OPTION_SPREAD))) {
      dist_fail(study->context, FAVOR_EUSAGE, "--shape and --spread are for random tensors; the file has its own");
    }
    return i;
  }
  dist_fail(study->context, FAVOR_EUSAGE, "there is no study of '%.64s'; there are: error, kernel, time",
            options->operands[0]);
  return -1;
}

/* Local, the same on every rank. */
static void take_options(struct study *study) {
  const struct options *options = study->command->options;
  study->directory = options_text(options, OPTION_OUTPUT);
  study->draws = options_integer(options, OPTION_DRAWS);
  study->seed = (uint64_t)options_integer(options, OPTION_SEED);
  for_members(options_text(options, OPTION_MAPS), take_map, study);
  for_members(options_text(options, OPTION_PROJECTIONS), take_projection, study);
  for_members(options_text(options, OPTION_ROW_NORMS), take_row_norm, study);
  for_members(options_text(options, OPTION_FEATURES_LIST), take_count, study);
  bool is_empty = study->maps.n == 0 || study->projections.n == 0 || study->row_norms.n == 0 || study->n_counts == 0;
  if (!dist_has_failed(study->context) && is_empty) {
    dist_fail(study->context, FAVOR_EUSAGE,
              "--maps, --projections, --row-norms and --features-list must name at least one each");
  }
}

/* ---- the study --------------------------------------------------------------------------------------------------- */

static json_t *pack_table(const struct study_table *table) {
  json_t *rows = json_array();
  for (int64_t i = 0; i < table->n_rows; i++) {
    json_t *row = json_object();
    for (int c = 0; c < table->n_columns; c++) {
      const struct study_cell *cell = &table->cells[i * table->n_columns + c];
      json_object_set_new(row, table->columns[c], cell->text[0] ? json_string(cell->text) : json_real(cell->number));
    }
    json_array_append_new(rows, row);
  }
  return rows;
}

static enum favor_status run_part(struct study *study, int part, json_t *report) {
  struct study_table table;
  enum favor_status status = parts[part].run(study, &table);
  if (status == FAVOR_OK && command_is_speaker(study->command)) {
    const struct options *options = study->command->options;
    if (!options_flag(options, OPTION_JSON) && !options_flag(options, OPTION_QUIET)) study_print(&table);
    if (study->directory[0]) study_write(study, &table);
  }
  if (status == FAVOR_OK && report) json_object_set_new(report, table.name, pack_table(&table));
  free(table.cells);
  return status == FAVOR_OK ? dist_agree(study->context, DIST_SITE_COMMAND, 0, "") : status;
}

enum favor_status cmd_study(struct command *command) {
  struct study *study = memory_zeroed(1, sizeof *study);
  if (!study) {
    dist_fail(command->context, FAVOR_ENOMEM, "no memory for a study");
    return dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
  }
  study->command = command;
  study->context = command->context;
  take_options(study);
  int only = find_part(study);
  for (int part = 0; part < N_PARTS && study->directory[0] && command_is_speaker(command); part++) {
    if (only < 0 || part == only) study_check_directory(study, parts[part].name);
  }
  if (favor_context_create(MPI_COMM_SELF, &study->self) != FAVOR_OK) study_fail_memory(study);
  enum favor_status status = dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
  json_t *report = options_flag(command->options, OPTION_JSON) ? report_object(command) : NULL;
  for (int part = 0; part < N_PARTS && status == FAVOR_OK; part++) {
    if (only < 0 || part == only) status = run_part(study, part, report);
  }
  if (status == FAVOR_OK && report) {
    report_json(command, json_incref(report));
    status = dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
  }
  json_decref(report);
  favor_context_destroy(&study->self);
  free(study);
  return status;
}

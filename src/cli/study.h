/* `favor study`: what its parts share. */
#ifndef FAVOR_CLI_STUDY_H
#define FAVOR_CLI_STUDY_H

#include "cli/command.h"

enum { STUDY_MAX_COLUMNS = 10, STUDY_TEXT_BYTES = 24, STUDY_MAX_CHOICES = 32, STUDY_MAX_COUNTS = 32 };

/* Rows of numbers and words: one picture. */
struct study_cell {
  double number;
  char text[STUDY_TEXT_BYTES]; /* "": a number */
};
struct study_table {
  const char *name; /* of its files: NAME.csv, ... */
  char note[96];    /* on what it was measured: the second line of its picture's title */
  int n_columns;
  const char *columns[STUDY_MAX_COLUMNS];
  int64_t n_rows, capacity;
  struct study_cell *cells; /* [n_rows][n_columns] */
};

/* Members of a list that was asked for, by their place among an option's choices, in the order given. */
struct study_list {
  int n;
  int places[STUDY_MAX_CHOICES];
};

struct study {
  const struct command *command;
  struct favor_context *context; /* all ranks */
  struct favor_context *self;    /* this rank alone */
  const char *directory;         /* "": print only */
  struct study_list maps, projections, row_norms;
  int n_counts;
  int64_t counts[STUDY_MAX_COUNTS]; /* of features */
  int64_t draws;
  uint64_t seed;
};

/* Each is collective, adds its rows to the table on every rank, and agrees on the outcome. */
enum favor_status study_error(struct study *study, struct study_table *table);
enum favor_status study_kernel(struct study *study, struct study_table *table);
enum favor_status study_time(struct study *study, struct study_table *table);

/* Local, on rank 0: makes the directory, and refuses to write over an earlier study of this name. */
void study_check_directory(const struct study *study, const char *name);
/* Local, on rank 0: prints the table, or writes its files. Failures are recorded. */
void study_print(const struct study_table *table);
void study_write(const struct study *study, const struct study_table *table);

/* Appends a row of n_columns cells; false where memory is short (recorded). */
bool study_add(const struct study *study, struct study_table *table, const struct study_cell *row);
static inline struct study_cell study_number(double number) { return (struct study_cell){.number = number}; }
struct study_cell study_text(const char *text);

/* Records that memory is short. */
enum favor_status study_fail_memory(const struct study *study);

#endif

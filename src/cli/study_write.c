/* A study's table on the screen, as CSV and JSON, and as a picture by gnuplot. Local, on rank 0. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/study.h"
#include "dist/comm.h"

static void print_cell(FILE *file, const struct study_cell *cell, int width) {
  bool is_whole = cell->number == rint(cell->number) && fabs(cell->number) < 1e15;
  if (cell->text[0])
    fprintf(file, "%-*s", width, cell->text);
  else
    fprintf(file, is_whole ? "%*.0f" : "%*.6g", width, cell->number);
}

void study_print(const struct study_table *table) {
  enum { WIDTH = 16 };
  for (int c = 0; c < table->n_columns; c++) {
    bool is_text = table->n_rows > 0 && table->cells[c].text[0];
    printf(is_text ? "%-*s" : "%*s", WIDTH, table->columns[c]);
  }
  putchar('\n');
  for (int64_t i = 0; i < table->n_rows * table->n_columns; i++) {
    print_cell(stdout, &table->cells[i], WIDTH);
    if ((i + 1) % table->n_columns == 0) putchar('\n');
  }
}

static void write_csv(FILE *file, const struct study_table *table) {
  for (int c = 0; c < table->n_columns; c++) {
    fprintf(file, "%s%c", table->columns[c], c + 1 < table->n_columns ? ',' : '\n');
  }
  for (int64_t i = 0; i < table->n_rows * table->n_columns; i++) {
    if (table->cells[i].text[0])
      fputs(table->cells[i].text, file);
    else
      fprintf(file, "%.9g", table->cells[i].number);
    fputc((i + 1) % table->n_columns == 0 ? '\n' : ',', file);
  }
}

static void write_json(FILE *file, const struct study_table *table) {
  fputs("[\n", file);
  for (int64_t i = 0; i < table->n_rows; i++) {
    for (int c = 0; c < table->n_columns; c++) {
      const struct study_cell *cell = &table->cells[i * table->n_columns + c];
      fprintf(file, "%s\"%s\": ", c == 0 ? "  {" : ", ", table->columns[c]);
      if (cell->text[0])
        fprintf(file, "\"%s\"", cell->text);
      else
        fprintf(file, "%.9g", cell->number);
    }
    fputs(i + 1 < table->n_rows ? "},\n" : "}\n", file);
  }
  fputs("]\n", file);
}

/* ---- pictures ---------------------------------------------------------------------------------------------------- */

/* How a table becomes a picture: one curve for each pair (or single) of its text columns. */
static const struct picture {
  const char *name, *title, *x_label, *y_label;
  const char *axes;    /* gnuplot's */
  int n_keys;          /* leading text columns that name a curve */
  const char *columns; /* of a curve, counted from 1 */
  const char *style;
  const char *closed_form; /* columns of a line for each first key; NULL: none */
  bool level;              /* a curve of one row at 0 is a level across */
} pictures[] = {
    {"error", "Error of the output against exact softmax attention", "features M", "relative error (mean, deviation)",
     "set logscale xy\nset logscale x 2", 3, "4:6:7", "yerrorlines", NULL, true},
    {"kernel", "Error of an estimate of the softmax kernel", "angle between x and y (degrees)",
     "mean square error times M", "set logscale y\nset xtics 30\nset yrange [1e-3:*]", 2, "3:4", "points", "3:5",
     false},
    {"time", "Forward pass", "tokens", "seconds", "set logscale xy\nset logscale x 2", 1, "2:3", "linespoints", NULL,
     false},
};

static const struct picture *picture_of(const struct study_table *table) {
  for (size_t i = 0; i < sizeof pictures / sizeof *pictures; i++) {
    if (strcmp(pictures[i].name, table->name) == 0) return &pictures[i];
  }
  return NULL;
}

static const struct study_cell *row_of(const struct study_table *table, int64_t row) {
  return table->cells + row * table->n_columns;
}

static bool starts_curve(const struct study_table *table, int64_t row, int n_keys) {
  for (int c = 0; c < n_keys && row > 0; c++) {
    if (strcmp(row_of(table, row)[c].text, row_of(table, row - 1)[c].text) != 0) return true;
  }
  return row == 0;
}

static int64_t end_of_curve(const struct study_table *table, int64_t begin, int n_keys) {
  int64_t end = begin + 1;
  while (end < table->n_rows && !starts_curve(table, end, n_keys)) end++;
  return end;
}

/* Which of the column's words it is, in order of appearance, from 1: a colour for each map, a point for each
 * projection. */
static int number_of_word(const struct study_table *table, int64_t row, int column) {
  int number = 1;
  for (int64_t i = 0; i < table->n_rows; i++) {
    const char *word = row_of(table, i)[column].text;
    if (strcmp(word, row_of(table, row)[column].text) == 0) return number;
    bool is_new = true;
    for (int64_t j = 0; j < i && is_new; j++) is_new = strcmp(row_of(table, j)[column].text, word) != 0;
    number += is_new;
  }
  return number;
}

/* Rows [begin, end) of the CSV file, whose first line is the header. */
static void write_curve(FILE *file, const struct study_table *table, int64_t begin, int64_t end, const char *columns,
                        const char *style, const char *title) {
  fprintf(file, "%s'%s.csv' every ::%lld::%lld using %s with %s lc %d", begin == 0 ? "plot " : ", \\\n     ",
          table->name, (long long)begin + 1, (long long)end, columns, style, number_of_word(table, begin, 0));
  if (strstr(style, "points") || strstr(style, "error"))
    fprintf(file, " pt %d", 3 + 2 * number_of_word(table, begin, 1));
  fprintf(file, " title '%s'", title);
}

/* "positive, orthogonal, sqrt" */
static void name_curve(const struct study_cell *row, int n_keys, char *name, size_t size) {
  name[0] = '\0';
  for (int c = 0; c < n_keys; c++) {
    size_t used = strlen(name);
    snprintf(name + used, size - used, "%s%s", c > 0 ? ", " : "", row[c].text);
  }
}

static void write_curves(FILE *file, const struct study_table *table, const struct picture *picture) {
  for (int64_t begin = 0, end; begin < table->n_rows; begin = end) {
    const struct study_cell *row = row_of(table, begin);
    char title[4 * STUDY_TEXT_BYTES];
    end = end_of_curve(table, begin, picture->n_keys);
    name_curve(row, picture->n_keys, title, sizeof title);
    bool is_level = picture->level && row[picture->n_keys].number == 0;
    if (is_level)
      fprintf(file, ", \\\n     %.9g with lines dt 2 lc rgb 'gray40' title '%s'", row[picture->n_keys + 2].number,
              row[0].text);
    else
      write_curve(file, table, begin, end, picture->columns, picture->style, title);
    if (!picture->closed_form || strcmp(row[1].text, row_of(table, 0)[1].text) != 0) continue;
    fprintf(file, ", \\\n     '%s.csv' every ::%lld::%lld using %s with lines lc %d title '%s, closed form (iid)'",
            table->name, (long long)begin + 1, (long long)end, picture->closed_form, number_of_word(table, begin, 0),
            row[0].text);
  }
  fputc('\n', file);
}

static void write_plot(FILE *file, const struct study_table *table) {
  const struct picture *picture = picture_of(table);
  static const struct {
    const char *terminal, *extension;
  } formats[] = {{"svg size 900,640 dynamic enhanced background rgb 'white'", "svg"},
                 {"pngcairo size 1350,960 fontscale 1.4", "png"}};
  fprintf(file,
          "# gnuplot %s.gp, in this directory\nset datafile separator ','\nset title \"%s\\n%s\"\nset xlabel \"%s\"\n"
          "set ylabel \"%s\"\nset grid\nset key outside right top Left reverse samplen 2\n%s\n",
          table->name, picture->title, table->note, picture->x_label, picture->y_label, picture->axes);
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
    fprintf(file, "set terminal %s\nset output '%s.%s'\n", formats[i].terminal, table->name, formats[i].extension);
    write_curves(file, table, picture);
  }
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void path_of(const struct study *study, const char *name, const char *extension,
                    char path[OPTION_TEXT_BYTES + 64]) {
  snprintf(path, OPTION_TEXT_BYTES + 64, "%s/%s.%s", study->directory, name, extension);
}

void study_check_directory(const struct study *study, const char *name) {
  char path[OPTION_TEXT_BYTES + 64];
  path_of(study, name, "csv", path);
  if (mkdir(study->directory, 0777) != 0 && errno != EEXIST) {
    dist_fail(study->context, FAVOR_ECREATE, "cannot create the directory %s: %s", study->directory, strerror(errno));
  } else if (!options_flag(study->command->options, OPTION_OVERWRITE) && access(path, F_OK) == 0) {
    dist_fail(study->context, FAVOR_ECREATE, "%s exists; give --overwrite to replace it", path);
  }
}

static bool write_file(const struct study *study, const struct study_table *table, const char *extension,
                       void (*write)(FILE *file, const struct study_table *table)) {
  char path[OPTION_TEXT_BYTES + 64];
  path_of(study, table->name, extension, path);
  FILE *file = fopen(path, "w");
  if (!file) {
    dist_fail(study->context, FAVOR_ECREATE, "cannot create %s: %s", path, strerror(errno));
    return false;
  }
  write(file, table);
  bool is_written = !ferror(file) && fflush(file) == 0;
  is_written = fclose(file) == 0 && is_written;
  if (!is_written) dist_fail(study->context, FAVOR_EIO, "writing %s: %s", path, strerror(errno));
  return is_written;
}

/* Pictures are a courtesy: without gnuplot the script says how to have them. */
static void draw_picture(const struct study *study, const struct study_table *table) {
  char script[64];
  snprintf(script, sizeof script, "%s.gp", table->name);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    if (chdir(study->directory) == 0) execlp("gnuplot", "gnuplot", script, (char *)NULL);
    _exit(127);
  }
  int status = 0;
  if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  fprintf(stderr, "favor: warning: gnuplot did not draw %s; install gnuplot-nox and run: cd %s && gnuplot %s\n",
          table->name, study->directory, script);
}

void study_write(const struct study *study, const struct study_table *table) {
  if (write_file(study, table, "csv", write_csv) && write_file(study, table, "json", write_json) &&
      write_file(study, table, "gp", write_plot)) {
    draw_picture(study, table);
  }
}

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/option_table.h"

/* The longest word whose distance is measured; longer ones are cut. */
enum { MOST_LETTERS = 63 };

static int least(int a, int b) { return a < b ? a : b; }

int option_word_distance(const char *a, const char *b) {
  int na = (int)strnlen(a, MOST_LETTERS), nb = (int)strnlen(b, MOST_LETTERS);
  int d[MOST_LETTERS + 1][MOST_LETTERS + 1];
  for (int i = 0; i <= na; i++) d[i][0] = i;
  for (int j = 0; j <= nb; j++) d[0][j] = j;
  for (int i = 1; i <= na; i++) {
    for (int j = 1; j <= nb; j++) {
      d[i][j] = least(d[i - 1][j - 1] + (a[i - 1] != b[j - 1]), 1 + least(d[i - 1][j], d[i][j - 1]));
      bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (is_swap) d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[na][nb];
}

/* All of text as a decimal integer. */
static bool parse_integer(const char *text, const char **end, int64_t *integer) {
  if (!isdigit((unsigned char)text[text[0] == '-' || text[0] == '+'])) return false;
  char *stop;
  errno = 0;
  long long parsed = strtoll(text, &stop, 10);
  *integer = parsed;
  *end = stop;
  return errno == 0;
}

static bool parse_bytes(const char *text, int64_t *bytes) {
  const char *end;
  int64_t count;
  if (!parse_integer(text, &end, &count)) return false;
  int shift = 0;
  if (*end) {
    switch (*end++) {
    case 'k':
    case 'K':
      shift = 10;
      break;
    case 'M':
      shift = 20;
      break;
    case 'G':
      shift = 30;
      break;
    default:
      return false;
    }
  }
  return *end == '\0' && !__builtin_mul_overflow(count, INT64_C(1) << shift, bytes);
}

/* n integers with a separator between them. */
static bool parse_list(const char *text, char separator, int n, int64_t *integers) {
  for (int i = 0; i < n; i++) {
    const char *end;
    if (!parse_integer(text, &end, &integers[i])) return false;
    if (*end != (i + 1 < n ? separator : '\0')) return false;
    text = end + 1;
  }
  return true;
}

static bool parse_flag(const char *text, int64_t *flag) {
  static const char *const words[2][3] = {{"false", "no", "off"}, {"true", "yes", "on"}};
  for (int truth = 0; truth < 2; truth++) {
    for (int i = 0; i < 3; i++) {
      if (strcmp(text, words[truth][i]) == 0) {
        *flag = truth;
        return true;
      }
    }
  }
  return false;
}

static bool parse_choice(const struct option *option, const char *text, int64_t *place) {
  for (int i = 0; option->choices[i]; i++) {
    if (strcmp(text, option->choices[i]) == 0) {
      *place = i;
      return true;
    }
  }
  return false;
}

static bool is_kernel(const char *text) {
  if (strcmp(text, "auto") == 0) return true;
  for (int i = 0; favor_kernel_name(i); i++) {
    if (strcmp(text, favor_kernel_name(i)) == 0) return true;
  }
  return false;
}

static bool is_in_range(const struct option *option, const struct option_value *value, int n) {
  for (int i = 0; i < n; i++) {
    if ((double)value->integers[i] < option->least || (double)value->integers[i] > option->most) return false;
  }
  return true;
}

static bool parse_number(const char *text, double *number) {
  char *end;
  *number = strtod(text, &end);
  return end != text && *end == '\0' && isfinite(*number);
}

static bool parse_kind(const struct option *option, const char *text, struct option_value *value) {
  const char *end;
  switch (option->kind) {
  case KIND_FLAG:
    return parse_flag(text, value->integers);
  case KIND_INTEGER:
    return parse_integer(text, &end, value->integers) && *end == '\0' && is_in_range(option, value, 1);
  case KIND_BYTES:
    return parse_bytes(text, value->integers) && is_in_range(option, value, 1);
  case KIND_NUMBER:
    return parse_number(text, &value->number) && value->number >= option->least && value->number <= option->most;
  case KIND_CHOICE:
    return parse_choice(option, text, value->integers);
  case KIND_KERNEL:
    return is_kernel(text);
  case KIND_TEXT:
    return true;
  case KIND_GRID:
    return parse_list(text, 'x', 2, value->integers) && is_in_range(option, value, 2);
  case KIND_SHAPE:
    return parse_list(text, ',', 4, value->integers) && is_in_range(option, value, 4);
  }
  return false;
}

void option_describe_range(enum option_key key, char *text, size_t size) {
  const struct option *option = option_at(key);
  size_t used = 0;
  text[0] = '\0';
#define ADD(...)                                                                                                       \
  (used += (size_t)snprintf(text + used, used < size ? size - used : 0, __VA_ARGS__),                                  \
   used = used < size ? used : size - 1)
  switch (option->kind) {
  case KIND_FLAG:
    ADD("true or false");
    break;
  case KIND_INTEGER:
    ADD("an integer from %.0f to %.0f", option->least, option->most);
    break;
  case KIND_BYTES:
    ADD("a number of bytes, with or without a suffix k, M or G");
    break;
  case KIND_NUMBER:
    ADD("a number from %g to %g", option->least, option->most);
    break;
  case KIND_CHOICE:
    for (int i = 0; option->choices[i]; i++) ADD("%s%s", i ? ", " : "", option->choices[i]);
    break;
  case KIND_KERNEL:
    ADD("auto");
    for (int i = 0; favor_kernel_name(i); i++) ADD(", %s", favor_kernel_name(i));
    break;
  case KIND_TEXT:
    ADD("text");
    break;
  case KIND_GRID:
    ADD("two integers HxT from 1");
    break;
  case KIND_SHAPE:
    ADD("four integers B,H,N,D from 1");
    break;
  }
  if (option->automatic) ADD(", or %s", option->automatic);
#undef ADD
}

enum favor_status option_parse(enum option_key key, const char *text, const char *where, enum favor_status code,
                               struct option_value *value, struct status *status) {
  const struct option *option = option_at(key);
  if (strlen(text) >= OPTION_TEXT_BYTES) {
    status_set(status, code, "%s: longer than %d characters; shorten it", where, OPTION_TEXT_BYTES - 1);
    return code;
  }
  struct option_value parsed = {.origin = value->origin};
  bool is_zero = (option->automatic && strcmp(text, option->automatic) == 0) ||
                 (option->kind == KIND_SHAPE && strcmp(text, option->preset) == 0);
  if (!is_zero && !parse_kind(option, text, &parsed)) {
    char range[256];
    option_describe_range(key, range, sizeof range);
    status_set(status, code, "%s: '%.64s' is not %s%s", where, text,
               option->kind == KIND_CHOICE || option->kind == KIND_KERNEL ? "one of: " : "", range);
    return code;
  }
  memcpy(parsed.text, text, strlen(text) + 1);
  *value = parsed;
  return FAVOR_OK;
}

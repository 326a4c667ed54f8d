/* What to run: numbers of tokens and ranks, then grids and scans. Runs on the same ranks and tokens follow each other,
 * as they mostly share what this rank's arrays hold. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench_scaling.h"
#include "cli/option_table.h"
#include "dist/comm.h"

static const char *const mode_names[SCALING_N_MODES + 1] = {"strong", "weak", NULL};

/* Members of an option's list, with no empty ones among them. */
struct members {
  char text[OPTION_TEXT_BYTES];
  int n;
  const char *member[SCALING_MOST_COUNTS];
};

static void split(const struct scaling *scaling, enum option_key key, struct members *members) {
  memcpy(members->text, options_text(scaling->command->options, key), sizeof members->text);
  members->n = 0;
  char *rest = NULL;
  for (char *member = strtok_r(members->text, ",", &rest); member; member = strtok_r(NULL, ",", &rest)) {
    if (members->n < SCALING_MOST_COUNTS)
      members->member[members->n++] = member;
    else
      dist_fail(scaling->context, FAVOR_EUSAGE, "--%s: more than %d of them", option_at(key)->name,
                SCALING_MOST_COUNTS);
  }
  if (members->n == 0) dist_fail(scaling->context, FAVOR_EUSAGE, "--%s must name at least one", option_at(key)->name);
}

/* Places of the list's members among names, as bits. */
static unsigned take_names(const struct scaling *scaling, enum option_key key, const char *const *names) {
  struct members members;
  unsigned bits = 0;
  split(scaling, key, &members);
  for (int i = 0; i < members.n; i++) {
    int place = 0;
    char known[256] = "";
    for (; names[place] && strcmp(names[place], members.member[i]) != 0; place++) {
      strncat(known, place > 0 ? ", " : "", sizeof known - strlen(known) - 1);
      strncat(known, names[place], sizeof known - strlen(known) - 1);
    }
    if (names[place])
      bits |= 1U << place;
    else
      dist_fail(scaling->context, FAVOR_EUSAGE, "--%s: '%.64s' is not one of: %s", option_at(key)->name,
                members.member[i], known);
  }
  return bits;
}

/* Integers from 1 to most, each once and ascending. */
static void take_counts(const struct scaling *scaling, enum option_key key, int64_t most,
                        struct scaling_counts *counts) {
  struct members members;
  split(scaling, key, &members);
  for (int i = 0; i < members.n; i++) {
    char *end;
    errno = 0;
    const long long value = strtoll(members.member[i], &end, 10);
    if (errno != 0 || *end != '\0' || value < 1 || value > most) {
      dist_fail(scaling->context, FAVOR_EUSAGE, "--%s: '%.64s' is not an integer from 1 to %lld", option_at(key)->name,
                members.member[i], (long long)most);
      continue;
    }
    int place = counts->n;
    while (place > 0 && counts->values[place - 1] > value) place--;
    if (place > 0 && counts->values[place - 1] == value) continue;
    memmove(counts->values + place + 1, counts->values + place, (size_t)(counts->n - place) * sizeof *counts->values);
    counts->values[place] = value;
    counts->n++;
  }
}

static bool is_auto(const struct scaling *scaling, enum option_key key) {
  return strcmp(options_text(scaling->command->options, key), "auto") == 0;
}

static void take_ranks(struct scaling *scaling) {
  const int64_t size = favor_context_size(scaling->context);
  if (!is_auto(scaling, OPTION_RANKS_LIST)) {
    take_counts(scaling, OPTION_RANKS_LIST, size, &scaling->ranks);
    return;
  }
  for (int64_t ranks = 1; ranks < size; ranks *= 2) scaling->ranks.values[scaling->ranks.n++] = ranks;
  scaling->ranks.values[scaling->ranks.n++] = size;
}

/* A grid that is asked for must be one of some number of ranks. */
static void check_grid(const struct scaling *scaling) {
  const int64_t *grid = scaling->command->options->values[OPTION_GRID].integers;
  for (int i = 0; i < scaling->ranks.n; i++) {
    if (grid[0] == 0 || grid[0] * grid[1] == scaling->ranks.values[i]) return;
  }
  dist_fail(scaling->context, FAVOR_EUSAGE, "--grid: no run is on %lldx%lld ranks; see --ranks-list",
            (long long)grid[0], (long long)grid[1]);
}

/* ---- points ----------------------------------------------------------------------------------------------------- */

/* What all points are made from. */
struct list {
  struct scaling *scaling;
  struct bench_work work;
  int64_t batch;
  unsigned modes, scans; /* bits */
  bool is_causal[2];     /* what to run, n_causal of them */
  int n_causal;
};

static void add(const struct list *list, const struct scaling_point *point) {
  struct scaling *scaling = list->scaling;
  if (scaling->n_points == SCALING_MOST_POINTS) {
    dist_fail(scaling->context, FAVOR_EUSAGE, "more than %d runs; give shorter lists", SCALING_MOST_POINTS);
    return;
  }
  scaling->points[scaling->n_points++] = *point;
}

/* The grid with every scan where causal states travel along it. */
static void add_scans(const struct list *list, struct scaling_point point, bool has_all_scans) {
  for (int i = 0; i < list->n_causal; i++) {
    unsigned scans = list->scans;
    point.problem.is_causal = list->is_causal[i];
    for (int scan = 0; scans != 0; scan++, scans >>= 1) {
      if (!(scans & 1)) continue;
      point.problem.scan = list->is_causal[i] ? (enum favor_scan)scan : FAVOR_SCAN_AUTO;
      add(list, &point);
      if (!has_all_scans || !list->is_causal[i]) break;
    }
  }
}

static void set_grid(struct scaling_point *point, int64_t heads, int64_t tokens) {
  point->problem.grid_heads = heads;
  point->problem.grid_tokens = tokens;
}

/* One rank has one grid. Of more ranks the planner's own, and token shards alone, for what it costs to share them out;
 * or the one that was asked for. */
static void add_grids(const struct list *list, struct scaling_point point) {
  const int64_t *given = list->scaling->command->options->values[OPTION_GRID].integers;
  const int64_t ranks = scaling_ranks_of(list->scaling, &point);
  if (ranks == 1) {
    add_scans(list, point, false);
  } else if (given[0] > 0) {
    set_grid(&point, given[0], given[1]);
    if (given[0] * given[1] == ranks) add_scans(list, point, true);
  } else {
    add_scans(list, point, false);
    set_grid(&point, 1, ranks);
    add_scans(list, point, true);
  }
}

/* Whether sizes of the tensors can be counted: an element of each of q, k, v and out takes at most 8 bytes. */
static bool is_countable(const struct list *list, int64_t tokens) {
  const int64_t width = 2 * (list->work.key_width + list->work.value_width);
  int64_t heads, bytes;
  return !__builtin_mul_overflow(list->batch, list->work.heads, &heads) &&
         !__builtin_mul_overflow(heads, tokens, &bytes) && !__builtin_mul_overflow(bytes, 8 * width, &bytes);
}

static void add_modes(const struct list *list, struct scaling_point point) {
  const int64_t ranks = scaling_ranks_of(list->scaling, &point);
  for (int mode = 0; mode < SCALING_N_MODES; mode++) {
    if (!(list->modes >> mode & 1)) continue;
    point.modes = ranks == 1 ? list->modes : 1U << mode;
    if (__builtin_mul_overflow(point.asked_tokens, mode == SCALING_WEAK ? ranks : 1, &point.problem.tokens) ||
        !is_countable(list, point.problem.tokens)) {
      dist_fail(list->scaling->context, FAVOR_EUSAGE,
                "--shape, --tokens-list: too large to be held on %lld ranks; give less", (long long)ranks);
      return;
    }
    add_grids(list, point);
    if (ranks == 1) return;
  }
}

static void take_work(struct list *list) {
  const struct options *options = list->scaling->command->options;
  static const int64_t usual[] = {1, 8, 32768, 64};
  const bool has_shape = option_is_active(options, OPTION_SHAPE);
  const int64_t *shape = has_shape ? options->values[OPTION_SHAPE].integers : usual,
                value_width = options_integer(options, OPTION_VALUE_WIDTH);
  list->batch = shape[0];
  list->work = (struct bench_work){.heads = shape[1],
                                   .tokens = shape[2],
                                   .key_width = shape[3],
                                   .value_width = value_width ? value_width : shape[3],
                                   .features = options_integer(options, OPTION_FEATURES),
                                   .projection = (enum favor_projection)options_integer(options, OPTION_PROJECTION),
                                   .map = (enum favor_map)options_integer(options, OPTION_MAP)};
}

/* Both, unless --causal or --causal=off says which. */
static void take_causal(struct list *list) {
  const struct options *options = list->scaling->command->options;
  const bool is_said =
      option_is_active(options, OPTION_CAUSAL) || options->values[OPTION_CAUSAL].origin == OPTION_FROM_COMMAND_LINE;
  list->is_causal[0] = is_said ? options_flag(options, OPTION_CAUSAL) : true;
  list->is_causal[1] = false;
  list->n_causal = is_said ? 1 : 2;
}

static void take_lists(struct list *list) {
  struct scaling *scaling = list->scaling;
  const bool is_all = strcmp(options_text(scaling->command->options, OPTION_SCANS), "all") == 0;
  list->modes = take_names(scaling, OPTION_MODES, mode_names);
  list->scans = is_all ? ~0U : take_names(scaling, OPTION_SCANS, option_at(OPTION_SCAN)->choices);
  int n_scans = 0;
  while (option_at(OPTION_SCAN)->choices[n_scans]) n_scans++;
  list->scans &= (1U << n_scans) - 1;
  take_ranks(scaling);
  check_grid(scaling);
  if (is_auto(scaling, OPTION_TOKENS_LIST))
    scaling->tokens = (struct scaling_counts){1, {list->work.tokens}};
  else
    take_counts(scaling, OPTION_TOKENS_LIST, (int64_t)option_at(OPTION_SHAPE)->most, &scaling->tokens);
}

void scaling_list(struct scaling *scaling) {
  struct list list = {.scaling = scaling};
  take_work(&list);
  take_causal(&list);
  take_lists(&list);
  if (dist_has_failed(scaling->context)) return;
  struct scaling_point point = {.problem = bench_problem(scaling->command->options, &list.work)};
  point.problem.batch = list.batch;
  point.problem.precision = scaling->precision;
  point.problem.kernel = options_text(scaling->command->options, OPTION_KERNEL);
  for (int i = 0; i < scaling->tokens.n; i++) {
    point.asked_tokens = scaling->tokens.values[i];
    for (point.count = 0; point.count < scaling->ranks.n; point.count++) add_modes(&list, point);
  }
}

bool scaling_is_repeated(const struct scaling *scaling, int index) {
  const struct scaling_point *point = &scaling->points[index];
  for (int i = 0; i < index; i++) {
    const struct scaling_point *other = &scaling->points[i];
    if (other->count == point->count && other->modes == point->modes && other->asked_tokens == point->asked_tokens &&
        other->problem.is_causal == point->problem.is_causal && other->problem.scan == point->problem.scan &&
        other->info.grid_heads == point->info.grid_heads && other->info.grid_tokens == point->info.grid_tokens)
      return true;
  }
  return false;
}

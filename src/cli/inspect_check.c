#include <inttypes.h>
#include <stdio.h>

#include "cli/inspect.h"
#include "dist/comm.h"

static const char *const outcomes[] = {
    [CHECK_OK] = "ok", [CHECK_DAMAGED] = "damaged", [CHECK_UNKNOWN] = "no checksum", [CHECK_MISSING] = "missing"};

static int count_bad(const struct check_report *check) {
  int n = 0;
  for (int i = 0; i < check->n_datasets; i++) n += check->datasets[i].outcome != CHECK_OK;
  return n;
}

void inspect_print_check(const struct check_report *check) {
  puts("\nchecksums");
  for (int i = 0; i < check->n_datasets; i++) {
    const struct check_dataset *dataset = &check->datasets[i];
    printf("  %-20s %s\n", dataset->name, outcomes[dataset->outcome]);
    for (int64_t r = 0; r < dataset->n_ranges; r++) {
      const struct check_range *range = &dataset->ranges[r];
      printf("    head %" PRId64 ", tokens [%" PRId64 ", %" PRId64 "), rows %" PRId64 " to %" PRId64 "\n", range->head,
             range->token_begin, range->token_end, range->first_row, range->last_row);
    }
  }
}

json_t *inspect_pack_check(const struct check_report *check) {
  json_t *datasets = json_array();
  for (int i = 0; i < check->n_datasets; i++) {
    const struct check_dataset *dataset = &check->datasets[i];
    json_t *ranges = json_array();
    for (int64_t r = 0; r < dataset->n_ranges; r++) {
      const struct check_range *range = &dataset->ranges[r];
      json_array_append_new(ranges, json_pack("{s:I, s:I, s:I, s:I, s:I}", "head", (json_int_t)range->head,
                                              "token_begin", (json_int_t)range->token_begin, "token_end",
                                              (json_int_t)range->token_end, "first_row", (json_int_t)range->first_row,
                                              "last_row", (json_int_t)range->last_row));
    }
    json_array_append_new(datasets, json_pack("{s:s, s:s, s:o}", "name", dataset->name, "outcome",
                                              outcomes[dataset->outcome], "damaged", ranges));
  }
  return json_pack("{s:b, s:o}", "ok", count_bad(check) == 0, "datasets", datasets);
}

void inspect_fail_check(const struct command *command, const char *path, const struct check_report *check) {
  const int n_bad = count_bad(check);
  if (n_bad == 0) return;
  dist_fail(command->context, FAVOR_EDATA,
            "%s is not as it was written: %d of its %d datasets do not have their checksums; copy or make it again",
            path, n_bad, check->n_datasets);
}

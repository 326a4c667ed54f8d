/* replay DIRECTORY...: gives every file of the directories to the target that it is linked with, in order of name. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fuzz.h"

enum { SECONDS_AN_INPUT = 20 };

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static void replay_file(const char *path) {
  fprintf(stderr, "%s\n", path); /* the last line names the input that crashed */
  FILE *file = fopen(path, "r");
  FUZZ_CHECK(file && fseek(file, 0, SEEK_END) == 0);
  long n_bytes = ftell(file);
  uint8_t *bytes = malloc((size_t)n_bytes + (n_bytes == 0)); /* exactly: what reads behind it is noticed */
  rewind(file);
  FUZZ_CHECK(bytes && fread(bytes, 1, (size_t)n_bytes, file) == (size_t)n_bytes);
  fclose(file);
  alarm(SECONDS_AN_INPUT);
  LLVMFuzzerTestOneInput(bytes, (size_t)n_bytes);
  alarm(0);
  free(bytes);
}

static int replay_directory(const char *directory) {
  struct dirent **entries;
  int n = scandir(directory, &entries, is_visible, alphasort);
  for (int i = 0; i < n; i++) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
    replay_file(path);
    free(entries[i]);
  }
  if (n >= 0) free(entries);
  return n;
}

int main(int argc, char **argv) {
  int n_inputs = 0;
  for (int i = 1; i < argc; i++) {
    int n = replay_directory(argv[i]);
    if (n <= 0) {
      fprintf(stderr, "%s: no inputs there\n", argv[i]);
      return 1;
    }
    n_inputs += n;
  }
  fuzz_end();
  printf("%d inputs\n", n_inputs);
  return n_inputs == 0;
}

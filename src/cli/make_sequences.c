/* FASTA records to tokens on every rank. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/make.h"
#include "dist/agree.h"
#include "io/fasta.h"

/* Rank 0: takes the records over from the file. */
static void load(const struct command *command, struct sequences *sequences, struct fasta *fasta) {
  const char *path = options_text(command->options, OPTION_FASTA);
  struct status status = {0};
  if (fasta_read(path, (enum fasta_alphabet)options_integer(command->options, OPTION_ALPHABET), fasta, &status) !=
      FAVOR_OK) {
    dist_fail(command->context, status.code, "%s", status.text);
    return;
  }
  sequences->n_records = fasta->n_records;
  sequences->n_letters = fasta->offsets[fasta->n_records];
  sequences->letter_offsets = fasta->offsets;
  sequences->codes = fasta->codes;
  fasta->offsets = NULL;
  fasta->codes = NULL;
}

static int64_t letters_of(const struct sequences *sequences, int64_t record) {
  return sequences->letter_offsets[record + 1] - sequences->letter_offsets[record];
}

static void count_tokens(const struct command *command, struct sequences *sequences) {
  sequences->segments[0] = 0;
  for (int64_t i = 0; i < sequences->n_records; i++) {
    int64_t n = fasta_n_tokens(letters_of(sequences, i), sequences->k);
    sequences->segments[i + 1] = sequences->segments[i] + n;
    sequences->n_short += n == 0;
  }
  if (sequences->segments[sequences->n_records] == 0) {
    dist_fail(command->context, FAVOR_EDATA, "%s: every record is shorter than %d letters; give a smaller --kmer",
              options_text(command->options, OPTION_FASTA), sequences->k);
  }
}

static void warn_of_short_records(const struct command *command, const struct sequences *sequences,
                                  const struct fasta *fasta) {
  if (sequences->n_short == 0 || options_flag(command->options, OPTION_QUIET)) return;
  int64_t first = 0;
  while (letters_of(sequences, first) >= sequences->k) first++;
  fprintf(stderr,
          "favor: warning: %lld of %lld records are shorter than %d letters and become empty segments; the first "
          "is number %lld, '%.64s'\n",
          (long long)sequences->n_short, (long long)sequences->n_records, sequences->k, (long long)first + 1,
          fasta->names[first]);
}

static enum favor_status share(struct favor_context *context, struct sequences *sequences) {
  int64_t sizes[2] = {sequences->n_records, sequences->n_letters};
  enum favor_status status = dist_broadcast(context, sizes, sizeof sizes);
  if (status != FAVOR_OK) return status;
  sequences->n_records = sizes[0];
  sequences->n_letters = sizes[1];
  size_t offset_bytes = (size_t)(sizes[0] + 1) * sizeof(int64_t);
  sequences->segments = malloc(offset_bytes);
  if (context->rank != 0) {
    sequences->letter_offsets = malloc(offset_bytes);
    sequences->codes = malloc((size_t)sizes[1] + 1);
  }
  if (!sequences->segments || !sequences->letter_offsets || (!sequences->codes && sizes[1] > 0)) {
    dist_fail(context, FAVOR_ENOMEM, "no memory for %lld letters of sequences", (long long)sizes[1]);
  }
  status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = dist_broadcast(context, sequences->letter_offsets, offset_bytes);
  if (status == FAVOR_OK) status = dist_broadcast(context, sequences->codes, (size_t)sizes[1]);
  return status;
}

static enum favor_status read_all(const struct command *command, struct sequences *sequences) {
  struct favor_context *context = command->context;
  struct fasta fasta = {0};
  if (command_is_speaker(command) && !dist_has_failed(context)) load(command, sequences, &fasta);
  enum favor_status status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  if (status == FAVOR_OK) status = share(context, sequences);
  if (status == FAVOR_OK) {
    count_tokens(command, sequences);
    if (command_is_speaker(command)) warn_of_short_records(command, sequences, &fasta);
    status = dist_agree(context, DIST_SITE_COMMAND, 0, "");
  }
  fasta_free(&fasta);
  return status;
}

enum favor_status sequences_read(const struct command *command, struct sequences **sequences) {
  const struct options *options = command->options;
  enum fasta_alphabet alphabet = (enum fasta_alphabet)options_integer(options, OPTION_ALPHABET);
  struct sequences made = {.letters = fasta_letters(alphabet), .k = (int)options_integer(options, OPTION_KMER)};
  if (made.k == 0) made.k = alphabet == FASTA_DNA ? 6 : 1;
  made.vocabulary = fasta_vocabulary(made.letters, made.k);
  if (made.vocabulary < 0) {
    dist_fail(command->context, FAVOR_EUSAGE, "--kmer %d: there are too many different runs of %d letters; give less",
              made.k, made.k);
  }
  *sequences = malloc(sizeof **sequences);
  if (!*sequences) {
    dist_fail(command->context, FAVOR_ENOMEM, "no memory for the sequences");
    return dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
  }
  **sequences = made;
  enum favor_status status = read_all(command, *sequences);
  if (status != FAVOR_OK) sequences_free(sequences);
  return status;
}

void sequences_free(struct sequences **sequences) {
  if (!*sequences) return;
  free((*sequences)->letter_offsets);
  free((*sequences)->segments);
  free((*sequences)->codes);
  free(*sequences);
  *sequences = NULL;
}

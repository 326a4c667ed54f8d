/* Sequences of FASTA files, plain or compressed by gzip or bgzip, as one small number a letter. */
#ifndef FAVOR_IO_FASTA_H
#define FAVOR_IO_FASTA_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum fasta_alphabet { FASTA_DNA = 0, FASTA_PROTEIN };

/* The letters that count: ACGT, or the 20 amino acids; codes from 0 in alphabetical order. Case does not matter; any
 * other letter, *, - and . have the code fasta_letters(). */
int fasta_letters(enum fasta_alphabet alphabet);

struct fasta {
  int64_t n_records;
  int64_t *offsets; /* [n_records + 1], into codes */
  uint8_t *codes;   /* all records, one after the other */
  char **names;     /* [n_records], the header's first word, "" where it has none */
};

/* Local. Reads the whole file; "-" is standard input. Errors: FAVOR_EIO (cannot open or read), FAVOR_EDATA (not FASTA,
 * no record, truncated, with file and line), FAVOR_ENOMEM. On failure there is nothing to free. */
enum favor_status fasta_read(const char *path, enum fasta_alphabet alphabet, struct fasta *fasta,
                             struct status *status);

/* Accepts what fasta_read left, and zeros. */
void fasta_free(struct fasta *fasta);

/* Tokens are overlapping runs of k letters: a record of n letters has n - k + 1 of them, or none if it is shorter. */
static inline int64_t fasta_n_tokens(int64_t n_letters, int k) { return n_letters < k ? 0 : n_letters - k + 1; }

/* The number of different tokens: letters^k, and one for all runs that hold a letter that does not count; -1 where
 * that is 2^31 or more. */
int64_t fasta_vocabulary(int letters, int k);

/* The token of the run that starts at codes: its codes as digits, the first one highest; else letters^k. */
int32_t fasta_token(const uint8_t *codes, int letters, int k);

#endif

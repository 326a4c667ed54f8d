/* The FASTA reader (io/fasta.h) on any bytes. What is not compressed is also read here, by the letter of the header's
 * contract, and both must agree on every code and name, or on refusing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "io/fasta.h"

static const char *const letters_of[] = {"ACGT", "ACDEFGHIKLMNPQRSTVWY"};

/* The code of a letter; -1: left out; -2: no letter. */
static int code_of(enum fasta_alphabet alphabet, unsigned char byte) {
  bool is_lower = byte >= 'a' && byte <= 'z', is_upper = byte >= 'A' && byte <= 'Z';
  const char *letters = letters_of[alphabet];
  if (is_lower || is_upper) {
    const char *at = strchr(letters, is_lower ? byte - 'a' + 'A' : byte);
    return (int)(at ? at - letters : (ptrdiff_t)strlen(letters));
  }
  if (byte == '*' || byte == '-' || byte == '.') return (int)strlen(letters);
  return byte == ' ' || byte == '\t' || byte == '\r' ? -1 : -2;
}

/* The bytes against what was read; false where they are no FASTA. */
static bool is_as_read(enum fasta_alphabet alphabet, const uint8_t *data, size_t size, const struct fasta *fasta) {
  int64_t n_records = 0, n_codes = 0;
  for (size_t at = 0; at < size;) {
    const uint8_t *line = data + at, *end = memchr(line, '\n', size - at);
    size_t length = end ? (size_t)(end - line) : size - at;
    at += length + 1;
    if (length > 0 && line[0] == '>') {
      if (n_records == fasta->n_records || fasta->offsets[n_records] != n_codes) return false;
      const char *name = fasta->names[n_records++];
      if (strncmp(name, (const char *)line + 1, strlen(name)) != 0 || strlen(name) > length - 1) return false;
      continue;
    }
    for (size_t i = 0; i < length; i++) {
      int code = code_of(alphabet, line[i]);
      if (code == -1) continue;
      if (code == -2 || n_records == 0 || n_codes == fasta->offsets[fasta->n_records]) return false;
      if (fasta->codes[n_codes++] != code) return false;
    }
  }
  return n_records > 0 && n_records == fasta->n_records && n_codes == fasta->offsets[n_records];
}

/* Has any line a byte that it must not have, or stands before the first header? The reader's refusal must be earned. */
static bool is_fasta(enum fasta_alphabet alphabet, const uint8_t *data, size_t size) {
  bool has_header = false, is_line_start = true, is_header = false;
  for (size_t i = 0; i < size; i++) {
    if (is_line_start) is_header = data[i] == '>';
    has_header |= is_header;
    is_line_start = data[i] == '\n';
    int code = is_line_start || is_header ? -1 : code_of(alphabet, data[i]);
    if (code == -2 || (code >= 0 && !has_header)) return false;
  }
  return has_header;
}

static void check_tokens(enum fasta_alphabet alphabet, const struct fasta *fasta) {
  int letters = fasta_letters(alphabet), k = alphabet == FASTA_DNA ? 6 : 2;
  for (int64_t r = 0; r < fasta->n_records; r++) {
    FUZZ_CHECK(fasta->offsets[r] <= fasta->offsets[r + 1] && fasta->names[r]);
    int64_t n = fasta_n_tokens(fasta->offsets[r + 1] - fasta->offsets[r], k);
    for (int64_t i = 0; i < n; i++) {
      int32_t token = fasta_token(fasta->codes + fasta->offsets[r] + i, letters, k);
      FUZZ_CHECK(token >= 0 && token < fasta_vocabulary(letters, k));
    }
  }
}

static void read_as(enum fasta_alphabet alphabet, const char *path, const uint8_t *data, size_t size) {
  struct status status = {0};
  struct fasta fasta;
  bool may_be_compressed = size >= 2 && data[0] == 0x1f && data[1] == 0x8b;
  if (fasta_read(path, alphabet, &fasta, &status) == FAVOR_OK) {
    FUZZ_CHECK(status.code == FAVOR_OK && fasta.n_records > 0 && fasta.offsets[0] == 0);
    FUZZ_CHECK(may_be_compressed || is_as_read(alphabet, data, size, &fasta));
    check_tokens(alphabet, &fasta);
    fasta_free(&fasta);
  } else {
    fuzz_check_error(status.code, status.text);
    FUZZ_CHECK(may_be_compressed || !is_fasta(alphabet, data, size));
  }
  FUZZ_CHECK(!fasta.codes && !fasta.names && !fasta.offsets);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *path = fuzz_file(0, data, size);
  int descriptor = fuzz_next_descriptor();
  read_as(FASTA_DNA, path, data, size);
  read_as(FASTA_PROTEIN, path, data, size);
  FUZZ_CHECK(fuzz_next_descriptor() == descriptor);
  return 0;
}

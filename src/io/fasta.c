#include "io/fasta.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <htslib/bgzf.h>
#include <htslib/hfile.h>
#include <htslib/hts.h>
#include <htslib/hts_log.h>
#include <htslib/kstring.h>

static const char *const letters_of[] = {[FASTA_DNA] = "ACGT", [FASTA_PROTEIN] = "ACDEFGHIKLMNPQRSTVWY"};

enum { SKIPPED = 254, REFUSED = 255 }; /* what a byte of a sequence line can be beside a code */

struct parser {
  const char *path;
  int64_t line;
  uint8_t code_of[256];
  struct fasta *fasta;
  int64_t records_held, codes_held; /* for how many there is memory */
  struct status *status;
};

int fasta_letters(enum fasta_alphabet alphabet) { return (int)strlen(letters_of[alphabet]); }

static void make_codes(enum fasta_alphabet alphabet, uint8_t code_of[256]) {
  const char *letters = letters_of[alphabet];
  int n = fasta_letters(alphabet);
  for (int byte = 0; byte < 256; byte++) {
    bool is_other = (byte < 128 && isalpha(byte)) || byte == '*' || byte == '-' || byte == '.';
    code_of[byte] = is_other ? (uint8_t)n : byte == ' ' || byte == '\t' || byte == '\r' ? SKIPPED : REFUSED;
  }
  for (int i = 0; i < n; i++) {
    code_of[(unsigned char)letters[i]] = (uint8_t)i;
    code_of[tolower((unsigned char)letters[i])] = (uint8_t)i;
  }
}

/* Makes room for `needed` elements, at least doubling. False, with the error recorded, where there is none. */
static bool grow(struct parser *parser, void **array, int64_t *held, int64_t needed, size_t element_bytes) {
  if (needed <= *held) return true;
  int64_t n = *held * 2 > needed ? *held * 2 : needed + 64;
  void *grown = realloc(*array, (size_t)n * element_bytes);
  if (!grown) {
    status_set(parser->status, FAVOR_ENOMEM, "%s:%lld: no memory for the sequences", parser->path,
               (long long)parser->line);
    return false;
  }
  *array = grown;
  *held = n;
  return true;
}

/* offsets[n_records] is where the record being read ends so far. */
static void start_record(struct parser *parser, const char *header) {
  struct fasta *fasta = parser->fasta;
  int64_t n = fasta->n_records, held = parser->records_held;
  bool has_room = grow(parser, (void **)&fasta->names, &held, n + 2, sizeof *fasta->names) &&
                  grow(parser, (void **)&fasta->offsets, &parser->records_held, n + 2, sizeof *fasta->offsets);
  if (!has_room) return;
  char *name = strndup(header, strcspn(header, " \t\r"));
  if (!name) {
    status_set(parser->status, FAVOR_ENOMEM, "%s: no memory for the names of sequences", parser->path);
    return;
  }
  fasta->names[n] = name;
  fasta->offsets[n + 1] = n == 0 ? 0 : fasta->offsets[n];
  fasta->offsets[0] = 0;
  fasta->n_records = n + 1;
}

static void refuse_byte(struct parser *parser, unsigned char byte) {
  const char *path = parser->path;
  long long line = (long long)parser->line;
  if (isprint(byte)) {
    status_set(parser->status, FAVOR_EDATA, "%s:%lld: '%c' is no letter of a sequence", path, line, byte);
  } else {
    status_set(parser->status, FAVOR_EDATA, "%s:%lld: the byte 0x%02x is no letter of a sequence", path, line, byte);
  }
}

static void take_sequence(struct parser *parser, const char *text, size_t length) {
  struct fasta *fasta = parser->fasta;
  int64_t *end = &fasta->offsets[fasta->n_records];
  if (!grow(parser, (void **)&fasta->codes, &parser->codes_held, *end + (int64_t)length, 1)) return;
  for (size_t i = 0; i < length; i++) {
    uint8_t code = parser->code_of[(unsigned char)text[i]];
    if (code == REFUSED) {
      refuse_byte(parser, (unsigned char)text[i]);
      return;
    }
    if (code != SKIPPED) fasta->codes[(*end)++] = code;
  }
}

static void take_line(struct parser *parser, const char *text, size_t length) {
  if (text[0] == '>') {
    start_record(parser, text + 1);
  } else if (parser->fasta->n_records > 0) {
    take_sequence(parser, text, length);
  } else if (strspn(text, " \t\r") < length) {
    status_set(parser->status, FAVOR_EDATA, "%s:%lld: not FASTA: a header line that starts with > must come first",
               parser->path, (long long)parser->line);
  }
}

/* What happened at the end of the lines: `result` is bgzf_getline's. */
static void check_end(struct parser *parser, BGZF *file, int result) {
  const char *path = parser->path;
  if (parser->status->code != FAVOR_OK) return;
  const int error = herrno(file->fp); /* of the system, which bgzf_getline does not tell from damage */
  if (result < -1 && error != 0) {
    status_set(parser->status, FAVOR_EIO, "reading %s failed after line %lld: %s", path, (long long)parser->line,
               strerror(error));
  } else if (result < -1) {
    status_set(parser->status, FAVOR_EDATA, "%s: cannot be read after line %lld: truncated or damaged", path,
               (long long)parser->line);
  } else if (bgzf_compression(file) == bgzf && bgzf_check_EOF(file) == 0) {
    status_set(parser->status, FAVOR_EDATA, "%s: truncated: bgzip's end marker is missing", path);
  } else if (parser->fasta->n_records == 0) {
    status_set(parser->status, FAVOR_EDATA, "%s: no sequences in it", path);
  }
}

/* All lines, to the first error. */
static void take_file(struct parser *parser) {
  errno = 0;
  BGZF *file = bgzf_open(parser->path, "r"); /* knows "-" */
  if (!file) {
    status_set(parser->status, FAVOR_EIO, "%s: cannot open the sequences: %s", parser->path,
               errno ? strerror(errno) : "damaged");
    return;
  }
  kstring_t text = KS_INITIALIZE;
  int result = 0;
  while (parser->status->code == FAVOR_OK && (result = bgzf_getline(file, '\n', &text)) >= 0) {
    parser->line++;
    take_line(parser, text.s, text.l);
  }
  check_end(parser, file, result);
  ks_free(&text);
  bgzf_close(file);
}

enum favor_status fasta_read(const char *path, enum fasta_alphabet alphabet, struct fasta *fasta,
                             struct status *status) {
  memset(fasta, 0, sizeof *fasta);
  struct parser parser = {.path = path, .fasta = fasta, .status = status};
  make_codes(alphabet, parser.code_of);
  enum htsLogLevel level = hts_get_log_level();
  hts_set_log_level(HTS_LOG_OFF); /* it prints; here the caller gets one message */
  take_file(&parser);
  hts_set_log_level(level);
  if (status->code != FAVOR_OK) fasta_free(fasta);
  return status->code;
}

void fasta_free(struct fasta *fasta) {
  if (fasta->names) {
    for (int64_t i = 0; i < fasta->n_records; i++) free(fasta->names[i]);
  }
  free(fasta->names);
  free(fasta->offsets);
  free(fasta->codes);
  memset(fasta, 0, sizeof *fasta);
}

int64_t fasta_vocabulary(int letters, int k) {
  int64_t n = 1;
  for (int i = 0; i < k; i++) {
    n *= letters;
    if (n >= INT32_MAX) return -1;
  }
  return n + 1;
}

int32_t fasta_token(const uint8_t *codes, int letters, int k) {
  int32_t token = 0;
  bool is_other = false;
  for (int i = 0; i < k; i++) {
    is_other |= codes[i] >= letters;
    token = token * letters + (is_other ? 0 : codes[i]);
  }
  return is_other ? (int32_t)(fasta_vocabulary(letters, k) - 1) : token;
}

/* Checkpoints (io/checkpoint.h) of any bytes. Besides as they are, the bytes are taken with what lets them in put right
 * (the name of the format, its version, the checksum of the header), which no mutation would find. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fuzz.h"
#include "io/checkpoint.h"

/* A header is inside its bytes, and what it says can be counted. */
static void check_header(const uint8_t *data, size_t size) {
  struct checkpoint_header header;
  const char *reason;
  if (!checkpoint_parse(data, size, &header, &reason)) {
    FUZZ_CHECK(reason && reason[0] != '\0');
    return;
  }
  FUZZ_CHECK(header.text == (const char *)data + CHECKPOINT_START_BYTES);
  FUZZ_CHECK(header.text_bytes >= 0 && header.text_bytes <= CHECKPOINT_MAX_TEXT_BYTES);
  FUZZ_CHECK((size_t)header.text_bytes + CHECKPOINT_START_BYTES <= size);
  FUZZ_CHECK(header.n_records >= 0 && header.record_bytes >= 0);
  __int128 records = (__int128)header.n_records * ((__int128)header.record_bytes + 8);
  FUZZ_CHECK(header.file_bytes == 40 + header.text_bytes + records);
}

/* Each record is refused, or has its checksum. */
static void check_records(struct favor_context *context, struct checkpoint *checkpoint, const uint8_t *data,
                          size_t size) {
  size_t record_bytes = checkpoint_record_bytes(checkpoint), pitch = record_bytes + 8;
  int64_t n_records = checkpoint_n_records(checkpoint);
  size_t at = 40 + strlen(checkpoint_text(checkpoint));
  FUZZ_CHECK(at + (size_t)n_records * pitch == size);
  uint8_t *record = malloc(n_records > 0 ? record_bytes + 1 : 1);
  for (int64_t i = 0; i < n_records; i++, at += pitch) {
    uint64_t checksum;
    memcpy(&checksum, data + at + record_bytes, sizeof checksum);
    bool is_whole = checksum == XXH3_64bits_withSeed(data + at, record_bytes, (uint64_t)i);
    enum favor_status status = checkpoint_read(checkpoint, i, record);
    FUZZ_CHECK(status == (is_whole ? FAVOR_OK : FAVOR_EDATA));
    FUZZ_CHECK(!is_whole || memcmp(record, data + at, record_bytes) == 0);
    favor_context_forget(context);
  }
  free(record);
}

static void read_file(const uint8_t *data, size_t size) {
  struct favor_context *context = fuzz_context();
  struct checkpoint *checkpoint;
  const char *path = fuzz_file(0, data, size);
  int descriptor = fuzz_next_descriptor();
  check_header(data, size);
  enum favor_status status = checkpoint_open(context, path, &checkpoint);
  if (status == FAVOR_OK) {
    FUZZ_CHECK(checkpoint);
    check_records(context, checkpoint, data, size);
    checkpoint_close(&checkpoint);
  } else {
    FUZZ_CHECK(status == FAVOR_EDATA && !checkpoint);
    fuzz_check_error(status, favor_context_message(context));
    FUZZ_CHECK(strstr(favor_context_message(context), "; remove it to start afresh"));
  }
  FUZZ_CHECK(fuzz_next_descriptor() == descriptor);
}

/* Puts right what doc/file-format.md says of the header, and every record's checksum where the first is odd. */
static void repair(uint8_t *data, size_t size) {
  const uint32_t version = 1;
  uint32_t text_bytes;
  uint64_t n_records, record_bytes;
  memcpy(data,
         "\x89"
         "FVRC\r\n\x1a",
         8);
  memcpy(data + 16, &version, 4);
  memcpy(&text_bytes, data + 20, 4);
  memcpy(&n_records, data + 24, 8);
  memcpy(&record_bytes, data + 32, 8);
  if (text_bytes > size - 40) return;
  uint64_t checksum = XXH3_64bits(data + 16, 24 + text_bytes);
  memcpy(data + 8, &checksum, 8);
  size_t at = 40 + text_bytes;
  for (uint64_t i = 0; i < n_records && record_bytes < size && at + record_bytes + 8 <= size; i++) {
    checksum = XXH3_64bits_withSeed(data + at, record_bytes, i);
    if (data[at + record_bytes] % 2) memcpy(data + at + record_bytes, &checksum, 8);
    at += record_bytes + 8;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  read_file(data, size);
  if (size < CHECKPOINT_START_BYTES) return 0;
  uint8_t *repaired = malloc(size);
  memcpy(repaired, data, size);
  repair(repaired, size);
  read_file(repaired, size);
  free(repaired);
  return 0;
}

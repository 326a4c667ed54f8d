/* FASTA files (io/fasta.h) against what tests/data/README.md says of them, and files that must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/fasta.h"

/* The path of a file of tests/data, which stands beside this file's folder. */
static const char *data_path(const char *name) {
  static char path[1024];
  const char *here = __FILE__;
  int folder = (int)(strrchr(here, '/') - here);
  snprintf(path, sizeof path, "%.*s/../data/%s", folder, here, name);
  return path;
}

/* A file with this content; its name is good until the next call. */
static const char *file_with(const char *content, size_t bytes) {
  static char path[64];
  snprintf(path, sizeof path, "fasta_test.%d", (int)getpid());
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(content, 1, bytes, file), bytes);
  assert_int_equal(fclose(file), 0);
  return path;
}

static void read_good(const char *path, enum fasta_alphabet alphabet, struct fasta *fasta) {
  struct status status = {0};
  assert_int_equal(fasta_read(path, alphabet, fasta, &status), FAVOR_OK);
  assert_int_equal(status.code, FAVOR_OK);
}

static void expect_tokens(const char *name, enum fasta_alphabet alphabet, int k, int n, const int64_t *tokens) {
  struct fasta fasta;
  read_good(data_path(name), alphabet, &fasta);
  assert_int_equal(fasta.n_records, n);
  assert_int_equal(fasta.offsets[0], 0);
  for (int i = 0; i < n; i++) {
    assert_int_equal(fasta_n_tokens(fasta.offsets[i + 1] - fasta.offsets[i], k), tokens[i]);
  }
  fasta_free(&fasta);
}

static void test_records_and_tokens(void **state) {
  (void)state;
  const int64_t plain[] = {65, 35, 1}, odd[] = {11, 14, 0, 0, 7, 7, 4, 4, 4}, none[] = {0, 0};
  const int64_t protein[] = {76, 21, 37, 1};
  expect_tokens("plain.fa", FASTA_DNA, 6, 3, plain);
  expect_tokens("plain.fa.gz", FASTA_DNA, 6, 3, plain);
  expect_tokens("plain.fa.bgz", FASTA_DNA, 6, 3, plain);
  expect_tokens("odd.fa", FASTA_DNA, 6, 9, odd);
  expect_tokens("short.fa", FASTA_DNA, 6, 2, none);
  expect_tokens("protein.fa", FASTA_PROTEIN, 1, 4, protein);
}

static void test_codes(void **state) {
  (void)state;
  static const char text[] = ">first second\tthird\nacgtACGT\n\nNry-*\r\n>\nT";
  const uint8_t expected[] = {0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 4, 4, 4, 3};
  struct fasta fasta;
  const char *path = file_with(text, sizeof text - 1);
  read_good(path, FASTA_DNA, &fasta);
  unlink(path);
  assert_int_equal(fasta.n_records, 2);
  assert_int_equal(fasta.offsets[1], 13);
  assert_int_equal(fasta.offsets[2], sizeof expected);
  assert_memory_equal(fasta.codes, expected, sizeof expected);
  assert_string_equal(fasta.names[0], "first");
  assert_string_equal(fasta.names[1], "");
  fasta_free(&fasta);
}

static void test_protein_codes(void **state) {
  (void)state;
  static const char text[] = ">p\nACDEFGHIKLMNPQRSTVWYBJOUXZ*\n";
  struct fasta fasta;
  const char *path = file_with(text, sizeof text - 1);
  read_good(path, FASTA_PROTEIN, &fasta);
  unlink(path);
  assert_int_equal(fasta_letters(FASTA_PROTEIN), 20);
  for (int i = 0; i < 27; i++) assert_int_equal(fasta.codes[i], i < 20 ? i : 20);
  fasta_free(&fasta);
}

/* The digits of a token are its letters, so different runs have different tokens. */
static void test_tokens(void **state) {
  (void)state;
  const uint8_t first[] = {0, 0, 0}, last[] = {3, 3, 3}, mixed[] = {1, 0, 2}, other[] = {3, 4, 3};
  assert_int_equal(fasta_vocabulary(4, 3), 65);
  assert_int_equal(fasta_token(first, 4, 3), 0);
  assert_int_equal(fasta_token(last, 4, 3), 63);
  assert_int_equal(fasta_token(mixed, 4, 3), 18);
  assert_int_equal(fasta_token(other, 4, 3), 64);
  assert_int_equal(fasta_vocabulary(20, 1), 21);
  assert_int_equal(fasta_vocabulary(20, 7), 1280000001);
  assert_int_equal(fasta_vocabulary(20, 8), -1);
  assert_int_equal(fasta_n_tokens(6, 6), 1);
  assert_int_equal(fasta_n_tokens(5, 6), 0);
}

static void refuse(const char *path, enum favor_status code, const char *part) {
  struct fasta fasta;
  struct status status = {0};
  assert_int_equal(fasta_read(path, FASTA_DNA, &fasta, &status), code);
  if (!strstr(status.text, part)) fail_msg("'%s' does not say '%s'", status.text, part);
  assert_null(fasta.codes);
  assert_null(fasta.offsets);
  assert_null(fasta.names);
}

static void test_refused(void **state) {
  (void)state;
  refuse("no such file.fa", FAVOR_EIO, "No such file");
  refuse(data_path("empty.fa"), FAVOR_EDATA, "no sequences");
  refuse(data_path("not_fasta.txt"), FAVOR_EDATA, "not FASTA");
  refuse(data_path("truncated.fa.gz"), FAVOR_EDATA, "truncated");
  refuse(data_path("../data"), FAVOR_EIO, "directory");
  const char *path = file_with(">a\nACGT\nAC9T\n", 13);
  refuse(path, FAVOR_EDATA, ":3: '9'");
  refuse(file_with(">a\nAC\0T\n", 8), FAVOR_EDATA, ":2: the byte 0x00");
  unlink(path);
}

/* A bgzip file that lost its end marker, or any number of its last bytes, is not taken for a shorter one. */
static void test_every_truncation(void **state) {
  (void)state;
  static char content[4096];
  FILE *file = fopen(data_path("plain.fa.bgz"), "rb");
  assert_non_null(file);
  size_t bytes = fread(content, 1, sizeof content, file);
  fclose(file);
  assert_in_range(bytes, 100, sizeof content - 1);
  for (size_t kept = 1; kept < bytes; kept++) {
    struct fasta fasta;
    struct status status = {0};
    fasta_read(file_with(content, kept), FASTA_DNA, &fasta, &status);
    if (status.code == FAVOR_OK) fail_msg("%zu of %zu bytes were taken for the whole", kept, bytes);
  }
  unlink(file_with("", 0));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_records_and_tokens),
      cmocka_unit_test(test_codes),
      cmocka_unit_test(test_protein_codes),
      cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_every_truncation),
  };
  return cmocka_run_group_tests_name("fasta", tests, NULL, NULL);
}

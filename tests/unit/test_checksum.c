/* Checksums by their definition: of blocks of tokens, of rows in the order of the file, in any pieces. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/checksum.h"

/* 65536 tokens, doubled until there are at most 4096 blocks. */
static void test_blocks(void **state) {
  (void)state;
  const struct {
    int64_t tokens, block_tokens, n_blocks;
  } cases[] = {
      {0, 65536, 1},
      {1, 65536, 1},
      {65536, 65536, 1},
      {65537, 65536, 2},
      {INT64_C(65536) * 4096, 65536, 4096},
      {INT64_C(65536) * 4096 + 1, 131072, 2049},
      {INT64_C(1) << 31, 524288, 4096},
      {INT64_MAX, INT64_C(1) << 51, 4096},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const int shift = checksum_block_shift(cases[i].tokens);
    assert_int_equal(INT64_C(1) << shift, cases[i].block_tokens);
    assert_int_equal(checksum_n_blocks(cases[i].tokens, shift), cases[i].n_blocks);
  }
}

/* Row (flat head, token) of a file of random rows. */
static const char *row_at(const struct favor_tensor_shape *s, const char *file, int64_t head, int64_t token,
                          uint64_t *number) {
  const int64_t b = head / s->heads, h = head % s->heads;
  *number = s->layout == FAVOR_TOKENS_FIRST ? (uint64_t)((b * s->tokens + token) * s->heads + h)
                                            : (uint64_t)(head * s->tokens + token);
  return file + *number * (uint64_t)slab_row_bytes(s);
}

/* Copies a piece out of the file as a walk lays it out, and adds its rows. */
static void add_slab(const struct favor_tensor_shape *s, const char *file, const struct slab *slab, int64_t group_heads,
                     int64_t buffer_bytes, int shift, uint64_t *sums) {
  const int64_t row_bytes = slab_row_bytes(s);
  char *buffer = calloc((size_t)buffer_bytes, 1);
  struct slab_walk walk = slab_walk_start(s, slab, group_heads, false, buffer_bytes);
  while (slab_walk_next(&walk)) {
    const struct slab_runs runs = slab_walk_runs(&walk);
    for (int64_t i = 0; i < runs.n_runs * runs.run_rows; i++) {
      const int64_t run = i / runs.run_rows, row = i % runs.run_rows;
      const char *from = file + (runs.file_row + run * runs.file_stride + row) * row_bytes;
      for (int64_t c = 0; c < row_bytes; c++) buffer[(run * runs.buffer_stride + row) * row_bytes + c] = from[c];
    }
    checksum_add(&walk, buffer, shift, sums);
  }
  free(buffer);
}

static void test_sums(void **state) {
  (void)state;
  const int shift = 5; /* blocks of 32 tokens */
  for (int layout = FAVOR_HEADS_FIRST; layout <= FAVOR_TOKENS_FIRST; layout++) {
    const struct favor_tensor_shape s = {4, 2, 3, 101, 130, FAVOR_FLOAT16, (enum favor_layout)layout, true};
    const int64_t bytes = 2 * 3 * 101 * slab_row_bytes(&s);
    uint64_t expected[6 * 4] = {0}, found[6 * 4] = {0}, number;
    char *file = malloc((size_t)bytes);
    for (int64_t i = 0; i < bytes; i++) file[i] = (char)(i * 2654435761u >> 11);
    for (int64_t head = 0; head < 6; head++) {
      for (int64_t token = 0; token < 101; token++) {
        const char *row = row_at(&s, file, head, token, &number);
        expected[head * 4 + token / 32] += XXH3_64bits_withSeed(row, 260, number);
      }
    }
    const struct slab slabs[] = {{2, 6, 40, 101}, {0, 2, 0, 101}, {2, 6, 0, 33}, {2, 6, 33, 40}, {1, 1, 0, 9}};
    for (size_t i = 0; i < sizeof slabs / sizeof *slabs; i++)
      add_slab(&s, file, &slabs[i], layout == FAVOR_TOKENS_FIRST ? 3 : 1, 260 * (i == 0 ? 7 : 1000), shift, found);
    assert_memory_equal(found, expected, sizeof found);
    free(file);
  }
}

static void test_names(void **state) {
  (void)state;
  char *name = checksum_name("estimates/oprf_a");
  assert_string_equal(name, "checksums/estimates/oprf_a");
  free(name);
  assert_string_equal(checksum_layout_name(FAVOR_TOKENS_FIRST), "tokens-first");
  assert_string_equal(checksum_layout_name(FAVOR_HEADS_FIRST), "heads-first");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks), cmocka_unit_test(test_sums),
                                     cmocka_unit_test(test_names)};
  return cmocka_run_group_tests_name("checksum", tests, NULL, NULL);
}

/* Checksums of datasets (doc/file-format.md).
 *
 * Each row of a tensor is hashed as it stands in the file, with its number in the order of the file as the seed: XXH3,
 * 64 bits. What is stored are sums of these hashes modulo 2^64, one a head and block of tokens. A sum depends neither
 * on who wrote which rows nor on the order or the pieces, so equal outputs have equal checksums; and a row in the place
 * of another changes it. */
#ifndef FAVOR_IO_CHECKSUM_H
#define FAVOR_IO_CHECKSUM_H

#include "io/slab.h"

/* Where they stand, under the names of the tensors, and their attributes. */
#define CHECKSUM_GROUP "checksums/"
#define CHECKSUM_ALGORITHM "XXH3_64bits_withSeed"
/* The attribute of a small dataset. */
#define CHECKSUM_ATTRIBUTE "checksum"

/* The path of a tensor's checksums, the caller's to free; NULL without memory. */
char *checksum_name(const char *tensor);
/* "heads-first", "tokens-first" */
const char *checksum_layout_name(enum favor_layout layout);

/* log2 of the tokens of a block: of 65536, or as many more as leave at most 4096 blocks a head. */
int checksum_block_shift(int64_t tokens);
/* At least 1. */
int64_t checksum_n_blocks(int64_t tokens, int block_shift);
/* Of all heads of all batches; sums [batch x heads][blocks]. */
int64_t checksum_n_sums(const struct favor_tensor_shape *shape);

/* Adds the rows of a piece to the sums of its tensor. `rows` has the pitch of the walk. */
void checksum_add(const struct slab_walk *walk, const void *rows, int block_shift, uint64_t *sums);

/* Of a small dataset. */
uint64_t checksum_of(const void *data, size_t bytes);

#endif

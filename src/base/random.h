/* Random numbers as functions of their indices: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011) from Random123. No state, so no dependence on ranks, threads or order. */
#ifndef FAVOR_BASE_RANDOM_H
#define FAVOR_BASE_RANDOM_H

#include <stdint.h>

/* What a stream is for; part of its key, so that no two uses share numbers. */
enum random_purpose {
  RANDOM_PROJECTION,
  RANDOM_ROW_NORM,
  RANDOM_MAKE,
  RANDOM_EMBEDDING,
  RANDOM_SAMPLE,
  RANDOM_SIGN,
  RANDOM_LENGTH_KEYS, /* signs of a projection of the length: of keys, of values */
  RANDOM_LENGTH_VALUES,
  RANDOM_HASH
};

struct random_stream {
  uint32_t key[2];
  uint32_t words[2]; /* the high half of the counter */
};

/* A stream of its own for each (seed, purpose, a, b). The seed and a are 64-bit, b below 2^24. */
struct random_stream random_stream(uint64_t seed, enum random_purpose purpose, uint64_t a, uint32_t b);

/* Standard normal deviates number 2 index and 2 index + 1 of the stream (Box and Muller, from 53-bit uniforms). */
void random_normal_pair(const struct random_stream *stream, uint64_t index, double pair[2]);

/* Fills x[n] with deviates number first, first + 1, ... */
void random_normal(const struct random_stream *stream, uint64_t first, int64_t n, double *x);

/* 64 random bits, number `index`. */
uint64_t random_bits(const struct random_stream *stream, uint64_t index);

#endif

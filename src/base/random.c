#include "base/random.h"

#include <Random123/philox.h>
#include <math.h>

struct random_stream random_stream(uint64_t seed, enum random_purpose purpose, uint64_t a, uint32_t b) {
  /* One Philox block turns the long name of the stream into its short key. */
  philox4x32_ctr_t name = {{(uint32_t)a, (uint32_t)(a >> 32), b, (uint32_t)purpose}};
  philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  philox4x32_ctr_t mixed = philox4x32(name, key);
  return (struct random_stream){.key = {mixed.v[0], mixed.v[1]}, .words = {mixed.v[2], mixed.v[3]}};
}

static philox4x32_ctr_t block(const struct random_stream *stream, uint64_t index) {
  philox4x32_ctr_t counter = {{(uint32_t)index, (uint32_t)(index >> 32), stream->words[0], stream->words[1]}};
  philox4x32_key_t key = {{stream->key[0], stream->key[1]}};
  return philox4x32(counter, key);
}

static uint64_t join(uint32_t low, uint32_t high) { return (uint64_t)high << 32 | low; }

void random_normal_pair(const struct random_stream *stream, uint64_t index, double pair[2]) {
  const double two_pi = 6.283185307179586477;
  philox4x32_ctr_t words = block(stream, index);
  double u = ((double)(join(words.v[0], words.v[1]) >> 11) + 0.5) * 0x1p-53; /* in (0, 1) */
  double angle = two_pi * ((double)(join(words.v[2], words.v[3]) >> 11) * 0x1p-53);
  double radius = sqrt(-2.0 * log(u));
  pair[0] = radius * cos(angle);
  pair[1] = radius * sin(angle);
}

void random_normal(const struct random_stream *stream, uint64_t first, int64_t n, double *x) {
  for (int64_t i = 0; i < n;) {
    uint64_t number = first + (uint64_t)i;
    double pair[2];
    random_normal_pair(stream, number / 2, pair);
    x[i++] = pair[number % 2];
    if (number % 2 == 0 && i < n) x[i++] = pair[1];
  }
}

uint64_t random_bits(const struct random_stream *stream, uint64_t index) {
  philox4x32_ctr_t words = block(stream, index);
  return join(words.v[0], words.v[1]);
}

/* Which tokens are sampled, and what they attend to. */
#include "base/random.h"
#include "core/check.h"

/* Where part i of n things in n_parts parts begins; the first n % n_parts parts have one more. */
static int64_t part_begin(int64_t n, int64_t n_parts, int64_t i) {
  const int64_t rest = n % n_parts;
  return n / n_parts * i + (i < rest ? i : rest);
}

void check_sample(int64_t n_tokens, int64_t n_rows, uint64_t seed, int64_t *tokens, double *weights) {
  const struct random_stream stream = random_stream(seed, RANDOM_SAMPLE, 0, 0);
  const int64_t n_ends = n_rows >= 3 ? 1 : 0; /* at each end, outside the parts */
  const int64_t n_parts = n_rows - 2 * n_ends, n_inner = n_tokens - 2 * n_ends;
  for (int64_t i = 0; i < n_parts; i++) {
    const int64_t begin = part_begin(n_inner, n_parts, i), end = part_begin(n_inner, n_parts, i + 1);
    const uint64_t bits = random_bits(&stream, (uint64_t)i);
    tokens[n_ends + i] = n_ends + begin + (int64_t)(bits % (uint64_t)(end - begin));
    if (weights) weights[n_ends + i] = (double)(end - begin);
  }
  if (n_ends == 0) return;
  tokens[0] = 0;
  tokens[n_rows - 1] = n_tokens - 1;
  if (weights) weights[0] = weights[n_rows - 1] = 1;
}

struct check_row check_row_of(int64_t token, int64_t n_tokens, const int64_t *segments, int64_t n_segments,
                              bool is_causal) {
  struct check_row row = {.token = token, .key_begin = 0, .key_end = n_tokens, .weight = 1};
  if (segments) {
    int64_t low = 0, high = n_segments; /* segments[low] <= token < segments[high] */
    while (high - low > 1) {
      int64_t middle = low + (high - low) / 2;
      if (segments[middle] <= token)
        low = middle;
      else
        high = middle;
    }
    row.key_begin = segments[low];
    row.key_end = segments[high];
  }
  if (is_causal) row.key_end = token + 1;
  return row;
}

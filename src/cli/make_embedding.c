/* Tokens to vectors: a Gaussian table for each tensor and head; rotary positions on q and k (Su et al., "RoFormer",
 * 2021: columns 2 i and 2 i + 1 turn by position 10000^(-2 i / D)). All is a function of seed, tensor, head and token.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "cli/make.h"
#include "dist/comm.h"
#include "io/fasta.h"

/* A tensor's tables above this are not kept: their rows are drawn whenever they are needed. */
static const double MAX_TABLE_BYTES = 256.0 * 1024 * 1024;
static const double ROTARY_BASE = 10000;

static struct random_stream stream_of(const struct make *make, enum make_tensor tensor, int64_t head) {
  return random_stream(make->seed, RANDOM_EMBEDDING, (uint64_t)tensor, (uint32_t)head);
}

static bool make_table(struct make *make, enum make_tensor tensor) {
  int64_t heads = make_heads(make, tensor), size = make->sequences->vocabulary * make_width(make, tensor);
  if ((double)heads * (double)size * sizeof(double) > MAX_TABLE_BYTES) return true;
  make->tables[tensor] = malloc((size_t)(heads * size) * sizeof(double));
  if (!make->tables[tensor]) return false;
  for (int64_t head = 0; head < heads; head++) {
    struct random_stream stream = stream_of(make, tensor, head);
    random_normal(&stream, 0, size, make->tables[tensor] + head * size);
  }
  return true;
}

enum favor_status embedding_create(struct make *make, int64_t max_tokens) {
  int64_t width = make->key_width > make->value_width ? make->key_width : make->value_width;
  make->row = malloc((size_t)width * sizeof(double));
  make->block.tokens = malloc(((size_t)max_tokens + 1) * sizeof(int32_t));
  make->block.rotations = malloc(((size_t)max_tokens + 1) * (size_t)make->key_width * sizeof(double));
  bool has_memory = make->row && make->block.tokens && make->block.rotations;
  for (int tensor = 0; has_memory && tensor < MAKE_N_TENSORS; tensor++) {
    has_memory = make_table(make, (enum make_tensor)tensor);
  }
  if (has_memory) return FAVOR_OK;
  return dist_fail(make->context, FAVOR_ENOMEM, "no memory for embedding tables of %lld tokens",
                   (long long)make->sequences->vocabulary);
}

void embedding_free(struct make *make) {
  for (int tensor = 0; tensor < MAKE_N_TENSORS; tensor++) free(make->tables[tensor]);
  free(make->row);
  free(make->block.tokens);
  free(make->block.rotations);
}

/* The record that holds a token: the last one that begins at or before it. */
static int64_t record_of(const struct sequences *sequences, int64_t token) {
  int64_t low = 0, high = sequences->n_records;
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    if (sequences->segments[middle] <= token)
      low = middle;
    else
      high = middle;
  }
  return low;
}

static void rotate_by(int64_t position, int64_t width, const double *frequencies, double *rotation) {
  for (int64_t i = 0; i < width / 2; i++) {
    double angle = (double)position * frequencies[i];
    rotation[2 * i] = cos(angle);
    rotation[2 * i + 1] = sin(angle);
  }
}

void embedding_start_block(struct make *make, int64_t begin, int64_t end) {
  const struct sequences *sequences = make->sequences;
  int64_t width = make->key_width, record = record_of(sequences, begin);
  double *frequencies = make->row; /* free until the block is filled */
  for (int64_t i = 0; i < width / 2; i++) frequencies[i] = pow(ROTARY_BASE, -2.0 * (double)i / (double)width);
  make->block.begin = begin;
  make->block.end = end;
  for (int64_t token = begin; token < end; token++) {
    while (token >= sequences->segments[record + 1]) record++;
    int64_t position = token - sequences->segments[record];
    const uint8_t *codes = sequences->codes + sequences->letter_offsets[record] + position;
    make->block.tokens[token - begin] = fasta_token(codes, sequences->letters, sequences->k);
    rotate_by(position, width, frequencies, make->block.rotations + (token - begin) * width);
  }
}

/* The table's row of a token. */
static const double *row_of(struct make *make, enum make_tensor tensor, int64_t head,
                            const struct random_stream *stream, int64_t token) {
  int64_t width = make_width(make, tensor);
  if (make->tables[tensor]) return make->tables[tensor] + (head * make->sequences->vocabulary + token) * width;
  random_normal(stream, (uint64_t)(token * width), width, make->row);
  return make->row;
}

static void rotate(const double *row, const double *rotation, int64_t width, double spread, double *restrict x) {
  for (int64_t i = 0; i + 1 < width; i += 2) {
    double cosine = rotation[i], sine = rotation[i + 1];
    x[i] = spread * (row[i] * cosine - row[i + 1] * sine);
    x[i + 1] = spread * (row[i] * sine + row[i + 1] * cosine);
  }
  if (width % 2) x[width - 1] = spread * row[width - 1];
}

void embedding_fill(struct make *make, enum make_tensor tensor, int64_t head, double *x) {
  struct random_stream stream = stream_of(make, tensor, head);
  int64_t width = make_width(make, tensor), n = make->block.end - make->block.begin;
  for (int64_t i = 0; i < n; i++) {
    const double *row = row_of(make, tensor, head, &stream, make->block.tokens[i]);
    if (tensor == MAKE_V) {
      memcpy(x + i * width, row, (size_t)width * sizeof *x);
    } else {
      rotate(row, make->block.rotations + i * width, width, make->spread, x + i * width);
    }
  }
}

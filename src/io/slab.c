#include "io/slab.h"

#include "base/status.h"
#include "io/type.h"

/* Reading through a gap costs its bytes, leaving it out a system call and a broken read-ahead: about as much as this.
 */
enum { SIEVE_BYTES = 16 * 1024 };

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static bool is_tokens_first(const struct favor_tensor_shape *shape) {
  return shape->layout == FAVOR_TOKENS_FIRST && shape->n_dims > 2; /* both layouts are the same without heads */
}

bool slab_is_inside(const struct slab *slab, const struct favor_tensor_shape *shape) {
  return 0 <= slab->head_begin && slab->head_begin <= slab->head_end && slab->head_end <= shape->batch * shape->heads &&
         0 <= slab->token_begin && slab->token_begin <= slab->token_end && slab->token_end <= shape->tokens;
}

/* Values for batch, heads, tokens and columns in the order of the dataset's dimensions. */
static void order_dims(const struct favor_tensor_shape *shape, int64_t batch, int64_t heads, int64_t tokens,
                       int64_t columns, int64_t *dims) {
  int i = 0;
  if (shape->n_dims == 4) dims[i++] = batch;
  if (is_tokens_first(shape)) {
    dims[i++] = tokens;
    dims[i++] = heads;
  } else {
    if (shape->n_dims >= 3) dims[i++] = heads;
    dims[i++] = tokens;
  }
  dims[i] = columns;
}

void slab_dims(const struct favor_tensor_shape *shape, int64_t *dims) {
  order_dims(shape, shape->batch, shape->heads, shape->tokens, shape->width, dims);
}

void slab_hyperslab(const struct favor_tensor_shape *shape, const struct slab *slab, int64_t *start, int64_t *count) {
  order_dims(shape, slab->head_begin / shape->heads, slab->head_begin % shape->heads, slab->token_begin, 0, start);
  order_dims(shape, 1, slab_heads(slab), slab_tokens(slab), shape->width, count);
}

int64_t slab_row_bytes(const struct favor_tensor_shape *shape) {
  return shape->width * (int64_t)favor_type_bytes(shape->type);
}

int64_t slab_dataset_bytes(const struct favor_tensor_shape *shape) {
  int64_t bytes = (int64_t)favor_type_bytes(shape->type);
  bool is_too_large = __builtin_mul_overflow(bytes, shape->width, &bytes);
  is_too_large |= __builtin_mul_overflow(bytes, shape->heads, &bytes);
  is_too_large |= __builtin_mul_overflow(bytes, shape->batch, &bytes);
  is_too_large |= __builtin_mul_overflow(bytes, shape->tokens, &bytes);
  return is_too_large ? -1 : bytes;
}

int64_t slab_file_row(const struct favor_tensor_shape *shape, int64_t head, int64_t token) {
  if (!is_tokens_first(shape)) return head * shape->tokens + token;
  return (head / shape->heads * shape->tokens + token) * shape->heads + head % shape->heads;
}

struct slab_pitch slab_file_pitch(const struct favor_tensor_shape *shape) {
  if (is_tokens_first(shape)) return (struct slab_pitch){.head = 1, .token = shape->heads};
  return (struct slab_pitch){.head = shape->tokens, .token = 1};
}

struct slab_walk slab_walk_start(const struct favor_tensor_shape *shape, const struct slab *whole, int64_t group_heads,
                                 bool may_sieve, int64_t buffer_bytes) {
  struct slab_walk walk = {.shape = shape, .whole = *whole, .may_sieve = may_sieve};
  walk.buffer_rows = larger(1, buffer_bytes / slab_row_bytes(shape));
  walk.group_heads = larger(1, smaller(group_heads, walk.buffer_rows));
  int64_t head = slab_is_empty(whole) ? whole->head_end : whole->head_begin;
  walk.piece = (struct slab){head, head, whole->token_end, whole->token_end};
  return walk;
}

/* The next group of heads of one batch, cut at multiples of group_heads. */
static void next_group(struct slab_walk *walk) {
  const struct favor_tensor_shape *shape = walk->shape;
  int64_t begin = walk->piece.head_end, in_batch = begin % shape->heads, batch = begin - in_batch;
  int64_t end = smaller(shape->heads, (in_batch / walk->group_heads + 1) * walk->group_heads);
  walk->piece.head_begin = begin;
  walk->piece.head_end = smaller(batch + end, walk->whole.head_end);
  walk->piece.token_end = walk->whole.token_begin;
}

static int64_t token_pitch(const struct slab_walk *walk) {
  const struct favor_tensor_shape *shape = walk->shape;
  if (!is_tokens_first(shape)) return 1;
  int64_t heads = slab_heads(&walk->piece), row_bytes = slab_row_bytes(shape);
  int64_t gap_bytes = (shape->heads - heads) * row_bytes;
  bool has_small_gap = gap_bytes <= larger(heads * row_bytes, SIEVE_BYTES);
  return walk->may_sieve && has_small_gap && shape->heads <= walk->buffer_rows ? shape->heads : heads;
}

bool slab_walk_next(struct slab_walk *walk) {
  struct slab *piece = &walk->piece;
  if (piece->token_end == walk->whole.token_end) {
    if (piece->head_end == walk->whole.head_end) return false;
    next_group(walk);
  }
  walk->pitch.token = token_pitch(walk);
  int64_t rows_per_token = larger(walk->pitch.token, slab_heads(piece));
  piece->token_begin = piece->token_end;
  piece->token_end = smaller(piece->token_begin + larger(1, walk->buffer_rows / rows_per_token), walk->whole.token_end);
  walk->pitch.head = is_tokens_first(walk->shape) ? 1 : slab_tokens(piece);
  return true;
}

struct slab_runs slab_walk_runs(const struct slab_walk *walk) {
  const struct favor_tensor_shape *shape = walk->shape;
  int64_t heads = slab_heads(&walk->piece), tokens = slab_tokens(&walk->piece);
  struct slab_runs runs = {.file_row = slab_file_row(shape, walk->piece.head_begin, walk->piece.token_begin)};
  if (!is_tokens_first(shape)) {
    runs.n_runs = heads;
    runs.run_rows = tokens;
    runs.file_stride = shape->tokens;
    runs.buffer_stride = tokens;
  } else if (walk->pitch.token == shape->heads) {
    runs.n_runs = 1;
    runs.run_rows = (tokens - 1) * shape->heads + heads;
  } else {
    runs.n_runs = tokens;
    runs.run_rows = heads;
    runs.file_stride = shape->heads;
    runs.buffer_stride = walk->pitch.token;
  }
  return runs;
}

/* A stretch of a head's tokens that is contiguous in the buffer as it is in the array. */
struct stretch {
  int64_t rows, in_buffer, in_array; /* in rows of width elements */
};

static struct stretch stretch_at(const struct slab_walk *walk, int64_t head, int64_t token) {
  const struct slab *piece = &walk->piece, *whole = &walk->whole;
  int64_t first_head = piece->head_begin - whole->head_begin, first_token = piece->token_begin - whole->token_begin;
  return (struct stretch){
      .rows = walk->pitch.token == 1 ? slab_tokens(piece) : 1,
      .in_buffer = head * walk->pitch.head + token * walk->pitch.token,
      .in_array = (first_head + head) * slab_tokens(whole) + first_token + token,
  };
}

int64_t slab_walk_array_row(const struct slab_walk *walk) {
  bool is_one_head = slab_heads(&walk->piece) == 1 && walk->pitch.token == 1;
  return is_one_head ? stretch_at(walk, 0, 0).in_array : -1;
}

void slab_decode(const struct slab_walk *walk, const void *buffer, enum favor_precision precision, void *data) {
  const struct favor_tensor_shape *shape = walk->shape;
  int64_t row_bytes = slab_row_bytes(shape), array_bytes = shape->width * (int64_t)type_precision_bytes(precision);
  struct stretch stretch;
  for (int64_t head = 0; head < slab_heads(&walk->piece); head++) {
    for (int64_t token = 0; token < slab_tokens(&walk->piece); token += stretch.rows) {
      stretch = stretch_at(walk, head, token);
      type_decode(shape->type, precision, stretch.rows * shape->width,
                  (const char *)buffer + stretch.in_buffer * row_bytes, (char *)data + stretch.in_array * array_bytes);
    }
  }
}

/* The first row that does not survive being narrowed. */
static int64_t overflowing_row(const struct favor_tensor_shape *shape, enum favor_precision precision, const char *rows,
                               int64_t array_bytes, char *scratch) {
  int64_t row = 0;
  while (type_encode(shape->type, precision, shape->width, rows + row * array_bytes, scratch)) row++;
  return row;
}

bool slab_encode(const struct slab_walk *walk, const void *data, enum favor_precision precision, void *buffer,
                 int64_t *head, int64_t *token) {
  const struct favor_tensor_shape *shape = walk->shape;
  int64_t row_bytes = slab_row_bytes(shape), array_bytes = shape->width * (int64_t)type_precision_bytes(precision);
  struct stretch stretch;
  for (int64_t h = 0; h < slab_heads(&walk->piece); h++) {
    for (int64_t t = 0; t < slab_tokens(&walk->piece); t += stretch.rows) {
      stretch = stretch_at(walk, h, t);
      const char *from = (const char *)data + stretch.in_array * array_bytes;
      char *to = (char *)buffer + stretch.in_buffer * row_bytes;
      if (!type_encode(shape->type, precision, stretch.rows * shape->width, from, to)) {
        *head = walk->piece.head_begin + h;
        *token = walk->piece.token_begin + t + overflowing_row(shape, precision, from, array_bytes, to);
        return false;
      }
    }
  }
  return true;
}

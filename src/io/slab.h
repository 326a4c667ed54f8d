/* Slabs: flat heads x tokens of a tensor, in memory [heads][tokens][width], in a file by rows of `width` elements in
 * the order of the layout. Large slabs pass through a bounded buffer in pieces. */
#ifndef FAVOR_IO_SLAB_H
#define FAVOR_IO_SLAB_H

#include <favor/favor_io.h>

struct slab {
  int64_t head_begin, head_end, token_begin, token_end;
};

static inline int64_t slab_heads(const struct slab *slab) { return slab->head_end - slab->head_begin; }
static inline int64_t slab_tokens(const struct slab *slab) { return slab->token_end - slab->token_begin; }
static inline bool slab_is_empty(const struct slab *slab) { return slab_heads(slab) == 0 || slab_tokens(slab) == 0; }

/* Is it a range of the tensor's heads and tokens, possibly empty? */
bool slab_is_inside(const struct slab *slab, const struct favor_tensor_shape *shape);

/* The dimensions of the dataset, outermost first; dims [4] gets shape->n_dims entries. */
void slab_dims(const struct favor_tensor_shape *shape, int64_t *dims);

/* The corner and the extent of a slab in the dataset, as slab_dims. The slab lies in one batch. */
void slab_hyperslab(const struct favor_tensor_shape *shape, const struct slab *slab, int64_t *start, int64_t *count);

/* Bytes of a row; bytes of the whole dataset, -1 where an int64_t cannot count them. */
int64_t slab_row_bytes(const struct favor_tensor_shape *shape);
int64_t slab_dataset_bytes(const struct favor_tensor_shape *shape);

/* How a piece lies in a buffer, in rows. */
struct slab_pitch {
  int64_t head, token; /* from one head, or one token, to the next */
};

/* The number of the row (flat head, token) in the order of the file. */
int64_t slab_file_row(const struct favor_tensor_shape *shape, int64_t head, int64_t token);
/* The same pitch in the file, between heads of one batch. */
struct slab_pitch slab_file_pitch(const struct favor_tensor_shape *shape);

/* A walk over a slab: pieces of some heads of one batch and as many tokens as the buffer holds (at least one row). */
struct slab_walk {
  const struct favor_tensor_shape *shape;
  struct slab whole, piece;
  struct slab_pitch pitch;
  int64_t group_heads;
  int64_t buffer_rows;
  bool may_sieve;
};

/* Starts before the first piece. Pieces have at most group_heads heads (as many as the buffer holds), cut at multiples
 * of that number in each batch. may_sieve: where the wanted heads of tokens-first rows are adjacent but for small gaps,
 * pieces have the pitch of the file, so that one read fetches them with the gaps. */
struct slab_walk slab_walk_start(const struct favor_tensor_shape *shape, const struct slab *whole, int64_t group_heads,
                                 bool may_sieve, int64_t buffer_bytes);
/* Goes to the next piece; false past the last. */
bool slab_walk_next(struct slab_walk *walk);

/* The rows of a piece in the file and in the buffer as n_runs runs of run_rows adjacent rows each. */
struct slab_runs {
  int64_t n_runs, run_rows;
  int64_t file_row, file_stride, buffer_stride; /* rows */
};
struct slab_runs slab_walk_runs(const struct slab_walk *walk);

/* Where the piece's rows lie in the array as they do in its buffer: the row of the array that its first row is. Else
 * -1. */
int64_t slab_walk_array_row(const struct slab_walk *walk);

/* From the buffer into the array of the whole slab, and back. Encoding returns false at the first finite number that
 * became infinite, and says where: flat head and token. */
void slab_decode(const struct slab_walk *walk, const void *buffer, enum favor_precision precision, void *data);
bool slab_encode(const struct slab_walk *walk, const void *data, enum favor_precision precision, void *buffer,
                 int64_t *head, int64_t *token);

#endif

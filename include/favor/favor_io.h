/* favor_io: tensors from and to HDF5 files, shared by all ranks of a context.
 *
 * Reading makes no MPI call: each rank opens the file with the serial driver; only where it is asked for do ranks read
 * together, through MPI-IO. Writing goes through a temporary file that rank 0 lays out, every rank fills with checked
 * positioned writes, and rank 0 renames (doc/file-format.md).
 * Errors are as in favor.h: local functions leave theirs with the context, collective ones agree.
 */
#ifndef FAVOR_FAVOR_IO_H
#define FAVOR_FAVOR_IO_H

#include <favor/favor.h>

#ifdef __cplusplus
extern "C" {
#endif

enum favor_layout {
  FAVOR_HEADS_FIRST = 0, /* [N][W], [H][N][W], [B][H][N][W] */
  FAVOR_TOKENS_FIRST     /* [N][W], [N][H][W], [B][N][H][W] */
};
enum favor_type { FAVOR_FLOAT16 = 0, FAVOR_BFLOAT16, FAVOR_FLOAT32, FAVOR_FLOAT64 };

/* "float16", "bfloat16", "float32", "float64". Local; static. */
FAVOR_API const char *favor_type_name(enum favor_type type);
FAVOR_API size_t favor_type_bytes(enum favor_type type);

/* The shape of a tensor dataset. n_dims is 2, 3 or 4; heads (batch) is 1 where the dataset has no such dimension. */
struct favor_tensor_shape {
  int n_dims;
  int64_t batch, heads, tokens, width;
  enum favor_type type;
  enum favor_layout layout;
  bool is_contiguous; /* read with pread at the dataset's offset */
};

struct favor_tensor;

/* Collective. Opens dataset `name` (a path inside the file) of the HDF5 file `path` for reading.
 * Errors: FAVOR_EIO (cannot open), FAVOR_EDATA (not HDF5, truncated, no such dataset, not 2 to 4 dimensions, type is
 * not one of enum favor_type, ranks see different shapes), FAVOR_EUSAGE (ranks name different tensors), FAVOR_ENOMEM.
 * On failure *tensor is NULL. An open tensor holds a buffer of 4 MiB (or one row), one of a chunked dataset a cache of
 * up to 64 MiB (or one chunk). */
FAVOR_API enum favor_status favor_tensor_open(struct favor_context *context, const char *path, const char *name,
                                              enum favor_layout layout, struct favor_tensor **tensor);

/* How favor_tensor_read_all reads. */
enum favor_io_mode {
  FAVOR_IO_DIRECT = 0, /* each rank by itself, without MPI */
  FAVOR_IO_MPIO        /* the ranks together, by collective reads of parallel HDF5 through MPI-IO */
};

/* Collective. As favor_tensor_open, for FAVOR_IO_DIRECT the same. With FAVOR_IO_MPIO each rank opens the file twice, as
 * above and then together with the others, and MPI-IO takes memory of its own. Besides, all ranks give the same mode
 * (FAVOR_EUSAGE), and a dataset must not be virtual (FAVOR_EDATA). Of Open MPI's implementations of MPI-IO use ROMIO
 * (OMPI_MCA_io=^ompio): OMPIO may call a read that failed a success.
 *
 * Where a rank fails in a collective read, others may never return from it. That rank waits for them for some seconds;
 * then it returns FAVOR_EMPI, with the error in favor_context_message, and its context communicates no more. */
FAVOR_API enum favor_status favor_tensor_open_mode(struct favor_context *context, const char *path, const char *name,
                                                   enum favor_layout layout, enum favor_io_mode mode,
                                                   struct favor_tensor **tensor);
/* Local; of a tensor with FAVOR_IO_MPIO collective, unless the context is dead. Accepts NULL, sets it to NULL. */
FAVOR_API void favor_tensor_close(struct favor_tensor **tensor);
/* Local. Bytes of memory that an open tensor takes: its buffer, and what HDF5's cache of chunks may grow to. */
FAVOR_API int64_t favor_tensor_memory_bytes(const struct favor_tensor *tensor);
/* Local. */
FAVOR_API void favor_tensor_shape(const struct favor_tensor *tensor, struct favor_tensor_shape *shape);

/* Local. Reads flat heads [head_begin, head_end) (b H + h) of tokens [token_begin, token_end) into data
 * [heads][tokens][width], float or double by precision (rounded to nearest where the file's type is wider; a value
 * that does not fit into float becomes Inf and is refused later by name). Ranges may be empty. Uses a bounded buffer.
 * Errors: FAVOR_EIO, FAVOR_EDATA (file shorter than it says), FAVOR_EUSAGE (a range outside the tensor). */
FAVOR_API enum favor_status favor_tensor_read(struct favor_tensor *tensor, int64_t head_begin, int64_t head_end,
                                              int64_t token_begin, int64_t token_end, enum favor_precision precision,
                                              void *data);

/* Collective. As favor_tensor_read, and that it went well on all ranks; data are the same bits in either mode. Each
 * rank gives its own ranges, of different sizes or empty. With FAVOR_IO_MPIO the ranks read together and call MPI, so
 * that only a thread that may do so can ask for it; they make the same number of collective calls, and one that has an
 * error pending ends it for all. favor_tensor_read and lanes read such a tensor too, each rank by itself. Errors: as
 * favor_tensor_read, and FAVOR_EMPI. */
FAVOR_API enum favor_status favor_tensor_read_all(struct favor_tensor *tensor, int64_t head_begin, int64_t head_end,
                                                  int64_t token_begin, int64_t token_end,
                                                  enum favor_precision precision, void *data);

/* Collective. Reads the 1-D int64 dataset `name` on rank 0 and broadcasts it. Absent and !is_required: *n_values = 0
 * and *values = NULL, FAVOR_OK. The caller frees *values with free(). Errors: FAVOR_EIO, FAVOR_EDATA, FAVOR_ENOMEM. */
FAVOR_API enum favor_status favor_int64_read(struct favor_context *context, const char *path, const char *name,
                                             bool is_required, int64_t *n_values, int64_t **values);

/* Collective. Reads a whole floating-point dataset of 1 to 4 dimensions on rank 0, as double, and broadcasts shape and
 * values. dims [4] gets n_dims entries. The caller frees *values with free(). Errors as favor_int64_read. */
FAVOR_API enum favor_status favor_double_read(struct favor_context *context, const char *path, const char *name,
                                              int *n_dims, int64_t *dims, double **values);

/* An attribute on the root group; `kind` says which member holds it. Longer text is cut. */
enum favor_attribute_kind { FAVOR_ATTRIBUTE_TEXT, FAVOR_ATTRIBUTE_INTEGER, FAVOR_ATTRIBUTE_NUMBER };
struct favor_attribute {
  char name[64];
  enum favor_attribute_kind kind;
  char text[1024];
  int64_t integer;
  double number;
};

/* Collective. Reads all such attributes of the root group on rank 0 and broadcasts them, in order of name. The caller
 * frees *attributes with free(). Errors: FAVOR_EIO, FAVOR_EDATA, FAVOR_ENOMEM. */
FAVOR_API enum favor_status favor_attributes_read(struct favor_context *context, const char *path, int *n_attributes,
                                                  struct favor_attribute **attributes);

struct favor_output_file;

/* A tensor that all ranks write. */
struct favor_output_tensor {
  const char *name; /* may be a path; groups are made */
  struct favor_tensor_shape shape;
};
/* A small dataset that rank 0 writes at creation, from data that only rank 0 needs to give. */
enum favor_element { FAVOR_ELEMENT_INT64, FAVOR_ELEMENT_FLOAT, FAVOR_ELEMENT_DOUBLE };
struct favor_output_small {
  const char *name;
  enum favor_element element;
  int n_dims;
  int64_t dims[4];
  const void *data;
};

struct favor_output_spec {
  const char *path;
  bool is_overwrite; /* replace an existing file; otherwise it is an error */
  const struct favor_output_tensor *tensors;
  int n_tensors;
  const struct favor_output_small *small;
  int n_small;
  const struct favor_attribute *attributes; /* NaN where favor_output_set_attributes will give the number */
  int n_attributes;
  const char *companion; /* a file that is nothing without the temporary that this one replaces, such as its checkpoint:
                            it is removed once that is this run's to replace; may be NULL */
};

/* Collective. Rank 0 lays out PATH.favor-part (contiguous datasets, space reserved), every rank opens it. Rank 0 holds
 * a lock on it as long as the file is open; what a killed run left under that name is replaced. Every dataset has
 * checksums (doc/file-format.md); they add up as rows are written, so every row of a tensor is to be written once.
 * Errors: FAVOR_ECREATE (exists, no directory, no permission, no space, another run is writing it), FAVOR_EUSAGE (no
 * shape of a tensor, or ranks ask for different files), FAVOR_ENOMEM. On failure *file is NULL and no temporary file is
 * left. */
FAVOR_API enum favor_status favor_output_create(struct favor_context *context, const struct favor_output_spec *spec,
                                                struct favor_output_file **file);

/* Local. Writes flat heads x tokens of tensor `index` from data [heads][tokens][width], float or double by precision,
 * converted to the dataset's type by rounding to nearest. A row is to be written once, by one rank: a second time it
 * would count twice in its checksum. Errors: FAVOR_EIO, FAVOR_EDATA (a value does not fit into the
 * type), FAVOR_EUSAGE (no such tensor, a range outside it). */
FAVOR_API enum favor_status favor_output_write(struct favor_output_file *file, int index, int64_t head_begin,
                                               int64_t head_end, int64_t token_begin, int64_t token_end,
                                               enum favor_precision precision, const void *data);

/* Local. Bytes of memory that an output takes while it is open, at most, beside its checksums and names. */
FAVOR_API int64_t favor_output_memory_bytes(void);

/* What is added to the path of an output until it is finished: a name that nobody else gives a file, as what stands
 * under it is replaced. */
#define FAVOR_OUTPUT_PART_SUFFIX ".favor-part"

/* Local. The temporary: a whole HDF5 file from the start, in which every rank can read what it wrote itself; those on
 * other machines may not see it before the end. Valid as long as the file. */
FAVOR_API const char *favor_output_part(const struct favor_output_file *file);

/* Local; on ranks other than 0 it does nothing. Gives integers and numbers that the file was created with other values,
 * for what is known only at the end. Errors: FAVOR_EUSAGE (no such attribute, or text), FAVOR_EIO, FAVOR_ENOMEM. */
FAVOR_API enum favor_status favor_output_set_attributes(struct favor_output_file *file,
                                                        const struct favor_attribute *attributes, int n_attributes);

/* Collective. fsync, agree, checksums, rename; on any error of any rank the temporary is removed, or kept after
 * favor_output_set_resumable. Sets *file to NULL always. Errors: FAVOR_EIO, FAVOR_ECREATE (rename refused). */
FAVOR_API enum favor_status favor_output_finish(struct favor_output_file **file);

/* Collective, without communication: rank 0 removes the temporary. Accepts NULL, sets it to NULL. */
FAVOR_API void favor_output_abandon(struct favor_output_file **file);

/* ---- outputs that outlive a run ----------------------------------------------------------------------------------
 *
 * A checkpoint of a run that writes an output holds the output's id and sums, taken when favor_output_sync had
 * succeeded on all ranks; another run, of any number of ranks, goes on with its temporary from there. It writes again
 * every row that was not counted in these sums, and no other. */

/* Local. Names this temporary among all that ever had its path; it survives the process, and is gone from the finished
 * file. The same on all ranks. */
FAVOR_API uint64_t favor_output_id(const struct favor_output_file *file);

/* Local. The size of the file when it is complete; until then it is larger. */
FAVOR_API int64_t favor_output_bytes(const struct favor_output_file *file);

/* Local. How many checksums a file has, open or yet to be. */
FAVOR_API int64_t favor_output_n_sums(const struct favor_output_file *file);
FAVOR_API int64_t favor_output_spec_n_sums(const struct favor_output_spec *spec);

/* Collective, without agreement. On every rank, sums [favor_output_n_sums] of all rows that any rank has written so
 * far. Errors: FAVOR_EMPI. */
FAVOR_API enum favor_status favor_output_sums(const struct favor_output_file *file, uint64_t *sums);

/* Local. What this rank wrote is on the disk. Errors: FAVOR_EIO. */
FAVOR_API enum favor_status favor_output_sync(struct favor_output_file *file);

/* Local, on every rank: there is a checkpoint of it now, so from here on a failure to finish leaves the temporary. So
 * it is from the start after favor_output_resume. */
FAVOR_API void favor_output_set_resumable(struct favor_output_file *file);

/* Collective, without communication: closes the file, and the temporary stays, locked no more. Accepts NULL, sets it to
 * NULL. */
FAVOR_API void favor_output_keep(struct favor_output_file **file);

/* Collective. As favor_output_create, but goes on with the temporary of this id, which was made from the same
 * specification; attributes that were set are as laid out again. id and sums (favor_output_spec_n_sums numbers) are
 * rank 0's. Errors: as favor_output_create, and FAVOR_EDATA (the temporary is missing, or not that one). On failure
 * *file is NULL, and what has the temporary's name stays. */
FAVOR_API enum favor_status favor_output_resume(struct favor_context *context, const struct favor_output_spec *spec,
                                                uint64_t id, const uint64_t *sums, struct favor_output_file **file);

/* ---- beside the arithmetic ---------------------------------------------------------------------------------------
 *
 * A lane is a thread of the rank that reads tensors and writes outputs in the order in which it is asked to, while the
 * caller computes. It makes no MPI call and blocks all signals. Create it while the calling thread may run on all cores
 * of the rank: it inherits them. One thread uses a lane.
 *
 * HDF5 is not thread-safe. Contiguous tensors and all writes go without it; but from the moment that a chunked tensor
 * is to be read until the wait for that read, the caller makes no call that enters HDF5: of this header all that open,
 * close, create or finish files, read chunked tensors or small data, read through MPI-IO, or set attributes. And a
 * tensor or an output that the lane has jobs for is used through the lane only, until the wait for the last of them. */
struct favor_lane;

/* What a lane did, from its creation on. */
struct favor_lane_times {
  double read_s, write_s;            /* it was busy with that */
  double cpu_s;                      /* its thread was on a core */
  double wait_s;                     /* the caller was blocked: in waits, or for room in the queue */
  int64_t bytes_read, bytes_written; /* as in the files */
};

/* Local. Errors: FAVOR_ENOMEM (no memory, or no thread). On failure *lane is NULL. */
FAVOR_API enum favor_status favor_lane_create(struct favor_context *context, struct favor_lane **lane);

/* Local, asynchronous: as favor_tensor_read and favor_output_write. They return the job's ticket, 0, 1, 2, ... in the
 * order of calls; its error comes with a wait. The array is the lane's until then. The queue takes 64 jobs; these
 * functions block while it is full. */
FAVOR_API int64_t favor_lane_read(struct favor_lane *lane, struct favor_tensor *tensor, int64_t head_begin,
                                  int64_t head_end, int64_t token_begin, int64_t token_end,
                                  enum favor_precision precision, void *data);
FAVOR_API int64_t favor_lane_write(struct favor_lane *lane, struct favor_output_file *file, int index,
                                   int64_t head_begin, int64_t head_end, int64_t token_begin, int64_t token_end,
                                   enum favor_precision precision, const void *data);

/* Local. Waits until the job of this ticket and all before it are done; ticket -1: all jobs. Returns the first error of
 * any job so far, also one after this ticket, and leaves it with the context the first time; after an error the jobs
 * that follow are passed over. */
FAVOR_API enum favor_status favor_lane_wait(struct favor_lane *lane, int64_t ticket);

/* Local. */
FAVOR_API void favor_lane_times(const struct favor_lane *lane, struct favor_lane_times *times);

/* Local. Waits for all jobs; an error that no wait has fetched is lost. Accepts NULL, sets it to NULL. */
FAVOR_API void favor_lane_destroy(struct favor_lane **lane);

/* The HDF5 version that runs, e.g. "1.10.8". Local. The string is static. */
FAVOR_API const char *favor_hdf5_version(void);

#ifdef __cplusplus
}
#endif

#endif

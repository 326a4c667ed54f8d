#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "cli/make.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "dist/agree.h"

/* A rank's memory for one tensor's block. */
enum { BLOCK_BYTES = 8 << 20 };

static const char *const tensor_names[MAKE_N_TENSORS] = {"q", "k", "v"};

/* Local, the same on every rank: the shape, from the options and the sequences. */
static void decide_shape(struct make *make) {
  const struct options *options = make->command->options;
  const int64_t *shape = options->values[OPTION_SHAPE].integers;
  int64_t kv_heads = options_integer(options, OPTION_KV_HEADS), width = options_integer(options, OPTION_VALUE_WIDTH);
  const struct sequences *sequences = make->sequences;
  make->batch = sequences ? 1 : shape[0];
  make->heads = sequences ? options_integer(options, OPTION_HEADS) : shape[1];
  make->tokens = sequences ? sequences->segments[sequences->n_records] : shape[2];
  make->key_width = sequences ? options_integer(options, OPTION_DIM) : shape[3];
  make->kv_heads = kv_heads ? kv_heads : make->heads;
  make->value_width = width ? width : make->key_width;
  make->spread = options_number(options, OPTION_SPREAD);
  if (make->spread == 0) make->spread = sequences ? 0.5 : 1;
  make->seed = (uint64_t)options_integer(options, OPTION_SEED);
  int64_t elements;
  if (make->heads % make->kv_heads != 0) {
    dist_fail(make->context, FAVOR_EUSAGE, "--kv-heads %lld does not divide the %lld query heads",
              (long long)make->kv_heads, (long long)make->heads);
  } else if (__builtin_mul_overflow(make->batch, make->heads, &elements) ||
             __builtin_mul_overflow(elements, make->key_width + make->value_width, &elements) || elements > INT32_MAX ||
             __builtin_mul_overflow(elements, make->tokens * 8, &elements)) {
    dist_fail(make->context, FAVOR_EUSAGE, "--shape: tensors of this size cannot be made; give less");
  }
}

/* The options as attributes, "auto" replaced by what it stood for. */
static int make_attributes(const struct make *make, struct favor_attribute *attributes) {
  struct options *options = malloc(sizeof *options);
  int n = 0;
  if (!options) return -1;
  *options = *make->command->options;
  options->values[OPTION_KV_HEADS].integers[0] = make->kv_heads;
  options->values[OPTION_VALUE_WIDTH].integers[0] = make->value_width;
  options->values[OPTION_SPREAD].number = make->spread;
  if (make->sequences) options->values[OPTION_KMER].integers[0] = make->sequences->k;
  options_attributes(options, attributes, &n);
  command_attributes(make->command, "", attributes, &n);
  free(options);
  return n;
}

static enum favor_status create_output(struct make *make, struct favor_output_file **file) {
  const struct options *options = make->command->options;
  struct favor_output_tensor tensors[MAKE_N_TENSORS];
  for (int i = 0; i < MAKE_N_TENSORS; i++) {
    enum make_tensor tensor = (enum make_tensor)i;
    tensors[i] = (struct favor_output_tensor){
        .name = tensor_names[i],
        .shape = {.n_dims = make->batch > 1 ? 4 : 3,
                  .batch = make->batch,
                  .heads = make_heads(make, tensor) / make->batch,
                  .tokens = make->tokens,
                  .width = make_width(make, tensor),
                  .type = (enum favor_type)options_integer(options, OPTION_TYPE),
                  .layout = (enum favor_layout)options_integer(options, OPTION_LAYOUT),
                  .is_contiguous = true},
    };
  }
  struct favor_output_small segments = {.name = "segments", .element = FAVOR_ELEMENT_INT64, .n_dims = 1};
  if (make->sequences) {
    segments.dims[0] = make->sequences->n_records + 1;
    segments.data = make->sequences->segments;
  }
  static struct favor_attribute attributes[COMMAND_MAX_ATTRIBUTES];
  struct favor_output_spec spec = {
      .path = options->operands[0],
      .is_overwrite = options_flag(options, OPTION_OVERWRITE),
      .tensors = tensors,
      .n_tensors = MAKE_N_TENSORS,
      .small = &segments,
      .n_small = make->sequences ? 1 : 0,
      .attributes = attributes,
      .n_attributes = make_attributes(make, attributes),
  };
  if (spec.n_attributes < 0) dist_fail(make->context, FAVOR_ENOMEM, "no memory for the output's attributes");
  enum favor_status status = dist_agree(make->context, DIST_SITE_COMMAND, 0, "");
  return status == FAVOR_OK ? favor_output_create(make->context, &spec, file) : status;
}

/* Normal deviates as a function of the place in the tensor, whatever its layout. x [tokens][width]. */
static void fill_random(const struct make *make, enum make_tensor tensor, int64_t head, int64_t begin, int64_t end,
                        double *x) {
  int64_t width = make_width(make, tensor), n = (end - begin) * width;
  struct random_stream stream = random_stream(make->seed, RANDOM_MAKE, (uint64_t)tensor, 0);
  random_normal(&stream, (uint64_t)((head * make->tokens + begin) * width), n, x);
  if (tensor == MAKE_V) return;
  for (int64_t i = 0; i < n; i++) x[i] *= make->spread;
}

/* Local: the tokens [begin, end) of all heads of all tensors. */
static void write_block(struct make *make, struct favor_output_file *file, int64_t begin, int64_t end, double *data) {
  if (make->sequences) embedding_start_block(make, begin, end);
  for (int i = 0; i < MAKE_N_TENSORS && !dist_has_failed(make->context); i++) {
    enum make_tensor tensor = (enum make_tensor)i;
    int64_t heads = make_heads(make, tensor), size = (end - begin) * make_width(make, tensor);
    for (int64_t head = 0; head < heads; head++) {
      if (make->sequences)
        embedding_fill(make, tensor, head, data + head * size);
      else
        fill_random(make, tensor, head, begin, end, data + head * size);
    }
    favor_output_write(file, i, 0, heads, begin, end, FAVOR_PRECISION_F64, data);
  }
}

/* Collective: each rank writes a run of tokens. */
static enum favor_status write_all(struct make *make, struct favor_output_file *file) {
  int64_t rank = make->context->rank, size = make->context->size;
  int64_t begin = make->tokens / size * rank + make->tokens % size * rank / size;
  int64_t end = make->tokens / size * (rank + 1) + make->tokens % size * (rank + 1) / size;
  int64_t widest = make->key_width > make->value_width ? make->key_width : make->value_width;
  int64_t token_bytes = make_heads(make, MAKE_Q) * widest * (int64_t)sizeof(double);
  int64_t step = token_bytes < BLOCK_BYTES ? BLOCK_BYTES / token_bytes : 1;
  if (step > end - begin) step = end - begin;
  double *data = memory_zeroed((size_t)step, (size_t)token_bytes);
  if (!data) dist_fail(make->context, FAVOR_ENOMEM, "no memory for a block of %lld tokens", (long long)step);
  if (data && make->sequences) embedding_create(make, step);
  struct progress progress;
  progress_start(&progress, make->command, "make", "tokens", (double)(end - begin));
  for (int64_t token = begin; token < end && !dist_has_failed(make->context); token += step) {
    write_block(make, file, token, token + step < end ? token + step : end, data);
    progress_update(&progress, (double)(token - begin));
  }
  progress_end(&progress);
  free(data);
  embedding_free(make);
  return dist_agree(make->context, DIST_SITE_COMMAND, 0, "");
}

static json_t *pack(const struct make *make, double seconds, int64_t peak_bytes) {
  json_t *object = report_object(make->command);
  json_t *more = json_pack("{s:{s:I, s:I, s:I, s:I, s:I, s:I}, s:I, s:{s:f}, s:I}", "shape", "batch",
                           (json_int_t)make->batch, "heads", (json_int_t)make->heads, "kv_heads",
                           (json_int_t)make->kv_heads, "tokens", (json_int_t)make->tokens, "key_width",
                           (json_int_t)make->key_width, "value_width", (json_int_t)make->value_width, "segments",
                           (json_int_t)(make->sequences ? make->sequences->n_records : 1), "seconds", "total", seconds,
                           "peak_memory_bytes", (json_int_t)peak_bytes);
  bool is_complete = object && more && json_object_update(object, more) == 0;
  json_decref(more);
  if (is_complete) return object;
  json_decref(object);
  return NULL;
}

static enum favor_status report(struct make *make, double seconds) {
  const struct options *options = make->command->options;
  int64_t peak_bytes, peak_rank;
  enum favor_status status = report_peak_memory(make->context, &peak_bytes, &peak_rank);
  if (status != FAVOR_OK) return status;
  if (options_flag(options, OPTION_JSON)) {
    report_json(make->command, pack(make, seconds, peak_bytes));
  } else if (command_is_speaker(make->command) && !options_flag(options, OPTION_QUIET)) {
    printf("%s: q, k, v of batch %lld, heads %lld (key heads %lld), tokens %lld, widths %lld and %lld, segments %lld\n",
           options->operands[0], (long long)make->batch, (long long)make->heads, (long long)make->kv_heads,
           (long long)make->tokens, (long long)make->key_width, (long long)make->value_width,
           (long long)(make->sequences ? make->sequences->n_records : 1));
  }
  return dist_agree(make->context, DIST_SITE_COMMAND, 0, "");
}

static enum favor_status read_source(struct make *make) {
  const struct options *options = make->command->options;
  if (options_text(options, OPTION_FASTA)[0] != '\0') return sequences_read(make->command, &make->sequences);
  if (options_text(options, OPTION_SHAPE)[0] == '\0') {
    dist_fail(make->context, FAVOR_EUSAGE, "nothing to make; give --shape B,H,N,D or --fasta FILE");
  }
  return dist_agree(make->context, DIST_SITE_COMMAND, 0, "");
}

enum favor_status cmd_make(struct command *command) {
  struct make make = {.command = command, .context = command->context};
  struct favor_output_file *file = NULL;
  double start = clock_now_s();
  enum favor_status status = read_source(&make);
  if (status == FAVOR_OK) {
    decide_shape(&make);
    status = dist_agree(make.context, DIST_SITE_COMMAND, 0, "");
  }
  if (status == FAVOR_OK) status = create_output(&make, &file);
  if (status == FAVOR_OK) status = write_all(&make, file);
  if (status == FAVOR_OK) status = favor_output_finish(&file);
  if (status == FAVOR_OK) status = report(&make, clock_now_s() - start);
  favor_output_abandon(&file);
  sequences_free(&make.sequences);
  return status;
}

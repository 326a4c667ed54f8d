/* Checkpoints of a run: one state a key head, how far the run is, and what it is a run of.
 *
 * The text of a checkpoint (io/checkpoint.h) is a JSON object: position [emitted, absorbed]; output, the temporary's id
 * and the sums of its checksums; input, its size and time of modification; engine, the kernel, its runs and BLAS;
 * options, every attribute of the output that decides its bytes. Its records are the states. */
#include "cli/attend_checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/option_table.h"
#include "dist/agree.h"
#include "io/checkpoint.h"

static enum favor_status agree(const struct attend *attend) {
  return dist_agree(attend->context, DIST_SITE_COMMAND, 0, "");
}

static json_t *pack_u64(uint64_t x) {
  char text[32];
  snprintf(text, sizeof text, "%016" PRIx64, x);
  return json_string(text);
}

static bool unpack_u64(const json_t *value, uint64_t *x) {
  const char *text = json_string_value(value);
  return text && strlen(text) == 16 && sscanf(text, "%16" SCNx64, x) == 1;
}

/* What is under a name; zeros: nothing. */
struct identity {
  int64_t inode, bytes;
};
static struct identity identify(const char *path) {
  struct stat found;
  if (stat(path, &found) != 0) return (struct identity){0, 0};
  return (struct identity){(int64_t)found.st_ino, (int64_t)found.st_size};
}

/* ---- what a run is a run of -------------------------------------------------------------------------------------- */

static json_t *pack_attribute(const struct favor_attribute *attribute) {
  if (attribute->kind == FAVOR_ATTRIBUTE_INTEGER) return json_integer(attribute->integer);
  if (attribute->kind == FAVOR_ATTRIBUTE_NUMBER) return json_real(attribute->number);
  return json_string(attribute->text);
}

static json_t *pack_options(const struct attend *attend) {
  static struct favor_attribute attributes[ATTEND_MAX_ATTRIBUTES];
  int n = attend_options(attend, attributes);
  json_t *object = json_object();
  for (int i = 0; i < n; i++) {
    bool is_kernel = strcmp(attributes[i].name, "kernel") == 0; /* asked for; the one in use counts */
    if (!is_kernel) json_object_set_new(object, attributes[i].name, pack_attribute(&attributes[i]));
  }
  json_object_set_new(object, "certify", json_integer(attend_certified_rows(attend->command->options)));
  return object;
}

/* Of rank 0's sight. */
static json_t *pack_input(const struct attend *attend) {
  struct stat found = {0};
  if (stat(attend->command->options->operands[0], &found) != 0) return json_null();
  int64_t modified_ns = (int64_t)found.st_mtim.tv_sec * 1000000000 + found.st_mtim.tv_nsec;
  return json_pack("{s:I, s:I}", "bytes", (json_int_t)found.st_size, "modified_ns", (json_int_t)modified_ns);
}

static json_t *pack_engine(const struct attend *attend) {
  const bool is_blas = strcmp(attend->info.kernel, "blas") == 0; /* others do not depend on it */
  return json_pack("{s:s, s:I, s:s}", "kernel", attend->info.kernel, "run_tokens", (json_int_t)attend->info.run_tokens,
                   "blas", is_blas ? favor_blas_description() : "none");
}

static void describe(const json_t *value, char text[256]) {
  char *dumped = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
  snprintf(text, 256, "%s", dumped ? dumped : "nothing");
  free(dumped);
}

/* Records the first member in which what stands in the checkpoint is not what this run has. */
static void compare(const struct attend *attend, const char *what, const json_t *then, const json_t *now) {
  const char *key;
  json_t *value;
  char had[256], has[256];
  const json_t *const objects[] = {then, now};
  for (int i = 0; i < 2; i++) {
    json_object_foreach((json_t *)objects[i], key, value) {
      const json_t *before = json_object_get(then, key), *here = json_object_get(now, key);
      if (before && here && json_equal(before, here)) continue;
      describe(before, had);
      describe(here, has);
      dist_fail(attend->context, FAVOR_EDATA,
                "%s is of another run: its %s %s is %s, this run's is %s; give what it was made with, or leave out "
                "--resume to start afresh",
                attend->checkpoint_path, what, key, had, has);
      return;
    }
  }
}

/* ---- going on ---------------------------------------------------------------------------------------------------- */

static bool unpack_position(const json_t *text, struct favor_position *position) {
  const json_t *numbers = json_object_get(text, "position");
  const json_t *emitted = json_array_get(numbers, 0), *absorbed = json_array_get(numbers, 1);
  *position = (struct favor_position){json_integer_value(emitted), json_integer_value(absorbed)};
  return json_is_integer(emitted) && json_is_integer(absorbed);
}

static bool unpack_output(struct attend_resumed *resumed, const json_t *output) {
  const json_t *sums = json_object_get(output, "sums");
  if (!unpack_u64(json_object_get(output, "id"), &resumed->id) || !json_is_array(sums)) return false;
  resumed->inode = json_integer_value(json_object_get(output, "inode"));
  resumed->bytes = json_integer_value(json_object_get(output, "bytes"));
  resumed->n_sums = (int64_t)json_array_size(sums);
  resumed->sums = memory_zeroed((size_t)resumed->n_sums, sizeof *resumed->sums);
  bool is_right = resumed->sums != NULL;
  for (int64_t i = 0; i < resumed->n_sums && is_right; i++) {
    is_right = unpack_u64(json_array_get(sums, (size_t)i), &resumed->sums[i]);
  }
  return is_right;
}

/* Local, the same on every rank. */
static void unpack(struct attend *attend) {
  struct attend_resumed *resumed = &attend->resumed;
  resumed->text = json_loads(checkpoint_text(resumed->checkpoint), 0, NULL);
  if (json_is_object(resumed->text) && unpack_position(resumed->text, &resumed->position) &&
      unpack_output(resumed, json_object_get(resumed->text, "output")))
    return;
  dist_fail(attend->context, FAVOR_EDATA, "%s is not a checkpoint of attend; remove it to start afresh",
            attend->checkpoint_path);
}

/* Collective: is the temporary output gone because it became the output, and was the run killed just then? */
static enum favor_status find_finished(struct attend *attend) {
  const struct attend_resumed *resumed = &attend->resumed;
  const char *path = options_text(attend->command->options, OPTION_OUTPUT);
  char part[PATH_MAX];
  snprintf(part, sizeof part, "%s" FAVOR_OUTPUT_PART_SUFFIX, path);
  const struct identity output = identify(path), temporary = identify(part);
  /* Where the system cannot rename without replacing, both names may be left. An incomplete file is longer. */
  bool is_it = output.inode != 0 && output.inode == resumed->inode && output.bytes == resumed->bytes &&
               (temporary.inode == 0 || temporary.inode == output.inode);
  int64_t is_finished = attend->context->rank == 0 && is_it;
  enum favor_status status = dist_max_int64(attend->context, &is_finished, 1);
  attend->is_finished = is_finished != 0;
  if (!attend->is_finished) return status;
  if (attend->context->rank == 0 && temporary.inode != 0) unlink(part);
  attend_forget_checkpoint(attend);
  return status;
}

enum favor_status attend_find_checkpoint(struct attend *attend) {
  struct attend_resumed *resumed = &attend->resumed;
  const struct options *options = attend->command->options;
  snprintf(attend->checkpoint_path, sizeof attend->checkpoint_path, "%s.favor-checkpoint",
           options_text(options, OPTION_OUTPUT));
  if (!options_flag(options, OPTION_RESUME)) return FAVOR_OK;
  enum favor_status status = checkpoint_open(attend->context, attend->checkpoint_path, &resumed->checkpoint);
  if (status != FAVOR_OK || !resumed->checkpoint) return status;
  unpack(attend);
  status = agree(attend);
  if (status != FAVOR_OK) return status;
  json_t *now = pack_options(attend), *input = pack_input(attend);
  if (attend->context->rank == 0) {
    compare(attend, "option", json_object_get(resumed->text, "options"), now);
    if (!dist_has_failed(attend->context)) compare(attend, "input's", json_object_get(resumed->text, "input"), input);
  }
  json_decref(now);
  json_decref(input);
  status = agree(attend);
  return status == FAVOR_OK ? find_finished(attend) : status;
}

enum favor_status attend_check_engine(struct attend *attend) {
  if (!attend->resumed.checkpoint) return FAVOR_OK;
  json_t *now = pack_engine(attend);
  if (attend->context->rank == 0) compare(attend, "engine's", json_object_get(attend->resumed.text, "engine"), now);
  json_decref(now);
  return agree(attend);
}

/* Local: the states that are this rank's. */
static void read_states(struct attend *attend, const struct favor_saved *saved) {
  struct checkpoint *checkpoint = attend->resumed.checkpoint;
  const int64_t heads = saved->state_bytes > 0 ? attend->problem.batch * attend->problem.kv_heads : 0;
  if (checkpoint_n_records(checkpoint) != heads ||
      (heads > 0 && checkpoint_record_bytes(checkpoint) != saved->state_bytes)) {
    dist_fail(attend->context, FAVOR_EDATA, "%s holds %lld states of %zu bytes, this run has %lld of %zu",
              attend->checkpoint_path, (long long)checkpoint_n_records(checkpoint), checkpoint_record_bytes(checkpoint),
              (long long)heads, saved->state_bytes);
    return;
  }
  for (int64_t head = saved->kv_head_begin; head < saved->kv_head_end; head++) {
    char *to = (char *)saved->states + (size_t)(head - saved->kv_head_begin) * saved->state_bytes;
    if (checkpoint_read(checkpoint, head, to) != FAVOR_OK) return;
  }
}

enum favor_status attend_begin(struct attend *attend) {
  attend->checkpointed_s = clock_now_s();
  if (!attend->resumed.checkpoint) {
    favor_plan_begin(attend->plan);
    return FAVOR_OK;
  }
  struct favor_saved saved;
  enum favor_status status = favor_plan_resume(attend->plan, &attend->resumed.position, &saved);
  if (status != FAVOR_OK) return status;
  read_states(attend, &saved);
  attend_release_resumed(attend);
  return agree(attend);
}

void attend_release_resumed(struct attend *attend) {
  checkpoint_close(&attend->resumed.checkpoint);
  json_decref(attend->resumed.text);
  free(attend->resumed.sums);
  attend->resumed.text = NULL;
  attend->resumed.sums = NULL;
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

/* Collective; the text is rank 0's. NULL elsewhere, and without memory. */
static char *pack_text(struct attend *attend, const struct favor_position *position) {
  int64_t n = favor_output_n_sums(attend->output);
  uint64_t *sums = memory_zeroed((size_t)n, sizeof *sums);
  if (!sums) dist_fail(attend->context, FAVOR_ENOMEM, "no memory for the checksums of a checkpoint");
  if (agree(attend) != FAVOR_OK || favor_output_sums(attend->output, sums) != FAVOR_OK || attend->context->rank != 0) {
    free(sums);
    return NULL;
  }
  json_t *packed = json_array();
  for (int64_t i = 0; i < n; i++) json_array_append_new(packed, pack_u64(sums[i]));
  json_t *text =
      json_pack("{s:[I, I], s:{s:o, s:I, s:I, s:o}, s:o, s:o, s:o}", "position", (json_int_t)position->tokens_emitted,
                (json_int_t)position->tokens_absorbed, "output", "id", pack_u64(favor_output_id(attend->output)),
                "inode", (json_int_t)identify(favor_output_part(attend->output)).inode, "bytes",
                (json_int_t)favor_output_bytes(attend->output), "sums", packed, "input", pack_input(attend), "engine",
                pack_engine(attend), "options", pack_options(attend));
  char *dumped = text ? json_dumps(text, JSON_COMPACT) : NULL;
  if (!dumped) dist_fail(attend->context, FAVOR_ENOMEM, "no memory for the text of a checkpoint");
  json_decref(text);
  free(sums);
  return dumped;
}

enum favor_status attend_save(struct attend *attend) {
  struct favor_saved saved;
  const double start = clock_now_s();
  enum favor_status status = favor_plan_save(attend->plan, &saved);
  if (status != FAVOR_OK) return status;
  attend_write_estimates(attend);
  favor_output_sync(attend->output);
  status = agree(attend);
  if (status != FAVOR_OK) return status;
  char *text = pack_text(attend, &saved.position);
  status = agree(attend);
  if (status == FAVOR_OK) {
    const int64_t heads = saved.state_bytes > 0 ? attend->problem.batch * attend->problem.kv_heads : 0;
    status = checkpoint_write(attend->context, attend->checkpoint_path, text, heads, saved.state_bytes,
                              saved.kv_head_begin, saved.kv_head_end - saved.kv_head_begin, saved.states);
  }
  free(text);
  /* One that failed may have its name already. */
  if (status == FAVOR_OK || (attend->context->rank == 0 && identify(attend->checkpoint_path).inode != 0)) {
    attend->has_checkpoint = true;
    favor_output_set_resumable(attend->output);
  }
  attend->n_checkpoints += status == FAVOR_OK;
  attend->checkpointed_s = clock_now_s();
  attend->seconds[ATTEND_CHECKPOINT] += attend->checkpointed_s - start;
  return status;
}

bool attend_forget_checkpoint(struct attend *attend) {
  char unfinished[PATH_MAX + sizeof CHECKPOINT_NEW_SUFFIX]; /* what a kill in the middle of saving left */
  attend->has_checkpoint = false;
  if (attend->context->rank != 0) return false;
  snprintf(unfinished, sizeof unfinished, "%s" CHECKPOINT_NEW_SUFFIX, attend->checkpoint_path);
  unlink(unfinished);
  return unlink(attend->checkpoint_path) == 0;
}

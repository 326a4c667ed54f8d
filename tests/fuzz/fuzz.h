/* What fuzz targets share. A target is one file that defines LLVMFuzzerTestOneInput; tests/fuzz/run makes a fuzzer of
 * it, and replay.c a test that takes the inputs of tests/data/fuzz. */
#ifndef FAVOR_TESTS_FUZZ_H
#define FAVOR_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include <favor/favor.h>

/* One input. Always returns 0; a property that does not hold aborts. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : fuzz_check_failed(#condition, __FILE__, __LINE__))
_Noreturn void fuzz_check_failed(const char *condition, const char *file, int line);

/* An error must have a reason that lies in the input or in its surroundings, and a text. */
void fuzz_check_error(enum favor_status status, const char *text);

/* Files in a directory of their own under $TMPDIR, best one in memory; a crash leaves it. Paths are good until the
 * end. */
enum { FUZZ_N_FILES = 3 };
const char *fuzz_path(int file);                                      /* of an empty file */
const char *fuzz_file(int file, const void *content, size_t n_bytes); /* of a file with this content */

/* A context of this process alone, made at the first call. */
struct favor_context *fuzz_context(void);

/* Ends it. Fuzzers leave it: MPI unloads its parts then, and their leak checker cannot tell any more whose memory it
 * finds. */
void fuzz_end(void);

/* The lowest number that a file would be opened with; it rises where files stay open. */
int fuzz_next_descriptor(void);

#endif

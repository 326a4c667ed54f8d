/* Linked with --wrap: the calls of src/dist that cost time, which no host may measure here, or need a node. */
#include "hooks.h"

#include <math.h>
#include <mpi.h>
#include <smpi/smpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/binned.h"
#include "base/memory.h"

struct sim_hooks sim_hooks;

void __real_binned_merge(const void *from, void *into, int64_t n_rows);
void *__real_memory_zeroed(size_t count, size_t bytes);
void __wrap_binned_merge(const void *from, void *into, int64_t n_rows);
void *__wrap_memory_zeroed(size_t count, size_t bytes);
int __wrap_sched_yield(void);
int __wrap_MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *split);

/* As sleep, not smpi_execute: for every such piece of work SMPI walks the list of all that the rank has in flight. A
 * rank has a core of its own, so that both are the same. */
void sim_pass(double seconds) {
  const struct timespec time = {(time_t)seconds, lround((seconds - floor(seconds)) * 1e9)};
  smpi_nanosleep(&time, NULL);
}

void __wrap_binned_merge(const void *from, void *into, int64_t n_rows) {
  if (n_rows == 0) return;
  sim_pass((double)n_rows * sim_hooks.merge_s_per_row);
  if (!sim_hooks.is_timed) __real_binned_merge(from, into, n_rows);
}

/* SMPI's free() knows both kinds: its headers rename the one that src/dist calls. */
void *__wrap_memory_zeroed(size_t count, size_t bytes) {
  enum { LARGE = 1 << 16 };
  if (sim_hooks.is_timed && count * bytes >= LARGE) return SMPI_SHARED_MALLOC(count * bytes);
  return __real_memory_zeroed(count, bytes);
}

/* SMPI makes every rank a node of its own. Hosts have numbers in their names. */
int __wrap_MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *split) {
  char host[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  (void)type, (void)info;
  MPI_Get_processor_name(host, &length);
  return MPI_Comm_split(comm, atoi(host + strcspn(host, "0123456789")), key, split);
}

/* Between two looks at what is in flight: without it, simulated time would stand still. */
int __wrap_sched_yield(void) {
  sim_pass(sim_hooks.poll_s);
  return 0;
}

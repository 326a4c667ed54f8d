#define _GNU_SOURCE /* CPU sets */
#include "plan/binding.h"

#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"
#include "dist/node.h"

/* More only wait for each other, or cannot be had at all. */
enum { MOST_THREADS_A_CORE = 16 };

struct thread {
  cpu_set_t cpus;  /* of its own */
  cpu_set_t found; /* the mask that it came with */
  bool is_moved;
};

struct binding {
  int n_threads;
  int n_cores; /* of the mask */
  bool is_partial;
  const char *name;
  struct thread *threads; /* [n_threads]; NULL: they stay where they are */
};

/* Whether the user says where OpenMP's threads run, or that nobody shall. */
static bool has_openmp_binding(void) {
  static const char *const names[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (getenv(names[i])) return true;
  }
  return false;
}

/* Where this rank may run: OpenMP's places, as the thread that asks may be bound to the first of them; else its mask.
 */
static void find_mask(cpu_set_t *mask) {
  int cpus[CPU_SETSIZE];
  CPU_ZERO(mask);
  for (int place = 0; place < omp_get_num_places(); place++) {
    int n = omp_get_place_num_procs(place);
    if (n > CPU_SETSIZE) continue;
    omp_get_place_proc_ids(place, cpus);
    for (int i = 0; i < n; i++) CPU_SET(cpus[i], mask);
  }
  if (CPU_COUNT(mask) > 0) return;
  if (sched_getaffinity(0, sizeof *mask, mask) != 0) CPU_SET(0, mask);
}

static int choose_threads(struct favor_context *context, int asked, int cores) {
  if (asked > MOST_THREADS_A_CORE * cores) {
    dist_fail(context, FAVOR_EUSAGE,
              "%d threads on rank %d are too many for its share of cores, %d; at most %d a core (mpirun --map-by "
              "slot:PE=%d or srun --cpus-per-task=%d give it more)",
              asked, context->rank, cores, MOST_THREADS_A_CORE, asked, asked);
  }
  if (asked > 0) return asked;
  return getenv("OMP_NUM_THREADS") ? omp_get_max_threads() : cores;
}

/* Gives each thread its CPUs, where that says more than the mask. */
static void place_threads(struct binding *binding, struct favor_context *context, const struct cpus_rank *rank,
                          const struct cpus_topology *topology) {
  static const char *const names[] = {
      [CPUS_FIT_CORES] = "cores", [CPUS_FIT_CPUS] = "hardware threads", [CPUS_FIT_NOTHING] = "none"};
  cpu_set_t first;
  binding->name = has_openmp_binding() ? "environment" : "none";
  if (has_openmp_binding() || !rank->is_alone) return;
  binding->name = names[cpus_of_thread(topology, &rank->share, binding->n_threads, 0, &first)];
  if (CPU_EQUAL(&first, &rank->mask)) return;
  binding->threads = memory_zeroed((size_t)binding->n_threads, sizeof *binding->threads);
  if (!binding->threads) {
    dist_fail(context, FAVOR_ENOMEM, "no memory for %d threads", binding->n_threads);
    return;
  }
  for (int t = 0; t < binding->n_threads; t++) {
    cpus_of_thread(topology, &rank->share, binding->n_threads, t, &binding->threads[t].cpus);
  }
}

struct binding *binding_create(struct favor_context *context, int asked) {
  cpu_set_t mask;
  struct cpus_rank rank;
  struct cpus_topology topology;
  find_mask(&mask);
  dist_node_share(context, &mask, &rank, &topology);
  struct binding *binding = memory_zeroed(1, sizeof *binding);
  if (!binding) {
    dist_fail(context, FAVOR_ENOMEM, "no memory to bind threads");
    return NULL;
  }
  binding->n_threads = choose_threads(context, asked, rank.fair_cores < 1 ? 1 : rank.fair_cores);
  binding->n_cores = cpus_count_cores(&topology, &mask);
  binding->is_partial = CPU_COUNT(&mask) < sysconf(_SC_NPROCESSORS_ONLN);
  place_threads(binding, context, &rank, &topology);
  return binding;
}

void binding_destroy(struct binding *binding) {
  if (binding) free(binding->threads);
  free(binding);
}

int binding_threads(const struct binding *binding) { return binding->n_threads; }
int binding_cores(const struct binding *binding) { return binding->n_cores; }
bool binding_is_partial(const struct binding *binding) { return binding->is_partial; }
const char *binding_name(const struct binding *binding) { return binding->name; }

void binding_enter(struct binding *binding) {
  if (!binding->threads || omp_get_num_threads() != binding->n_threads) return;
  struct thread *thread = &binding->threads[omp_get_thread_num()];
  cpu_set_t common;
  thread->is_moved = false;
  if (sched_getaffinity(0, sizeof thread->found, &thread->found) != 0) return;
  CPU_AND(&common, &thread->found, &thread->cpus);
  if (!CPU_EQUAL(&common, &thread->cpus) || CPU_EQUAL(&thread->found, &thread->cpus)) return;
  thread->is_moved = sched_setaffinity(0, sizeof thread->cpus, &thread->cpus) == 0;
}

void binding_leave(struct binding *binding) {
  if (!binding->threads || omp_get_num_threads() != binding->n_threads) return;
  struct thread *thread = &binding->threads[omp_get_thread_num()];
  if (thread->is_moved) sched_setaffinity(0, sizeof thread->found, &thread->found);
}

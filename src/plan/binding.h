/* How many threads a rank has, and where they run while it computes. */
#ifndef FAVOR_PLAN_BINDING_H
#define FAVOR_PLAN_BINDING_H

#include <stdbool.h>

#include <favor/favor.h>

struct binding;

/* Collective: `asked` threads, or where that is 0 OMP_NUM_THREADS, or else a thread a core of this rank's share.
 * Records FAVOR_EUSAGE, FAVOR_ENOMEM, FAVOR_EMPI with the context; NULL where there is no memory. */
struct binding *binding_create(struct favor_context *context, int asked);
void binding_destroy(struct binding *binding);

int binding_threads(const struct binding *binding);
/* Cores that this rank may run on, whoever shares them; whether it may not run on all of this machine. */
int binding_cores(const struct binding *binding);
bool binding_is_partial(const struct binding *binding);
/* favor_plan_info.binding */
const char *binding_name(const struct binding *binding);

/* Called by each thread of a team at the start and at the end of a parallel region: moves it to CPUs of its own, and
 * gives it back the mask it came with, for the threads of a team are the caller's. A thread that may not run on those
 * CPUs, or is of a smaller team than planned for, stays as it is. */
void binding_enter(struct binding *binding);
void binding_leave(struct binding *binding);

#endif

/* A watch over waiting: where a rank is dead, or the link to it is, MPI waits without end and without a word. A thread
 * of each rank ends the process once it has waited for the others too long, and with it the job. */
#ifndef FAVOR_DIST_WATCH_H
#define FAVOR_DIST_WATCH_H

#include "dist/comm.h"

struct dist_watch;

/* Local: from now on, where this rank waits for others longer than timeout_s, it says so on stderr and leaves the
 * process with exit code 70; nothing can be agreed on, and MPI_Abort is not for a second thread under
 * MPI_THREAD_FUNNELED. Time in which the process was suspended does not count. *watch is NULL where timeout_s is 0, or
 * the rank alone. FAVOR_ENOMEM, recorded, where there is no thread to be had; the caller agrees afterwards. */
enum favor_status dist_watch_start(struct favor_context *context, double timeout_s, struct dist_watch **watch);

/* Local: ends the thread. The context must not be used after that; it may have been destroyed before. */
void dist_watch_stop(struct dist_watch **watch);

/* Local, by the thread that calls MPI: around everything that waits for other ranks. `step` is a literal, what the wait
 * is in, e.g. "a broadcast". Of waits within waits the outermost counts. */
void dist_watch_enter(struct dist_watch *watch, const char *step);
void dist_watch_leave(struct dist_watch *watch);

#endif

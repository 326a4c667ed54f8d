/* Requests to stop: SIGTERM, SIGINT and SIGUSR1 let a run end at its next block; a second one ends the process. */
#ifndef FAVOR_CLI_STOP_H
#define FAVOR_CLI_STOP_H

#include <stdbool.h>

/* From now on the first such signal only leaves a note. */
void stop_catch(void);
/* The signals do what they do by default, also one that came meanwhile, but for SIGUSR1, by which a scheduler asks for
 * a checkpoint: it is ignored. */
void stop_release(void);
/* From now on such a signal ends the process at once, with the line that says how to go on where is_speaker: all is
 * saved, and what follows can be done again. One that came before counts. */
void stop_at_once(bool is_speaker);

/* The number of the signal that came, 0: none. */
int stop_signal(void);
/* "SIGTERM"; "a signal" where it is none of these. Static. */
const char *stop_signal_name(int number);

#endif

/* Saving a run of attend, and going on with one that ended before its end. */
#ifndef FAVOR_CLI_ATTEND_CHECKPOINT_H
#define FAVOR_CLI_ATTEND_CHECKPOINT_H

#include "cli/attend.h"

/* All collective but where they say otherwise. */

/* With --resume: reads the checkpoint beside the output, if there is one, and refuses that of other options or inputs
 * (FAVOR_EDATA, naming the difference). Before the plan is made, as what the earlier run estimated is needed for it. */
enum favor_status attend_find_checkpoint(struct attend *attend);
/* The same of the kernel, once there is a plan. */
enum favor_status attend_check_engine(struct attend *attend);
/* Begins the run, from its start or from what the checkpoint says. */
enum favor_status attend_begin(struct attend *attend);

/* After a block whose outputs are written, and of which there is something to save: saves the run. */
enum favor_status attend_save(struct attend *attend);

/* Local: the checkpoint is of no more use. Whether there was one, on rank 0. */
bool attend_forget_checkpoint(struct attend *attend);
void attend_release_resumed(struct attend *attend);

#endif

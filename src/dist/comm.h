/* The context: a duplicated communicator, the first local error, the last agreed one. Only src/dist looks inside, and
 * src/io, src/cli for the communicator. */
#ifndef FAVOR_DIST_COMM_H
#define FAVOR_DIST_COMM_H

#include <favor/favor_machine.h>

#include "base/status.h"

/* Every step at which ranks meet has a site, so that a test can make it fail on one rank. */
enum dist_site {
  DIST_SITE_NONE = 0,
  DIST_SITE_PLAN_CHECK,  /* the problem, or costs */
  DIST_SITE_PLAN_DRAW,   /* the projection */
  DIST_SITE_PLAN_MEMORY, /* allocation */
  DIST_SITE_PLAN_GROUPS, /* communicators */
  DIST_SITE_BLOCK,       /* before a block */
  DIST_SITE_ATTEND,      /* before ranks need each other's tokens */
  DIST_SITE_RESUME,      /* where a run goes on */
  DIST_SITE_ESTIMATE,    /* before moments meet */
  DIST_SITE_RUN_END,     /* the outcome of a run */
  DIST_SITE_TENSOR_OPEN,
  DIST_SITE_TENSOR_READ, /* all ranks together */
  DIST_SITE_DATA_READ,   /* int64, double, attributes */
  DIST_SITE_OUTPUT_CREATE,
  DIST_SITE_OUTPUT_FINISH,
  DIST_SITE_CHECKPOINT, /* writing and opening one */
  DIST_SITE_COMMAND,    /* a command's own agreement */
  DIST_N_SITES
};

struct favor_context {
  MPI_Comm comm;
  int rank, size;
  int n_nodes;                     /* machines that the ranks run on */
  struct favor_costs costs;        /* of moving and merging states */
  int node;                        /* the lowest rank on the same machine */
  bool is_dead;                    /* an MPI call failed: communicate no more */
  struct status pending;           /* the first local error since the last agreement */
  char message[STATUS_TEXT_BYTES]; /* of the last agreed error */
  enum dist_site fault_site;       /* injected failure, for tests */
  int fault_rank;
  int fault_skip;           /* agreements at the site to let pass first */
  double fault_stall_s;     /* not 0: it does not fail, it only comes so much later */
  struct dist_watch *watch; /* over this rank's waiting (dist/watch.h), or NULL; not the context's own */
};

/* Local: records an error of this rank; the first is kept. Thread-safe inside an OpenMP region. Returns code. */
enum favor_status dist_fail(struct favor_context *context, enum favor_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Local: the same with an error that was found without the context, say by another thread; FAVOR_OK records nothing.
 * Returns its code. */
enum favor_status dist_fail_status(struct favor_context *context, const struct status *status);

/* Local: has this rank an error that is not agreed yet? */
static inline bool dist_has_failed(const struct favor_context *context) { return context->pending.code != FAVOR_OK; }

/* Local: checks the return code of an MPI call. Not MPI_SUCCESS: the context is dead, FAVOR_EMPI is recorded and
 * returned. `what` names the step. */
enum favor_status dist_check(struct favor_context *context, int mpi_code, const char *what);

/* Local: from now on the agreement at `site` fails on `rank` with FAVOR_EINTERNAL, after `skip` passes. */
void dist_inject(struct favor_context *context, enum dist_site site, int rank, int skip);
/* Local: the same from text, "SITE RANK SKIP"; or, with "SITE RANK SKIP stall SECONDS", the rank comes to the agreement
 * that much later, and nothing fails. False where the text is not of that form. */
bool dist_inject_text(struct favor_context *context, const char *text);
/* The names of sites, for tests and messages; NULL past the last. */
const char *dist_site_name(enum dist_site site);

#endif

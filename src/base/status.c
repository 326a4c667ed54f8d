#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum favor_status status_set(struct status *status, enum favor_status code, const char *format, ...) {
  if (status->code != FAVOR_OK) return code;
  status->code = code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(status->text, sizeof status->text, format, arguments);
  va_end(arguments);
  return code;
}

void status_clear(struct status *status) {
  status->code = FAVOR_OK;
  status->text[0] = '\0';
}

_Noreturn void status_assert_failed(const char *condition, const char *file, int line) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  fprintf(stderr, "favor: internal error: rank %s: %s:%d: %s does not hold\n", rank ? rank : "0", file, line,
          condition);
  abort();
}

const char *favor_status_name(enum favor_status status) {
  static const char *const names[FAVOR_N_STATUS] = {
      [FAVOR_OK] = "FAVOR_OK",           [FAVOR_ESTOPPED] = "FAVOR_ESTOPPED",
      [FAVOR_EVERIFY] = "FAVOR_EVERIFY", [FAVOR_EUSAGE] = "FAVOR_EUSAGE",
      [FAVOR_ECONFIG] = "FAVOR_ECONFIG", [FAVOR_EDATA] = "FAVOR_EDATA",
      [FAVOR_ECREATE] = "FAVOR_ECREATE", [FAVOR_EIO] = "FAVOR_EIO",
      [FAVOR_ENOMEM] = "FAVOR_ENOMEM",   [FAVOR_EINTERNAL] = "FAVOR_EINTERNAL",
      [FAVOR_EMPI] = "FAVOR_EMPI",
  };
  return (unsigned)status < FAVOR_N_STATUS ? names[status] : "unknown status";
}

#include "cli/exit_code.h"

/* From 64 on as in BSD's sysexits.h. */
int exit_code(enum favor_status status) {
  static const int codes[FAVOR_N_STATUS] = {
      [FAVOR_OK] = 0,       [FAVOR_ESTOPPED] = 75,  [FAVOR_EVERIFY] = 1,  [FAVOR_EUSAGE] = 64,
      [FAVOR_ECONFIG] = 78, [FAVOR_EDATA] = 65,     [FAVOR_ECREATE] = 73, [FAVOR_EIO] = 74,
      [FAVOR_ENOMEM] = 70,  [FAVOR_EINTERNAL] = 70, [FAVOR_EMPI] = 70,
  };
  return codes[status];
}

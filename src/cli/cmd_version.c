#include <stdio.h>

#include "cli/command.h"
#include "cli/report.h"
#include "dist/agree.h"

static const char compiler[] =
#if defined(__clang__)
    "clang " __clang_version__
#else
    "gcc " __VERSION__
#endif
    ;

#if defined(NDEBUG)
static const char build[] = "release";
#else
static const char build[] = "debug";
#endif

static json_t *describe_kernels(void) {
  json_t *kernels = json_array();
  for (int i = 0; favor_kernel_name(i); i++) {
    json_array_append_new(kernels, json_pack("{s:s, s:b}", "name", favor_kernel_name(i), "is_supported",
                                             (int)favor_kernel_is_supported(i)));
  }
  return kernels;
}

static enum favor_status print_json(const struct command *command) {
  json_t *object = report_object(command);
  if (object) {
    json_t *more =
        json_pack("{s:s, s:s, s:o, s:s, s:s, s:s}", "compiler", compiler, "build", build, "kernels", describe_kernels(),
                  "mpi", command->mpi_version, "hdf5", favor_hdf5_version(), "blas", favor_blas_description());
    json_object_update(object, more);
    json_decref(more);
  }
  return report_json(command, object);
}

static void print_table(const struct command *command) {
  printf("favor    %s\nbuild    %s, %s\nkernels  ", FAVOR_VERSION, build, compiler);
  for (int i = 0; favor_kernel_name(i); i++) {
    printf("%s%s%s", i ? ", " : "", favor_kernel_name(i), favor_kernel_is_supported(i) ? "" : " (not on this machine)");
  }
  printf("\nMPI      %s\nHDF5     %s\nBLAS     %s\n", command->mpi_version, favor_hdf5_version(),
         favor_blas_description());
}

enum favor_status cmd_version(struct command *command) {
  if (options_flag(command->options, OPTION_JSON)) {
    print_json(command);
  } else if (command_is_speaker(command)) {
    print_table(command);
  }
  return dist_agree(command->context, DIST_SITE_COMMAND, 0, "");
}

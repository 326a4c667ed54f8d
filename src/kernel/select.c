#include <stddef.h>
#include <string.h>

#include <favor/favor.h>

#include "kernel/kernel.h"

static const struct kernel *const kernels[] = {
#if defined(__x86_64__)
    &kernel_avx512, &kernel_avx512bf16, &kernel_avx2,
#endif
    &kernel_blas, &kernel_reference};
enum { N_KERNELS = sizeof kernels / sizeof kernels[0] };

const struct kernel *kernel_at(int index) { return index >= 0 && index < N_KERNELS ? kernels[index] : NULL; }

const struct kernel *kernel_find(const char *name, int precision, const struct kernel_map *map) {
  bool is_auto = !name || strcmp(name, "auto") == 0;
  for (int i = 0; i < N_KERNELS; i++) {
    if (!is_auto && strcmp(name, kernels[i]->name) != 0) continue;
    if (map && !kernels[i]->has_maps) continue;
    if (kernels[i]->real[precision].absorb && kernels[i]->is_supported()) return kernels[i];
  }
  return NULL;
}

const char *favor_kernel_name(int index) {
  const struct kernel *kernel = kernel_at(index);
  return kernel ? kernel->name : NULL;
}

bool favor_kernel_is_supported(int index) {
  const struct kernel *kernel = kernel_at(index);
  return kernel && kernel->is_supported();
}

const char *favor_blas_description(void) { return kernel_blas_description(); }

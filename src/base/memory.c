#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { ALIGNMENT = 64 };

void *memory_zeroed(size_t count, size_t bytes) {
  if (bytes != 0 && count > (SIZE_MAX - ALIGNMENT) / bytes) return NULL;
  size_t total = count * bytes;
  total = total == 0 ? ALIGNMENT : (total + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  void *memory = aligned_alloc(ALIGNMENT, total);
  if (memory) memset(memory, 0, total);
  return memory;
}

size_t memory_peak_bytes(void) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return (size_t)usage.ru_maxrss * 1024;
}

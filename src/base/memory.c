#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { ALIGNMENT = 64 };

/* In multiples of ALIGNMENT, of which even nothing takes one; 0 where that overflows. */
static size_t total_of(size_t count, size_t bytes) {
  if (bytes != 0 && count > (SIZE_MAX - ALIGNMENT) / bytes) return 0;
  const size_t total = count * bytes;
  return total == 0 ? ALIGNMENT : (total + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void *memory_untouched(size_t count, size_t bytes) {
  const size_t total = total_of(count, bytes);
  return total > 0 ? aligned_alloc(ALIGNMENT, total) : NULL;
}

void *memory_zeroed(size_t count, size_t bytes) {
  void *memory = memory_untouched(count, bytes);
  if (memory) memset(memory, 0, total_of(count, bytes));
  return memory;
}

size_t memory_peak_bytes(void) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return (size_t)usage.ru_maxrss * 1024;
}

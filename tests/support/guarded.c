#include "guarded.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct guarded guarded_create(size_t bytes, enum side side) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page) / page * page;
  struct guarded g = {.total = inner + 2 * page};
  g.pages = mmap(NULL, g.total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(g.pages != MAP_FAILED);
  memset(g.pages, 0xff, g.total); /* NaN, wherever something is read that nobody wrote */
  assert_int_equal(mprotect(g.pages, page, PROT_NONE), 0);
  assert_int_equal(mprotect(g.pages + page + inner, page, PROT_NONE), 0);
  g.data = side == AT_START ? g.pages + page : g.pages + page + inner - bytes;
  return g;
}

void guarded_destroy(struct guarded *g) { munmap(g->pages, g->total); }

/* VECTORS before a function: its loops are compiled for several widths of vectors, and the machine picks. For loops
 * whose results do not depend on the width. */
#ifndef FAVOR_BASE_VECTORS_H
#define FAVOR_BASE_VECTORS_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define VECTORS __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define VECTORS
#endif

#endif

/* VECTORS before a function: its loops are compiled for several widths of vectors, and the machine picks. For loops
 * whose results do not depend on the width. VECTORS_FMA: the same for loops with fma(), which where the machine has no
 * such instruction is slow and gives the same bits. */
#ifndef FAVOR_BASE_VECTORS_H
#define FAVOR_BASE_VECTORS_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define VECTORS __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#define VECTORS_FMA __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("O3")))
#else
#define VECTORS
#define VECTORS_FMA
#endif

#endif

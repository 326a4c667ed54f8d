#include "kernel/peak.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <favor/favor.h>

#include "base/clock.h"
#include "kernel/kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#pragma GCC optimize("O2") /* also in a debug build: a limit in memory is none */

/* A core starts two vector operations a cycle and each takes four cycles (six for a multiplication and an addition), so
 * that twelve chains keep it busy; two more leave it some choice, and with both factors they fill 16 registers. */
#define EACH_CHAIN(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
enum { CHAINS = 14 };

/* Between two looks at the clock: some tens of microseconds. */
enum { STEPS = 20000 };

/* Runs STEPS steps of every chain; gives the sum of one lane, so that no chain can be left out. */
typedef double loop(void);

/* Passes a value through an empty statement, so that the compiler knows nothing of it: equal chains would become one.
 */
#define FORGET(v) __asm__ volatile("" : "+m"(v));
#define START(i)                                                                                                       \
  vector chain##i = (vector){0} + 1;                                                                                   \
  FORGET(chain##i)
#define STEP(i) chain##i = MULTIPLY_ADD(chain##i, x, y);
#define TAKE(i) total += (double)chain##i[0];

#define DEFINE_LOOP(NAME, VECTOR, FACTOR, ADDEND, TARGET)                                                              \
  TARGET static double NAME(void) {                                                                                    \
    typedef VECTOR vector;                                                                                             \
    vector x = (vector){0} + FACTOR, y = (vector){0} + ADDEND;                                                         \
    FORGET(x)                                                                                                          \
    FORGET(y)                                                                                                          \
    EACH_CHAIN(START)                                                                                                  \
    for (int step = 0; step < STEPS; step++) {                                                                         \
      EACH_CHAIN(STEP)                                                                                                 \
    }                                                                                                                  \
    double total = 0;                                                                                                  \
    EACH_CHAIN(TAKE)                                                                                                   \
    return total;                                                                                                      \
  }

typedef float floats_16 __attribute__((vector_size(16)));
typedef double doubles_16 __attribute__((vector_size(16)));

#define MULTIPLY_ADD(a, x, y) ((a) * (x) + (y))
DEFINE_LOOP(baseline_f32, floats_16, 0.75f, 0.25f, )
DEFINE_LOOP(baseline_f64, doubles_16, 0.75, 0.25, )
#undef MULTIPLY_ADD

#if defined(__x86_64__)
#define MULTIPLY_ADD(a, x, y) _mm256_fmadd_ps(a, x, y)
DEFINE_LOOP(avx2_f32, __m256, 0.75f, 0.25f, __attribute__((target("avx2,fma"))))
#undef MULTIPLY_ADD
#define MULTIPLY_ADD(a, x, y) _mm256_fmadd_pd(a, x, y)
DEFINE_LOOP(avx2_f64, __m256d, 0.75, 0.25, __attribute__((target("avx2,fma"))))
#undef MULTIPLY_ADD
#define MULTIPLY_ADD(a, x, y) _mm512_fmadd_ps(a, x, y)
DEFINE_LOOP(avx512_f32, __m512, 0.75f, 0.25f, __attribute__((target("avx512f"))))
#undef MULTIPLY_ADD
#define MULTIPLY_ADD(a, x, y) _mm512_fmadd_pd(a, x, y)
DEFINE_LOOP(avx512_f64, __m512d, 0.75, 0.25, __attribute__((target("avx512f"))))
#undef MULTIPLY_ADD
/* The bits of these are pairs of bfloat16, (1, 1) and (1, -1): a step adds 1 - 1. */
#define MULTIPLY_ADD(a, x, y) _mm512_dpbf16_ps(a, (__m512bh)(x), (__m512bh)(y))
DEFINE_LOOP(avx512_bf16, __m512, 0x1.007fp0f, 0x1.017fp0f, __attribute__((target("avx512f,avx512bf16"))))
#undef MULTIPLY_ADD

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512(void) { return __builtin_cpu_supports("avx512f"); }
static bool has_avx512_bf16(void) { return __builtin_cpu_supports("avx512bf16"); }
#endif

static bool always(void) { return true; }

/* What one step of one chain counts is lanes times flops_a_lane. */
static const struct {
  const char *name;
  bool (*is_supported)(void);
  int bytes, flops_a_lane;
  loop *loops[KERNEL_N_PRECISIONS]; /* by enum favor_precision */
} peaks[PEAK_N_ISAS] = {
    [PEAK_BASELINE] = {"baseline", always, 16, 2, {baseline_f32, baseline_f64}},
#if defined(__x86_64__)
    [PEAK_AVX2] = {"avx2", has_avx2, 32, 2, {avx2_f32, avx2_f64}},
    [PEAK_AVX512] = {"avx512", has_avx512, 64, 2, {avx512_f32, avx512_f64}},
    [PEAK_AVX512_BF16] = {"avx512bf16", has_avx512_bf16, 64, 4, {[FAVOR_PRECISION_BF16] = avx512_bf16}},
#endif
};

const char *peak_name(enum peak_isa isa) { return peaks[isa].name; }

bool peak_is_supported(enum peak_isa isa, int precision) {
  return peaks[isa].loops[precision] && peaks[isa].is_supported();
}

double peak_sample(enum peak_isa isa, int precision, double seconds) {
  if (!peak_is_supported(isa, precision)) return 0;
  const int lanes = peaks[isa].bytes / (precision == FAVOR_PRECISION_F64 ? (int)sizeof(double) : (int)sizeof(float));
  const double flops_a_round = (double)STEPS * CHAINS * lanes * peaks[isa].flops_a_lane;
  const double begin = clock_now_s();
  double now, total = 0;
  int64_t rounds = 0;
  do {
    total += peaks[isa].loops[precision]();
    rounds++;
    now = clock_now_s();
  } while (now - begin < seconds);
  return isfinite(total) ? 1e-9 * flops_a_round * (double)rounds / (now - begin) : 0;
}

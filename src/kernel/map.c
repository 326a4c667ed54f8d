#include "kernel/map.h"

#include <math.h>
#include <string.h>

#include "base/vectors.h"

#define LOG2_E 1.442695040888963407359924681001892137
/* 2^this counts as 0 beside everything, and keeps exponents far above KERNEL_EXPONENT_OF_ZERO. */
#define LEAST_LOG2 (-0x1p28)

#include "kernel/real_f64.h"
#define NAME(x) x##_f64
#include "kernel/map_rows.h"
#undef NAME

#include "kernel/real_f32.h"
#define NAME(x) x##_f32
#include "kernel/map_rows.h"
#undef NAME

#define MAP(name, features)                                                                                            \
  const struct kernel_map kernel_map_##name = {.features_per_direction = features, .f32 = name##_f32, .f64 = name##_f64}
MAP(positive, 1);
MAP(hyperbolic, 2);
MAP(trigonometric, 2);
MAP(relu, 1);
MAP(elu, 1);
MAP(exp, 1);
MAP(gelu, 1);
MAP(sigmoid, 1);
MAP(tanh, 1);
MAP(abs, 1);
MAP(square, 1);
MAP(cos, 1);
MAP(identity, 1);

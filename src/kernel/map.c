#include "kernel/map.h"

#include <math.h>
#include <string.h>

#include "base/vectors.h"

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

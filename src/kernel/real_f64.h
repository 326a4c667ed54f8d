/* double, for kernel/tile_body.h. */
#undef REAL
#undef REAL_BITS
#undef REAL_MANTISSA_BITS
#undef REAL_BIAS
#undef REAL_MAX
#undef REAL_MAP
#define REAL double
#define REAL_BITS uint64_t
#define REAL_MANTISSA_BITS 52
#define REAL_BIAS 1023
#define REAL_MAP f64
#define REAL_MAX DBL_MAX
/* As in real_f32.h. Largest relative error 1.2e-19. */
#undef EXP2_COEFFICIENTS
#define EXP2_COEFFICIENTS                                                                                              \
  2.572932417736230421e-11, 4.455817908336064493e-10, 7.054897304155499277e-9, 1.01780570877339411e-7,                 \
      1.321548680870556279e-6, 0.00001525273384155677259, 0.0001540353039337073341, 0.00133335581464064707,            \
      0.009618129107628479493, 0.05550410866482162704, 0.2402265069591007123, 0.6931471805599453093

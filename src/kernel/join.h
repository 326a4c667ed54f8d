/* Part of body.h and tile_body.h: two sums as one. */

static void NAME(copy_sum)(const struct kernel_shape *shape, const struct kernel_sum *from, struct kernel_sum *to) {
  size_t m = (size_t)shape->features;
  memcpy(to->exponent, from->exponent, m * sizeof *to->exponent);
  memcpy(to->s, from->s, m * (size_t)shape->s_stride * sizeof(REAL));
  memcpy(to->z, from->z, m * sizeof(REAL));
}

/* to = a + b at the higher exponent of each row. */
static void NAME(join_sums)(const struct kernel_shape *shape, const struct kernel_sum *a, const struct kernel_sum *b,
                            struct kernel_sum *to) {
  to->is_empty = a->is_empty && b->is_empty;
  if (to->is_empty) return;
  NAME(copy_sum)(shape, a->is_empty ? b : a, to);
  if (a->is_empty || b->is_empty) return;
  const REAL *b_z = b->z;
  REAL *z = to->z;
  for (int64_t r = 0; r < shape->features; r++) {
    int32_t own = to->exponent[r], other = b->exponent[r], top = own > other ? own : other;
    REAL own_factor = NAME(power_of_two)(own - top);
    REAL other_factor = NAME(power_of_two)(other - top);
    const REAL *restrict from = (const REAL *)b->s + r * shape->s_stride;
    REAL *restrict row = (REAL *)to->s + r * shape->s_stride;
    to->exponent[r] = top;
    z[r] = z[r] * own_factor + b_z[r] * other_factor;
    for (int64_t e = 0; e < shape->value_width; e++) row[e] = row[e] * own_factor + from[e] * other_factor;
  }
}

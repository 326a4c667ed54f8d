/* What public packages compute, each in one line. Sources and how far they are matched: tests/data/golden/README.md. */
#include <string.h>

#include <favor/favor.h>

struct profile {
  const char *name;
  enum favor_map map;
  double eps;
  enum favor_key_max key_max;
  enum favor_guard guard_rule;
  double guard;
  enum favor_row_norm row_norm;
  bool has_projection_per_head;
};

static const struct profile profiles[] = {
    {"google-jax", FAVOR_MAP_POSITIVE, 1e-6, FAVOR_KEY_MAX_HEAD, FAVOR_GUARD_SMALL, 1e-6, FAVOR_ROW_NORM_CHI, false},
    {"google-tf", FAVOR_MAP_POSITIVE, 1e-6, FAVOR_KEY_MAX_HEAD, FAVOR_GUARD_NONE, 0, FAVOR_ROW_NORM_CHI, false},
    {"lucidrains", FAVOR_MAP_POSITIVE, 1e-4, FAVOR_KEY_MAX_HEAD, FAVOR_GUARD_NORMALISER, 1e-6, FAVOR_ROW_NORM_CHI,
     false},
    {"lucidrains-legacy", FAVOR_MAP_POSITIVE, 1e-4, FAVOR_KEY_MAX_TENSOR, FAVOR_GUARD_NORMALISER, 1e-6,
     FAVOR_ROW_NORM_CHI, false},
    {"idiap", FAVOR_MAP_HYPERBOLIC, 0, FAVOR_KEY_MAX_NONE, FAVOR_GUARD_SUM, 1e-6, FAVOR_ROW_NORM_CHI, false},
    {"slim", FAVOR_MAP_POSITIVE, 0, FAVOR_KEY_MAX_NONE, FAVOR_GUARD_PLAIN_SUM, 1e-16, FAVOR_ROW_NORM_SQRT, true},
};
enum { N_PROFILES = sizeof profiles / sizeof profiles[0] };

const char *favor_profile_name(int index) { return index >= 0 && index < N_PROFILES ? profiles[index].name : NULL; }

enum favor_status favor_problem_set_profile(struct favor_problem *problem, const char *name) {
  for (int i = 0; i < N_PROFILES; i++) {
    const struct profile *profile = &profiles[i];
    if (strcmp(profile->name, name) != 0) continue;
    problem->map = profile->map;
    problem->eps = profile->eps;
    problem->key_max = profile->key_max;
    problem->guard_rule = profile->guard_rule;
    problem->guard = profile->guard;
    problem->row_norm = profile->row_norm;
    problem->has_projection_per_head = profile->has_projection_per_head;
    problem->scale = 0;
    return FAVOR_OK;
  }
  return FAVOR_EUSAGE;
}

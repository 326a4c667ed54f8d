/* What tests of maps share: the maps beside the exponential ones, and how far outputs are from the oracle's. */
#ifndef FAVOR_TESTS_MAP_CASES_H
#define FAVOR_TESTS_MAP_CASES_H

#include "oracle_maps.h"

enum { N_MAP_CASES = 11 };
extern const struct map_case {
  enum favor_map map;
  const char *name;
  bool is_signed;
} map_cases[N_MAP_CASES];
/* The place of one in the table. */
int map_case_at(enum favor_map map);

/* Of outputs where no feature is negative; else of numerators and normalisers, relative to the sizes of their terms. */
extern const double map_case_bound[2]; /* f32, f64 */

/* The figures of google-research/scenic's test of relu attention without a projection: 26/19, 58/43, 6/5, 36/26. */
extern const double map_case_relu_q[8], map_case_relu_k[8], map_case_relu_v[4], map_case_relu_out[4];

/* eps as the library uses it. */
double map_case_eps(const struct favor_problem *problem);

struct oracle_head map_case_head(const struct favor_problem *problem, const double *projection);

/* How far the outputs of a head are from the oracle's, in units of the bound; got [N][E]. */
double map_case_excess(const struct favor_problem *problem, bool is_signed, const struct oracle_quotients *right,
                       const double *got);

#endif

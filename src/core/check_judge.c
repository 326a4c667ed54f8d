#include <math.h>

#include "core/check_internal.h"
#include "core/check_map.h"

double check_guard(const struct check *check, int64_t place, int64_t row, int64_t head) {
  const int64_t group = check->problem.heads_per_key, m = check->n_features;
  const int64_t query = head / group * check->n_queries + row * group + head % group;
  double query_sum = 0;
  for (int64_t r = 0; r < m; r++) query_sum += check->q_feature[query * m + r];
  return check_map_guard(&check->problem, check->sums[place * (1 + check->problem.value_width)],
                         check->tops[place] + check->q_top[query], query_sum, check->q_top[query]);
}

/* What signs left of the definition's normaliser: its size over the sum of its terms' sizes. */
static double share_left(const struct check *check, int64_t row, int64_t head) {
  const int64_t columns = 1 + check->problem.value_width;
  const int64_t place = check_place(check, CHECK_DEFINITION, row, head),
                sizes = check_place(check, CHECK_SIZES, row, head);
  if (!check->is_signed) return 1;
  if (check->sums[sizes * columns] == 0) return 0;
  return fabs(check->sums[place * columns]) / check->sums[sizes * columns] *
         exp(check->tops[place] - check->tops[sizes]);
}

/* How far `out` is from `definition` beyond half a unit in the last place of the latter; infinite where either is no
 * finite number. */
static double distance_beyond_rounding(double out, double definition, struct check_type type) {
  const double distance = fabs(out - definition);
  if (!isfinite(distance)) return INFINITY;
  int exponent = definition == 0.0 ? type.min_exponent : ilogb(definition);
  if (exponent < type.min_exponent) exponent = type.min_exponent;
  return fmax(0.0, distance - ldexp(1.0, exponent - type.digits));
}

/* Adds the squares of one row to the sums of its head. weight: check_judge's c. */
static void judge_row(const struct check *check, int64_t row, int64_t head, double weight, const double *out,
                      struct check_type type, struct check_head *sums) {
  const int64_t width = check->problem.value_width;
  const double *definition = check->answers + CHECK_DEFINITION * width;
  const double *exact = check->answers + CHECK_EXACT * width, *mean = check->answers + CHECK_MEAN * width;
  for (int answer = 0; answer < CHECK_N_ANSWERS; answer++)
    check_value(check, answer, row, head, check->answers + answer * width);
  for (int64_t e = 0; e < width; e++) {
    const double distance = distance_beyond_rounding(out[e], definition[e], type);
    const double beyond = isfinite(distance) ? weight * weight * distance : distance, right = weight * definition[e];
    const double from_exact = isfinite(out[e]) ? out[e] - exact[e] : INFINITY, from_mean = mean[e] - exact[e];
    sums->definition += (long double)right * right;
    sums->definition_error += (long double)beyond * beyond;
    sums->exact += (long double)exact[e] * exact[e];
    sums->exact_error += (long double)from_exact * from_exact;
    sums->mean_error += (long double)from_mean * from_mean;
  }
}

static double weight_of_row(const struct check *check, int64_t row, int64_t head, double typical_share) {
  const double share = share_left(check, row, head);
  return share < typical_share ? share / typical_share : 1;
}

void check_judge(const struct check *check, int64_t head, const double *out, struct check_type type,
                 struct check_head *judged) {
  const struct check_problem *problem = &check->problem;
  const int64_t row_stride = problem->key_heads * problem->heads_per_key * problem->value_width;
  double share2 = 0;
  for (int64_t i = 0; i < problem->n_rows; i++) share2 += pow(share_left(check, i, head), 2);
  const double typical_share = sqrt(share2 / (double)problem->n_rows);
  out += head * problem->value_width;
  *judged = (struct check_head){0};
  for (int64_t i = 0; i < problem->n_rows; i++) {
    judge_row(check, i, head, weight_of_row(check, i, head, typical_share), out + i * row_stride, type, judged);
  }
  const long double mean_square = judged->definition / (long double)problem->n_rows;
  for (int64_t i = 0; i < problem->n_rows; i++) {
    struct check_head row = {0};
    judge_row(check, i, head, weight_of_row(check, i, head, typical_share), out + i * row_stride, type, &row);
    const double error = check_ratio(row.definition_error, fmaxl(row.definition, mean_square));
    if (error > judged->worst_error) {
      judged->worst_error = error;
      judged->worst_row = i;
    }
  }
}

double check_ratio(long double error, long double reference) {
  if (!isfinite(error) || !isfinite(reference)) return INFINITY;
  return error == 0 ? 0.0 : (double)sqrtl(error / reference);
}

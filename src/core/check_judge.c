/* Holding an output against the answers. */
#include <math.h>

#include "core/check_internal.h"

/* What signs left of the definition's normaliser: its size over the sum of its terms' sizes. */
static double share_left(const struct check *check, int64_t row, int64_t head) {
  if (!check->is_signed) return 1;
  const struct binned_row *terms = check_sums_of(check, CHECK_SIZES, row, head);
  const int64_t exponent = binned_magnitude(terms, 0);
  double total, size;
  if (exponent == BINNED_NONE) return 0;
  binned_value(terms, 0, 1, exponent, NULL, &size);
  binned_value(check_sums_of(check, CHECK_DEFINITION, row, head), 0, 1, exponent, NULL, &total);
  return fabs(total) / size;
}

/* check_judge's c; typical: the root mean square of the shares left. */
static double certainty_of(const struct check *check, int64_t row, int64_t head, double typical) {
  const double share = share_left(check, row, head);
  return share < typical ? share / typical : 1;
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

/* Adds the squares of one row to the sums of its head. certainty: check_judge's c. */
static void judge_row(const struct check *check, int64_t row, int64_t head, double certainty, const double *out,
                      struct check_type type, struct check_head *sums) {
  const struct check_problem *problem = &check->problem;
  const int64_t width = problem->value_width;
  const long double weight = problem->rows[row].weight;
  const bool is_defined = problem->definition != CHECK_NONE;
  double *answers = check->answers;
  const double *definition = answers + CHECK_DEFINITION * width;
  const double *exact = answers + CHECK_EXACT * width, *mean = answers + CHECK_MEAN * width;
  for (int answer = is_defined ? CHECK_DEFINITION : CHECK_EXACT; answer < CHECK_N_ANSWERS; answer++)
    check_value(check, answer, row, head, answers + answer * width);
  for (int64_t e = 0; e < width; e++) {
    const double from_exact = isfinite(out[e]) ? out[e] - exact[e] : INFINITY, from_mean = mean[e] - exact[e];
    sums->exact += weight * exact[e] * exact[e];
    sums->exact_error += weight * from_exact * from_exact;
    sums->mean_error += weight * from_mean * from_mean;
    if (!is_defined) continue;
    const double distance = distance_beyond_rounding(out[e], definition[e], type);
    const double beyond = isfinite(distance) ? certainty * certainty * distance : distance;
    const double right = certainty * definition[e];
    sums->definition += (long double)right * right;
    sums->definition_error += (long double)beyond * beyond;
  }
}

/* The row that is furthest from the definition. */
static void find_worst(const struct check *check, int64_t head, double typical_share, const double *out,
                       int64_t row_stride, struct check_type type, struct check_head *judged) {
  const int64_t n_rows = check->problem.n_rows;
  const long double mean_square = judged->definition / (long double)n_rows;
  for (int64_t i = 0; i < n_rows; i++) {
    struct check_head row = {0};
    judge_row(check, i, head, certainty_of(check, i, head, typical_share), out + i * row_stride, type, &row);
    const double error = check_ratio(row.definition_error, fmaxl(row.definition, mean_square));
    if (error > judged->worst_error) {
      judged->worst_error = error;
      judged->worst_row = i;
    }
  }
}

void check_judge(const struct check *check, int64_t head, const double *out, struct check_type type,
                 struct check_head *judged) {
  const struct check_problem *problem = &check->problem;
  const int64_t row_stride = problem->key_heads * problem->heads_per_key * problem->value_width;
  out += head * problem->value_width;
  *judged = (struct check_head){0};
  double share2 = 0;
  for (int64_t i = 0; i < problem->n_rows; i++) share2 += pow(share_left(check, i, head), 2);
  const double typical_share = sqrt(share2 / (double)problem->n_rows);
  for (int64_t i = 0; i < problem->n_rows; i++)
    judge_row(check, i, head, certainty_of(check, i, head, typical_share), out + i * row_stride, type, judged);
  if (problem->definition != CHECK_NONE) find_worst(check, head, typical_share, out, row_stride, type, judged);
}

void check_head_add(struct check_head *sum, const struct check_head *head) {
  sum->definition += head->definition;
  sum->definition_error += head->definition_error;
  sum->exact += head->exact;
  sum->exact_error += head->exact_error;
  sum->mean_error += head->mean_error;
}

double check_ratio(long double error, long double reference) {
  if (!isfinite(error) || !isfinite(reference)) return INFINITY;
  return error == 0 ? 0.0 : (double)sqrtl(error / reference);
}

/* Exact attention is known to about this; where the mean of v is as near, it is exact. */
static const double resolution = 1e-12;

struct check_certificate check_certify(const struct check_head *sum, int64_t rows) {
  struct check_certificate certificate = {.rows = rows,
                                          .relative_error = check_ratio(sum->exact_error, sum->exact),
                                          .mean_error = check_ratio(sum->mean_error, sum->exact),
                                          .skill = NAN};
  if (certificate.mean_error > resolution) certificate.skill = 1 - certificate.relative_error / certificate.mean_error;
  return certificate;
}

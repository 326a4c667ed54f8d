/* Lemma 2 of Choromanski et al. 2021 for the positive map: the mean square error of the kernel's estimate times M, for
 * |x| = |y| = 1 and iid rows, at three angles, by quadrature over (w.x, w.y).
 *
 * The features are those that the library computes. A head with the single feature w, keys x, y, 0 and the unit vectors
 * for values gives out = (phi(x), phi(y), phi(0)) / sum, with phi(0) = 1; so out_0 / out_2 = phi(x) and out_1 / out_2 =
 * phi(y). One key head stands at every point w of the quadrature. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>

#include "run.h"

/* The trapezoid rule converges geometrically for a Gaussian times exponentials (Trefethen and Weideman, "The
 * exponentially convergent trapezoidal rule", SIAM Review 2014). The integrand exp(2 w.(x + y)) exp(-|w|^2 / 2) has its
 * peak at 2 (x + y), at most 4 away from 0. */
enum { POINTS = 47, N_POINTS = POINTS * POINTS, TOKENS = 3 };
static const double STEP = 0.5, FIRST = -9.5; /* to 13.5 */

struct angle {
  double x[2], y[2];
  double expected;        /* (exp(|x + y|^2) - 1) exp(2 x.y) */
  double figure, rounded; /* the same to four digits, and half a unit of the last */
};

static double point(int64_t i) { return FIRST + STEP * (double)i; }

static void fill(const struct angle *angle, struct case_tensors *t) {
  for (int64_t h = 0; h < N_POINTS; h++)
    for (int64_t j = 0; j < TOKENS; j++)
      for (int64_t d = 0; d < TOKENS; d++) {
        if (d < 2) case_key(t, h, j)[d] = j == 0 ? angle->x[d] : j == 1 ? angle->y[d] : 0;
        if (d < 2) case_query(t, h, j)[d] = 0;
        case_value(t, h, j)[d] = d == j;
      }
}

/* E (phi(x) phi(y))^2 - exp(2 x.y) over w ~ N(0, 1)^2. */
static double mean_square_error(const struct angle *angle, const double *out) {
  double second_moment = 0, mean = 0;
  for (int64_t h = 0; h < N_POINTS; h++) {
    double w0 = point(h / POINTS), w1 = point(h % POINTS);
    double density = exp(-(w0 * w0 + w1 * w1) / 2) / 6.283185307179586477 * STEP * STEP;
    const double *row = out + h * TOKENS * TOKENS; /* of the first query */
    double kernel = row[0] / row[2] * (row[1] / row[2]);
    mean += density * kernel;
    second_moment += density * kernel * kernel;
  }
  double exact = exp(angle->x[0] * angle->y[0] + angle->x[1] * angle->y[1]);
  assert_all(fabs(mean / exact - 1) < 1e-10); /* lemma 1: the estimate is unbiased */
  return second_moment - exact * exact;
}

static void mean_square_error_is_that_of_lemma_2(void **state) {
  (void)state;
  const struct angle angles[] = {
      {{1, 0}, {0, 1}, exp(2) - 1, 6.389, 5e-4},
      {{1, 0}, {1, 0}, (exp(4) - 1) * exp(2), 396.0, 0.05},
      {{1, 0}, {-1, 0}, 0, 0, 1e-8},
      {{0.6, 0.8}, {0.28, 0.96}, (exp(2 + 2 * 0.936) - 1) * exp(2 * 0.936), NAN, 0},
  };
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = favor_problem_default();
  double *w = calloc(2 * N_POINTS, sizeof *w), *out = calloc(N_POINTS * TOKENS * TOKENS, sizeof *out);
  for (int64_t h = 0; h < N_POINTS; h++) {
    w[2 * h] = point(h / POINTS);
    w[2 * h + 1] = point(h % POINTS);
  }
  problem.precision = FAVOR_PRECISION_F64;
  problem.heads = problem.kv_heads = N_POINTS;
  problem.tokens = problem.value_width = TOKENS;
  problem.key_width = 2;
  problem.features = 1;
  problem.scale = 1;
  problem.has_projection_per_head = true;
  problem.projection_data = w;
  for (size_t i = 0; i < sizeof angles / sizeof angles[0]; i++) {
    struct case_tensors t;
    case_tensors_create(&problem, 0, 0, &t);
    fill(&angles[i], &t);
    assert_all(run_problem(contexts.self, &problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    double error = mean_square_error(&angles[i], out);
    run_print("x.y = %6.3f: MSE M = %.10f\n", angles[i].x[0] * angles[i].y[0] + angles[i].x[1] * angles[i].y[1], error);
    assert_all(fabs(error - angles[i].expected) < 1e-8 * fmax(1, angles[i].expected));
    if (!isnan(angles[i].figure)) assert_all(fabs(error - angles[i].figure) < angles[i].rounded);
    case_tensors_destroy(&t);
  }
  free(out);
  free(w);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {mpi_unit_test(mean_square_error_is_that_of_lemma_2)};
  return mpi_cmocka_main(&argc, &argv, "lemma2", tests, sizeof tests / sizeof tests[0]);
}

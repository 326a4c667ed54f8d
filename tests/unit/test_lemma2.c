/* Lemma 2 of Choromanski et al. 2021 for the positive, the hyperbolic and the trigonometric map: the mean square error
 * of the kernel's estimate times M, for |x| = |y| = 1 and iid rows, by quadrature over (w.x, w.y).
 *
 * The features are those that the library computes. A head with the single direction w, keys x, y, 0 and the unit
 * vectors for values gives a query q the output (K(q, x), K(q, y), K(q, 0)) / sum, where K(a, b) = phi(a).phi(b) and
 * K(0, 0) = 1. So query 0 tells K(0, x) = K(x, 0), and query x then tells K(x, y). One key head stands at every point w
 * of the quadrature. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>

#include "run.h"

/* The trapezoid rule converges geometrically for a Gaussian times exponentials (Trefethen and Weideman, "The
 * exponentially convergent trapezoidal rule", SIAM Review 2014). The integrand exp(2 w.(x + y)) exp(-|w|^2 / 2) has its
 * peak at 2 (x + y), at most 4 away from 0, and of the hyperbolic map there is another opposite; that of the
 * trigonometric map has cosines in place of exponentials. */
enum { POINTS = 55, N_POINTS = POINTS * POINTS, TOKENS = 3, N_MAPS = 3 };
static const double STEP = 0.5, FIRST = -13.5; /* to 13.5 */

struct angle {
  double x[2], y[2];
  double figure[N_MAPS], rounded[N_MAPS]; /* the error to four digits by map, and half a unit of the last; NAN: any */
};

/* In closed form: E cosh(w.z)^2 = (1 + exp(2 |z|^2)) / 2, z = x + y; and, with d = x - y, E cos(w.d) = exp(-|d|^2 / 2)
 * and E cos(w.d)^2 = (1 + exp(-2 |d|^2)) / 2, times exp(|x|^2 + |y|^2). */
static double expected(enum favor_map map, double dot) {
  double square = exp(2 * dot);
  if (map == FAVOR_MAP_TRIGONOMETRIC) return exp(2) * pow(1 - exp(-2 + 2 * dot), 2) / 2;
  return map == FAVOR_MAP_POSITIVE ? (exp(2 + 2 * dot) - 1) * square : (exp(-2) + exp(2 + 4 * dot)) / 2 - square;
}

static double point(int64_t i) { return FIRST + STEP * (double)i; }

static void fill(const struct angle *angle, struct case_tensors *t) {
  for (int64_t h = 0; h < N_POINTS; h++)
    for (int64_t j = 0; j < TOKENS; j++)
      for (int64_t d = 0; d < TOKENS; d++) {
        if (d < 2) case_key(t, h, j)[d] = j == 0 ? angle->x[d] : j == 1 ? angle->y[d] : 0;
        if (d < 2) case_query(t, h, j)[d] = case_key(t, h, j)[d];
        case_value(t, h, j)[d] = d == j;
      }
}

/* E K(x, y)^2 - exp(2 x.y) over w ~ N(0, 1)^2. */
static double mean_square_error(const struct angle *angle, const double *out) {
  double second_moment = 0, mean = 0;
  for (int64_t h = 0; h < N_POINTS; h++) {
    double w0 = point(h / POINTS), w1 = point(h % POINTS);
    double density = exp(-(w0 * w0 + w1 * w1) / 2) / 6.283185307179586477 * STEP * STEP;
    const double *of_x = out + h * TOKENS * TOKENS, *of_0 = of_x + 2 * TOKENS;
    double kernel = of_0[0] / of_0[2] * (of_x[1] / of_x[2]);
    mean += density * kernel;
    second_moment += density * kernel * kernel;
  }
  double exact = exp(angle->x[0] * angle->y[0] + angle->x[1] * angle->y[1]);
  assert_all(fabs(mean / exact - 1) < 1e-10); /* lemma 1: the estimate is unbiased */
  return second_moment - exact * exact;
}

/* Of one map, at each angle. */
static void compare(const struct run_contexts *contexts, struct favor_problem *problem, double *out) {
  static const struct angle angles[] = {
      {{1, 0}, {0, 1}, {6.389, 2.762, 2.762}, {5e-4, 5e-4, 5e-4}},
      {{1, 0}, {1, 0}, {396.0, 194.4, 0}, {0.05, 0.05, 1e-8}},
      {{1, 0}, {-1, 0}, {0, 0, 3.560}, {1e-8, 1e-8, 5e-4}},
      {{0.6, 0.8}, {0.28, 0.96}, {(double)NAN, (double)NAN, (double)NAN}, {0, 0, 0}},
  };
  for (size_t i = 0; i < sizeof angles / sizeof angles[0]; i++) {
    const struct angle *angle = &angles[i];
    struct case_tensors t;
    case_tensors_create(problem, 0, 0, &t);
    fill(angle, &t);
    assert_all(run_problem(contexts->self, problem, &t, RUN_EXECUTE, out) == FAVOR_OK);
    double dot = angle->x[0] * angle->y[0] + angle->x[1] * angle->y[1];
    double error = mean_square_error(angle, out), right = expected(problem->map, dot);
    run_print("map %d, x.y = %6.3f: MSE M = %.10f\n", (int)problem->map, dot, error);
    assert_all(fabs(error - right) < 1e-8 * fmax(1, right));
    if (!isnan(angle->figure[problem->map]))
      assert_all(fabs(error - angle->figure[problem->map]) < angle->rounded[problem->map]);
    case_tensors_destroy(&t);
  }
}

static void mean_square_error_is_that_of_lemma_2(void **state) {
  (void)state;
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
  problem.is_negative_allowed = true;
  problem.projection_data = w;
  for (int map = 0; map < N_MAPS; map++) {
    problem.map = (enum favor_map)map;
    compare(&contexts, &problem, out);
  }
  free(out);
  free(w);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {mpi_unit_test(mean_square_error_is_that_of_lemma_2)};
  return mpi_cmocka_main(&argc, &argv, "lemma2", tests, sizeof tests / sizeof tests[0]);
}

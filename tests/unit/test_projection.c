/* The projection as a plan hands it out: orthogonal blocks, row lengths, moments, no bias, and what it depends on.
 * Statistical bounds are five standard errors of fixed seeds: they hold or fail for good. */
#include "mpi_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "run.h"

static struct favor_problem problem_of(enum favor_projection projection, enum favor_row_norm row_norm, int64_t features,
                                       int64_t key_width) {
  struct favor_problem problem = favor_problem_default();
  problem.precision = FAVOR_PRECISION_F64;
  problem.projection = projection;
  problem.row_norm = row_norm;
  problem.features = features;
  problem.key_width = key_width;
  problem.value_width = 1;
  problem.tokens = 1;
  return problem;
}

/* [M][D], or [G][M][D]; owned by the caller. */
static double *draw(struct favor_context *self, const struct favor_problem *problem) {
  int64_t count = (problem->has_projection_per_head ? problem->kv_heads : 1) * problem->features * problem->key_width;
  double *w = calloc((size_t)count, sizeof *w);
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(self, problem, &plan) == FAVOR_OK);
  for (int64_t i = 0; i < count; i++) w[i] = run_element(problem, favor_plan_projection(plan), i);
  favor_plan_destroy(&plan);
  return w;
}

static double dot(const double *a, const double *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Rows of one block of D are orthogonal, the last, cut block too; lengths are sqrt(D). */
static void blocks_are_orthogonal(void **state) {
  (void)state;
  static const int64_t shapes[][2] = {{1, 1}, {5, 1}, {7, 3}, {64, 64}, {266, 64}, {200, 160}, {3, 16}};
  struct run_contexts contexts = run_contexts_open();
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    int64_t features = shapes[i][0], width = shapes[i][1];
    struct favor_problem problem = problem_of(FAVOR_PROJECTION_ORTHOGONAL, FAVOR_ROW_NORM_SQRT, features, width);
    double *w = draw(contexts.self, &problem), worst = 0;
    for (int64_t r = 0; r < features; r++)
      for (int64_t s = r / width * width; s <= r; s++) {
        double expected = s == r ? (double)width : 0;
        worst = oracle_worse(worst, fabs(dot(w + r * width, w + s * width, width) - expected) / (double)width);
      }
    free(w);
    assert_all(worst < 1e-13);
  }
  run_contexts_close(&contexts);
}

/* A whole Hadamard block is D' rows of an orthogonal D' x D' matrix times sqrt(D'), cut to D columns: these stay
 * orthogonal, of length D'; so do the rows, of every block, where nothing is cut. */
static void hadamard_blocks_are_orthogonal(void **state) {
  (void)state;
  static const int64_t shapes[][3] = {{5, 1, 1},     {8, 2, 2},       {9, 3, 4},  {64, 64, 64},
                                      {266, 64, 64}, {300, 100, 128}, {3, 16, 16}};
  struct run_contexts contexts = run_contexts_open();
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    int64_t features = shapes[i][0], width = shapes[i][1], padded = shapes[i][2];
    struct favor_problem problem = problem_of(FAVOR_PROJECTION_HADAMARD, FAVOR_ROW_NORM_SQRT, features, width);
    double *w = draw(contexts.self, &problem), worst = 0;
    for (int64_t r = 0; r < features && width == padded; r++)
      for (int64_t s = r / padded * padded; s <= r; s++) {
        double expected = s == r ? (double)padded : 0;
        worst = oracle_worse(worst, fabs(dot(w + r * width, w + s * width, width) - expected));
      }
    for (int64_t first = 0; first + padded <= features; first += padded)
      for (int64_t a = 0; a < width; a++)
        for (int64_t b = 0; b <= a; b++) {
          double sum = a == b ? -(double)padded : 0;
          for (int64_t r = first; r < first + padded; r++) sum += w[r * width + a] * w[r * width + b];
          worst = oracle_worse(worst, fabs(sum));
        }
    free(w);
    assert_all(worst < 1e-13 * (double)padded);
  }
  run_contexts_close(&contexts);
}

/* A single Hadamard row is sqrt(D') H D2 H D1 H D0 / D'^(3/2): multiples of 1 / D', of mean 0 and variance 1 over
 * blocks, at every place and with the width padded. */
static void hadamard_entries_are_centred(void **state) {
  (void)state;
  enum { ROWS = 64, D = 11, PADDED = 16, DRAWS = 2000 };
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(FAVOR_PROJECTION_HADAMARD, FAVOR_ROW_NORM_SQRT, ROWS, D);
  double *mean = calloc(ROWS * D, sizeof *mean), *square = calloc(ROWS * D, sizeof *square), worst = 0, total = 0;
  for (problem.seed = 0; problem.seed < DRAWS; problem.seed++) {
    double *w = draw(contexts.self, &problem);
    for (int i = 0; i < ROWS * D; i++) {
      assert_all(w[i] * PADDED == rint(w[i] * PADDED));
      mean[i] += w[i] / DRAWS;
      square[i] += w[i] * w[i] / DRAWS;
    }
    free(w);
  }
  for (int i = 0; i < ROWS * D; i++) {
    worst = oracle_worse(worst, oracle_worse(fabs(mean[i]) * sqrt(DRAWS), fabs(square[i] - 1) * sqrt(DRAWS / 2.0)));
    total += square[i] / (ROWS * D);
  }
  run_print("entries of Hadamard blocks: worst deviation %.2f standard errors, mean square %.4f\n", worst, total);
  assert_all(worst < 5);
  free(mean);
  free(square);
  run_contexts_close(&contexts);
}

/* Rows of one block of D have pairwise the cosine -1 / (D - 1), the last, cut block too; lengths are sqrt(D). In one
 * dimension a row is 1 or -1. */
static void simplex_rows_are_far_apart(void **state) {
  (void)state;
  static const int64_t shapes[][2] = {{5, 1}, {7, 2}, {7, 3}, {64, 64}, {266, 64}, {200, 160}, {3, 16}};
  struct run_contexts contexts = run_contexts_open();
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    int64_t features = shapes[i][0], width = shapes[i][1];
    struct favor_problem problem = problem_of(FAVOR_PROJECTION_SIMPLEX, FAVOR_ROW_NORM_SQRT, features, width);
    double *w = draw(contexts.self, &problem), worst = 0;
    for (int64_t r = 0; r < features; r++)
      for (int64_t s = r / width * width; s <= r; s++) {
        double expected = s == r ? 1 : -1 / (double)(width - 1);
        worst = oracle_worse(worst, fabs(dot(w + r * width, w + s * width, width) / (double)width - expected));
      }
    free(w);
    assert_all(worst < 1e-13);
  }
  run_contexts_close(&contexts);
}

/* u is the token itself. */
static void none_is_the_identity(void **state) {
  (void)state;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(FAVOR_PROJECTION_NONE, FAVOR_ROW_NORM_CHI, 5, 5);
  problem.map = FAVOR_MAP_RELU;
  problem.heads = problem.kv_heads = 2;
  problem.has_projection_per_head = true;
  for (problem.redraw = 0; problem.redraw < 2; problem.redraw++) {
    double *w = draw(contexts.self, &problem);
    for (int i = 0; i < 50; i++) assert_all(w[i] == (i % 25 / 5 == i % 5));
    free(w);
  }
  run_contexts_close(&contexts);
}

/* With chi lengths rows stay orthogonal, and |w|^2 has the mean D and |w| the mean of chi(D). */
static void chi_lengths_have_the_chi_mean(void **state) {
  (void)state;
  enum { ROWS = 8192 };
  static const int64_t widths[] = {1, 2, 8, 64};
  struct run_contexts contexts = run_contexts_open();
  for (int projection = FAVOR_PROJECTION_ORTHOGONAL; projection <= FAVOR_PROJECTION_SIMPLEX; projection++)
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
      int64_t width = widths[i];
      struct favor_problem problem = problem_of((enum favor_projection)projection, FAVOR_ROW_NORM_CHI, ROWS, width);
      double *w = draw(contexts.self, &problem), length = 0, length2 = 0;
      for (int64_t r = 0; r < ROWS; r++) {
        double norm2 = dot(w + r * width, w + r * width, width);
        length += sqrt(norm2) / ROWS;
        length2 += norm2 / ROWS;
      }
      double mean = sqrt(2) * exp(lgamma((double)(width + 1) / 2) - lgamma((double)width / 2));
      double variance = (double)width - mean * mean;
      assert_all(fabs(length - mean) < 5 * sqrt(variance / ROWS));
      assert_all(fabs(length2 - (double)width) < 5 * sqrt(2 * (double)width / ROWS));
      bool is_orthogonal = projection == FAVOR_PROJECTION_ORTHOGONAL || projection == FAVOR_PROJECTION_HADAMARD;
      if (is_orthogonal && width > 1) assert_all(fabs(dot(w, w + width, width)) < 1e-13 * (double)width);
      free(w);
    }
  run_contexts_close(&contexts);
}

static void gaussian_has_the_moments(void **state) {
  (void)state;
  enum { ROWS = 8192, WIDTH = 16, COUNT = ROWS * WIDTH };
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(FAVOR_PROJECTION_GAUSSIAN, FAVOR_ROW_NORM_CHI, ROWS, WIDTH);
  double *w = draw(contexts.self, &problem), moment[5] = {0}, neighbours = 0;
  for (int64_t i = 0; i < COUNT; i++) {
    for (int power = 1; power <= 4; power++) moment[power] += pow(w[i], power) / COUNT;
    if (i > 0) neighbours += w[i] * w[i - 1] / COUNT;
  }
  assert_all(fabs(moment[1]) < 5 * sqrt(1.0 / COUNT));
  assert_all(fabs(moment[2] - 1) < 5 * sqrt(2.0 / COUNT));
  assert_all(fabs(moment[3]) < 5 * sqrt(15.0 / COUNT));
  assert_all(fabs(moment[4] - 3) < 5 * sqrt(96.0 / COUNT));
  assert_all(fabs(neighbours) < 5 * sqrt(1.0 / COUNT));
  free(w);
  run_contexts_close(&contexts);
}

/* ---- bias -------------------------------------------------------------------------------------------------------- */

enum { SEEDS = 96, FEATURES = 4096, WIDTH = 8, BLOCKS = SEEDS * FEATURES / WIDTH };

/* Every entry of a block has the mean 0 and the variance 1 over blocks. A QR without the sign of its R fails here by
 * tens of standard errors: its diagonal entries have one sign. */
static void entries_of_blocks_are_centred_of(enum favor_projection projection) {
  double mean[WIDTH * WIDTH] = {0}, square[WIDTH * WIDTH] = {0}, worst = 0;
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(projection, FAVOR_ROW_NORM_CHI, FEATURES, WIDTH);
  for (problem.seed = 0; problem.seed < SEEDS; problem.seed++) {
    double *w = draw(contexts.self, &problem);
    for (int64_t i = 0; i < FEATURES * WIDTH; i++) {
      mean[i % (WIDTH * WIDTH)] += w[i] / BLOCKS;
      square[i % (WIDTH * WIDTH)] += w[i] * w[i] / BLOCKS;
    }
    free(w);
  }
  for (int i = 0; i < WIDTH * WIDTH; i++)
    worst = oracle_worse(worst, oracle_worse(fabs(mean[i]) * sqrt(BLOCKS), fabs(square[i] - 1) * sqrt(BLOCKS / 2.0)));
  run_print("entries of blocks: worst deviation %.2f standard errors\n", worst);
  assert_all(worst < 5);
  run_contexts_close(&contexts);
}

static void entries_of_blocks_are_centred(void **state) {
  (void)state;
  entries_of_blocks_are_centred_of(FAVOR_PROJECTION_ORTHOGONAL);
  entries_of_blocks_are_centred_of(FAVOR_PROJECTION_SIMPLEX);
}

/* The kernel's estimate over exp(x.y), for x = y of length 1 along `direction`: E exp(w.z - |z|^2 / 2) = 1 for z = 2 x.
 * One row has the variance exp(|z|^2) - 1 = 53.6; orthogonal rows do not add to it, nor do those of a simplex. */
static void kernel_along_a_diagonal_is_unbiased_of(enum favor_projection projection) {
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(projection, FAVOR_ROW_NORM_CHI, FEATURES, WIDTH);
  double estimate[2] = {0, 0}, n_rows = (double)SEEDS * FEATURES;
  for (problem.seed = 0; problem.seed < SEEDS; problem.seed++) {
    double *w = draw(contexts.self, &problem);
    for (int64_t r = 0; r < FEATURES; r++) {
      double along_axis = w[r * WIDTH], along_diagonal = 0;
      for (int64_t d = 0; d < WIDTH; d++) along_diagonal += w[r * WIDTH + d] / sqrt(WIDTH);
      estimate[0] += exp(2 * along_axis - 2) / n_rows;
      estimate[1] += exp(2 * along_diagonal - 2) / n_rows;
    }
    free(w);
  }
  double standard_error = sqrt((exp(4) - 1) / n_rows);
  run_print("kernel over exp(x.y) at D=8: %.4f along an axis, %.4f along the diagonal, standard error %.4f\n",
            estimate[0], estimate[1], standard_error);
  assert_all(fabs(estimate[0] - 1) < 5 * standard_error);
  assert_all(fabs(estimate[1] - 1) < 5 * standard_error);
  run_contexts_close(&contexts);
}

static void kernel_along_a_diagonal_is_unbiased(void **state) {
  (void)state;
  kernel_along_a_diagonal_is_unbiased_of(FAVOR_PROJECTION_ORTHOGONAL);
  kernel_along_a_diagonal_is_unbiased_of(FAVOR_PROJECTION_SIMPLEX);
}

/* ---- what it depends on ------------------------------------------------------------------------------------------ */

/* The correlation of two draws: 0 within five standard errors where they are independent. */
static double correlation(const double *a, const double *b, int64_t n) {
  return dot(a, b, n) / sqrt(dot(a, a, n) * dot(b, b, n));
}

static void each_name_has_its_own(void **state) {
  (void)state;
  enum { M = 64, D = 32, COUNT = M * D };
  struct run_contexts contexts = run_contexts_open();
  for (int projection = FAVOR_PROJECTION_ORTHOGONAL; projection <= FAVOR_PROJECTION_SIMPLEX; projection++) {
    struct favor_problem base = problem_of((enum favor_projection)projection, FAVOR_ROW_NORM_CHI, M, D), other;
    base.heads = base.kv_heads = 3;
    base.has_projection_per_head = true;
    double *drawn[6];
    drawn[0] = draw(contexts.self, &base);
    drawn[1] = draw(contexts.self, &base);
    other = base, other.seed += 1, drawn[2] = draw(contexts.self, &other);
    other = base, other.layer += 1, drawn[3] = draw(contexts.self, &other);
    other = base, other.redraw += 1, drawn[4] = draw(contexts.self, &other);
    other = base, other.seed += UINT64_C(1) << 32, drawn[5] = draw(contexts.self, &other);
    assert_all(memcmp(drawn[0], drawn[1], 3 * COUNT * sizeof(double)) == 0);
    for (int i = 2; i < 6; i++) assert_all(fabs(correlation(drawn[0], drawn[i], 3 * COUNT)) < 5 / sqrt(3.0 * COUNT));
    for (int i = 3; i < 6; i++) assert_all(fabs(correlation(drawn[2], drawn[i], 3 * COUNT)) < 5 / sqrt(3.0 * COUNT));
    for (int head = 1; head < 3; head++)
      assert_all(fabs(correlation(drawn[0], drawn[0] + head * COUNT, COUNT)) < 5 / sqrt(COUNT));
    for (int i = 0; i < 6; i++) free(drawn[i]);
  }
  run_contexts_close(&contexts);
}

/* Nothing else moves it: not the number of features before it, of tokens, of heads, the mode or the precision. */
static void nothing_else_changes(enum favor_projection projection) {
  enum { M = 96, D = 32 };
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem base = problem_of(projection, FAVOR_ROW_NORM_CHI, M, D), other = base;
  double *w = draw(contexts.self, &base);
  other.tokens = 1000;
  other.heads = other.kv_heads = 4;
  other.batch = 2;
  other.is_causal = true;
  other.features = M - 7;
  other.value_width = 9;
  double *same = draw(contexts.self, &other);
  assert_all(memcmp(w, same, (size_t)(other.features * D) * sizeof *w) == 0);
  other.precision = FAVOR_PRECISION_F32;
  double *rounded = draw(contexts.self, &other);
  for (int64_t i = 0; i < other.features * D; i++) assert_all(rounded[i] == (double)(float)w[i]);
  free(rounded);
  free(same);
  free(w);
  run_contexts_close(&contexts);
}

static void nothing_else_changes_it(void **state) {
  (void)state;
  nothing_else_changes(FAVOR_PROJECTION_ORTHOGONAL);
  nothing_else_changes(FAVOR_PROJECTION_HADAMARD);
  nothing_else_changes(FAVOR_PROJECTION_SIMPLEX);
}

/* A projection that was given is used as it is. */
static void a_given_projection_is_used(void **state) {
  (void)state;
  enum { G = 2, M = 5, D = 3 };
  double given[G * M * D];
  for (int i = 0; i < G * M * D; i++) given[i] = case_deviate(1, 2, (uint64_t)i);
  struct run_contexts contexts = run_contexts_open();
  struct favor_problem problem = problem_of(FAVOR_PROJECTION_ORTHOGONAL, FAVOR_ROW_NORM_SQRT, M, D);
  problem.heads = problem.kv_heads = G;
  problem.has_projection_per_head = true;
  problem.projection_data = given;
  double *w = draw(contexts.self, &problem);
  assert_all(memcmp(w, given, sizeof given) == 0);
  free(w);
  problem.precision = FAVOR_PRECISION_F32;
  w = draw(contexts.self, &problem);
  for (int i = 0; i < G * M * D; i++) assert_all(w[i] == (double)(float)given[i]);
  free(w);
  given[7] = (double)NAN;
  struct favor_plan *plan = NULL;
  assert_all(favor_plan_create(contexts.self, &problem, &plan) == FAVOR_EDATA);
  assert_all(plan == NULL);
  run_contexts_close(&contexts);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      mpi_unit_test(blocks_are_orthogonal),
      mpi_unit_test(hadamard_blocks_are_orthogonal),
      mpi_unit_test(hadamard_entries_are_centred),
      mpi_unit_test(simplex_rows_are_far_apart),
      mpi_unit_test(none_is_the_identity),
      mpi_unit_test(chi_lengths_have_the_chi_mean),
      mpi_unit_test(gaussian_has_the_moments),
      mpi_unit_test(entries_of_blocks_are_centred),
      mpi_unit_test(kernel_along_a_diagonal_is_unbiased),
      mpi_unit_test(each_name_has_its_own),
      mpi_unit_test(nothing_else_changes_it),
      mpi_unit_test(a_given_projection_is_used),
  };
  return mpi_cmocka_main(&argc, &argv, "projection", tests, sizeof tests / sizeof tests[0]);
}

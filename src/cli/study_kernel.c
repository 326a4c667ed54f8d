/* The mean square error of one estimate of the softmax kernel, against the closed forms of lemma 2 (Choromanski et al.
 * 2021) for independent rows, and of theorem 3.2 of Likhosherstov et al. 2022 for oprf. |x| = |y| = 1, at angles from 0
 * to 180 degrees; M = D rows, one block of a coupled projection; errors are times M.
 *
 * Where |x + y| is large the estimates are log-normal with heavy tails, and sampled errors come out too small: the
 * closed form is the truth there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "cli/option_table.h"
#include "cli/progress.h"
#include "cli/study.h"
#include "dist/agree.h"
#include "feature/projection.h"

enum { WIDTH = 16, N_ANGLES = 13, N_SAMPLES = 20000 };

enum kernel_map { TRIGONOMETRIC, POSITIVE, HYPERBOLIC, OPRF, N_MAPS };
static const char *const map_names[N_MAPS] = {"trigonometric", "positive", "hyperbolic", "oprf"};

/* At one angle: x + y = 2 c e1 and x - y = 2 s e2 for orthonormal e1, e2. */
struct angle {
  double degrees, c, s, softmax;
  double a, b, d2; /* oprf: A, Bc, Dc^2 */
};

static struct angle angle_at(int index) {
  const double pi = acos(-1), radians = pi * index / (N_ANGLES - 1), width = WIDTH;
  struct angle angle = {.degrees = 180.0 * index / (N_ANGLES - 1), .c = cos(radians / 2), .s = sin(radians / 2)};
  angle.softmax = exp(cos(radians));
  double f = 4 * angle.c * angle.c, root = sqrt((2 * f + width) * (2 * f + width) + 8 * width * f);
  angle.a = (width - 2 * f - root) / (16 * width);
  angle.b = sqrt(1 - 4 * angle.a);
  angle.d2 = pow(1 - 4 * angle.a, width / 2);
  return angle;
}

/* M times the mean square error for independent normal rows. */
static double closed_form(enum kernel_map map, const struct angle *angle) {
  const double sum2 = 4 * angle->c * angle->c, difference2 = 4 * angle->s * angle->s,
               softmax2 = angle->softmax * angle->softmax;
  const double positive = exp(sum2) * softmax2 * (1 - exp(-sum2));
  switch (map) {
  case TRIGONOMETRIC:
    return exp(sum2) / softmax2 * pow(1 - exp(-difference2), 2) / 2;
  case POSITIVE:
    return positive;
  case HYPERBOLIC:
    return (1 - exp(-sum2)) / 2 * positive;
  default: {
    double spread = 1 - 8 * angle->a;
    double moment =
        angle->d2 * angle->d2 * pow(spread, -WIDTH / 2.0) * exp(2 * angle->b * angle->b * sum2 / spread - 2);
    return moment - softmax2;
  }
  }
}

/* One row's estimate: along = w.e1, across = w.e2. */
static double estimate(enum kernel_map map, const struct angle *angle, double along, double across, double norm2) {
  switch (map) {
  case TRIGONOMETRIC:
    return exp(1) * cos(2 * angle->s * across);
  case POSITIVE:
    return exp(2 * angle->c * along - 1);
  case HYPERBOLIC:
    return cosh(2 * angle->c * along) * exp(-1);
  default:
    return angle->d2 * exp(2 * angle->a * norm2 + angle->b * 2 * angle->c * along - 1);
  }
}

static double dot(const double *x, const double *y) {
  double sum = 0;
  for (int d = 0; d < WIDTH; d++) sum += x[d] * y[d];
  return sum;
}

/* Two orthonormal vectors in a uniform plane, for not every projection is alike in all directions. */
static void draw_plane(uint64_t seed, uint64_t sample, double e1[WIDTH], double e2[WIDTH]) {
  struct random_stream stream = random_stream(seed, RANDOM_MAKE, sample, 3);
  random_normal(&stream, 0, WIDTH, e1);
  random_normal(&stream, WIDTH, WIDTH, e2);
  double along = dot(e1, e2) / dot(e1, e1);
  for (int d = 0; d < WIDTH; d++) e2[d] -= along * e1[d];
  double norm1 = sqrt(dot(e1, e1)), norm2 = sqrt(dot(e2, e2));
  for (int d = 0; d < WIDTH; d++) {
    e1[d] /= norm1;
    e2[d] /= norm2;
  }
}

static enum favor_status draw_rows(enum favor_projection kind, uint64_t seed, uint64_t sample, double *work,
                                   double *w) {
  struct projection_name name = {.seed = seed, .redraw = sample};
  if (kind != FAVOR_PROJECTION_HADAMARD) {
    return projection_draw(kind, FAVOR_ROW_NORM_CHI, &name, WIDTH, WIDTH, work, w);
  }
  double signs[3 * WIDTH], lengths[WIDTH];
  projection_draw_hadamard(FAVOR_ROW_NORM_CHI, &name, WIDTH, WIDTH, work, signs, lengths, w);
  return FAVOR_OK;
}

/* Local: this rank's samples into squares [N_MAPS][N_ANGLES]. */
static void sample(const struct study *study, enum favor_projection kind, double *work, double *squares) {
  const int64_t rank = favor_context_rank(study->context), size = favor_context_size(study->context);
  struct angle angles[N_ANGLES];
  for (int i = 0; i < N_ANGLES; i++) angles[i] = angle_at(i);
  for (int64_t s = rank; s < N_SAMPLES; s += size) {
    double w[WIDTH * WIDTH], e1[WIDTH], e2[WIDTH], sums[N_MAPS][N_ANGLES] = {{0}};
    draw_plane(study->seed, (uint64_t)s, e1, e2);
    if (draw_rows(kind, study->seed, (uint64_t)s, work, w) != FAVOR_OK) {
      dist_fail(study->context, FAVOR_EINTERNAL, "LAPACK could not draw a projection");
      return;
    }
    for (int r = 0; r < WIDTH; r++) {
      const double *row = w + r * WIDTH;
      double along = dot(row, e1), across = dot(row, e2), norm2 = dot(row, row);
      for (int map = 0; map < N_MAPS; map++) {
        for (int i = 0; i < N_ANGLES; i++) {
          sums[map][i] += estimate((enum kernel_map)map, &angles[i], along, across, norm2);
        }
      }
    }
    for (int map = 0; map < N_MAPS; map++) {
      for (int i = 0; i < N_ANGLES; i++)
        squares[map * N_ANGLES + i] += pow(sums[map][i] / WIDTH - angles[i].softmax, 2);
    }
  }
}

static void add_rows(const struct study *study, const char *projection, const double *squares,
                     struct study_table *table) {
  for (int map = 0; map < N_MAPS; map++) {
    for (int i = 0; i < N_ANGLES; i++) {
      struct angle angle = angle_at(i);
      const struct study_cell row[] = {study_text(map_names[map]), study_text(projection), study_number(angle.degrees),
                                       study_number(WIDTH * squares[map * N_ANGLES + i] / N_SAMPLES),
                                       study_number(closed_form((enum kernel_map)map, &angle))};
      if (!study_add(study, table, row)) return;
    }
  }
}

enum favor_status study_kernel(struct study *study, struct study_table *table) {
  *table = (struct study_table){
      .name = "kernel", .n_columns = 5, .columns = {"map", "projection", "degrees", "mse_times_m", "closed_form_iid"}};
  snprintf(table->note, sizeof table->note, "|x| = |y| = 1, M = D = %d, %d draws", WIDTH, N_SAMPLES);
  double *work = memory_zeroed(projection_work_count(WIDTH) + WIDTH, sizeof *work);
  if (!work) study_fail_memory(study);
  enum favor_status status = FAVOR_OK;
  struct progress progress;
  progress_start(&progress, study->command, "study", "projections", study->projections.n);
  for (int i = 0; i < study->projections.n && status == FAVOR_OK; i++) {
    int kind = study->projections.places[i];
    double squares[N_MAPS * N_ANGLES] = {0};
    if (work) sample(study, (enum favor_projection)kind, work, squares);
    status = dist_agree(study->context, DIST_SITE_COMMAND, 0, "");
    if (status == FAVOR_OK) status = dist_sum_double(study->context, squares, N_MAPS * N_ANGLES);
    if (status == FAVOR_OK) add_rows(study, option_at(OPTION_PROJECTION)->choices[kind], squares, table);
    progress_update(&progress, i + 1);
  }
  progress_end(&progress);
  free(work);
  return status == FAVOR_OK ? dist_agree(study->context, DIST_SITE_COMMAND, 0, "") : status;
}

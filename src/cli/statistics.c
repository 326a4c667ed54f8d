#include "cli/statistics.h"

#include <math.h>

double statistics_median(double *values, int n) {
  for (int i = 1; i < n; i++) {
    double value = values[i];
    int j = i;
    for (; j > 0 && values[j - 1] > value; j--) values[j] = values[j - 1];
    values[j] = value;
  }
  return n == 0 ? 0 : 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

void statistics_moments(const double *values, int n, double *mean, double *deviation) {
  double sum = 0, squares = 0;
  for (int i = 0; i < n; i++) sum += values[i];
  *mean = n > 0 ? sum / n : 0;
  for (int i = 0; i < n; i++) squares += (values[i] - *mean) * (values[i] - *mean);
  *deviation = n > 1 ? sqrt(squares / (n - 1)) : 0;
}

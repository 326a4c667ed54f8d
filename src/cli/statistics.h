/* What samples say. */
#ifndef FAVOR_CLI_STATISTICS_H
#define FAVOR_CLI_STATISTICS_H

/* Sorts values; 0 where there are none. */
double statistics_median(double *values, int n);

/* The mean of n values and their standard deviation, 0 of a single one. */
void statistics_moments(const double *values, int n, double *mean, double *deviation);

#endif

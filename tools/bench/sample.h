/* Figures of several runs, and what they come to. */
#ifndef DEJAVM_TOOLS_BENCH_SAMPLE_H
#define DEJAVM_TOOLS_BENCH_SAMPLE_H

#include <stdlib.h>

#define RUNS_MAX 99u

static inline int sample_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. NAN of none. */
static inline double sample_median(double *values, unsigned count)
{
    if (!count)
        return __builtin_nan("");
    qsort(values, count, sizeof(*values), sample_compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

#endif

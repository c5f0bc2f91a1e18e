/*
 * How long moving through a trace takes: prints p50, p99 and max of goto to random positions, of a reverse step after each,
 * of reverse steps in a row, and of forward steps, in milliseconds of CPU time: nothing waits here, and what else the host does is not to
 * count.
 *
 *   bench_timeline TRACE [COUNT [SEED]]
 *
 * The first WARM_UP operations of a session are told apart: nothing is known then.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "replay/timeline.h"

#define WARM_UP     100u
#define IN_A_ROW    20u
#define DEFAULT_RUN 400u

struct series {
    const char *name;
    double *ms;
    size_t count;
};

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *seed;
    x ^= x >> 29;
    return x * 0x9e3779b97f4a7c15u >> 11;
}

static void go(struct timeline *t, position_t position, struct series *s)
{
    struct error err;
    double start = now_ms();
    if (timeline_goto(t, position, NULL, &err) < 0) {
        fprintf(stderr, "bench_timeline: %s\n", err.message);
        exit(1);
    }
    s->ms[s->count++] = now_ms() - start;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_part(const char *name, const char *part, double *ms, size_t count)
{
    if (!count)
        return;
    qsort(ms, count, sizeof(*ms), ascending);
    printf("%-24s %-10s n %6zu  p50 %9.3f  p99 %9.3f  max %9.3f ms\n", name, part, count, ms[count / 2],
           ms[count * 99 / 100], ms[count - 1]);
}

static void print(struct series *s)
{
    size_t first = s->count < WARM_UP ? s->count : WARM_UP;
    print_part(s->name, "first", s->ms, first);
    print_part(s->name, "after", s->ms + first, s->count - first);
}

int main(int argc, char **argv)
{
    struct error err;
    struct timeline *t;
    size_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : DEFAULT_RUN;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    if (argc < 2 || count < 1 || count > 1000000) {
        fprintf(stderr, "usage: bench_timeline TRACE [COUNT [SEED]]\n");
        return 2;
    }
    double start = now_ms();
    if (timeline_open(&t, argv[1], NULL, &err) < 0) {
        fprintf(stderr, "bench_timeline: %s\n", err.message);
        return 1;
    }
    printf("open                     %9.3f ms, %" PRIu64 " steps\n", now_ms() - start, timeline_end(t));
    enum { GOTO, REVERSE, ROW, FORWARD, SERIES };
    struct series series[SERIES] = {{.name = "goto anywhere"},
                                    {.name = "reverse step after goto"},
                                    {.name = "reverse steps in a row"},
                                    {.name = "forward step"}};
    for (unsigned i = 0; i < SERIES; i++) {
        series[i].ms = calloc(count * IN_A_ROW, sizeof(double));
        if (!series[i].ms)
            return 1;
    }
    for (size_t i = 0; i < count; i++) {
        position_t end = timeline_end(t);
        go(t, end > 100 ? 50 + random_next(&seed) % (end - 50) : end, &series[GOTO]);
        go(t, timeline_position(t) - 1, &series[REVERSE]);
        for (unsigned j = 0; j < IN_A_ROW; j++)
            go(t, timeline_position(t) - 1, &series[ROW]);
        for (unsigned j = 0; j < IN_A_ROW; j++)
            go(t, timeline_position(t) + 1, &series[FORWARD]);
    }
    for (unsigned i = 0; i < SERIES; i++) {
        print(&series[i]);
        free(series[i].ms);
    }
    struct timeline_statistics statistics;
    timeline_statistics(t, &statistics);
    printf("%" PRIu64 " checkpoints of %.1f MiB, %" PRIu64 " restores, %" PRIu64 " keyframes loaded, %" PRIu64
           " steps run\n",
           statistics.checkpoints, (double)statistics.checkpoint_bytes / 1048576.0, statistics.restores,
           statistics.keyframe_loads, statistics.steps_executed);
    timeline_close(t);
    return 0;
}

/*
 * dejavm-bench, without a subcommand: how fast the emulator runs small loops, and how fast this host runs the same loops itself.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/bench/bench_guest.h"
#include "tools/bench/commands.h"
#include "tools/bench/sample.h"
#include "tools/json.h"

#define RUNS_DEFAULT  5u
#define GUEST_TIME_NS 150000000u /* of one run */
#define HOST_TIME_NS  30000000u

struct options {
    bool json, list;
    unsigned runs;
    const char *only; /* NULL: all */
};

/* Who runs a loop: the emulator's stages, and this host. */
#define HOST    STAGE_COUNT
#define RUNNERS (STAGE_COUNT + 1)

/* Medians over the runs. */
struct result {
    double steps_per_iteration;
    double steps_per_second[STAGE_COUNT];
    double ns[RUNNERS]; /* per iteration; 0: not there */
};

/* The thread's own time: nothing here waits, and other processes on the machine do not count. */
static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- measuring ---- */

struct bench {
    struct bench_guest *guest;
    struct bench_host *host;
};

/* One timed run; steps is left alone by the host. */
static int timed(const struct bench *b, const struct bench_loop *loop, unsigned runner, uint64_t iterations,
                 uint64_t *steps, uint64_t *ns, struct error *err)
{
    uint64_t start = now_ns();
    int result = runner == HOST
                     ? bench_host_run(b->host, loop, iterations, err)
                     : bench_guest_run(b->guest, loop, (enum bench_stage)runner, iterations, steps, err);
    *ns = now_ns() - start;
    return result;
}

/* The number of iterations that takes about wanted_ns. */
static int calibrate(const struct bench *b, const struct bench_loop *loop, unsigned runner,
                     uint64_t *iterations, struct error *err)
{
    uint64_t count = 64, steps, ns = 0, wanted_ns = runner == HOST ? HOST_TIME_NS : GUEST_TIME_NS;
    int result;
    for (;;) {
        result = timed(b, loop, runner, count, &steps, &ns, err);
        if (result < 0 || ns >= wanted_ns / 4 || count > UINT64_C(1) << 40)
            break;
        count *= 4;
    }
    double scaled = (double)count * (double)wanted_ns / (double)(ns ? ns : 1);
    *iterations = scaled < 1 ? 1 : (uint64_t)scaled;
    return result;
}

static int measure(const struct bench *b, const struct bench_loop *loop, unsigned runs, struct result *out,
                   struct error *err)
{
    double ns[RUNNERS][RUNS_MAX];
    uint64_t count[RUNNERS] = {0}, steps = 0, spent;
    unsigned runners = loop->flags & LOOP_GUEST_ONLY ? HOST : RUNNERS;
    int result = 0;
    *out = (struct result){0};
    for (unsigned k = 0; result == 0 && k < runners; k++)
        result = calibrate(b, loop, k, &count[k], err);
    for (unsigned i = 0; result == 0 && i < runs; i++) {
        for (unsigned k = 0; result == 0 && k < runners; k++) {
            result = timed(b, loop, k, count[k], &steps, &spent, err);
            ns[k][i] = (double)spent / (double)count[k];
            if (k != HOST)
                out->steps_per_iteration = (double)steps / (double)count[k];
        }
    }
    for (unsigned k = 0; result == 0 && k < runners; k++)
        out->ns[k] = sample_median(ns[k], runs);
    for (unsigned k = 0; result == 0 && k < STAGE_COUNT; k++)
        out->steps_per_second[k] = out->steps_per_iteration * 1e9 / out->ns[k];
    return result;
}

/* ---- showing ---- */

static void print_row(const struct bench_loop *loop, const struct result *r)
{
    printf("%-14s %9.1f %10.1f %10.1f %11.2f %11.2f", loop->name, r->steps_per_iteration,
           r->steps_per_second[STAGE_1] / 1e6, r->steps_per_second[STAGE_2] / 1e6, r->ns[STAGE_1],
           r->ns[STAGE_2]);
    if (r->ns[HOST] > 0)
        printf(" %11.2f %8.1f\n", r->ns[HOST], r->ns[STAGE_2] / r->ns[HOST]);
    else
        printf(" %11s %8s\n", "-", "-");
    fflush(stdout);
}

static void json_row(struct json *j, const struct bench_loop *loop, const struct result *r)
{
    json_object(j, NULL);
    json_string(j, "name", loop->name);
    json_string(j, "what", loop->what);
    json_u64(j, "milli_steps_per_iteration", (uint64_t)(r->steps_per_iteration * 1e3 + 0.5));
    json_u64(j, "stage1_steps_per_second", (uint64_t)r->steps_per_second[STAGE_1]);
    json_u64(j, "stage2_steps_per_second", (uint64_t)r->steps_per_second[STAGE_2]);
    json_u64(j, "stage1_ps_per_iteration", (uint64_t)(r->ns[STAGE_1] * 1e3));
    json_u64(j, "stage2_ps_per_iteration", (uint64_t)(r->ns[STAGE_2] * 1e3));
    if (r->ns[HOST] > 0) {
        json_u64(j, "host_ps_per_iteration", (uint64_t)(r->ns[HOST] * 1e3));
        json_u64(j, "slowdown_percent", (uint64_t)(r->ns[STAGE_2] / r->ns[HOST] * 100));
    }
    json_close_object(j);
}

static int run(const struct bench *b, const struct options *o, struct error *err)
{
    struct json json;
    char cpu[128];
    bench_host_cpu_name(cpu, sizeof(cpu));
    if (o->json) {
        json_begin(&json, stdout);
        json_string(&json, "version", DEJAVM_VERSION);
        json_string(&json, "host_cpu", cpu);
        json_string(&json, "engine", "emu");
        json_u64(&json, "runs", o->runs);
        json_array(&json, "loops");
    } else {
        printf("dejavm %s, engine emu, on %s; medians of %u runs\n", DEJAVM_VERSION, cpu, o->runs);
        printf("%-14s %9s %21s %35s\n", "", "", "million steps/s", "ns per iteration");
        printf("%-14s %9s %10s %10s %11s %11s %11s %8s\n", "loop", "steps", "stage 1", "stage 2", "stage 1",
               "stage 2", "host", "slower");
    }
    int result = 0;
    for (size_t i = 0; result == 0 && i < bench_loop_count; i++) {
        const struct bench_loop *loop = &bench_loops[i];
        struct result r;
        if (o->only && strcmp(o->only, loop->name) != 0)
            continue;
        result = measure(b, loop, o->runs, &r, err);
        if (result == 0 && o->json)
            json_row(&json, loop, &r);
        else if (result == 0)
            print_row(loop, &r);
    }
    if (o->json) {
        json_close_array(&json);
        json_end(&json);
    }
    return result;
}

/* ---- the command line ---- */

static void usage(FILE *out)
{
    fputs("usage: dejavm-bench [--json] [--runs N] [--loop NAME] [--list]\n"
          "       dejavm-bench linux ...     a Linux guest, next to QEMU\n"
          "       dejavm-bench growth ...    does time per step grow with length, RAM or events?\n"
          "       dejavm-bench points TRACE  what break points and watch points cost\n"
          "Measures how fast the emulator runs small loops, and how fast this host runs them itself.\n"
          "  --json       JSON instead of a table\n"
          "  --runs N     how often each loop is run (1 to 99, default 5); medians are shown\n"
          "  --loop NAME  only this loop\n"
          "  --list       the loops and what they do\n"
          "  --help, --version\n",
          out);
}

static bool loop_exists(const char *name)
{
    for (size_t i = 0; i < bench_loop_count; i++)
        if (strcmp(bench_loops[i].name, name) == 0)
            return true;
    return false;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct options *o)
{
    static const struct option list[] = {{"json", no_argument, NULL, 'j'},
                                         {"runs", required_argument, NULL, 'r'},
                                         {"loop", required_argument, NULL, 'l'},
                                         {"list", no_argument, NULL, 'L'},
                                         {"help", no_argument, NULL, 'h'},
                                         {"version", no_argument, NULL, 'V'},
                                         {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", list, NULL)) != -1) {
        switch (c) {
        case 'j':
            o->json = true;
            break;
        case 'r':
            if (!bench_parse_number(optarg, RUNS_MAX, &o->runs))
                return bench_bad_usage("--runs %s: a number from 1 to 99", optarg);
            break;
        case 'l':
            if (!loop_exists(optarg))
                return bench_bad_usage("--loop %s: there is no such loop (--list shows them)", optarg);
            o->only = optarg;
            break;
        case 'L':
            o->list = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        case 'V':
            printf("dejavm-bench %s\n", DEJAVM_VERSION);
            return 0;
        default:
            usage(stderr);
            return BENCH_USAGE;
        }
    }
    return optind < argc ? bench_bad_usage("unexpected argument %s", argv[optind]) : -1;
}

int bench_loops_command(int argc, char **argv)
{
    struct options o = {.runs = RUNS_DEFAULT};
    struct bench b = {0};
    struct error err = {0};
    int status = parse(argc, argv, &o);
    if (status >= 0)
        return status;
    if (o.list) {
        for (size_t i = 0; i < bench_loop_count; i++)
            printf("%-14s %s\n", bench_loops[i].name, bench_loops[i].what);
        return 0;
    }
    int result = bench_guest_create(&b.guest, &err);
    if (result == 0)
        result = bench_host_create(&b.host, &err);
    if (result == 0)
        result = run(&b, &o, &err);
    if (result < 0)
        fprintf(stderr, "dejavm-bench: %s\n", err.message);
    bench_guest_destroy(b.guest);
    bench_host_destroy(b.host);
    return result < 0 ? 1 : 0;
}

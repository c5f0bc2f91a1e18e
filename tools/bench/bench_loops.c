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

/* Medians over the runs. */
struct result {
    double steps_per_iteration;
    double steps_per_second;
    double emulator_ns, host_ns; /* per iteration; host_ns 0: not there */
};

/* The thread's own time: nothing here waits, and other processes on the machine do not count. */
static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- measuring ---- */

/* One timed run on either side; steps is NULL for the host. */
struct bench {
    struct bench_guest *guest;
    struct bench_host *host;
};

static int timed(const struct bench *b, const struct bench_loop *loop, bool host, uint64_t iterations,
                 uint64_t *steps, uint64_t *ns, struct error *err)
{
    uint64_t start = now_ns();
    int result = host ? bench_host_run(b->host, loop, iterations, err)
                      : bench_guest_run(b->guest, loop, iterations, steps, err);
    *ns = now_ns() - start;
    return result;
}

/* The number of iterations that takes about wanted_ns. */
static int calibrate(const struct bench *b, const struct bench_loop *loop, bool host, uint64_t wanted_ns,
                     uint64_t *iterations, struct error *err)
{
    uint64_t count = 64, steps, ns = 0;
    int result;
    for (;;) {
        result = timed(b, loop, host, count, &steps, &ns, err);
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
    double rate[RUNS_MAX], guest_ns[RUNS_MAX], host_ns[RUNS_MAX];
    uint64_t guest_count, host_count = 1, steps = 0, ns;
    int result = calibrate(b, loop, false, GUEST_TIME_NS, &guest_count, err);
    bool on_host = !(loop->flags & LOOP_GUEST_ONLY);
    if (result == 0 && on_host)
        result = calibrate(b, loop, true, HOST_TIME_NS, &host_count, err);
    for (unsigned i = 0; result == 0 && i < runs; i++) {
        result = timed(b, loop, false, guest_count, &steps, &ns, err);
        rate[i] = (double)steps * 1e9 / (double)(ns ? ns : 1);
        guest_ns[i] = (double)ns / (double)guest_count;
        if (result == 0 && on_host)
            result = timed(b, loop, true, host_count, NULL, &ns, err);
        host_ns[i] = on_host ? (double)ns / (double)host_count : 0;
    }
    if (result < 0)
        return result;
    *out = (struct result){.steps_per_iteration = (double)steps / (double)guest_count,
                           .steps_per_second = sample_median(rate, runs),
                           .emulator_ns = sample_median(guest_ns, runs),
                           .host_ns = sample_median(host_ns, runs)};
    return 0;
}

/* ---- showing ---- */

static void print_row(const struct bench_loop *loop, const struct result *r)
{
    printf("%-14s %10.1f %14.1f %14.2f", loop->name, r->steps_per_iteration, r->steps_per_second / 1e6,
           r->emulator_ns);
    if (r->host_ns > 0)
        printf(" %14.2f %8.1f\n", r->host_ns, r->emulator_ns / r->host_ns);
    else
        printf(" %14s %8s\n", "-", "-");
    fflush(stdout);
}

static void json_row(struct json *j, const struct bench_loop *loop, const struct result *r)
{
    json_object(j, NULL);
    json_string(j, "name", loop->name);
    json_string(j, "what", loop->what);
    json_u64(j, "steps_per_second", (uint64_t)r->steps_per_second);
    json_u64(j, "milli_steps_per_iteration", (uint64_t)(r->steps_per_iteration * 1e3 + 0.5));
    json_u64(j, "emulator_ps_per_iteration", (uint64_t)(r->emulator_ns * 1e3));
    if (r->host_ns > 0) {
        json_u64(j, "host_ps_per_iteration", (uint64_t)(r->host_ns * 1e3));
        json_u64(j, "slowdown_percent", (uint64_t)(r->emulator_ns / r->host_ns * 100));
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
        printf("%-14s %10s %14s %14s %14s %8s\n", "loop", "steps", "million", "emulator", "host", "slower");
        printf("%-14s %10s %14s %14s %14s %8s\n", "", "per iter.", "steps/s", "ns per iter.", "ns per iter.",
               "times");
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

/*
 * dejavm-bench points: what break points and watch points cost while nothing hits them. A trace is replayed to its end, plainly and
 * with points that are placed by looking at what the guest does: next to code that it executes often, in a page that it stores to
 * often, in a page that nobody stores to. None of them is ever hit.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/x86/inspect.h"
#include "replay/timeline.h"
#include "tools/bench/commands.h"
#include "tools/bench/sample.h"
#include "tools/json.h"

#define RUNS_DEFAULT 3u
#define SAMPLES      2048u
#define CODE_PAGES   8u   /* the hottest ones, where break points are put */
#define NEAR_BYTES   128u /* of an address seen executed: it would be in the same piece of code */
#define BREAKS       20u
#define CANDIDATES   256u
#define WATCH_BYTES  8u
#define WATCH_STRIDE 64u /* between places that are tried in a page */

enum row { PLAIN, NO_POINTS, ONE_BREAK, MANY_BREAKS, COLD_WATCH, HOT_WATCH, HOT_ACCESS_WATCH, ROW_COUNT };
static const char *const row_names[ROW_COUNT] = {"plain",
                                                 "timeline",
                                                 "one_break",
                                                 "many_breaks",
                                                 "write_watch_cold_page",
                                                 "write_watch_hot_page",
                                                 "access_watch_hot_page"};
static const char *const row_texts[ROW_COUNT] = {"plain replay",
                                                 "a debugger's, nothing set",
                                                 "1 break point in a hot page",
                                                 "20 break points in hot pages",
                                                 "write watch in a cold page",
                                                 "write watch in a hot page",
                                                 "access watch in a hot page"};

/* What the guest was seen doing at one of SAMPLES places. */
struct seen {
    gva_t code[SAMPLES], stored[SAMPLES];
    size_t code_count, stored_count;
};

struct bench_points {
    const char *trace, *json_path;
    unsigned runs;
    position_t end;
    struct seen seen;
    gva_t breaks[BREAKS];
    size_t break_count;
    gva_t hot, cold;  /* addresses to watch */
    double hot_share; /* of the stores seen, that went to hot's page */
    double seconds[ROW_COUNT][RUNS_MAX];
};

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- looking at the guest ---- */

static void look(struct replay *r, struct seen *seen)
{
    const struct vcpu_state *s = replay_state(r);
    struct x86_effect effect;
    if (!vcpu_in_64bit_code(s))
        return;
    seen->code[seen->code_count++] = s->rip;
    x86_instruction_effect(replay_ram(r), s, &effect);
    if (effect.length && effect.has_memory && effect.stores)
        seen->stored[seen->stored_count++] = effect.address;
}

static int watch_guest(struct bench_points *b, struct error *err)
{
    struct replay *r;
    int status = replay_open(&r, b->trace, NULL, err);
    if (status < 0)
        return status;
    b->end = trace_reader_info(replay_reader(r))->seal.end_position;
    for (unsigned i = 1; i < SAMPLES && status == 0; i++) {
        status = replay_run(r, (position_t)((double)b->end / SAMPLES * i), err);
        if (status == 0)
            look(r, &b->seen);
    }
    replay_close(r);
    return status;
}

static int compare_address(const void *a, const void *b)
{
    gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;
    return (x > y) - (x < y);
}

/* The page with most of the addresses (sorted) beside those in done; *share of them. False: there is none. */
static bool hottest_page(const gva_t *address, size_t count, const gva_t *done, size_t done_count,
                         gva_t *page, double *share)
{
    size_t best = 0;
    for (size_t i = 0, end; i < count; i = end) {
        gva_t here = address[i] & ~PAGE_MASK;
        bool was_done = false;
        for (end = i; end < count && (address[end] & ~PAGE_MASK) == here; end++)
            ;
        for (size_t k = 0; k < done_count; k++)
            was_done = was_done || done[k] == here;
        if (!was_done && end - i > best) {
            best = end - i;
            *page = here;
        }
    }
    *share = count ? (double)best / (double)count : 0;
    return best > 0;
}

/* ---- places that are never hit ---- */

struct candidates {
    gva_t address[CANDIDATES];
    size_t count;
};

static size_t hit_candidate(const struct timeline_stop *stop, struct timeline *t, const struct candidates *c)
{
    if (stop->reason == TIMELINE_STOP_WATCH)
        return stop->hit.watch;
    gva_t rip = replay_state(timeline_replay(t))->rip;
    for (size_t i = 0; i < c->count; i++)
        if (c->address[i] == rip)
            return i;
    return c->count;
}

static void points_of(const struct candidates *c, bool watch, uint8_t accesses, struct engine_watch *watches,
                      struct timeline_points *points)
{
    *points = (struct timeline_points){0};
    if (!watch) {
        points->engine.breaks = c->address;
        points->engine.break_count = c->count;
        return;
    }
    for (size_t i = 0; i < c->count; i++)
        watches[i] = (struct engine_watch){c->address[i], WATCH_BYTES, accesses};
    points->engine.watches = watches;
    points->engine.watch_count = c->count;
}

/* Runs to the end, and takes out each candidate when it is hit first. */
static int keep_unhit(const struct bench_points *b, struct candidates *c, bool watch, struct error *err)
{
    struct timeline *t;
    struct engine_watch watches[CANDIDATES];
    struct timeline_stop stop = {.reason = TIMELINE_STOP_TARGET};
    int status = timeline_open(&t, b->trace, NULL, err);
    if (status < 0)
        return status;
    while (status == 0 && c->count && stop.reason != TIMELINE_STOP_END) {
        struct timeline_points points;
        points_of(c, watch, ENGINE_ACCESS_READ | ENGINE_ACCESS_WRITE, watches, &points);
        status = timeline_forward(t, &points, POSITION_UNKNOWN, NULL, &stop, err);
        size_t i = status == 0 && stop.reason != TIMELINE_STOP_END ? hit_candidate(&stop, t, c) : c->count;
        if (i < c->count) {
            memmove(&c->address[i], &c->address[i + 1], (c->count - i - 1) * sizeof(c->address[0]));
            c->count--;
        }
    }
    timeline_close(t);
    return status;
}

static bool is_near_code(const struct seen *seen, gva_t address)
{
    for (size_t i = 0; i < seen->code_count; i++)
        if (seen->code[i] - address + NEAR_BYTES < 2 * NEAR_BYTES)
            return true;
    return false;
}

static int place_breaks(struct bench_points *b, gva_t *first_page, struct error *err)
{
    struct candidates c = {0};
    gva_t done[CODE_PAGES], page;
    double share;
    for (size_t n = 0; n < CODE_PAGES; n++) {
        if (!hottest_page(b->seen.code, b->seen.code_count, done, n, &page, &share))
            break;
        done[n] = page;
        for (gva_t at = page; at < page + PAGE_SIZE_BYTES && c.count < (n + 1) * CANDIDATES / CODE_PAGES;
             at += 16)
            if (!is_near_code(&b->seen, at))
                c.address[c.count++] = at;
    }
    if (!c.count)
        return error_set(err, -ENOENT, "%s: no 64-bit code with room for break points was seen", b->trace);
    *first_page = done[0];
    qsort(c.address, c.count, sizeof(c.address[0]), compare_address);
    int status = keep_unhit(b, &c, false, err);
    if (status == 0 && !c.count)
        status = error_set(err, -ENOENT, "%s: every place for a break point is reached", b->trace);
    /* Spread over all that are left. */
    b->break_count = c.count < BREAKS ? c.count : BREAKS;
    for (size_t i = 0; i < b->break_count; i++)
        b->breaks[i] = c.address[i * c.count / b->break_count];
    return status;
}

/* A place in page that nobody uses; 0: there is none. */
static int free_place(const struct bench_points *b, gva_t page, gva_t *out, struct error *err)
{
    struct candidates c = {0};
    for (gva_t at = page; at < page + PAGE_SIZE_BYTES; at += WATCH_STRIDE)
        c.address[c.count++] = at;
    int status = keep_unhit(b, &c, true, err);
    *out = status == 0 && c.count ? c.address[0] : 0;
    return status;
}

static int place_watches(struct bench_points *b, gva_t code_page, struct error *err)
{
    gva_t done[8], page;
    int status = free_place(b, code_page, &b->cold, err);
    for (size_t n = 0; n < ARRAY_LEN(done) && status == 0 && !b->hot; n++) {
        if (!hottest_page(b->seen.stored, b->seen.stored_count, done, n, &page, &b->hot_share))
            break;
        done[n] = page;
        status = free_place(b, page, &b->hot, err);
    }
    if (status == 0 && (!b->hot || !b->cold))
        status =
            error_set(err, -ENOENT, "%s: no place for a watch point was found that is never used", b->trace);
    return status;
}

/* ---- measuring ---- */

static int run_plain(const struct bench_points *b, double *seconds, struct error *err)
{
    struct replay *r;
    int status = replay_open(&r, b->trace, NULL, err);
    if (status < 0)
        return status;
    double start = cpu_s();
    status = replay_run(r, POSITION_UNKNOWN, err);
    *seconds = cpu_s() - start;
    replay_close(r);
    return status;
}

static int run_points(const struct bench_points *b, const struct timeline_points *points, double *seconds,
                      struct error *err)
{
    struct timeline *t;
    struct timeline_stop stop;
    int status = timeline_open(&t, b->trace, NULL, err);
    if (status < 0)
        return status;
    double start = cpu_s();
    status = timeline_forward(t, points, POSITION_UNKNOWN, NULL, &stop, err);
    *seconds = cpu_s() - start;
    timeline_close(t);
    if (status == 0 && stop.reason != TIMELINE_STOP_END)
        status = error_set(err, -EIO, "%s: a point that should never be hit was, at position %llu", b->trace,
                           (unsigned long long)stop.position);
    return status;
}

static int measure_row(const struct bench_points *b, enum row row, double *seconds, struct error *err)
{
    struct engine_watch watch = {.length = WATCH_BYTES, .accesses = ENGINE_ACCESS_WRITE};
    struct timeline_points points = {0};
    if (row == PLAIN)
        return run_plain(b, seconds, err);
    if (row == ONE_BREAK || row == MANY_BREAKS) {
        points.engine.breaks = b->breaks;
        points.engine.break_count = row == ONE_BREAK ? 1 : b->break_count;
    } else if (row != NO_POINTS) {
        watch.address = row == COLD_WATCH ? b->cold : b->hot;
        watch.accesses |= row == HOT_ACCESS_WATCH ? ENGINE_ACCESS_READ : 0;
        points.engine.watches = &watch;
        points.engine.watch_count = 1;
    }
    return run_points(b, &points, seconds, err);
}

static double median_of(const struct bench_points *b, unsigned row)
{
    double copy[RUNS_MAX];
    memcpy(copy, b->seconds[row], sizeof(copy));
    return sample_median(copy, b->runs);
}

static void print(const struct bench_points *b)
{
    printf("%s: %llu steps; CPU time, medians of %u runs\n%-32s %10s %10s %10s\n", b->trace,
           (unsigned long long)b->end, b->runs, "", "ms", "ns/step", "speed");
    for (unsigned i = 0; i < ROW_COUNT; i++)
        printf("%-32s %10.1f %10.3f %10.2f\n", row_texts[i], median_of(b, i) * 1e3,
               median_of(b, i) * 1e9 / (double)b->end, median_of(b, PLAIN) / median_of(b, i));
    printf("break points: %zu, the first at 0x%llx; watched: 0x%llx (%.1f %% of the stores seen go to its "
           "page), 0x%llx\n",
           b->break_count, (unsigned long long)b->breaks[0], (unsigned long long)b->hot, b->hot_share * 100,
           (unsigned long long)b->cold);
}

static void write_json(const struct bench_points *b, FILE *file)
{
    struct json j;
    json_begin(&j, file);
    json_string(&j, "version", DEJAVM_VERSION);
    json_string(&j, "trace", b->trace);
    json_u64(&j, "runs", b->runs);
    json_u64(&j, "steps", b->end);
    json_u64(&j, "break_points", b->break_count);
    json_u64(&j, "hot_page_store_permille", (uint64_t)(b->hot_share * 1e3 + 0.5));
    json_array(&j, "rows");
    for (unsigned i = 0; i < ROW_COUNT; i++) {
        json_object(&j, NULL);
        json_string(&j, "name", row_names[i]);
        json_u64(&j, "us", (uint64_t)(median_of(b, i) * 1e6 + 0.5));
        json_u64(&j, "speed_permille", (uint64_t)(median_of(b, PLAIN) / median_of(b, i) * 1e3 + 0.5));
        json_close_object(&j);
    }
    json_close_array(&j);
    json_end(&j);
}

static int run(struct bench_points *b, struct error *err)
{
    gva_t code_page = 0;
    int status = replay_seal(b->trace, NULL, NULL, err);
    if (status == 0)
        status = watch_guest(b, err);
    qsort(b->seen.code, b->seen.code_count, sizeof(gva_t), compare_address);
    qsort(b->seen.stored, b->seen.stored_count, sizeof(gva_t), compare_address);
    if (status == 0)
        status = place_breaks(b, &code_page, err);
    if (status == 0)
        status = place_watches(b, code_page, err);
    for (unsigned n = 0; n < b->runs && status == 0; n++)
        for (unsigned row = 0; row < ROW_COUNT && status == 0; row++)
            status = measure_row(b, (enum row)row, &b->seconds[row][n], err);
    return status;
}

/* ---- the command line ---- */

static void usage(FILE *out)
{
    fputs("usage: dejavm-bench points [--runs N] [--json FILE] TRACE\n"
          "Replays TRACE (which is sealed first) plainly, and with break points and watch points that are "
          "never hit, and prints "
          "CPU\ntime and what is left of the speed.\n",
          out);
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct bench_points *b)
{
    static const struct option list[] = {{"runs", required_argument, NULL, 'r'},
                                         {"json", required_argument, NULL, 'j'},
                                         {"help", no_argument, NULL, 'h'},
                                         {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", list, NULL)) != -1) {
        switch (c) {
        case 'r':
            if (!bench_parse_number(optarg, RUNS_MAX, &b->runs))
                return bench_bad_usage("--runs %s: a number from 1 to 99", optarg);
            break;
        case 'j':
            b->json_path = optarg;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return BENCH_USAGE;
        }
    }
    if (optind + 1 != argc) {
        usage(stderr);
        return BENCH_USAGE;
    }
    b->trace = argv[optind];
    return -1;
}

int bench_points_command(int argc, char **argv)
{
    struct bench_points *b = calloc(1, sizeof(*b));
    struct error err = {0};
    if (!b) {
        fprintf(stderr, "dejavm-bench: out of memory\n");
        return 1;
    }
    b->runs = RUNS_DEFAULT;
    int status = parse(argc, argv, b);
    FILE *file = status < 0 && b->json_path ? fopen(b->json_path, "w") : NULL;
    if (status < 0 && b->json_path && !file) {
        fprintf(stderr, "dejavm-bench: %s: %s\n", b->json_path, strerror(errno));
        status = 1;
    }
    if (status < 0) {
        status = run(b, &err) < 0 ? 1 : 0;
        if (status)
            fprintf(stderr, "dejavm-bench: %s\n", err.message);
        else
            print(b);
        if (!status && file)
            write_json(b, file);
    }
    if (file && fclose(file) != 0)
        status = 1;
    free(b);
    return status;
}

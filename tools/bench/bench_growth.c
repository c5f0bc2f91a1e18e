/*
 * dejavm-bench growth: does the time per step grow with the length of a trace, the number of its events, or the guest's RAM? It
 * should not.
 */
#include <elf.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/types.h"
#include "tools/bench/commands.h"
#include "tools/bench/process.h"
#include "tools/bench/sample.h"
#include "tools/json.h"
#include "trace-format/trace_reader.h"

#define RUNS_DEFAULT  3u
#define TIMEOUT_S     600u
#define SIZES         3u
#define LOAD_ADDRESS  0x200000u
#define WRITTEN_PAGES 4096u

extern const uint8_t growth_guest[], growth_guest_entry[], growth_guest_end[];

struct size {
    const char *name, *memory;
    uint64_t iterations, event_mask;
};

struct dimension {
    const char *name, *what;
    struct size size[SIZES];
};

#define FEW_EVENTS  (((uint64_t)1 << 16) - 1)
#define MANY_EVENTS (((uint64_t)1 << 4) - 1)
#define MILLION     ((uint64_t)1000000)

static const struct dimension dimensions[] = {
    {"length",
     "length of the trace",
     {{"40 M steps", "128M", 2 * MILLION, FEW_EVENTS},
      {"160 M steps", "128M", 8 * MILLION, FEW_EVENTS},
      {"640 M steps", "128M", 32 * MILLION, FEW_EVENTS}}},
    {"events",
     "number of events",
     {{"60 k events", "128M", 1 * MILLION, MANY_EVENTS},
      {"250 k events", "128M", 4 * MILLION, MANY_EVENTS},
      {"1 M events", "128M", 16 * MILLION, MANY_EVENTS}}},
    {"ram",
     "size of RAM",
     {{"128 MiB", "128M", 8 * MILLION, FEW_EVENTS},
      {"1 GiB", "1G", 8 * MILLION, FEW_EVENTS},
      {"8 GiB", "8G", 8 * MILLION, FEW_EVENTS}}},
};

enum column { RECORD, SEAL, REPLAY, OPEN, COLUMN_COUNT };
static const char *const column_names[COLUMN_COUNT] = {"record", "seal", "replay", "open"};

struct row {
    double seconds[COLUMN_COUNT][RUNS_MAX]; /* CPU time */
    uint64_t steps, events, file_bytes;
};

struct growth {
    const char *only, *json_path;
    char dejavm[4096], folder[64], guest[96], trace[96];
    unsigned runs;
};

/* ---- the guest ---- */

static int write_guest(const struct growth *g, const struct size *size, struct error *err)
{
    uint64_t parameters[3] = {size->iterations, WRITTEN_PAGES - 1, size->event_mask};
    size_t length = (size_t)(growth_guest_end - growth_guest);
    uint64_t code_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
    Elf64_Ehdr header = {.e_type = ET_EXEC,
                         .e_machine = EM_X86_64,
                         .e_version = EV_CURRENT,
                         .e_entry = LOAD_ADDRESS + (uint64_t)(growth_guest_entry - growth_guest),
                         .e_phoff = sizeof(Elf64_Ehdr),
                         .e_ehsize = sizeof(Elf64_Ehdr),
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = 1};
    static const uint8_t identification[] = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
    memcpy(header.e_ident, identification, sizeof(identification));
    Elf64_Phdr segment = {.p_type = PT_LOAD,
                          .p_flags = PF_R | PF_W | PF_X,
                          .p_offset = code_offset,
                          .p_vaddr = LOAD_ADDRESS,
                          .p_paddr = LOAD_ADDRESS,
                          .p_filesz = length,
                          .p_memsz = length};
    FILE *f = fopen(g->guest, "wb");
    if (!f)
        return error_errno(err, -errno, "%s", g->guest);
    bool written = fwrite(&header, sizeof(header), 1, f) == 1 &&
                   fwrite(&segment, sizeof(segment), 1, f) == 1 &&
                   fwrite(parameters, sizeof(parameters), 1, f) == 1 &&
                   fwrite(growth_guest + sizeof(parameters), length - sizeof(parameters), 1, f) == 1;
    if (fclose(f) != 0 || !written)
        return error_set(err, -EIO, "%s: cannot be written", g->guest);
    return 0;
}

/* ---- measuring ---- */

static int timed(const char *const *arguments, double *seconds, struct error *err)
{
    struct process p = {.arguments = arguments, .timeout_s = TIMEOUT_S};
    struct process_times times;
    int status = process_run(&p, &times, err);
    *seconds = times.total.cpu_s;
    return status;
}

static int read_trace(const struct growth *g, struct row *row, struct error *err)
{
    struct trace_reader *reader;
    int status = trace_reader_open(&reader, g->trace, err);
    if (status < 0)
        return status;
    const struct trace_info *info = trace_reader_info(reader);
    row->steps = info->seal.end_position;
    row->events = info->events;
    row->file_bytes = info->file_bytes;
    trace_reader_close(reader);
    return 0;
}

static int measure_once(const struct growth *g, const struct size *size, unsigned run, struct row *row,
                        struct error *err)
{
    const char *const record[] = {g->dejavm, "record",        "--engine=emu", "--no-seal",
                                  "--force", "--serial=null", "--memory",     size->memory,
                                  "-o",      g->trace,        g->guest,       NULL};
    const char *const verify[] = {g->dejavm, "verify", g->trace, NULL};
    const char *const replay[] = {g->dejavm, "replay", "--quiet", g->trace, NULL};
    const char *const open[] = {g->dejavm, "replay", "--quiet", "--until=1", g->trace, NULL};
    int status = timed(record, &row->seconds[RECORD][run], err);
    if (status == 0)
        status =
            timed(verify, &row->seconds[SEAL][run], err); /* an unsealed trace is verified by sealing it */
    if (status == 0)
        status = timed(replay, &row->seconds[REPLAY][run], err);
    if (status == 0)
        status = timed(open, &row->seconds[OPEN][run], err);
    return status == 0 ? read_trace(g, row, err) : status;
}

/* In alternation, so that what else happens on the host meets all sizes. */
static int measure(const struct growth *g, const struct dimension *d, struct row rows[SIZES],
                   struct error *err)
{
    int status = 0;
    for (unsigned run = 0; run < g->runs; run++) {
        for (unsigned i = 0; i < SIZES && status == 0; i++) {
            status = write_guest(g, &d->size[i], err);
            if (status == 0)
                status = measure_once(g, &d->size[i], run, &rows[i], err);
        }
    }
    unlink(g->guest);
    unlink(g->trace);
    return status;
}

/* ns per step; ms for opening, which has none. */
static double figure(const struct growth *g, const struct row *row, unsigned column)
{
    double copy[RUNS_MAX];
    memcpy(copy, row->seconds[column], sizeof(copy));
    double median = sample_median(copy, g->runs);
    return column == OPEN ? median * 1e3 : median * 1e9 / (double)row->steps;
}

static void print_dimension(const struct growth *g, const struct dimension *d, const struct row rows[SIZES])
{
    printf("%s: CPU time, medians of %u runs\n    %-14s %12s %10s %12s %12s %12s %10s\n", d->what, g->runs,
           "", "steps", "events", "record ns", "seal ns", "replay ns", "open ms");
    for (unsigned i = 0; i < SIZES; i++)
        printf("    %-14s %12llu %10llu %12.3f %12.3f %12.3f %10.1f\n", d->size[i].name,
               (unsigned long long)rows[i].steps, (unsigned long long)rows[i].events,
               figure(g, &rows[i], RECORD), figure(g, &rows[i], SEAL), figure(g, &rows[i], REPLAY),
               figure(g, &rows[i], OPEN));
    printf("    %-38s", "last / first");
    for (unsigned i = 0; i < COLUMN_COUNT; i++)
        printf(" %12.2f", figure(g, &rows[SIZES - 1], i) / figure(g, &rows[0], i));
    printf("\n");
    fflush(stdout);
}

static void json_dimension(struct json *j, const struct growth *g, const struct dimension *d,
                           const struct row rows[SIZES])
{
    json_object(j, NULL);
    json_string(j, "name", d->name);
    json_string(j, "what", d->what);
    json_array(j, "sizes");
    for (unsigned i = 0; i < SIZES; i++) {
        json_object(j, NULL);
        json_string(j, "size", d->size[i].name);
        json_u64(j, "steps", rows[i].steps);
        json_u64(j, "events", rows[i].events);
        json_u64(j, "file_bytes", rows[i].file_bytes);
        for (unsigned c = 0; c < COLUMN_COUNT; c++) {
            char key[32];
            snprintf(key, sizeof(key), c == OPEN ? "%s_us" : "%s_ps_per_step", column_names[c]);
            json_u64(j, key, (uint64_t)(figure(g, &rows[i], c) * 1e3 + 0.5));
        }
        json_close_object(j);
    }
    json_close_array(j);
    json_close_object(j);
}

static int run(const struct growth *g, FILE *file)
{
    struct error err = {0};
    struct json json;
    struct row *rows = calloc(SIZES, sizeof(*rows));
    int status = rows ? 0 : error_set(&err, -ENOMEM, "out of memory");
    if (file) {
        json_begin(&json, file);
        json_string(&json, "version", DEJAVM_VERSION);
        json_u64(&json, "runs", g->runs);
        json_array(&json, "dimensions");
    }
    for (unsigned i = 0; i < ARRAY_LEN(dimensions) && status == 0; i++) {
        if (g->only && strcmp(g->only, dimensions[i].name) != 0)
            continue;
        status = measure(g, &dimensions[i], rows, &err);
        if (status == 0)
            print_dimension(g, &dimensions[i], rows);
        if (status == 0 && file)
            json_dimension(&json, g, &dimensions[i], rows);
    }
    if (file) {
        json_close_array(&json);
        json_end(&json);
    }
    if (status < 0)
        fprintf(stderr, "dejavm-bench: %s\n", err.message);
    free(rows);
    return status < 0 ? 1 : 0;
}

/* ---- the command line ---- */

static void usage(FILE *out)
{
    fputs(
        "usage: dejavm-bench growth [--runs N] [--only length|events|ram] [--dejavm PROGRAM] [--json FILE]\n"
        "Records, seals and replays a guest at three lengths, with three numbers of events and three sizes "
        "of RAM, and\n"
        "prints CPU time per step. It should not grow.\n",
        out);
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct growth *g)
{
    static const struct option list[] = {
        {"runs", required_argument, NULL, 'r'},   {"only", required_argument, NULL, 'o'},
        {"dejavm", required_argument, NULL, 'd'}, {"json", required_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", list, NULL)) != -1) {
        bool known = false;
        switch (c) {
        case 'r':
            if (!bench_parse_number(optarg, RUNS_MAX, &g->runs))
                return bench_bad_usage("--runs %s: a number from 1 to 99", optarg);
            break;
        case 'o':
            for (unsigned i = 0; i < ARRAY_LEN(dimensions); i++)
                known = known || strcmp(dimensions[i].name, optarg) == 0;
            if (!known)
                return bench_bad_usage("--only %s: none of length, events, ram", optarg);
            g->only = optarg;
            break;
        case 'd':
            snprintf(g->dejavm, sizeof(g->dejavm), "%s", optarg);
            break;
        case 'j':
            g->json_path = optarg;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return BENCH_USAGE;
        }
    }
    return optind < argc ? bench_bad_usage("unexpected argument %s", argv[optind]) : -1;
}

int bench_growth_command(int argc, char **argv)
{
    struct growth g = {.runs = RUNS_DEFAULT, .folder = "/tmp/dejavm-bench.XXXXXX"};
    bench_dejavm_path(g.dejavm, sizeof(g.dejavm));
    int status = parse(argc, argv, &g);
    if (status >= 0)
        return status;
    FILE *file = g.json_path ? fopen(g.json_path, "w") : NULL;
    if (g.json_path && !file) {
        fprintf(stderr, "dejavm-bench: %s: %s\n", g.json_path, strerror(errno));
        return 1;
    }
    if (mkdtemp(g.folder)) {
        snprintf(g.guest, sizeof(g.guest), "%s/guest.elf", g.folder);
        snprintf(g.trace, sizeof(g.trace), "%s/trace.dvm", g.folder);
        status = run(&g, file);
        rmdir(g.folder);
    } else {
        fprintf(stderr, "dejavm-bench: %s: %s\n", g.folder, strerror(errno));
        status = 1;
    }
    if (file && fclose(file) != 0)
        status = 1;
    return status;
}

/*
 * dejavm-bench linux: the same Linux guest in QEMU (TCG; plain, recording, replaying) and in dejavm, and its work on the host
 * itself, in alternation.
 */
#include <errno.h>
#include <getopt.h>
#include <glob.h>
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

#define RUNS_DEFAULT    3u
#define TIMEOUT_DEFAULT 180u
#define MEMORY          "256"
#define APPEND_DEFAULT  "console=ttyS0 panic=-1 reboot=t nokaslr quiet cryptomgr.notests"

/* What the guest runs as /script, and the host with the same busybox. bench=NAME on the kernel's command line says which. */
static const char script[] = "bb=${BUSYBOX:-/bin/busybox}\n"
                             "work=$1\n"
                             "[ -n \"$work\" ] || for word in $(cat /proc/cmdline); do case $word in "
                             "bench=*) work=${word#bench=} ;; esac; done\n"
                             "echo " MARK_BEGIN "\n"
                             "case $work in\n"
                             "boot) ;;\n"
                             "sha256sum) $bb dd if=/dev/zero bs=1M count=64 2>/dev/null | $bb sha256sum ;;\n"
                             "awk) $bb awk 'BEGIN{s=0;for(i=0;i<500000;i++){s+=i*i%7};print s}' ;;\n"
                             "bzip2) $bb seq 1 200000 | $bb bzip2 | $bb wc -c ;;\n"
                             "dd) $bb dd if=/dev/zero of=/dev/null bs=1 count=200000 2>/dev/null ;;\n"
                             "forks) i=0; while [ $i -lt 300 ]; do $bb true; i=$((i+1)); done ;;\n"
                             "*) echo \"no such work: $work\" ;;\n"
                             "esac\n"
                             "echo " MARK_END "\n";

struct work {
    const char *name, *word, *kernel, *what;
    bool boot; /* what counts is the time to the shell; else that of the work */
};
static const struct work works[] = {
    {"boot", "boot", "vmlinux", "from power on to the shell, uncompressed kernel (PVH)", true},
    {"boot-bzimage", "boot", "vmlinuz", "from power on to the shell, bzImage", true},
    {"sha256sum", "sha256sum", "vmlinux", "dd of 64 MiB of zeros, sha256sum", false},
    {"awk", "awk", "vmlinux", "busybox awk, 500,000 of s+=i*i%7", false},
    {"bzip2", "bzip2", "vmlinux", "seq 1 200000, bzip2", false},
    {"dd", "dd", "vmlinux", "dd bs=1 count=200000", false},
    {"forks", "forks", "vmlinux", "300 forks of busybox true", false},
};

#define MICROVM "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on"

/* A machine of the peer's. Its best recording depends on how icount's shift is set, so both are tried. */
struct machine {
    const char *name, *type, *cpu, *shift;
    bool plain; /* without icount the shift does not matter: one of them runs plain */
};
static const struct machine machines[] = {
    {"QEMU pc", "pc", "qemu64", "auto", true},
    {"QEMU microvm", MICROVM, "qemu64,-apic,-x2apic", "auto", true},
    {"QEMU microvm, shift=1", MICROVM, "qemu64,-apic,-x2apic", "1", false},
};

enum column { PLAIN, RECORD, REPLAY, SEAL, VERIFY, COLUMN_COUNT };
static const char *const column_names[COLUMN_COUNT] = {"plain", "record", "replay", "seal", "verify"};
#define ROW_DEJAVM ARRAY_LEN(machines)
#define ROW_HOST   (ROW_DEJAVM + 1)
#define ROW_COUNT  (ROW_HOST + 1)

struct cell {
    double wall[RUNS_MAX], cpu[RUNS_MAX], whole[RUNS_MAX]; /* s; whole: from start to exit */
    unsigned count, failed;
    char why[160]; /* of the last failure */
};

struct result {
    struct cell cell[ROW_COUNT][COLUMN_COUNT];
    uint64_t rr_log_bytes[ARRAY_LEN(machines)]; /* of the last run */
    uint64_t trace_bytes, sealed_bytes, event_bytes, image_bytes, steps;
};

struct bench_linux {
    const char *guest, *only, *qemu, *json_path, *append;
    char dejavm[4096], busybox[4096], folder[64];
    unsigned runs, timeout_s;
    bool have_qemu, cpu;
};

static void row_name(unsigned row, char *out, size_t size)
{
    snprintf(out, size, "%s",
             row < ROW_DEJAVM    ? machines[row].name
             : row == ROW_DEJAVM ? "dejavm"
                                 : "this host itself");
}

/* ---- running ---- */

static void take(struct cell *c, const struct work *work, bool marks, int result,
                 const struct process_times *t, const struct error *err)
{
    struct moment m = t->total;
    if (marks && work->boot)
        m = t->begin;
    else if (marks)
        m = (struct moment){t->end.wall_s - t->begin.wall_s, t->end.cpu_s - t->begin.cpu_s};
    if (result < 0 || isnan(m.wall_s)) {
        c->failed++;
        snprintf(c->why, sizeof(c->why), "%.150s", result < 0 ? err->message : "the work did not run");
        return;
    }
    c->whole[c->count] = t->total.wall_s;
    c->cpu[c->count] = m.cpu_s;
    c->wall[c->count++] = m.wall_s;
}

/* marks: what counts is between the marks that the guest prints, else the whole run. */
static void run_one(const struct bench_linux *b, struct cell *c, const struct work *work, bool marks,
                    const char *const *arguments)
{
    struct process p = {.arguments = arguments, .timeout_s = b->timeout_s};
    struct process_times times;
    struct error err = {0};
    int result = process_run(&p, &times, &err);
    take(c, work, marks, result, &times, &err);
}

static uint64_t file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

struct guest_files {
    char kernel[4200], initrd[4200], append[1200], log[100], trace[100];
};

static void name_files(const struct bench_linux *b, const struct work *work, struct guest_files *f)
{
    snprintf(f->kernel, sizeof(f->kernel), "%s/%s", b->guest, work->kernel);
    snprintf(f->initrd, sizeof(f->initrd), "%s/initrd.img", b->guest);
    snprintf(f->append, sizeof(f->append), "%s bench=%s", b->append, work->word);
    snprintf(f->log, sizeof(f->log), "%s/rr.log", b->folder);
    snprintf(f->trace, sizeof(f->trace), "%s/trace.dvm", b->folder);
}

static void run_qemu(const struct bench_linux *b, const struct work *work, const struct guest_files *f,
                     const struct machine *m, enum column column, struct cell *c)
{
    char icount[300];
    snprintf(icount, sizeof(icount), "shift=%s,rr=%s,rrfile=%s", m->shift,
             column == RECORD ? "record" : "replay", f->log);
    const char *arguments[40] = {b->qemu,   "-accel",   "tcg",     "-M",      m->type,   "-cpu",
                                 m->cpu,    "-m",       MEMORY,    "-net",    "none",    "-display",
                                 "none",    "-monitor", "none",    "-serial", "stdio",   "-no-reboot",
                                 "-kernel", f->kernel,  "-initrd", f->initrd, "-append", f->append};
    if (column != PLAIN) {
        unsigned n = 0;
        while (arguments[n])
            n++;
        arguments[n] = "-icount";
        arguments[n + 1] = icount;
    }
    run_one(b, c, work, true, arguments);
}

static void run_all_qemu(const struct bench_linux *b, const struct work *work, const struct guest_files *f,
                         struct result *r)
{
    for (unsigned i = 0; b->have_qemu && i < ARRAY_LEN(machines); i++) {
        struct cell *row = r->cell[i];
        if (machines[i].plain)
            run_qemu(b, work, f, &machines[i], PLAIN, &row[PLAIN]);
        run_qemu(b, work, f, &machines[i], RECORD, &row[RECORD]);
        r->rr_log_bytes[i] = file_bytes(f->log);
        run_qemu(b, work, f, &machines[i], REPLAY, &row[REPLAY]);
        unlink(f->log);
    }
}

static void read_sizes(const struct guest_files *f, struct result *r)
{
    struct trace_reader *reader;
    struct error err;
    if (trace_reader_open(&reader, f->trace, &err) < 0)
        return;
    const struct trace_info *info = trace_reader_info(reader);
    r->sealed_bytes = info->file_bytes;
    r->event_bytes = info->bytes_events;
    r->image_bytes = info->bytes_image;
    r->steps = info->seal.end_position;
    trace_reader_close(reader);
}

static void run_dejavm(const struct bench_linux *b, const struct work *work, const struct guest_files *f,
                       struct result *r)
{
    const char *const record[] = {b->dejavm,  "record",   "--engine=emu", "--no-seal", "--force",
                                  "--memory", MEMORY "M", "--initrd",     f->initrd,   "--append",
                                  f->append,  "-o",       f->trace,       f->kernel,   NULL};
    const char *const verify[] = {b->dejavm, "verify", f->trace, NULL};
    const char *const replay[] = {b->dejavm, "replay", f->trace, NULL};
    struct cell *row = r->cell[ROW_DEJAVM];
    run_one(b, &row[RECORD], work, true, record);
    r->trace_bytes = file_bytes(f->trace);
    run_one(b, &row[SEAL], work, false, verify); /* an unsealed trace is verified by sealing it */
    run_one(b, &row[REPLAY], work, true, replay);
    run_one(b, &row[VERIFY], work, false, verify);
    read_sizes(f, r);
    unlink(f->trace);
}

static void run_host(const struct bench_linux *b, const struct work *work, struct result *r)
{
    char variable[4200];
    snprintf(variable, sizeof(variable), "BUSYBOX=%s", b->busybox);
    const char *const arguments[] = {b->busybox, "sh", "-c", script, "sh", work->word, NULL};
    const char *const environment[] = {variable, "PATH=/nonexistent", NULL};
    struct process p = {
        .arguments = arguments, .environment = environment, .one_cpu = true, .timeout_s = b->timeout_s};
    struct process_times times;
    struct error err = {0};
    if (work->boot || !b->busybox[0])
        return;
    int result = process_run(&p, &times, &err);
    take(&r->cell[ROW_HOST][PLAIN], work, true, result, &times, &err);
}

/* ---- showing ---- */

static double cell_median(const struct cell *c, const double *values)
{
    double copy[RUNS_MAX];
    memcpy(copy, values, c->count * sizeof(*copy));
    return sample_median(copy, c->count);
}

static double shown(const struct bench_linux *b, const struct cell *c)
{
    return cell_median(c, b->cpu ? c->cpu : c->wall);
}

/* QEMU's best median in one of the columns. */
static double best_of_qemu(const struct bench_linux *b, const struct result *r, enum column column)
{
    double best = NAN;
    for (unsigned i = 0; i < ARRAY_LEN(machines); i++)
        best = fmin(best, shown(b, &r->cell[i][column])); /* fmin: a number rather than NAN */
    return best;
}

static void print_ratio(const char *what, double a, double b)
{
    if (!isnan(a) && !isnan(b) && b > 0)
        printf("    %-62s %8.2f\n", what, a / b);
}

static void print_ratios(const struct bench_linux *b, const struct work *work, const struct result *r)
{
    const struct cell *d = r->cell[ROW_DEJAVM];
    double record = shown(b, &d[RECORD]), replay = shown(b, &d[REPLAY]);
    double host = shown(b, &r->cell[ROW_HOST][PLAIN]);
    print_ratio("QEMU's best rr=record / dejavm record", best_of_qemu(b, r, RECORD), record);
    print_ratio("QEMU's best rr=replay / dejavm replay", best_of_qemu(b, r, REPLAY), replay);
    print_ratio("QEMU's best plain run / dejavm record", best_of_qemu(b, r, PLAIN), record);
    print_ratio("dejavm record / the host itself", record, host);
    print_ratio("dejavm replay / the host itself", replay, host);
    double whole = cell_median(&d[REPLAY], d[REPLAY].whole);
    if (work->boot) {
        print_ratio("sealing / replay, both from start to exit", cell_median(&d[SEAL], d[SEAL].whole), whole);
        print_ratio("verifying / replay, both from start to exit", cell_median(&d[VERIFY], d[VERIFY].whole),
                    whole);
    }
}

static void print_row(const struct bench_linux *b, const struct result *r, unsigned row)
{
    char name[64];
    row_name(row, name, sizeof(name));
    printf("    %-24s", name);
    for (unsigned i = 0; i < COLUMN_COUNT; i++) {
        const struct cell *c = &r->cell[row][i];
        if (c->count)
            printf(" %8.3f", shown(b, c));
        else
            printf(" %8s", c->failed ? "failed" : "");
    }
    printf("\n");
    for (unsigned i = 0; i < COLUMN_COUNT; i++)
        if (r->cell[row][i].failed)
            printf("      %s failed %u times: %s\n", column_names[i], r->cell[row][i].failed,
                   r->cell[row][i].why);
}

static void print_result(const struct bench_linux *b, const struct work *work, const struct result *r)
{
    printf("%s: %s; %ss, medians of %u runs\n    %-24s", work->name, work->what, b->cpu ? "CPU " : "",
           b->runs, "");
    for (unsigned i = 0; i < COLUMN_COUNT; i++)
        printf(" %8s", column_names[i]);
    printf("\n");
    for (unsigned i = 0; i < ROW_COUNT; i++)
        if (i >= ROW_DEJAVM ? i == ROW_DEJAVM || !work->boot : b->have_qemu)
            print_row(b, r, i);
    print_ratios(b, work, r);
    printf("    %llu million steps; trace: events %.1f KiB, image %.1f MiB, as recorded %.1f MiB, sealed "
           "%.1f MiB\n",
           (unsigned long long)(r->steps / 1000000), (double)r->event_bytes / 1024,
           (double)r->image_bytes / 1048576, (double)r->trace_bytes / 1048576,
           (double)r->sealed_bytes / 1048576);
    for (unsigned i = 0; b->have_qemu && i < ARRAY_LEN(machines); i++)
        printf("    log of %s: %.1f KiB\n", machines[i].name, (double)r->rr_log_bytes[i] / 1024);
    fflush(stdout);
}

static void json_us(struct json *j, const char *key, double seconds)
{
    if (isnan(seconds))
        json_null(j, key);
    else
        json_u64(j, key, (uint64_t)(seconds * 1e6 + 0.5));
}

static void json_cell(struct json *j, unsigned row, unsigned column, const struct cell *c)
{
    char name[64];
    row_name(row, name, sizeof(name));
    json_object(j, NULL);
    json_string(j, "who", name);
    json_string(j, "run", column_names[column]);
    json_us(j, "wall_us", cell_median(c, c->wall));
    json_us(j, "cpu_us", cell_median(c, c->cpu));
    json_us(j, "whole_wall_us", cell_median(c, c->whole));
    json_u64(j, "failed", c->failed);
    if (c->failed)
        json_text(j, "why", (const uint8_t *)c->why, strlen(c->why));
    json_array_line(j, "all_wall_us");
    for (unsigned i = 0; i < c->count; i++)
        json_us(j, NULL, c->wall[i]);
    json_close_array(j);
    json_close_object(j);
}

static void json_work(struct json *j, const struct work *work, const struct result *r)
{
    json_object(j, NULL);
    json_string(j, "name", work->name);
    json_string(j, "what", work->what);
    json_u64(j, "steps", r->steps);
    json_u64(j, "trace_bytes", r->trace_bytes);
    json_u64(j, "sealed_bytes", r->sealed_bytes);
    json_u64(j, "event_bytes", r->event_bytes);
    json_u64(j, "image_bytes", r->image_bytes);
    json_array(j, "runs");
    for (unsigned row = 0; row < ROW_COUNT; row++)
        for (unsigned column = 0; column < COLUMN_COUNT; column++)
            if (r->cell[row][column].count || r->cell[row][column].failed)
                json_cell(j, row, column, &r->cell[row][column]);
    json_close_array(j);
    json_array(j, "rr_logs");
    for (unsigned i = 0; i < ARRAY_LEN(machines); i++) {
        json_object_line(j, NULL);
        json_string(j, "who", machines[i].name);
        json_u64(j, "bytes", r->rr_log_bytes[i]);
        json_close_object(j);
    }
    json_close_array(j);
    json_close_object(j);
}

/* ---- all of it ---- */

static int measure(const struct bench_linux *b, FILE *file)
{
    char text[128];
    struct json json;
    struct result *r = malloc(sizeof(*r));
    if (!r) {
        fprintf(stderr, "dejavm-bench: out of memory\n");
        return 1;
    }
    bench_host_cpu_name(text, sizeof(text));
    printf("dejavm %s, engine emu, on %s; kernel command line: %s\n", DEJAVM_VERSION, text, b->append);
    if (file) {
        json_begin(&json, file);
        json_string(&json, "version", DEJAVM_VERSION);
        json_string(&json, "host_cpu", text);
        bench_date(text, sizeof(text));
        json_string(&json, "date", text);
        json_string(&json, "append", b->append);
        json_u64(&json, "runs", b->runs);
        json_array(&json, "works");
    }
    unsigned failed = 0;
    for (unsigned i = 0; i < ARRAY_LEN(works); i++) {
        const struct work *work = &works[i];
        struct guest_files f;
        if (b->only && strcmp(b->only, work->name) != 0)
            continue;
        *r = (struct result){0};
        name_files(b, work, &f);
        for (unsigned run = 0; run < b->runs; run++) {
            run_host(b, work, r);
            run_dejavm(b, work, &f, r);
            run_all_qemu(b, work, &f, r);
        }
        print_result(b, work, r);
        failed += r->cell[ROW_DEJAVM][RECORD].failed + r->cell[ROW_DEJAVM][REPLAY].failed;
        if (file)
            json_work(&json, work, r);
    }
    if (file) {
        json_close_array(&json);
        json_end(&json);
    }
    free(r);
    return failed ? 1 : 0;
}

static void usage(FILE *out)
{
    fputs("usage: dejavm-bench linux [OPTION]... FOLDER\n"
          "Runs a Linux guest in dejavm and in QEMU (TCG, one vCPU: plain, rr=record, rr=replay), and its "
          "work on this\n"
          "host, in alternation, and prints medians in seconds and ratios. FOLDER is made by\n"
          "    dejavm-bench linux --script >work && examples/linux/fetch --vmlinux --script work FOLDER\n"
          "  --runs N         how often everything is run (1 to 99, default 3)\n"
          "  --work NAME      only this: boot, boot-bzimage, sha256sum, awk, bzip2, dd, forks\n"
          "  --append STRING  another command line for the kernel\n"
          "  --cpu            CPU time instead of time on the clock, in the table\n"
          "  --no-qemu        without QEMU\n"
          "  --qemu PROGRAM   default: qemu-system-x86_64\n"
          "  --dejavm PROGRAM default: the one in this program's folder\n"
          "  --timeout S      of each run; default 180\n"
          "  --json FILE      writes all figures there as well\n"
          "  --script         prints what the guest runs\n",
          out);
}

static bool work_exists(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(works); i++)
        if (strcmp(works[i].name, name) == 0)
            return true;
    return false;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct bench_linux *b)
{
    static const struct option list[] = {
        {"runs", required_argument, NULL, 'r'},   {"work", required_argument, NULL, 'w'},
        {"append", required_argument, NULL, 'a'}, {"cpu", no_argument, NULL, 'c'},
        {"no-qemu", no_argument, NULL, 'n'},      {"qemu", required_argument, NULL, 'q'},
        {"dejavm", required_argument, NULL, 'd'}, {"timeout", required_argument, NULL, 't'},
        {"json", required_argument, NULL, 'j'},   {"script", no_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", list, NULL)) != -1) {
        switch (c) {
        case 'r':
            if (!bench_parse_number(optarg, RUNS_MAX, &b->runs))
                return bench_bad_usage("--runs %s: a number from 1 to 99", optarg);
            break;
        case 'w':
            if (!work_exists(optarg))
                return bench_bad_usage("--work %s: there is no such work (--help names them)", optarg);
            b->only = optarg;
            break;
        case 'a':
            if (strlen(optarg) > 1000)
                return bench_bad_usage("--append: %.20s... is too long", optarg);
            b->append = optarg;
            break;
        case 'c':
            b->cpu = true;
            break;
        case 'n':
            b->have_qemu = false;
            break;
        case 'q':
            b->qemu = optarg;
            break;
        case 'd':
            snprintf(b->dejavm, sizeof(b->dejavm), "%s", optarg);
            break;
        case 't':
            if (!bench_parse_number(optarg, 86400, &b->timeout_s))
                return bench_bad_usage("--timeout %s: seconds, from 1 to 86400", optarg);
            break;
        case 'j':
            b->json_path = optarg;
            break;
        case 's':
            fputs(script, stdout);
            return 0;
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
    b->guest = argv[optind];
    return -1;
}

/* The host runs the very busybox that is in the guest. */
static void find_busybox(struct bench_linux *b)
{
    char pattern[4200];
    glob_t found;
    snprintf(pattern, sizeof(pattern), "%s/packages-*/tree/bin/busybox", b->guest);
    if (glob(pattern, 0, NULL, &found) == 0) {
        snprintf(b->busybox, sizeof(b->busybox), "%s", found.gl_pathv[0]);
        globfree(&found);
    } else {
        fprintf(stderr, "dejavm-bench: no %s: without the work on this host itself\n", pattern);
    }
}

static bool guest_is_there(const struct bench_linux *b)
{
    static const char *const names[] = {"vmlinux", "vmlinuz", "initrd.img"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char path[4200];
        snprintf(path, sizeof(path), "%s/%s", b->guest, names[i]);
        if (access(path, R_OK) != 0) {
            fprintf(stderr, "dejavm-bench: %s: %s (--help says how the folder is made)\n", path,
                    strerror(errno));
            return false;
        }
    }
    return true;
}

int bench_linux_command(int argc, char **argv)
{
    struct bench_linux b = {.qemu = "qemu-system-x86_64",
                            .append = APPEND_DEFAULT,
                            .runs = RUNS_DEFAULT,
                            .timeout_s = TIMEOUT_DEFAULT,
                            .have_qemu = true,
                            .folder = "/tmp/dejavm-bench.XXXXXX"};
    bench_dejavm_path(b.dejavm, sizeof(b.dejavm));
    int status = parse(argc, argv, &b);
    if (status >= 0)
        return status;
    if (!guest_is_there(&b))
        return 1;
    if (!process_exists(b.dejavm)) {
        fprintf(stderr, "dejavm-bench: %s: no such program; name it with --dejavm\n", b.dejavm);
        return 1;
    }
    if (b.have_qemu && !process_exists(b.qemu)) {
        fprintf(stderr, "dejavm-bench: no %s here (Debian: package qemu-system-x86): without QEMU\n", b.qemu);
        b.have_qemu = false;
    }
    find_busybox(&b);
    FILE *file = b.json_path ? fopen(b.json_path, "w") : NULL;
    if (b.json_path && !file) {
        fprintf(stderr, "dejavm-bench: %s: %s\n", b.json_path, strerror(errno));
        return 1;
    }
    if (!mkdtemp(b.folder)) {
        fprintf(stderr, "dejavm-bench: %s: %s\n", b.folder, strerror(errno));
        status = 1;
    } else {
        status = measure(&b, file);
        rmdir(b.folder);
    }
    if (file && fclose(file) != 0)
        status = 1;
    return status;
}

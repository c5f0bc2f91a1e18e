/*
 * dejavm-bench linux: the same Linux guest in QEMU (TCG; plain, recording, replaying) and in dejavm, and its work on the host
 * itself, in alternation.
 */
#include <errno.h>
#include <getopt.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/types.h"
#include "tools/bench/bench_linux.h"
#include "tools/bench/commands.h"
#include "tools/bench/process.h"
#include "tools/json.h"

#define RUNS_DEFAULT    3u
#define TIMEOUT_DEFAULT 180u
#define APPEND_DEFAULT  "console=ttyS0 panic=-1 reboot=t nokaslr quiet cryptomgr.notests"

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
    for (unsigned i = 0; i < WORK_COUNT; i++) {
        const struct work *work = &linux_works[i];
        if (b->only && strcmp(b->only, work->name) != 0)
            continue;
        *r = (struct result){0};
        for (unsigned run = 0; run < b->runs; run++)
            linux_run_work(b, work, r);
        linux_print_result(b, work, r);
        for (unsigned m = ROW_DEJAVM; m < ROW_HOST; m++)
            failed += r->cell[m][RECORD].failed + r->cell[m][REPLAY].failed;
        if (file)
            linux_json_work(&json, work, r);
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
    for (unsigned i = 0; i < WORK_COUNT; i++)
        if (strcmp(linux_works[i].name, name) == 0)
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
            fputs(linux_script, stdout);
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

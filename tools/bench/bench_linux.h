/* What the files of dejavm-bench linux share: works, machines, and the figures of one work. */
#ifndef DEJAVM_TOOLS_BENCH_LINUX_H
#define DEJAVM_TOOLS_BENCH_LINUX_H

#include <stdint.h>
#include <stdio.h>

#include "tools/bench/sample.h"
#include "tools/json.h"

struct work {
    const char *name, *word, *kernel, *what;
    bool boot; /* what counts is the time to the shell; else that of the work */
};
#define WORK_COUNT 7u
extern const struct work linux_works[WORK_COUNT];

/* A machine of the peer's. Its best recording depends on how icount's shift is set, so both are tried. */
struct machine {
    const char *name, *type, *cpu, *shift;
    bool plain; /* without icount the shift does not matter: one of them runs plain */
};
#define MACHINE_COUNT 3u
extern const struct machine linux_machines[MACHINE_COUNT];

enum column { PLAIN, RECORD, REPLAY, SEAL, VERIFY, COLUMN_COUNT };
/* dejavm's, in the rows behind those. */
#define DEJAVM_MACHINE_COUNT 2u
extern const char *const linux_dejavm_machines[DEJAVM_MACHINE_COUNT];
#define ROW_DEJAVM MACHINE_COUNT
#define ROW_HOST   (ROW_DEJAVM + DEJAVM_MACHINE_COUNT)
#define ROW_COUNT  (ROW_HOST + 1)

struct cell {
    double wall[RUNS_MAX], cpu[RUNS_MAX];             /* s */
    double whole_wall[RUNS_MAX], whole_cpu[RUNS_MAX]; /* from start to exit */
    unsigned count, failed;
    char why[160]; /* of the last failure */
};

struct result {
    struct cell cell[ROW_COUNT][COLUMN_COUNT];
    uint64_t rr_log_bytes[MACHINE_COUNT]; /* of the last run */
    struct trace_sizes {
        uint64_t recorded_bytes, sealed_bytes, event_bytes, image_bytes, steps;
    } trace[DEJAVM_MACHINE_COUNT]; /* of the last run */
};

struct bench_linux {
    const char *guest, *only, *qemu, *json_path, *append;
    char dejavm[4096], busybox[4096], folder[64];
    unsigned runs, timeout_s;
    bool have_qemu, cpu;
};

/* bench_linux_run.c */
extern const char linux_script[];
/* Everything once, into r. */
void linux_run_work(const struct bench_linux *b, const struct work *work, struct result *r);

/* bench_linux_report.c */
void linux_print_result(const struct bench_linux *b, const struct work *work, const struct result *r);
void linux_json_work(struct json *j, const struct work *work, const struct result *r);

#endif

/* Running the guest, in QEMU and in dejavm, and its work on the host itself. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/types.h"
#include "tools/bench/bench_linux.h"
#include "tools/bench/process.h"
#include "trace-format/trace_reader.h"

#define MEMORY "256"

/* What the guest runs as /script, and the host with the same busybox. bench=NAME on the kernel's command line says which. */
const char linux_script[] = "bb=${BUSYBOX:-/bin/busybox}\n"
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

const struct work linux_works[WORK_COUNT] = {
    {"boot", "boot", "vmlinux", "from power on to the shell, uncompressed kernel (PVH)", true},
    {"boot-bzimage", "boot", "vmlinuz", "from power on to the shell, bzImage", true},
    {"sha256sum", "sha256sum", "vmlinux", "dd of 64 MiB of zeros, sha256sum", false},
    {"awk", "awk", "vmlinux", "busybox awk, 500,000 of s+=i*i%7", false},
    {"bzip2", "bzip2", "vmlinux", "seq 1 200000, bzip2", false},
    {"dd", "dd", "vmlinux", "dd bs=1 count=200000", false},
    {"forks", "forks", "vmlinux", "300 forks of busybox true", false},
};

#define MICROVM "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on"

const struct machine linux_machines[MACHINE_COUNT] = {
    {"QEMU pc", "pc", "qemu64", "auto", true},
    {"QEMU microvm", MICROVM, "qemu64,-apic,-x2apic", "auto", true},
    {"QEMU microvm, shift=1", MICROVM, "qemu64,-apic,-x2apic", "1", false},
};

const char *const linux_dejavm_machines[DEJAVM_MACHINE_COUNT] = {"minimal", "pc"};

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
    c->whole_wall[c->count] = t->total.wall_s;
    c->whole_cpu[c->count] = t->total.cpu_s;
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
    for (unsigned i = 0; b->have_qemu && i < MACHINE_COUNT; i++) {
        struct cell *row = r->cell[i];
        if (linux_machines[i].plain)
            run_qemu(b, work, f, &linux_machines[i], PLAIN, &row[PLAIN]);
        run_qemu(b, work, f, &linux_machines[i], RECORD, &row[RECORD]);
        r->rr_log_bytes[i] = file_bytes(f->log);
        run_qemu(b, work, f, &linux_machines[i], REPLAY, &row[REPLAY]);
        unlink(f->log);
    }
}

static void read_sizes(const struct guest_files *f, struct trace_sizes *sizes)
{
    struct trace_reader *reader;
    struct error err;
    if (trace_reader_open(&reader, f->trace, &err) < 0)
        return;
    const struct trace_info *info = trace_reader_info(reader);
    sizes->sealed_bytes = info->file_bytes;
    sizes->event_bytes = info->bytes_events;
    sizes->image_bytes = info->bytes_image;
    sizes->steps = info->seal.end_position;
    trace_reader_close(reader);
}

static void run_dejavm(const struct bench_linux *b, const struct work *work, const struct guest_files *f,
                       unsigned machine, struct result *r)
{
    const char *const record[] = {
        b->dejavm,   "record",  "--engine", "emu",      "--machine", linux_dejavm_machines[machine],
        "--no-seal", "--force", "--memory", MEMORY "M", "--initrd",  f->initrd,
        "--append",  f->append, "-o",       f->trace,   f->kernel,   NULL};
    const char *const verify[] = {b->dejavm, "verify", f->trace, NULL};
    const char *const replay[] = {b->dejavm, "replay", f->trace, NULL};
    struct cell *row = r->cell[ROW_DEJAVM + machine];
    run_one(b, &row[RECORD], work, true, record);
    r->trace[machine].recorded_bytes = file_bytes(f->trace);
    run_one(b, &row[SEAL], work, false, verify); /* an unsealed trace is verified by sealing it */
    run_one(b, &row[REPLAY], work, true, replay);
    run_one(b, &row[VERIFY], work, false, verify);
    read_sizes(f, &r->trace[machine]);
    unlink(f->trace);
}

static void run_host(const struct bench_linux *b, const struct work *work, struct result *r)
{
    char variable[4200];
    snprintf(variable, sizeof(variable), "BUSYBOX=%s", b->busybox);
    const char *const arguments[] = {b->busybox, "sh", "-c", linux_script, "sh", work->word, NULL};
    const char *const environment[] = {variable, "PATH=/nonexistent", NULL};
    struct process p = {
        .arguments = arguments, .environment = environment, .one_cpu = true, .timeout_s = b->timeout_s};
    struct process_times times;
    struct error err = {0};
    if (work->boot || !b->busybox[0])
        return;
    int result = process_run(&p, &times, &err);
    if (result == 0 && isnan(times.end.wall_s))
        result = error_set(&err, -EIO, "the work did not end");
    /* The shell's children count, whose CPU time is known at the end only; starting the shell takes a millisecond. */
    take(&r->cell[ROW_HOST][PLAIN], work, false, result, &times, &err);
}

void linux_run_work(const struct bench_linux *b, const struct work *work, struct result *r)
{
    struct guest_files f;
    name_files(b, work, &f);
    run_host(b, work, r);
    for (unsigned m = 0; m < DEJAVM_MACHINE_COUNT; m++)
        run_dejavm(b, work, &f, m, r);
    run_all_qemu(b, work, &f, r);
}

/*
 * Runs a program and notes when it printed what, and what it had cost by then.
 */
#ifndef DEJAVM_TOOLS_BENCH_PROCESS_H
#define DEJAVM_TOOLS_BENCH_PROCESS_H

#include "core/base/error.h"

/* What the guest's work prints on lines of their own when it begins and when it has ended. */
#define MARK_BEGIN "bench-begin"
#define MARK_END   "bench-end"

/* Seconds since the start. CPU time is that of all threads of the process itself. */
struct moment {
    double wall_s, cpu_s;
};

struct process_times {
    struct moment begin, end; /* when the marks came; NAN if they did not */
    struct moment total;
};

struct process {
    const char *const *arguments;   /* ends with NULL; the first is looked for in PATH */
    const char *const *environment; /* NULL: as here */
    bool one_cpu;                   /* it, and all that it starts, share one CPU */
    unsigned timeout_s;
};

/*
 * Standard input is empty. Anything but exit status 0 in time is an error (-ETIMEDOUT, -ENOENT when there is no such program, else
 * -EIO) with the end of what it said on standard error.
 */
int process_run(const struct process *p, struct process_times *out, struct error *err) must_check;

/* Is there such a program in PATH? */
bool process_exists(const char *name);

#endif

/* monitor: what the Linux kernel in the guest has to say. */
#include "tools/monitor.h"
#include "tools/number.h"
#include "tools/trace_linux.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX ((uint64_t)1 << 22)

static int run_ps(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_lsmod(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_dmesg(struct monitor *m, const struct monitor_words *words, struct error *err);

enum { PS, LSMOD, DMESG };
const struct monitor_command monitor_linux_commands[] = {
    [PS] = {"ps", "", "the tasks of a Linux guest here; * is the one that the vCPU runs", run_ps},
    [LSMOD] = {"lsmod", "", "the modules that a Linux guest has loaded here", run_lsmod},
    [DMESG] = {"dmesg", "[N]", "the last N of a Linux kernel's messages, as its buffer has them here (all)",
               run_dmesg},
    {0},
};

/* The kernel of this trace, or why there is none. */
static int need_kernel(struct monitor *m, struct error *err)
{
    if (m->target->kernel->guest)
        return 0;
    int code = trace_linux_find(m->target, &m->interrupt, err);
    return code == -EINTR ? monitor_was_interrupted(m, err) : code;
}

/* ---- ps ---- */

static bool print_task(void *context, const struct linux_task *task)
{
    struct monitor *m = context;
    char comm[LINUX_COMM_BYTES + 1], tgid[16] = "";
    linux_session_comm(task, comm);
    if (task->tgid != task->pid)
        snprintf(tgid, sizeof(tgid), " (of %" PRIu32 ")", task->tgid);
    fprintf(m->out, "%c %7" PRIu32 " %7" PRIu32 "  %c  %s%s%s%s\n", task->current ? '*' : ' ', task->pid,
            task->ppid, task->state, task->kernel ? "[" : "", comm, task->kernel ? "]" : "", tgid);
    return !monitor_interrupted(m);
}

static int run_ps(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    bool complete;
    if (words->count > 0)
        return monitor_usage(&monitor_linux_commands[PS], err);
    int code = need_kernel(m, err);
    if (code)
        return code;
    const struct linux_view view = trace_linux_view(m->target);
    struct linux_task current;
    code = linux_task_current(m->target->kernel->guest, &view, &current, err);
    if (code)
        return code;
    fputs("      PID    PPID  S  NAME (of kernel threads: [NAME])\n", m->out);
    code = linux_tasks(m->target->kernel->guest, &view, print_task, m, &complete, err);
    if (code == 0 && !complete)
        fputs("the kernel's list of tasks is broken here, or ends there\n", m->out);
    return code;
}

/* ---- lsmod ---- */

static const char *module_state(const struct linux_module *module)
{
    static const char *const names[] = {"", "coming", "going", "unformed"};
    return module->state < ARRAY_LEN(names) ? names[module->state] : "?";
}

static void print_module(struct monitor *m, const struct linux_modules *modules,
                         const struct linux_module *module)
{
    const char *state = module_state(module);
    fprintf(m->out, "%-24s %9" PRIu64 "  0x%016" PRIx64 " %5" PRId64 "  ", module->name, module->size,
            module->base, module->references);
    for (size_t i = 0; i < module->user_count; i++)
        fprintf(m->out, "%s%s", i ? "," : "", modules->list[module->users[i]].name);
    fprintf(m->out, "%s%s%s%s\n", module->user_count && *state ? " " : "", *state ? "(" : "", state,
            *state ? ")" : "");
}

static int run_lsmod(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    struct linux_modules *modules;
    if (words->count > 0)
        return monitor_usage(&monitor_linux_commands[LSMOD], err);
    int code = need_kernel(m, err);
    if (code)
        return code;
    const struct linux_view view = trace_linux_view(m->target);
    code = linux_modules_read(&modules, m->target->kernel->guest, &view, err);
    if (code)
        return code;
    if (modules->count == 0)
        fputs("no module is loaded here\n", m->out);
    else
        fprintf(m->out, "%-24s %9s  %-18s %5s  %s\n", "MODULE", "SIZE", "ADDRESS", "USED", "BY");
    for (size_t i = 0; i < modules->count; i++)
        print_module(m, modules, &modules->list[i]);
    if (!modules->complete)
        fputs("the kernel's list of modules is broken here\n", m->out);
    linux_modules_free(modules);
    return 0;
}

/* ---- dmesg ---- */

struct dmesg {
    struct monitor *m;
    uint64_t seen, skip;
};

static bool count_message(void *context, const struct linux_message *message)
{
    struct dmesg *d = context;
    (void)message;
    d->seen++;
    return !monitor_interrupted(d->m);
}

static bool print_message(void *context, const struct linux_message *message)
{
    enum { NS_PER_US = 1000, US_PER_S = 1000000 };
    struct dmesg *d = context;
    if (d->seen++ < d->skip)
        return true;
    uint64_t us = message->time_ns / NS_PER_US;
    fprintf(d->m->out, "[%5" PRIu64 ".%06" PRIu64 "] ", us / US_PER_S, us % US_PER_S);
    put_guest_text(d->m->out, message->text, message->length);
    putc('\n', d->m->out);
    return !monitor_interrupted(d->m);
}

static int run_dmesg(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    struct dmesg d = {.m = m};
    uint64_t wanted = MESSAGES_MAX;
    int code = words->count == 1 ? monitor_length(words->word[0], MESSAGES_MAX, &wanted, err) : 0;
    if (words->count > 1)
        return monitor_usage(&monitor_linux_commands[DMESG], err);
    if (code == 0)
        code = need_kernel(m, err);
    if (code)
        return code;
    const struct linux_view view = trace_linux_view(m->target);
    code = linux_dmesg(m->target->kernel->guest, &view, count_message, &d, err);
    if (code)
        return code;
    d.skip = d.seen > wanted ? d.seen - wanted : 0;
    d.seen = 0;
    return linux_dmesg(m->target->kernel->guest, &view, print_message, &d, err);
}

#include "tools/linux_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void forget_tasks(struct linux_session *s)
{
    free(s->tasks);
    s->tasks = NULL;
    s->task_count = 0;
    s->have_tasks = false;
}

void linux_session_close(struct linux_session *s)
{
    forget_tasks(s);
    linux_modules_free(s->modules);
    linux_guest_close(s->guest);
    *s = (struct linux_session){0};
}

/* ---- names ---- */

const struct linux_modules *linux_session_modules(struct linux_session *s, const struct linux_view *view,
                                                  uint64_t moment)
{
    if (s->modules && s->modules_moment == moment)
        return s->modules;
    linux_modules_free(s->modules);
    s->modules = NULL;
    if (s->guest && linux_modules_read(&s->modules, s->guest, view, NULL) == 0)
        s->modules_moment = moment;
    return s->modules;
}

const char *linux_session_describe(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                                   gva_t address, char *out, size_t size)
{
    if (size > 0)
        out[0] = '\0';
    /* Below the kernel's half of the address space there are programs. */
    if (!s->guest || (int64_t)address >= 0)
        return out;
    linux_describe(s->guest, address, out, size);
    if (size > 0 && !out[0])
        linux_modules_describe(linux_session_modules(s, view, moment), address, out, size);
    return out;
}

bool linux_session_symbol(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                          const char *name, gva_t *address)
{
    if (!s->guest)
        return false;
    return linux_symbol_address(s->guest, name, address) ||
           linux_modules_symbol(linux_session_modules(s, view, moment), name, address);
}

const char *linux_session_comm(const struct linux_task *task, char out[LINUX_COMM_BYTES + 1])
{
    for (size_t i = 0; i <= LINUX_COMM_BYTES; i++) {
        char c = task->comm[i];
        out[i] = c == '\0' || (c >= ' ' && c < 0x7f) ? c : '?';
    }
    return out;
}

/* ---- tasks ---- */

static uint64_t thread_of(const struct linux_task *task)
{
    return task->pid ? task->pid : LINUX_IDLE_THREAD;
}

static bool collect(void *context, const struct linux_task *task)
{
    struct linux_session *s = context;
    if (s->task_count == LINUX_TASKS_MAX)
        return false;
    s->tasks[s->task_count++] = *task;
    return true;
}

static int compare_tasks(const void *a, const void *b)
{
    uint64_t x = thread_of(a), y = thread_of(b);
    return x < y ? -1 : x > y;
}

/* One that is leaving may be on no list any more, and still run. */
static void add_current(struct linux_session *s, const struct linux_view *view)
{
    struct linux_task current;
    if (linux_task_current(s->guest, view, &current, NULL))
        return;
    for (size_t i = 0; i < s->task_count; i++)
        if (thread_of(&s->tasks[i]) == thread_of(&current))
            return;
    (void)collect(s, &current);
}

static void know_tasks(struct linux_session *s, const struct linux_view *view, uint64_t moment)
{
    if (s->have_tasks && s->tasks_moment == moment)
        return;
    forget_tasks(s);
    s->tasks = s->guest ? reallocarray(NULL, LINUX_TASKS_MAX, sizeof(*s->tasks)) : NULL;
    if (!s->tasks)
        return;
    if (linux_tasks(s->guest, view, collect, s, NULL, NULL) == 0)
        add_current(s, view);
    qsort(s->tasks, s->task_count, sizeof(*s->tasks), compare_tasks);
    s->tasks_moment = moment;
    s->have_tasks = true;
}

static const struct linux_task *find_task(struct linux_session *s, const struct linux_view *view,
                                          uint64_t moment, uint64_t id)
{
    const struct linux_task key = {.pid = id == LINUX_IDLE_THREAD ? 0 : (uint32_t)id};
    if (id == 0 || id > LINUX_IDLE_THREAD)
        return NULL;
    know_tasks(s, view, moment);
    return s->tasks ? bsearch(&key, s->tasks, s->task_count, sizeof(key), compare_tasks) : NULL;
}

/* ---- threads ---- */

/* Before there are tasks, it is the idle task's thread that boots. */
uint64_t linux_session_thread(const struct linux_session *s, const struct linux_view *view)
{
    struct linux_task task;
    if (!s->guest)
        return 1;
    return linux_task_current(s->guest, view, &task, NULL) ? LINUX_IDLE_THREAD : thread_of(&task);
}

void linux_session_threads(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                           struct buffer *out)
{
    uint64_t last = 0;
    know_tasks(s, view, moment);
    for (size_t i = 0; i < s->task_count; i++) {
        uint64_t id = thread_of(&s->tasks[i]);
        if (id != last)
            buffer_put(out, &id, sizeof(id));
        last = id;
    }
}

bool linux_session_thread_text(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                               uint64_t id, char *out, size_t size)
{
    char comm[LINUX_COMM_BYTES + 1];
    const struct linux_task *task = find_task(s, view, moment, id);
    if (!task)
        return false;
    snprintf(out, size, "%s, %s%s", linux_session_comm(task, comm),
             task->current ? "on the vCPU" : linux_task_state_name(task->state),
             task->kernel ? ", kernel" : "");
    return true;
}

bool linux_session_thread_state(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                                uint64_t id, struct vcpu_state *out)
{
    const struct linux_task *task = find_task(s, view, moment, id);
    return task && linux_task_registers(s->guest, view, task, out, NULL) == 0;
}

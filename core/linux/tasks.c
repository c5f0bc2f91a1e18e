#include "core/linux/internal.h"
#include "core/x86/inspect.h"

#include <errno.h>
#include <string.h>

/* Bits of task_struct.__state, exit_state and flags (include/linux/sched.h). */
enum {
    STATE_INTERRUPTIBLE = 0x1,
    STATE_UNINTERRUPTIBLE = 0x2,
    STATE_STOPPED = 0x4,
    STATE_TRACED = 0x8,
    STATE_PARKED = 0x40,
    STATE_DEAD = 0x80,
    STATE_NOLOAD = 0x400,
    EXIT_DEAD = 0x10,
    EXIT_ZOMBIE = 0x20,
    PF_KTHREAD = 0x200000
};

#define PID_LIMIT (4u << 20) /* include/linux/threads.h: PID_MAX_LIMIT */

static char state_letter(uint64_t state, uint64_t exit_state)
{
    if (exit_state & EXIT_ZOMBIE)
        return 'Z';
    if (exit_state & EXIT_DEAD || state & STATE_DEAD)
        return 'X';
    if (state & STATE_INTERRUPTIBLE)
        return 'S';
    if (state & STATE_UNINTERRUPTIBLE)
        return state & STATE_NOLOAD ? 'I' : 'D';
    if (state & STATE_STOPPED)
        return 'T';
    if (state & STATE_TRACED)
        return 't';
    if (state & STATE_PARKED)
        return 'P';
    return state == 0 ? 'R' : '?';
}

const char *linux_task_state_name(char state)
{
    switch (state) {
    case 'R':
        return "running";
    case 'S':
        return "sleeping";
    case 'D':
        return "uninterruptible";
    case 'I':
        return "idle";
    case 'T':
        return "stopped";
    case 't':
        return "traced";
    case 'Z':
        return "zombie";
    case 'X':
        return "dead";
    case 'P':
        return "parked";
    default:
        return "unknown";
    }
}

/* The task that the vCPU runs; 0: not known. There is one vCPU, so it is that of CPU 0. */
static gva_t current_address(const struct linux_guest *g, const struct memory *m)
{
    uint64_t per_cpu = 0, task;
    if (g->current_task == 0 || (g->per_cpu_offset && !memory_u64(m, g->per_cpu_offset, &per_cpu)))
        return 0;
    return memory_u64(m, g->current_task + per_cpu, &task) ? task : 0;
}

static bool read_task(const struct linux_guest *g, const struct memory *m, gva_t address, gva_t current,
                      struct linux_task *out)
{
    const struct place *f = g->field;
    uint64_t state, exit_state, flags, pid, tgid, parent, ppid = 0;
    *out = (struct linux_task){.address = address, .current = address == current};
    size_t comm = f[TASK_COMM].size < LINUX_COMM_BYTES ? f[TASK_COMM].size : LINUX_COMM_BYTES;
    if (!memory_member(m, address, f[TASK_STATE], &state) ||
        !memory_member(m, address, f[TASK_EXIT_STATE], &exit_state) ||
        !memory_member(m, address, f[TASK_FLAGS], &flags) || !memory_member(m, address, f[TASK_PID], &pid) ||
        !memory_member(m, address, f[TASK_TGID], &tgid) ||
        !memory_member(m, address, f[TASK_PARENT], &parent) ||
        !memory_member(m, address, f[TASK_STACK], &out->stack) ||
        !memory_member(m, address, f[TASK_SP], &out->saved_sp) ||
        !memory_member(m, address, f[TASK_MM], &out->mm) ||
        kernel_read(m, address + f[TASK_COMM].offset, out->comm, comm) != comm || pid >= PID_LIMIT)
        return false;
    /* The parent as getppid(2) has it: a process, not a thread. */
    (void)memory_member(m, parent, f[TASK_TGID], &ppid);
    out->pid = (uint32_t)pid;
    out->tgid = (uint32_t)tgid;
    out->ppid = (uint32_t)ppid;
    out->state = state_letter(state, exit_state);
    out->kernel = (flags & PF_KTHREAD) || pid == 0;
    return true;
}

static int begin(struct memory *m, const struct linux_guest *g, const struct linux_view *view, gva_t *current,
                 struct error *err)
{
    int code = fields_need(g, 0, TASK_FIELDS_END, "tasks", err);
    if (code == 0)
        code = memory_begin(m, g, view, err);
    if (code == 0)
        *current = current_address(g, m);
    return code;
}

int linux_task_current(const struct linux_guest *g, const struct linux_view *view, struct linux_task *out,
                       struct error *err)
{
    struct memory m;
    gva_t current;
    int code = begin(&m, g, view, &current, err);
    if (code)
        return code;
    if (current == 0 || !read_task(g, &m, current, current, out))
        return error_set(err, -ENOENT, "the Linux kernel has no current task at this position");
    return 0;
}

/* ---- all of them ---- */

struct walk {
    const struct linux_guest *g;
    struct memory memory;
    gva_t current;
    bool (*visit)(void *context, const struct linux_task *task);
    void *context;
    unsigned tasks_left, links_left; /* that may still be visited, and followed */
    bool ended, broken;
};

/* False where there is no task to be read: what led there is broken. */
static bool visit_task(struct walk *w, gva_t address)
{
    struct linux_task task;
    if (w->tasks_left == 0 || !read_task(w->g, &w->memory, address, w->current, &task)) {
        w->ended = w->tasks_left == 0;
        w->broken = true;
        return false;
    }
    w->tasks_left--;
    w->ended = !w->visit(w->context, &task);
    return !w->ended;
}

/* The next link of a ring; false at its end, which is head, or where it is broken. */
static bool follow(struct walk *w, gva_t head, uint64_t *node)
{
    if (w->links_left == 0 || !memory_u64(&w->memory, *node, node)) {
        w->ended = w->links_left == 0;
        w->broken = true;
        return false;
    }
    w->links_left--;
    return *node != head;
}

/* The threads of a process besides the leader. Those of one that is gone have no signal_struct any more. */
static void visit_threads(struct walk *w, gva_t leader)
{
    const struct place *f = w->g->field;
    uint64_t signal;
    if (!memory_member(&w->memory, leader, f[TASK_SIGNAL], &signal) || signal == 0)
        return;
    gva_t head = signal + f[SIGNAL_THREAD_HEAD].offset;
    for (uint64_t node = head; follow(w, head, &node);) {
        gva_t task = node - f[TASK_THREAD_NODE].offset;
        if (task != leader && !visit_task(w, task))
            return;
    }
}

int linux_tasks(const struct linux_guest *g, const struct linux_view *view,
                bool (*visit)(void *context, const struct linux_task *task), void *context, bool *complete,
                struct error *err)
{
    struct walk w = {.g = g,
                     .visit = visit,
                     .context = context,
                     .tasks_left = LINUX_TASKS_MAX,
                     .links_left = 4 * LINUX_TASKS_MAX};
    gva_t first;
    int code = begin(&w.memory, g, view, &w.current, err);
    if (code)
        return code;
    if (!linux_symbol_address(g, "init_task", &first))
        return error_set(err, -ENOTSUP, "the kernel's symbol table has no init_task");
    gva_t head = first + g->field[TASK_LIST].offset;
    bool go_on = visit_task(&w, first);
    for (uint64_t node = head; go_on && follow(&w, head, &node);) {
        gva_t leader = node - g->field[TASK_LIST].offset;
        go_on = visit_task(&w, leader);
        if (go_on)
            visit_threads(&w, leader);
        go_on = go_on && !w.ended;
    }
    if (complete)
        *complete = !w.broken;
    return 0;
}

/* ---- registers ---- */

static const struct {
    enum field field;
    enum gpr gpr;
} saved[] = {{FRAME_R15, GPR_R15}, {FRAME_R14, GPR_R14}, {FRAME_R13, GPR_R13},
             {FRAME_R12, GPR_R12}, {FRAME_RBX, GPR_RBX}, {FRAME_RBP, GPR_RBP}};

static void use_tables_of(const struct linux_guest *g, const struct memory *m, const struct linux_task *task,
                          struct vcpu_state *out)
{
    uint64_t pgd;
    gpa_t gpa;
    if (task->mm && memory_member(m, task->mm, g->field[MM_PGD], &pgd) &&
        x86_translate(m->ram, m->state, pgd, &gpa) == 0)
        out->cr3 = gpa & ~PAGE_MASK;
}

int linux_task_registers(const struct linux_guest *g, const struct linux_view *view,
                         const struct linux_task *task, struct vcpu_state *out, struct error *err)
{
    struct memory m;
    uint8_t top;
    *out = *view->state;
    if (task->current)
        return 0;
    int code = fields_need(g, TASK_FIELDS_END, FRAME_FIELDS_END, "registers of tasks", err);
    if (code == 0)
        code = memory_begin(&m, g, view, err);
    if (code)
        return code;
    memset(out->gpr, 0, sizeof(out->gpr));
    bool good = kernel_read(&m, task->saved_sp, &top, 1) == 1;
    for (size_t i = 0; good && i < ARRAY_LEN(saved); i++)
        good = memory_member(&m, task->saved_sp, g->field[saved[i].field], &out->gpr[saved[i].gpr]);
    if (!good || !memory_member(&m, task->saved_sp, g->field[FRAME_RETURN], &out->rip))
        return error_set(err, -EFAULT, "the saved registers of task %u cannot be read", task->pid);
    out->gpr[GPR_RSP] = task->saved_sp + g->field[FRAME_RETURN].offset + g->field[FRAME_RETURN].size;
    out->cr3 = m.state->cr3;
    out->rflags = RFLAGS_FIXED;
    out->activity = ACTIVITY_RUNNING;
    /* The segments of the kernel (asm/segment.h). */
    out->seg[SEG_CS] =
        (struct segment){0, UINT32_MAX, 0x10, SEGMENT_G | SEGMENT_L | SEGMENT_P | SEGMENT_S | 0xb};
    out->seg[SEG_SS] =
        (struct segment){0, UINT32_MAX, 0x18, SEGMENT_G | SEGMENT_DB | SEGMENT_P | SEGMENT_S | 0x3};
    use_tables_of(g, &m, task, out);
    return 0;
}

/*
 * A preemptive scheduler: six ring-3 tasks take turns, one timer interrupt each. At every preemption the kernel
 * folds everything it can see of the interrupted task (RIP, all registers, XMM registers, some of its memory) into a
 * checksum. So the checksum depends on the exact instruction at which every interrupt came; two runs
 * practically never agree, and a replay must.
 *
 * Command line: preemptions=N (24), rate=HZ (1000), tasks=LIST of registers,memory,sse,nothing,string,recursion (all).
 *
 * "clear-ad" starts with clear A and D bits in the page tables, so that the CPU's writes to these are part of the run.
 *
 * The default is meant for recordings of well under 100 million steps: under KVM, at full speed, a task does up to three
 * million instructions per millisecond.
 */
#include "cpu.h"

#define TASK_MAX       6
#define STACK_BYTES    4096 /* tasks.user.S */
#define WITNESS_WORDS  4
#define IDENTITY_BYTES 0x1000000ul

extern char task_registers[], task_memory[], task_sse[], task_nothing[], task_string[], task_recursion[];
extern char task_stacks[];
extern uint64_t memory_counter[], recursion_result[], string_a[], string_b[];

/* FXSAVE64's image: SDM 1, table 10-2. */
struct __attribute__((aligned(16))) fxsave_image {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint64_t st[8][2];
    uint64_t xmm[16][2];
    uint64_t unused[12];
};

struct task {
    const char *name;
    const char *entry;
    const uint64_t *witness; /* some of its memory */
    unsigned preemptions, system_calls;
    struct interrupt_frame frame; /* while it does not run */
    struct fxsave_image fpu;
};

static struct task all_tasks[TASK_MAX] = {
    {.name = "registers", .entry = task_registers, .witness = memory_counter},
    {.name = "memory", .entry = task_memory, .witness = memory_counter},
    {.name = "sse", .entry = task_sse, .witness = memory_counter},
    {.name = "nothing", .entry = task_nothing, .witness = memory_counter},
    {.name = "string", .entry = task_string, .witness = string_b},
    {.name = "recursion", .entry = task_recursion, .witness = recursion_result},
};

static struct task *tasks[TASK_MAX]; /* those that run */
static unsigned task_count, current;
static uint64_t checksum, preemptions, preemptions_wanted;

static void fold(uint64_t word)
{
    checksum = (checksum << 5 | checksum >> 59) ^ word;
    checksum *= 0x9e3779b97f4a7c15;
}

static void fold_task(const struct task *t)
{
    const struct interrupt_frame *f = &t->frame;
    const uint64_t words[] = {f->rip, f->rflags, f->rsp, f->rax, f->rbx, f->rcx, f->rdx, f->rsi, f->rdi,
                              f->rbp, f->r8,     f->r9,  f->r10, f->r11, f->r12, f->r13, f->r14, f->r15};
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        fold(words[i]);
    for (unsigned i = 0; i < WITNESS_WORDS; i++)
        fold(t->witness[i]);
    fold(t->fpu.mxcsr);
    for (unsigned i = 0; i < 16; i++) {
        fold(t->fpu.xmm[i][0]);
        fold(t->fpu.xmm[i][1]);
    }
}

static void finish(void)
{
    for (unsigned i = 0; i < task_count; i++)
        print("%-10s preempted %u times, %u system calls, last at 0x%lx\n", tasks[i]->name,
              tasks[i]->preemptions, tasks[i]->system_calls, tasks[i]->frame.rip);
    print("checksum %016lx after %lu preemptions\n", checksum, preemptions);
    guest_exit(0);
}

static void timer(struct interrupt_frame *frame)
{
    struct task *from = tasks[current];
    __asm__ volatile("fxsave64 %0" : "=m"(from->fpu));
    from->frame = *frame;
    from->preemptions++;
    preemptions++;
    fold_task(from);
    pic_end_of_interrupt(0);
    if (preemptions == preemptions_wanted)
        finish();
    if (preemptions % ((preemptions_wanted + 3) / 4) == 0)
        print("%lu: %016lx\n", preemptions, checksum);

    current = (current + 1) % task_count;
    struct task *to = tasks[current];
    __asm__ volatile("fxrstor64 %0" : : "m"(to->fpu));
    *frame = to->frame;
}

static void system_call(struct interrupt_frame *frame)
{
    tasks[current]->system_calls++;
    fold(frame->rdi);
}

static void task_init(struct task *t, unsigned number)
{
    uint64_t stack_top = (uintptr_t)task_stacks + (number + 1) * STACK_BYTES;
    t->frame = user_frame((uintptr_t)t->entry, stack_top);
    t->fpu = (struct fxsave_image){.fcw = 0x37f, .mxcsr = 0x1f80};
    tasks[task_count++] = t;
}

/* True if name is one of the words of the list. */
static bool list_has(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *s = list; *s; s++)
        if ((s == list || s[-1] == ',') && strncmp(s, name, length) == 0 && (!s[length] || s[length] == ','))
            return true;
    return false;
}

static void select_tasks(void)
{
    char list[128];
    bool all = !option_string("tasks", list, sizeof(list)) || strcmp(list, "all") == 0;
    for (unsigned i = 0; i < TASK_MAX; i++)
        if (all || list_has(list, all_tasks[i].name))
            task_init(&all_tasks[i], i);
    if (task_count == 0)
        panic("none of the tasks in \"%s\" is known", list);
}

void guest_main(void)
{
    preemptions_wanted = option_number("preemptions", 24);
    uint64_t rate = option_number("rate", 1000);
    if (preemptions_wanted == 0 || rate < 19 || rate > 100000)
        panic("preemptions=%lu rate=%lu: at least 1, and 19 to 100000", preemptions_wanted, rate);
    select_tasks();
    print("%u tasks, %lu preemptions at %lu Hz\n", task_count, preemptions_wanted, rate);

    gdt_init();
    idt_init();
    paging_init(IDENTITY_BYTES, option_present("clear-ad") ? 0 : PAGE_ACCESSED | PAGE_DIRTY);
    interrupt_set_handler(VECTOR_IRQ0, timer);
    interrupt_set_handler(VECTOR_SYSTEM_CALL, system_call);
    pic_init();
    pic_enable(0);
    pit_start((uint32_t)rate);

    __asm__ volatile("fxrstor64 %0" : : "m"(tasks[0]->fpu));
    struct interrupt_frame first = tasks[0]->frame;
    interrupt_return(&first);
}

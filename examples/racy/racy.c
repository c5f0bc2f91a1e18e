/*
 * A small kernel that runs three ring-3 threads in turn, one timer tick each, until one of them finds that their
 * shared list is corrupted (see list.user.c for the bug), or until all ticks went by and all is well: in about
 * half of the runs, each.
 *
 * Exit status: 1 after a panic, else 0. Command line: ticks=N (28), rate=HZ (1000).
 */
#include "cpu.h"
#include "list.h"

#define IDENTITY_BYTES 0x400000ul

struct thread {
    struct interrupt_frame frame; /* while it does not run */
};

static struct thread threads[THREAD_COUNT];
static unsigned current;
static uint64_t ticks, ticks_wanted;

static uintptr_t stack_top(unsigned thread)
{
    return (uintptr_t)thread_stacks[thread + 1];
}

static unsigned item_number(const struct item *item)
{
    return (unsigned)(item - items);
}

/* Every item in the list must be free; and a list of more than all items goes round in circles. */
static void check_list(void)
{
    unsigned length = 0;
    for (const struct item *item = free_items.head; item; item = item->next) {
        if (++length > ITEM_COUNT)
            panic("the list of free items goes round in circles");
        if (item->owner != NOBODY)
            panic("item %u is in the list of free items, but thread %u has it", item_number(item),
                  item->owner);
    }
}

static void finish(void)
{
    unsigned taken = 0;
    check_list();
    for (unsigned i = 0; i < ITEM_COUNT; i++)
        taken += items[i].taken;
    print("all is well after %lu ticks: items were taken %u times\n", ticks, taken);
    guest_exit(0);
}

static void timer(struct interrupt_frame *frame)
{
    pic_end_of_interrupt(0);
    if (++ticks == ticks_wanted)
        finish();
    threads[current].frame = *frame;
    current = (current + 1) % THREAD_COUNT;
    *frame = threads[current].frame;
}

static void system_call(struct interrupt_frame *frame)
{
    if (frame->rax != SYSTEM_CALL_PANIC)
        panic("thread %u: unknown system call %lu", current + 1, frame->rax);
    print("PANIC in thread %lu, tick %lu: %s", frame->rdx, ticks, (const char *)frame->rdi);
    if (frame->rsi < ITEM_COUNT)
        print(" (item %lu, owner %u)", frame->rsi, items[frame->rsi].owner);
    print("\n");
    print_stack_trace(frame->rip - 1, frame->rbp, stack_top(current) - STACK_BYTES, stack_top(current));
    guest_exit(1);
}

static void list_init(void)
{
    for (unsigned i = 0; i < ITEM_COUNT; i++) {
        items[i].next = free_items.head;
        free_items.head = &items[i];
    }
}

static void thread_init(unsigned number)
{
    uint64_t *stack = (uint64_t *)stack_top(number);
    stack[-1] = 0; /* the return address of thread_main */
    threads[number].frame = user_frame((uintptr_t)thread_main, (uintptr_t)(stack - 1));
    threads[number].frame.rdi = number + 1;
}

void guest_main(void)
{
    ticks_wanted = option_number("ticks", 28);
    uint64_t rate = option_number("rate", 1000);
    if (ticks_wanted == 0 || rate < 19 || rate > 100000)
        panic("ticks=%lu rate=%lu: at least 1, and 19 to 100000", ticks_wanted, rate);
    print("%u threads share a list of %u items for %lu ticks at %lu Hz\n", THREAD_COUNT, ITEM_COUNT,
          ticks_wanted, rate);

    list_init();
    for (unsigned i = 0; i < THREAD_COUNT; i++)
        thread_init(i);
    gdt_init();
    idt_init();
    paging_init(IDENTITY_BYTES, PAGE_ACCESSED | PAGE_DIRTY);
    interrupt_set_handler(VECTOR_IRQ0, timer);
    interrupt_set_handler(VECTOR_SYSTEM_CALL, system_call);
    pic_init();
    pic_enable(0);
    pit_start((uint32_t)rate);

    struct interrupt_frame first = threads[0].frame;
    interrupt_return(&first);
}

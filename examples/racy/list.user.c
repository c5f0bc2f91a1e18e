/*
 * Threads that share a list, and forgot to lock it.
 *
 * list_take() and list_give() read the head, do a little work, and write the head. A timer interrupt between the read and
 * the write lets other threads change the list; then the write undoes what they did. Nothing happens at that
 * moment. Some time later an item turns out to be in two places at once, and only then there is a panic, far from its
 * cause. Where did it go wrong? Run it backwards and see.
 */
#include "list.h"

struct item items[ITEM_COUNT];
struct list free_items;
uint8_t thread_stacks[THREAD_COUNT][STACK_BYTES] __attribute__((aligned(16)));

/*
 * Something to do. PAUSE is slow on a real CPU, so that most of the time goes by here and a recording has few steps;
 * in an emulator it is a step like any other. Both spend the same part of their time between "from here" and "to here".
 */
static void work(unsigned units)
{
    for (unsigned i = 0; i < 10 * units; i++)
        __asm__ volatile("pause");
}

static inline _Noreturn __attribute__((always_inline)) void
list_panic(const char *message, const struct item *item, unsigned thread)
{
    __asm__ volatile("int $4"
                     :
                     : "a"(SYSTEM_CALL_PANIC), "D"(message), "S"(item ? item - items : -1), "d"(thread)
                     : "memory");
    __builtin_unreachable();
}

static __attribute__((noinline)) struct item *list_take(struct list *list, unsigned self)
{
    struct item *first = list->head; /* from here ... */
    if (!first)
        list_panic("no free item is left", first, self);
    struct item *rest = first->next;
    work(1);
    list->head = rest; /* ... to here it must not be interrupted */

    if (first->owner != NOBODY)
        list_panic("a free item is somebody else's", first, self);
    first->owner = self;
    first->taken++;
    return first;
}

static __attribute__((noinline)) void list_give(struct list *list, struct item *item, unsigned self)
{
    if (item->owner != self)
        list_panic("my item is no longer mine", item, self);
    item->owner = NOBODY;

    item->next = list->head; /* from here ... */
    work(1);
    list->head = item; /* ... to here it must not be interrupted */
}

/* Uses two items at a time. */
static __attribute__((noinline)) void thread_turn(unsigned self)
{
    struct item *a = list_take(&free_items, self);
    work(16 + 4 * self);
    struct item *b = list_take(&free_items, self);
    work(36);
    list_give(&free_items, a, self);
    work(14);
    list_give(&free_items, b, self);
    work(12);
}

void thread_main(unsigned self)
{
    for (;;)
        thread_turn(self);
}

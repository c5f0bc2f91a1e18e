/* What the kernel (racy.c) and its threads (list.user.c) share. */
#ifndef RACY_LIST_H
#define RACY_LIST_H

#include "guest.h"

#define THREAD_COUNT 3
#define ITEM_COUNT   8
#define STACK_BYTES  4096
#define NOBODY       0 /* threads are 1, 2, 3 */

struct item {
    struct item *next; /* while it is in the list */
    unsigned owner;    /* the thread that has it, or NOBODY */
    unsigned taken;    /* how often it was */
};

/* A list of free items: who needs one takes the first, and gives it back to the front. */
struct list {
    struct item *head;
};

extern struct item items[ITEM_COUNT];
extern struct list free_items;
extern uint8_t thread_stacks[THREAD_COUNT][STACK_BYTES];

/* A thread: goes on for ever. In ring 3. */
void thread_main(unsigned self);

/* System calls: INT 4 with RAX = number, arguments in RDI, RSI, RDX. */
enum system_call {
    SYSTEM_CALL_PANIC = 1, /* message, item number, thread number */
};

#endif

/*
 * Counts in memory, far from what the code after it touches: at almost every timer interrupt the registers, the stack and
 * the next instructions' operands are the same each time round, and only that one page tells where the guest is. Prints
 * the count that each interrupt found.
 */
#include "cpu.h"

#define TIMER_IRQ  0
#define RATE_HZ    200
#define INTERRUPTS 20

static volatile uint64_t *const far = (volatile uint64_t *)0x800000;
static uint64_t found[INTERRUPTS];
static volatile unsigned interrupts;

static void on_timer(struct interrupt_frame *frame)
{
    (void)frame;
    if (interrupts < INTERRUPTS)
        found[interrupts++] = *far;
    pic_end_of_interrupt(TIMER_IRQ);
}

void guest_main(void)
{
    gdt_init();
    idt_init();
    pic_init();
    interrupt_set_handler(VECTOR_IRQ0 + TIMER_IRQ, on_timer);
    pit_start(RATE_HZ);
    pic_enable(TIMER_IRQ);
    interrupts_enable();
    while (interrupts < INTERRUPTS) /* the status flags of the comparison are the same each time, too */
        __asm__ volatile("xor %%eax, %%eax; incq (%0); xor %%eax, %%eax; .rept 300; nop; .endr"
                         :
                         : "r"(far)
                         : "rax", "memory", "cc");
    interrupts_disable();
    for (unsigned i = 0; i < INTERRUPTS; i++)
        print("%lu\n", found[i]);
    guest_exit(0);
}

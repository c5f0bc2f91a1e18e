/*
 * Interactive: echoes what is typed on the serial line, by interrupts; sleeps in HLT between them. "quit" ends it.
 */
#include "cpu.h"

#define SERIAL_IER        0x3f9 /* 16550A data sheet, table II; COM1 */
#define IER_RECEIVED_DATA 0x01
#define SERIAL_IRQ        4

static bool line_complete;
static char line[80];
static size_t length;

static void typed(char c)
{
    if (c == '\r' || c == '\n') {
        print("\n");
        line_complete = true;
    } else if (c == '\b' || c == 0x7f) {
        if (length > 0) {
            length--;
            print("\b \b");
        }
    } else if (c >= ' ' && length < sizeof(line) - 1) {
        line[length++] = c;
        print_bytes(&c, 1);
    }
}

/* Only wakes read_line(). The line stays high, without another interrupt, until that has read everything. */
static void serial_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    pic_end_of_interrupt(SERIAL_IRQ);
}

static void read_line(void)
{
    line_complete = false;
    length = 0;
    print("> ");
    while (!line_complete) {
        interrupts_disable(); /* what comes after the look is an interrupt that ends the sleep */
        int c = serial_read();
        if (c >= 0)
            typed((char)c);
        else
            wait_for_interrupt();
    }
    line[length] = '\0';
}

void guest_main(void)
{
    gdt_init();
    idt_init();
    interrupt_set_handler(VECTOR_IRQ0 + SERIAL_IRQ, serial_interrupt);
    pic_init();
    pic_enable(SERIAL_IRQ);
    out8(SERIAL_IER, IER_RECEIVED_DATA);

    print("Type something; \"quit\" ends it.\n");
    for (;;) {
        read_line();
        if (strcmp(line, "quit") == 0)
            break;
        print("you typed %lu characters: %s\n", length, line);
    }
    print("bye\n");
    guest_exit(0);
}

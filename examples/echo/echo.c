/*
 * Interactive: echoes what is typed on the serial line, by interrupts; sleeps in HLT between them. "quit" ends it.
 */
#include "cpu.h"

enum serial_port { /* 16550A data sheet, table II; COM1 */
                   SERIAL_RBR = 0x3f8,
                   SERIAL_IER = 0x3f9,
                   SERIAL_LSR = 0x3fd,
};
#define SERIAL_IRQ        4
#define IER_RECEIVED_DATA 0x01
#define LSR_DATA_READY    0x01

static volatile bool line_complete;
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

/* Reads until the FIFO is empty; but a line is answered before the next one is read. */
static void serial_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    while (!line_complete && (in8(SERIAL_LSR) & LSR_DATA_READY))
        typed((char)in8(SERIAL_RBR));
    if (line_complete)
        out8(SERIAL_IER, 0);
    pic_end_of_interrupt(SERIAL_IRQ);
}

static void read_line(void)
{
    line_complete = false;
    length = 0;
    print("> ");
    out8(SERIAL_IER, IER_RECEIVED_DATA); /* data that waits already interrupts at once */
    interrupts_disable();
    while (!line_complete) {
        wait_for_interrupt();
        interrupts_disable();
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

/* Reads the serial port by polling, without its FIFO and without interrupts, up to a full stop; prints how much that was. */
#include "cpu.h"

#define SERIAL_RBR     0x3f8 /* 16550A data sheet, table II; COM1 */
#define SERIAL_LSR     0x3fd
#define LSR_DATA_READY 0x01

static char serial_poll(void)
{
    while (!(in8(SERIAL_LSR) & LSR_DATA_READY)) {
    }
    return (char)in8(SERIAL_RBR);
}

void guest_main(void)
{
    unsigned characters = 0;
    console_select(CONSOLE_DEBUG); /* the library's driver of the serial port would enable the FIFO */
    while (serial_poll() != '.')
        characters++;
    print("%u characters\n", characters);
    guest_exit(0);
}

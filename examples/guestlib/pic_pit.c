/* 8259A interrupt controllers and 8254 timer, as a PC has them. */
#include "cpu.h"

enum port {
    PIC1_COMMAND = 0x20,
    PIC1_DATA = 0x21,
    PIC2_COMMAND = 0xa0,
    PIC2_DATA = 0xa1,
    PIT_CHANNEL0 = 0x40,
    PIT_MODE = 0x43,
};
#define ICW1_INIT_ICW4     0x11
#define ICW4_8086          0x01
#define OCW2_EOI           0x20
#define CASCADE_IRQ        2
#define PIT_RATE_GENERATOR 0x34 /* channel 0, low byte then high byte, mode 2 */
#define PIT_HZ             1193182u

static uint16_t mask = 0xffff;

void pic_init(void)
{
    out8(PIC1_COMMAND, ICW1_INIT_ICW4);
    out8(PIC2_COMMAND, ICW1_INIT_ICW4);
    out8(PIC1_DATA, VECTOR_IRQ0);
    out8(PIC2_DATA, VECTOR_IRQ0 + 8);
    out8(PIC1_DATA, 1 << CASCADE_IRQ);
    out8(PIC2_DATA, CASCADE_IRQ);
    out8(PIC1_DATA, ICW4_8086);
    out8(PIC2_DATA, ICW4_8086);
    mask = (uint16_t) ~(1u << CASCADE_IRQ);
    out8(PIC1_DATA, (uint8_t)mask);
    out8(PIC2_DATA, (uint8_t)(mask >> 8));
}

void pic_enable(unsigned irq)
{
    mask &= (uint16_t) ~(1u << irq);
    out8(irq < 8 ? PIC1_DATA : PIC2_DATA, (uint8_t)(irq < 8 ? mask : mask >> 8));
}

void pic_end_of_interrupt(unsigned irq)
{
    if (irq >= 8)
        out8(PIC2_COMMAND, OCW2_EOI);
    out8(PIC1_COMMAND, OCW2_EOI);
}

void pit_start(uint32_t rate_hz)
{
    uint32_t divisor = (PIT_HZ + rate_hz / 2) / rate_hz;
    if (divisor > 0xffff)
        divisor = 0xffff;
    if (divisor < 2) /* mode 2 has no smaller one */
        divisor = 2;
    out8(PIT_MODE, PIT_RATE_GENERATOR);
    out8(PIT_CHANNEL0, (uint8_t)divisor);
    out8(PIT_CHANNEL0, (uint8_t)(divisor >> 8));
}

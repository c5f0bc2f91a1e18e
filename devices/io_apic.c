/*
 * The I/O APIC (Intel 82093AA data sheet, with the EOI register of later ones: version 0x20): 24 pins, which send messages to the
 * local APIC. Registers are at fec00000: an index, a window, and EOI.
 *
 * Pins are asserted or not, whatever the guest believes of their polarity. Pin 0 (the PIC's output on some boards) is not
 * connected. Messages are Fixed or Lowest Priority; others the local APIC ignores.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>

#define IO_APIC_ADDRESS ((gpa_t)0xfec00000)
#define IO_APIC_BYTES   4096u

enum io_apic_offset { OFFSET_INDEX = 0x00, OFFSET_WINDOW = 0x10, OFFSET_EOI = 0x40 };
enum io_apic_index { INDEX_ID = 0x00, INDEX_VERSION = 0x01, INDEX_ARBITRATION = 0x02, INDEX_TABLE = 0x10 };

#define VERSION (0x20u | (MACHINE_IRQS - 1) << 16)

/* A redirection table entry. */
#define ENTRY_VECTOR     ((uint64_t)0xff)
#define ENTRY_LOGICAL    ((uint64_t)1 << 11)
#define ENTRY_REMOTE_IRR ((uint64_t)1 << 14)
#define ENTRY_LEVEL      ((uint64_t)1 << 15)
#define ENTRY_MASKED     ((uint64_t)1 << 16)
#define ENTRY_WRITABLE   ((uint64_t)0xff0000000001afff)

/* The message that an entry is (SDM 3, 10.11): what it has in common with an entry is at the same place in data. */
#define MESSAGE_ADDRESS     ((uint64_t)0xfee00000)
#define MESSAGE_DATA        ((uint64_t)0x87ff)
#define MESSAGE_LOGICAL     ((uint64_t)1 << 2)
#define ENTRY_DESTINATION   56
#define MESSAGE_DESTINATION 12

struct io_apic_state {
    uint8_t index;
    uint32_t id;
    uint32_t lines; /* a bit for each pin that is asserted */
    uint64_t entry[MACHINE_IRQS];
};

struct io_apic {
    struct io_apic_state s;
    struct machine *m;
};

static void send(struct io_apic *a, uint64_t entry)
{
    uint64_t address = MESSAGE_ADDRESS | (entry >> ENTRY_DESTINATION) << MESSAGE_DESTINATION |
                       (entry & ENTRY_LOGICAL ? MESSAGE_LOGICAL : 0);
    machine_send_msi(a->m, address, (uint32_t)(entry & MESSAGE_DATA));
}

/* A level-triggered pin sends when it is asserted, and not again until the interrupt was served. */
static void serve_level(struct io_apic *a, unsigned pin)
{
    uint64_t *entry = &a->s.entry[pin];
    if ((*entry & (ENTRY_LEVEL | ENTRY_MASKED | ENTRY_REMOTE_IRR)) == ENTRY_LEVEL &&
        (a->s.lines >> pin & 1)) {
        *entry |= ENTRY_REMOTE_IRR;
        send(a, *entry);
    }
}

static void io_apic_set_pin(void *device, unsigned pin, bool level)
{
    struct io_apic *a = device;
    uint32_t bit = (uint32_t)1 << pin;
    bool rose = level && !(a->s.lines & bit);
    a->s.lines = level ? a->s.lines | bit : a->s.lines & ~bit;
    uint64_t entry = a->s.entry[pin];
    if (entry & ENTRY_LEVEL)
        serve_level(a, pin);
    else if (rose && !(entry & ENTRY_MASKED))
        send(a, entry);
}

static void io_apic_end_of_interrupt(void *device, uint8_t vector)
{
    struct io_apic *a = device;
    for (unsigned pin = 0; pin < MACHINE_IRQS; pin++) {
        uint64_t *entry = &a->s.entry[pin];
        if ((*entry & ENTRY_REMOTE_IRR) && (*entry & ENTRY_VECTOR) == vector) {
            *entry &= ~ENTRY_REMOTE_IRR;
            serve_level(a, pin);
        }
    }
}

static void write_entry(struct io_apic *a, unsigned half, uint32_t value)
{
    unsigned pin = half / 2, shift = half % 2 * 32;
    uint64_t mask = ENTRY_WRITABLE & (uint64_t)UINT32_MAX << shift;
    uint64_t *entry = &a->s.entry[pin];
    *entry = (*entry & ~mask) | ((uint64_t)value << shift & mask);
    if (!(*entry & ENTRY_LEVEL))
        *entry &= ~ENTRY_REMOTE_IRR;
    serve_level(a, pin);
}

static uint32_t read_window(const struct io_apic *a)
{
    unsigned index = a->s.index;
    switch (index) {
    case INDEX_ID:
    case INDEX_ARBITRATION:
        return a->s.id;
    case INDEX_VERSION:
        return VERSION;
    default:
        if (index < INDEX_TABLE || index >= INDEX_TABLE + 2 * MACHINE_IRQS)
            return 0;
        return (uint32_t)(a->s.entry[(index - INDEX_TABLE) / 2] >> (index % 2 * 32));
    }
}

static void write_window(struct io_apic *a, uint32_t value)
{
    if (a->s.index == INDEX_ID)
        a->s.id = value & 0x0f000000;
    else if (a->s.index >= INDEX_TABLE && a->s.index < INDEX_TABLE + 2 * MACHINE_IRQS)
        write_entry(a, a->s.index - INDEX_TABLE, value);
}

static uint64_t io_apic_read(void *device, uint64_t offset, unsigned size)
{
    const struct io_apic *a = device;
    if (offset == OFFSET_INDEX)
        return a->s.index;
    return offset == OFFSET_WINDOW && size == 4 ? read_window(a) : 0;
}

static void io_apic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct io_apic *a = device;
    if (offset == OFFSET_INDEX)
        a->s.index = (uint8_t)value;
    else if (offset == OFFSET_WINDOW && size == 4)
        write_window(a, (uint32_t)value);
    else if (offset == OFFSET_EOI && size == 4)
        io_apic_end_of_interrupt(a, (uint8_t)value);
}

int io_apic_attach(struct machine *m, struct error *err)
{
    struct io_apic *a = device_create(m, sizeof(*a), "I/O APIC", err);
    if (!a)
        return -ENOMEM;
    a->m = m;
    for (unsigned pin = 0; pin < MACHINE_IRQS; pin++)
        a->s.entry[pin] = ENTRY_MASKED;
    machine_set_io_apic(m, &(struct io_apic_interface){.set_pin = io_apic_set_pin,
                                                       .end_of_interrupt = io_apic_end_of_interrupt,
                                                       .device = a});
    const struct io_range range = {.start = IO_APIC_ADDRESS,
                                   .length = IO_APIC_BYTES,
                                   .read = io_apic_read,
                                   .write = io_apic_write,
                                   .device = a,
                                   .name = "I/O APIC"};
    return machine_add_mmio(m, &range, err);
}

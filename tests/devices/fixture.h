/* A machine with its whole board, and short names for what tests do to it. */
#ifndef DEJAVM_TESTS_DEVICES_FIXTURE_H
#define DEJAVM_TESTS_DEVICES_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/machine.h"
#include "devices/devices.h"

#define SECOND_NS ((uint64_t)1000000000)

struct fixture {
    struct machine *m;
    struct guest_ram *ram;
    char printed[CONSOLE_COUNT][4096]; /* per console channel */
    size_t printed_length[CONSOLE_COUNT];
};

static inline void fixture_print(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct fixture *f = context;
    for (size_t i = 0; i < length && f->printed_length[channel] < sizeof(f->printed[0]) - 1; i++)
        f->printed[channel][f->printed_length[channel]++] = (char)data[i];
}

static inline struct fixture *fixture_create(uint64_t ram_bytes, int64_t start_time_s)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    assert_non_null(f);
    if (ram_bytes)
        assert_int_equal(ram_create(&f->ram, ram_bytes, &err), 0);
    struct machine_host host = {.console_output = fixture_print, .start_time_s = start_time_s, .context = f};
    assert_int_equal(machine_create(&f->m, f->ram, &host, &err), 0);
    assert_int_equal(board_attach(f->m, &(struct board_options){.kind = BOARD_MINIMAL}, &err), 0);
    return f;
}

static inline void fixture_destroy(struct fixture *f)
{
    machine_destroy(f->m);
    ram_destroy(f->ram);
    free(f);
}

static inline int fixture_setup(void **state)
{
    *state = fixture_create(0, 0);
    return 0;
}

static inline int fixture_teardown(void **state)
{
    fixture_destroy(*state);
    return 0;
}

static inline void out8(struct fixture *f, uint16_t port, unsigned value)
{
    machine_port_write(f->m, port, 1, value);
}

static inline uint8_t in8(struct fixture *f, uint16_t port)
{
    return (uint8_t)machine_port_read(f->m, port, 1);
}

/* Moves the clock to time_ns, and stops on the way at every timer. */
static inline void run_to_ns(struct fixture *f, uint64_t time_ns)
{
    uint64_t next;
    while ((next = machine_next_deadline_ns(f->m)) <= time_ns) {
        machine_set_clock_ns(f->m, next);
        machine_run_timers(f->m);
    }
    machine_set_clock_ns(f->m, time_ns);
}

static inline void run_for_ns(struct fixture *f, uint64_t ns)
{
    run_to_ns(f, machine_clock_ns(f->m) + ns);
}

/* The usual programming of both 8259A: vectors 0x20 and 0x28, and these masks. */
static inline void pic_program(struct fixture *f, unsigned mask_master, unsigned mask_slave, unsigned icw4)
{
    out8(f, 0x20, 0x11);
    out8(f, 0xa0, 0x11);
    out8(f, 0x21, 0x20);
    out8(f, 0xa1, 0x28);
    out8(f, 0x21, 0x04);
    out8(f, 0xa1, 0x02);
    out8(f, 0x21, icw4);
    out8(f, 0xa1, icw4);
    out8(f, 0x21, mask_master);
    out8(f, 0xa1, mask_slave);
}

static inline void raise_irq(struct fixture *f, unsigned irq)
{
    machine_set_irq(f->m, irq, true);
}

static inline void lower_irq(struct fixture *f, unsigned irq)
{
    machine_set_irq(f->m, irq, false);
}

/* The vector that the CPU gets, or -1 when nothing is pending. */
static inline int take_interrupt(struct fixture *f)
{
    return machine_interrupt_pending(f->m) ? machine_interrupt_acknowledge(f->m) : -1;
}

#endif

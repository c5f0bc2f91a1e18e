/*
 * x87 errors of guests that leave CR0.NE at 0, as the PC/AT reports them (SDM 1, appendix D.2.1.2; Intel 82801 (ICH) data sheet,
 * "Coprocessor error register"): FERR# sets IRQ 13. A write to port 0xf0 takes the interrupt back and asserts IGNNE#, so that the
 * handler can use the x87 before the error is cleared; IGNNE# goes with FERR#.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>

#define COPROCESSOR_ERROR_PORT 0xf0
#define COPROCESSOR_ERROR_IRQ  13

struct x87_error_state {
    bool ferr;
    bool irq; /* latched: FERR# going away does not clear it */
    bool ignne;
};

struct x87_error {
    struct x87_error_state s;
    struct machine *m;
};

static void set_irq(struct x87_error *x, bool level)
{
    x->s.irq = level;
    machine_set_irq(x->m, COPROCESSOR_ERROR_IRQ, level);
}

static bool x87_error_set_ferr(void *device, bool asserted)
{
    struct x87_error *x = device;
    if (asserted && !x->s.ferr)
        set_irq(x, true);
    x->s.ferr = asserted;
    x->s.ignne = x->s.ignne && asserted;
    return x->s.ignne;
}

static void x87_error_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct x87_error *x = device;
    (void)offset, (void)size, (void)value;
    if (!x->s.irq)
        return;
    set_irq(x, false);
    x->s.ignne = x->s.ferr;
}

int x87_error_attach(struct machine *m, struct error *err)
{
    struct x87_error *x = device_create(m, sizeof(*x), "coprocessor error logic", err);
    if (!x)
        return -ENOMEM;
    x->m = m;
    machine_set_ferr_interface(m, &(struct ferr_interface){.set_ferr = x87_error_set_ferr, .device = x});
    return device_add_byte_ports(m, COPROCESSOR_ERROR_PORT, 1, NULL, x87_error_write, x,
                                 "coprocessor error register", err);
}

/*
 * The fixed hardware of the ACPI specification 6.5, section 4.8.3: power management event and control registers at ports 600 to 607.
 * (The timer has a file of its own.) The machine is in ACPI mode from the start: there is no SMI command port.
 *
 *     600  2 bytes  PM1 status: write 1 to clear      TMR_STS alone is ever set
 *     602  2 bytes  PM1 enable
 *     604  2 bytes  PM1 control                       SLP_EN with SLP_TYP 5: power off (\_S5 in the DSDT)
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>

#include "devices/acpi_tables.h"

enum pm1_offset { PM1_STATUS = 0, PM1_ENABLE = 2, PM1_CONTROL = 4, PM1_BYTES = 8 };

#define PM1_TIMER 0x0001u /* the same bit in status and enable */
/* TMR, GBL, PWRBTN, SLPBTN, RTC: what an operating system may enable, though only the first ever happens. */
#define PM1_ENABLE_WRITABLE  0x0721u
#define PM1_SCI_EN           0x0001u
#define PM1_CONTROL_WRITABLE 0x1c02u /* SLP_TYP, BM_RLD; SLP_EN and GBL_RLS read zero */
#define PM1_SLP_EN           0x2000u
#define PM1_SLP_TYP(control) ((control) >> 10 & 7)

#define TIMER_HZ      3579545u
#define TIMER_TOP_BIT 23 /* of 24: TMR_STS is set whenever it changes */

struct acpi_pm_state {
    uint16_t enable, control;
    int64_t seen; /* changes of the timer's top bit that the guest has cleared TMR_STS for */
};

struct acpi_pm {
    struct acpi_pm_state s;
    struct machine *m;
    struct machine_timer timer;
};

static int64_t top_bit_changes(const struct acpi_pm *pm)
{
    return device_ticks_of_ns(machine_clock_ns(pm->m), TIMER_HZ) >> TIMER_TOP_BIT;
}

static uint16_t pm1_status(const struct acpi_pm *pm)
{
    return top_bit_changes(pm) > pm->s.seen ? PM1_TIMER : 0;
}

/* The SCI's level, and the next time it may rise. */
static void update(struct acpi_pm *pm)
{
    bool wanted = pm->s.enable & PM1_TIMER, raised = pm1_status(pm) & PM1_TIMER;
    machine_set_irq(pm->m, ACPI_SCI_IRQ, wanted && raised);
    machine_timer_disarm(pm->m, &pm->timer);
    if (wanted && !raised)
        machine_timer_arm(pm->m, &pm->timer,
                          device_ns_of_ticks((top_bit_changes(pm) + 1) << TIMER_TOP_BIT, TIMER_HZ));
}

static void timer_fire(void *device, uint64_t now_ns)
{
    (void)now_ns;
    update(device);
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
    pm->s.control = value & PM1_CONTROL_WRITABLE;
    if ((value & PM1_SLP_EN) && PM1_SLP_TYP(value) == ACPI_S5_TYPE)
        machine_request_end(pm->m, MACHINE_END_POWEROFF, 0);
}

static uint16_t pm1_register(const struct acpi_pm *pm, unsigned offset)
{
    switch (offset) {
    case PM1_STATUS:
        return pm1_status(pm);
    case PM1_ENABLE:
        return pm->s.enable;
    case PM1_CONTROL:
        return pm->s.control | PM1_SCI_EN;
    default:
        return 0;
    }
}

static uint64_t pm1_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    unsigned value = pm1_register(device, offset & ~1u);
    return value >> (offset & 1) * 8;
}

static void write_register(struct acpi_pm *pm, unsigned offset, uint16_t value)
{
    switch (offset) {
    case PM1_STATUS:
        if (value & PM1_TIMER)
            pm->s.seen = top_bit_changes(pm);
        break;
    case PM1_ENABLE:
        pm->s.enable = value & PM1_ENABLE_WRITABLE;
        break;
    case PM1_CONTROL:
        write_control(pm, value);
        break;
    default:
        break;
    }
    update(pm);
}

/*
 * Registers are written by bytes, as they may be (4.8.1): the other half stays, and of the status nothing is cleared by that. All of
 * a sleep command is in one byte.
 */
static void pm1_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = device;
    unsigned reg = offset & ~1u, shift = (offset & 1) * 8;
    unsigned other = reg == PM1_STATUS ? 0 : pm1_register(pm, reg) & 0xff00u >> shift;
    (void)size;
    write_register(pm, reg, (uint16_t)(other | (value & 0xff) << shift));
}

int acpi_pm_attach(struct machine *m, struct error *err)
{
    struct acpi_pm *pm = device_create(m, sizeof(*pm), "ACPI power management", err);
    if (!pm)
        return -ENOMEM;
    pm->m = m;
    machine_timer_init(&pm->timer, timer_fire, pm);
    return device_add_byte_ports(m, ACPI_PM1_PORT, PM1_BYTES, pm1_read, pm1_write, pm,
                                 "ACPI power management", err);
}

/*
 * The power management timer of the ACPI specification (version 6.5, section 4.8.2.1): a free-running counter
 * of 3.579545 MHz, here 24 bits wide (TMR_VAL_EXT = 0), at port 0x608. Bits 24..31 read zero; writes are
 * dropped. It has no state: the count follows from the machine's clock.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include "devices/acpi_tables.h"

#define PM_TIMER_PORT  ACPI_PM_TMR_PORT
#define PM_TIMER_BYTES 4
#define PM_TIMER_HZ    3579545u
#define PM_TIMER_MASK  0xffffffu

static uint64_t pm_timer_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    uint32_t count = (uint32_t)device_ticks_of_ns(machine_clock_ns(device), PM_TIMER_HZ) & PM_TIMER_MASK;
    return count >> (offset * 8);
}

int acpi_pm_timer_attach(struct machine *m, struct error *err)
{
    struct io_range range = {.start = PM_TIMER_PORT,
                             .length = PM_TIMER_BYTES,
                             .read = pm_timer_read,
                             .device = m,
                             .name = "ACPI PM timer"};
    return machine_add_ports(m, &range, err);
}

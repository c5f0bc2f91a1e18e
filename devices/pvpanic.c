/*
 * pvpanic: a guest's word that it has crashed (QEMU's docs/specs/pvpanic.rst), the ISA form: one byte at port 505. Reading gives the
 * events that it takes, writing reports them. The recorder marks the trace.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include "devices/acpi_tables.h"

enum pvpanic_event { PANICKED = 0x01, CRASH_LOADED = 0x02 };

static uint64_t pvpanic_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return PANICKED | CRASH_LOADED;
}

static void pvpanic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    if (value & PANICKED)
        machine_mark(device, "crash: the guest reports a panic (pvpanic)");
    else if (value & CRASH_LOADED)
        machine_mark(device, "crash: the guest reports a panic, and starts its crash kernel (pvpanic)");
}

int pvpanic_attach(struct machine *m, struct error *err)
{
    return device_add_byte_ports(m, ACPI_PVPANIC_PORT, 1, pvpanic_read, pvpanic_write, m, "pvpanic", err);
}

/*
 * The debug console port of Bochs: a byte written to 0xe9 is printed; reading gives 0xe9, which says it is
 * there.
 */
#include "devices/devices.h"
#include "devices/device.h"

#define DEBUG_CONSOLE_PORT    0xe9
#define DEBUG_CONSOLE_CHANNEL 1

static uint64_t debug_console_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return DEBUG_CONSOLE_PORT;
}

static void debug_console_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    const struct machine_host *host = machine_host(device);
    uint8_t byte = (uint8_t)value;
    if (host->console_output)
        host->console_output(host->context, DEBUG_CONSOLE_CHANNEL, &byte, 1);
}

int debug_console_attach(struct machine *m, struct error *err)
{
    return device_add_byte_ports(m, DEBUG_CONSOLE_PORT, 1, debug_console_read, debug_console_write, m,
                                 "debug console", err);
}

/*
 * The debug exit port that test guests use to end a run (known as isa-debug-exit): ports 0xf4..0xf7. Whatever
 * is written, in any size, is the status of the run.
 */
#include "devices/devices.h"

#define DEBUG_EXIT_PORT       0xf4
#define DEBUG_EXIT_PORT_COUNT 4

static void debug_exit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    machine_request_end(device, MACHINE_END_DEBUG_EXIT, (uint32_t)value);
}

int debug_exit_attach(struct machine *m, struct error *err)
{
    struct io_range range = {.start = DEBUG_EXIT_PORT,
                             .length = DEBUG_EXIT_PORT_COUNT,
                             .write = debug_exit_write,
                             .device = m,
                             .name = "debug exit port"};
    return machine_add_ports(m, &range, err);
}

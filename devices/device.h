/* What every device's attach function needs; for the files of this folder only. */
#ifndef DEJAVM_DEVICES_DEVICE_H
#define DEJAVM_DEVICES_DEVICE_H

#include "core/machine.h"

/*
 * Zeroed memory that the machine frees at its end. NULL with a message that names the device when there is
 * none.
 */
void *device_create(struct machine *m, size_t bytes, const char *name, struct error *err) must_check;

/* Claims byte-wide ports: a wider access reaches the device as one call per byte, lowest port first. */
int device_add_byte_ports(struct machine *m, uint16_t first, uint16_t count, io_read_fn read,
                          io_write_fn write, void *device, const char *name, struct error *err) must_check;

/*
 * Exact clock arithmetic without drift: how many whole ticks of a clock of hz fit into time_ns, and the first
 * nanosecond at which tick number ticks has happened. Both are exact for every time the machine clock can
 * show.
 */
__extension__ typedef unsigned __int128 device_uint128;

static inline int64_t device_ticks_of_ns(uint64_t time_ns, uint32_t hz)
{
    return (int64_t)((device_uint128)time_ns * hz / 1000000000u);
}

static inline uint64_t device_ns_of_ticks(int64_t ticks, uint32_t hz)
{
    if (ticks <= 0)
        return 0;
    device_uint128 ns = ((device_uint128)ticks * 1000000000u + hz - 1) / hz;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

#endif

#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>
#include <stdlib.h>

void *device_create(struct machine *m, size_t bytes, const char *name, struct error *err)
{
    void *device = calloc(1, bytes);
    if (!device) {
        error_set(err, -ENOMEM, "no memory for the %s", name);
        return NULL;
    }
    if (machine_on_destroy(m, free, device, err)) {
        free(device);
        return NULL;
    }
    return device;
}

int device_add_byte_ports(struct machine *m, uint16_t first, uint16_t count, io_read_fn read,
                          io_write_fn write, void *device, const char *name, struct error *err)
{
    struct io_range range = {.start = first,
                             .length = count,
                             .read = read,
                             .write = write,
                             .device = device,
                             .name = name,
                             .max_access_bytes = 1};
    return machine_add_ports(m, &range, err);
}

/*
 * Port 0x80 shows POST codes on real boards. Kernels write to it only because a bus cycle takes about a
 * microsecond, so it is claimed here to keep it out of the list of unclaimed ports.
 */
static int post_code_attach(struct machine *m, struct error *err)
{
    return device_add_byte_ports(m, 0x80, 1, NULL, NULL, NULL, "POST code port", err);
}

int board_attach(struct machine *m, const struct board_options *options, struct error *err)
{
    (void)options;
    int (*const attach[])(struct machine *, struct error *) = {
        pic_attach,
        pit_attach,
        serial_attach,
        rtc_cmos_attach,
        keyboard_controller_attach,
        post_code_attach,
        acpi_pm_timer_attach,
        debug_exit_attach,
        debug_console_attach,
    };
    for (size_t i = 0; i < ARRAY_LEN(attach); i++) {
        int rc = attach[i](m, err);
        if (rc)
            return rc;
    }
    return 0;
}

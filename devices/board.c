#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>
#include <stdlib.h>

#include "devices/acpi_tables.h"
#include "devices/pci.h"
#include "devices/virtio/devices.h"

#define PIC_ELCR2_PORT 0x4d1 /* edge or level, IRQ 8 to 15 */

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

typedef int (*attach_fn)(struct machine *m, struct error *err);

static int attach_all(struct machine *m, const attach_fn *attach, size_t count, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++)
        rc = attach[i](m, err);
    return rc;
}

static int attach_pci_devices(struct machine *m, const struct board_options *o, struct error *err)
{
    struct pci_bus *bus;
    int rc = pci_bus_attach(m, &bus, err);
    if (!rc)
        rc = virtio_console_attach(m, bus, err);
    if (!rc)
        rc = virtio_rng_attach(m, bus, err);
    for (size_t i = 0; i < o->disk_count && !rc; i++)
        rc = virtio_block_attach(m, bus, &o->disks[i], err);
    if (!rc && o->net.present)
        rc = virtio_net_attach(m, bus, &o->net, err);
    for (size_t i = 0; i < o->share_count && !rc; i++)
        rc = virtio_p9_attach(m, bus, &o->shares[i], err);
    return rc;
}

/* What the PC has beyond the ISA bus. As firmware does, it sets the lines of the SCI and of PCI to level triggered in the PIC. */
static int attach_pc(struct machine *m, const struct board_options *options, struct error *err)
{
    static const attach_fn apics[] = {local_apic_attach, io_apic_attach};
    static const attach_fn acpi[] = {acpi_pm_attach, pvpanic_attach};
    const unsigned level = 1u << ACPI_SCI_IRQ | 1u << pci_line_of_device(0) | 1u << pci_line_of_device(1);
    int rc = options->apics ? attach_all(m, apics, ARRAY_LEN(apics), err) : 0;
    if (!rc)
        rc = attach_all(m, acpi, ARRAY_LEN(acpi), err);
    if (!rc)
        rc = attach_pci_devices(m, options, err);
    machine_port_write(m, PIC_ELCR2_PORT, 1, level >> 8);
    if (!rc && machine_ram(m))
        rc = acpi_tables_write(machine_ram(m), options->apics, err);
    return rc;
}

int board_attach(struct machine *m, const struct board_options *options, struct error *err)
{
    static const attach_fn isa[] = {
        pic_attach,
        pit_attach,
        serial_attach,
        rtc_cmos_attach,
        keyboard_controller_attach,
        post_code_attach,
        acpi_pm_timer_attach,
        x87_error_attach,
        debug_exit_attach,
        debug_console_attach,
    };
    int rc = attach_all(m, isa, ARRAY_LEN(isa), err);
    return rc || options->kind == BOARD_MINIMAL ? rc : attach_pc(m, options, err);
}

/* The PCI bus: configuration mechanism 1, base addresses that move, capabilities, INTA#, MSI-X. */
#include "tests/devices/fixture.h"

#include "devices/pci.h"

enum { COMMAND = 0x04, STATUS = 0x06, BAR0 = 0x10, BAR1 = 0x14, CAPABILITIES = 0x34, LINE = 0x3c };
enum { MEMORY = 0x2, MASTER = 0x4, INTX_OFF = 0x400 };
#define MSI 0xfee01000u

struct rig {
    struct machine *m;
    struct pci_bus *bus;
    struct pci_function *a,
        *b; /* 00:01.0 with BAR 0 of 16 KiB and MSI-X in BAR 1, 00:02.0 with BAR 0 of 4 KiB */
    uint8_t cells[2][16384];
    unsigned level[MACHINE_IRQS];
    uint64_t address[16];
    uint32_t data[16];
    unsigned messages;
};

static uint64_t cell_read(void *device, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, (uint8_t *)device + offset, size);
    return value;
}

static void cell_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    memcpy((uint8_t *)device + offset, &value, size);
}

static void set_pin(void *device, unsigned pin, bool level)
{
    ((struct rig *)device)->level[pin] = level;
}

static void message(void *device, uint64_t address, uint32_t data)
{
    struct rig *r = device;
    assert_in_range(r->messages, 0, ARRAY_LEN(r->data) - 1);
    r->address[r->messages] = address;
    r->data[r->messages++] = data;
}

static uint32_t cfg(struct rig *r, unsigned number, unsigned offset, unsigned size)
{
    machine_port_write(r->m, 0xcf8, 4, 0x80000000u | number << 11 | (offset & 0xfc));
    return (uint32_t)machine_port_read(r->m, (uint16_t)(0xcfc + (offset & 3)), size);
}

static void set_cfg(struct rig *r, unsigned number, unsigned offset, unsigned size, uint32_t value)
{
    machine_port_write(r->m, 0xcf8, 4, 0x80000000u | number << 11 | (offset & 0xfc));
    machine_port_write(r->m, (uint16_t)(0xcfc + (offset & 3)), size, value);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct error err;
    const struct pci_identity id = {.vendor = 0x1af4,
                                    .device = 0x1042,
                                    .subsystem_vendor = 0x1af4,
                                    .subsystem = 0x1100,
                                    .class_code = 0x010203,
                                    .revision = 7};
    assert_non_null(r);
    assert_int_equal(machine_create(&r->m, NULL, NULL, &err), 0);
    machine_set_io_apic(r->m, &(struct io_apic_interface){.set_pin = set_pin, .device = r});
    machine_set_local_apic(r->m, &(struct local_apic_interface){.message = message, .device = r});
    assert_int_equal(pci_bus_attach(r->m, &r->bus, &err), 0);
    assert_int_equal(pci_function_create(r->bus, &id, "a", r->cells[0], &r->a, &err), 0);
    assert_int_equal(pci_add_memory_bar(r->a, 0, 16384, cell_read, cell_write, &err), 0);
    assert_int_equal(pci_add_msix(r->a, 1, 3, &err), 0);
    assert_int_equal(pci_function_create(r->bus, &id, "b", r->cells[1], &r->b, &err), 0);
    assert_int_equal(pci_add_memory_bar(r->b, 0, 4096, cell_read, cell_write, &err), 0);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    machine_destroy(r->m);
    free(r);
    return 0;
}

static void functions_are_found_by_mechanism_1(void **state)
{
    struct rig *r = *state;
    assert_int_equal(cfg(r, 0, 0, 4) & 0xffff, 0x1b36);
    assert_int_equal(cfg(r, 0, 8, 4) >> 8, 0x060000);
    assert_int_equal(cfg(r, 1, 0, 4), 0x10421af4);
    assert_int_equal(cfg(r, 1, 2, 2), 0x1042);
    assert_int_equal(cfg(r, 1, 3, 1), 0x10);
    assert_int_equal(cfg(r, 1, 8, 4), 0x01020307);
    assert_int_equal(cfg(r, 1, 0x2c, 4), 0x11001af4);
    assert_int_equal(cfg(r, 1, 0x3d, 1), 1);
    assert_int_equal(cfg(r, 1, 0x0e, 1), 0); /* header type 0, one function */
    assert_int_equal(cfg(r, 3, 0, 4), 0xffffffff);
    assert_int_equal(machine_port_read(r->m, 0xcf8, 4), 0x80001800);
    /* other functions, other buses, reserved bits, not enabled: nothing there */
    for (unsigned i = 0; i < 4; i++) {
        static const uint32_t nothing[] = {0x80000900, 0x80010800, 0x81000800, 0x00000800};
        machine_port_write(r->m, 0xcf8, 4, nothing[i]);
        assert_int_equal(machine_port_read(r->m, 0xcfc, 4), 0xffffffff);
        machine_port_write(r->m, 0xcfc, 4, 0);
    }
    /* The address register takes four bytes at a time only. */
    machine_port_write(r->m, 0xcf8, 4, 0x80000800);
    machine_port_write(r->m, 0xcf8, 2, 0x1000);
    machine_port_write(r->m, 0xcfa, 1, 0x55);
    assert_int_equal(machine_port_read(r->m, 0xcf8, 4), 0x80000800);
}

static void identity_cannot_be_written(void **state)
{
    struct rig *r = *state;
    uint32_t before[64];
    for (unsigned i = 0; i < 64; i++)
        before[i] = cfg(r, 2, 4 * i, 4);
    for (unsigned i = 0; i < 64; i++)
        if (i != COMMAND / 4 && i != BAR0 / 4 && i != LINE / 4 && i != 3)
            set_cfg(r, 2, 4 * i, 4, 0xffffffff);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(cfg(r, 2, 4 * i, 4), before[i]);
}

static void a_bar_is_sized_moved_and_switched(void **state)
{
    struct rig *r = *state;
    uint32_t first = cfg(r, 1, BAR0, 4);
    assert_in_range(first, PCI_WINDOW_START, PCI_WINDOW_END - 16384);
    assert_int_equal(first % 16384, 0);
    r->cells[0][0x104] = 0x5a;
    assert_int_equal(machine_mmio_read(r->m, first + 0x104, 1), 0xff); /* decoding is off */
    set_cfg(r, 1, BAR0, 4, 0xffffffff);
    assert_int_equal(cfg(r, 1, BAR0, 4), 0xffffc000);
    set_cfg(r, 1, BAR0, 4, first);
    set_cfg(r, 1, COMMAND, 2, MEMORY);
    assert_int_equal(machine_mmio_read(r->m, first + 0x104, 1), 0x5a);
    machine_mmio_write(r->m, first + 0x3ff8, 8, 0x1122334455667788);
    assert_int_equal(r->cells[0][0x3fff], 0x11);
    set_cfg(r, 1, BAR0, 4, 0xd0000123); /* the low bits are not there */
    assert_int_equal(cfg(r, 1, BAR0, 4), 0xd0000000);
    assert_int_equal(machine_mmio_read(r->m, first + 0x104, 1), 0xff);
    assert_int_equal(machine_mmio_read(r->m, 0xd0000104, 1), 0x5a);
    set_cfg(r, 1, BAR0 + 2, 2, 0xd100); /* by halves */
    assert_int_equal(machine_mmio_read(r->m, 0xd1000104, 1), 0x5a);
    set_cfg(r, 1, COMMAND, 2, 0);
    assert_int_equal(machine_mmio_read(r->m, 0xd1000104, 1), 0xff);
}

static void bars_that_overlap_do_no_harm(void **state)
{
    struct rig *r = *state;
    r->cells[0][0] = 0xaa;
    r->cells[1][0] = 0xbb;
    set_cfg(r, 1, COMMAND, 2, MEMORY);
    set_cfg(r, 2, COMMAND, 2, MEMORY);
    set_cfg(r, 1, BAR0, 4, 0xd0000000);
    set_cfg(r, 2, BAR0, 4, 0xd0000000);
    assert_int_equal(machine_mmio_read(r->m, 0xd0000000, 1), 0xaa);
    set_cfg(r, 1, BAR0, 4, 0xd1000000);
    assert_int_equal(machine_mmio_read(r->m, 0xd0000000, 1), 0xbb); /* it gets its place when that is free */
    assert_int_equal(machine_mmio_read(r->m, 0xd1000000, 1), 0xaa);
}

static void capabilities_are_a_list(void **state)
{
    struct rig *r = *state;
    struct error err;
    const uint8_t data[6] = {1, 2, 3, 4, 5, 6}, writable[6] = {0, 0, 0, 0xf0, 0, 0};
    unsigned offset = 0;
    assert_int_equal(cfg(r, 1, STATUS, 2) & 0x10, 0x10);
    assert_int_equal(cfg(r, 2, STATUS, 2) & 0x10, 0);
    assert_int_equal(pci_add_capability(r->a, 9, data, writable, sizeof(data), &offset, &err), 0);
    unsigned msix = cfg(r, 1, CAPABILITIES, 1);
    assert_int_equal(cfg(r, 1, msix, 1), 0x11);
    assert_int_equal(cfg(r, 1, msix + 1, 1), offset);
    assert_int_equal(cfg(r, 1, offset, 1), 9);
    assert_int_equal(cfg(r, 1, offset + 1, 1), 0);
    set_cfg(r, 1, offset + 4, 4, 0xffffffff);
    assert_int_equal(cfg(r, 1, offset + 4, 4), 0x0605f403);
    int rc = 0;
    for (unsigned i = 0; i < 64 && rc == 0; i++)
        rc = pci_add_capability(r->a, 9, data, writable, sizeof(data), &offset, &err);
    assert_int_equal(rc, -ENOSPC);
    assert_in_range(offset + 8, 0, 256);
}

static void config_read_hook(void *device)
{
    ((uint8_t *)device)[0]++;
}

static void config_write_hook(void *device)
{
    ((uint8_t *)device)[1]++;
}

static void a_hook_sees_its_window_only(void **state)
{
    struct rig *r = *state;
    struct error err;
    const uint8_t data[14] = {0}, writable[14] = {0xff, 0xff};
    unsigned at;
    assert_int_equal(pci_add_capability(r->b, 9, data, writable, sizeof(data), &at, &err), 0);
    pci_set_config_hook(r->b, &(struct pci_config_hook){.offset = at + 4,
                                                        .length = 4,
                                                        .before_read = config_read_hook,
                                                        .after_write = config_write_hook});
    cfg(r, 2, at, 4);
    cfg(r, 2, at + 8, 4);
    set_cfg(r, 2, at + 3, 1, 0);
    assert_int_equal(r->cells[1][0] | r->cells[1][1], 0);
    cfg(r, 2, at + 7, 1);
    set_cfg(r, 2, at + 4, 2, 0);
    assert_int_equal(r->cells[1][0], 1);
    assert_int_equal(r->cells[1][1], 1);
}

static void inta_is_shared_and_can_be_disabled(void **state)
{
    struct rig *r = *state;
    struct error err;
    struct pci_function *c;
    const struct pci_identity id = {.vendor = 1, .device = 2};
    assert_int_equal(pci_function_create(r->bus, &id, "c", NULL, &c, &err), 0); /* 00:03.0 */
    unsigned line = cfg(r, 1, LINE, 1);
    assert_int_equal(line, pci_line_of_device(1));
    assert_int_equal(line, pci_line_of_device(3));
    assert_int_not_equal(line, pci_line_of_device(2));
    pci_set_interrupt(r->a, true);
    assert_true(r->level[line]);
    assert_int_equal(cfg(r, 1, STATUS, 2) & 8, 8);
    pci_set_interrupt(c, true);
    pci_set_interrupt(r->a, false);
    assert_true(r->level[line]);
    set_cfg(r, 3, COMMAND, 2, INTX_OFF);
    assert_false(r->level[line]);
    assert_int_equal(cfg(r, 3, STATUS, 2) & 8, 8);
    set_cfg(r, 3, COMMAND, 2, 0);
    assert_true(r->level[line]);
    pci_set_interrupt(c, false);
    assert_false(r->level[line]);
}

static void msix_sends_what_the_guest_wrote(void **state)
{
    struct rig *r = *state;
    unsigned at = cfg(r, 1, CAPABILITIES, 1);
    uint32_t table = cfg(r, 1, BAR1, 4), pending = table + (cfg(r, 1, at + 8, 4) & ~7u);
    assert_int_equal(cfg(r, 1, at + 2, 2), 2); /* three vectors */
    assert_int_equal(cfg(r, 1, at + 4, 4), 1);
    set_cfg(r, 1, COMMAND, 2, MEMORY | MASTER);
    for (unsigned i = 0; i < 3; i++) {
        machine_mmio_write(r->m, table + 16 * i, 8, MSI);
        machine_mmio_write(r->m, table + 16 * i + 8, 4, 0x40 + i);
        assert_int_equal(machine_mmio_read(r->m, table + 16 * i + 12, 4), 1); /* masked until it is set up */
    }
    pci_msix_send(r->a, 0);
    assert_int_equal(r->messages, 0);
    pci_set_interrupt(r->a, true);
    assert_true(r->level[pci_line_of_device(1)]);
    set_cfg(r, 1, at + 2, 2, 0x8000);
    assert_true(pci_msix_enabled(r->a));
    assert_false(r->level[pci_line_of_device(1)]); /* no INTA# with MSI-X */
    pci_msix_send(r->a, 2);
    assert_int_equal(r->messages, 0);
    assert_int_equal(machine_mmio_read(r->m, pending, 8), 4);
    machine_mmio_write(r->m, table + 16 * 2 + 12, 4, 0);
    assert_int_equal(r->messages, 1);
    assert_int_equal(r->address[0], MSI);
    assert_int_equal(r->data[0], 0x42);
    assert_int_equal(machine_mmio_read(r->m, pending, 8), 0);
    set_cfg(r, 1, at + 2, 2, 0xc000); /* function mask */
    pci_msix_send(r->a, 2);
    pci_msix_send(r->a, 2);
    pci_msix_send(r->a, 3);
    assert_int_equal(r->messages, 1);
    set_cfg(r, 1, at + 2, 2, 0x8000);
    assert_int_equal(r->messages, 2);
    set_cfg(r, 1, COMMAND, 2, MEMORY); /* a message is a memory write: not without bus mastering */
    pci_msix_send(r->a, 2);
    assert_int_equal(r->messages, 2);
}

static void the_reset_register_resets(void **state)
{
    struct rig *r = *state;
    machine_port_write(r->m, 0xcf9, 1, 0x02);
    assert_int_equal(machine_port_read(r->m, 0xcf9, 1), 0x02);
    assert_int_equal(machine_end(r->m, NULL), MACHINE_END_NONE);
    machine_port_write(r->m, 0xcf9, 1, 0x06);
    assert_int_equal(machine_end(r->m, NULL), MACHINE_END_RESET);
}

static void the_bus_has_31_devices_and_a_window(void **state)
{
    struct rig *r = *state;
    struct error err;
    struct pci_function *f = NULL;
    const struct pci_identity id = {.vendor = 1, .device = 2};
    for (unsigned i = 3; i < 32; i++)
        assert_int_equal(pci_function_create(r->bus, &id, "more", NULL, &f, &err), 0);
    struct pci_function *none;
    assert_int_equal(pci_function_create(r->bus, &id, "too many", NULL, &none, &err), -ENOSPC);
    assert_int_equal(pci_add_memory_bar(f, 0, 1u << 25, NULL, NULL, &err), -EINVAL);
    assert_int_equal(pci_add_memory_bar(f, 0, 4096 + 1, NULL, NULL, &err), -EINVAL);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(pci_add_memory_bar(f, i, 1u << 24, NULL, NULL, &err), 0);
    assert_int_equal(pci_add_memory_bar(f, 5, 4096, NULL, NULL, &err), -EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(functions_are_found_by_mechanism_1),
        T(identity_cannot_be_written),
        T(a_bar_is_sized_moved_and_switched),
        T(bars_that_overlap_do_no_harm),
        T(capabilities_are_a_list),
        T(a_hook_sees_its_window_only),
        T(inta_is_shared_and_can_be_disabled),
        T(msix_sends_what_the_guest_wrote),
        T(the_reset_register_resets),
        T(the_bus_has_31_devices_and_a_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The I/O APIC: its registers, edge and level pins, remote IRR. */
#include "tests/devices/fixture.h"

#define IO_APIC ((gpa_t)0xfec00000)
#define LEVEL   0x8000u
#define MASKED  0x10000u
#define REMOTE  0x4000u

struct rig {
    struct machine *m;
    uint64_t address[16];
    uint32_t data[16];
    unsigned messages;
};

static void message(void *device, uint64_t address, uint32_t data)
{
    struct rig *r = device;
    assert_in_range(r->messages, 0, ARRAY_LEN(r->data) - 1);
    r->address[r->messages] = address;
    r->data[r->messages++] = data;
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct error err;
    assert_non_null(r);
    assert_int_equal(machine_create(&r->m, NULL, NULL, &err), 0);
    assert_int_equal(io_apic_attach(r->m, &err), 0);
    machine_set_local_apic(r->m, &(struct local_apic_interface){.message = message, .device = r});
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

static uint32_t get(struct rig *r, unsigned index)
{
    machine_mmio_write(r->m, IO_APIC, 4, index);
    return (uint32_t)machine_mmio_read(r->m, IO_APIC + 0x10, 4);
}

static void set(struct rig *r, unsigned index, uint32_t value)
{
    machine_mmio_write(r->m, IO_APIC, 4, index);
    machine_mmio_write(r->m, IO_APIC + 0x10, 4, value);
}

static void set_entry(struct rig *r, unsigned pin, uint32_t low, uint32_t high)
{
    set(r, 0x11 + 2 * pin, high);
    set(r, 0x10 + 2 * pin, low);
}

static void all_pins_start_masked(void **state)
{
    struct rig *r = *state;
    assert_int_equal(get(r, 1), 0x170020);
    for (unsigned pin = 0; pin < 24; pin++) {
        assert_int_equal(get(r, 0x10 + 2 * pin), MASKED);
        assert_int_equal(get(r, 0x11 + 2 * pin), 0);
        machine_set_irq(r->m, pin, true);
    }
    assert_int_equal(r->messages, 0);
    set(r, 0, 0xffffffff);
    assert_int_equal(get(r, 0), 0x0f000000);
    set(r, 1, 0);
    assert_int_equal(get(r, 1), 0x170020);
    assert_int_equal(get(r, 0x40), 0); /* beyond the table */
    set(r, 0x40, 0xffffffff);
    set(r, 0xff, 0xffffffff);
    machine_mmio_write(r->m, IO_APIC + 0x10, 2, 0xffff); /* only words */
    machine_mmio_write(r->m, IO_APIC + 0x14, 4, 0xffff);
    assert_int_equal(machine_mmio_read(r->m, IO_APIC + 0x800, 4), 0);
}

static void an_edge_sends_once(void **state)
{
    struct rig *r = *state;
    set_entry(r, 4, 0x31 | 0x800 | 0x100, 0x0c000000); /* lowest priority, logical */
    machine_set_irq(r->m, 4, true);
    machine_set_irq(r->m, 4, true);
    assert_int_equal(r->messages, 1);
    assert_int_equal(r->address[0], 0xfee0c004);
    assert_int_equal(r->data[0], 0x131);
    machine_set_irq(r->m, 4, false);
    machine_set_irq(r->m, 4, true);
    assert_int_equal(r->messages, 2);
    set_entry(r, 4, 0x31 | MASKED, 0);
    machine_set_irq(r->m, 4, false);
    machine_set_irq(r->m, 4, true); /* lost, as on hardware */
    set_entry(r, 4, 0x31, 0);
    assert_int_equal(r->messages, 2);
}

static void irq_0_comes_in_at_pin_2(void **state)
{
    struct rig *r = *state;
    set_entry(r, 0, 0x30, 0);
    set_entry(r, 2, 0x32, 0);
    machine_set_irq(r->m, 0, true);
    assert_int_equal(r->messages, 1);
    assert_int_equal(r->data[0], 0x32);
    machine_set_irq(r->m, 24, true); /* there is no such line */
    assert_int_equal(r->messages, 1);
}

static void a_level_is_served_until_it_falls(void **state)
{
    struct rig *r = *state;
    set_entry(r, 11, 0x45 | LEVEL | 0x2000, 0x01000000);
    machine_set_irq(r->m, 11, true);
    assert_int_equal(r->messages, 1);
    assert_int_equal(r->address[0], 0xfee01000);
    assert_int_equal(r->data[0], 0x45 | LEVEL);
    assert_int_equal(get(r, 0x10 + 22), 0x45 | LEVEL | 0x2000 | REMOTE);
    machine_set_irq(r->m, 11, false);
    machine_set_irq(r->m, 11, true);
    assert_int_equal(r->messages, 1); /* still being served */
    machine_end_of_interrupt(r->m, 0x46);
    assert_int_equal(r->messages, 1);
    machine_end_of_interrupt(r->m, 0x45);
    assert_int_equal(r->messages, 2); /* it is high still */
    machine_set_irq(r->m, 11, false);
    machine_end_of_interrupt(r->m, 0x45);
    assert_int_equal(r->messages, 2);
    assert_int_equal(get(r, 0x10 + 22), 0x45 | LEVEL | 0x2000);
    set_entry(r, 11, 0x45 | LEVEL | MASKED, 0);
    machine_set_irq(r->m, 11, true);
    assert_int_equal(r->messages, 2);
    set_entry(r, 11, 0x45 | LEVEL, 0); /* a level is not lost */
    assert_int_equal(r->messages, 3);
    machine_mmio_write(r->m, IO_APIC + 0x40, 4, 0x45); /* the EOI register does as the broadcast does */
    assert_int_equal(r->messages, 4);
    set_entry(r, 11, 0x45, 0); /* to edge: forgets */
    assert_int_equal(get(r, 0x10 + 22), 0x45);
}

static void status_bits_cannot_be_written(void **state)
{
    struct rig *r = *state;
    set_entry(r, 5, 0xffffffff, 0xffffffff);
    assert_int_equal(get(r, 0x10 + 10), 0x1afff);
    assert_int_equal(get(r, 0x11 + 10), 0xff000000);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(all_pins_start_masked),         T(an_edge_sends_once),
        T(irq_0_comes_in_at_pin_2),       T(a_level_is_served_until_it_falls),
        T(status_bits_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

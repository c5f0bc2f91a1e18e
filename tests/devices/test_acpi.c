/* The ACPI tables as an operating system walks them, and what they describe: power off, reset, the SCI, pvpanic. */
#include "tests/devices/fixture.h"

#include <stdio.h>
#include <unistd.h>

#include "devices/acpi_tables.h"
#include "devices/pci.h"

struct rig {
    struct machine *m;
    struct guest_ram *ram;
    char mark[512];
    unsigned marks;
};

static void note_mark(void *context, const char *text)
{
    struct rig *r = context;
    snprintf(r->mark, sizeof(r->mark), "%s", text);
    r->marks++;
}

static struct rig *create(bool apics)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct error err;
    assert_non_null(r);
    assert_int_equal(ram_create(&r->ram, 1 << 20, &err), 0);
    struct machine_host host = {.mark = note_mark, .context = r};
    assert_int_equal(machine_create(&r->m, r->ram, &host, &err), 0);
    assert_int_equal(board_attach(r->m, &(struct board_options){.kind = BOARD_PC, .apics = apics}, &err), 0);
    return r;
}

static int setup(void **state)
{
    *state = create(true);
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    machine_destroy(r->m);
    ram_destroy(r->ram);
    free(r);
    return 0;
}

static uint64_t word(struct rig *r, gpa_t gpa, unsigned bytes)
{
    uint64_t value = 0;
    assert_int_equal(ram_read(r->ram, gpa, &value, bytes), 0);
    return value;
}

static uint8_t sum(struct rig *r, gpa_t gpa, uint64_t length)
{
    uint8_t total = 0;
    for (uint64_t i = 0; i < length; i++)
        total = (uint8_t)(total + word(r, gpa + i, 1));
    return total;
}

static bool has_signature(struct rig *r, gpa_t gpa, const char *signature)
{
    char text[8] = {0};
    assert_int_equal(ram_read(r->ram, gpa, text, strlen(signature)), 0);
    return strcmp(text, signature) == 0;
}

/* A table inside the area, with a right checksum. */
static gpa_t check_table(struct rig *r, gpa_t gpa)
{
    uint64_t length = word(r, gpa + 4, 4);
    assert_in_range(gpa, ACPI_AREA_START, ACPI_AREA_START + ACPI_AREA_BYTES);
    assert_in_range(length, 36, ACPI_AREA_START + ACPI_AREA_BYTES - gpa);
    assert_int_equal(sum(r, gpa, length), 0);
    return gpa;
}

/* By the XSDT; 0: there is none. */
static gpa_t find_table(struct rig *r, const char *signature)
{
    gpa_t xsdt = check_table(r, word(r, ACPI_RSDP + 24, 8)),
          rsdt = check_table(r, word(r, ACPI_RSDP + 16, 4));
    uint64_t count = (word(r, xsdt + 4, 4) - 36) / 8;
    assert_true(has_signature(r, xsdt, "XSDT") && has_signature(r, rsdt, "RSDT"));
    assert_int_equal(word(r, rsdt + 4, 4), 36 + count * 4);
    for (uint64_t i = 0; i < count; i++) {
        gpa_t table = check_table(r, word(r, xsdt + 36 + i * 8, 8));
        assert_int_equal(word(r, rsdt + 36 + i * 4, 4), table);
        if (has_signature(r, table, signature))
            return table;
    }
    return 0;
}

static void the_rsdp_leads_to_all_tables(void **state)
{
    struct rig *r = *state;
    assert_int_equal(ACPI_RSDP % 16, 0);
    assert_in_range(ACPI_RSDP, 0xe0000, 0xfffff); /* where it is searched for */
    assert_true(has_signature(r, ACPI_RSDP, "RSD PTR"));
    assert_int_equal(sum(r, ACPI_RSDP, 20), 0);
    assert_int_equal(sum(r, ACPI_RSDP, 36), 0);
    gpa_t fadt = find_table(r, "FACP");
    assert_int_not_equal(fadt, 0);
    assert_int_not_equal(find_table(r, "APIC"), 0);
    gpa_t facs = word(r, fadt + 36, 4), dsdt = check_table(r, word(r, fadt + 40, 4));
    assert_true(has_signature(r, facs, "FACS") && has_signature(r, dsdt, "DSDT"));
    assert_int_equal(facs % 64, 0);
    assert_int_equal(word(r, fadt + 140, 8), dsdt);
}

static void the_madt_describes_the_interrupt_controllers(void **state)
{
    struct rig *r = *state;
    gpa_t madt = find_table(r, "APIC"), end = madt + word(r, madt + 4, 4);
    unsigned processors = 0, io_apics = 0, overrides = 0;
    assert_int_equal(word(r, madt + 36, 4), 0xfee00000);
    assert_int_equal(word(r, madt + 40, 4), 1);
    gpa_t at = madt + 44;
    for (uint64_t length; at < end; at += length) {
        length = word(r, at + 1, 1);
        assert_in_range(length, 2, end - at);
        switch (word(r, at, 1)) {
        case 0:
            processors++;
            break;
        case 1:
            io_apics++;
            assert_int_equal(word(r, at + 4, 4), 0xfec00000);
            break;
        case 2:
            overrides++;
            if (word(r, at + 3, 1) == 0)
                assert_int_equal(word(r, at + 4, 4), 2);
            break;
        default:
            break;
        }
    }
    assert_int_equal(at, end);
    assert_int_equal(processors, 1);
    assert_int_equal(io_apics, 1);
    assert_int_equal(overrides, 2);
}

static void a_board_without_apics_has_no_madt(void **state)
{
    (void)state;
    struct rig *r = create(false);
    assert_int_equal(find_table(r, "APIC"), 0);
    assert_int_not_equal(find_table(r, "FACP"), 0);
    assert_int_equal(machine_mmio_read(r->m, 0xfee00030, 4), 0xffffffff);
    assert_int_equal(machine_mmio_read(r->m, 0xfec00000, 4), 0xffffffff);
    void *p = r;
    teardown(&p);
}

/* The bytes are somewhere in the DSDT. */
static bool dsdt_has(struct rig *r, const char *bytes, size_t count)
{
    gpa_t dsdt = word(r, find_table(r, "FACP") + 40, 4);
    uint64_t length = word(r, dsdt + 4, 4);
    const uint8_t *table = r->ram->host + dsdt; /* below 3 GiB the offset in RAM is the address */
    return memmem(table, length, bytes, count) != NULL;
}

static void the_dsdt_names_the_devices(void **state)
{
    struct rig *r = *state;
    assert_true(dsdt_has(r, "_HID\x0c\x41\xd0\x0a\x03", 9)); /* PNP0A03 */
    assert_true(dsdt_has(r, "_HID\x0c\x41\xd0\x05\x01", 9)); /* PNP0501 */
    assert_true(dsdt_has(r, "_HID\x0c\x41\xd0\x0b\x00", 9)); /* PNP0B00 */
    assert_true(dsdt_has(r, "_HID\x0dQEMU0001", 14));
    assert_true(dsdt_has(r, "\x47\x01\xf8\x03\xf8\x03\x01\x08\x22\x10\x00", 11)); /* 3f8, 8 ports, IRQ 4 */
    /* The last of the interrupt lines: device 31, INTA#, no link, IRQ 11. */
    assert_true(dsdt_has(r, "\x04\x0c\xff\xff\x1f\x00\x00\x00\x0a\x0b", 10));
}

/* \_S5 of the DSDT is a package whose first element is the SLP_TYP that the control register takes. */
static void power_off_is_what_the_tables_say(void **state)
{
    struct rig *r = *state;
    gpa_t fadt = find_table(r, "FACP"), dsdt = word(r, fadt + 40, 4);
    uint64_t length = word(r, dsdt + 4, 4);
    uint16_t control = (uint16_t)word(r, fadt + 64, 4);
    unsigned type = 0;
    for (gpa_t at = dsdt + 36; at < dsdt + length - 12; at++)
        if (has_signature(r, at, "_S5_")) /* name, package op, length of 3 bytes, count, byte prefix, value */
            type = (unsigned)word(r, at + 4 + 1 + 3 + 1 + 1, 1);
    assert_int_equal(type, ACPI_S5_TYPE);
    assert_int_equal(machine_port_read(r->m, control, 2) & 1, 1); /* SCI_EN: ACPI mode */
    machine_port_write(r->m, control, 2, type << 10);
    machine_port_write(r->m, control, 2, 3u << 10 | 0x2000); /* another sleep state */
    assert_int_equal(machine_end(r->m, NULL), MACHINE_END_NONE);
    machine_port_write(r->m, control, 2, type << 10 | 0x2000);
    assert_int_equal(machine_end(r->m, NULL), MACHINE_END_POWEROFF);
}

static void the_reset_register_is_what_the_tables_say(void **state)
{
    struct rig *r = *state;
    gpa_t fadt = find_table(r, "FACP");
    assert_true(word(r, fadt + 112, 4) & 1u << 10);
    assert_int_equal(word(r, fadt + 116, 1), 1); /* an I/O port of 8 bits */
    assert_int_equal(word(r, fadt + 117, 1), 8);
    machine_port_write(r->m, (uint16_t)word(r, fadt + 120, 8), 1, word(r, fadt + 128, 1));
    assert_int_equal(machine_end(r->m, NULL), MACHINE_END_RESET);
}

static void the_timers_carry_raises_the_sci(void **state)
{
    struct rig *r = *state;
    const uint64_t half = ((uint64_t)1 << 23) * SECOND_NS / 3579545; /* the top bit changes */
    machine_port_write(r->m, 0x21, 1, 0xfb);                         /* the slave, and of it */
    machine_port_write(r->m, 0xa1, 1, 0xfd);                         /* IRQ 9 */
    machine_set_clock_ns(r->m, half + 1000);
    machine_run_timers(r->m);
    assert_int_equal(machine_port_read(r->m, 0x600, 2), 1);
    machine_port_write(r->m, 0x600, 2, 0xfffe);
    assert_int_equal(machine_port_read(r->m, 0x600, 2), 1);
    machine_port_write(r->m, 0x600, 2, 1);
    assert_int_equal(machine_port_read(r->m, 0x600, 2), 0);
    machine_port_write(r->m, 0x602, 2, 0xffff);
    assert_int_equal(machine_port_read(r->m, 0x602, 2), 0x721);
    assert_false(machine_interrupt_pending(r->m));
    machine_set_clock_ns(r->m, 2 * half + 1000);
    machine_run_timers(r->m);
    assert_int_equal(machine_interrupt_acknowledge(r->m), 0x71); /* IRQ 9 */
    machine_port_write(r->m, 0x602, 2, 0);
    machine_port_write(r->m, 0xa0, 1, 0x20);
    machine_port_write(r->m, 0x20, 1, 0x20);
    assert_false(machine_interrupt_pending(r->m));
}

static void pvpanic_marks_the_trace(void **state)
{
    struct rig *r = *state;
    assert_int_equal(machine_port_read(r->m, 0x505, 1), 3);
    machine_port_write(r->m, 0x505, 1, 0xfc);
    assert_int_equal(r->marks, 0);
    machine_port_write(r->m, 0x505, 1, 1);
    assert_int_equal(r->marks, 1);
    assert_non_null(strstr(r->mark, "crash: "));
    machine_port_write(r->m, 0x505, 1, 2);
    assert_int_equal(r->marks, 2);
    assert_non_null(strstr(r->mark, "crash kernel"));
}

/* With ACPICA's compiler as the judge, where it is installed. */
static void the_dsdt_can_be_disassembled(void **state)
{
    struct rig *r = *state;
    char folder[] = "/tmp/dejavm-acpi-XXXXXX", command[256];
    if (system("iasl -v >/dev/null 2>&1") != 0)
        skip();
    assert_non_null(mkdtemp(folder));
    static const char *const names[] = {"DSDT", "FACP", "APIC"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        gpa_t table = i ? find_table(r, names[i]) : word(r, find_table(r, "FACP") + 40, 4);
        uint64_t length = word(r, table + 4, 4);
        char path[64];
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        for (uint64_t at = 0; at < length; at++)
            fputc((int)word(r, table + at, 1), f);
        assert_int_equal(fclose(f), 0);
        /* Disassembled, and the result compiled again: -we makes warnings errors. */
        snprintf(command, sizeof(command), "cd %s && iasl -d %s >log 2>&1 && iasl -we %s.dsl >>log 2>&1",
                 folder, names[i], names[i]);
        if (system(command) != 0)
            fail_msg("iasl does not like the %s: see %s/log", names[i], folder);
    }
    snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(the_rsdp_leads_to_all_tables),
        T(the_madt_describes_the_interrupt_controllers),
        cmocka_unit_test(a_board_without_apics_has_no_madt),
        T(the_dsdt_names_the_devices),
        T(power_off_is_what_the_tables_say),
        T(the_reset_register_is_what_the_tables_say),
        T(the_timers_carry_raises_the_sci),
        T(pvpanic_marks_the_trace),
        T(the_dsdt_can_be_disassembled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

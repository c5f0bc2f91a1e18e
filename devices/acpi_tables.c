/*
 * The tables, one after the other: RSDP, RSDT, XSDT, FACS, DSDT, FADT, MADT. The DSDT has data only, no methods: a PCI bus, a serial
 * port, a clock, pvpanic, and how to power off. PCI interrupts are wired to fixed lines, the same in PIC and in APIC mode.
 */
#include "devices/acpi_tables.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "core/base/buffer.h"
#include "core/machine.h"
#include "devices/aml.h"
#include "devices/pci.h"

#define TABLE_ALIGNMENT 64u         /* the FACS needs it (5.2.10) */
#define CREATOR         0x4d56444au /* "JDVM" */

#define LOCAL_APIC_ADDRESS 0xfee00000u
#define IO_APIC_ADDRESS    0xfec00000u
#define IO_APIC_ID         1
#define PCI_DEVICE_LAST    31u
#define RESET_PORT         0xcf9
#define RESET_VALUE        0x06
#define CMOS_CENTURY       0x32

struct table_header { /* table 5.4 */
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

struct rsdp { /* table 5.3 */
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct facs { /* table 5.12 */
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved[31];
} __attribute__((packed));

struct generic_address { /* table 5.1 */
    uint8_t space, width, offset, access;
    uint64_t address;
} __attribute__((packed));

enum { SPACE_SYSTEM_IO = 1, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

struct fadt { /* table 5.9 */
    struct table_header header;
    uint32_t facs, dsdt;
    uint8_t reserved0, profile;
    uint16_t sci;
    uint32_t smi_command;
    uint8_t acpi_enable, acpi_disable, s4bios, pstate;
    uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
    uint8_t pm1_event_bytes, pm1_control_bytes, pm2_control_bytes, pm_timer_bytes, gpe0_bytes, gpe1_bytes,
        gpe1_base, cstate;
    uint16_t c2_latency, c3_latency, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t boot_flags;
    uint8_t reserved1;
    uint32_t flags;
    struct generic_address reset_register;
    uint8_t reset_value;
    uint16_t arm_boot_flags;
    uint8_t minor_version;
    uint64_t x_facs, x_dsdt;
    struct generic_address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control,
        x_pm_timer, x_gpe0, x_gpe1, sleep_control, sleep_status;
    uint64_t hypervisor;
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "the FADT of ACPI 6");

/*
 * Table 5.10. Without VGA and an 8042 (which is there for its reset line, with nothing plugged in) an operating system does not look
 * for them.
 */
enum boot_flag { BOOT_LEGACY_DEVICES = 0x01, BOOT_NO_VGA = 0x04, BOOT_NO_ASPM = 0x10 };
/* Table 5.9, "Flags". Power and sleep buttons: there are none among the fixed features. */
enum fadt_flag {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_NO_POWER_BUTTON = 1 << 4,
    FADT_NO_SLEEP_BUTTON = 1 << 5,
    FADT_NO_FIXED_RTC = 1 << 6,
    FADT_RESET_REGISTER = 1 << 10,
};

struct madt { /* tables 5.19 to 5.26 */
    struct table_header header;
    uint32_t local_apic, flags;
    struct {
        uint8_t type, length, processor, id;
        uint32_t flags;
    } __attribute__((packed)) processor;
    struct {
        uint8_t type, length, id, reserved;
        uint32_t address, first_interrupt;
    } __attribute__((packed)) io_apic;
    struct {
        uint8_t type, length, bus, source;
        uint32_t interrupt;
        uint16_t flags;
    } __attribute__((packed)) override[2];
    struct {
        uint8_t type, length, processor;
        uint16_t flags;
        uint8_t lint;
    } __attribute__((packed)) nmi;
} __attribute__((packed));

enum madt_entry { MADT_PROCESSOR = 0, MADT_IO_APIC = 1, MADT_OVERRIDE = 2, MADT_NMI = 4 };
enum { MADT_HAS_PIC = 1, PROCESSOR_ENABLED = 1, ALL_PROCESSORS = 0xff };
enum { LEVEL_ACTIVE_HIGH = 0xd }; /* MPS INTI flags, table 5.26 */

/* The area while it is filled. */
struct area {
    struct guest_ram *ram;
    gpa_t next;
    int status;
};

static uint8_t checksum(const void *data, size_t length)
{
    const uint8_t *bytes = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

static gpa_t put(struct area *a, const void *data, size_t length)
{
    gpa_t at = a->next;
    if (!a->status && length > ACPI_AREA_START + ACPI_AREA_BYTES - at)
        a->status = -ENOSPC;
    if (!a->status)
        a->status = ram_write(a->ram, at, data, length);
    a->next = (at + length + (TABLE_ALIGNMENT - 1)) & ~(gpa_t)(TABLE_ALIGNMENT - 1);
    return at;
}

static struct table_header header(const char *signature, size_t length, uint8_t revision)
{
    struct table_header h = {.length = (uint32_t)length,
                             .revision = revision,
                             .oem_revision = 1,
                             .creator = CREATOR,
                             .creator_revision = 1};
    memcpy(h.signature, signature, sizeof(h.signature));
    memcpy(h.oem_id, "DEJAVM", sizeof(h.oem_id));
    memcpy(h.oem_table_id, "DEJAVMPC", sizeof(h.oem_table_id));
    return h;
}

/* A table that begins with its header. */
static gpa_t put_table(struct area *a, void *table, size_t length)
{
    struct table_header *h = table;
    h->checksum = 0;
    h->checksum = checksum(table, length);
    return put(a, table, length);
}

/* ---- DSDT ---- */

static void describe_pci(struct buffer *b)
{
    size_t device = aml_begin_device(b, "PCI0");
    aml_name(b, "_HID");
    aml_eisa_id(b, "PNP0A03");
    aml_name(b, "_UID");
    aml_integer(b, 0);
    aml_name(b, "_CRS");
    size_t resources = aml_begin_resources(b);
    aml_word_bus_number(b, 0, 0);
    aml_io(b, 0xcf8, 8);
    aml_word_io(b, 0, 0xcf7);
    aml_word_io(b, 0xd00, UINT16_MAX);
    aml_dword_memory(b, PCI_WINDOW_START, (uint32_t)(PCI_WINDOW_END - 1));
    aml_end_resources(b, resources);
    /* 6.2.13: device and any function, INTA#, no link device, the line. */
    aml_name(b, "_PRT");
    size_t table = aml_begin_package(b, PCI_DEVICE_LAST);
    for (unsigned number = 1; number <= PCI_DEVICE_LAST; number++) {
        size_t entry = aml_begin_package(b, 4);
        aml_integer(b, number << 16 | 0xffff);
        aml_integer(b, 0);
        aml_integer(b, 0);
        aml_integer(b, pci_line_of_device(number));
        aml_end(b, entry);
    }
    aml_end(b, table);
    aml_end(b, device);
}

/* irq 0: none */
static void describe_isa(struct buffer *b, const char *name, const char *id, uint16_t port, uint8_t ports,
                         unsigned irq)
{
    size_t device = aml_begin_device(b, name);
    aml_name(b, "_HID");
    if (strlen(id) == 7)
        aml_eisa_id(b, id);
    else
        aml_string(b, id);
    aml_name(b, "_UID");
    aml_integer(b, 1);
    aml_name(b, "_CRS");
    size_t resources = aml_begin_resources(b);
    aml_io(b, port, ports);
    if (irq)
        aml_irq(b, irq);
    aml_end_resources(b, resources);
    aml_end(b, device);
}

static void describe_power_off(struct buffer *b)
{
    aml_name(b, "\\_S5_");
    size_t package = aml_begin_package(b, 4);
    aml_integer(b, ACPI_S5_TYPE);
    for (unsigned i = 0; i < 3; i++)
        aml_integer(b, 0);
    aml_end(b, package);
}

static gpa_t put_dsdt(struct area *a)
{
    struct buffer b = {0};
    struct table_header h = header("DSDT", 0, 2);
    buffer_put(&b, &h, sizeof(h));
    size_t scope = aml_begin_scope(&b, "\\_SB_");
    describe_pci(&b);
    describe_isa(&b, "COM1", "PNP0501", 0x3f8, 8, 4);
    describe_isa(&b, "RTC_", "PNP0B00", 0x70, 2, 8);
    describe_isa(&b, "PEVT", "QEMU0001", ACPI_PVPANIC_PORT, 1, 0);
    aml_end(&b, scope);
    describe_power_off(&b);
    gpa_t at = 0;
    if (b.failed) {
        a->status = -ENOMEM;
    } else {
        uint32_t length = (uint32_t)b.length;
        memcpy(b.data + offsetof(struct table_header, length), &length, sizeof(length));
        at = put_table(a, b.data, b.length);
    }
    buffer_free(&b);
    return at;
}

/* ---- the others ---- */

static gpa_t put_facs(struct area *a)
{
    struct facs facs = {.signature = {'F', 'A', 'C', 'S'}, .length = sizeof(facs), .version = 2};
    return put(a, &facs, sizeof(facs));
}

static struct generic_address io_register(uint16_t port, uint8_t bits, uint8_t access)
{
    return (struct generic_address){
        .space = SPACE_SYSTEM_IO, .width = bits, .access = access, .address = port};
}

static gpa_t put_fadt(struct area *a, gpa_t facs, gpa_t dsdt)
{
    struct fadt t = {.header = header("FACP", sizeof(t), 6),
                     .facs = (uint32_t)facs,
                     .dsdt = (uint32_t)dsdt,
                     .sci = ACPI_SCI_IRQ,
                     .pm1a_event = ACPI_PM1_PORT,
                     .pm1a_control = ACPI_PM1_PORT + 4,
                     .pm_timer = ACPI_PM_TMR_PORT,
                     .pm1_event_bytes = 4,
                     .pm1_control_bytes = 2,
                     .pm_timer_bytes = 4,
                     .c2_latency = 0xfff, /* no C2, no C3 */
                     .c3_latency = 0xfff,
                     .century = CMOS_CENTURY,
                     .boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_ASPM,
                     .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON |
                              FADT_NO_FIXED_RTC | FADT_RESET_REGISTER,
                     .reset_register = io_register(RESET_PORT, 8, ACCESS_BYTE),
                     .reset_value = RESET_VALUE,
                     .minor_version = 5,
                     .x_dsdt = dsdt,
                     .x_pm1a_event = io_register(ACPI_PM1_PORT, 32, ACCESS_WORD),
                     .x_pm1a_control = io_register(ACPI_PM1_PORT + 4, 16, ACCESS_WORD),
                     .x_pm_timer = io_register(ACPI_PM_TMR_PORT, 32, ACCESS_DWORD)};
    return put_table(a, &t, sizeof(t));
}

static gpa_t put_madt(struct area *a)
{
    struct madt t = {
        .header = header("APIC", sizeof(t), 5),
        .local_apic = LOCAL_APIC_ADDRESS,
        .flags = MADT_HAS_PIC,
        .processor = {.type = MADT_PROCESSOR, .length = sizeof(t.processor), .flags = PROCESSOR_ENABLED},
        .io_apic = {.type = MADT_IO_APIC,
                    .length = sizeof(t.io_apic),
                    .id = IO_APIC_ID,
                    .address = IO_APIC_ADDRESS},
        .override = {{.type = MADT_OVERRIDE, .length = sizeof(t.override[0]), .source = 0, .interrupt = 2},
                     {.type = MADT_OVERRIDE,
                      .length = sizeof(t.override[0]),
                      .source = ACPI_SCI_IRQ,
                      .interrupt = ACPI_SCI_IRQ,
                      .flags = LEVEL_ACTIVE_HIGH}},
        .nmi = {.type = MADT_NMI, .length = sizeof(t.nmi), .processor = ALL_PROCESSORS, .lint = 1}};
    return put_table(a, &t, sizeof(t));
}

static gpa_t put_rsdt(struct area *a, const gpa_t *tables, unsigned count)
{
    struct {
        struct table_header header;
        uint32_t entry[2];
    } __attribute__((packed)) t = {.header = header("RSDT", sizeof(t.header) + count * 4, 1)};
    for (unsigned i = 0; i < count; i++)
        t.entry[i] = (uint32_t)tables[i];
    return put_table(a, &t, t.header.length);
}

static gpa_t put_xsdt(struct area *a, const gpa_t *tables, unsigned count)
{
    struct {
        struct table_header header;
        uint64_t entry[2];
    } __attribute__((packed)) t = {.header = header("XSDT", sizeof(t.header) + count * 8, 1)};
    for (unsigned i = 0; i < count; i++)
        t.entry[i] = tables[i];
    return put_table(a, &t, t.header.length);
}

static void put_rsdp(struct area *a, gpa_t rsdt, gpa_t xsdt)
{
    struct rsdp r = {.revision = 2, .rsdt = (uint32_t)rsdt, .length = sizeof(r), .xsdt = xsdt};
    memcpy(r.signature, "RSD PTR ", sizeof(r.signature));
    memcpy(r.oem_id, "DEJAVM", sizeof(r.oem_id));
    r.checksum = checksum(&r, offsetof(struct rsdp, length));
    r.extended_checksum = checksum(&r, sizeof(r));
    a->next = ACPI_RSDP;
    put(a, &r, sizeof(r));
}

int acpi_tables_write(struct guest_ram *ram, bool apics, struct error *err)
{
    struct area a = {.ram = ram, .next = ACPI_RSDP + TABLE_ALIGNMENT};
    _Static_assert(sizeof(struct rsdp) <= TABLE_ALIGNMENT, "the RSDP is before the tables");
    gpa_t tables[2];
    unsigned count = 0;
    gpa_t facs = put_facs(&a), dsdt = put_dsdt(&a);
    tables[count++] = put_fadt(&a, facs, dsdt);
    if (apics)
        tables[count++] = put_madt(&a);
    gpa_t rsdt = put_rsdt(&a, tables, count), xsdt = put_xsdt(&a, tables, count);
    put_rsdp(&a, rsdt, xsdt);
    return a.status ? error_errno(err, a.status, "writing the ACPI tables") : 0;
}

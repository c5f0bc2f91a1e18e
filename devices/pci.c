/*
 * The PCI bus and its host bridge. Sections are those of the PCI Local Bus Specification 3.0.
 *
 *     port cf8, 4 bytes   31 enable | 23..16 bus | 15..11 device | 10..8 function | 7..2 register
 *     port cf9, 1 byte    reset control (Intel 82371SB data sheet, 2.5.6): 1 -> 0x04 resets
 *     port cfc, 4 bytes   the register
 */
#include "devices/pci.h"
#include "devices/device.h"

#include <errno.h>
#include <string.h>

enum pci_port { PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc };

#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_RESERVED 0x7f000000u
#define ADDRESS_WRITABLE 0xfffffffcu

#define RESET_CONTROL_OFFSET 1
enum reset_control { RESET_HARD = 0x02, RESET_CPU = 0x04, RESET_WRITABLE = 0x0a };

enum config_register {
    CONFIG_VENDOR = 0x00,
    CONFIG_DEVICE = 0x02,
    CONFIG_COMMAND = 0x04,
    CONFIG_STATUS = 0x06,
    CONFIG_REVISION = 0x08, /* the class code in the three bytes after it */
    CONFIG_CACHE_LINE = 0x0c,
    CONFIG_BAR0 = 0x10,
    CONFIG_SUBSYSTEM_VENDOR = 0x2c,
    CONFIG_SUBSYSTEM = 0x2e,
    CONFIG_CAPABILITIES = 0x34,
    CONFIG_INTERRUPT_LINE = 0x3c,
    CONFIG_INTERRUPT_PIN = 0x3d,
    CONFIG_HEADER_END = 0x40,
};

enum command { COMMAND_MEMORY = 0x0002, COMMAND_MASTER = 0x0004, COMMAND_INTERRUPT_DISABLE = 0x0400 };
enum status { STATUS_INTERRUPT = 0x0008, STATUS_CAPABILITIES = 0x0010 };

#define BAR_MIN_BYTES 4096u
#define BAR_MAX_BYTES (16u << 20)

/* 6.8.2: the MSI-X capability, and what its BAR holds. */
#define CAPABILITY_MSIX     0x11
#define MSIX_BAR_BYTES      4096u
#define MSIX_ENTRY_BYTES    16u
#define MSIX_PENDING_OFFSET 0x800u
enum msix_control { MSIX_FUNCTION_MASK = 0x4000, MSIX_ENABLE = 0x8000 };
#define MSIX_VECTOR_MASKED 1u

#define PCI_DEVICES 32u

/* A host bridge without features of its own (Red Hat's). */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define CLASS_BRIDGE  0x060000u

struct msix_entry { /* 6.8.2.6 to 6.8.2.9 */
    uint32_t address_low, address_high, data, control;
};

struct pci_bar {
    uint32_t bytes; /* 0: there is none */
    struct io_range range;
    bool mapped; /* range is the machine's, at range.start */
};

struct pci_function {
    struct pci_bus *bus;
    unsigned number;
    const char *name;
    void *device;
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t writable[PCI_CONFIG_BYTES];
    unsigned capabilities_end; /* where the next capability goes */
    unsigned last_capability;  /* 0: none */
    struct pci_bar bar[PCI_BARS];
    struct pci_config_hook hook;
    bool interrupt; /* what the device wants of INTA# */
    bool asserted;  /* what the bus sees of it */
    unsigned msix;  /* the capability's offset; 0: there is none */
    unsigned vectors;
    struct msix_entry entry[PCI_MSIX_MAX];
    uint64_t pending; /* a bit for each vector */
};

struct pci_bus {
    struct machine *m;
    uint32_t address; /* port cf8 */
    uint8_t reset_control;
    gpa_t next_address;
    struct pci_function *function[PCI_DEVICES];
    unsigned asserted[MACHINE_IRQS]; /* how many functions pull each line */
};

static uint32_t load(const uint8_t *bytes, unsigned size)
{
    uint32_t value = 0;
    memcpy(&value, bytes, size);
    return value;
}

static void store(uint8_t *bytes, unsigned size, uint32_t value)
{
    memcpy(bytes, &value, size);
}

static uint16_t command(const struct pci_function *f)
{
    return (uint16_t)load(f->config + CONFIG_COMMAND, 2);
}

/* ---- interrupts ---- */

unsigned pci_line_of_device(unsigned number)
{
    return number & 1 ? 11 : 10;
}

bool pci_msix_enabled(const struct pci_function *f)
{
    return f->msix && (load(f->config + f->msix + 2, 2) & MSIX_ENABLE);
}

static void update_interrupt(struct pci_function *f)
{
    bool level = f->interrupt && !pci_msix_enabled(f) && !(command(f) & COMMAND_INTERRUPT_DISABLE);
    if (level == f->asserted)
        return;
    unsigned line = pci_line_of_device(f->number), *count = &f->bus->asserted[line];
    f->asserted = level;
    *count = level ? *count + 1 : *count - 1;
    machine_set_irq(f->bus->m, line, *count > 0);
}

void pci_set_interrupt(struct pci_function *f, bool level)
{
    uint16_t status = (uint16_t)load(f->config + CONFIG_STATUS, 2);
    f->interrupt = level;
    status = (uint16_t)(level ? status | STATUS_INTERRUPT : status & ~STATUS_INTERRUPT);
    store(f->config + CONFIG_STATUS, 2, status);
    update_interrupt(f);
}

static bool msix_masked(const struct pci_function *f, unsigned vector)
{
    return (load(f->config + f->msix + 2, 2) & MSIX_FUNCTION_MASK) ||
           (f->entry[vector].control & MSIX_VECTOR_MASKED);
}

void pci_msix_send(struct pci_function *f, unsigned vector)
{
    if (vector >= f->vectors || !pci_msix_enabled(f))
        return;
    if (msix_masked(f, vector)) {
        f->pending |= (uint64_t)1 << vector;
        return;
    }
    /* A message is a write of the function into memory. */
    const struct msix_entry *entry = &f->entry[vector];
    if (pci_may_master(f))
        machine_send_msi(f->bus->m, entry->address_low | (uint64_t)entry->address_high << 32, entry->data);
}

/* Sends what waited for a mask to go away. */
static void msix_update(struct pci_function *f)
{
    if (!pci_msix_enabled(f))
        return;
    for (unsigned i = 0; i < f->vectors && f->pending; i++) {
        uint64_t bit = (uint64_t)1 << i;
        if ((f->pending & bit) && !msix_masked(f, i)) {
            f->pending &= ~bit;
            pci_msix_send(f, i);
        }
    }
}

/* The table may be accessed by aligned 4 and 8 byte accesses only (6.8.2); any other reads zeros and writes nothing. */
static uint64_t msix_read(void *device, uint64_t offset, unsigned size)
{
    const struct pci_function *f = device;
    uint64_t value = 0;
    if ((size != 4 && size != 8) || offset % size)
        return 0;
    if (offset < f->vectors * MSIX_ENTRY_BYTES)
        memcpy(&value, (const uint8_t *)f->entry + offset, size);
    else if (offset >= MSIX_PENDING_OFFSET && offset + size <= MSIX_PENDING_OFFSET + sizeof(f->pending))
        memcpy(&value, (const uint8_t *)&f->pending + (offset - MSIX_PENDING_OFFSET), size);
    return value;
}

static void msix_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_function *f = device;
    if ((size != 4 && size != 8) || offset % size || offset >= f->vectors * MSIX_ENTRY_BYTES)
        return;
    memcpy((uint8_t *)f->entry + offset, &value, size);
    f->entry[offset / MSIX_ENTRY_BYTES].control &= MSIX_VECTOR_MASKED;
    msix_update(f);
}

/* ---- base addresses ---- */

static void unmap_bar(struct pci_function *f, struct pci_bar *bar)
{
    if (bar->mapped)
        machine_remove_mmio(f->bus->m, bar->range.start);
    bar->mapped = false;
}

static gpa_t bar_address(const struct pci_function *f, unsigned bar)
{
    return load(f->config + CONFIG_BAR0 + 4 * bar, 4);
}

/* The function's BARs leave where they do not decode any more. */
static void unmap_bars(struct pci_function *f)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        bool stays = (command(f) & COMMAND_MEMORY) && bar_address(f, i) == f->bar[i].range.start;
        if (!stays)
            unmap_bar(f, &f->bar[i]);
    }
}

/*
 * All BARs that decode and are not in their place yet get it. One that overlaps another, or the interrupt controllers, has none
 * while it does: what a real bus does with two answers is not defined.
 */
static void map_bars(struct pci_bus *bus)
{
    struct error ignored;
    for (unsigned n = 0; n < PCI_DEVICES; n++) {
        struct pci_function *f = bus->function[n];
        if (!f || !(command(f) & COMMAND_MEMORY))
            continue;
        for (unsigned i = 0; i < PCI_BARS; i++) {
            struct pci_bar *bar = &f->bar[i];
            if (!bar->bytes || bar->mapped)
                continue;
            bar->range.start = bar_address(f, i);
            bar->mapped = machine_add_mmio(bus->m, &bar->range, &ignored) == 0;
        }
    }
}

int pci_add_memory_bar(struct pci_function *f, unsigned bar, uint32_t bytes, io_read_fn read,
                       io_write_fn write, struct error *err)
{
    struct pci_bus *bus = f->bus;
    if (bar >= PCI_BARS || f->bar[bar].bytes || bytes < BAR_MIN_BYTES || bytes > BAR_MAX_BYTES ||
        (bytes & (bytes - 1)))
        return error_set(err, -EINVAL, "%s: BAR %u of %u bytes is not possible", f->name, bar, bytes);
    gpa_t start = (bus->next_address + (bytes - 1)) & ~(gpa_t)(bytes - 1);
    if (start > PCI_WINDOW_END - bytes)
        return error_set(err, -ENOSPC, "%s: no room for BAR %u of %u bytes", f->name, bar, bytes);
    bus->next_address = start + bytes;
    f->bar[bar] = (struct pci_bar){.bytes = bytes,
                                   .range = {.start = start,
                                             .length = bytes,
                                             .read = read,
                                             .write = write,
                                             .device = f->device,
                                             .name = f->name}};
    store(f->config + CONFIG_BAR0 + 4 * bar, 4, (uint32_t)start);
    store(f->writable + CONFIG_BAR0 + 4 * bar, 4, ~(bytes - 1));
    return 0;
}

/* ---- capabilities ---- */

int pci_add_capability(struct pci_function *f, uint8_t id, const uint8_t *data, const uint8_t *writable,
                       size_t length, unsigned *offset, struct error *err)
{
    unsigned at = f->capabilities_end;
    if (length > PCI_CONFIG_BYTES - 2 || at + length + 2 > PCI_CONFIG_BYTES)
        return error_set(err, -ENOSPC, "%s: no room for a capability of %zu bytes", f->name, length);
    f->config[at] = id;
    memcpy(f->config + at + 2, data, length);
    if (writable)
        memcpy(f->writable + at + 2, writable, length);
    f->config[f->last_capability ? f->last_capability + 1 : CONFIG_CAPABILITIES] = (uint8_t)at;
    f->config[CONFIG_STATUS] |= STATUS_CAPABILITIES;
    f->last_capability = at;
    f->capabilities_end = (at + 2 + (unsigned)length + 3) & ~3u;
    if (offset)
        *offset = at;
    return 0;
}

int pci_add_msix(struct pci_function *f, unsigned bar, unsigned vectors, struct error *err)
{
    uint8_t data[10] = {0}, writable[10] = {0};
    if (vectors == 0 || vectors > PCI_MSIX_MAX || f->msix)
        return error_set(err, -EINVAL, "%s: %u MSI-X vectors are not possible", f->name, vectors);
    void *device = f->device;
    f->device = f; /* of this BAR */
    int rc = pci_add_memory_bar(f, bar, MSIX_BAR_BYTES, msix_read, msix_write, err);
    f->device = device;
    if (rc)
        return rc;
    store(data, 2, vectors - 1);
    store(writable, 2, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    store(data + 2, 4, bar);
    store(data + 6, 4, MSIX_PENDING_OFFSET | bar);
    unsigned offset;
    rc = pci_add_capability(f, CAPABILITY_MSIX, data, writable, sizeof(data), &offset, err);
    if (rc)
        return rc;
    for (unsigned i = 0; i < vectors; i++)
        f->entry[i].control = MSIX_VECTOR_MASKED;
    f->msix = offset;
    f->vectors = vectors;
    return 0;
}

/* ---- configuration space ---- */

uint32_t pci_config_read(const struct pci_function *f, unsigned offset, unsigned size)
{
    return size <= 4 && offset <= PCI_CONFIG_BYTES - size ? load(f->config + offset, size) : UINT32_MAX;
}

void pci_config_store(struct pci_function *f, unsigned offset, unsigned size, uint32_t value)
{
    if (size <= 4 && offset <= PCI_CONFIG_BYTES - size)
        store(f->config + offset, size, value);
}

void pci_set_config_hook(struct pci_function *f, const struct pci_config_hook *hook)
{
    f->hook = *hook;
}

static bool hooked(const struct pci_function *f, unsigned offset, unsigned size)
{
    return offset < f->hook.offset + f->hook.length && f->hook.offset < offset + size;
}

static uint32_t guest_reads(struct pci_function *f, unsigned offset, unsigned size)
{
    if (f->hook.before_read && hooked(f, offset, size))
        f->hook.before_read(f->device);
    return load(f->config + offset, size);
}

static void guest_writes(struct pci_function *f, unsigned offset, unsigned size, uint32_t value)
{
    uint32_t mask = load(f->writable + offset, size);
    store(f->config + offset, size, (load(f->config + offset, size) & ~mask) | (value & mask));
    if (offset < CONFIG_HEADER_END) {
        unmap_bars(f);
        map_bars(f->bus);
    }
    update_interrupt(f);
    msix_update(f);
    if (f->hook.after_write && hooked(f, offset, size))
        f->hook.after_write(f->device);
}

bool pci_may_master(const struct pci_function *f)
{
    return command(f) & COMMAND_MASTER;
}

struct machine *pci_machine(const struct pci_function *f)
{
    return f->bus->m;
}

/* The function that port cf8 names, or NULL: there is one bus, and one function a device. */
static struct pci_function *addressed(const struct pci_bus *bus)
{
    uint32_t a = bus->address;
    if (!(a & ADDRESS_ENABLE) || (a & ADDRESS_RESERVED) || (a >> 16 & 0xff) || (a >> 8 & 7))
        return NULL;
    return bus->function[a >> 11 & 0x1f];
}

static uint64_t data_read(void *device, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = device;
    struct pci_function *f = addressed(bus);
    return f ? guest_reads(f, (bus->address & 0xfc) + (unsigned)offset, size) : UINT32_MAX;
}

static void data_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = device;
    struct pci_function *f = addressed(bus);
    if (f)
        guest_writes(f, (bus->address & 0xfc) + (unsigned)offset, size, (uint32_t)value);
}

/* Only an access of four bytes is meant for the address register (3.2.2.3.2). */
static uint64_t address_read(void *device, uint64_t offset, unsigned size)
{
    const struct pci_bus *bus = device;
    if (size == 4)
        return bus->address;
    return size == 1 && offset == RESET_CONTROL_OFFSET ? bus->reset_control : UINT32_MAX;
}

static void address_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = device;
    if (size == 4) {
        bus->address = (uint32_t)value & ADDRESS_WRITABLE;
    } else if (size == 1 && offset == RESET_CONTROL_OFFSET) {
        bus->reset_control = (uint8_t)value & RESET_WRITABLE;
        if (value & RESET_CPU)
            machine_request_end(bus->m, MACHINE_END_RESET, 0);
    }
}

/* ---- creation ---- */

static void fill_header(struct pci_function *f, const struct pci_identity *identity)
{
    store(f->config + CONFIG_VENDOR, 2, identity->vendor);
    store(f->config + CONFIG_DEVICE, 2, identity->device);
    store(f->config + CONFIG_REVISION, 4, identity->revision | identity->class_code << 8);
    store(f->config + CONFIG_SUBSYSTEM_VENDOR, 2, identity->subsystem_vendor);
    store(f->config + CONFIG_SUBSYSTEM, 2, identity->subsystem);
    f->writable[CONFIG_CACHE_LINE] = 0xff;
}

static int create(struct pci_bus *bus, const struct pci_identity *identity, const char *name, void *device,
                  struct pci_function **out, struct error *err)
{
    unsigned number = 0;
    while (number < PCI_DEVICES && bus->function[number])
        number++;
    if (number == PCI_DEVICES)
        return error_set(err, -ENOSPC, "%s: the PCI bus is full", name);
    struct pci_function *f = device_create(bus->m, sizeof(*f), name, err);
    if (!f)
        return -ENOMEM;
    f->bus = bus;
    f->number = number;
    f->name = name;
    f->device = device;
    f->capabilities_end = CONFIG_HEADER_END;
    fill_header(f, identity);
    bus->function[number] = f;
    *out = f;
    return 0;
}

int pci_function_create(struct pci_bus *bus, const struct pci_identity *identity, const char *name,
                        void *device, struct pci_function **out, struct error *err)
{
    int rc = create(bus, identity, name, device, out, err);
    if (rc)
        return rc;
    struct pci_function *f = *out;
    store(f->writable + CONFIG_COMMAND, 2, COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTERRUPT_DISABLE);
    f->config[CONFIG_INTERRUPT_PIN] = 1;
    f->config[CONFIG_INTERRUPT_LINE] = (uint8_t)pci_line_of_device(f->number);
    f->writable[CONFIG_INTERRUPT_LINE] = 0xff;
    return 0;
}

int pci_bus_attach(struct machine *m, struct pci_bus **out, struct error *err)
{
    struct pci_function *bridge;
    struct pci_bus *bus = device_create(m, sizeof(*bus), "PCI bus", err);
    if (!bus)
        return -ENOMEM;
    bus->m = m;
    bus->next_address = PCI_WINDOW_START;
    const struct io_range address = {.start = PCI_ADDRESS,
                                     .length = 4,
                                     .read = address_read,
                                     .write = address_write,
                                     .device = bus,
                                     .name = "PCI configuration address"};
    const struct io_range data = {.start = PCI_DATA,
                                  .length = 4,
                                  .read = data_read,
                                  .write = data_write,
                                  .device = bus,
                                  .name = "PCI configuration data"};
    const struct pci_identity identity = {
        .vendor = BRIDGE_VENDOR, .device = BRIDGE_DEVICE, .class_code = CLASS_BRIDGE};
    int rc = machine_add_ports(m, &address, err);
    if (!rc)
        rc = machine_add_ports(m, &data, err);
    if (!rc)
        rc = create(bus, &identity, "PCI host bridge", NULL, &bridge, err);
    *out = bus;
    return rc;
}

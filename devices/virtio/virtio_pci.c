/*
 * Virtio over PCI, virtio 4.1: modern devices only. One memory BAR with a page for each of the four structures, MSI-X in another
 * (where there is a local APIC: Linux warns of what it cannot use), and the capability by which firmware reaches the BAR through
 * configuration space.
 */
#include "devices/virtio/internal.h"

#include <errno.h>
#include <string.h>

#include "devices/device.h"

#define VIRTIO_VENDOR         0x1af4u
#define VIRTIO_DEVICE_BASE    0x1040u /* plus the virtio device ID, virtio 4.1.2.1 */
#define VIRTIO_REVISION       1u
#define VIRTIO_SUBSYSTEM_BASE 0x40u

#define REGISTER_BAR   0u
#define MSIX_BAR       1u
#define REGISTER_BYTES 0x4000u
#define MSIX_NO_VECTOR 0xffffu

/* The pages of the BAR. */
enum page { PAGE_COMMON, PAGE_ISR, PAGE_DEVICE, PAGE_NOTIFY };

#define NOTIFY_OFF_MULTIPLIER 4u

/* struct virtio_pci_common_cfg, virtio 4.1.4.3 */
enum common {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_MSIX_VECTOR = 0x10,
    COMMON_NUM_QUEUES = 0x12,
    COMMON_DEVICE_STATUS = 0x14,
    COMMON_CONFIG_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_MSIX_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_BYTES =
        0x3c, /* with queue_notify_data and queue_reset, which belong to features that are not offered */
};

/* Capabilities, virtio 4.1.4 */
#define PCI_CAP_VENDOR 0x09u
enum cfg_type {
    CFG_COMMON = 1,
    CFG_NOTIFY = 2,
    CFG_ISR = 3,
    CFG_DEVICE = 4,
    CFG_PCI = 5,
};
/* Offsets in a capability, without the two bytes that the bus writes. */
#define CAP_LENGTH      0u
#define CAP_TYPE        1u
#define CAP_BAR         2u
#define CAP_OFFSET      6u
#define CAP_STRUCT_SIZE 10u
#define CAP_BYTES       14u
#define CAP_EXTRA       14u /* notify: multiplier; PCI configuration access: data */
#define CAP_EXTRA_BYTES 4u

#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

struct virtio_pci {
    struct virtio_device *device;
    struct pci_function *function;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint16_t queue_vector[VIRTIO_QUEUES_MAX];
    unsigned queues;
    uint8_t isr;
    unsigned pci_cfg; /* where in configuration space the capability for access to the BAR is */
};

/* ---- interrupts ---- */

static void interrupt(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(p->function)) {
        if (vector != MSIX_NO_VECTOR)
            pci_msix_send(p->function, vector);
        return;
    }
    p->isr |= isr;
    pci_set_interrupt(p->function, true);
}

static void interrupt_queue(void *context, unsigned queue)
{
    struct virtio_pci *p = context;
    interrupt(p, p->queue_vector[queue], ISR_QUEUE);
}

static void interrupt_config(void *context)
{
    struct virtio_pci *p = context;
    interrupt(p, p->config_vector, ISR_CONFIG);
}

static bool may_access_ram(void *context)
{
    struct virtio_pci *p = context;
    return pci_may_master(p->function);
}

/* Reading acknowledges (virtio 4.1.4.5). */
static uint8_t read_isr(struct virtio_pci *p)
{
    uint8_t isr = p->isr;
    p->isr = 0;
    pci_set_interrupt(p->function, false);
    return isr;
}

static void reset(void *context)
{
    struct virtio_pci *p = context;
    p->device_feature_select = p->driver_feature_select = 0;
    p->queue_select = 0;
    p->config_vector = MSIX_NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        p->queue_vector[i] = MSIX_NO_VECTOR;
    read_isr(p);
}

/* ---- the common configuration ---- */

static uint32_t half(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

/* All of it as bytes, so that a driver may read it in any size. Reading changes nothing. */
static void common_image(struct virtio_pci *p, uint8_t *out)
{
    struct virtio_device *d = p->device;
    const struct virtqueue *q = virtio_queue(d, p->queue_select);
    memset(out, 0, COMMON_BYTES);
    virtio_put(out + COMMON_DEVICE_FEATURE_SELECT, 4, p->device_feature_select);
    virtio_put(out + COMMON_DEVICE_FEATURE, 4, half(virtio_offered_features(d), p->device_feature_select));
    virtio_put(out + COMMON_DRIVER_FEATURE_SELECT, 4, p->driver_feature_select);
    virtio_put(out + COMMON_DRIVER_FEATURE, 4, half(d->driver_features, p->driver_feature_select));
    virtio_put(out + COMMON_CONFIG_MSIX_VECTOR, 2, p->config_vector);
    virtio_put(out + COMMON_NUM_QUEUES, 2, p->queues);
    out[COMMON_DEVICE_STATUS] = d->status;
    out[COMMON_CONFIG_GENERATION] = d->config_generation;
    virtio_put(out + COMMON_QUEUE_SELECT, 2, p->queue_select);
    if (!q)
        return;
    virtio_put(out + COMMON_QUEUE_SIZE, 2, q->size);
    virtio_put(out + COMMON_QUEUE_MSIX_VECTOR, 2, p->queue_vector[p->queue_select]);
    virtio_put(out + COMMON_QUEUE_ENABLE, 2, q->enabled);
    virtio_put(out + COMMON_QUEUE_NOTIFY_OFF, 2, p->queue_select);
    virtio_put(out + COMMON_QUEUE_DESC, 8, q->desc);
    virtio_put(out + COMMON_QUEUE_DRIVER, 8, q->avail);
    virtio_put(out + COMMON_QUEUE_DEVICE, 8, q->used);
}

/* A vector that does not exist reads back as none (virtio 4.1.5.1.2.1). */
static uint16_t vector_of(const struct virtio_pci *p, uint64_t value)
{
    return value <= p->queues ? (uint16_t)value : MSIX_NO_VECTOR;
}

static void write_address(gpa_t *address, unsigned offset, unsigned size, uint64_t value)
{
    unsigned shift = offset * 8;
    uint64_t mask = size == 8 ? UINT64_MAX : (uint64_t)UINT32_MAX << shift;
    *address = (*address & ~mask) | (value << shift & mask);
}

/* False: there is nothing that such a write could be for. */
static bool write_queue_field(struct virtio_pci *p, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtqueue *q = virtio_queue(p->device, p->queue_select);
    bool is_address = offset >= COMMON_QUEUE_DESC && offset < COMMON_QUEUE_DEVICE + 8;
    if (is_address ? offset % size || size < 4 : size != 2)
        return false;
    if (!q)
        return true;
    if (offset == COMMON_QUEUE_MSIX_VECTOR) {
        p->queue_vector[p->queue_select] = vector_of(p, value);
        return true;
    }
    if (offset == COMMON_QUEUE_ENABLE) {
        if (value == 1)
            virtio_enable_queue(p->device, p->queue_select);
        return true;
    }
    if (offset != COMMON_QUEUE_SIZE && !is_address)
        return false;
    if (q->enabled) {
        virtio_note(p->device, "queue %u is enabled: its size and addresses cannot be changed",
                    p->queue_select);
        return true;
    }
    if (offset == COMMON_QUEUE_SIZE)
        q->size = (uint16_t)value;
    else if (offset < COMMON_QUEUE_DRIVER)
        write_address(&q->desc, (unsigned)offset - COMMON_QUEUE_DESC, size, value);
    else if (offset < COMMON_QUEUE_DEVICE)
        write_address(&q->avail, (unsigned)offset - COMMON_QUEUE_DRIVER, size, value);
    else
        write_address(&q->used, (unsigned)offset - COMMON_QUEUE_DEVICE, size, value);
    return true;
}

static bool write_common(struct virtio_pci *p, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset == COMMON_DEVICE_FEATURE_SELECT && size == 4)
        p->device_feature_select = (uint32_t)value;
    else if (offset == COMMON_DRIVER_FEATURE_SELECT && size == 4)
        p->driver_feature_select = (uint32_t)value;
    else if (offset == COMMON_DRIVER_FEATURE && size == 4)
        virtio_write_features(p->device, p->driver_feature_select, (uint32_t)value);
    else if (offset == COMMON_CONFIG_MSIX_VECTOR && size == 2)
        p->config_vector = vector_of(p, value);
    else if (offset == COMMON_DEVICE_STATUS && size == 1)
        virtio_write_status(p->device, (uint8_t)value);
    else if (offset == COMMON_QUEUE_SELECT && size == 2)
        p->queue_select = (uint16_t)value;
    else
        return write_queue_field(p, offset, size, value);
    return true;
}

/* ---- the BAR ---- */

static uint64_t bar_read(void *device, uint64_t offset, unsigned size)
{
    struct virtio_pci *p = device;
    uint64_t in_page = offset % PAGE_SIZE_BYTES;
    uint8_t image[COMMON_BYTES + 8] = {0};
    switch (offset / PAGE_SIZE_BYTES) {
    case PAGE_COMMON:
        if (in_page >= COMMON_BYTES)
            return 0;
        common_image(p, image);
        return virtio_get(image + in_page, size);
    case PAGE_ISR:
        return in_page == 0 ? read_isr(p) : 0;
    case PAGE_DEVICE:
        return virtio_config_read(p->device, in_page, size);
    default:
        return 0;
    }
}

static void bar_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *p = device;
    uint64_t in_page = offset % PAGE_SIZE_BYTES;
    switch (offset / PAGE_SIZE_BYTES) {
    case PAGE_COMMON:
        if (!write_common(p, in_page, size, value))
            virtio_note(p->device, "a write of %u bytes at 0x%x of the common configuration is ignored", size,
                        (unsigned)in_page);
        break;
    case PAGE_DEVICE:
        virtio_config_write(p->device, in_page, size, value);
        break;
    case PAGE_NOTIFY: /* the address tells the queue; so does the value */
        virtio_notify(p->device, (unsigned)(in_page / NOTIFY_OFF_MULTIPLIER));
        break;
    default:
        break;
    }
}

/* ---- access to the BAR through configuration space, virtio 4.1.4.9 ---- */

/* What the capability's fields ask for; false: nothing that could be done. */
static bool pci_cfg_target(const struct virtio_pci *p, uint32_t *offset, unsigned *size)
{
    unsigned cap = p->pci_cfg + 2;
    uint32_t bar = pci_config_read(p->function, cap + CAP_BAR, 1);
    *offset = pci_config_read(p->function, cap + CAP_OFFSET, 4);
    *size = pci_config_read(p->function, cap + CAP_STRUCT_SIZE, 4);
    return bar == REGISTER_BAR && (*size == 1 || *size == 2 || *size == 4) && *offset % *size == 0 &&
           *offset < REGISTER_BYTES;
}

static void pci_cfg_before_read(void *device)
{
    struct virtio_pci *p = device;
    uint32_t offset;
    unsigned size;
    if (pci_cfg_target(p, &offset, &size))
        pci_config_store(p->function, p->pci_cfg + 2 + CAP_EXTRA, size, (uint32_t)bar_read(p, offset, size));
}

static void pci_cfg_after_write(void *device)
{
    struct virtio_pci *p = device;
    uint32_t offset;
    unsigned size;
    if (pci_cfg_target(p, &offset, &size))
        bar_write(p, offset, size, pci_config_read(p->function, p->pci_cfg + 2 + CAP_EXTRA, size));
}

/* ---- attaching ---- */

static int add_capability(struct virtio_pci *p, enum cfg_type type, uint32_t offset, uint32_t bytes,
                          unsigned *where, struct error *err)
{
    bool has_extra = type == CFG_NOTIFY || type == CFG_PCI;
    uint8_t data[CAP_BYTES + CAP_EXTRA_BYTES] = {0}, writable[CAP_BYTES + CAP_EXTRA_BYTES] = {0};
    size_t length = has_extra ? sizeof(data) : CAP_BYTES;
    data[CAP_LENGTH] = (uint8_t)(length + 2);
    data[CAP_TYPE] = (uint8_t)type;
    data[CAP_BAR] = REGISTER_BAR;
    virtio_put(data + CAP_OFFSET, 4, offset);
    virtio_put(data + CAP_STRUCT_SIZE, 4, bytes);
    if (type == CFG_NOTIFY)
        virtio_put(data + CAP_EXTRA, 4, NOTIFY_OFF_MULTIPLIER);
    writable[CAP_BAR] = 0xff;
    memset(writable + CAP_OFFSET, 0xff, sizeof(writable) - CAP_OFFSET);
    return pci_add_capability(p->function, PCI_CAP_VENDOR, data, type == CFG_PCI ? writable : NULL, length,
                              where, err);
}

static int add_capabilities(struct virtio_pci *p, const struct virtio_instance *instance, struct error *err)
{
    const struct {
        enum cfg_type type;
        enum page page;
        uint32_t bytes;
    } structures[] = {
        {CFG_COMMON, PAGE_COMMON, COMMON_BYTES},
        {CFG_ISR, PAGE_ISR, 1},
        {CFG_DEVICE, PAGE_DEVICE, instance->config_bytes},
        {CFG_NOTIFY, PAGE_NOTIFY, p->queues * NOTIFY_OFF_MULTIPLIER},
    };
    unsigned where;
    int status = 0;
    for (size_t i = 0; i < ARRAY_LEN(structures) && status == 0; i++)
        if (structures[i].bytes)
            status = add_capability(p, structures[i].type, structures[i].page * (uint32_t)PAGE_SIZE_BYTES,
                                    structures[i].bytes, &where, err);
    if (status == 0)
        status = add_capability(p, CFG_PCI, 0, 0, &p->pci_cfg, err);
    if (status < 0)
        return status;
    const struct pci_config_hook hook = {.offset = p->pci_cfg + 2 + CAP_EXTRA,
                                         .length = CAP_EXTRA_BYTES,
                                         .before_read = pci_cfg_before_read,
                                         .after_write = pci_cfg_after_write};
    pci_set_config_hook(p->function, &hook);
    return 0;
}

int virtio_pci_attach(struct machine *m, struct pci_bus *bus, const struct virtio_instance *instance,
                      struct virtio_device **out, struct error *err)
{
    const struct virtio_type *type = instance->type;
    struct virtio_pci *p = device_create(m, sizeof(*p), type->name, err);
    if (!p)
        return -ENOMEM;
    p->queues = type->queues;
    struct pci_identity identity = {.vendor = VIRTIO_VENDOR,
                                    .device = (uint16_t)(VIRTIO_DEVICE_BASE + type->id),
                                    .subsystem_vendor = VIRTIO_VENDOR,
                                    .subsystem = (uint16_t)(VIRTIO_SUBSYSTEM_BASE + type->id),
                                    .class_code = type->class_code,
                                    .revision = VIRTIO_REVISION};
    struct virtio_transport transport = {.interrupt_queue = interrupt_queue,
                                         .interrupt_config = interrupt_config,
                                         .may_access_ram = may_access_ram,
                                         .reset = reset,
                                         .context = p};
    int status = pci_function_create(bus, &identity, type->name, p, &p->function, err);
    if (status == 0)
        status = virtio_create(&p->device, m, instance, &transport, err);
    if (status == 0)
        status = pci_add_memory_bar(p->function, REGISTER_BAR, REGISTER_BYTES, bar_read, bar_write, err);
    if (status == 0 && machine_takes_msi(m))
        status = pci_add_msix(p->function, MSIX_BAR, type->queues + 1, err);
    if (status == 0)
        status = add_capabilities(p, instance, err);
    if (status < 0)
        return status;
    reset(p);
    *out = p->device;
    return 0;
}

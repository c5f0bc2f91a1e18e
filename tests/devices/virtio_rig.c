#include "tests/devices/virtio_rig.h"

#include <stdio.h>

enum { PCI_COMMAND = 0x04, PCI_BAR0 = 0x10, PCI_CAPABILITIES = 0x34 };

/* ---- the machine ---- */

static void take_print(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct rig *r = context;
    assert_int_equal(channel, CONSOLE_VIRTIO);
    for (size_t i = 0; i < length && r->printed_length < sizeof(r->printed) - 1; i++)
        r->printed[r->printed_length++] = (char)data[i];
}

static void take_mark(void *context, const char *text)
{
    struct rig *r = context;
    assert_in_range(r->mark_count, 0, ARRAY_LEN(r->marks) - 1);
    snprintf(r->marks[r->mark_count++], sizeof(r->marks[0]), "%s", text);
}

static void take_write(void *context, gpa_t gpa, const void *data, size_t length)
{
    struct rig *r = context;
    r->writes++;
    r->written_bytes += length;
    r->last_write = gpa;
    assert_int_equal(ram_write(r->ram, gpa, data, length), 0);
}

static void take_watch(void *context, const struct pollfd *fds, size_t count, void (*ready)(void *device),
                       void *device)
{
    struct rig *r = context;
    assert_in_range(count, 0, MACHINE_WATCH_MAX);
    memcpy(r->watched, fds, count * sizeof(*fds));
    r->watched_count = count;
    r->watch_ready = ready;
    r->watch_device = device;
}

static void set_pin(void *device, unsigned pin, bool level)
{
    ((struct rig *)device)->level[pin] = level;
}

static void take_message(void *device, uint64_t address, uint32_t data)
{
    struct rig *r = device;
    assert_int_equal(address, 0xfee00000u);
    r->messages++;
    r->message_data = data;
}

struct rig *rig_create(void)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct error err;
    assert_non_null(r);
    assert_int_equal(ram_create(&r->ram, RIG_RAM_BYTES, &err), 0);
    struct machine_host host = {.console_output = take_print,
                                .mark = take_mark,
                                .dma_write = take_write,
                                .watch = take_watch,
                                .context = r};
    assert_int_equal(machine_create(&r->m, r->ram, &host, &err), 0);
    machine_set_io_apic(r->m, &(struct io_apic_interface){.set_pin = set_pin, .device = r});
    machine_set_local_apic(r->m, &(struct local_apic_interface){.message = take_message, .device = r});
    assert_int_equal(pci_bus_attach(r->m, &r->bus, &err), 0);
    r->free_ram = 0x100000;
    return r;
}

void rig_destroy(struct rig *r)
{
    machine_destroy(r->m);
    ram_destroy(r->ram);
    free(r);
}

gpa_t rig_alloc(struct rig *r, size_t bytes)
{
    gpa_t gpa = r->free_ram;
    r->free_ram += (bytes + PAGE_MASK) & ~PAGE_MASK;
    assert_true(r->free_ram <= RIG_RAM_BYTES);
    return gpa;
}

void rig_put(struct rig *r, gpa_t gpa, unsigned size, uint64_t value)
{
    assert_int_equal(ram_write(r->ram, gpa, &value, size), 0);
}

uint64_t rig_get(struct rig *r, gpa_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_int_equal(ram_read(r->ram, gpa, &value, size), 0);
    return value;
}

void rig_work(struct rig *r, unsigned rounds)
{
    for (unsigned i = 0; i < rounds && machine_work_waits(r->m); i++)
        machine_run_work(r->m);
}

void rig_wait(struct rig *r, int milliseconds)
{
    if (poll(r->watched, r->watched_count, milliseconds) > 0)
        r->watch_ready(r->watch_device);
    rig_work(r, 4);
}

bool rig_marked(const struct rig *r, const char *part)
{
    for (unsigned i = 0; i < r->mark_count; i++)
        if (strstr(r->marks[i], part))
            return true;
    return false;
}

/* ---- PCI ---- */

uint32_t config_read(struct rig *r, unsigned number, unsigned offset, unsigned size)
{
    machine_port_write(r->m, 0xcf8, 4, 0x80000000u | number << 11 | (offset & 0xfc));
    return (uint32_t)machine_port_read(r->m, (uint16_t)(0xcfc + (offset & 3)), size);
}

void config_write(struct rig *r, unsigned number, unsigned offset, unsigned size, uint32_t value)
{
    machine_port_write(r->m, 0xcf8, 4, 0x80000000u | number << 11 | (offset & 0xfc));
    machine_port_write(r->m, (uint16_t)(0xcfc + (offset & 3)), size, value);
}

/* ---- the driver ---- */

static gpa_t structure(struct vdev *v, unsigned cap)
{
    unsigned bar = config_read(v->r, v->number, cap + 4, 1);
    assert_in_range(bar, 0, 5);
    return (config_read(v->r, v->number, PCI_BAR0 + 4 * bar, 4) & ~0xfu) +
           config_read(v->r, v->number, cap + 8, 4);
}

static void read_capability(struct vdev *v, unsigned cap)
{
    if (config_read(v->r, v->number, cap, 1) == 0x11)
        v->msix = cap;
    if (config_read(v->r, v->number, cap, 1) != 0x09)
        return;
    switch (config_read(v->r, v->number, cap + 3, 1)) {
    case 1:
        v->common = structure(v, cap);
        break;
    case 2:
        v->notify = structure(v, cap);
        v->notify_multiplier = config_read(v->r, v->number, cap + 16, 4);
        break;
    case 3:
        v->isr = structure(v, cap);
        break;
    case 4:
        v->config = structure(v, cap);
        v->config_bytes = config_read(v->r, v->number, cap + 12, 4);
        break;
    case 5:
        v->pci_cfg = cap;
        break;
    default:
        fail_msg("virtio capability of an unknown type");
    }
}

void vdev_find(struct rig *r, unsigned id, struct vdev *out)
{
    *out = (struct vdev){.r = r};
    for (out->number = 1; out->number < 32; out->number++)
        if (config_read(r, out->number, 0, 4) == ((0x1040 + id) << 16 | 0x1af4))
            break;
    assert_in_range(out->number, 1, 31);
    assert_in_range(config_read(r, out->number, 8, 1), 1, 255); /* the revision of a modern device */
    for (unsigned cap = config_read(r, out->number, PCI_CAPABILITIES, 1), i = 0; cap && i < 48; i++) {
        read_capability(out, cap);
        cap = config_read(r, out->number, cap + 1, 1);
    }
    assert_true(out->common && out->notify && out->isr && out->pci_cfg && out->msix);
    config_write(r, out->number, PCI_COMMAND, 2, 0x6);
}

uint64_t vdev_get(struct vdev *v, unsigned offset, unsigned size)
{
    return machine_mmio_read(v->r->m, v->common + offset, size);
}

void vdev_set(struct vdev *v, unsigned offset, unsigned size, uint64_t value)
{
    machine_mmio_write(v->r->m, v->common + offset, size, value);
}

uint64_t vdev_config(struct vdev *v, unsigned offset, unsigned size)
{
    return machine_mmio_read(v->r->m, v->config + offset, size);
}

uint64_t vdev_offered(struct vdev *v)
{
    uint64_t features = 0;
    for (unsigned half = 0; half < 2; half++) {
        vdev_set(v, DEVICE_FEATURE_SELECT, 4, half);
        features |= vdev_get(v, DEVICE_FEATURE, 4) << (32 * half);
    }
    return features;
}

unsigned vdev_negotiate(struct vdev *v, uint64_t features)
{
    vdev_set(v, DEVICE_STATUS, 1, 0);
    vdev_set(v, DEVICE_STATUS, 1, ACKNOWLEDGE);
    vdev_set(v, DEVICE_STATUS, 1, ACKNOWLEDGE | DRIVER);
    for (unsigned half = 0; half < 2; half++) {
        vdev_set(v, DRIVER_FEATURE_SELECT, 4, half);
        vdev_set(v, DRIVER_FEATURE, 4, features >> (32 * half) & 0xffffffff);
    }
    vdev_set(v, DEVICE_STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return (unsigned)vdev_get(v, DEVICE_STATUS, 1);
}

void vdev_driver_ok(struct vdev *v)
{
    vdev_set(v, DEVICE_STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    rig_work(v->r, 8);
}

void vdev_notify(struct vdev *v, unsigned queue)
{
    vdev_set(v, QUEUE_SELECT, 2, queue);
    gpa_t at = v->notify + vdev_get(v, QUEUE_NOTIFY_OFF, 2) * v->notify_multiplier;
    machine_mmio_write(v->r->m, at, 2, queue);
    rig_work(v->r, 8);
}

void vdev_enable_msix(struct vdev *v)
{
    uint32_t table = config_read(v->r, v->number, v->msix + 4, 4);
    unsigned vectors = (config_read(v->r, v->number, v->msix + 2, 2) & 0x7ff) + 1;
    gpa_t at = (config_read(v->r, v->number, PCI_BAR0 + 4 * (table & 7), 4) & ~0xfu) + (table & ~7u);
    for (unsigned i = 0; i < vectors; i++, at += 16) {
        machine_mmio_write(v->r->m, at, 4, 0xfee00000u);
        machine_mmio_write(v->r->m, at + 4, 4, 0);
        machine_mmio_write(v->r->m, at + 8, 4, 0x40 + i);
        machine_mmio_write(v->r->m, at + 12, 4, 0);
    }
    config_write(v->r, v->number, v->msix + 2, 2, 0x8000);
}

/* ---- rings ---- */

void ring_setup(struct vdev *v, unsigned queue, uint16_t size, struct ring *out)
{
    *out = (struct ring){.v = v, .queue = queue, .size = size};
    out->desc = rig_alloc(v->r, (size_t)16 * size);
    out->avail = rig_alloc(v->r, 6 + 2u * size);
    out->used = rig_alloc(v->r, 6 + 8u * size);
    vdev_set(v, QUEUE_SELECT, 2, queue);
    vdev_set(v, QUEUE_SIZE, 2, size);
    const gpa_t areas[] = {out->desc, out->avail, out->used};
    for (unsigned i = 0; i < 3; i++) { /* as 32-bit halves, the only way that virtio 4.1.3.1 promises */
        vdev_set(v, QUEUE_DESC + 8 * i, 4, areas[i] & 0xffffffff);
        vdev_set(v, QUEUE_DESC + 8 * i + 4, 4, areas[i] >> 32);
    }
    vdev_set(v, QUEUE_ENABLE, 2, 1);
}

void ring_desc(struct ring *q, unsigned index, gpa_t gpa, uint32_t length, uint16_t flags, uint16_t next)
{
    gpa_t at = q->desc + (gpa_t)16 * index;
    rig_put(q->v->r, at, 8, gpa);
    rig_put(q->v->r, at + 8, 4, length);
    rig_put(q->v->r, at + 12, 2, flags);
    rig_put(q->v->r, at + 14, 2, next);
}

void ring_offer(struct ring *q, uint16_t head)
{
    rig_put(q->v->r, q->avail + 4 + (gpa_t)2 * (q->offered % q->size), 2, head);
    q->offered++;
    rig_put(q->v->r, q->avail + 2, 2, q->offered);
}

uint16_t ring_add(struct ring *q, const struct buffer_spec *buffers, unsigned count)
{
    uint16_t head = q->next_desc % q->size;
    for (unsigned i = 0; i < count; i++) {
        uint16_t index = q->next_desc++ % q->size;
        unsigned flags = (buffers[i].writable ? D_WRITE : 0u) | (i + 1 < count ? D_NEXT : 0u);
        ring_desc(q, index, buffers[i].gpa, buffers[i].length, (uint16_t)flags,
                  (uint16_t)((index + 1) % q->size));
    }
    ring_offer(q, head);
    return head;
}

bool ring_used(struct ring *q, uint32_t *head, uint32_t *length)
{
    if (rig_get(q->v->r, q->used + 2, 2) == q->seen)
        return false;
    gpa_t at = q->used + 4 + (gpa_t)8 * (q->seen % q->size);
    *head = (uint32_t)rig_get(q->v->r, at, 4);
    *length = (uint32_t)rig_get(q->v->r, at + 4, 4);
    q->seen++;
    return true;
}

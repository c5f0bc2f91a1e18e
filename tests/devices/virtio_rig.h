/*
 * A machine with a PCI bus and virtio devices, and a driver for them: it finds the devices as a guest's does, by configuration space
 * and capabilities, and keeps rings in the machine's RAM.
 */
#ifndef DEJAVM_TESTS_DEVICES_VIRTIO_RIG_H
#define DEJAVM_TESTS_DEVICES_VIRTIO_RIG_H

#include "tests/devices/fixture.h"

#include "devices/pci.h"
#include "devices/virtio/devices.h"
#include "devices/virtio/virtio.h"

#define RIG_RAM_BYTES ((uint64_t)64 << 20)

enum { /* virtio 2.1, 6, 2.7.5 */
       ACKNOWLEDGE = 1,
       DRIVER = 2,
       DRIVER_OK = 4,
       FEATURES_OK = 8,
       NEEDS_RESET = 0x40,
       F_INDIRECT_DESC = 28,
       F_EVENT_IDX = 29,
       F_VERSION_1 = 32,
       D_NEXT = 1,
       D_WRITE = 2,
       D_INDIRECT = 4,
};
#define BIT(n) ((uint64_t)1 << (n))

enum { /* struct virtio_pci_common_cfg */
       DEVICE_FEATURE_SELECT = 0x00,
       DEVICE_FEATURE = 0x04,
       DRIVER_FEATURE_SELECT = 0x08,
       DRIVER_FEATURE = 0x0c,
       CONFIG_MSIX_VECTOR = 0x10,
       NUM_QUEUES = 0x12,
       DEVICE_STATUS = 0x14,
       CONFIG_GENERATION = 0x15,
       QUEUE_SELECT = 0x16,
       QUEUE_SIZE = 0x18,
       QUEUE_MSIX_VECTOR = 0x1a,
       QUEUE_ENABLE = 0x1c,
       QUEUE_NOTIFY_OFF = 0x1e,
       QUEUE_DESC = 0x20,
       QUEUE_DRIVER = 0x28,
       QUEUE_DEVICE = 0x30,
};

struct rig {
    struct machine *m;
    struct guest_ram *ram;
    struct pci_bus *bus;
    char printed[4096];
    size_t printed_length;
    char marks[64][512];
    unsigned mark_count;
    unsigned writes; /* of devices into RAM */
    uint64_t written_bytes;
    gpa_t last_write;
    bool level[MACHINE_IRQS];
    unsigned messages;
    uint32_t message_data; /* of the last one */
    gpa_t free_ram;        /* rig_alloc */
    struct pollfd watched[MACHINE_WATCH_MAX]; /* machine_host.watch */
    size_t watched_count;
    void (*watch_ready)(void *device);
    void *watch_device;
};

struct rig *rig_create(void); /* no devices yet */
void rig_destroy(struct rig *r);
gpa_t rig_alloc(struct rig *r, size_t bytes); /* guest RAM, zeroed, aligned to a page */
void rig_put(struct rig *r, gpa_t gpa, unsigned size, uint64_t value);
uint64_t rig_get(struct rig *r, gpa_t gpa, unsigned size);
/* As a session does it: work that was queued is done, and what it queues again as well, at most rounds times. */
void rig_work(struct rig *r, unsigned rounds);
/* As a session does it: waits until a watched descriptor is ready, at most milliseconds; then the device does its work. */
void rig_wait(struct rig *r, int milliseconds);
bool rig_marked(const struct rig *r, const char *part); /* a mark has this in it */

uint32_t config_read(struct rig *r, unsigned number, unsigned offset, unsigned size);
void config_write(struct rig *r, unsigned number, unsigned offset, unsigned size, uint32_t value);

/* A device as its driver sees it. */
struct vdev {
    struct rig *r;
    unsigned number; /* on the bus */
    gpa_t common, isr, config, notify;
    uint32_t notify_multiplier, config_bytes;
    unsigned pci_cfg; /* offset of that capability */
    unsigned msix;    /* offset of the MSI-X capability */
};
/* Finds the device with that virtio ID and turns on memory decoding and bus mastering. */
void vdev_find(struct rig *r, unsigned id, struct vdev *out);
uint64_t vdev_get(struct vdev *v, unsigned offset, unsigned size); /* common configuration */
void vdev_set(struct vdev *v, unsigned offset, unsigned size, uint64_t value);
uint64_t vdev_config(struct vdev *v, unsigned offset, unsigned size);
uint64_t vdev_offered(struct vdev *v);
/* Up to FEATURES_OK; returns the status as the device has it then. */
unsigned vdev_negotiate(struct vdev *v, uint64_t features);
void vdev_driver_ok(struct vdev *v);
void vdev_notify(struct vdev *v, unsigned queue); /* and the device does its work */
void vdev_enable_msix(struct vdev *v);            /* vector i sends data 0x40 + i */

struct ring {
    struct vdev *v;
    unsigned queue;
    uint16_t size;
    gpa_t desc, avail, used;
    uint16_t offered, seen; /* indices */
    uint16_t next_desc;     /* chains take descriptors one after the other, around and around */
};

struct buffer_spec {
    gpa_t gpa;
    uint32_t length;
    bool writable;
};

void ring_setup(struct vdev *v, unsigned queue, uint16_t size, struct ring *out); /* and enables the queue */
void ring_desc(struct ring *q, unsigned index, gpa_t gpa, uint32_t length, uint16_t flags, uint16_t next);
void ring_offer(struct ring *q, uint16_t head); /* puts it into the available ring */
/* Makes a chain of descriptors, and offers it; returns its head. */
uint16_t ring_add(struct ring *q, const struct buffer_spec *buffers, unsigned count);
/* The next used element: true, and which chain with what length. */
bool ring_used(struct ring *q, uint32_t *head, uint32_t *length);

#endif

/*
 * A virtio device without its bus. Private to this folder.
 *
 *   virtio.c       status, features, configuration, when the type's functions are called
 *   virtqueue.c    the rings: takes requests from RAM, checks them, gives them back
 *   virtio_pci.c   the PCI transport: its registers are made of what this header offers
 */
#ifndef DEJAVM_DEVICES_VIRTIO_INTERNAL_H
#define DEJAVM_DEVICES_VIRTIO_INTERNAL_H

#include "devices/virtio/virtio.h"

/* Device status, virtio 2.1 */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01u
#define VIRTIO_STATUS_DRIVER      0x02u
#define VIRTIO_STATUS_DRIVER_OK   0x04u
#define VIRTIO_STATUS_FEATURES_OK 0x08u
#define VIRTIO_STATUS_NEEDS_RESET 0x40u
#define VIRTIO_STATUS_FAILED      0x80u

/* Feature bits that are not a device type's, virtio 6 */
#define VIRTIO_F_INDIRECT_DESC 28u
#define VIRTIO_F_EVENT_IDX     29u
#define VIRTIO_F_VERSION_1     32u

/* What the device asks of its bus. */
struct virtio_transport {
    void (*interrupt_queue)(void *context, unsigned queue); /* buffers of the queue were used */
    void (*interrupt_config)(void *context);
    bool (*may_access_ram)(void *context); /* PCI: Bus Master Enable */
    void (*reset)(void *context);          /* the driver resets the device */
    void *context;
};

struct virtq_used_elem { /* virtio 2.7.8; as it lies in RAM */
    uint32_t id;
    uint32_t length;
};

struct virtqueue {
    /* What the driver wrote; fixed once it is enabled. */
    uint16_t size;
    bool enabled;
    gpa_t desc, avail, used; /* Descriptor Area, Driver Area, Device Area */

    bool notified;
    unsigned budget; /* requests that may still be taken in this run of the device's work */
    /* Indices run freely, modulo 2^16. */
    uint16_t next_avail;  /* the next entry to take from the available ring */
    uint16_t next_used;   /* the next entry of the used ring to fill */
    uint16_t published;   /* what the driver has been shown: the used index in RAM */
    bool seen_empty;      /* nothing was left to take: the next notification is wanted */
    uint16_t empty_at;    /* then: next_avail, whatever was put back since */
    uint16_t avail_event; /* in RAM, with VIRTIO_F_EVENT_IDX */
    struct virtq_used_elem
        pending[VIRTIO_QUEUE_SIZE]; /* entries published..next_used-1, by index modulo size */
};

struct virtio_device {
    struct machine *machine;
    struct virtio_instance instance;
    struct virtio_transport transport;
    uint8_t status;
    uint8_t config_generation;
    uint64_t driver_features;
    unsigned notes;
    struct machine_work work;
    struct virtqueue queue[VIRTIO_QUEUES_MAX];
};

/* instance and transport are copied. The machine owns the device. */
int virtio_create(struct virtio_device **out, struct machine *m, const struct virtio_instance *instance,
                  const struct virtio_transport *transport, struct error *err) must_check;

/* ---- for the transport: what its registers do ---- */

uint64_t virtio_offered_features(const struct virtio_device *d);
/* Half 0 or 1 of the features that the driver accepts. Ignored once they are negotiated. */
void virtio_write_features(struct virtio_device *d, unsigned half, uint32_t value);
/* 0 resets. Bits are only ever added; FEATURES_OK is not where the device cannot agree (virtio 2.2.2). */
void virtio_write_status(struct virtio_device *d, uint8_t value);
/* NULL: the device has no such queue. Size and addresses may be changed while it is not enabled. */
struct virtqueue *virtio_queue(struct virtio_device *d, unsigned queue);
/* Checks what the driver has set up, and uses it from now on. */
void virtio_enable_queue(struct virtio_device *d, unsigned queue);
void virtio_notify(struct virtio_device *d, unsigned queue);
/* The device-specific configuration. Zeros beyond its end, where writes are dropped. size: 1, 2, 4 or 8. */
uint64_t virtio_config_read(const struct virtio_device *d, uint64_t offset, unsigned size);
void virtio_config_write(struct virtio_device *d, uint64_t offset, unsigned size, uint64_t value);

/* ---- virtqueue.c ---- */

/* Calls virtio_broken() when the queue that the driver describes cannot be used. */
bool virtqueue_check(struct virtio_device *d, unsigned queue);
/* Shows the driver the buffers used so far, and sends the interrupt if it wants one. */
void virtqueue_flush(struct virtio_device *d, unsigned queue);

/* Little-endian integers in bytes that came from RAM or go there. */
static inline uint64_t virtio_get(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static inline void virtio_put(uint8_t *bytes, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

#endif

/*
 * Virtio 1.2 devices (OASIS "Virtual I/O Device (VIRTIO) Version 1.2") on split virtqueues: what a device type, such as block or
 * network, is written against. Sections cited as "virtio 2.7" are that document's.
 *
 * A device type is a table, struct virtio_type, and functions on its own state. It sees requests as chains of buffers; rings,
 * descriptors, feature negotiation, interrupts and the bus are done for it. All of a device's work is done by its notify function,
 * between two instructions of the guest, the only place where RAM may be written. What it reads from RAM is a copy.
 *
 * A driver that breaks the rules of the rings (loops, addresses without RAM, indices out of range, ...), or that virtio_broken() is
 * called for, has its device stopped with DEVICE_NEEDS_RESET (virtio 2.1.2), and the trace gets a mark that says why. Nothing a
 * driver does makes work unbounded: at most a queue full of requests are handled at a time.
 */
#ifndef DEJAVM_DEVICES_VIRTIO_VIRTIO_H
#define DEJAVM_DEVICES_VIRTIO_VIRTIO_H

#include "core/machine.h"
#include "devices/pci.h"

/* Device IDs, virtio 5. */
enum virtio_id {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_ENTROPY = 4,
    VIRTIO_ID_9P = 9,
};

#define VIRTIO_QUEUE_SIZE   256u /* descriptors, at most; a driver may choose fewer */
#define VIRTIO_QUEUES_MAX   8u
#define VIRTIO_SEGMENTS_MAX 1024u /* of one chain */

struct virtio_device;

struct virtio_type {
    const char *name;    /* "virtio-blk": in messages and marks */
    enum virtio_id id;   /* the PCI device ID is 0x1040 + id */
    uint32_t class_code; /* PCI: class, subclass, programming interface */
    unsigned queues;     /* 1..VIRTIO_QUEUES_MAX */
    /*
     * Requests wait in that queue: see to them, virtqueue_pop() until it returns 0 or nothing more can be done. Called when the
     * driver notified the queue, when it set DRIVER_OK, and after virtio_schedule(). RAM may be written; used buffers are shown to the
     * driver, and the interrupt is sent, when it returns.
     */
    void (*notify)(void *device, unsigned queue);
    /* The driver reset the device: requests that were taken and not given back are gone. NULL: nothing to forget. */
    void (*reset)(void *device);
    /*
     * The driver wrote size (1, 2, 4 or 8) bytes at offset of the device-specific configuration; the range lies within it. The type
     * stores what is to be stored. NULL: it is read-only.
     */
    void (*config_written)(void *device, unsigned offset, unsigned size, uint64_t value);
};

/* What an instance of a type is created with. */
struct virtio_instance {
    const struct virtio_type *type; /* lives as long as the device */
    void *device;                   /* handed to the type's functions */
    uint64_t features; /* offered beyond those of the rings and VERSION_1: bits 0..23 and 50..63, virtio 6 */
    /*
     * The device-specific configuration, little-endian, of config_bytes (0 to 256). It is the type's and may be changed at any time:
     * followed by virtio_config_changed() if the driver is to know. Lives as long as the device.
     */
    const uint8_t *config;
    unsigned config_bytes;
};

/* Puts the device on the bus. The machine owns it. */
int virtio_pci_attach(struct machine *m, struct pci_bus *bus, const struct virtio_instance *instance,
                      struct virtio_device **out, struct error *err) must_check;

struct machine *virtio_machine(const struct virtio_device *d);

/* The driver has set DRIVER_OK, and neither reset nor broken the device since. */
bool virtio_running(const struct virtio_device *d);

/* True when the driver accepted the feature of that bit number. Only while it is running. */
bool virtio_has_feature(const struct virtio_device *d, unsigned bit);

/* Has notify() called for the queue soon, as if the driver had notified it: something arrived from outside. At any time. */
void virtio_schedule(struct virtio_device *d, unsigned queue);

/* The configuration has changed: the driver is told by an interrupt (virtio 2.5). At any time. */
void virtio_config_changed(struct virtio_device *d);

/*
 * The driver did what the device cannot go on with: sets DEVICE_NEEDS_RESET, and marks the trace with the device's name and the
 * text, "virtio-blk: request without a status byte". Until the driver resets the device nothing of it works, virtqueue_pop()
 * returns 0, and pushes are dropped.
 */
void virtio_broken(struct virtio_device *d, const char *format, ...) format_printf(2, 3);
/* Marks the trace only, for what a driver's author would want to know. There are at most a few dozen of both from one device. */
void virtio_note(struct virtio_device *d, const char *format, ...) format_printf(2, 3);

/* ---- requests ---- */

struct virtio_segment {
    gpa_t gpa;
    uint32_t length; /* not 0 */
};

/*
 * A descriptor chain (virtio 2.7.5), checked: all of it is RAM, and what the device reads comes before what it writes. Adjacent
 * buffers are joined. Each of the two sums is less than 2^32.
 */
struct virtio_chain {
    uint16_t head;
    unsigned readable_count, writable_count; /* segments */
    uint32_t readable_bytes, writable_bytes;
    struct virtio_segment segment[VIRTIO_SEGMENTS_MAX]; /* the readable ones first */
};

/*
 * Takes the next request. 0: there is none (now; later notify is called again), or the device is not running, or the driver broke it
 * just now. 1: there is, in out. Only from notify().
 */
int virtqueue_pop(struct virtio_device *d, unsigned queue, struct virtio_chain *out);

/* Puts the last count requests back that were popped, in one notify(), with no push in between. */
void virtqueue_unpop(struct virtio_device *d, unsigned queue, unsigned count);

/* Copies out of what the chain has to read, from byte offset on. Returns how many bytes there were: less than length at its end. */
size_t virtio_chain_read(struct virtio_device *d, const struct virtio_chain *c, uint32_t offset, void *out,
                         size_t length);

/*
 * Copies into what the chain has to write, from byte offset on; length beyond its end is cut. Returns how many bytes were written.
 * Each call is at least one event of the trace, one more for each border between segments: better few large ones. Only from
 * notify().
 */
size_t virtio_chain_write(struct virtio_device *d, const struct virtio_chain *c, uint32_t offset,
                          const void *data, size_t length);

/*
 * The request is done: gives it back, with the number of bytes written from the start of its writable part (virtio 2.7.8). Requests
 * may be given back in any order. Only from notify().
 */
void virtqueue_push(struct virtio_device *d, unsigned queue, const struct virtio_chain *c, uint32_t written);

#endif

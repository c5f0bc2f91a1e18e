#include "devices/virtio/internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/device.h"

#define NOTES_MAX 32u /* marks in the trace; a driver may make a mistake a million times */

#define STATUS_BITS_OF_DRIVER                                                                                \
    (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |                            \
     VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

/* ---- marks ---- */

static void note(struct virtio_device *d, const char *format, va_list arguments)
{
    char text[384];
    if (d->notes >= NOTES_MAX)
        return;
    vsnprintf(text, sizeof(text), format, arguments);
    machine_mark(d->machine, "%s: %s%s", d->instance.type->name, text,
                 ++d->notes == NOTES_MAX ? " (and no more marks of this device)" : "");
}

void virtio_note(struct virtio_device *d, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    note(d, format, arguments);
    va_end(arguments);
}

void virtio_broken(struct virtio_device *d, const char *format, ...)
{
    va_list arguments;
    if (d->status & VIRTIO_STATUS_NEEDS_RESET)
        return;
    va_start(arguments, format);
    note(d, format, arguments);
    va_end(arguments);
    bool was_running = virtio_running(d);
    d->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (was_running) /* virtio 2.1.2 */
        d->transport.interrupt_config(d->transport.context);
}

/* ---- what types ask ---- */

struct machine *virtio_machine(const struct virtio_device *d)
{
    return d->machine;
}

bool virtio_running(const struct virtio_device *d)
{
    return (d->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) == VIRTIO_STATUS_DRIVER_OK;
}

bool virtio_has_feature(const struct virtio_device *d, unsigned bit)
{
    return d->driver_features >> bit & 1;
}

void virtio_config_changed(struct virtio_device *d)
{
    d->config_generation++;
    if (virtio_running(d))
        d->transport.interrupt_config(d->transport.context);
}

/* ---- work ---- */

void virtio_schedule(struct virtio_device *d, unsigned queue)
{
    assert(queue < d->instance.type->queues);
    if (!virtio_running(d) || !d->queue[queue].enabled)
        return;
    d->queue[queue].notified = true;
    machine_queue_work(d->machine, &d->work);
}

void virtio_notify(struct virtio_device *d, unsigned queue)
{
    if (queue < d->instance.type->queues)
        virtio_schedule(d, queue);
}

/* The machine's work: one call of notify for each queue that asked for it. */
static void run_work(void *device)
{
    struct virtio_device *d = device;
    const struct virtio_type *type = d->instance.type;
    if (!virtio_running(d) || !d->transport.may_access_ram(d->transport.context))
        return;
    for (unsigned i = 0; i < type->queues; i++)
        d->queue[i].budget = d->queue[i].size;
    for (unsigned i = 0; i < type->queues; i++) {
        if (!d->queue[i].notified)
            continue;
        d->queue[i].notified = false;
        type->notify(d->instance.device, i);
        for (unsigned j = 0; j < type->queues; j++)
            virtqueue_flush(d, j);
    }
    for (unsigned i = 0; i < type->queues; i++)
        if (d->queue[i].notified)
            machine_queue_work(d->machine, &d->work);
}

/* ---- status and features ---- */

uint64_t virtio_offered_features(const struct virtio_device *d)
{
    return d->instance.features | (uint64_t)1 << VIRTIO_F_INDIRECT_DESC | (uint64_t)1 << VIRTIO_F_EVENT_IDX |
           (uint64_t)1 << VIRTIO_F_VERSION_1;
}

void virtio_write_features(struct virtio_device *d, unsigned half, uint32_t value)
{
    if (half > 1 || d->status & VIRTIO_STATUS_FEATURES_OK)
        return;
    unsigned shift = 32 * half;
    d->driver_features = (d->driver_features & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static bool features_are_acceptable(struct virtio_device *d)
{
    uint64_t unknown = d->driver_features & ~virtio_offered_features(d);
    if (unknown)
        virtio_note(d,
                    "the driver accepts features that are not offered (0x%" PRIx64 "): FEATURES_OK stays 0",
                    unknown);
    else if (!virtio_has_feature(d, VIRTIO_F_VERSION_1))
        virtio_note(d, "the driver does not accept VIRTIO_F_VERSION_1: FEATURES_OK stays 0");
    else
        return true;
    return false;
}

static void reset(struct virtio_device *d)
{
    d->status = 0;
    d->driver_features = 0;
    for (unsigned i = 0; i < d->instance.type->queues; i++)
        d->queue[i] = (struct virtqueue){.size = VIRTIO_QUEUE_SIZE};
    d->transport.reset(d->transport.context);
    if (d->instance.type->reset)
        d->instance.type->reset(d->instance.device);
}

void virtio_write_status(struct virtio_device *d, uint8_t value)
{
    if (value == 0) {
        reset(d);
        return;
    }
    unsigned set = value & STATUS_BITS_OF_DRIVER & ~(unsigned)d->status;
    if (set & VIRTIO_STATUS_FEATURES_OK && !features_are_acceptable(d))
        set &= ~VIRTIO_STATUS_FEATURES_OK;
    if (set & VIRTIO_STATUS_DRIVER_OK && !((d->status | set) & VIRTIO_STATUS_FEATURES_OK)) {
        virtio_note(d, "DRIVER_OK without FEATURES_OK is ignored");
        set &= ~VIRTIO_STATUS_DRIVER_OK;
    }
    d->status = (uint8_t)(d->status | set);
    if (set & VIRTIO_STATUS_DRIVER_OK)
        for (unsigned i = 0; i < d->instance.type->queues; i++)
            virtio_schedule(d, i);
}

struct virtqueue *virtio_queue(struct virtio_device *d, unsigned queue)
{
    return queue < d->instance.type->queues ? &d->queue[queue] : NULL;
}

void virtio_enable_queue(struct virtio_device *d, unsigned queue)
{
    struct virtqueue *q = virtio_queue(d, queue);
    if (q && !q->enabled)
        q->enabled = virtqueue_check(d, queue);
}

/* ---- configuration ---- */

uint64_t virtio_config_read(const struct virtio_device *d, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        if (offset + i < d->instance.config_bytes)
            value |= (uint64_t)d->instance.config[offset + i] << (8 * i);
    return value;
}

void virtio_config_write(struct virtio_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    const struct virtio_type *type = d->instance.type;
    if (type->config_written && offset < d->instance.config_bytes &&
        size <= d->instance.config_bytes - offset)
        type->config_written(d->instance.device, (unsigned)offset, size, value);
}

int virtio_create(struct virtio_device **out, struct machine *m, const struct virtio_instance *instance,
                  const struct virtio_transport *transport, struct error *err)
{
    const struct virtio_type *type = instance->type;
    assert(type->queues >= 1 && type->queues <= VIRTIO_QUEUES_MAX && instance->config_bytes <= 256);
    struct virtio_device *d = device_create(m, sizeof(*d), type->name, err);
    if (!d)
        return -ENOMEM;
    d->machine = m;
    d->instance = *instance;
    d->transport = *transport;
    for (unsigned i = 0; i < type->queues; i++)
        d->queue[i].size = VIRTIO_QUEUE_SIZE;
    machine_work_init(&d->work, run_work, d);
    *out = d;
    return 0;
}

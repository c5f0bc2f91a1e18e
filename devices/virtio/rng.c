/* Entropy device, virtio 5.4. */
#include "devices/virtio/devices.h"

#include <errno.h>

#include "devices/device.h"
#include "devices/virtio/virtio.h"

#define BUFFER_BYTES 4096u /* of one request; a longer one gets less than it has room for, as it may */

struct rng {
    struct virtio_device *virtio;
    struct virtio_chain chain;
};

static void notify(void *device, unsigned queue)
{
    struct rng *r = device;
    uint8_t bytes[BUFFER_BYTES];
    while (virtqueue_pop(r->virtio, queue, &r->chain) > 0) {
        if (r->chain.writable_bytes == 0) { /* virtio 5.4.6.1 */
            virtio_broken(r->virtio, "a request without room for random numbers");
            return;
        }
        size_t length = r->chain.writable_bytes < sizeof(bytes) ? r->chain.writable_bytes : sizeof(bytes);
        machine_entropy(virtio_machine(r->virtio), bytes, length);
        length = virtio_chain_write(r->virtio, &r->chain, 0, bytes, length);
        virtqueue_push(r->virtio, queue, &r->chain, (uint32_t)length);
    }
}

static const struct virtio_type type = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_ENTROPY,
    .class_code = 0x00ff00, /* nothing that has a class */
    .queues = 1,
    .notify = notify,
};

int virtio_rng_attach(struct machine *m, struct pci_bus *bus, struct error *err)
{
    struct rng *r = device_create(m, sizeof(*r), type.name, err);
    if (!r)
        return -ENOMEM;
    struct virtio_instance instance = {.type = &type, .device = r};
    return virtio_pci_attach(m, bus, &instance, &r->virtio, err);
}

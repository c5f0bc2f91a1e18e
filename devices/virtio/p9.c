/* Shared folder: the transport of the 9P protocol, Linux's virtio_9p.h (virtio has the ID; the rest is that driver's). */
#include "devices/virtio/devices.h"

#include <errno.h>
#include <string.h>

#include "devices/device.h"
#include "devices/p9_server.h"
#include "devices/virtio/virtio.h"

#define VIRTIO_9P_MOUNT_TAG 0u /* feature bit: the configuration has a tag */

struct p9_config { /* little-endian, as the host is */
    uint16_t tag_len;
    char tag[BOARD_SHARE_TAG_MAX];
};

struct p9 {
    struct virtio_device *virtio;
    struct p9_server *server;
    struct p9_config config;
    struct virtio_chain chain;
    uint8_t request[P9_MESSAGE_MAX], answer[P9_MESSAGE_MAX];
};

/* A request is what the chain has to read, its answer goes into what it has to write. */
static void notify(void *device, unsigned queue)
{
    struct p9 *p = device;
    const struct virtio_chain *c = &p->chain;
    while (virtqueue_pop(p->virtio, queue, &p->chain)) {
        if (c->readable_bytes > sizeof(p->request) || c->writable_bytes < P9_ANSWER_MIN) {
            virtio_broken(p->virtio, "a request of %u bytes, with room for %u", c->readable_bytes,
                          c->writable_bytes);
            return;
        }
        size_t room = c->writable_bytes < sizeof(p->answer) ? c->writable_bytes : sizeof(p->answer);
        size_t length = virtio_chain_read(p->virtio, c, 0, p->request, c->readable_bytes);
        length = p9_server_answer(p->server, p->request, length, p->answer, room);
        length = virtio_chain_write(p->virtio, c, 0, p->answer, length);
        virtqueue_push(p->virtio, queue, c, (uint32_t)length);
    }
}

static void reset(void *device)
{
    struct p9 *p = device;
    p9_server_reset(p->server);
}

static void destroy(void *device)
{
    struct p9 *p = device;
    p9_server_destroy(p->server);
}

static const struct virtio_type type = {
    .name = "virtio-9p",
    .id = VIRTIO_ID_9P,
    .class_code = 0x018000, /* mass storage, other */
    .queues = 1,
    .notify = notify,
    .reset = reset,
};

int virtio_p9_attach(struct machine *m, struct pci_bus *bus, const struct board_share *share,
                     struct error *err)
{
    size_t tag_length = strlen(share->tag);
    if (tag_length == 0 || tag_length > BOARD_SHARE_TAG_MAX)
        return error_set(err, -EINVAL, "shared folder %s: its tag has %zu characters, not 1 to %d",
                         share->path, tag_length, BOARD_SHARE_TAG_MAX);
    struct p9 *p = device_create(m, sizeof(*p), type.name, err);
    if (!p)
        return -ENOMEM;
    p->config.tag_len = (uint16_t)tag_length;
    memcpy(p->config.tag, share->tag, tag_length);
    struct virtio_instance instance = {.type = &type,
                                       .device = p,
                                       .features = 1u << VIRTIO_9P_MOUNT_TAG,
                                       .config = (const uint8_t *)&p->config,
                                       .config_bytes = (unsigned)(sizeof(p->config.tag_len) + tag_length)};
    int status = p9_server_create(&p->server, share->path, share->read_only, err);
    if (status == 0)
        status = machine_on_destroy(m, destroy, p, err);
    if (status < 0) {
        p9_server_destroy(p->server);
        p->server = NULL;
        return status;
    }
    return virtio_pci_attach(m, bus, &instance, &p->virtio, err);
}

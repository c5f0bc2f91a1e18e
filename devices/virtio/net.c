/* Network card, virtio 5.1: one pair of queues, no offloads, in front of the user-mode network. */
#include "devices/virtio/devices.h"

#include <errno.h>
#include <string.h>

#include "devices/device.h"
#include "devices/net_backend_slirp.h"
#include "devices/virtio/virtio.h"

enum { RECEIVEQ = 0, TRANSMITQ = 1, QUEUES }; /* virtio 5.1.2 */

/* Feature bits, virtio 5.1.3 */
#define VIRTIO_NET_F_MTU       3u
#define VIRTIO_NET_F_MAC       5u
#define VIRTIO_NET_F_MRG_RXBUF 15u
#define VIRTIO_NET_F_STATUS    16u

#define VIRTIO_NET_S_LINK_UP 1u

struct virtio_net_config { /* virtio 5.1.4; little-endian, as the host is */
    uint8_t mac[6];
    uint16_t status;
    uint16_t max_virtqueue_pairs;
    uint16_t mtu;
};
_Static_assert(sizeof(struct virtio_net_config) == 12, "as virtio 5.1.4 has it");

struct virtio_net_hdr { /* virtio 5.1.6 */
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
    uint16_t num_buffers;
};
_Static_assert(sizeof(struct virtio_net_hdr) == 12, "as virtio 5.1.6 has it");

#define PACKET_BYTES (sizeof(struct virtio_net_hdr) + NET_FRAME_BYTES)

struct net {
    struct virtio_device *virtio;
    struct net_slirp *network;
    struct virtio_net_config config;
    struct virtio_chain chain;
    uint8_t packet[PACKET_BYTES];
};

/* ---- from the guest ---- */

static void transmit(struct net *n)
{
    while (virtqueue_pop(n->virtio, TRANSMITQ, &n->chain)) {
        uint32_t length = n->chain.readable_bytes;
        if (length < sizeof(struct virtio_net_hdr))
            virtio_broken(n->virtio, "a packet of %u bytes has no room for its header", length);
        else if (length > PACKET_BYTES)
            virtio_note(n->virtio, "a packet of %u bytes is too long, and dropped", length);
        else if (virtio_chain_read(n->virtio, &n->chain, 0, n->packet, length) == length)
            net_slirp_send(n->network, n->packet + sizeof(struct virtio_net_hdr),
                           length - sizeof(struct virtio_net_hdr));
        virtqueue_push(n->virtio, TRANSMITQ, &n->chain, 0);
    }
}

/* ---- to the guest ---- */

/*
 * How many buffers take length bytes: with VIRTIO_NET_F_MRG_RXBUF a packet may use several. 0: there are not enough now. Leaves the
 * queue as it was.
 */
static unsigned count_buffers(struct net *n, size_t length)
{
    unsigned most = virtio_has_feature(n->virtio, VIRTIO_NET_F_MRG_RXBUF) ? VIRTIO_QUEUE_SIZE : 1;
    unsigned count = 0;
    size_t room = 0;
    while (room < length && count < most && virtqueue_pop(n->virtio, RECEIVEQ, &n->chain)) {
        room += n->chain.writable_bytes;
        count++;
    }
    virtqueue_unpop(n->virtio, RECEIVEQ, count);
    if (room < length && count == most && virtio_running(n->virtio))
        virtio_broken(n->virtio, "%u receive buffers have %zu bytes, too few for a packet of %zu", count,
                      room, length);
    return room < length ? 0 : count;
}

/* Hands the packet over, if there are buffers for it. */
static bool deliver(struct net *n, size_t length)
{
    struct virtio_net_hdr header = {0};
    unsigned count = count_buffers(n, length);
    if (!count)
        return false;
    header.num_buffers = (uint16_t)count;
    memcpy(n->packet, &header, sizeof(header));
    for (size_t done = 0; done < length && virtqueue_pop(n->virtio, RECEIVEQ, &n->chain);) {
        size_t now = virtio_chain_write(n->virtio, &n->chain, 0, n->packet + done, length - done);
        virtqueue_push(n->virtio, RECEIVEQ, &n->chain, (uint32_t)now);
        done += now;
    }
    return true;
}

static void receive(struct net *n)
{
    const uint8_t *frame;
    size_t length;
    while ((length = net_slirp_frame(n->network, &frame)) != 0) {
        memcpy(n->packet + sizeof(struct virtio_net_hdr), frame, length);
        if (!deliver(n, sizeof(struct virtio_net_hdr) + length))
            return;
        net_slirp_frame_taken(n->network);
    }
}

/* What the guest sends is often answered at once, so both queues are seen to each time. */
static void notify(void *device, unsigned queue)
{
    struct net *n = device;
    (void)queue;
    transmit(n);
    receive(n);
    net_slirp_poll(n->network);
    receive(n);
}

/* Called by the network. */
static void ready(void *card)
{
    struct net *n = card;
    virtio_schedule(n->virtio, RECEIVEQ);
}

static void destroy(void *device)
{
    struct net *n = device;
    net_slirp_destroy(n->network);
}

static const struct virtio_type type = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .class_code = 0x020000, /* Ethernet controller */
    .queues = QUEUES,
    .notify = notify,
};

int virtio_net_attach(struct machine *m, struct pci_bus *bus, const struct board_net *net, struct error *err)
{
    struct net *n = device_create(m, sizeof(*n), type.name, err);
    if (!n)
        return -ENOMEM;
    n->config = (struct virtio_net_config){.mac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56},
                                           .status = VIRTIO_NET_S_LINK_UP,
                                           .max_virtqueue_pairs = 1,
                                           .mtu = NET_MTU_BYTES};
    struct virtio_instance instance = {.type = &type,
                                       .device = n,
                                       .features = 1u << VIRTIO_NET_F_MTU | 1u << VIRTIO_NET_F_MAC |
                                                   1u << VIRTIO_NET_F_MRG_RXBUF | 1u << VIRTIO_NET_F_STATUS,
                                       .config = (const uint8_t *)&n->config,
                                       .config_bytes = sizeof(n->config)};
    int status = net_slirp_create(&n->network, m, net, ready, n, err);
    if (status == 0)
        status = machine_on_destroy(m, destroy, n, err);
    if (status < 0) {
        net_slirp_destroy(n->network);
        n->network = NULL;
        return status;
    }
    return virtio_pci_attach(m, bus, &instance, &n->virtio, err);
}

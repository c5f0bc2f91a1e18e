#include "tests/devices/net_guest.h"

#include <time.h>

#define PATIENCE_S 60

struct net_guest *net_guest_create(const char *const *forwards, size_t forward_count, uint64_t features)
{
    struct net_guest *g = calloc(1, sizeof(*g));
    struct board_net net = {.present = true, .forwards = forwards, .forward_count = forward_count};
    struct error err;
    assert_non_null(g);
    g->r = rig_create();
    assert_int_equal(virtio_net_attach(g->r->m, g->r->bus, &net, &err), 0);
    vdev_find(g->r, VIRTIO_ID_NET, &g->v);
    assert_true(vdev_negotiate(&g->v, features | BIT(F_VERSION_1)) & FEATURES_OK);
    ring_setup(&g->v, 0, 256, &g->rx);
    ring_setup(&g->v, 1, 256, &g->tx);
    vdev_driver_ok(&g->v);
    g->tx_buffer = rig_alloc(g->r, HEADER_BYTES + FRAME_MAX);
    rig_work(g->r, 4);
    return g;
}

void net_guest_destroy(struct net_guest *g)
{
    rig_destroy(g->r);
    free(g);
}

void net_guest_offer(struct net_guest *g, unsigned count, uint32_t bytes)
{
    for (unsigned i = 0; i < count; i++)
        ring_add(&g->rx, &(struct buffer_spec){rig_alloc(g->r, bytes), bytes, true}, 1);
    vdev_notify(&g->v, 0);
}

void net_guest_send(struct net_guest *g, const uint8_t *frame, size_t length)
{
    uint32_t head, used;
    assert_true(length <= FRAME_MAX);
    assert_int_equal(ram_write(g->r->ram, g->tx_buffer + HEADER_BYTES, frame, length), 0);
    ring_add(&g->tx, &(struct buffer_spec){g->tx_buffer, (uint32_t)(HEADER_BYTES + length), false}, 1);
    vdev_notify(&g->v, 1);
    assert_true(ring_used(&g->tx, &head, &used));
    g->sent++;
}

bool net_guest_take(struct net_guest *g)
{
    uint32_t head, used;
    g->length = 0;
    for (unsigned i = 0, count = 1; i < count; i++) {
        if (!ring_used(&g->rx, &head, &used)) {
            assert_int_equal(i, 0);
            return false;
        }
        gpa_t gpa = rig_get(g->r, g->rx.desc + 16u * head, 8);
        uint32_t room = (uint32_t)rig_get(g->r, g->rx.desc + 16u * head + 8, 4);
        uint32_t skip = i ? 0 : HEADER_BYTES;
        assert_in_range(used, skip, room);
        if (i == 0)
            g->buffers = count = (unsigned)rig_get(g->r, gpa + 10, 2);
        assert_true(i == count - 1 || used == room);
        assert_true(g->length + used - skip <= FRAME_MAX);
        assert_int_equal(ram_read(g->r->ram, gpa + skip, g->frame + g->length, used - skip), 0);
        g->length += used - skip;
        ring_add(&g->rx, &(struct buffer_spec){gpa, room, true}, 1);
    }
    vdev_notify(&g->v, 0);
    g->received++;
    return true;
}

void net_guest_receive(struct net_guest *g)
{
    time_t start = time(NULL);
    while (!net_guest_take(g)) {
        assert_true(time(NULL) - start < PATIENCE_S);
        rig_wait(g->r, 100);
        machine_set_clock_ns(g->r->m, machine_clock_ns(g->r->m) + 1000000);
        machine_run_timers(g->r->m);
        rig_work(g->r, 4);
    }
}

uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

void put32(uint8_t *p, uint32_t value)
{
    put16(p, value >> 16);
    put16(p + 2, value & 0xffff);
}

/* RFC 1071 */
static uint16_t checksum(const uint8_t *data, size_t length, uint32_t sum)
{
    for (size_t i = 0; i < length; i++)
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

size_t make_ip(uint8_t *frame, unsigned protocol, uint32_t source, uint32_t target, const uint8_t *payload,
               size_t length)
{
    static const uint8_t ethernet[14] = {0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0};
    uint8_t *ip = frame + sizeof(ethernet), *body = ip + 20;
    memcpy(frame, ethernet, sizeof(ethernet));
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, (unsigned)(20 + length));
    ip[8] = 64;
    ip[9] = (uint8_t)protocol;
    put32(ip + 12, source);
    put32(ip + 16, target);
    put16(ip + 10, checksum(ip, 20, 0));
    memcpy(body, payload, length);
    size_t checksum_at = protocol == 6 ? 16 : 6;
    if ((protocol == 6 || protocol == 17) && length > checksum_at + 1) {
        uint32_t pseudo = (source >> 16) + (source & 0xffff) + (target >> 16) + (target & 0xffff) + protocol +
                          (uint32_t)length;
        put16(body + checksum_at, 0);
        put16(body + checksum_at, checksum(body, length, pseudo));
    }
    return sizeof(ethernet) + 20 + length;
}

void tcp_send(struct tcp *t, unsigned flags, const void *data, size_t length)
{
    uint8_t segment[24 + 1460] = {0}, frame[1600];
    size_t header = flags & TCP_SYN ? 24 : 20;
    assert_true(length <= 1460);
    put16(segment, t->port);
    put16(segment + 2, t->peer_port);
    put32(segment + 4, t->next);
    put32(segment + 8, t->expected);
    segment[12] = (uint8_t)(header / 4 << 4);
    segment[13] = (uint8_t)flags;
    put16(segment + 14, t->window);
    if (flags & TCP_SYN)
        put32(segment + 20, 0x02040000u + 1460); /* the largest segment, RFC 9293, 3.7.1 */
    if (length)
        memcpy(segment + header, data, length);
    size_t n = make_ip(frame, 6, GUEST_IP, ROUTER_IP, segment, header + length);
    t->next += (uint32_t)length + (flags & (TCP_SYN | TCP_FIN) ? 1 : 0);
    net_guest_send(t->g, frame, n);
}

static void answer_arp(struct net_guest *g)
{
    uint8_t reply[64] = {0};
    memcpy(reply, g->frame + 6, 6);
    static const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
    memcpy(reply + 6, mac, 6);
    put16(reply + 12, 0x0806);
    memcpy(reply + 14, g->frame + 14, 6);
    put16(reply + 20, 2);
    memcpy(reply + 22, mac, 6);
    put32(reply + 28, GUEST_IP);
    memcpy(reply + 32, g->frame + 22, 10);
    net_guest_send(g, reply, sizeof(reply));
}

unsigned tcp_receive(struct tcp *t, const uint8_t **data, size_t *length)
{
    for (;;) {
        net_guest_receive(t->g);
        const uint8_t *frame = t->g->frame, *ip = frame + 14;
        if (t->g->length >= 42 && get16(frame + 12) == 0x0806 && get32(frame + 38) == GUEST_IP)
            answer_arp(t->g);
        if (t->g->length < 14 + 40 || get16(frame + 12) != 0x0800 || ip[9] != 6)
            continue;
        const uint8_t *segment = ip + 4 * (ip[0] & 15);
        size_t header = 4u * (segment[12] >> 4), total = get16(ip + 2);
        assert_true(14 + total <= t->g->length && 4u * (ip[0] & 15) + header <= total);
        if (get16(segment + 2) != t->port || (t->peer_port && get16(segment) != t->peer_port))
            continue;
        *data = segment + header;
        *length = total - 4u * (ip[0] & 15) - header;
        unsigned flags = segment[13];
        if (flags & TCP_SYN)
            t->expected = get32(segment + 4);
        if (!t->peer_port)
            t->peer_port = get16(segment);
        if (get32(segment + 4) != t->expected || !(*length || flags & (TCP_SYN | TCP_FIN | TCP_RST)))
            continue;
        t->expected += (uint32_t)*length + (flags & (TCP_SYN | TCP_FIN) ? 1 : 0);
        t->peer_finished |= (flags & TCP_FIN) != 0;
        if (*length || flags & TCP_FIN) {
            uint8_t copy[65536];
            memcpy(copy, *data, *length); /* the answer to this may overwrite the frame */
            tcp_send(t, TCP_ACK, NULL, 0);
            memcpy(t->g->frame, copy, *length);
            *data = t->g->frame;
        }
        return flags;
    }
}

void tcp_connect(struct tcp *t, struct net_guest *g, uint16_t port, uint16_t peer_port)
{
    const uint8_t *data;
    size_t length;
    *t = (struct tcp){.g = g, .port = port, .peer_port = peer_port, .next = 1000, .window = 60000};
    tcp_send(t, TCP_SYN, NULL, 0);
    assert_int_equal(tcp_receive(t, &data, &length), TCP_SYN | TCP_ACK);
    tcp_send(t, TCP_ACK, NULL, 0);
}

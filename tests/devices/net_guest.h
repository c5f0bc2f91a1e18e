/* A guest with a virtio network card, for tests: its driver, and as much of TCP/IP as they need. */
#ifndef DEJAVM_TESTS_DEVICES_NET_GUEST_H
#define DEJAVM_TESTS_DEVICES_NET_GUEST_H

#include "tests/devices/virtio_rig.h"

enum { /* virtio 5.1.3 */
       NET_F_MTU = 3,
       NET_F_MAC = 5,
       NET_F_MRG_RXBUF = 15,
       NET_F_STATUS = 16,
};

#define FRAME_MAX    65550u
#define HEADER_BYTES 12u /* struct virtio_net_hdr */

#define GUEST_IP  0x0a00020fu /* 10.0.2.15 */
#define ROUTER_IP 0x0a000202u /* 10.0.2.2 */

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16 };

struct net_guest {
    struct rig *r;
    struct vdev v;
    struct ring rx, tx;
    gpa_t tx_buffer;
    uint8_t frame[FRAME_MAX]; /* the last one received */
    size_t length;
    unsigned buffers;        /* that it used */
    unsigned received, sent; /* frames */
};

/* A machine with the card, its driver running, and no receive buffers yet. */
struct net_guest *net_guest_create(const char *const *forwards, size_t forward_count, uint64_t features);
void net_guest_destroy(struct net_guest *g);
void net_guest_offer(struct net_guest *g, unsigned count, uint32_t bytes); /* receive buffers */

void net_guest_send(struct net_guest *g, const uint8_t *frame, size_t length);
/* Takes the next frame, and offers its buffers again; false: there is none now. */
bool net_guest_take(struct net_guest *g);
/* Waits for it, failing the test when none comes. */
void net_guest_receive(struct net_guest *g);

uint16_t get16(const uint8_t *p);
uint32_t get32(const uint8_t *p);
void put16(uint8_t *p, unsigned value);
void put32(uint8_t *p, uint32_t value);

/* An Ethernet frame with an IPv4 packet of that protocol (6 TCP, 17 UDP) to the router, checksums and all; returns its length. */
size_t make_ip(uint8_t *frame, unsigned protocol, uint32_t source, uint32_t target, const uint8_t *payload,
               size_t length);

/* One connection of the guest's. */
struct tcp {
    struct net_guest *g;
    uint16_t port, peer_port;
    uint32_t next, expected; /* sequence numbers: of our next byte, and of theirs */
    unsigned window;
    bool peer_finished;
};

void tcp_send(struct tcp *t, unsigned flags, const void *data, size_t length);
/*
 * The next segment of this connection (others are skipped) that has data or flags of interest: its data is in *data. Acknowledges
 * what it took. Returns the flags.
 */
unsigned tcp_receive(struct tcp *t, const uint8_t **data, size_t *length);
/* Connects to the router's port. */
void tcp_connect(struct tcp *t, struct net_guest *g, uint16_t port, uint16_t peer_port);

#endif

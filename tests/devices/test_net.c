/* The network card and the network behind it: a guest that speaks TCP/IP, and servers and clients on this host's loopback. */
#include "tests/devices/net_guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_forward.h"

#define FEATURES (BIT(NET_F_MAC) | BIT(NET_F_MRG_RXBUF) | BIT(NET_F_STATUS) | BIT(F_EVENT_IDX))

static int setup(void **state)
{
    struct net_guest *g = net_guest_create(NULL, 0, FEATURES);
    *state = g;
    net_guest_offer(g, 100, 1526);
    return 0;
}

static int teardown(void **state)
{
    net_guest_destroy(*state);
    return 0;
}

/* A listening socket at 127.0.0.1, and its port. */
static int listen_somewhere(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 7 + (i >> 8) * 13);
}

static void arp_for_router(uint8_t request[64])
{
    static const uint8_t start[28] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12,
                                      0x34, 0x56, 8,    6,    0,    1,    8,    0,    6, 4,
                                      0,    1,    0x52, 0x54, 0,    0x12, 0x34, 0x56};
    memset(request, 0, 64);
    memcpy(request, start, sizeof(start));
    put32(request + 28, GUEST_IP);
    put32(request + 38, ROUTER_IP);
}

/* ---- the network's own services ---- */

static void the_router_answers_arp(void **state)
{
    struct net_guest *g = *state;
    uint8_t request[64];
    arp_for_router(request);
    net_guest_send(g, request, sizeof(request));
    net_guest_receive(g);
    assert_int_equal(get16(g->frame + 12), 0x0806);
    assert_int_equal(get16(g->frame + 20), 2);
    assert_int_equal(get32(g->frame + 28), ROUTER_IP);
}

/* RFC 2131: DISCOVER, OFFER */
static void dhcp_offers_an_address(void **state)
{
    struct net_guest *g = *state;
    uint8_t packet[8 + 300] = {0}, frame[400];
    put16(packet, 68);
    put16(packet + 2, 67);
    put16(packet + 4, sizeof(packet));
    uint8_t *bootp = packet + 8;
    bootp[0] = bootp[1] = 1;
    bootp[2] = 6;
    put32(bootp + 4, 0x12345678);
    memcpy(bootp + 28, "\x52\x54\0\x12\x34\x56", 6);
    memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8);
    size_t length = make_ip(frame, 17, 0, 0xffffffff, packet, sizeof(packet));
    memset(frame, 0xff, 6);
    net_guest_send(g, frame, length);
    net_guest_receive(g);
    assert_int_equal(g->frame[14 + 9], 17);
    const uint8_t *answer = g->frame + 14 + 20 + 8;
    assert_int_equal(answer[0], 2);
    assert_int_equal(get32(answer + 4), 0x12345678);
    assert_int_equal(get32(answer + 16), GUEST_IP);
}

static void the_card_says_what_it_is(void **state)
{
    struct net_guest *g = *state;
    assert_int_equal(vdev_config(&g->v, 0, 4), 0x12005452);
    assert_int_equal(vdev_config(&g->v, 4, 2), 0x5634);
    assert_int_equal(vdev_config(&g->v, 6, 2), 1); /* link up */
    assert_int_equal(vdev_config(&g->v, 10, 2), 1500);
}

/* ---- connections ---- */

static void a_guest_downloads_from_the_host(void **state)
{
    enum { BYTES = 300000 };
    struct net_guest *g = *state;
    struct tcp t;
    uint16_t port;
    int listener = listen_somewhere(&port);
    tcp_connect(&t, g, 40000, port);
    int server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    assert_int_equal(fcntl(server, F_SETFL, O_NONBLOCK), 0);
    unsigned writes = g->r->writes, packets = g->received, acknowledgements = g->sent;
    size_t sent = 0, received = 0;
    while (!t.peer_finished) {
        uint8_t block[8192];
        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = pattern(sent + i);
        size_t left = BYTES - sent < sizeof(block) ? BYTES - sent : sizeof(block);
        ssize_t n = left ? write(server, block, left) : 0;
        sent += n > 0 ? (size_t)n : 0;
        if (sent == BYTES && server >= 0) {
            close(server);
            server = -1;
        }
        const uint8_t *data;
        size_t length;
        tcp_receive(&t, &data, &length);
        for (size_t i = 0; i < length; i++)
            assert_int_equal(data[i], pattern(received + i));
        received += length;
    }
    assert_int_equal(received, BYTES);
    packets = g->received - packets;
    acknowledgements = g->sent - acknowledgements;
    writes = g->r->writes - writes;
    /* A packet is one write; each batch, here of one packet, is two for the ring, and one for when to notify again. */
    assert_in_range(packets, BYTES / 1460, 2 * BYTES / 1460);
    assert_in_range(writes, packets, 4 * packets + 3 * acknowledgements);
    close(listener);
}

static void a_guest_uploads_to_the_host(void **state)
{
    enum { BYTES = 100 * 1460 };
    struct net_guest *g = *state;
    struct tcp t;
    uint16_t port;
    int listener = listen_somewhere(&port);
    tcp_connect(&t, g, 40000, port);
    int server = accept(listener, NULL, NULL);
    assert_int_equal(fcntl(server, F_SETFL, O_NONBLOCK), 0);
    size_t received = 0;
    for (size_t sent = 0; sent < BYTES; sent += 1460) {
        uint8_t block[1460], found[4096];
        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = pattern(sent + i);
        tcp_send(&t, TCP_ACK | TCP_PSH, block, sizeof(block));
        while (net_guest_take(g)) /* acknowledgements */
            ;
        for (ssize_t n; (n = read(server, found, sizeof(found))) > 0; received += (size_t)n)
            for (size_t i = 0; i < (size_t)n; i++)
                assert_int_equal(found[i], pattern(received + i));
    }
    tcp_send(&t, TCP_ACK | TCP_FIN, NULL, 0);
    assert_int_equal(fcntl(server, F_SETFL, 0), 0);
    uint8_t rest[4096];
    for (ssize_t n; (n = read(server, rest, sizeof(rest))) != 0; received += (size_t)n)
        assert_true(n > 0);
    assert_int_equal(received, BYTES);
    close(server);
    close(listener);
}

/* A port that nothing listens at just now. */
static uint16_t free_port(void)
{
    uint16_t port;
    close(listen_somewhere(&port));
    return port;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void a_forwarded_port_reaches_the_guest(void **state)
{
    char forward[64], text[8] = "";
    const char *forwards[] = {forward};
    const uint8_t *data;
    size_t length;
    (void)state;
    uint16_t port = free_port();
    snprintf(forward, sizeof(forward), "tcp::%u-:80", port);
    struct net_guest *g = net_guest_create(forwards, 1, FEATURES);
    net_guest_offer(g, 100, 1526);
    int client = connect_to(port);
    struct tcp t = {.g = g, .port = 80, .next = 5000, .window = 60000};
    assert_int_equal(tcp_receive(&t, &data, &length), TCP_SYN);
    tcp_send(&t, TCP_SYN | TCP_ACK, NULL, 0);
    assert_int_equal(write(client, "ping", 4), 4);
    tcp_receive(&t, &data, &length);
    assert_int_equal(length, 4);
    assert_memory_equal(data, "ping", 4);
    tcp_send(&t, TCP_ACK | TCP_PSH, "pong", 4);
    assert_int_equal(read(client, text, sizeof(text)), 4);
    assert_string_equal(text, "pong");
    close(client);
    net_guest_destroy(g);
}

static void a_forwarded_udp_port_reaches_the_guest(void **state)
{
    char forward[64];
    const char *forwards[] = {forward};
    uint8_t request[64];
    (void)state;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(free_port()), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    snprintf(forward, sizeof(forward), "udp::%u-:53", ntohs(address.sin_port));
    struct net_guest *g = net_guest_create(forwards, 1, FEATURES);
    net_guest_offer(g, 100, 1526);
    arp_for_router(request);
    net_guest_send(g, request, sizeof(request)); /* now the router knows the guest's address */
    int client = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(sendto(client, "query", 5, 0, (struct sockaddr *)&address, sizeof(address)), 5);
    do
        net_guest_receive(g);
    while (get16(g->frame + 12) != 0x0800);
    assert_int_equal(g->frame[14 + 9], 17);
    assert_int_equal(get16(g->frame + 34 + 2), 53);
    assert_memory_equal(g->frame + 42, "query", 5);
    close(client);
    net_guest_destroy(g);
}

static void a_port_in_use_is_named(void **state)
{
    char forward[64], message[200];
    const char *forwards[] = {forward};
    struct board_net net = {.present = true, .forwards = forwards, .forward_count = 1};
    struct error err;
    uint16_t port;
    (void)state;
    int listener = listen_somewhere(&port);
    struct rig *r = rig_create();
    snprintf(forward, sizeof(forward), "tcp::%u-:80", port);
    assert_int_equal(virtio_net_attach(r->m, r->bus, &net, &err), -EADDRINUSE);
    snprintf(message, sizeof(message),
             "forwarded port '%s': listen at 127.0.0.1, TCP port %u: Address already in use", forward, port);
    assert_string_equal(err.message, message);
    rig_destroy(r);
    close(listener);
}

static void forwards_are_parsed(void **state)
{
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "'' begins with neither 'tcp:' nor 'udp:'"},
        {"tcp", "'tcp' begins with neither 'tcp:' nor 'udp:'"},
        {"sctp::1-:2", "'sctp::1-:2' begins with neither 'tcp:' nor 'udp:'"},
        {"tcp::80:80", "'tcp::80:80' lacks the '-' between the host's end and the guest's"},
        {"tcp:80-:80", "'tcp:80-:80': the host's end lacks its ':PORT'"},
        {"tcp::80-80", "'tcp::80-80': the guest's end lacks its ':PORT'"},
        {"tcp::0-:80", "'tcp::0-:80': '0' is not a port from 1 to 65535"},
        {"tcp::80-:65536", "'tcp::80-:65536': '65536' is not a port from 1 to 65535"},
        {"tcp::80-:99999999999999999999", "'tcp::80-:99999999999999999999': '99999999999999999999' is not a "
                                          "port from 1 to 65535"},
        {"tcp::80-: 80", "'tcp::80-: 80': ' 80' is not a port from 1 to 65535"},
        {"tcp::-:80", "'tcp::-:80': '' is not a port from 1 to 65535"},
        {"tcp:localhost:80-:80",
         "'tcp:localhost:80-:80': 'localhost' is not an IPv4 address such as 127.0.0.1"},
        {"tcp:1.2.3.4.5.6.7.8.9:80-:80",
         "'tcp:1.2.3.4.5.6.7.8.9:80-:80': '1.2.3.4.5.6.7.8.9' is not an IPv4 address such as 127.0.0.1"},
    };
    struct net_forward f;
    struct error err;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(net_forward_parse(bad[i].text, &f, &err), -EINVAL);
        assert_string_equal(err.message, bad[i].message);
    }
    assert_int_equal(net_forward_parse("udp:0.0.0.0:5353-10.0.2.16:53", &f, &err), 0);
    assert_true(f.udp && f.host_address.s_addr == 0 && f.host_port == 5353);
    assert_true(f.guest_address.s_addr == htonl(0x0a000210) && f.guest_port == 53);
    assert_int_equal(net_forward_parse("tcp::8080-:80", &f, &err), 0);
    assert_true(!f.udp && f.host_address.s_addr == htonl(INADDR_LOOPBACK) && f.host_port == 8080);
    assert_true(f.guest_address.s_addr == 0 && f.guest_port == 80);
}

/* ---- buffers ---- */

static void packets_wait_for_buffers_and_may_use_several(void **state)
{
    (void)state;
    uint8_t request[64];
    struct net_guest *g = net_guest_create(NULL, 0, FEATURES);
    arp_for_router(request);
    for (unsigned i = 0; i < 3; i++)
        net_guest_send(g, request, sizeof(request));
    assert_false(net_guest_take(g));
    net_guest_offer(g, 2, 20); /* together too few for one */
    assert_false(net_guest_take(g));
    net_guest_offer(g, 2, 20);
    assert_true(net_guest_take(g)); /* 12 + 42 or more bytes */
    assert_in_range(g->buffers, 3, 4);
    assert_int_equal(get32(g->frame + 28), ROUTER_IP);
    net_guest_offer(g, 4, 1526);
    assert_true(net_guest_take(g));
    assert_int_equal(get32(g->frame + 28), ROUTER_IP);
    assert_true(net_guest_take(g));
    assert_int_equal(g->buffers, 1);
    assert_false(net_guest_take(g));
    net_guest_destroy(g);
}

static void a_guest_that_takes_nothing_makes_the_network_wait(void **state)
{
    enum { WAIT_BYTES = 65536, DATAGRAM = 1400 };
    (void)state;
    struct net_guest *g = net_guest_create(NULL, 0, FEATURES);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    uint8_t udp[8 + DATAGRAM] = {0}, frame[1600], request[64];
    int server = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(server, (struct sockaddr *)&address, &length), 0);
    arp_for_router(request);
    net_guest_send(g, request, sizeof(request)); /* now the router knows the guest's address, too */
    put16(udp, 7000);
    put16(udp + 2, ntohs(address.sin_port));
    put16(udp + 4, 8 + 1);
    net_guest_send(g, frame, make_ip(frame, 17, GUEST_IP, ROUTER_IP, udp, 8 + 1));
    length = sizeof(address);
    assert_int_equal(recvfrom(server, udp, sizeof(udp), 0, (struct sockaddr *)&address, &length), 1);
    /* The guest offers no buffers. */
    unsigned sent = 0;
    for (; g->r->watched_count; sent++) {
        assert_in_range(sent, 0, 2 * WAIT_BYTES / DATAGRAM);
        assert_int_equal(sendto(server, udp, DATAGRAM, 0, (struct sockaddr *)&address, length), DATAGRAM);
        rig_wait(g->r, 1000);
    }
    assert_in_range(sent, WAIT_BYTES / (DATAGRAM + 42), WAIT_BYTES / DATAGRAM + 5);
    net_guest_offer(g, 8, 1526);
    unsigned took = 0;
    for (; took < sent + 1; took++)
        net_guest_receive(g);
    assert_int_not_equal(g->r->watched_count, 0); /* and it goes on */
    close(server);
    net_guest_destroy(g);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

static void a_guest_cannot_open_sockets_without_end(void **state)
{
    struct net_guest *g = *state;
    struct rlimit limit;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    uint8_t udp[8 + 1] = {0}, frame[100];
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    int server = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(server, (struct sockaddr *)&address, &length), 0);
    unsigned before = open_descriptors();
    put16(udp + 2, ntohs(address.sin_port));
    put16(udp + 4, sizeof(udp));
    for (unsigned i = 0; i < 3000; i++) {
        put16(udp, 10000 + i);
        net_guest_send(g, frame, make_ip(frame, 17, GUEST_IP, ROUTER_IP, udp, sizeof(udp)));
    }
    assert_in_range(open_descriptors() - before, 500, MACHINE_WATCH_MAX);
    close(server);
}

/* ---- drivers that do it wrong ---- */

static void a_receive_buffer_that_is_too_small_breaks_the_card(void **state)
{
    (void)state;
    uint8_t request[64];
    struct net_guest *g = net_guest_create(NULL, 0, 0); /* no merging: one buffer a packet */
    net_guest_offer(g, 4, 30);
    arp_for_router(request);
    assert_int_equal(ram_write(g->r->ram, g->tx_buffer + HEADER_BYTES, request, sizeof(request)), 0);
    ring_add(&g->tx, &(struct buffer_spec){g->tx_buffer, HEADER_BYTES + sizeof(request), false}, 1);
    vdev_notify(&g->v, 1);
    assert_int_equal(vdev_get(&g->v, DEVICE_STATUS, 1) & NEEDS_RESET, NEEDS_RESET);
    assert_true(rig_marked(g->r, "virtio-net: 1 receive buffers have 30 bytes, too few for a packet of"));
    net_guest_destroy(g);
}

static void a_packet_without_a_header_breaks_the_card(void **state)
{
    struct net_guest *g = *state;
    ring_add(&g->tx, &(struct buffer_spec){g->tx_buffer, 11, false}, 1);
    vdev_notify(&g->v, 1);
    assert_int_equal(vdev_get(&g->v, DEVICE_STATUS, 1) & NEEDS_RESET, NEEDS_RESET);
    assert_true(rig_marked(g->r, "virtio-net: a packet of 11 bytes has no room for its header"));
}

static void long_short_and_empty_packets_are_dropped(void **state)
{
    struct net_guest *g = *state;
    static uint8_t frame[FRAME_MAX];
    uint8_t request[64];
    net_guest_send(g, frame, sizeof(frame));
    assert_true(rig_marked(g->r, "virtio-net: a packet of"));
    for (size_t length = 0; length < 60; length++)
        net_guest_send(g, frame, length);
    assert_false(net_guest_take(g));
    arp_for_router(request); /* it works on */
    net_guest_send(g, request, sizeof(request));
    assert_true(net_guest_take(g));
    assert_int_equal(vdev_get(&g->v, DEVICE_STATUS, 1) & NEEDS_RESET, 0);
}

static void a_reset_card_works_again(void **state)
{
    struct net_guest *g = *state;
    uint8_t request[64];
    vdev_set(&g->v, DEVICE_STATUS, 1, 0);
    assert_int_not_equal(vdev_negotiate(&g->v, BIT(F_VERSION_1)) & FEATURES_OK, 0);
    ring_setup(&g->v, 0, 8, &g->rx);
    ring_setup(&g->v, 1, 8, &g->tx);
    vdev_driver_ok(&g->v);
    net_guest_offer(g, 4, 1526);
    arp_for_router(request);
    net_guest_send(g, request, sizeof(request));
    assert_true(net_guest_take(g));
    assert_int_equal(get32(g->frame + 28), ROUTER_IP);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_router_answers_arp),
        TEST(dhcp_offers_an_address),
        TEST(the_card_says_what_it_is),
        TEST(a_guest_downloads_from_the_host),
        TEST(a_guest_uploads_to_the_host),
        cmocka_unit_test(a_forwarded_port_reaches_the_guest),
        cmocka_unit_test(a_forwarded_udp_port_reaches_the_guest),
        cmocka_unit_test(a_port_in_use_is_named),
        cmocka_unit_test(forwards_are_parsed),
        cmocka_unit_test(packets_wait_for_buffers_and_may_use_several),
        cmocka_unit_test(a_guest_that_takes_nothing_makes_the_network_wait),
        TEST(a_guest_cannot_open_sockets_without_end),
        cmocka_unit_test(a_receive_buffer_that_is_too_small_breaks_the_card),
        TEST(a_packet_without_a_header_breaks_the_card),
        TEST(long_short_and_empty_packets_are_dropped),
        TEST(a_reset_card_works_again),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

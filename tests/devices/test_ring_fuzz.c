/*
 * test_ring_fuzz [STEPS [SEED]]: that many steps (default 40000) of drivers out to do harm, on each of the network card and the shared
 * folder. Devices that were broken work again after a reset.
 */
#include "tests/devices/net_guest.h"
#include "tests/devices/p9_fuzz.h"
#include "tests/devices/ring_fuzz.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEPS_OF_A_MACHINE 4000u

static unsigned long steps = 40000;
static uint64_t first_seed = 1;

/* ---- the network card ---- */

/* Ports of this host that the guest may connect to: nothing listens at the second. */
struct network {
    int server[2];
    uint16_t port[2];
    unsigned accepted;
};

static void open_network(struct network *n)
{
    for (unsigned i = 0; i < 2; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof(address);
        n->server[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        assert_int_equal(bind(n->server[i], (struct sockaddr *)&address, sizeof(address)), 0);
        if (i == 0)
            assert_int_equal(listen(n->server[i], 16), 0);
        assert_int_equal(getsockname(n->server[i], (struct sockaddr *)&address, &length), 0);
        n->port[i] = ntohs(address.sin_port);
    }
}

static void serve(struct network *n)
{
    static const uint8_t data[3000];
    int fd = accept(n->server[0], NULL, NULL);
    if (fd < 0)
        return;
    n->accepted++;
    (void)!write(fd, data, sizeof(data));
    close(fd);
}

/* A frame for the router's TCP or UDP, to one of the two ports: whatever becomes of it stays on this host. */
static unsigned make_frame(struct ring_fuzz *f, uint8_t *frame)
{
    const struct network *n = f->context;
    uint8_t payload[1500];
    unsigned protocol = ring_fuzz_below(f, 5) ? 6 : 17, length = 20 + ring_fuzz_below(f, 1400);
    memset(payload, 0, sizeof(payload));
    for (unsigned i = 0; i < 20; i++)
        payload[i] = (uint8_t)ring_fuzz_random(f);
    put16(payload, 40000 + ring_fuzz_below(f, 4));
    put16(payload + 2, n->port[ring_fuzz_below(f, 8) == 0]);
    if (protocol == 6) {
        payload[12] = (uint8_t)((5 + (ring_fuzz_below(f, 4) ? 0 : ring_fuzz_below(f, 11))) << 4);
        if (ring_fuzz_below(f, 2))
            payload[13] = TCP_SYN;
    } else {
        put16(payload + 4, length);
    }
    return (unsigned)make_ip(frame, protocol, GUEST_IP, ROUTER_IP, payload, length);
}

static unsigned fill_packet(struct ring_fuzz *f, gpa_t gpa, unsigned room)
{
    uint8_t packet[HEADER_BYTES + 1600] = {0};
    unsigned length = HEADER_BYTES + make_frame(f, packet + HEADER_BYTES);
    if (ring_fuzz_below(f, 10) == 0) /* its checksum is wrong, or it is no IP */
        packet[ring_fuzz_below(f, length)] ^= (uint8_t)(1u << ring_fuzz_below(f, 8));
    assert_true(length <= room);
    assert_int_equal(ram_write(f->v.r->ram, gpa, packet, length), 0);
    return length;
}

/* The router answers ARP, so all of the card works. */
static void assert_card_works(struct ring_fuzz *f)
{
    struct net_guest g = {.r = f->v.r, .v = f->v};
    uint8_t request[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34,
                           0x56, 8,    6,    0,    1,    8,    0,    6,    4, 0,    1};
    memcpy(request + 22, request + 6, 6);
    put32(request + 28, GUEST_IP);
    put32(request + 38, ROUTER_IP);
    do
        ring_fuzz_restart(f);
    while (f->ring[0].size < 64 || f->ring[1].size < 64);
    g.rx = f->ring[0];
    g.tx = f->ring[1];
    g.tx_buffer = f->area;
    net_guest_offer(&g, 32, 2000);
    net_guest_send(&g, request, sizeof(request));
    do /* others may be waiting */
        net_guest_receive(&g);
    while (get16(g.frame + 12) != 0x0806 || get32(g.frame + 28) != ROUTER_IP);
}

static void drivers_of_the_network_card(void **state)
{
    (void)state;
    unsigned marks = 0, accepted = 0;
    for (unsigned long done = 0; done < steps; done += STEPS_OF_A_MACHINE) {
        struct network network = {0};
        struct rig *r = rig_create();
        struct error err;
        open_network(&network);
        assert_int_equal(virtio_net_attach(r->m, r->bus, &(struct board_net){.present = true}, &err), 0);
        struct ring_fuzz f = {.seed = (first_seed + done) * 0x9e3779b97f4a7c15u + 1,
                              .features = BIT(NET_F_MAC) | BIT(NET_F_MTU) | BIT(NET_F_MRG_RXBUF),
                              .fill = fill_packet,
                              .context = &network};
        vdev_find(r, VIRTIO_ID_NET, &f.v);
        ring_fuzz_start(&f, 2);
        assert_card_works(
            &f); /* and libslirp, which would forget the packets of a guest whose address it never learnt, has it */
        for (unsigned i = 0; i < STEPS_OF_A_MACHINE; i++) {
            ring_fuzz_step(&f);
            marks += r->mark_count;
            if (i % 16 == 0) {
                serve(&network);
                rig_wait(r, 0);
                machine_set_clock_ns(r->m, machine_clock_ns(r->m) + 100000000);
                machine_run_timers(r->m);
            }
        }
        assert_card_works(&f);
        accepted += network.accepted;
        rig_destroy(r);
        close(network.server[0]);
        close(network.server[1]);
    }
    assert_true(marks && accepted); /* mistakes were noticed, and what was right got through */
}

/* ---- the shared folder ---- */

struct folder {
    struct client *client; /* makes requests; its own server sees none of them */
};

static unsigned fill_request(struct ring_fuzz *f, gpa_t gpa, unsigned room)
{
    struct folder *d = f->context;
    p9_fuzz_compose(d->client, &f->seed);
    if (ring_fuzz_below(f, 8) == 0)
        client_compose(d->client, TVERSION, "ds", 65536u, "9P2000.L");
    else if (ring_fuzz_below(f, 8) == 0)
        client_compose(d->client, TATTACH, "ddssd", ROOT, NOFID, "", "", 0u);
    unsigned length = (unsigned)d->client->request_length;
    assert_true(length <= room);
    assert_int_equal(ram_write(f->v.r->ram, gpa, d->client->request, length), 0);
    return length;
}

/* The client's request, and its answer at the return value, of that many bytes. */
static gpa_t ask(struct ring_fuzz *f, uint32_t bytes)
{
    const struct client *c = ((struct folder *)f->context)->client;
    gpa_t answer = f->area + 4096;
    uint32_t head, used;
    assert_int_equal(ram_write(f->v.r->ram, f->area, c->request, c->request_length), 0);
    ring_add(&f->ring[0],
             (struct buffer_spec[]){{f->area, (uint32_t)c->request_length, false}, {answer, 100, true}}, 2);
    vdev_notify(&f->v, 0);
    assert_true(ring_used(&f->ring[0], &head, &used));
    assert_int_equal(used, bytes);
    return answer;
}

static void assert_folder_works(struct ring_fuzz *f)
{
    struct client *c = ((struct folder *)f->context)->client;
    do
        ring_fuzz_restart(f);
    while (f->ring[0].size < 8);
    client_compose(c, TGETATTR, "dq", ROOT, (uint64_t)0); /* with the reset, sessions are over */
    assert_int_equal(rig_get(f->v.r, ask(f, 11) + 7, 4), EPROTO);
    client_compose(c, TVERSION, "ds", 65536u, "9P2000.L");
    gpa_t answer = ask(f, 21);
    assert_int_equal(rig_get(f->v.r, answer + 4, 1), TVERSION + 1);
    assert_int_equal(rig_get(f->v.r, answer + 7, 4), 65536);
}

static void drivers_of_the_shared_folder(void **state)
{
    (void)state;
    unsigned marks = 0;
    for (unsigned long done = 0; done < steps; done += STEPS_OF_A_MACHINE) {
        struct folder folder = {.client = client_create(false)};
        struct board_share share = {.path = folder.client->folder, .tag = "share"};
        struct rig *r = rig_create();
        struct error err;
        assert_int_equal(virtio_p9_attach(r->m, r->bus, &share, &err), 0);
        struct ring_fuzz f = {.seed = (first_seed + done) * 0x9e3779b97f4a7c15u + 1,
                              .features = BIT(0),
                              .fill = fill_request,
                              .context = &folder};
        vdev_find(r, VIRTIO_ID_9P, &f.v);
        assert_int_equal(vdev_config(&f.v, 0, 2), 5);
        assert_int_equal(vdev_config(&f.v, 2, 4), 0x72616873); /* "shar" */
        ring_fuzz_start(&f, 1);
        for (unsigned i = 0; i < STEPS_OF_A_MACHINE; i++) {
            ring_fuzz_step(&f);
            marks += r->mark_count;
        }
        assert_folder_works(&f);
        rig_destroy(r);
        client_destroy(folder.client);
    }
    assert_int_not_equal(marks, 0);
}

static void a_folder_that_is_missing_or_a_bad_tag_is_named(void **state)
{
    (void)state;
    struct rig *r = rig_create();
    struct error err;
    struct board_share missing = {.path = "/nonexistent", .tag = "share"},
                       untagged = {.path = "/tmp", .tag = ""};
    assert_int_equal(virtio_p9_attach(r->m, r->bus, &missing, &err), -ENOENT);
    assert_string_equal(err.message, "shared folder /nonexistent: No such file or directory");
    assert_int_equal(virtio_p9_attach(r->m, r->bus, &untagged, &err), -EINVAL);
    assert_string_equal(err.message, "shared folder /tmp: its tag has 0 characters, not 1 to 64");
    rig_destroy(r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drivers_of_the_network_card),
        cmocka_unit_test(drivers_of_the_shared_folder),
        cmocka_unit_test(a_folder_that_is_missing_or_a_bad_tag_is_named),
    };
    if (argc > 1)
        steps = strtoul(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "devices/net_backend_slirp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "devices/net_forward.h"

#define NS_PER_MS 1000000u

/* From here on the guest cannot open more. Less than can be watched, by what one run of the card's work may open. */
#define SOCKETS_ENOUGH (MACHINE_WATCH_MAX - 256u)

/* Frames that wait for the guest, in bytes: from here on sockets are left alone, and from here on frames are dropped. */
#define WAITING_ENOUGH_BYTES   65536u
#define WAITING_TOO_MUCH_BYTES 1048576u

struct frame {
    struct frame *next;
    size_t length;
    uint8_t bytes[];
};

struct net_slirp {
    struct machine *m;
    void (*ready)(void *card);
    void *card;
    Slirp *slirp;
    struct machine_timer timer; /* libslirp's: retransmissions and the like */
    struct pollfd fds[MACHINE_WATCH_MAX];
    size_t fd_count;
    size_t socket_count;         /* when libslirp was last asked */
    struct frame *first, **last; /* for the guest */
    size_t waiting_bytes;
};

/* ---- what libslirp calls ---- */

static ssize_t frame_for_guest(const void *data, size_t length, void *opaque)
{
    struct net_slirp *s = opaque;
    bool room = s->waiting_bytes < WAITING_TOO_MUCH_BYTES && length > 0 && length <= NET_FRAME_BYTES;
    struct frame *f = room ? malloc(sizeof(*f) + length) : NULL;
    if (f) {
        f->next = NULL;
        f->length = length;
        memcpy(f->bytes, data, length);
        *s->last = f;
        s->last = &f->next;
        s->waiting_bytes += length;
    }
    return (ssize_t)length;
}

static void guest_erred(const char *text, void *opaque)
{
    (void)text; /* the guest's own business: what it sent is dropped */
    (void)opaque;
}

static int64_t clock_ns(void *opaque)
{
    struct net_slirp *s = opaque;
    return (int64_t)machine_clock_ns(s->m);
}

/* Every call into libslirp is followed by net_slirp_poll, which asks for all of its descriptors again. */
static void descriptor_changed(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

static void buffer_has_room(void *opaque)
{
    (void)opaque;
}

/* Only IPv6 uses timers of its own. */
static const SlirpCb callbacks = {
    .send_packet = frame_for_guest,
    .guest_error = guest_erred,
    .clock_get_ns = clock_ns,
    .register_poll_fd = descriptor_changed,
    .unregister_poll_fd = descriptor_changed,
    .notify = buffer_has_room,
};

static const struct {
    int slirp;
    short poll;
} poll_bits[] = {
    {SLIRP_POLL_IN, POLLIN},   {SLIRP_POLL_OUT, POLLOUT}, {SLIRP_POLL_PRI, POLLPRI},
    {SLIRP_POLL_ERR, POLLERR}, {SLIRP_POLL_HUP, POLLHUP},
};

/* Returns the descriptor's index, -1 when there are too many: it has to wait until others are closed. */
static int add_descriptor(int fd, int events, void *opaque)
{
    struct net_slirp *s = opaque;
    if (s->fd_count == ARRAY_LEN(s->fds))
        return -1;
    struct pollfd *p = &s->fds[s->fd_count];
    *p = (struct pollfd){.fd = fd};
    for (size_t i = 0; i < ARRAY_LEN(poll_bits); i++)
        p->events = (short)(p->events | (events & poll_bits[i].slirp ? poll_bits[i].poll : 0));
    return (int)s->fd_count++;
}

static int descriptor_events(int index, void *opaque)
{
    const struct net_slirp *s = opaque;
    int events = 0;
    if (index < 0 || (size_t)index >= s->fd_count)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(poll_bits); i++)
        events |= s->fds[index].revents & poll_bits[i].poll ? poll_bits[i].slirp : 0;
    return events;
}

/* ---- what the card calls ---- */

/* Ethernet, IPv4 and TCP, as far as it takes to see whether libslirp may open a socket for this frame. */
#define ETHERNET_BYTES    14u
#define ETHERTYPE_IPV4    0x0800u
#define IPV4_PROTOCOL     9u
#define IPV4_PROTOCOL_TCP 6u
#define TCP_FLAGS         13u
#define TCP_FLAG_SYN      0x02u

static bool may_open_socket(const uint8_t *frame, size_t length)
{
    if (length <= ETHERNET_BYTES + IPV4_PROTOCOL || (frame[12] << 8 | frame[13]) != ETHERTYPE_IPV4)
        return false;
    if (frame[ETHERNET_BYTES + IPV4_PROTOCOL] != IPV4_PROTOCOL_TCP)
        return true;
    size_t flags = ETHERNET_BYTES + 4u * (frame[ETHERNET_BYTES] & 15u) + TCP_FLAGS;
    return flags < length && frame[flags] & TCP_FLAG_SYN;
}

void net_slirp_send(struct net_slirp *s, const uint8_t *frame, size_t length)
{
    bool full = s->socket_count >= SOCKETS_ENOUGH;
    if (length <= NET_FRAME_BYTES && !(full && may_open_socket(frame, length)))
        slirp_input(s->slirp, frame, (int)length);
}

/* Asks libslirp for its descriptors and its next deadline. */
static void fill(struct net_slirp *s)
{
    uint32_t timeout_ms = UINT32_MAX;
    s->fd_count = 0;
    slirp_pollfds_fill(s->slirp, &timeout_ms, add_descriptor, s);
    s->socket_count = s->fd_count;
    if (s->waiting_bytes >= WAITING_ENOUGH_BYTES)
        s->fd_count = 0;
    if (timeout_ms == UINT32_MAX)
        machine_timer_disarm(s->m, &s->timer);
    else
        machine_timer_arm(s->m, &s->timer, machine_clock_ns(s->m) + (uint64_t)timeout_ms * NS_PER_MS);
}

void net_slirp_poll(struct net_slirp *s)
{
    const struct machine_host *host = machine_host(s->m);
    fill(s);
    int ready = poll(s->fds, s->fd_count, 0);
    slirp_pollfds_poll(s->slirp, ready < 0, descriptor_events, s);
    fill(s);
    if (host->watch)
        host->watch(host->context, s->fds, s->fd_count, s->ready, s->card);
}

size_t net_slirp_frame(const struct net_slirp *s, const uint8_t **frame)
{
    if (!s->first)
        return 0;
    *frame = s->first->bytes;
    return s->first->length;
}

void net_slirp_frame_taken(struct net_slirp *s)
{
    struct frame *f = s->first;
    s->first = f->next;
    if (!s->first)
        s->last = &s->first;
    s->waiting_bytes -= f->length;
    free(f);
}

/* ---- creation ---- */

static void timer_fires(void *device, uint64_t now_ns)
{
    struct net_slirp *s = device;
    (void)now_ns;
    s->ready(s->card);
}

static int add_forward(struct net_slirp *s, const char *text, struct error *err)
{
    struct net_forward f;
    char address[INET_ADDRSTRLEN];
    int status = net_forward_parse(text, &f, err);
    if (status < 0)
        return error_prefix(err, "forwarded port");
    if (slirp_add_hostfwd(s->slirp, f.udp, f.host_address, f.host_port, f.guest_address, f.guest_port) == 0)
        return 0;
    status = errno ? -errno : -EIO;
    inet_ntop(AF_INET, &f.host_address, address, sizeof(address));
    return error_errno(err, status, "forwarded port '%.100s': listen at %s, %s port %u", text, address,
                       f.udp ? "UDP" : "TCP", f.host_port);
}

static Slirp *start_slirp(struct net_slirp *s)
{
    SlirpConfig config = {.version = 1, .in_enabled = true, .if_mtu = NET_MTU_BYTES, .if_mru = NET_MTU_BYTES};
    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    return slirp_new(&config, &callbacks, s);
}

int net_slirp_create(struct net_slirp **out, struct machine *m, const struct board_net *net,
                     void (*ready)(void *card), void *card, struct error *err)
{
    struct net_slirp *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, -ENOMEM, "no memory for the network");
    *s = (struct net_slirp){.m = m, .ready = ready, .card = card, .last = &s->first};
    machine_timer_init(&s->timer, timer_fires, s);
    s->slirp = start_slirp(s);
    int status = s->slirp ? 0 : error_set(err, -ENOMEM, "libslirp does not start");
    for (size_t i = 0; i < net->forward_count && status == 0; i++)
        status = add_forward(s, net->forwards[i], err);
    if (status < 0) {
        net_slirp_destroy(s);
        return status;
    }
    *out = s;
    return 0;
}

void net_slirp_destroy(struct net_slirp *s)
{
    if (!s)
        return;
    machine_timer_disarm(s->m, &s->timer);
    if (s->slirp)
        slirp_cleanup(s->slirp);
    while (s->first)
        net_slirp_frame_taken(s);
    free(s);
}

/*
 * The user-mode network: libslirp plays the router, name server and DHCP server of a network of its own, and makes the guest's
 * connections ordinary sockets of this process. No privileges needed; nothing reaches the guest but answers and forwarded ports.
 *
 *     10.0.2.0/24     10.0.2.2 the host (its loopback), 10.0.2.3 the name server, 10.0.2.15 what DHCP gives the guest
 *
 * Threads: as machine.h. The sockets are watched by the machine's host (machine_host.watch): when one is ready, the card is told,
 * whose work then calls net_slirp_poll. SIGPIPE has to be ignored by the process.
 */
#ifndef DEJAVM_DEVICES_NET_BACKEND_SLIRP_H
#define DEJAVM_DEVICES_NET_BACKEND_SLIRP_H

#include "core/machine.h"
#include "devices/devices.h"

/* An Ethernet frame without checksum: 14 bytes of header, and up to NET_MTU_BYTES. */
#define NET_MTU_BYTES   1500u
#define NET_FRAME_BYTES (NET_MTU_BYTES + 14)

struct net_slirp;

/*
 * net's forwards are listened at from now on; -EADDRINUSE and others name the one that failed. ready(card) is called whenever
 * net_slirp_poll has something to do.
 */
int net_slirp_create(struct net_slirp **out, struct machine *m, const struct board_net *net,
                     void (*ready)(void *card), void *card, struct error *err) must_check;
void net_slirp_destroy(struct net_slirp *s); /* closes all connections; NULL is fine */

/*
 * A frame that the guest sent, of any content; dropped when it is too long, or may open a socket and there are hundreds already. To be
 * called from work, and net_slirp_poll after the last.
 */
void net_slirp_send(struct net_slirp *s, const uint8_t *frame, size_t length);

/* Looks at the sockets and timers. To be called from work whenever that runs. */
void net_slirp_poll(struct net_slirp *s);

/*
 * The first of the frames that wait for the guest: its length, 0 for none. It is valid until net_slirp_frame_taken. While many wait,
 * sockets are left alone; when too many do, frames are dropped, as a network may.
 */
size_t net_slirp_frame(const struct net_slirp *s, const uint8_t **frame);
void net_slirp_frame_taken(struct net_slirp *s);

#endif

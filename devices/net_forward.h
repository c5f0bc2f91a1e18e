/* Forwarded ports of the user-mode network, as they are written on the command line. */
#ifndef DEJAVM_DEVICES_NET_FORWARD_H
#define DEJAVM_DEVICES_NET_FORWARD_H

#include <netinet/in.h>

#include "core/base/error.h"
#include "core/base/types.h"

struct net_forward {
    bool udp;
    struct in_addr host_address; /* 127.0.0.1 where none was given */
    uint16_t host_port;
    struct in_addr guest_address; /* 0.0.0.0: the address that the guest gets by DHCP */
    uint16_t guest_port;
};

/*
 * "tcp:[HOSTADDR]:PORT-[GUESTADDR]:PORT", or "udp:..."; addresses are dotted IPv4, ports 1 to 65535. -EINVAL with a message that
 * names the text and the part that is wrong.
 */
int net_forward_parse(const char *text, struct net_forward *out, struct error *err) must_check;

#endif

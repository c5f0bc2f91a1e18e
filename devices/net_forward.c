#include "devices/net_forward.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

/* "ADDR:PORT" from text to end (exclusive). *address stays as it is where ADDR is empty. What is wrong is told in err. */
static int parse_end(const char *whole, const char *which, const char *text, const char *end,
                     struct in_addr *address, uint16_t *port, struct error *err)
{
    const char *colon = memchr(text, ':', (size_t)(end - text));
    char copy[INET_ADDRSTRLEN];
    if (!colon)
        return error_set(err, -EINVAL, "'%.100s': the %s end lacks its ':PORT'", whole, which);
    size_t length = (size_t)(colon - text);
    if (length) {
        bool fits = length < sizeof(copy);
        memcpy(copy, text, fits ? length : 0);
        copy[fits ? length : 0] = 0;
        if (!fits || inet_pton(AF_INET, copy, address) != 1)
            return error_set(err, -EINVAL, "'%.100s': '%.*s' is not an IPv4 address such as 127.0.0.1", whole,
                             (int)(length < 60 ? length : 60), text);
    }
    unsigned number = 0;
    const char *digit = colon + 1;
    while (digit < end && *digit >= '0' && *digit <= '9' && number <= UINT16_MAX)
        number = number * 10 + (unsigned)(*digit++ - '0');
    if (digit != end || number == 0 || number > UINT16_MAX)
        return error_set(err, -EINVAL, "'%.100s': '%.*s' is not a port from 1 to 65535", whole,
                         (int)(end - colon - 1 < 60 ? end - colon - 1 : 60), colon + 1);
    *port = (uint16_t)number;
    return 0;
}

int net_forward_parse(const char *text, struct net_forward *out, struct error *err)
{
    *out = (struct net_forward){.host_address.s_addr = htonl(INADDR_LOOPBACK)};
    out->udp = strncmp(text, "udp:", 4) == 0;
    if (!out->udp && strncmp(text, "tcp:", 4) != 0)
        return error_set(err, -EINVAL, "'%.100s' begins with neither 'tcp:' nor 'udp:'", text);
    const char *host = text + 4, *dash = strchr(host, '-');
    if (!dash)
        return error_set(err, -EINVAL, "'%.100s' lacks the '-' between the host's end and the guest's", text);
    int status = parse_end(text, "host's", host, dash, &out->host_address, &out->host_port, err);
    if (status < 0)
        return status;
    return parse_end(text, "guest's", dash + 1, text + strlen(text), &out->guest_address, &out->guest_port,
                     err);
}

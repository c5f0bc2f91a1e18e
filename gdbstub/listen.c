/* Listening for clients, on TCP or a socket in the file system. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "gdbstub/server.h"

enum { BACKLOG = 4, HOST_BYTES = 256, PORT_BYTES = 8 };

/* ---- unix:PATH ---- */

/* A socket whose server is gone is in the way; anything else at that place is somebody's. */
static void remove_stale(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 && errno == ECONNREFUSED)
        unlink(address->sun_path);
    close(fd);
}

static int listen_unix(const char *path, char *name, size_t name_size, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path[0] || strlen(path) >= sizeof(address.sun_path))
        return error_set(err, -EINVAL, "unix:%s: the path must have 1 to %zu characters", path,
                         sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    remove_stale(&address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, -errno, "create a socket");
    /* The mode of the file to come: who can connect, controls the guest. */
    if (fchmod(fd, S_IRUSR | S_IWUSR) != 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, BACKLOG) != 0) {
        int code = error_errno(err, -errno, "listen on unix:%s", path);
        close(fd);
        return code;
    }
    snprintf(name, name_size, "%s", path);
    return fd;
}

/* ---- HOST:PORT ---- */

/* "HOST:PORT", "[HOST]:PORT", ":PORT". */
static int split(const char *address, char host[HOST_BYTES], char port[PORT_BYTES], struct error *err)
{
    const char *colon = strrchr(address, ':');
    const char *first = address;
    size_t length = colon ? (size_t)(colon - address) : 0;
    if (length >= 2 && address[0] == '[' && colon[-1] == ']') {
        first++;
        length -= 2;
    }
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (!colon || digits == 0 || digits > 5 || colon[1 + digits] || length >= HOST_BYTES ||
        strtoul(colon + 1, NULL, 10) > UINT16_MAX)
        return error_set(err, -EINVAL, "\"%.100s\" is not HOST:PORT or unix:PATH", address);
    if (length == 0) {
        first = "127.0.0.1";
        length = strlen(first);
    }
    snprintf(host, HOST_BYTES, "%.*s", (int)length, first);
    snprintf(port, PORT_BYTES, "%s", colon + 1);
    return 0;
}

static int try_listen(const struct addrinfo *info)
{
    int one = 1;
    int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC, info->ai_protocol);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int code = -errno;
    close(fd);
    return code;
}

static int name_socket(int fd, char *name, size_t name_size, struct error *err)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof(bound);
    char host[HOST_BYTES], port[PORT_BYTES];
    if (getsockname(fd, (struct sockaddr *)&bound, &length) != 0)
        return error_errno(err, -errno, "get the address of a socket");
    int r = getnameinfo((struct sockaddr *)&bound, length, host, sizeof(host), port, sizeof(port),
                        NI_NUMERICHOST | NI_NUMERICSERV);
    if (r != 0)
        return error_set(err, -EIO, "get the address of a socket: %s", gai_strerror(r));
    snprintf(name, name_size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return 0;
}

static int listen_tcp(const char *address, char *name, size_t name_size, struct error *err)
{
    char host[HOST_BYTES], port[PORT_BYTES];
    int r = split(address, host, port, err);
    if (r < 0)
        return r;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    r = getaddrinfo(host, port, &hints, &found);
    if (r != 0)
        return error_set(err, -EADDRNOTAVAIL, "look up %s: %s", host, gai_strerror(r));
    int fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *info = found; info && fd < 0; info = info->ai_next)
        fd = try_listen(info);
    freeaddrinfo(found);
    if (fd < 0)
        return error_errno(err, fd, "listen on %s", address);
    r = name_socket(fd, name, name_size, err);
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

int gdb_listen(const char *address, char *name, size_t name_size, struct error *err)
{
    if (strncmp(address, "unix:", 5) == 0)
        return listen_unix(address + 5, name, name_size, err);
    return listen_tcp(address, name, name_size, err);
}

int gdb_accept(int listen_fd, int stop_fd, struct error *err)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = listen_fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return error_errno(err, -errno, "wait for a debugger");
        }
        if (fds[1].revents)
            return error_set(err, -EINTR, "stopped while waiting for a debugger");
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            int one = 1; /* a TCP socket sends small packets at once; others have no such option */
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
            return fd;
        }
        /* The client may be gone again already (accept(2), "Error handling"). */
        if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED && errno != EPROTO)
            return error_errno(err, -errno, "accept a debugger");
    }
}

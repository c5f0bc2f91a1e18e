#include "tools/console.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

void console_begin(struct console *c, int serial_fd, int debug_fd)
{
    *c = (struct console){.fd = {serial_fd, debug_fd}, .fresh_line = true};
}

/* A descriptor that somebody made non-blocking is waited for. */
static int write_all(int fd, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t count = write(fd, data, length);
        if (count >= 0) {
            data += count;
            length -= (size_t)count;
        } else if (errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

void console_write(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct console *c = context;
    if (channel >= CONSOLE_CHANNELS || length == 0)
        return;
    c->bytes += length;
    if (c->fd[channel] < 0)
        return;
    int code = write_all(c->fd[channel], data, length);
    if (code) {
        c->failed = c->failed ? c->failed : code;
        c->fd[channel] = -1;
    } else if (c->fd[channel] == STDOUT_FILENO) {
        c->fresh_line = data[length - 1] == '\n';
    }
}

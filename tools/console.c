#include "tools/console.h"

#include "tools/interrupt.h"
#include "tools/progress.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

enum { WAIT_MS = 100, WAITS_AFTER_END = 10 };

void console_begin(struct console *c, int serial_fd, int other_fd)
{
    *c = (struct console){.fd = {serial_fd, other_fd, other_fd}, .fresh_line = true};
}

/* Until a reader makes room; once the run is to end, for a second. */
static int wait_for_room(const struct console *c, int fd)
{
    for (int waits = 0; waits < WAITS_AFTER_END;) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        int ready = poll(&wait, 1, WAIT_MS);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (interrupt_count() > 0 || (c->deadline_ns && monotonic_ns() >= c->deadline_ns))
            waits += ready == 0;
    }
    return -ETIMEDOUT;
}

/* A pipe with room has it for PIPE_BUF bytes, so no write blocks. */
static int write_all(const struct console *c, int fd, const uint8_t *data, size_t length)
{
    while (length > 0) {
        int code = wait_for_room(c, fd);
        if (code)
            return code;
        ssize_t count = write(fd, data, length < PIPE_BUF ? length : PIPE_BUF);
        if (count >= 0) {
            data += count;
            length -= (size_t)count;
        } else if (errno != EINTR && errno != EAGAIN) {
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
    int code = write_all(c, c->fd[channel], data, length);
    if (code) {
        c->failed = c->failed ? c->failed : code;
        c->fd[channel] = -1;
    } else if (c->fd[channel] == STDOUT_FILENO) {
        c->fresh_line = data[length - 1] == '\n';
    }
}

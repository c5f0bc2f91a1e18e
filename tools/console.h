/* The guest's console on file descriptors of ours. */
#ifndef DEJAVM_TOOLS_CONSOLE_H
#define DEJAVM_TOOLS_CONSOLE_H

#include "core/base/types.h"

#define CONSOLE_CHANNELS 3 /* serial port, debug console, virtio console */

struct console {
    int fd[CONSOLE_CHANNELS]; /* -1: dropped */
    uint64_t
        deadline_ns; /* of monotonic_ns(), 0: none. From then on, and from the first signal on, a reader that does not read is given up */
    int failed;      /* negative errno of the first write that failed; that channel is dropped since */
    uint64_t bytes;  /* of all channels */
    bool fresh_line; /* the last byte written to stdout was a line feed, or there was none */
};

/* other_fd: for the debug console and the virtio console. */
void console_begin(struct console *c, int serial_fd, int other_fd);
/* context is a struct console; the type of the console hooks. */
void console_write(void *context, unsigned channel, const uint8_t *data, size_t length);

#endif

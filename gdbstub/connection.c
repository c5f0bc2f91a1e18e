/* One client on file descriptors. No call waits longer than its timeout, whatever the client does or does not do. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "gdbstub/internal.h"

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Milliseconds until deadline, as poll takes them. */
static int left_ms(int64_t deadline)
{
    int64_t left = deadline - now_ms();
    return left < 0 ? 0 : left > 1000000 ? 1000000 : (int)left;
}

/* There is something to read, or an end of file. */
static void take_input(struct gdb_server *s)
{
    size_t room;
    uint8_t *to = input_room(&s->in, &room);
    if (room == 0)
        return;
    ssize_t n = read(s->in_fd, to, room);
    if (n > 0)
        input_added(&s->in, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        s->gone = true;
}

void connection_poll(struct gdb_server *s)
{
    struct pollfd fds[2] = {{.fd = s->in_fd, .events = POLLIN}, {.fd = s->out_fd}};
    if (poll(fds, 2, 0) <= 0)
        return;
    if (fds[0].revents & POLLIN)
        take_input(s);
    else if (fds[0].revents)
        s->gone = true;
    if (fds[1].revents & (POLLERR | POLLNVAL))
        s->gone = true;
}

/* out_fd can take bytes. A pipe that can, takes PIPE_BUF of them without waiting (pipe(7)). */
static ssize_t send_some(int fd, const uint8_t *data, size_t length)
{
    ssize_t n = send(fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == ENOTSOCK)
        n = write(fd, data, length < 4096 ? length : 4096);
    return n;
}

void connection_flush(struct gdb_server *s)
{
    if (s->source != GDB_FROM_FD)
        return;
    if (s->out.failed) {
        s->gone = true;
        error_set(&s->failure, -ENOMEM, "no memory for an answer to the debugger");
    }
    int64_t deadline = now_ms() + s->write_timeout_ms;
    size_t sent = 0;
    while (!s->gone && sent < s->out.length) {
        struct pollfd fds[2] = {{.fd = s->out_fd, .events = POLLOUT}, {.fd = s->stop_fd, .events = POLLIN}};
        int ready = poll(fds, 2, left_ms(deadline));
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0 || fds[1].revents || !(fds[0].revents & POLLOUT)) {
            s->gone = true;
            break;
        }
        ssize_t n = send_some(s->out_fd, s->out.data + sent, s->out.length - sent);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            s->gone = true;
    }
    buffer_clear(&s->out);
}

/* Waits for input. An idle client may take its time, one that owes us the rest of a packet may not. */
static void wait_input(struct gdb_server *s, int64_t packet_deadline)
{
    bool owes = s->handled == 0 || input_partial(&s->in);
    struct pollfd fds[2] = {{.fd = s->in_fd, .events = POLLIN}, {.fd = s->stop_fd, .events = POLLIN}};
    int ready = poll(fds, 2, owes ? left_ms(packet_deadline) : -1);
    if (ready == 0)
        s->gone = left_ms(packet_deadline) == 0;
    else if (ready < 0)
        s->gone = errno != EINTR;
    else if (fds[1].revents)
        s->gone = true;
    else
        take_input(s);
}

static void serve_until_it_leaves(struct gdb_server *s)
{
    int64_t packet_deadline = now_ms() + s->packet_timeout_ms;
    while (!s->gone && !s->left && !atomic_load(&s->stop_asked)) {
        uint64_t handled = s->handled;
        bool began = input_partial(&s->in);
        wait_input(s, packet_deadline);
        server_process(s);
        if (s->handled != handled || (s->handled > 0 && !began))
            packet_deadline = now_ms() + s->packet_timeout_ms;
    }
}

int gdb_server_serve(struct gdb_server *s, int in_fd, int out_fd, enum gdb_end *end, struct error *err)
{
    sigset_t pipe_signal, pending, before;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);

    s->source = GDB_FROM_FD;
    s->in_fd = in_fd;
    s->out_fd = out_fd;
    s->connected = false;
    int result = server_reset(s, err);
    if (result == 0)
        serve_until_it_leaves(s);
    points_remove_all(s);
    if (s->failure.code)
        result = error_set(err, s->failure.code, "%s", s->failure.message);
    *end = atomic_load(&s->stop_asked) ? GDB_END_STOPPED : s->left ? s->end : GDB_END_DISCONNECTED;

    /* A SIGPIPE of ours must not reach the caller when it is unblocked. */
    if (!sigismember(&pending, SIGPIPE) && !sigismember(&before, SIGPIPE)) {
        while (sigtimedwait(&pipe_signal, NULL, &(struct timespec){0}) > 0)
            ;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

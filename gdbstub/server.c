/* The life of the server, and of a client's connection whatever its bytes come through. */
#include "gdbstub/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "gdbstub/internal.h"

enum { DEFAULT_TIMEOUT_MS = 10000 };

int gdb_server_create(struct gdb_server **out, struct debug_target *target, struct error *err)
{
    struct gdb_server *s = calloc(1, sizeof(*s));
    *out = NULL;
    if (!s)
        return error_set(err, -ENOMEM, "no memory for a GDB server");
    s->target = target;
    s->write_timeout_ms = DEFAULT_TIMEOUT_MS;
    s->packet_timeout_ms = DEFAULT_TIMEOUT_MS;
    atomic_init(&s->stop_asked, 0);
    s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->stop_fd < 0) {
        int code = error_errno(err, -errno, "create an eventfd");
        free(s);
        return code;
    }
    *out = s;
    return 0;
}

void gdb_server_destroy(struct gdb_server *s)
{
    if (!s)
        return;
    close(s->stop_fd);
    buffer_free(&s->description);
    buffer_free(&s->out);
    buffer_free(&s->reply);
    buffer_free(&s->last_sent);
    buffer_free(&s->threads);
    free(s->points);
    free(s);
}

void gdb_server_describe(struct gdb_server *s, enum gdb_description description)
{
    s->wanted_description = description;
}

void gdb_server_set_timeouts(struct gdb_server *s, unsigned write_ms, unsigned packet_ms)
{
    s->write_timeout_ms = write_ms;
    s->packet_timeout_ms = packet_ms;
}

void gdb_server_stop(struct gdb_server *s)
{
    int saved = errno;
    uint64_t one = 1;
    atomic_store(&s->stop_asked, 1);
    ssize_t ignored = write(s->stop_fd, &one, sizeof(one));
    (void)ignored;
    errno = saved;
}

void gdb_server_console(struct gdb_server *s, const void *text, size_t length)
{
    output_console(s, text, length);
}

static enum gdb_description choose_description(const struct gdb_server *s)
{
    if (s->wanted_description != GDB_DESCRIPTION_AUTO)
        return s->wanted_description;
    const struct vcpu_state *state = s->target->ops->state(s->target);
    if (vcpu_in_long_mode(state))
        return GDB_DESCRIPTION_X86_64;
    return state->seg[SEG_CS].rights & SEGMENT_DB ? GDB_DESCRIPTION_I386 : GDB_DESCRIPTION_I8086;
}

int server_reset(struct gdb_server *s, struct error *err)
{
    s->in.start = s->in.end = s->in.searched = 0;
    s->in.more_length = 0;
    buffer_clear(&s->out);
    buffer_clear(&s->reply);
    buffer_clear(&s->last_sent);
    s->out.failed = s->reply.failed = s->last_sent.failed = false;
    s->no_ack = s->gone = s->left = s->running = s->silent = false;
    s->bad_packets = s->resends = 0;
    s->handled = 0;
    s->end = GDB_END_DISCONNECTED;
    s->failure.code = 0;
    s->client_swbreak = s->client_hwbreak = s->physical = false;
    s->stop = (struct debug_stop){.reason = DEBUG_STOP_NONE};
    points_remove_all(s);
    threads_stopped(s, false);
    s->thread = 0;

    s->described = choose_description(s);
    buffer_clear(&s->description);
    s->description.failed = false;
    description_write(s->described, &s->description);
    if (s->description.failed)
        return error_set(err, -ENOMEM, "no memory for the target description");
    return 0;
}

static void handle_packet(struct gdb_server *s, const struct text *content)
{
    size_t length = text_left(content);
    memcpy(s->packet, content->at, length);
    struct text packet = {s->packet, s->packet + length};
    s->bad_packets = s->resends = 0;
    s->handled++;
    s->silent = false;
    if (!s->no_ack) {
        buffer_put_u8(&s->out, '+');
        connection_flush(s); /* at once: a client that waits for it sends the packet again, and no Ctrl-C */
    }
    buffer_clear(&s->reply);
    command_dispatch(s, &packet);
    /* GDB asks for an answer again when it takes long: it cannot mean the one that it has not got yet. */
    if (s->source == GDB_FROM_FD)
        input_drop_acknowledgements(&s->in);
    if (!s->silent && !s->gone)
        output_reply(s);
}

/* Without acknowledgements there is no way to get a damaged packet again. */
static void handle_bad_packet(struct gdb_server *s)
{
    if (s->no_ack || ++s->bad_packets > GDB_RETRIES_MAX)
        s->gone = true;
    else
        buffer_put_u8(&s->out, '-');
}

static void handle_resend(struct gdb_server *s)
{
    if (s->no_ack)
        return;
    if (++s->resends > GDB_RETRIES_MAX)
        s->gone = true;
    else
        output_resend(s);
}

void server_process(struct gdb_server *s)
{
    while (!s->gone && !s->left) {
        struct text content;
        switch (input_next(&s->in, &content)) {
        case INPUT_NOTHING:
            if (!input_refill(&s->in))
                return;
            break;
        case INPUT_PACKET:
            handle_packet(s, &content);
            break;
        case INPUT_BAD:
            handle_bad_packet(s);
            break;
        case INPUT_RESEND:
            handle_resend(s);
            break;
        case INPUT_INTERRUPT: /* came too late: the target has stopped meanwhile */
            break;
        case INPUT_GARBAGE:
            s->gone = true;
            break;
        }
        connection_flush(s);
    }
}

bool server_interrupted(void *context)
{
    struct gdb_server *s = context;
    if (s->gone || atomic_load(&s->stop_asked)) {
        s->gone = true;
        return true;
    }
    if (s->source == GDB_FROM_FD)
        connection_poll(s);
    else
        (void)input_refill(&s->in);
    bool interrupt = input_take_interrupt(&s->in);
    if (s->in.end - s->in.start == sizeof(s->in.bytes))
        s->gone = true;
    return s->gone || interrupt;
}

bool gdb_server_feed(struct gdb_server *s, const uint8_t *data, size_t length, struct buffer *out)
{
    if (!s->connected) {
        s->source = GDB_FROM_MEMORY;
        if (server_reset(s, NULL) < 0)
            return false;
        s->connected = true;
    }
    s->in.more = data;
    s->in.more_length = length;
    server_process(s);
    if (s->out.failed)
        s->gone = true;
    else
        buffer_put(out, s->out.data, s->out.length);
    buffer_clear(&s->out);
    if (!s->gone && !s->left)
        return true;
    points_remove_all(s);
    s->connected = false;
    return false;
}

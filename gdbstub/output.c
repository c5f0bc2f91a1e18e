/* From answers to bytes: framing, run-length encoding (GDB manual, E.1), errors, and text for the user. */
#include <errno.h>
#include <string.h>

#include "gdbstub/internal.h"

/* A run is written as its character, '*', and the number of further repeats plus 29. */
enum { RUN_MIN = 3, RUN_BIAS = 29, RUN_MAX = 126 - RUN_BIAS };

static void put_run(struct buffer *out, uint8_t c, size_t count)
{
    while (count > 0) {
        buffer_put_u8(out, c);
        count--;
        if (count < RUN_MIN)
            continue;
        size_t repeats = count < RUN_MAX ? count : RUN_MAX;
        /* 6 and 7 would be written '#' and '$'. */
        if (repeats == '#' - RUN_BIAS || repeats == '$' - RUN_BIAS)
            repeats = '#' - RUN_BIAS - 1;
        buffer_put_u8(out, '*');
        buffer_put_u8(out, (uint8_t)(repeats + RUN_BIAS));
        count -= repeats;
    }
}

void output_frame(struct buffer *out, const uint8_t *content, size_t length)
{
    buffer_put_u8(out, '$');
    size_t start = out->length;
    for (size_t i = 0; i < length;) {
        size_t run = 1;
        while (i + run < length && content[i + run] == content[i])
            run++;
        put_run(out, content[i], run);
        i += run;
    }
    uint8_t sum = 0;
    for (size_t i = start; !out->failed && i < out->length; i++)
        sum = (uint8_t)(sum + out->data[i]);
    buffer_put_u8(out, '#');
    put_hex(out, &sum, 1);
}

static void frame(struct gdb_server *s, const struct buffer *content)
{
    size_t start = s->out.length;
    output_frame(&s->out, content->data, content->length);
    if (s->no_ack || s->out.failed)
        return;
    buffer_clear(&s->last_sent);
    buffer_put(&s->last_sent, s->out.data + start, s->out.length - start);
}

void output_reply(struct gdb_server *s)
{
    if (s->reply.failed)
        s->out.failed = true;
    else
        frame(s, &s->reply);
}

void output_resend(struct gdb_server *s)
{
    buffer_put(&s->out, s->last_sent.data, s->last_sent.length);
}

void output_console(struct gdb_server *s, const void *text, size_t length)
{
    const uint8_t *at = text;
    const size_t chunk = (GDB_PACKET_BYTES - 1) / 2;
    struct buffer packet = {0};
    if (!s->running)
        return;
    while (length > 0 && !s->gone) {
        size_t n = length < chunk ? length : chunk;
        buffer_clear(&packet);
        put_text(&packet, "O");
        put_hex(&packet, at, n);
        if (packet.failed)
            s->out.failed = true;
        else
            frame(s, &packet);
        connection_flush(s);
        at += n;
        length -= n;
    }
    buffer_free(&packet);
}

void reply_ok(struct gdb_server *s)
{
    put_text(&s->reply, "OK");
}

/* code: a negative errno value. Its number is Linux's, as GDB's own server sends it. */
void reply_error(struct gdb_server *s, int code)
{
    uint8_t number = code < 0 && code >= -255 ? (uint8_t)-code : EIO;
    buffer_clear(&s->reply);
    put_text(&s->reply, "E");
    put_hex(&s->reply, &number, 1);
}

/* The form with text is not binary data, so what would need an escape there is replaced. */
void reply_message(struct gdb_server *s, int code, const char *message)
{
    if (!message[0]) {
        reply_error(s, code);
        return;
    }
    buffer_clear(&s->reply);
    put_text(&s->reply, "E.");
    for (size_t i = 0; message[i] && i < GDB_PACKET_BYTES / 2; i++) {
        uint8_t c = (uint8_t)message[i];
        bool plain = c >= ' ' && c < 127 && !strchr("#$}*", c);
        buffer_put_u8(&s->reply, plain ? c : c == '\n' ? ' ' : '?');
    }
}

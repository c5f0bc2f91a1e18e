#include "tests/gdbstub/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void client_open(struct client *c, struct walk *w)
{
    struct error err = {0};
    *c = (struct client){.alive = true};
    if (gdb_server_create(&c->server, &w->target, &err) != 0)
        fail_msg("%s", err.message);
}

void client_close(struct client *c)
{
    gdb_server_destroy(c->server);
    buffer_free(&c->raw);
    buffer_free(&c->reply);
    buffer_free(&c->text);
}

void client_frame(struct buffer *out, const void *content, size_t length)
{
    const uint8_t *bytes = content;
    char digits[4];
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + bytes[i]);
    buffer_put(out, "$", 1);
    buffer_put(out, content, length);
    snprintf(digits, sizeof(digits), "#%02x", sum);
    buffer_put(out, digits, 3);
}

void client_send(struct client *c, const void *data, size_t length)
{
    buffer_clear(&c->raw);
    c->alive = gdb_server_feed(c->server, data, length, &c->raw);
    buffer_put_u8(&c->raw, 0);
    assert_false(c->raw.failed);
    c->raw.length--;
}

/* The length of the packet at the start of data. */
static size_t unframe(const uint8_t *data, size_t length, struct buffer *content)
{
    const uint8_t *hash = memchr(data, '#', length);
    assert_true(length > 0 && data[0] == '$' && hash && (size_t)(hash - data) + 3 <= length);
    uint8_t sum = 0;
    for (const uint8_t *p = data + 1; p < hash; p++)
        sum = (uint8_t)(sum + *p);
    char digits[3] = {(char)hash[1], (char)hash[2], 0};
    assert_int_equal(strtoul(digits, NULL, 16), sum);
    buffer_clear(content);
    for (const uint8_t *p = data + 1; p < hash; p++) {
        if (*p != '*') {
            buffer_put_u8(content, *p);
            continue;
        }
        p++;
        assert_true(p < hash && *p >= 32 && *p <= 126 && content->length > 0);
        for (unsigned n = *p - 29u; n > 0; n--)
            buffer_put_u8(content, content->data[content->length - 1]);
    }
    buffer_put_u8(content, 0);
    content->length--;
    return (size_t)(hash - data) + 3;
}

static void take_console(struct client *c)
{
    for (size_t i = 1; i + 1 < c->reply.length; i += 2) {
        char digits[3] = {(char)c->reply.data[i], (char)c->reply.data[i + 1], 0};
        buffer_put_u8(&c->text, (uint8_t)strtoul(digits, NULL, 16));
    }
}

const char *client_ask_bytes(struct client *c, const void *content, size_t length)
{
    struct buffer packet = {0};
    client_frame(&packet, content, length);
    client_send(c, packet.data, packet.length);
    buffer_free(&packet);
    buffer_clear(&c->reply);
    buffer_clear(&c->text);
    buffer_put_u8(&c->reply, 0);
    c->reply.length--;
    for (size_t at = 0; at < c->raw.length;) {
        if (c->raw.data[at] == '+') {
            at++;
            continue;
        }
        at += unframe(c->raw.data + at, c->raw.length - at, &c->reply);
        if (c->reply.data[0] == 'O' && c->reply.data[1] != 'K')
            take_console(c);
    }
    buffer_put_u8(&c->text, 0);
    c->text.length--;
    return (const char *)c->reply.data;
}

const char *client_ask(struct client *c, const char *content)
{
    return client_ask_bytes(c, content, strlen(content));
}

/* ---- fixtures ---- */

static const uint8_t program[] = {0x89, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, 0xff, 0x04, 0x25, 0x02, 0x00,
                                  0x18, 0x00, 0x8b, 0x1c, 0x25, 0x00, 0x00, 0x18, 0x00, 0x90, 0xf4};
/* jmp to itself */
static const uint8_t endless[] = {0xeb, 0xfe};

static struct fixture *create(const uint8_t *code, size_t length, enum walk_mode mode, bool live)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->walk = walk_create(code, length, mode, live);
    client_open(&f->client, f->walk);
    return f;
}

int client_setup(void **state)
{
    *state = create(program, sizeof(program), WALK_64, false);
    return 0;
}

int client_setup_live(void **state)
{
    *state = create(program, sizeof(program), WALK_64, true);
    return 0;
}

int client_setup_live_32(void **state)
{
    *state = create(program, sizeof(program), WALK_32, true);
    return 0;
}

int client_setup_endless(void **state)
{
    *state = create(endless, sizeof(endless), WALK_64, true);
    return 0;
}

int client_teardown(void **state)
{
    struct fixture *f = *state;
    client_close(&f->client);
    walk_destroy(f->walk);
    free(f);
    return 0;
}

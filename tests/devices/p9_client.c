#include "tests/devices/p9_client.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void make_folders(struct client *c)
{
    char path[128];
    snprintf(c->outside, sizeof(c->outside), "%s/dejavm-p9-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(c->outside));
    snprintf(c->folder, sizeof(c->folder), "%.48s/share", c->outside);
    assert_int_equal(mkdir(c->folder, 0700), 0);
    snprintf(path, sizeof(path), "%s/secret", c->outside);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(SECRET, f);
    fclose(f);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

struct client *client_create(bool read_only)
{
    struct client *c = calloc(1, sizeof(*c));
    struct error err;
    assert_non_null(c);
    make_folders(c);
    c->room = sizeof(c->answer);
    assert_int_equal(p9_server_create(&c->server, c->folder, read_only, &err), 0);
    assert_int_equal(call(c, TVERSION, "ds", 65536u, "9P2000.L"), 0);
    assert_int_equal(call(c, TATTACH, "ddssd", ROOT, NOFID, "", "", 0u), 0);
    return c;
}

void client_destroy(struct client *c)
{
    p9_server_destroy(c->server);
    nftw(c->outside, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(c);
}

const char *client_path(const struct client *c, const char *name)
{
    static char text[4][4200];
    static unsigned next;
    char *path = text[next++ % 4];
    snprintf(path, sizeof(text[0]), "%s/%s", c->folder, name);
    return path;
}

static void put(struct client *c, uint64_t value, unsigned bytes)
{
    assert_true(c->request_length + bytes <= sizeof(c->request));
    for (unsigned i = 0; i < bytes; i++)
        c->request[c->request_length++] = (uint8_t)(value >> (8 * i));
}

static void put_bytes(struct client *c, const void *bytes, size_t length)
{
    assert_true(c->request_length + length <= sizeof(c->request));
    if (length)
        memcpy(c->request + c->request_length, bytes, length);
    c->request_length += length;
}

void client_compose_list(struct client *c, unsigned type, const char *format, va_list arguments)
{
    c->request_length = 0;
    put(c, 0, 4);
    put(c, type, 1);
    put(c, 0x1234, 2);
    for (; *format; format++) {
        const char *text;
        const void *bytes;
        switch (*format) {
        case 'b':
            put(c, va_arg(arguments, unsigned), 1);
            break;
        case 'w':
            put(c, va_arg(arguments, unsigned), 2);
            break;
        case 'd':
            put(c, va_arg(arguments, unsigned), 4);
            break;
        case 'q':
            put(c, va_arg(arguments, uint64_t), 8);
            break;
        case 's':
            text = va_arg(arguments, const char *);
            put(c, strlen(text), 2);
            put_bytes(c, text, strlen(text));
            break;
        case 'B':
            bytes = va_arg(arguments, const void *);
            put_bytes(c, bytes, va_arg(arguments, size_t));
            break;
        default:
            fail();
        }
    }
    size_t length = c->request_length;
    c->request_length = 0;
    put(c, length, 4);
    c->request_length = length;
}

void client_compose(struct client *c, unsigned type, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    client_compose_list(c, type, format, arguments);
    va_end(arguments);
}

uint64_t take(struct client *c, unsigned bytes)
{
    uint64_t value = 0;
    assert_true((size_t)(c->end - c->at) >= bytes);
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)*c->at++ << (8 * i);
    return value;
}

int client_send(struct client *c)
{
    /* Copies of exactly these sizes: reading and writing beyond them is found by AddressSanitizer. */
    uint8_t *request = malloc(c->request_length ? c->request_length : 1), *answer = malloc(c->room);
    assert_true(request && answer);
    memcpy(request, c->request, c->request_length);
    size_t length = p9_server_answer(c->server, request, c->request_length, answer, c->room);
    assert_in_range(length, 7, c->room);
    memcpy(c->answer, answer, length);
    free(request);
    free(answer);
    c->at = c->answer;
    c->end = c->answer + length;
    assert_int_equal(take(c, 4), length);
    unsigned type = (unsigned)take(c, 1), tag = (unsigned)take(c, 2);
    if (c->request_length >= 7)
        assert_int_equal(tag, c->request[5] | c->request[6] << 8);
    if (type == 7) { /* Rlerror */
        assert_int_equal(length, 11);
        int error = (int)take(c, 4);
        assert_in_range(error, 1, 4095);
        return error;
    }
    assert_true(c->request_length >= 7);
    assert_int_equal(type, c->request[4] + 1);
    return 0;
}

int call(struct client *c, unsigned type, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    client_compose_list(c, type, format, arguments);
    va_end(arguments);
    return client_send(c);
}

int walk_to(struct client *c, uint32_t fid, const char *path)
{
    struct buffer names = {0};
    char copy[512], *save = NULL;
    unsigned count = 0;
    snprintf(copy, sizeof(copy), "%s", path);
    for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save), count++) {
        uint8_t length[2] = {(uint8_t)strlen(name), (uint8_t)(strlen(name) >> 8)};
        buffer_put(&names, length, 2);
        buffer_put(&names, name, strlen(name));
    }
    int error = call(c, TWALK, "ddwB", ROOT, fid, count, (const void *)names.data, names.length);
    buffer_free(&names);
    if (error)
        return error;
    return take(c, 2) == count ? 0 : -1;
}

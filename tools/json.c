#include "tools/json.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* Length of the UTF-8 sequence at p (RFC 3629, section 4), or 0 if it is not one. */
static size_t utf8_length(const uint8_t *p, size_t left)
{
    size_t length;
    uint32_t code, least;
    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] < 0xe0)
        length = 2, code = p[0] & 0x1fu, least = 0x80;
    else if (p[0] >= 0xe0 && p[0] < 0xf0)
        length = 3, code = p[0] & 0x0fu, least = 0x800;
    else if (p[0] >= 0xf0 && p[0] < 0xf5)
        length = 4, code = p[0] & 0x07u, least = 0x10000;
    else
        return 0;
    if (left < length)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3fu);
    }
    bool surrogate = code >= 0xd800 && code < 0xe000;
    return code < least || code > 0x10ffff || surrogate ? 0 : length;
}

static void put_string(FILE *out, const uint8_t *data, size_t length)
{
    putc('"', out);
    for (size_t i = 0; i < length;) {
        uint8_t c = data[i];
        size_t n = utf8_length(data + i, length - i);
        if (n == 0)
            fputs("\\ufffd", out), n = 1;
        else if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", out);
        else if (c < 0x20 || c == 0x7f)
            fprintf(out, "\\u%04x", c);
        else
            fwrite(data + i, 1, n, out);
        i += n;
    }
    putc('"', out);
}

/* Whatever stands in front of a member: comma, indentation, key. */
static void member(struct json *j, const char *key)
{
    bool first = !j->has_members[j->depth];
    bool on_line = j->inline_from[j->depth];
    if (!first)
        putc(',', j->out);
    if (!on_line)
        fprintf(j->out, "\n%*s", (int)j->depth * 2, "");
    else if (!first)
        putc(' ', j->out);
    j->has_members[j->depth] = true;
    if (key) {
        put_string(j->out, (const uint8_t *)key, strlen(key));
        fputs(": ", j->out);
    }
}

static void open_level(struct json *j, const char *key, char bracket, bool on_line)
{
    member(j, key);
    assert(j->depth + 1 < JSON_MAX_DEPTH);
    on_line = on_line || j->inline_from[j->depth];
    putc(bracket, j->out);
    j->depth++;
    j->has_members[j->depth] = false;
    j->inline_from[j->depth] = on_line;
}

static void close_level(struct json *j, char bracket)
{
    assert(j->depth > 0);
    bool empty = !j->has_members[j->depth], on_line = j->inline_from[j->depth];
    j->depth--;
    if (!empty && !on_line)
        fprintf(j->out, "\n%*s", (int)j->depth * 2, "");
    putc(bracket, j->out);
}

void json_begin(struct json *j, FILE *out)
{
    *j = (struct json){.out = out, .depth = 1};
    putc('{', out);
}

void json_end(struct json *j)
{
    assert(j->depth == 1);
    close_level(j, '}');
    putc('\n', j->out);
}

void json_object(struct json *j, const char *key)
{
    open_level(j, key, '{', false);
}

void json_array(struct json *j, const char *key)
{
    open_level(j, key, '[', false);
}

void json_object_line(struct json *j, const char *key)
{
    open_level(j, key, '{', true);
}

void json_array_line(struct json *j, const char *key)
{
    open_level(j, key, '[', true);
}

void json_close_object(struct json *j)
{
    close_level(j, '}');
}

void json_close_array(struct json *j)
{
    close_level(j, ']');
}

void json_u64(struct json *j, const char *key, uint64_t value)
{
    member(j, key);
    fprintf(j->out, "%" PRIu64, value);
}

void json_i64(struct json *j, const char *key, int64_t value)
{
    member(j, key);
    fprintf(j->out, "%" PRId64, value);
}

void json_bool(struct json *j, const char *key, bool value)
{
    member(j, key);
    fputs(value ? "true" : "false", j->out);
}

void json_null(struct json *j, const char *key)
{
    member(j, key);
    fputs("null", j->out);
}

void json_string(struct json *j, const char *key, const char *value)
{
    json_text(j, key, (const uint8_t *)value, strlen(value));
}

void json_text(struct json *j, const char *key, const uint8_t *data, size_t length)
{
    member(j, key);
    put_string(j->out, data, length);
}

void json_hex(struct json *j, const char *key, const uint8_t *data, size_t length)
{
    member(j, key);
    putc('"', j->out);
    for (size_t i = 0; i < length; i++)
        fprintf(j->out, "%02x", data[i]);
    putc('"', j->out);
}

void json_position(struct json *j, const char *key, position_t value)
{
    if (value == POSITION_UNKNOWN)
        json_null(j, key);
    else
        json_u64(j, key, value);
}

/* The notation of the protocol: hexadecimal numbers and bytes, thread ids, binary data (GDB manual, E.1). */
#include <string.h>

#include "gdbstub/internal.h"

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool text_skip(struct text *t, char c)
{
    if (t->at == t->end || *t->at != (uint8_t)c)
        return false;
    t->at++;
    return true;
}

bool text_skip_word(struct text *t, const char *word)
{
    size_t length = strlen(word);
    if (text_left(t) < length || memcmp(t->at, word, length) != 0)
        return false;
    t->at += length;
    return true;
}

bool text_is(const struct text *t, const char *word)
{
    return text_left(t) == strlen(word) && memcmp(t->at, word, text_left(t)) == 0;
}

bool text_number(struct text *t, uint64_t *value)
{
    unsigned digits = 0;
    *value = 0;
    for (; t->at < t->end && hex_value(*t->at) >= 0; t->at++) {
        if (++digits > 16)
            return false;
        *value = *value << 4 | (uint64_t)hex_value(*t->at);
    }
    return digits > 0;
}

bool text_bytes(struct text *t, uint8_t *out, size_t length)
{
    if (text_left(t) / 2 < length)
        return false;
    for (size_t i = 0; i < length; i++, t->at += 2) {
        int high = hex_value(t->at[0]), low = hex_value(t->at[1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool id_part(struct text *t, uint64_t *id)
{
    *id = THREAD_ALL;
    return text_skip_word(t, "-1") || text_number(t, id);
}

/* "THREAD", "pPROCESS" or "pPROCESS.THREAD"; there is one process, number 1. */
bool text_thread(struct text *t, uint64_t *id)
{
    uint64_t process;
    if (!text_skip(t, 'p'))
        return id_part(t, id);
    if (!id_part(t, &process))
        return false;
    *id = THREAD_ALL;
    if (text_skip(t, '.') && !id_part(t, id))
        return false;
    if (process > 1 && process != THREAD_ALL)
        *id = THREAD_NONE;
    return true;
}

void put_text(struct buffer *b, const char *text)
{
    buffer_put(b, text, strlen(text));
}

void put_hex(struct buffer *b, const void *data, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *from = data;
    uint8_t *to = length <= SIZE_MAX / 2 ? buffer_extend(b, length * 2) : NULL;
    for (size_t i = 0; to && i < length; i++) {
        to[2 * i] = (uint8_t)digits[from[i] >> 4];
        to[2 * i + 1] = (uint8_t)digits[from[i] & 15];
    }
}

void put_number(struct buffer *b, uint64_t value)
{
    unsigned shift = 60;
    while (shift > 0 && !(value >> shift & 15))
        shift -= 4;
    for (;; shift -= 4) {
        buffer_put_u8(b, (uint8_t) "0123456789abcdef"[value >> shift & 15]);
        if (shift == 0)
            return;
    }
}

void put_escaped(struct buffer *b, const void *data, size_t length)
{
    const uint8_t *from = data;
    for (size_t i = 0; i < length; i++) {
        uint8_t c = from[i];
        if (c == '#' || c == '$' || c == '}' || c == '*') {
            buffer_put_u8(b, '}');
            c ^= 0x20;
        }
        buffer_put_u8(b, c);
    }
}

#include "core/base/buffer.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void buffer_free(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

void buffer_clear(struct buffer *b)
{
    b->length = 0;
}

/* From this size on a buffer is worth huge pages: each of its pages is otherwise a fault of its own. */
#define HUGE_BUFFER_BYTES ((size_t)8 << 20)
#define HUGE_PAGE_BYTES   ((uintptr_t)2 << 20)

static void use_huge_pages(uint8_t *data, size_t capacity)
{
    uintptr_t first = ((uintptr_t)data + HUGE_PAGE_BYTES - 1) & ~(HUGE_PAGE_BYTES - 1);
    uintptr_t end = ((uintptr_t)data + capacity) & ~(HUGE_PAGE_BYTES - 1);
    if (capacity >= HUGE_BUFFER_BYTES && first < end)
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
}

uint8_t *buffer_extend(struct buffer *b, size_t length)
{
    size_t needed;
    if (b->failed || __builtin_add_overflow(b->length, length, &needed)) {
        b->failed = true;
        return NULL;
    }
    if (needed > b->capacity || !b->data) {
        size_t capacity = b->capacity ? b->capacity : 256;
        while (capacity < needed)
            capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
        uint8_t *data = realloc(b->data, capacity);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->capacity = capacity;
        use_huge_pages(data, capacity);
    }
    uint8_t *place = b->data + b->length;
    b->length = needed;
    return place;
}

void buffer_put(struct buffer *b, const void *data, size_t length)
{
    uint8_t *place = buffer_extend(b, length);
    if (place && length)
        memcpy(place, data, length);
}

void buffer_put_u8(struct buffer *b, uint8_t v)
{
    buffer_put(b, &v, sizeof(v));
}

void buffer_put_u16(struct buffer *b, uint16_t v)
{
    v = htole16(v);
    buffer_put(b, &v, sizeof(v));
}

void buffer_put_u32(struct buffer *b, uint32_t v)
{
    v = htole32(v);
    buffer_put(b, &v, sizeof(v));
}

void buffer_put_u64(struct buffer *b, uint64_t v)
{
    v = htole64(v);
    buffer_put(b, &v, sizeof(v));
}

void buffer_put_varint(struct buffer *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    while (v >= 0x80) {
        bytes[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    bytes[n++] = (uint8_t)v;
    buffer_put(b, bytes, n);
}

void buffer_put_svarint(struct buffer *b, int64_t v)
{
    uint64_t u = (uint64_t)v;
    buffer_put_varint(b, (u << 1) ^ (v < 0 ? UINT64_MAX : 0));
}

const uint8_t *reader_take(struct reader *r, size_t length)
{
    if (reader_left(r) < length) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *place = r->data + r->offset;
    r->offset += length;
    return place;
}

void reader_get(struct reader *r, void *out, size_t length)
{
    const uint8_t *place = reader_take(r, length);
    if (!length)
        return;
    if (place)
        memcpy(out, place, length);
    else
        memset(out, 0, length);
}

uint8_t reader_u8(struct reader *r)
{
    uint8_t v;
    reader_get(r, &v, sizeof(v));
    return v;
}

uint16_t reader_u16(struct reader *r)
{
    uint16_t v;
    reader_get(r, &v, sizeof(v));
    return le16toh(v);
}

uint32_t reader_u32(struct reader *r)
{
    uint32_t v;
    reader_get(r, &v, sizeof(v));
    return le32toh(v);
}

uint64_t reader_u64(struct reader *r)
{
    uint64_t v;
    reader_get(r, &v, sizeof(v));
    return le64toh(v);
}

uint64_t reader_varint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t byte = reader_u8(r);
        if (r->failed || (shift == 63 && byte > 1))
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return v;
    }
    r->failed = true;
    return 0;
}

int64_t reader_svarint(struct reader *r)
{
    uint64_t v = reader_varint(r);
    return (int64_t)((v >> 1) ^ (v & 1 ? UINT64_MAX : 0));
}

/*
 * A growing byte buffer for encoders, and a bounded reader for decoders. All integers are little-endian;
 * varint is LEB128 (7 bits per byte, low first, at most 10 bytes); svarint is zigzag + varint.
 */
#ifndef DEJAVM_CORE_BASE_BUFFER_H
#define DEJAVM_CORE_BASE_BUFFER_H

#include "core/base/types.h"

struct buffer {
    uint8_t *data;
    size_t length;
    size_t capacity;
    bool failed; /* an allocation failed: everything put since is lost; check before use */
};

void buffer_free(struct buffer *b);  /* frees the memory and makes it an empty buffer again */
void buffer_clear(struct buffer *b); /* length 0, memory and failed flag kept */
/* Makes room for length more bytes and returns where they go (NULL and failed=true without memory). */
uint8_t *buffer_extend(struct buffer *b, size_t length);
void buffer_put(struct buffer *b, const void *data, size_t length);
void buffer_put_u8(struct buffer *b, uint8_t v);
void buffer_put_u16(struct buffer *b, uint16_t v);
void buffer_put_u32(struct buffer *b, uint32_t v);
void buffer_put_u64(struct buffer *b, uint64_t v);
void buffer_put_varint(struct buffer *b, uint64_t v);
void buffer_put_svarint(struct buffer *b, int64_t v);

/* Reads past the end, or an overlong varint, set failed and give zeros: check failed once at the end. */
struct reader {
    const uint8_t *data;
    size_t length;
    size_t offset;
    bool failed;
};

static inline struct reader reader_of(const void *data, size_t length)
{
    return (struct reader){.data = data, .length = length};
}

static inline size_t reader_left(const struct reader *r)
{
    return r->failed ? 0 : r->length - r->offset;
}

/* The next length bytes in place, or NULL (and failed) when there are fewer. */
const uint8_t *reader_take(struct reader *r, size_t length);
void reader_get(struct reader *r, void *out, size_t length);
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
uint64_t reader_varint(struct reader *r);
int64_t reader_svarint(struct reader *r);

#endif

#include "trace-format/chunk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "core/base/hash.h"

void chunk_decoder_free(struct chunk_decoder *d)
{
    ZSTD_freeDCtx(d->decompressor);
    buffer_free(&d->stored);
    buffer_free(&d->raw);
    *d = (struct chunk_decoder){0};
}

int trace_damaged(const struct chunk_source *s, uint64_t offset, struct error *err, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set_kind(err, ERROR_DAMAGED, -EBADMSG, "%s: damaged at offset %llu: %s", s->path,
                          (unsigned long long)offset, text);
}

int chunk_source_read(const struct chunk_source *s, uint64_t offset, void *out, size_t length,
                      struct error *err)
{
    uint8_t *bytes = out;
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(s->fd, bytes + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, -errno, "%s: reading %zu bytes at offset %llu", s->path, length,
                               (unsigned long long)offset);
        if (n == 0)
            return trace_damaged(s, offset + done, err, "the file ends here, %zu bytes too early",
                                 length - done);
        done += (size_t)n;
    }
    return 0;
}

static bool all_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (bytes[i])
            return false;
    return true;
}

static int check_header(const struct chunk_source *s, uint64_t offset, const struct chunk_header *h,
                        struct error *err)
{
    bool known = h->type > 0 && h->type < CHUNK_TYPE_COUNT;
    if (!known && h->type < CHUNK_TYPE_ANCILLARY)
        return trace_damaged(s, offset, err, "chunk type %u is not one of format version %u", h->type,
                             TRACE_FORMAT_VERSION);
    if (h->raw_length > chunk_max_raw(h->type))
        return trace_damaged(s, offset, err, "%s chunk of %u bytes; at most %zu are allowed",
                             chunk_type_name(h->type), h->raw_length, chunk_max_raw(h->type));
    bool lengths_fit =
        h->compression == CHUNK_STORED ? h->stored_length == h->raw_length : h->stored_length < h->raw_length;
    if (h->compression > CHUNK_ZSTD || !lengths_fit)
        return trace_damaged(s, offset, err, "%s chunk with compression %u and lengths %u stored, %u raw",
                             chunk_type_name(h->type), h->compression, h->stored_length, h->raw_length);
    return 0;
}

int chunk_read_header(const struct chunk_source *s, uint64_t offset, struct chunk_header *h,
                      struct error *err)
{
    if (offset > s->size || s->size - offset < CHUNK_HEADER_BYTES)
        return CHUNK_CUT;
    uint8_t bytes[CHUNK_HEADER_BYTES];
    int r = chunk_source_read(s, offset, bytes, sizeof(bytes), err);
    if (r < 0)
        return r;
    if (all_zero(bytes, sizeof(bytes)))
        return CHUNK_CUT;

    struct reader in = reader_of(bytes, sizeof(bytes));
    uint32_t magic = reader_u32(&in);
    *h = (struct chunk_header){0};
    h->type = reader_u8(&in);
    h->compression = reader_u8(&in);
    h->flags = reader_u8(&in);
    uint8_t reserved = reader_u8(&in);
    h->stored_length = reader_u32(&in);
    h->raw_length = reader_u32(&in);
    h->first = reader_u64(&in);
    h->count = reader_u64(&in);
    h->position = reader_u64(&in);
    h->payload_checksum = reader_u64(&in);
    uint64_t expected = hash64(bytes, in.offset);
    uint64_t checksum = reader_u64(&in);
    if (magic != CHUNK_MAGIC)
        return trace_damaged(s, offset, err, "no chunk begins here (magic %08x, expected %08x)", magic,
                             CHUNK_MAGIC);
    if (checksum != expected)
        return trace_damaged(s, offset, err, "chunk header checksum %016llx, expected %016llx",
                             (unsigned long long)checksum, (unsigned long long)expected);
    if (reserved)
        return trace_damaged(s, offset, err, "reserved byte of a chunk header is %u", reserved);
    r = check_header(s, offset, h, err);
    if (r < 0)
        return r;
    return s->size - offset < chunk_file_bytes(h) ? CHUNK_CUT : 0;
}

/* The frame must say what the header says before a byte is decompressed; one call, so no window is allocated. */
static int decompress(const struct chunk_source *s, struct chunk_decoder *d, const struct chunk *c,
                      struct error *err)
{
    const struct chunk_header *h = &c->header;
    const uint8_t *stored = d->stored.data;
    if (ZSTD_getFrameContentSize(stored, h->stored_length) != h->raw_length ||
        ZSTD_findFrameCompressedSize(stored, h->stored_length) != h->stored_length)
        return trace_damaged(s, c->offset, err,
                             "%s chunk: its zstd frame is not one of %u bytes, decompressing to %u",
                             chunk_type_name(h->type), h->stored_length, h->raw_length);
    if (!d->decompressor)
        d->decompressor = ZSTD_createDCtx();
    buffer_clear(&d->raw);
    uint8_t *raw = buffer_extend(&d->raw, h->raw_length);
    if (!d->decompressor || !raw) {
        buffer_free(&d->raw);
        return error_set(err, -ENOMEM, "%s: no memory for a chunk of %u bytes", s->path, h->raw_length);
    }
    size_t n = ZSTD_decompressDCtx(d->decompressor, raw, h->raw_length, stored, h->stored_length);
    if (ZSTD_isError(n) || n != h->raw_length)
        return trace_damaged(s, c->offset, err, "%s chunk does not decompress: %s", chunk_type_name(h->type),
                             ZSTD_isError(n) ? ZSTD_getErrorName(n) : "wrong length");
    return 0;
}

int chunk_check(const struct chunk_source *s, uint64_t offset, enum chunk_type type, struct chunk_decoder *d,
                struct chunk *out, struct error *err)
{
    *out = (struct chunk){.offset = offset};
    struct chunk_header *h = &out->header;
    int r = chunk_read_header(s, offset, h, err);
    if (r < 0)
        return r;
    if (r == CHUNK_CUT)
        return trace_damaged(s, offset, err, "the %s chunk that belongs here is cut off or missing",
                             chunk_type_name((uint8_t)type));
    if (h->type != type)
        return trace_damaged(s, offset, err, "%s chunk where a %s chunk belongs", chunk_type_name(h->type),
                             chunk_type_name((uint8_t)type));
    buffer_clear(&d->stored);
    uint8_t *stored = buffer_extend(&d->stored, h->stored_length ? h->stored_length : 1);
    if (!stored) {
        buffer_free(&d->stored);
        return error_set(err, -ENOMEM, "%s: no memory for a chunk of %u bytes", s->path, h->stored_length);
    }
    r = chunk_source_read(s, offset + CHUNK_HEADER_BYTES, stored, h->stored_length, err);
    if (r < 0)
        return r;
    uint64_t checksum = hash64(stored, h->stored_length);
    if (checksum != h->payload_checksum)
        return trace_damaged(s, offset, err, "%s chunk: payload checksum %016llx, expected %016llx",
                             chunk_type_name(h->type), (unsigned long long)checksum,
                             (unsigned long long)h->payload_checksum);
    return 0;
}

int chunk_read(const struct chunk_source *s, uint64_t offset, enum chunk_type type, struct chunk_decoder *d,
               struct chunk *out, struct error *err)
{
    int r = chunk_check(s, offset, type, d, out, err);
    if (r < 0)
        return r;
    if (out->header.compression == CHUNK_ZSTD) {
        r = decompress(s, d, out, err);
        out->raw = d->raw.data;
    } else {
        out->raw = d->stored.data;
    }
    return r;
}

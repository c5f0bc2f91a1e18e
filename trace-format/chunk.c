#include "trace-format/chunk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "core/base/hash.h"

static const char *const type_names[CHUNK_TYPE_COUNT] = {
    [CHUNK_META] = "META",
    [CHUNK_CPUID] = "CPUID",
    [CHUNK_IMAGE] = "IMAGE",
    [CHUNK_PAGES] = "PAGES",
    [CHUNK_KEYFRAME_PAGES] = "KEYFRAME_PAGES",
    [CHUNK_KEYFRAME] = "KEYFRAME",
    [CHUNK_EVENTS] = "EVENTS",
    [CHUNK_POSITIONS] = "POSITIONS",
    [CHUNK_SEAL] = "SEAL",
    [CHUNK_INDEX] = "INDEX",
    [CHUNK_TRAILER] = "TRAILER",
};

const char *chunk_type_name(uint8_t type)
{
    return type < CHUNK_TYPE_COUNT && type_names[type] ? type_names[type] : "unknown";
}

size_t chunk_max_raw(uint8_t type)
{
    switch (type) {
    case CHUNK_META:
        return META_MAX_BYTES;
    case CHUNK_CPUID:
        return CPUID_MAX_BYTES;
    case CHUNK_IMAGE:
        return IMAGE_CHUNK_BYTES;
    case CHUNK_PAGES:
        return PAGES_MAX_COUNT * PAGES_ENTRY_BYTES;
    case CHUNK_EVENTS:
        return EVENTS_MAX_RAW_BYTES;
    default:
        return CHUNK_MAX_RAW_BYTES;
    }
}

void chunk_statistics_add(struct chunk_statistics *s, const struct chunk_header *h)
{
    uint64_t bytes = chunk_file_bytes(h);
    s->chunks++;
    switch (h->type) {
    case CHUNK_EVENTS:
        s->bytes_events += bytes;
        break;
    case CHUNK_PAGES:
        s->bytes_pages += bytes;
        s->stored_pages += h->count;
        break;
    case CHUNK_KEYFRAME:
    case CHUNK_KEYFRAME_PAGES:
        s->bytes_keyframes += bytes;
        break;
    case CHUNK_POSITIONS:
        s->bytes_positions += bytes;
        break;
    case CHUNK_IMAGE:
        s->bytes_image += bytes;
        break;
    default:
        s->bytes_other += bytes;
    }
}

int chunk_sink_open(struct chunk_sink *s, int fd, const char *path, int level, struct error *err)
{
    *s = (struct chunk_sink){.fd = fd, .level = level};
    s->path = strdup(path);
    s->compressor = ZSTD_createCCtx();
    if (!s->path || !s->compressor) {
        chunk_sink_close(s);
        return error_set(err, -ENOMEM, "%s: no memory to write a trace", path);
    }
    size_t code = ZSTD_CCtx_setParameter(s->compressor, ZSTD_c_compressionLevel, level);
    if (ZSTD_isError(code)) {
        chunk_sink_close(s);
        return error_set(err, -EINVAL, "compression level %d: %s", level, ZSTD_getErrorName(code));
    }
    return 0;
}

void chunk_sink_close(struct chunk_sink *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    ZSTD_freeCCtx(s->compressor);
    s->compressor = NULL;
    buffer_free(&s->out);
    free(s->path);
    s->path = NULL;
}

int chunk_sink_check(const struct chunk_sink *s, struct error *err)
{
    if (!s->failed)
        return 0;
    if (err)
        *err = s->failure;
    return s->failure.code;
}

int chunk_sink_fail(struct chunk_sink *s, int code, const char *what, struct error *err)
{
    if (!s->failed) {
        s->failed = true;
        error_errno(&s->failure, code, "%s: %s", s->path, what);
        /* The trace ends at its last whole chunk even where this fails: a reader drops a partial one. */
        if (ftruncate(s->fd, (off_t)s->end) < 0)
            error_prefix(&s->failure, "cannot cut the file back to %llu bytes", (unsigned long long)s->end);
    }
    return chunk_sink_check(s, err);
}

int chunk_sink_write(struct chunk_sink *s, const void *data, size_t length, struct error *err)
{
    int r = chunk_sink_check(s, err);
    if (r < 0)
        return r;
    const uint8_t *bytes = data;
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(s->fd, bytes + done, length - done, (off_t)(s->end + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return chunk_sink_fail(s, n < 0 ? -errno : -EIO, "writing the trace", err);
        done += (size_t)n;
    }
    s->end += length;
    return 0;
}

static void encode_header(uint8_t *out, const struct chunk_header *h)
{
    struct buffer b = {.data = out, .capacity = CHUNK_HEADER_BYTES};
    buffer_put_u32(&b, CHUNK_MAGIC);
    buffer_put_u8(&b, h->type);
    buffer_put_u8(&b, h->compression);
    buffer_put_u8(&b, h->flags);
    buffer_put_u8(&b, 0);
    buffer_put_u32(&b, h->stored_length);
    buffer_put_u32(&b, h->raw_length);
    buffer_put_u64(&b, h->first);
    buffer_put_u64(&b, h->count);
    buffer_put_u64(&b, h->position);
    buffer_put_u64(&b, h->payload_checksum);
    buffer_put_u64(&b, hash64(out, b.length));
}

int chunk_append(struct chunk_sink *s, const struct chunk_header *header, const uint8_t *payload,
                 size_t length, bool compress, uint64_t *offset, struct error *err)
{
    int r = chunk_sink_check(s, err);
    if (r < 0)
        return r;
    if (length > chunk_max_raw(header->type))
        return error_set(err, -EFBIG, "%s: a %s chunk of %zu bytes is longer than the format allows", s->path,
                         chunk_type_name(header->type), length);
    size_t room = compress ? ZSTD_compressBound(length) : length;
    buffer_clear(&s->out);
    uint8_t *out = buffer_extend(&s->out, CHUNK_HEADER_BYTES + room);
    if (!out)
        return chunk_sink_fail(s, -ENOMEM, "writing the trace", err);

    struct chunk_header h = *header;
    h.raw_length = (uint32_t)length;
    h.stored_length = h.raw_length;
    h.compression = CHUNK_STORED;
    if (compress && length) {
        size_t stored = ZSTD_compress2(s->compressor, out + CHUNK_HEADER_BYTES, room, payload, length);
        if (!ZSTD_isError(stored) && stored < length) {
            h.compression = CHUNK_ZSTD;
            h.stored_length = (uint32_t)stored;
        }
    }
    if (h.compression == CHUNK_STORED && length)
        memcpy(out + CHUNK_HEADER_BYTES, payload, length);
    h.payload_checksum = hash64(out + CHUNK_HEADER_BYTES, h.stored_length);
    encode_header(out, &h);

    uint64_t begin = s->end;
    r = chunk_sink_write(s, out, (size_t)chunk_file_bytes(&h), err);
    if (r < 0)
        return r;
    chunk_statistics_add(&s->statistics, &h);
    if (offset)
        *offset = begin;
    return 0;
}

#include "tests/trace/mutate.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "core/base/hash.h"
#include "tests/trace/support.h"
#include "trace-format/chunk.h"
#include "trace-format/trace_index.h"

enum { MAX_CHUNKS = 1024 };

struct piece {
    struct chunk_header header;
    uint64_t old_offset, new_offset;
    const uint8_t *stored; /* in the trace */
    uint8_t *raw;
    size_t raw_length;
};

struct mutation {
    struct random random;
    struct piece *pieces; /* as read */
    size_t piece_count;
    size_t order[MAX_CHUNKS + 8]; /* which pieces are written, in which order */
    size_t order_count;
    struct buffer out;
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
};

static uint64_t interesting(struct random *r)
{
    static const uint64_t values[] = {
        0,
        1,
        2,
        63,
        64,
        65,
        127,
        128,
        255,
        256,
        4095,
        4096,
        65535,
        65536,
        65537,
        262144,
        262145,
        1048576,
        1048577,
        16777216,
        16777217,
        INT32_MAX,
        UINT32_MAX,
        (uint64_t)UINT32_MAX + 1,
        (uint64_t)1 << 40,
        INT64_MAX,
        (uint64_t)INT64_MAX + 1,
        UINT64_MAX - 1,
        UINT64_MAX,
    };
    return values[random_below(r, ARRAY_LEN(values))];
}

/* Reads the pieces of a correct trace; false if this is none. */
static bool split(struct mutation *m, const uint8_t *trace, size_t length)
{
    size_t offset = TRACE_FILE_HEADER_BYTES;
    while (offset + CHUNK_HEADER_BYTES <= length && m->piece_count < MAX_CHUNKS) {
        struct reader in = reader_of(trace + offset, CHUNK_HEADER_BYTES);
        struct piece *p = &m->pieces[m->piece_count];
        *p = (struct piece){.old_offset = offset};
        if (reader_u32(&in) != CHUNK_MAGIC)
            return false;
        p->header.type = reader_u8(&in);
        p->header.compression = reader_u8(&in);
        p->header.flags = reader_u8(&in);
        reader_u8(&in);
        p->header.stored_length = reader_u32(&in);
        p->header.raw_length = reader_u32(&in);
        p->header.first = reader_u64(&in);
        p->header.count = reader_u64(&in);
        p->header.position = reader_u64(&in);
        const uint8_t *stored = trace + offset + CHUNK_HEADER_BYTES;
        if (p->header.stored_length > length - offset - CHUNK_HEADER_BYTES ||
            p->header.raw_length > CHUNK_MAX_RAW_BYTES ||
            (p->header.compression == CHUNK_STORED && p->header.raw_length != p->header.stored_length))
            return false;
        p->stored = stored;
        p->raw_length = p->header.raw_length;
        p->raw = malloc(p->raw_length + 1);
        if (!p->raw)
            return false;
        m->order[m->order_count++] = m->piece_count++;
        if (p->header.compression == CHUNK_STORED)
            memcpy(p->raw, stored, p->raw_length);
        else if (ZSTD_decompressDCtx(m->decompressor, p->raw, p->raw_length, stored,
                                     p->header.stored_length) != p->raw_length)
            return false;
        offset += CHUNK_HEADER_BYTES + p->header.stored_length;
    }
    return offset == length && m->piece_count > 0;
}

/* Deletes, repeats or moves a chunk. */
static void reorder(struct mutation *m)
{
    struct random *r = &m->random;
    size_t at = (size_t)random_below(r, m->order_count), to = (size_t)random_below(r, m->order_count);
    size_t piece = m->order[at];
    switch (random_below(r, 3)) {
    case 0:
        memmove(&m->order[at], &m->order[at + 1], (m->order_count - at - 1) * sizeof(m->order[0]));
        m->order_count--;
        break;
    case 1:
        memmove(&m->order[to + 1], &m->order[to], (m->order_count - to) * sizeof(m->order[0]));
        m->order[to] = piece;
        m->order_count++;
        break;
    default:
        m->order[at] = m->order[to];
        m->order[to] = piece;
    }
}

/* Where a chunk that was at old is now; other values stay. */
static uint64_t relocate(const struct mutation *m, uint64_t old)
{
    for (size_t i = 0; i < m->piece_count; i++)
        if (m->pieces[i].old_offset == old && m->pieces[i].new_offset)
            return m->pieces[i].new_offset;
    return old;
}

static void relocate_word(const struct mutation *m, uint8_t *raw, size_t length, size_t word)
{
    if (length < (word + 1) * 8)
        return;
    struct reader in = reader_of(raw + word * 8, 8);
    struct buffer b = {.data = raw + word * 8, .capacity = 8};
    buffer_put_u64(&b, relocate(m, reader_u64(&in)));
}

static void set_word(uint8_t *raw, size_t length, size_t word, uint64_t value)
{
    struct buffer b = {.data = raw + word * 8, .capacity = 8};
    if (length >= (word + 1) * 8)
        buffer_put_u64(&b, value);
}

/* The references of a KEYFRAME_PAGES chunk count from one PAGES chunk to the next. */
static void relocate_pages(const struct mutation *m, const struct piece *p, struct buffer *raw)
{
    struct reader in = reader_of(p->raw, p->raw_length);
    uint64_t old_chunk = 0, new_chunk = 0;
    buffer_clear(raw);
    while (reader_left(&in)) {
        buffer_put_varint(raw, reader_varint(&in));
        uint8_t kind = reader_u8(&in);
        buffer_put_u8(raw, kind);
        if (kind != 2)
            continue;
        old_chunk += (uint64_t)reader_svarint(&in);
        uint64_t moved = relocate(m, old_chunk);
        buffer_put_svarint(raw, (int64_t)(moved - new_chunk));
        new_chunk = moved;
        buffer_put_varint(raw, reader_varint(&in));
    }
}

static uint64_t end_of_first_trailer(const struct mutation *m)
{
    for (size_t i = 0; i < m->piece_count; i++)
        if (m->pieces[i].header.type == CHUNK_TRAILER && m->pieces[i].new_offset)
            return m->pieces[i].new_offset + TRAILER_BYTES;
    return 0;
}

/* Offsets in a payload follow the chunks that they point to; all of those are written already. */
static void relocate_payload(struct mutation *m, const struct piece *p, struct buffer *raw)
{
    uint64_t raw_end = end_of_first_trailer(m);
    uint64_t own_end = m->out.length + TRAILER_BYTES;
    size_t length = raw->length;
    switch (p->header.type) {
    case CHUNK_KEYFRAME_PAGES:
        relocate_pages(m, p, raw);
        break;
    case CHUNK_KEYFRAME:
        relocate_word(m, raw->data, length, 3);
        break;
    case CHUNK_SEAL:
        set_word(raw->data, length, 9, raw_end);
        break;
    case CHUNK_INDEX:
        for (size_t i = 0; i < length / INDEX_RECORD_BYTES; i++) {
            relocate_word(m, raw->data, length, i * 4);
            if (!(p->header.flags & CHUNK_FLAG_KEYFRAMES))
                relocate_word(m, raw->data, length, i * 4 + 3);
        }
        break;
    case CHUNK_TRAILER:
        set_word(raw->data, length, 0, own_end);
        set_word(raw->data, length, 1, raw_end ? raw_end : own_end);
        relocate_word(m, raw->data, length, 2);
        relocate_word(m, raw->data, length, 12);
        relocate_word(m, raw->data, length, 14);
        break;
    default:
        break;
    }
}

static void mutate_bytes(struct random *r, struct buffer *raw)
{
    static const uint8_t bytes[] = {0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff};
    size_t at = raw->length ? (size_t)random_below(r, raw->length) : 0;
    size_t run = 1 + (size_t)random_below(r, 10);
    switch (raw->length ? random_below(r, 6) : 5) {
    case 0:
        raw->data[at] ^= (uint8_t)(1u << random_below(r, 8));
        break;
    case 1:
        raw->data[at] = bytes[random_below(r, ARRAY_LEN(bytes))];
        break;
    case 2: /* a word of a fixed layout */
        set_word(raw->data, raw->length, at / 8, interesting(r));
        break;
    case 3: /* a run: mostly an overlong or enormous varint */
        for (size_t i = at; i < raw->length && i < at + run; i++)
            raw->data[i] = 0xff;
        break;
    case 4: /* cut */
        run = run < raw->length - at ? run : raw->length - at;
        memmove(raw->data + at, raw->data + at + run, raw->length - at - run);
        raw->length -= run;
        break;
    default: { /* insert */
        size_t length = raw->length;
        if (!buffer_extend(raw, run))
            return;
        memmove(raw->data + at + run, raw->data + at, length - at);
        for (size_t i = 0; i < run; i++)
            raw->data[at + i] = (uint8_t)random_u64(r);
    }
    }
}

static void mutate_header(struct random *r, struct chunk_header *h)
{
    uint64_t *const words[] = {&h->first, &h->count, &h->position};
    uint64_t *word = words[random_below(r, ARRAY_LEN(words))];
    switch (random_below(r, 6)) {
    case 0:
        h->type = (uint8_t)random_below(r, random_below(r, 2) ? CHUNK_TYPE_COUNT : 256);
        break;
    case 1:
        h->flags ^= (uint8_t)(1u << random_below(r, 8));
        break;
    case 2:
        *word = interesting(r);
        break;
    case 3:
        *word += random_below(r, 3) - 1;
        break;
    case 4:
        *word = random_magnitude(r);
        break;
    default:
        h->compression = (uint8_t)random_below(r, 4); /* applied after the payload was written */
    }
}

/* The bytes of a payload as they are stored; an unchanged one as it was. */
static void store_payload(struct mutation *m, const struct piece *p, const struct buffer *raw,
                          struct chunk_header *h, struct buffer *stored)
{
    bool same = raw->length == p->raw_length && (!raw->length || memcmp(raw->data, p->raw, raw->length) == 0);
    if (same) {
        buffer_put(stored, p->stored, p->header.stored_length);
        return;
    }
    if (h->compression == CHUNK_ZSTD) {
        size_t room = ZSTD_compressBound(raw->length);
        uint8_t *to = buffer_extend(stored, room);
        size_t n = to ? ZSTD_compressCCtx(m->compressor, to, room, raw->data, raw->length, 1) : SIZE_MAX;
        stored->length = 0;
        if (!ZSTD_isError(n) && n < raw->length) {
            stored->length = n;
            return;
        }
        h->compression = CHUNK_STORED;
    }
    buffer_put(stored, raw->data, raw->length);
}

static void emit(struct mutation *m, const struct piece *p, struct chunk_header h, const struct buffer *raw,
                 bool lie_about_length)
{
    struct buffer stored = {0};
    uint8_t claimed = h.compression;
    h.compression = p->header.compression;
    store_payload(m, p, raw, &h, &stored);
    if (claimed != p->header.compression)
        h.compression = claimed;
    uint32_t raw_length = (uint32_t)raw->length;
    if (lie_about_length)
        raw_length = random_below(&m->random, 2) ? raw_length + 1 : (uint32_t)interesting(&m->random);
    size_t begin = m->out.length;
    buffer_put_u32(&m->out, CHUNK_MAGIC);
    buffer_put_u8(&m->out, h.type);
    buffer_put_u8(&m->out, h.compression);
    buffer_put_u8(&m->out, h.flags);
    buffer_put_u8(&m->out, 0);
    buffer_put_u32(&m->out, (uint32_t)stored.length);
    buffer_put_u32(&m->out, raw_length);
    buffer_put_u64(&m->out, h.first);
    buffer_put_u64(&m->out, h.count);
    buffer_put_u64(&m->out, h.position);
    buffer_put_u64(&m->out, hash64(stored.data, stored.length));
    if (!m->out.failed)
        buffer_put_u64(&m->out, hash64(m->out.data + begin, m->out.length - begin));
    buffer_put(&m->out, stored.data, stored.length);
    buffer_free(&stored);
}

static void mutate_structure(struct mutation *m, const uint8_t *trace)
{
    struct random *r = &m->random;
    bool change_order = random_below(r, 4) == 0;
    if (change_order)
        reorder(m);
    unsigned changes = change_order && random_below(r, 2) ? 0 : 1 + (unsigned)random_below(r, 3);
    size_t target[3] = {SIZE_MAX, SIZE_MAX, SIZE_MAX};
    for (unsigned i = 0; i < changes && m->order_count; i++)
        target[i] = (size_t)random_below(r, m->order_count);
    bool lie = random_below(r, 10) == 0;
    buffer_put(&m->out, trace, TRACE_FILE_HEADER_BYTES);
    for (size_t i = 0; i < m->order_count; i++) {
        struct piece *p = &m->pieces[m->order[i]];
        struct chunk_header h = p->header;
        struct buffer raw = {0};
        buffer_put(&raw, p->raw, p->raw_length);
        relocate_payload(m, p, &raw);
        p->new_offset = m->out.length;
        for (unsigned t = 0; t < changes; t++) {
            if (target[t] != i)
                continue;
            if (random_below(r, 3)) {
                mutate_bytes(r, &raw);
            } else {
                mutate_header(r, &h);
            }
        }
        emit(m, p, h, &raw, lie && target[0] == i);
        buffer_free(&raw);
    }
}

/* What disks, kills and accidents do. */
static void damage(struct mutation *m, const uint8_t *trace, size_t length)
{
    struct random *r = &m->random;
    buffer_put(&m->out, trace, length);
    if (m->out.failed || !length)
        return;
    switch (random_below(r, 4)) {
    case 0:
        m->out.length = (size_t)random_below(r, length);
        break;
    case 1:
        for (uint64_t n = 1 + random_below(r, 8); n > 0; n--)
            m->out.data[random_below(r, length)] ^= (uint8_t)(1u << random_below(r, 8));
        break;
    case 2: {
        size_t from = (size_t)random_below(r, length), run = (size_t)random_below(r, 4096);
        memset(m->out.data + from, 0, run < length - from ? run : length - from);
        break;
    }
    default:
        for (uint64_t n = random_below(r, 300); n > 0; n--)
            buffer_put_u8(&m->out, (uint8_t)random_u64(r));
    }
}

uint8_t *trace_mutate(const uint8_t *trace, size_t length, uint64_t seed, size_t *mutated_length)
{
    struct mutation *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->random.state = seed;
    m->pieces = calloc(MAX_CHUNKS, sizeof(*m->pieces));
    m->compressor = ZSTD_createCCtx();
    m->decompressor = ZSTD_createDCtx();
    bool structured = m->pieces && m->compressor && m->decompressor && random_below(&m->random, 8) != 0 &&
                      split(m, trace, length);
    if (structured)
        mutate_structure(m, trace);
    else
        damage(m, trace, length);
    for (size_t i = 0; i < m->piece_count; i++)
        free(m->pieces[i].raw);
    free(m->pieces);
    ZSTD_freeCCtx(m->compressor);
    ZSTD_freeDCtx(m->decompressor);
    uint8_t *result = m->out.failed ? NULL : m->out.data;
    if (!result)
        buffer_free(&m->out);
    *mutated_length = m->out.length;
    if (result && !m->out.length)
        result[0] = 0;
    free(m);
    return result;
}
